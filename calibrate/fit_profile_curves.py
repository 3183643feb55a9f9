"""First efficiency curves of the hardware profiles, from other people's kernel timings.

    python -m calibrate.fit_profile_curves MEASURED_FOLDER [--write]

Prints each profile's ``efficiency:`` block, or puts it at the end of the profile. Curves are medians by size.
Memory curves leave out what may have come from L2, and follow the law start-up + bytes / (fraction ·
bandwidth) across that gap; compute curves are over the same tile and wave utilisation as the price uses.
Devices without timings borrow a curve at equal ideal time: the lender's sizes times the ratio of the peaks.
Whose curve it is stands in the profile alone, in the curve's source ("borrowed from NAME ...").
Not fitted: quantized GEMMs, mixed prefill and decode, MoE.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from calibrate.curve_law import error_text, fit_knots, fit_startup, startup_fractions
from calibrate.timings import Timings, aic_all_reduce, aic_timings, rtx_4090_timings
from sim.hardware import (
    CURVE_SIZE_UNITS,
    EfficiencyCurve,
    HardwareProfile,
    curve_fractions,
    hardware_names,
    load_hardware,
)
from sim.hardware.load import profile_folder

AIC_GPUS = {
    "a100-sxm-80gb": "a100_sxm", "h100-sxm-80gb": "h100_sxm", "h200-sxm-141gb": "h200_sxm",
    "b200-sxm-180gb": "b200_sxm", "l40s": "l40s",
}  # fmt: skip
LINK_LENDER = "a100-sxm-80gb"  # the L40S's own all-reduce timings look like one bad host
# Best bfloat16 GEMM over the peak (stas00/ml-engineering, MAMF) where a lender's curve would flatter: AMD.
BEST_GEMM = {
    "mi250x": ("MI300X", 668.4 / 1307),
    "mi300x": ("MI300X", 668.4 / 1307),
    "mi325x": ("MI325X", 784.9 / 1307),
}
# Best measured read over the datasheet's bandwidth.
BEST_READ = {
    "v100-sxm2-16gb": 897 / 900, "v100-sxm2-32gb": 897 / 900, "a100-sxm-40gb": 1539 / 1555,
    "a100-sxm-80gb": 1908 / 2039, "a100-pcie-80gb": 1908 / 1935, "l40s": 847 / 864,
    "h100-pcie-80gb": 2018 / 2040, "mi300x": 4849 / 5300,
}  # fmt: skip
ELEMENTWISE_STARTUP_S = 2.0e-6  # norm, rotary and activation of one token: 1.9 to 2.6 us, vLLM on an RTX 4090
FEW_TIMINGS = 10  # in one of 80 bins of size
MEMORY_KNOTS = (1e5, 5e5, 2e6, 6e6, 2e7, 6e7, 2e8, 1e9)
KNOTS = {
    "gemm_compute": (1e10, 3e10, 1e11, 3e11, 1e12, 3e12, 1e13),
    "attention_prefill_compute": (1e8, 1e9, 5e9, 2e10, 1e11, 5e11, 2e12, 1e13),
    "link": (1e4, 1e5, 5e5, 2e6, 1e7, 5e7, 2e8, 1e9),
}


def memory_curve(timings: Timings, peak: float) -> EfficiencyCurve:
    """A curve over bytes: the timings' medians, and the start-up law at sizes that have too few of them."""
    startup_s, fraction = fit_startup(timings.ideal_s, timings.measured_s)
    timings = timings.where(timings.size >= MEMORY_KNOTS[0])
    edges = np.geomspace(MEMORY_KNOTS[0], 10 * MEMORY_KNOTS[-1], 81)
    middles = np.sqrt(edges[1:] * edges[:-1])
    num_timings, _ = np.histogram(timings.size, edges)
    gaps = np.repeat(middles, np.maximum(0, FEW_TIMINGS - num_timings))
    sizes = np.concatenate([timings.size, gaps])
    law = startup_fractions(gaps, peak, startup_s, fraction)
    values = fit_knots(sizes, np.concatenate([timings.ideal_s / timings.measured_s, law]), MEMORY_KNOTS)
    points = tuple(zip(MEMORY_KNOTS, values.tolist(), strict=True))
    how = f"start-up {startup_s * 1e6:.1f} us, then {fraction:.2f} of the peak"
    curve = EfficiencyCurve(size_unit="bytes", points=points, source="")
    return with_error(curve, timings, f"fitted: medians; where timings are few, {how}")


def law_curve(startup_s: float, fraction: float, peak: float, source: str) -> EfficiencyCurve:
    """Points whose interpolation follows the start-up law."""
    sizes = np.geomspace(MEMORY_KNOTS[0], 10 * MEMORY_KNOTS[-1], 400)
    values = fit_knots(sizes, startup_fractions(sizes, peak, startup_s, fraction), MEMORY_KNOTS)
    points = tuple(zip(MEMORY_KNOTS, values.tolist(), strict=True))
    return EfficiencyCurve(size_unit="bytes", points=points, source=source)


def median_curve(timings: Timings, which: str) -> EfficiencyCurve:
    """Medians by size, at the knots that the timings reach."""
    low, high = float(np.min(timings.size)), float(np.max(timings.size))
    knots: Sequence[float] = [knot for knot in KNOTS[which] if low / 2 < knot < high * 2]
    values = fit_knots(timings.size, timings.ideal_s / timings.measured_s, knots)
    points = tuple(zip(knots, values.tolist(), strict=True))
    curve = EfficiencyCurve(size_unit=CURVE_SIZE_UNITS[which], points=points, source="")
    return with_error(curve, timings, "fitted")


def with_error(curve: EfficiencyCurve, timings: Timings, how: str) -> EfficiencyCurve:
    """The curve, its error on the fitted timings in the source."""
    error = error_text(timings.ideal_s / curve_fractions(curve, timings.size), timings.measured_s)
    return replace(curve, source=f"{how}; {error}; {timings.what}")


def measured_curves(name: str, folder: Path) -> dict[str, EfficiencyCurve]:
    """The curves of a device that has timings of its own."""
    hardware = load_hardware(name)
    if name == "rtx-4090":
        timings = rtx_4090_timings(folder, hardware)
    else:
        timings = aic_timings(folder, AIC_GPUS[name], hardware)
        if name != "l40s":
            timings["link"] = aic_all_reduce(folder, AIC_GPUS[name], hardware)
    peak = hardware.hbm_bytes_per_s
    return {
        which: memory_curve(one, peak) if which.endswith("_memory") else median_curve(one, which)
        for which, one in timings.items()
    }


def borrowed(curve: EfficiencyCurve, lender: HardwareProfile, name: str, which: str) -> EfficiencyCurve:
    """The lender's curve at equal ideal time."""
    ratio = peak_of(load_hardware(name), which) / peak_of(lender, which)
    scale, note = 1.0, ""
    if which == "gemm_compute" and name in BEST_GEMM:
        whose, best = BEST_GEMM[name]
        scale = best / max(fraction for _, fraction in curve.points)
        note = f"; fractions times {scale:.3f}, up to the best GEMM on {whose} (stas00/ml-engineering, MAMF)"
    points = tuple((size * ratio, fraction * scale) for size, fraction in curve.points)
    source = f"borrowed from {lender.name} at equal ideal time: sizes times {ratio:.4f}{note}"
    return EfficiencyCurve(size_unit=curve.size_unit, points=points, source=source)


def lender_of(name: str, which: str) -> str:
    """Whom a profile's curve is borrowed from, as its source says it; "" where it is the device's."""
    curve = load_hardware(name).efficiency.get(which)
    found = re.search(r"borrowed from ([\w.-]+)", curve.source) if curve else None
    return found[1] if found else ""


def peak_of(hardware: HardwareProfile, which: str) -> float:
    """The peak that a curve's fractions are of."""
    if which == "link":
        assert hardware.intra_node is not None
        return hardware.intra_node.bytes_per_s
    if which.endswith("_compute"):
        return hardware.peak_flops_per_s.get("bfloat16", hardware.peak_flops_per_s["float16"])
    return hardware.hbm_bytes_per_s


def elementwise(name: str) -> EfficiencyCurve:
    """Norms, rotary embedding and activations: the start-up law up to the best read measured."""
    whose = lender_of(name, "elementwise_memory") or name
    note = "" if whose == name else f", borrowed from {whose}"
    source = (
        f"no fit: start-up {ELEMENTWISE_STARTUP_S * 1e6:.1f} us (one-token kernels of vLLM 0.19 on an RTX "
        f"4090), then {BEST_READ[whose]:.3f} of the peak, the best read (RRZE-HPC/gpu-benches@1038c5d{note})"
    )
    return law_curve(ELEMENTWISE_STARTUP_S, BEST_READ[whose], load_hardware(name).hbm_bytes_per_s, source)


def all_curves(folder: Path) -> dict[str, dict[str, EfficiencyCurve]]:
    """Every profile's curves, measured or borrowed."""
    found = {name: measured_curves(name, folder) for name in (*AIC_GPUS, "rtx-4090")}
    for name in hardware_names():
        lender = lender_of(name, "gemm_compute")
        if not lender:
            continue
        profile = load_hardware(lender)
        found[name] = {which: borrowed(curve, profile, name, which) for which, curve in found[lender].items()}
    for name, curves in found.items():
        curves["elementwise_memory"] = elementwise(name)
        if "link" not in curves:
            curves["link"] = borrowed(found[LINK_LENDER]["link"], load_hardware(LINK_LENDER), name, "link")
    return found


def yaml_block(curves: Mapping[str, EfficiencyCurve]) -> str:
    """The ``efficiency:`` block of a profile."""
    lines = ["efficiency:"]
    for which in CURVE_SIZE_UNITS:
        curve = curves[which]
        points = ", ".join(f"[{size:.3e}, {fraction:.4g}]" for size, fraction in curve.points)
        lines += [f"  {which}:", f"    size_unit: {curve.size_unit}", f"    points: [{points}]"]
        lines.append(f'    source: "{curve.source}"')
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fits and prints, or writes into the profiles."""
    parser = argparse.ArgumentParser(description="Fit the first efficiency curves of the hardware profiles.")
    parser.add_argument("folder", type=Path, help="the folder of the measurements")
    parser.add_argument("--write", action="store_true", help="put the curves into the profiles")
    given = parser.parse_args()
    for name, curves in sorted(all_curves(given.folder).items()):
        path = profile_folder() / f"{name}.yaml"
        if given.write:
            body = path.read_text(encoding="utf-8").split("\nefficiency:")[0].rstrip("\n")
            path.write_text(f"{body}\n{yaml_block(curves)}", encoding="utf-8")
        else:
            print(f"# {path.name}\n{yaml_block(curves)}")


if __name__ == "__main__":
    main()
