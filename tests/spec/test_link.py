"""The section `link` of hardware files: its grammar, and figures of the shipped devices against their standards."""

from __future__ import annotations

import pytest

from ebmsim.errors import SpecError
from ebmsim.hardware import Link
from ebmsim.spec.hardware import parse_hardware
from ebmsim.spec.library import load_hardware, names
from ebmsim.spec.located import parse_document

MINIMAL = """\
name: toy
title: A toy
kind: gpu
software: ideal
units: 4
clock: 2 GHz
sustained_clock: 1 GHz
matrix: {organisation: tiles, peak: {fp32: 2 TFLOP/s}}
vector: {peak: {fp32: 1 TFLOP/s}, special: 1 Gop/s, random: 2 Gop/s}
memory: {dram: {capacity: 1 GB, bandwidth: 100 GB/s}}
host: {speed: 1, asynchronous: true, synchronise: 0 us}
launch: {eager: 2 us, graph: 1 us, persistent: 0 us, replay: 1 us, concurrent_kernels: 8}
power: {limit: 10 W, static: 0 W, energy: {fp32: 1 pJ/FLOP}}
"""


def parsed(link: str) -> Link | None:
    return parse_hardware(parse_document(MINIMAL + link, "f.yaml")).link


def test_a_link_has_bandwidth_latency_and_efficiency() -> None:
    assert parsed("link: {bandwidth: 450 GB/s, latency: 3 us, efficiency: 0.8}") == Link(450e9, 3e-6, 0.8)


def test_what_may_be_left_out() -> None:
    assert parsed("link: {bandwidth: 1 GB/s, latency: 0 us}") == Link(1e9, 0.0, 1.0)
    assert parsed("") is None


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("link: {bandwidth: 1 GB/s}", "14:7: link: missing key 'latency'"),
        ("link: {latency: 1 us}", "14:7: link: missing key 'bandwidth'"),
        ("link: {bandwidth: 0 GB/s, latency: 1 us}",
         "14:19: link.bandwidth: expected a bandwidth such as '1792 GB/s', found '0 GB/s' (zero is not allowed here)"),
        ("link: {bandwidth: 8 Gb/s, latency: 1 us}",
         "14:19: link.bandwidth: expected a bandwidth such as '1792 GB/s', found '8 Gb/s' ('b' is not a unit: B is "
         "bytes)"),
        ("link: {bandwidth: 1 GB/s, latency: -1 us}",
         "14:36: link.latency: expected a time such as '5 us', found '-1 us' (a negative number)"),
        ("link: {bandwidth: 1 GB/s, latency: 1 us, efficiency: 1.1}",
         "14:54: link.efficiency: expected a number above 0 and up to 1, found 1.1"),
        ("link: {bandwith: 1 GB/s, bandwidth: 1 GB/s, latency: 1 us}",
         "14:8: link.bandwith: unknown key 'bandwith'\n    did you mean 'bandwidth'?"),
        ("link: nvlink", "14:7: link: expected a mapping, found 'nvlink'"),
    ],
)  # fmt: skip
def test_refusals(link: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        parsed(link)
    assert str(caught.value) == f"f.yaml:{expected}"


def test_a_figure_can_be_set() -> None:
    found = load_hardware("h100", {"link.bandwidth": "1 GB/s"}).link
    assert found is not None and found.bandwidth == 1e9 and found.latency > 0


def test_what_extends_a_device_has_its_link_until_it_gives_another() -> None:
    assert load_hardware("h200").link == load_hardware("h100").link
    nvlink, pcie = load_hardware("a100").link, load_hardware("a100_80gb_pcie").link
    assert nvlink is not None and pcie is not None and nvlink.bandwidth > 9 * pcie.bandwidth


# Links × GB/s of each in one direction. NVLink: 12 of 25 (3), 18 of 25 (4), 18 of 50 (5). ICI: as in How to Scale Your
# Model. PCIe: 16 lanes of 8, 16 or 32 GT/s, of which 128 bits in 130 are data.
NVLINK = {"a100": 12 * 25, "h100": 18 * 25, "h200": 18 * 25, "b200": 18 * 50}
ICI = {"tpu_v4": 6 * 45, "tpu_v5e": 4 * 45, "tpu_v5p": 6 * 90, "tpu_v6e": 4 * 90}
PCIE = {3: ("v100", "t4"), 4: ("l4", "l40s", "rtx4090", "a100_80gb_pcie", "a100_40gb_pcie")} | {
    5: ("h100_pcie", "rtx5090", "rtx_pro_6000")
}
TRANSFERS = {3: 8e9, 4: 16e9, 5: 32e9}


@pytest.mark.parametrize(("name", "expected"), [*NVLINK.items(), *ICI.items()])
def test_links_of_one_kind_add_up(name: str, expected: float) -> None:
    link = load_hardware(name).link
    assert link is not None and link.bandwidth == pytest.approx(1e9 * expected)


@pytest.mark.parametrize(("generation", "name"), [(g, name) for g, cards in PCIE.items() for name in cards])
def test_pcie_follows_from_its_transfers(generation: int, name: str) -> None:
    link = load_hardware(name).link
    assert link is not None and link.bandwidth == pytest.approx(16 * TRANSFERS[generation] * 128 / 130 / 8, rel=1e-3)


def test_no_cpu_has_a_link_and_every_data_centre_gpu_and_tpu_has_one() -> None:
    kinds = {name: load_hardware(name) for name in names("hardware")}
    assert not [name for name, device in kinds.items() if device.kind == "cpu" and device.link]
    linked = {name for name, device in kinds.items() if device.link}
    assert {*NVLINK, *ICI, *(name for cards in PCIE.values() for name in cards)} <= linked
    # The memory of these is the processor's: there is one of them in a machine.
    assert not linked & {"orin", "m4max"}
