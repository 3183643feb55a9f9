"""What a device can do: one frozen profile per YAML file in ``hardware_profiles/``."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING

from sim.elementary import log, log_of
from sim.errors import closest
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DTYPES = ("float32", "tfloat32", "float16", "bfloat16", "float8", "int8", "float4")

# Every efficiency curve and what its size counts: of one operator on one GPU (of `link`: of one message).
CURVE_SIZE_UNITS: Mapping[str, str] = {
    "gemm_compute": "flops",  # fraction of the dtype's dense peak, GEMMs bound by compute
    "gemm_memory": "bytes",  # fraction of HBM bandwidth, GEMMs bound by memory
    "attention_prefill_compute": "flops",
    "attention_decode_memory": "bytes",
    "elementwise_memory": "bytes",
    "link": "bytes",  # bus bandwidth of an all-reduce over the intra-node link's bandwidth
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link, per GPU and per direction."""

    bytes_per_s: float
    latency_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficiencyCurve:
    """Fraction of a peak that is reached, by the size of the work.

    ``points`` are (size, fraction), ascending in size; between them the fraction is interpolated
    linearly in the logarithm of the size, outside it is the nearest point's. ``size_unit`` says
    what the size counts. ``source`` says whether it is measured, fitted or assumed.
    """

    size_unit: str  # "flops" | "bytes"
    points: tuple[tuple[float, float], ...]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFit:
    """A kernel law's constants on a device (``sim.hardware.laws``), how well they fit and to what.

    ``sizes`` is the smallest and largest of every size that was fitted to. ``borrowed_from`` names the
    device whose constants these are, where a device has no measurements: they are fractions of peaks, so
    they scale with the borrower's.
    """

    law: str
    constants: Mapping[str, float]
    sizes: Mapping[str, tuple[float, float]]
    fitted_on: str
    median_error_fraction: float
    p90_error_fraction: float
    borrowed_from: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareProfile:
    """One GPU and its surroundings. Rates are peaks from the datasheet, dense, base units.

    ``None`` means unknown (YAML: ``unknown``). ``sources`` names, for every field that is known,
    where its number comes from.
    """

    name: str
    vendor: str
    architecture: str
    compute_capability: str | None
    sm_count: int
    clock_hz: float | None
    sram_bytes_per_sm: int
    max_sram_bytes_per_block: int | None
    register_file_bytes_per_sm: int | None
    sram_bytes_per_s: float | None  # all SMs together
    l2_bytes: int | None
    l2_bytes_per_s: float | None
    hbm_bytes: int  # what the driver reports as total, not the marketing figure
    hbm_bytes_per_s: float
    dram_bytes: int | None  # host memory per GPU in a usual server
    dram_bytes_per_s: float | None
    host_link: Link | None
    intra_node: Link | None  # NVLink, Infinity Fabric, or PCIe peer to peer
    inter_node: Link | None
    gpus_per_node: int | None
    peak_flops_per_s: Mapping[str, float]  # dense, by dtype (DTYPES)
    kernel_launch_s: float  # between kernels, back to back
    graph_launch_s: float | None  # the same inside a CUDA graph
    idle_w: float | None
    tdp_w: float | None
    usd_per_hour: float | None
    efficiency: Mapping[str, EfficiencyCurve] = field(default_factory=dict)
    kernels: Mapping[str, KernelFit] = field(default_factory=dict)  # by operator; before the curves
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    measured_over_simulated: float | None = None
    """How many times as long measured runs took as simulated ones, the median of the validation board."""


def curve_fraction(curve: EfficiencyCurve, size: float) -> float:
    """The fraction of the peak reached at ``size``: linear in log(size), constant beyond the ends."""
    points = curve.points
    if size <= points[0][0]:
        return points[0][1]
    if size >= points[-1][0]:
        return points[-1][1]
    above = bisect_right(points, size, key=lambda point: point[0])
    (left, low), (right, high) = points[above - 1], points[above]
    return low + (high - low) * (log(size) - log(left)) / (log(right) - log(left))


def curve_fractions(curve: EfficiencyCurve, sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``curve_fraction`` of every size at once."""
    import numpy as np

    xs = log_of(np.array([size for size, _ in curve.points]))
    fractions = np.array([fraction for _, fraction in curve.points])
    floor = curve.points[0][0]
    result: npt.NDArray[np.float64] = np.interp(log_of(np.maximum(sizes, floor)), xs, fractions)
    return result


_FORM = re.compile(r"sxm\d?|pcie|\d+gb")


def cards_meant(given: str, names: Sequence[str]) -> list[str]:
    """The profiles of the card that ``given`` names, SXM first; else the one name that it misspells.

    ``h100``, ``a100-80gb`` and ``NVIDIA H100 80GB HBM3`` name a card; ``rtx-1234`` is none of ours.
    """
    words = set(re.findall(r"[a-z0-9]+", given.casefold()))
    parts = {name: name.split("-") for name in names}
    of_card = [name for name in names if {one for one in parts[name] if not _FORM.fullmatch(one)} <= words]
    if not of_card:
        near = closest(given, names)
        return [near] if near else []
    most = max(len(words.intersection(parts[name])) for name in of_card)
    best = [name for name in of_card if len(words.intersection(parts[name])) == most]
    return sorted(best, key=lambda name: "sxm" not in name)
