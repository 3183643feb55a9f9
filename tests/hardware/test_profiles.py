"""Hardware profiles against datasheets, closed forms and each other; the catalog that prints them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cli import catalog
from sim.errors import ScenarioError
from sim.hardware import (
    CURVE_SIZE_UNITS,
    EfficiencyCurve,
    curve_fraction,
    curve_fractions,
    hardware_names,
    load_hardware,
)
from sim.hardware.load import profile_folder
from sim.hardware.profile import cards_meant

GIB = 2**30
NAMES = hardware_names()
PROFILES = {name: load_hardware(name) for name in NAMES}

# Vendor's capacity in GB, HBM bytes/s, dense float16 FLOP/s (tensor cores, float32 accumulation), TDP.
DATASHEETS = {
    "v100-sxm2-16gb": (16, 900e9, 125e12, 300),
    "v100-sxm2-32gb": (32, 900e9, 125e12, 300),
    "t4": (16, 320e9, 65e12, 70),
    "a10": (24, 600e9, 125e12, 150),
    "a100-sxm-40gb": (40, 1555e9, 312e12, 400),
    "a100-sxm-80gb": (80, 2039e9, 312e12, 400),
    "a100-pcie-40gb": (40, 1555e9, 312e12, 250),
    "a100-pcie-80gb": (80, 1935e9, 312e12, 300),
    "l4": (24, 300e9, 121e12, 72),
    "l40s": (48, 864e9, 362e12, 350),
    "rtx-3090": (24, 936e9, 71e12, 350),
    "rtx-4090": (24, 1008e9, 165.2e12, 450),
    "rtx-pro-6000": (96, 1597e9, 480e12, 600),
    "h100-sxm-80gb": (80, 3350e9, 989e12, 700),
    "h100-pcie-80gb": (80, 2040e9, 756e12, 350),
    "h200-sxm-141gb": (141, 4800e9, 989e12, 700),
    "b200-sxm-180gb": (180, 8000e9, 2250e12, 1000),
    "gb200": (186, 8000e9, 2500e12, 1200),
    "mi250x": (128, 3277e9, 383e12, 560),
    "mi300x": (192, 5300e9, 1307e12, 750),
    "mi325x": (256, 6000e9, 1307e12, 1000),
}
# Cores of an SM (or compute unit): a multiply-add each per clock, which is 2 FLOPs.
FLOAT32_CORES = (64, 128)


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_is_called_as_its_file(name: str) -> None:
    assert PROFILES[name].name == name


@pytest.mark.parametrize("name", DATASHEETS)
def test_matches_the_datasheet(name: str) -> None:
    profile, (_, bandwidth, float16, tdp) = PROFILES[name], DATASHEETS[name]
    assert profile.hbm_bytes_per_s == pytest.approx(bandwidth, rel=0.001)
    assert profile.peak_flops_per_s["float16"] == pytest.approx(float16, rel=0.001)
    assert profile.tdp_w == tdp


@pytest.mark.parametrize("name", DATASHEETS)
def test_usable_memory_is_a_little_less_than_what_is_sold(name: str) -> None:
    """At most the capacity in GiB; ECC on GDDR6 takes a sixteenth, firmware and page tables up to 4 %."""
    sold = DATASHEETS[name][0]
    assert 0.90 * sold * GIB < PROFILES[name].hbm_bytes <= sold * GIB


@pytest.mark.parametrize("name", NAMES)
def test_float32_peak_is_cores_times_clock(name: str) -> None:
    """A closed form from other fields: SMs x FLOPs per clock x clock (B200's headline is rounded up, 8 %)."""
    profile = PROFILES[name]
    if profile.clock_hz is None or "float32" not in profile.peak_flops_per_s:
        pytest.skip("its clock or its float32 peak is unknown")
    cores = profile.peak_flops_per_s["float32"] / (2 * profile.sm_count * profile.clock_hz)
    nearest = min(FLOAT32_CORES, key=lambda one: abs(one - cores))
    assert cores == pytest.approx(nearest, rel=0.09)


@pytest.mark.parametrize("name", NAMES)
def test_peaks_are_dense(name: str) -> None:
    """Halving the bits at most doubles the rate (GeForce int8: four times, its float16 is held back)."""
    peaks = PROFILES[name].peak_flops_per_s
    if "bfloat16" in peaks:
        assert peaks["bfloat16"] == peaks["float16"]
    is_held_back = "GeForce" in "".join(PROFILES[name].sources.values())
    for dtype in ("float8", "int8"):
        limit = 4.01 if is_held_back else 2.03
        assert peaks.get(dtype, 0.0) <= limit * peaks["float16"]
    if "float4" in peaks:
        assert peaks["float4"] == pytest.approx(2 * peaks["float8"], rel=0.01)


def test_ridge_points_are_the_published_critical_batches() -> None:
    """A weight of 2 bytes is used for 2 FLOPs a sequence, so the critical batch is peak / bandwidth."""
    for name, expected in (("h100-sxm-80gb", 295), ("a100-sxm-80gb", 153)):
        profile = PROFILES[name]
        ridge = profile.peak_flops_per_s["bfloat16"] / profile.hbm_bytes_per_s
        assert round(ridge) == expected


@pytest.mark.parametrize(
    ("name", "both_ways"),
    [
        ("v100-sxm2-32gb", 300), ("a100-sxm-40gb", 600), ("a100-sxm-80gb", 600), ("h100-sxm-80gb", 900),
        ("h200-sxm-141gb", 900), ("b200-sxm-180gb", 1800), ("gb200", 1800), ("mi300x", 896), ("mi325x", 896),
    ],
)  # fmt: skip
def test_nvlink_is_given_per_direction(name: str, both_ways: float) -> None:
    link = PROFILES[name].intra_node
    assert link is not None
    assert link.bytes_per_s == both_ways / 2 * 1e9


@pytest.mark.parametrize("name", NAMES)
def test_links_are_slower_than_memory_and_pcie_is_sixteen_lanes(name: str) -> None:
    profile = PROFILES[name]
    for link in (profile.host_link, profile.intra_node, profile.inter_node):
        assert link is None or link.bytes_per_s < profile.hbm_bytes_per_s
    if profile.host_link is not None and profile.sources["host_link"].startswith("PCIe"):
        gigabytes = profile.host_link.bytes_per_s / 1e9
        nominal = [16 * rate * 128 / 130 / 8 for rate in (8, 16, 32, 64)]
        assert min(abs(gigabytes / rate - 1) for rate in nominal) < 0.002


@pytest.mark.parametrize("name", NAMES)
def test_every_known_number_has_its_source_and_no_unknown_one(name: str) -> None:
    profile = PROFILES[name]
    expected = {f"peak_flops_per_s.{dtype}" for dtype in profile.peak_flops_per_s}
    expected |= {f"efficiency.{which}" for which in profile.efficiency}
    expected |= {f"kernels.{operator}" for operator in profile.kernels}
    plain = {"name", "vendor", "architecture", "compute_capability", "notes", "sources"}
    plain |= {"peak_flops_per_s", "efficiency", "kernels"}
    known = {one.name for one in fields(profile) if getattr(profile, one.name) is not None}
    assert set(profile.sources) == expected | (known - plain)
    assert all(len(source) > 4 for source in profile.sources.values())


@pytest.mark.parametrize("name", NAMES)
def test_curves_ascend(name: str) -> None:
    curves = PROFILES[name].efficiency
    assert set(curves) <= set(CURVE_SIZE_UNITS)
    for curve in curves.values():
        sizes = [size for size, _ in curve.points]
        assert sizes == sorted(set(sizes)) and 1 <= len(sizes) <= 8
        assert all(0 < fraction <= 1.05 for _, fraction in curve.points)


def test_a_borrowed_curve_is_the_lenders_at_equal_ideal_time() -> None:
    """Sizes times the ratio that the source states. A refitted lender must be borrowed again."""
    pattern = re.compile(
        r"borrowed from (\S+) at equal ideal time: sizes times ([0-9.]+)(?:; fractions times ([0-9.]+))?"
    )
    num_borrowed = 0
    for profile in PROFILES.values():
        for which, curve in profile.efficiency.items():
            match = pattern.search(curve.source)
            if match is None:
                continue
            num_borrowed += 1
            lender = PROFILES[match[1]].efficiency[which]
            ratio, scale = float(match[2]), float(match[3] or 1.0)
            expected = [(size * ratio, fraction * scale) for size, fraction in lender.points]
            assert np.array(curve.points) == pytest.approx(np.array(expected), rel=2e-3)
    assert num_borrowed > 60


CURVE = EfficiencyCurve(size_unit="bytes", points=((1e3, 0.1), (1e5, 0.5), (1e6, 0.9)), source="made up")


def test_a_curve_is_linear_in_the_logarithm_and_flat_outside() -> None:
    assert curve_fraction(CURVE, 1e4) == pytest.approx(0.3)
    assert [curve_fraction(CURVE, size) for size in (0.0, 1.0, 1e3, 1e6, 1e12)] == [0.1, 0.1, 0.1, 0.9, 0.9]


@given(st.lists(st.floats(0.0, 1e15), min_size=1, max_size=20))
def test_one_size_and_many_sizes_agree(sizes: list[float]) -> None:
    together = curve_fractions(CURVE, np.array(sizes))
    assert together == pytest.approx([curve_fraction(CURVE, size) for size in sizes], rel=1e-12)


def test_differences_from_a_base() -> None:
    changes = {
        "base": "h100-sxm-80gb",
        "hbm_bytes_per_s": "4 TB/s",
        "intra_node": {"bytes_per_s": "400 Gbit/s"},
        "efficiency": {"gemm_memory": 0.5},
        "peak_flops_per_s": {"int8": "unknown"},
        "l2_bytes": "unknown",
    }
    profile = load_hardware(changes, file="chat.yaml", path="hardware")
    assert profile.name == "h100-sxm-80gb (modified)"
    assert profile.hbm_bytes_per_s == 4e12 and profile.l2_bytes is None
    assert profile.intra_node is not None and profile.intra_node.bytes_per_s == 50e9
    assert "int8" not in profile.peak_flops_per_s and profile.peak_flops_per_s["float8"] == 1979e12
    assert curve_fraction(profile.efficiency["gemm_memory"], 123.0) == 0.5
    assert profile.sources["hbm_bytes_per_s"] == "given in chat.yaml, hardware"
    assert "l2_bytes" not in profile.sources and "peak_flops_per_s.int8" not in profile.sources
    assert profile.sm_count == PROFILES["h100-sxm-80gb"].sm_count


def test_a_file_beside_the_scenario_is_found_and_may_have_a_base(tmp_path: Path) -> None:
    text = "base: l4\nname: my-l4\nhbm_bytes: {value: 24 GiB, source: ECC off}\n"
    (tmp_path / "mine.yaml").write_text(text)
    profile = load_hardware("mine.yaml", file=str(tmp_path / "chat.yaml"))
    assert (profile.name, profile.hbm_bytes, profile.sources["hbm_bytes"]) == ("my-l4", 24 * GIB, "ECC off")


def test_a_profile_written_out_is_what_its_file_is() -> None:
    from sim.scenario.strict_yaml import load_yaml

    assert load_hardware(load_yaml(profile_folder() / "a10.yaml")) == PROFILES["a10"]


def test_the_catalog_prints_every_device_field_and_source() -> None:
    table = catalog.hardware_table()
    for name, profile in PROFILES.items():
        assert re.search(rf"^  {re.escape(name)} ", table, re.MULTILINE)
        shown = catalog.show(name)
        assert all(source in shown for source in profile.sources.values())
        assert shown.count("unknown") >= sum(getattr(profile, one.name) is None for one in fields(profile))
        assert json.loads(json.dumps(catalog.describe(name)))["hbm_bytes"] == profile.hbm_bytes


def test_the_catalog_names_what_is_near() -> None:
    with pytest.raises(ScenarioError, match="did you mean rtx-4090"):
        catalog.show("rtx4090")
    with pytest.raises(ScenarioError) as caught:
        catalog.show("rtx-4080")  # a card of its own, which has no profile
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("h100", ["h100-sxm-80gb", "h100-pcie-80gb"]),
        ("NVIDIA H100 80GB HBM3", ["h100-sxm-80gb", "h100-pcie-80gb"]),
        ("h100-pcie", ["h100-pcie-80gb"]),
        ("a100-80gb", ["a100-sxm-80gb", "a100-pcie-80gb"]),
        ("a100", ["a100-sxm-40gb", "a100-sxm-80gb", "a100-pcie-40gb", "a100-pcie-80gb"]),
        ("h100-sxm-80g", ["h100-sxm-80gb"]),
        ("h10-sxm-80gb", []),
        ("mi300", ["mi300x"]),
        ("rtx-1234", []),
        ("b300", []),
        ("tpu-v5e", []),
    ],
)
def test_a_card_is_found_by_its_name_and_no_other_card_is_offered(written: str, meant: list[str]) -> None:
    assert cards_meant(written, hardware_names()) == meant


def measured_folder() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "measured"
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail("the measurements are absent, and CI must have them")
        pytest.skip("needs the folder of measurements beside the checkout (../shared/measured)")
    return folder


def test_the_shipped_curves_are_what_the_fit_gives() -> None:
    fit = pytest.importorskip("calibrate.fit_profile_curves", reason="runs from a checkout")
    fitted: Mapping[str, Mapping[str, EfficiencyCurve]] = fit.all_curves(measured_folder())
    assert len(fitted) > 20
    refit = "run: python -m calibrate.fit_profile_curves ../shared/measured --write"
    for name, curves in fitted.items():
        for which, curve in curves.items():
            shipped = np.array(PROFILES[name].efficiency[which].points)
            assert shipped == pytest.approx(np.array(curve.points), rel=5e-3), f"{name} {which}: {refit}"


@pytest.mark.parametrize("name", NAMES)
def test_a_refit_would_borrow_what_the_profile_borrows(name: str) -> None:
    """Whom a device borrows from stands in its profile alone; what it takes follows from what it can run."""
    writing = pytest.importorskip("calibrate.profile_writing", reason="runs from a checkout")
    own, taken = writing.own_fits(name), {}
    for lender in writing.lenders_of(name):
        offered = [one for one in writing.own_fits(lender) if one not in taken]
        chosen = writing.borrowed_operators(PROFILES[name], PROFILES[lender], own, offered)
        taken |= dict.fromkeys(chosen, lender)
    kernels = PROFILES[name].kernels
    assert taken == {key: one.borrowed_from for key, one in kernels.items() if one.borrowed_from}
