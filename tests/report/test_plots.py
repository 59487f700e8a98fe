"""Pictures draw the figures of the estimates they are given, in colours that mean the same everywhere."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import ebmsim
from ebmsim.errors import SpecError
from ebmsim.graph.kernels import CATEGORIES
from ebmsim.report import colours, roofline
from ebmsim.report.plots import check_picture, style, write
from ebmsim.report.plots_breakdown import (
    BY,
    parts,
    parts_of_inference,
    plot_breakdown,
    plot_inference,
    write_breakdown,
)
from ebmsim.report.plots_parity import plot_parity
from ebmsim.report.plots_roofline import plot_roofline, write_roofline
from ebmsim.report.plots_scaling import plot_times
from ebmsim.report.plots_sensitivity import plot_sensitivity
from ebmsim.report.plots_sweep import plot_front
from ebmsim.sweep.sensitivity import elasticities

CASES = (
    ("ebm_cvr", "rtx5090"),
    ("ccsp", "tpu_v6e"),
    ("irem", "ryzen9900x"),
    ("ebm_imp", "t4"),
    ("ired", "groq_lpu"),
)


@cache
def estimate(workload: str, device: str, chains: int = 0, **policy: Any) -> ebmsim.Estimate:
    given = {"chains": chains} if chains else None
    loaded = ebmsim.load_workload(workload, "small", given)
    dtype = "fp32" if "fp32" in ebmsim.load_hardware(device).matrix.peak else "int8"
    return ebmsim.estimate(loaded, ebmsim.load_hardware(device), ebmsim.Policy(**{"dtype": dtype, **policy}))


def axes() -> Any:
    return Figure().add_subplot()


# --- the roofline -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workload", "device"), CASES)
def test_kernels_add_up_to_the_step(workload: str, device: str) -> None:
    e = estimate(workload, device)
    points = roofline.kernels(e)
    assert sum(p.launches for p in points) == len(e.timing.table)
    assert sum(p.flops for p in points) == pytest.approx(float(e.timing.table.flops.sum()))
    assert sum(p.seconds for p in points) == pytest.approx(float(e.timing.device.sum()))
    for number, amount in enumerate(e.timing.costs.traffic.bytes):
        crossed = sum(p.flops / p.intensities[number] for p in points if p.flops)
        with_flops = e.timing.table.flops > 0
        assert crossed == pytest.approx(float(amount[with_flops].sum()))


@pytest.mark.parametrize(("workload", "device"), CASES)
def test_no_kernel_moves_bytes_faster_than_its_slope(workload: str, device: str) -> None:
    """rate / intensity are the B/s at a level, at most those of the slope; equal where the level alone takes time."""
    e = estimate(workload, device)
    for point in [*roofline.kernels(e), *roofline.components(e)]:
        for intensity, slope in zip(point.intensities, roofline.slopes(e).values(), strict=True):
            assert point.rate <= intensity * slope * (1 + 1e-9)
    bound = estimate(workload, device, fidelity="roofline")
    on = [
        p.rate / (p.intensities[list(roofline.slopes(bound)).index(p.slowest)] * roofline.slopes(bound)[p.slowest])
        for p in roofline.kernels(bound)
        if p.rate and p.bound == f"memory:{p.slowest}"
    ]
    assert on == pytest.approx([1.0] * len(on))


def test_ceilings_are_peaks_at_the_sustained_clock() -> None:
    e = estimate("ebm_cvr", "rtx5090")
    h = e.hardware
    faster = h.sustained_clock / h.clock
    expected = {"matrix fp32": h.matrix.peak["fp32"], "matrix tf32": h.matrix.peak["tf32"]}
    expected["vector fp32"] = h.vector.peak["fp32"]
    assert roofline.ceilings(e) == pytest.approx({name: peak * faster for name, peak in expected.items()})
    # Without convolutions TF32 is not in use.
    assert set(roofline.ceilings(estimate("irem", "rtx5090"))) == {"matrix fp32", "vector fp32"}
    assert set(roofline.ceilings(estimate("irem", "rtx5090", math="fast"))) == {"matrix tf32", "vector fp32"}
    dram = h.memory[-1]
    assert roofline.slopes(e)["dram"] == dram.bandwidth * dram.efficiency
    assert roofline.slopes(estimate("ebm_cvr", "rtx5090", fidelity="roofline"))["dram"] == dram.bandwidth


def test_no_kernel_is_above_the_highest_ceiling_but_convolutions_that_save() -> None:
    for workload, device in CASES:
        e = estimate(workload, device)
        top = max(roofline.ceilings(e).values()) * (1 + 1e-9)
        above = {p.category for p in roofline.kernels(e) if p.rate > top}
        assert above <= {"convolution"}
    text = plot_roofline(axes(), ebmsim.estimate(ebmsim.load_workload("ebm_imp"), ebmsim.load_hardware("t4"))).texts
    assert any("direct convolution" in t.get_text() for t in text)


@pytest.mark.parametrize(("workload", "device"), CASES)
def test_the_roofline_draws_every_kernel_at_every_level(workload: str, device: str) -> None:
    e = estimate(workload, device)
    drawn = axes()
    assert plot_roofline(drawn, e) is drawn and drawn.get_xscale() == drawn.get_yscale() == "log"
    levels = list(roofline.slopes(e))
    seen = {c.get_gid(): np.asarray(c.get_offsets()) for c in drawn.collections if c.get_gid()}
    shown = [p for p in roofline.kernels(e) if p.rate]
    for category in CATEGORIES:
        for number, level in enumerate(levels):
            expected = sorted(
                (p.intensities[number], p.rate)
                for p in shown
                if p.category == category and math.isfinite(p.intensities[number])
            )
            found = sorted(map(tuple, seen.get(f"{category} {level}", np.zeros((0, 2))).tolist()))
            assert found == expected
    names = {t.get_text() for t in drawn.texts}
    assert {c.name for c in roofline.components(e) if c.rate} <= names
    for name, rate in roofline.slopes(e).items():
        line = next(line for line in drawn.lines if str(line.get_label()).startswith(f"{name}  "))
        (x0, x1), (y0, y1) = line.get_data()
        assert (y0 / x0, y1 / x1) == pytest.approx((rate, rate))


def test_the_area_of_a_marker_is_time_and_its_edge_what_binds() -> None:
    e = estimate("ebm_imp", "t4")
    drawn = plot_roofline(axes(), e)
    found = {c.get_gid(): c for c in drawn.collections if c.get_gid()}
    points = roofline.kernels(e)
    busy = sum(p.seconds for p in points)
    for point in [p for p in points if p.rate and p.seconds > 0.02 * busy]:
        marks = found[f"{point.category} {point.slowest}"]
        place = (point.intensities[list(roofline.slopes(e)).index(point.slowest)], point.rate)
        index = np.asarray(marks.get_offsets()).tolist().index(list(place))
        assert marks.get_sizes()[index] == pytest.approx(1000 * point.seconds / busy)
        edged = marks.get_edgecolors()[index][3] > 0
        assert edged == (point.bound == f"memory:{point.slowest}")


def test_what_takes_time_is_inside_the_axes() -> None:
    for workload, device in (*CASES, ("comet", "groq_lpu"), ("ebm_cgid", "h100")):
        e = estimate(workload, device)
        drawn = plot_roofline(axes(), e)
        levels, points = list(roofline.slopes(e)), [p for p in roofline.kernels(e) if p.rate]
        (left, right), (low, high) = drawn.get_xlim(), drawn.get_ylim()
        inside = [
            p.seconds for p in points if left < p.intensities[levels.index(p.slowest)] < right and low < p.rate < high
        ]
        assert sum(inside) > 0.98 * sum(p.seconds for p in points)


def test_components_are_their_kernels() -> None:
    e = estimate("ebm_cvr", "rtx5090")
    owner = np.array([b.partition("[")[0] for b in e.timing.table.branches])
    for point in roofline.components(e):
        mine = owner == point.name
        assert point.rate == pytest.approx(e.timing.table.flops[mine].sum() / e.timing.device[mine].sum())
        crossed = e.timing.costs.traffic.bytes[-1][mine].sum()
        assert (
            crossed * point.intensities[-1] == pytest.approx(point.flops) if crossed else point.intensities[-1] > 1e300
        )


def test_names_of_components_do_not_overlap() -> None:
    for workload, device in CASES:
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        with style():
            drawn = plot_roofline(figure.add_subplot(), estimate(workload, device))
            figure.canvas.draw()
        boxes = [t.get_window_extent() for t in drawn.texts if t.get_weight() == "bold"]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


# --- what a step and an inference are made of -------------------------------------------------------------------------


@pytest.mark.parametrize(("workload", "device"), CASES)
def test_parts_sum_to_the_whole(workload: str, device: str) -> None:
    for how in ({}, {"chain_mode": "sequential"}, {"execution": "graph"}, {"streams": 3}):
        e = estimate(workload, device, **how)
        for by in BY:
            assert sum(parts(e, by).values()) == pytest.approx(e.seconds["t_samp"])
        assert sum(parts_of_inference(e).values()) == pytest.approx(e.seconds["t_inf"])
        assert min(*parts(e, "category").values(), *parts_of_inference(e).values()) >= 0


def widths(drawn: Any) -> dict[str, list[float]]:
    return {str(bars.get_label()): [bar.get_width() for bar in bars] for bars in drawn.containers}


@pytest.mark.parametrize("by", BY)
def test_bars_are_the_parts_in_the_unit_of_the_axis(by: str) -> None:
    found = [estimate("irem", device) for device in ("rtx5090", "tpu_v6e", "ryzen9900x")]
    drawn = axes()
    assert plot_breakdown(drawn, found, by) is drawn
    scale = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}[drawn.get_xlabel()]
    seen = widths(drawn)
    for number, e in enumerate(found):
        expected = parts(e, by)
        step = sum(expected.values())
        for name, seconds in expected.items():
            if seconds > 1e-3 * step:
                assert seen[name][number] * scale == pytest.approx(seconds)
        end = sum(values[number] for values in seen.values()) * scale
        assert end == pytest.approx(step, rel=3e-3) and end < drawn.get_xlim()[1] * scale
    assert [t.get_text() for t in drawn.get_yticklabels()] == [e.hardware.name for e in found]


def test_shares_stand_where_there_is_room() -> None:
    e = estimate("ebm_cvr", "rtx5090")
    drawn = plot_breakdown(axes(), [e])
    phases = parts(e, "phase")
    step = sum(phases.values())
    expected = {f"{100 * seconds / step:.0f} %" for seconds in phases.values() if seconds > 0.075 * step}
    assert {t.get_text() for t in drawn.texts if "%" in t.get_text()} == expected


def test_bars_have_names_of_their_own() -> None:
    found = [estimate("ccsp", "h100", streams=streams) for streams in (1, 3)]
    drawn = plot_inference(axes(), found, ["1 stream", "3 streams"])
    assert [t.get_text() for t in drawn.get_yticklabels()] == ["1 stream", "3 streams"]
    # The same device twice makes two bars.
    assert len(plot_inference(axes(), [found[0]] * 2).containers[0]) == 2


def test_an_unknown_division_is_refused() -> None:
    with pytest.raises(SpecError, match=r"expected one of phase, category, bound, found 'phases'\n.*did you mean"):
        plot_breakdown(axes(), [estimate("irem", "h100")], "phases")


# --- a time against a parameter ---------------------------------------------------------------------------------------


def test_times_against_chains() -> None:
    found = [estimate("irem", "h100", chains) for chains in (8, 1, 2)]
    drawn = axes()
    assert plot_times(drawn, found, "chains") is drawn
    lines = {str(line.get_label()): line for line in drawn.lines}
    by_chains = [found[1], found[2], found[0]]
    assert list(lines["t_inf"].get_xdata()) == [1, 2, 8]
    assert list(lines["t_inf"].get_ydata()) == [e.seconds["t_inf"] for e in by_chains]
    each = [float(e.seconds["t_samp"] or 0) / c for e, c in zip(by_chains, (1, 2, 8), strict=True)]
    assert list(lines["t_samp, of a chain"].get_ydata()) == pytest.approx(each)
    assert [t.get_text() for t in drawn.get_xticklabels()] == ["1", "2", "8"]


def test_a_sequential_step_is_one_chain_s() -> None:
    found = [estimate("irem", "h100", chains, chain_mode="sequential") for chains in (1, 4)]
    lines = {str(line.get_label()): line for line in plot_times(axes(), found, "chains").lines}
    assert list(lines["t_samp, of a chain"].get_ydata()) == list(lines["t_samp"].get_ydata())
    assert list(lines["t_inf, of a chain"].get_ydata())[1] * 4 == found[1].seconds["t_inf"]


def test_what_is_unknown_is_refused_all_at_once() -> None:
    with pytest.raises(SpecError) as refused:
        plot_times(axes(), [estimate("irem", "h100")], "chain", ("t_sampp",))
    assert "no parameter 'chain' of irem" in str(refused.value) and "did you mean 't_samp'?" in str(refused.value)


# --- sensitivities, fronts, parity ------------------------------------------------------------------------------------


def test_bars_of_elasticities() -> None:
    found = elasticities(estimate("ebm_imp", "t4", execution="graph"))
    drawn = axes()
    assert plot_sensitivity(drawn, found) is drawn
    bars = [bar.get_width() for bar in drawn.containers[0]]
    of = {row.figure: row.elasticity for row in found.rows}
    names = [t.get_text().split("  (")[0] for t in drawn.get_yticklabels()]
    assert bars == [of[name] for name in names] and len(bars) > 2
    assert [abs(b) for b in bars] == sorted(map(abs, bars), reverse=True)
    assert all(abs(value) <= abs(bars[-1]) for name, value in of.items() if name not in names)


@pytest.mark.parametrize(
    ("x", "scale"), [([1.0, 2.0], "log"), ([0.0, 2.0], "linear"), ([-1.0, 1.0], "linear"), ([], "linear")]
)
def test_a_front_of_any_figures(x: Sequence[float], scale: str, tmp_path: Path) -> None:
    picture = tmp_path / "front.png"
    write(picture, lambda a: plot_front(a, x, [3.0, 1.0][: len(x)], range(len(x))), (4, 3))
    assert picture.read_bytes().startswith(b"\x89PNG")
    drawn = plot_front(axes(), x, [3.0, 1.0][: len(x)], range(len(x)))
    assert drawn.get_xscale() == scale and len(drawn.lines) == 1


def test_parity_tells_more_kinds_apart_than_there_are_colours() -> None:
    kinds = [f"kind {i}" for i in range(12)]
    drawn = plot_parity(axes(), kinds, [1e-6 * (i + 1) for i in range(12)], [1e-6] * 11 + [0.0])
    points = drawn.collections[:11]  # what takes no time has no place on a logarithmic axis
    looks = {(tuple(c.get_facecolors()[0]), c.get_paths()[0].vertices.tobytes()) for c in points}
    assert len(looks) == 11 and len(drawn.get_legend().get_texts()) == 11


# --- how pictures look, and how they are written ----------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_category_has_a_colour_of_its_own_and_letters_are_read_on_it() -> None:
    assert set(colours.CATEGORIES) == set(CATEGORIES)
    for table in (colours.CATEGORIES, colours.PHASES, colours.INFERENCE):
        assert len(set(table.values())) == len(table)
        for colour in table.values():
            lighter, darker = sorted((luminance(colour), luminance(colours.on(colour))), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) > 4.5


def test_every_bound_of_every_device_has_a_colour() -> None:
    for name in ("rtx5090", "ryzen9900x", "tpu_v4", "groq_lpu", "ethos_u85"):
        levels = [level.name for level in ebmsim.load_hardware(name).memory]
        found = [colours.of_bound(b, levels) for b in ("compute", "dispatch", "sync", *(f"memory:{x}" for x in levels))]
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".pdf", ".svg"])
def test_pictures_in_every_format(suffix: str, tmp_path: Path) -> None:
    begins = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    e = estimate("irem", "h100")
    write_roofline(e, tmp_path / f"roofline{suffix}")
    write_breakdown([e, e, estimate("ccsp", "h100")], tmp_path / f"breakdown{suffix}")
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["breakdown", "roofline"]
    assert all(p.read_bytes().startswith(begins[suffix.lower()]) for p in tmp_path.iterdir())


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    picture = tmp_path / "old.png"
    picture.write_bytes(b"old")

    def fails(axes: Any) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(picture, fails, (4, 3))
    assert picture.read_bytes() == b"old" and list(tmp_path.iterdir()) == [picture]


def test_where_no_picture_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    refused = {
        "picture": r"expected a picture \(.png, .pdf, .svg\), found 'picture'",
        "folder.png": "expected a file, found a directory",
        "file/picture.png": "no such folder",
        f"{'long' * 100}/picture.png": "no such folder",
        f"{'long' * 100}.png": "cannot be written: File name too long",
    }
    for name, message in refused.items():
        with pytest.raises(SpecError, match=message):
            write(tmp_path / name, lambda axes: None, (4, 3))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SpecError, match="cannot write in the folder"):
        check_picture(tmp_path / "picture.png")
