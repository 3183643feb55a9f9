"""What a device can do: one frozen profile per YAML file in ``hardware_profiles/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    peak_flops_per_s: Mapping[str, float]  # dtype -> dense; float32, tfloat32, float16, bfloat16, float8, int8, float4
    kernel_launch_s: float  # between kernels, back to back
    graph_launch_s: float | None  # the same inside a CUDA graph
    idle_w: float | None
    tdp_w: float | None
    usd_per_hour: float | None
    efficiency: Mapping[str, EfficiencyCurve] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
