"""Cost formulas of one kernel, derived once more: plain Python over single kernels of real workloads.

They complete the table of the cost model's page: formulas that no other test counts by hand.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebmsim import sampling
from ebmsim.cost.compute import (
    beside_products,
    bound_seconds,
    by_kind,
    compute_seconds,
    loop_cycles,
    unit_share,
    vector_cycles,
    vector_rate,
    vector_seconds,
)
from ebmsim.cost.kernels import (
    host_costs,
    host_replay,
    issue_seconds,
    kernel_costs,
    kernel_joules,
    knee,
    link_seconds,
    page_seconds,
    takes_no_time,
)
from ebmsim.cost.machine import machine_of
from ebmsim.cost.products import (
    choices,
    dtypes,
    gap,
    launch_seconds,
    least_energy,
    product_rate,
    product_seconds,
    saving,
)
from ebmsim.cost.schedule import by_phase, synchronisations
from ebmsim.cost.traffic import Traffic, held, kinds, rereads, traffic
from ebmsim.cost.ways import every_way, takes
from ebmsim.estimation import priced, settled
from ebmsim.graph.kernels import CATEGORIES, PHASES
from ebmsim.graph.rows import FORWARD, Products, Rows
from ebmsim.hardware import Hardware
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy, Profile
from ebmsim.spec.library import load_hardware, load_profile, load_workload
from ebmsim.timing import Priced

# Convolutions, copies over the link and work on the host; products and attention; adaptive choices.
WORKLOADS = ("ebm_cmp", "ebm_eqm", "ired")
DEVICES = ("rtx5090", "ryzen9900x", "tpu_v6e")
EVERY = pytest.mark.parametrize(("name", "device"), [(w, d) for w in WORKLOADS for d in DEVICES])
PLAIN = Policy()
SECONDS = st.floats(0, 10, allow_subnormal=False)


@cache
def prices(name: str, device: str, policy: Policy = PLAIN) -> Priced:
    hardware = load_hardware(device)
    policy = settled(policy, hardware)
    profile = load_profile(policy.software)
    return priced(lower_workload(load_workload(name, "small"), policy, profile), hardware, policy, profile)


def each(rows: Rows, values: Any) -> list[float]:
    """One number for every row."""
    return np.broadcast_to(np.asarray(values, dtype=float), len(rows)).tolist()


# --- the machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_rates_are_per_unit_and_cycle(device: str) -> None:
    """A peak is what all units do in a second of its clock."""
    hardware = load_hardware(device)
    machine = machine_of(hardware)
    for dtype, peak in hardware.matrix.peak.items():
        assert machine.matrix[dtype] * hardware.units * hardware.matrix_clock(dtype) == pytest.approx(peak)
    for dtype, peak in hardware.vector.peak.items():
        assert machine.vector[dtype] * hardware.units * hardware.clock == pytest.approx(peak)
    assert machine.special * hardware.units * hardware.clock == pytest.approx(hardware.vector.special)
    assert machine.random * hardware.units * hardware.clock == pytest.approx(hardware.vector.random)
    assert machine.clock == hardware.sustained_clock


# --- compute --------------------------------------------------------------------------------------------------------


@EVERY
def test_three_engines_work_side_by_side(name: str, device: str) -> None:
    """Each engine by itself at the sustained clock; the slowest counts."""
    p = prices(name, device)
    hardware, rows = load_hardware(device), p.rows
    faster = hardware.sustained_clock / hardware.clock
    peak = hardware.vector.peak[p.policy.dtype]
    expected = [
        max(f / (peak * faster), s / (hardware.vector.special * faster), r / (hardware.vector.random * faster))
        for f, s, r in zip(rows.flops, rows.special, rows.random, strict=True)
    ]
    machine = p.machine
    assert vector_seconds(rows, machine, p.policy).tolist() == pytest.approx(expected)
    assert vector_cycles(rows, machine, p.policy) == pytest.approx(
        np.array(expected) * hardware.units * hardware.sustained_clock
    )
    assert vector_rate(machine, p.policy) == machine.vector[p.policy.dtype]


def test_a_type_without_a_vector_rate_takes_that_of_fp32() -> None:
    machine = machine_of(load_hardware("rtx5090"))
    assert vector_rate(machine, Policy(dtype="fp8")) == machine.vector["fp32"]
    assert vector_rate(machine, Policy(dtype="fp16")) == machine.vector["fp16"]


@EVERY
def test_the_bound_takes_the_cheapest_algorithm_at_the_peak(name: str, device: str) -> None:
    p = prices(name, device)
    rows, m = p.rows, p.machine
    names = dtypes(p.profile, m, p.policy)
    vector = vector_seconds(rows, m, p.policy)
    for i, found in enumerate(bound_seconds(rows, m, p.profile, p.policy).tolist()):
        product = 0.0
        if rows.product[i] >= 0:
            of = int(rows.product[i])
            convolution = bool(rows.products.convolution[of])
            dtype = names.convolution if convolution else names.matmul
            rate = m.matrix[dtype] * m.units * m.clock
            rate *= m.features.transposed_weights if rows.products.to_input[of] else 1.0
            cheaper = 1.0
            for algorithm in p.profile.algorithms.values():
                kernel, stride = rows.products.window[:2, of]
                alone = rows.products.shape[0, of] == 1
                fits = kernel == algorithm.kernel and stride == algorithm.stride and alone
                if convolution and fits and algorithm.arithmetic == names.convolution:
                    side = algorithm.output + algorithm.kernel - 1
                    cheaper = max(cheaper, (algorithm.output * algorithm.kernel) ** 2 / side**2)
            product = rows.product_flops[i] / (rate * cheaper)
        assert found == pytest.approx(max(product, vector[i]))


@EVERY
def test_a_kernel_takes_the_larger_of_its_product_and_the_rest(name: str, device: str) -> None:
    p = prices(name, device)
    rows, how = p.rows, (p.machine, p.profile, p.policy)
    products = product_seconds(rows.products, p.ways, *how)
    vector = vector_seconds(rows, p.machine, p.policy)
    expected = [
        max(rest, products[i]) if i >= 0 else rest for i, rest in zip(rows.product, vector.tolist(), strict=True)
    ]
    assert compute_seconds(rows, p.ways, *how).tolist() == pytest.approx(expected)
    assert beside_products(rows, products, *how).tolist() == pytest.approx(expected)
    # The best of all ways, one by one: leaving out what no device prefers changes nothing.
    assert product_seconds(rows.products, every_way(rows.products, p.profile), *how) == pytest.approx(products)
    assert [c.seconds for c in choices(rows.products, p.ways, *how)] == pytest.approx(products.tolist())


def test_code_takes_cycles_for_every_element() -> None:
    """Elements are bytes over bytes of one; a kind goes before its category, and what has neither takes none."""
    p = prices("ired", "ryzen9900x")
    rows = p.rows
    profile = replace(p.profile, element_cycles={"elementwise": 3.0, "rng": 7.0})
    for i, found in enumerate(each(rows, loop_cycles(rows, profile))):
        per = {"elementwise": 3.0, "rng": 7.0}.get(CATEGORIES[rows.category[i]], 0.0)
        assert found == pytest.approx(per * rows.moved[i] / 4)
    assert loop_cycles(rows, p.profile) == 0.0
    told = replace(rows, kinds=("a", "b"), kind=np.arange(len(rows)) % 3 - 1)
    figures = {"a": 1.0, "elementwise": 2.0}
    for i, found in enumerate(each(told, by_kind(told, figures))):
        category = figures.get(CATEGORIES[rows.category[i]], 0.0)
        assert found == (1.0 if told.kind[i] == 0 else category)


@EVERY
def test_units_are_filled_by_tiles_or_by_elements(name: str, device: str) -> None:
    """A kernel outside products fills a unit with 2048 elements in flight, and keeps at least one unit busy."""
    p = prices(name, device)
    rows, units = p.rows, float(p.machine.units)
    share = unit_share(rows, p.ways, p.machine, p.profile, p.policy)
    for i in np.flatnonzero(rows.product < 0):
        assert share[i] == pytest.approx(min(1.0, max(1 / units, rows.moved[i] / 4 / 2048 / units)))
    assert ((share > 0) & (share <= 1)).all()


# --- products -------------------------------------------------------------------------------------------------------


def test_products_with_transposed_weights_have_a_rate_of_their_own() -> None:
    p = prices("ebm_cmp", "rtx5090")
    machine = replace(p.machine, features=replace(p.machine.features, transposed_weights=0.25))
    names = dtypes(p.profile, machine, p.policy)
    products = p.rows.products
    rates = product_rate(products, machine, names).tolist()
    for rate, convolution, back in zip(rates, products.convolution, products.to_input, strict=True):
        plain = machine.matrix[names.convolution if convolution else names.matmul]
        assert rate == (plain / 4 if back else plain)


def test_an_algorithm_takes_windows_of_its_size_and_stride() -> None:
    profile = load_profile("torch-cuda")
    winograd = profile.algorithms["winograd"]
    windows = np.array([[3, 3, 1, 3, 0], [1, 2, 1, 1, 0], [8] * 5, [8] * 5], dtype=float)
    shape = np.ones((4, 5))
    shape[0, 3] = 2  # in groups: a batch of products
    products = Products(shape, windows, windows[0] > 0, np.zeros(5, bool), np.zeros(5), 4.0)
    assert takes(products, winograd).tolist() == [True, False, False, False, False]
    names = dtypes(profile, machine_of(load_hardware("rtx5090")), Policy(math="strict"))
    assert names == ("fp32", "fp32")
    assert saving(products, profile, names).tolist() == [4.0, 1, 1, 1, 1]  # 36 multiplications for 144
    assert least_energy(products, profile, names).tolist() == [min(1.0, winograd.energy), 1, 1, 1, 1]
    tf32 = dtypes(profile, machine_of(load_hardware("rtx5090")), Policy())
    assert tf32 == ("fp32", "tf32")
    assert saving(products, profile, tf32).tolist() == [1.0] * 5


# --- memory ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), *[st.integers(1, 2000)] * 3, st.sampled_from([1.0, 2.0, 4.0]), st.floats(1e3, 1e9))
def test_a_blocked_product_reads_again_what_does_not_fit(
    b: int, m: int, n: int, k: int, e: float, capacity: float
) -> None:
    """In blocks of r × r results that fill the level, every block of results reads k columns and k rows of r each."""
    r = math.sqrt(capacity / e)
    blocked = b * (m / r) * (n / r) * (2 * r * k) * e
    products = Products(
        np.array([[b], [m], [n], [k]], dtype=float), np.zeros((4, 1)), np.zeros(1, bool), np.zeros(1, bool),
        np.zeros(1), e,
    )  # fmt: skip
    level = replace(machine_of(load_hardware("rtx5090")).levels[1], capacity=capacity)
    assert rereads(products, level).tolist() == pytest.approx([max(0.0, blocked - b * (m * k + k * n) * e)])


@EVERY
def test_bytes_cross_a_level_if_those_before_have_lost_them(name: str, device: str) -> None:
    """Access by access: what the holders before still have does not cross; then what is read again."""
    p = prices(name, device)
    rows, m, profile = p.rows, p.machine, p.profile
    inner = m.levels[1:-1] if len(m.levels) > 2 else m.levels[:-1]
    found = traffic(rows, m, profile, bound=False)
    assert found.levels == tuple(level.name for level in m.levels[-len(inner) - 1 :])
    stops = np.append(rows.access_start[1:], len(rows.access_bytes))
    for i in range(len(rows)):
        moved = sum(rows.access_bytes[rows.access_start[i] : stops[i]])
        assert found.bytes[0][i] == pytest.approx(moved + rows.again[i])
        for behind in range(1, len(found.levels)):
            lost = 0.0
            for j in range(rows.access_start[i], stops[i]):
                distance = rows.distances[rows.access_distance[j]]
                lost += rows.access_bytes[j] * (1 - max(fraction(distance, h, profile) for h in inner[:behind]))
            again = 1 - max(fraction(rows.again_distance[i], h, profile) for h in inner[:behind])
            lost += rows.again[i] * again if rows.again[i] else 0.0
            if rows.product[i] >= 0:
                lost += rereads(rows.products, inner[behind - 1])[rows.product[i]]
            assert found.bytes[behind][i] == pytest.approx(lost, rel=1e-6, abs=1e-6)
    levels = m.levels[-len(found.levels) :]
    for amount, seconds, level in zip(found.bytes, found.seconds, levels, strict=True):
        assert seconds == pytest.approx(np.asarray(amount) / level.bandwidth / level.efficiency)
    assert found.slowest() == pytest.approx(np.max(np.stack(found.seconds), axis=0))


def fraction(distance: float, holder: Any, profile: Profile) -> float:
    """All up to `resident` of the capacity, nothing from `evicted` of it on, a straight line between."""
    low, high = profile.resident * holder.capacity, profile.evicted * holder.capacity
    if distance <= low:
        return 1.0
    return 0.0 if distance >= high else (high - distance) / (high - low)


def test_stationary_weights_stay_once_all_of_them_fit() -> None:
    p = prices("ired", "rtx5090")
    feature = replace(p.machine, features=replace(p.machine.features, stationary_weights=True))
    sets = kinds(p.rows, feature)
    level = feature.levels[1]
    (kept,) = held(np.array([1e12, math.inf, 1e12]), np.array([0.5, 0.5, 2.0]) * level.capacity, feature, p.profile)
    assert kept.tolist() == [1.0, 0.0, 0.0]  # fits; was never touched; does not fit
    plain = kinds(p.rows, p.machine)
    for access in range(len(p.rows.access_bytes)):
        distance = p.rows.distances[p.rows.access_distance[access]]
        assert plain.distance[plain.of_access[access]] == distance
        assert sets.distance[sets.of_access[access]] == distance
        assert sets.set[sets.of_access[access]] == p.rows.access_set[access]


# --- one kernel -----------------------------------------------------------------------------------------------------


@given(SECONDS, SECONDS, st.floats(1, 8))
def test_the_knee_lies_between_the_larger_and_the_sum(compute: float, memory: float, exponent: float) -> None:
    found = float(knee(compute, memory, exponent))
    assert max(compute, memory) * (1 - 1e-9) <= found <= (compute + memory) * (1 + 1e-9)
    if min(compute, memory) > 0:
        assert found == pytest.approx((compute**exponent + memory**exponent) ** (1 / exponent), rel=1e-6)


@EVERY
@pytest.mark.parametrize("fidelity", ["analytical", "roofline"])
def test_seconds_of_a_kernel(name: str, device: str, fidelity: str) -> None:
    """Fixed time, and the knee of a product or the larger of compute and memory; copies and the host by themselves."""
    p = prices(name, device, Policy(fidelity=fidelity))
    rows, m, profile = p.rows, p.machine, p.profile
    costs = kernel_costs(rows, p.ways, m, profile, p.policy)
    bound = fidelity == "roofline"
    how = (m, profile, p.policy)
    compute = bound_seconds(rows, *how) if bound else compute_seconds(rows, p.ways, *how)
    memory = traffic(rows, m, profile, bound=bound).slowest()
    fixed = 0.0 if bound else launch_seconds(*how)
    for i, found in enumerate(costs.seconds(profile.knee).tolist()):
        c, s = float(compute[i]), float(memory[i])
        together = (c**profile.knee + s**profile.knee) ** (1 / profile.knee) if rows.product[i] >= 0 else max(c, s)
        expected = fixed + (max(c, s) if bound else together)
        if rows.crosses[i] and math.isfinite(m.host.link_bandwidth):
            expected = (0.0 if bound else m.host.link_latency) + rows.written[i] / m.host.link_bandwidth
        if CATEGORIES[rows.category[i]] == "host":
            expected = 0.0
        assert found == pytest.approx(expected, rel=1e-9)
    assert costs.memory == pytest.approx(memory)
    order = np.array([1, 0, 1])
    assert costs.spread(order).seconds(profile.knee) == pytest.approx(costs.seconds(profile.knee)[order])
    assert isinstance(costs.traffic, Traffic)


def test_copies_noise_and_pages() -> None:
    p = prices("ebm_cmp", "rtx5090")
    rows, m = p.rows, p.machine
    copies = link_seconds(rows, m, p.policy)
    assert rows.crosses.any()
    for i, seconds in enumerate(copies.tolist()):
        expected = m.host.link_latency + rows.written[i] / m.host.link_bandwidth if rows.crosses[i] else 0.0
        assert seconds == pytest.approx(expected)
    assert (link_seconds(rows, m, replace(p.policy, fidelity="roofline")) <= copies).all()
    beside = replace(m, features=replace(m.features, rng_overlapped=True))
    for i, category in enumerate(CATEGORIES[c] for c in rows.category):
        assert takes_no_time(rows, m)[i] == (category == "host")
        assert takes_no_time(rows, beside)[i] == (category in ("host", "rng"))
    profile = replace(p.profile, fresh_from=1000.0, fresh_bandwidth=5e9)
    for i, seconds in enumerate(each(rows, page_seconds(rows, profile))):
        assert seconds == pytest.approx(rows.fresh[i] / 5e9 if rows.fresh[i] >= 1000 else 0.0)
    assert page_seconds(rows, p.profile) == 0.0


EXECUTIONS = ("eager", "graph", "compiled", "persistent")


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_fixed_time_and_replay_of_every_execution(device: str, execution: str) -> None:
    p = prices("ired", device, Policy(execution=execution))
    m, profile = p.machine, p.profile
    gaps = {"graph": m.launch.graph, "persistent": m.launch.persistent}
    assert gap(m, p.policy) == gaps.get(execution, m.launch.eager)
    fixed = profile.kernel_time + profile.kernel_cycles / m.clock + gap(m, p.policy)
    assert launch_seconds(m, profile, p.policy) == pytest.approx(fixed)
    # One replay where kernels are not issued one by one, or a tracing stack starts what it traced.
    replays = {"eager": profile.traces, "graph": True, "compiled": profile.traces, "persistent": False}
    assert host_replay(m, profile, p.policy) == (m.launch.replay if replays[execution] else 0.0)
    resident = replace(m, features=replace(m.features, resident_loop=True))
    assert gap(resident, p.policy) == m.launch.persistent and host_replay(resident, profile, p.policy) == 0.0


@EVERY
def test_the_host_issues_kernels_one_by_one(name: str, device: str) -> None:
    """A cost of the category, more in autograd; and what a stated node takes of the host itself."""
    p = prices(name, device)
    rows, profile = p.rows, p.profile
    issued = each(rows, issue_seconds(rows, p.machine, profile, p.policy))
    for i, seconds in enumerate(issued):
        category = CATEGORIES[rows.category[i]]
        backward = rows.back[i] != FORWARD
        assert seconds == pytest.approx(profile.host_cost.get(category, 0.0) * (profile.backward if backward else 1.0))
    expected = [s + t * p.machine.host.speed for s, t in zip(rows.seconds, issued, strict=True)]
    assert each(rows, host_costs(rows, p.machine, profile, p.policy)) == pytest.approx(expected)
    for execution in ("graph", "persistent"):
        assert not issue_seconds(rows, p.machine, profile, replace(p.policy, execution=execution)).any()


def test_what_tells_kinds_apart_adds_to_the_host() -> None:
    """Term by term, with columns that no shipped profile fills."""
    p = prices("ired", "ryzen9900x")
    count = len(p.rows)
    some = np.arange(count, dtype=float)
    rows = replace(p.rows, since=some % 5, starts=some % 2, views=some % 3, recorded=(some % 4 == 0).astype(float))
    profile = replace(p.profile, change=0.5, gradient=3e-6, view=1e-6, recording=2e-6)
    found = each(rows, issue_seconds(rows, p.machine, profile, p.policy))
    for i, seconds in enumerate(found):
        cost = profile.host_cost.get(CATEGORIES[rows.category[i]], 0.0)
        cost *= profile.backward if rows.back[i] != FORWARD else 1.0
        cost *= 1 + 0.5 * math.log2(1 + i % 5)
        cost += 3e-6 * (i % 2) + 1e-6 * (i % 3) + 2e-6 * (i % 4 == 0) * (1 + i % 3)
        assert seconds == pytest.approx(cost)


@EVERY
def test_joules_are_operations_and_bytes(name: str, device: str) -> None:
    p = prices(name, device)
    rows, m, profile = p.rows, p.machine, p.profile
    hardware: Hardware = load_hardware(device)
    energy = hardware.power.energy
    plain = energy.get(p.policy.dtype, energy["fp32"])
    names = dtypes(profile, m, p.policy)
    moved = traffic(rows, m, profile, bound=False)
    levels = m.levels[-len(moved.bytes) :]
    least = least_energy(rows.products, profile, names)
    for i, found in enumerate(kernel_joules(rows, moved.bytes, m, profile, p.policy).tolist()):
        expected = (rows.flops[i] + rows.special[i]) * plain
        if rows.product[i] >= 0:
            of = int(rows.product[i])
            dtype = names.convolution if rows.products.convolution[of] else names.matmul
            factor = profile.product_energy if dtype == "fp32" else 1.0
            expected += rows.product_flops[i] * float(least[of]) * energy.get(dtype, plain) * factor
        expected += sum(float(amount[i]) * level.energy for amount, level in zip(moved.bytes, levels, strict=True))
        assert found == pytest.approx(expected)


# --- a step, and a run ----------------------------------------------------------------------------------------------


@EVERY
def test_phases_and_synchronisations_of_a_step(name: str, device: str) -> None:
    """Kernels sorted by phase one by one; the host waits after copies to it, its own work and what says so."""
    p = prices(name, device)
    lowered = lower_workload(load_workload(name, "small"), p.policy, p.profile)
    for table in (lowered.step.table, *[section.table for section in lowered.once]):
        values = np.arange(len(table), dtype=float)
        sums = dict.fromkeys(PHASES, 0.0)
        for code, value in zip(table.phase, values, strict=True):
            sums[PHASES[code]] += value
        assert by_phase(table, values) == pytest.approx(sums)
        waits = [i for i, op in enumerate(table.ops) if op in ("to_host", "host", "synchronise")]
        assert synchronisations(table).tolist() == waits


@given(SECONDS, SECONDS, SECONDS, st.integers(1, 30), st.integers(1, 8))
def test_an_inference_is_its_steps_one_after_another(once: float, first: float, step: float, k: int, c: int) -> None:
    total = once
    for turn in range(k):
        total += first if turn == 0 else step
    assert sampling.t_inf(once, first, step, k) == pytest.approx(total)
    chains = sum(step for _ in range(c) for _ in range(k))
    assert sampling.t_inf_eq6(step, c, k) == pytest.approx(chains)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(1, 5), SECONDS, SECONDS, SECONDS, SECONDS)
def test_training_is_its_iterations_one_after_another(
    n: int, k: int, batch: int, step: float, one: float, positive: float, negative: float
) -> None:
    ours = published = 0.0
    for _ in range(n):
        ours += sum(step for _ in range(k)) + (positive + negative)
        published += positive + negative + sum(one for _ in range(batch) for _ in range(k))
    assert sampling.t_train(n, positive + negative, step, k) == pytest.approx(ours)
    assert sampling.t_train_eq7(n, positive, negative, one, batch, k) == pytest.approx(published)
