"""What the device itself does, from measured rows: memory levels, host link, launches, elementwise kernels.

Each constant keeps the spread of what it was taken from. A level of memory is the median rate of the reads
whose working set belongs to it; link and elementwise kernels follow time = start-up + bytes / rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibrate.curve_law import error_text, fit_startup
from calibrate.fit.rows import MeasuredRow, Measurements
from calibrate.fit.timings import PROVIDERS, chosen_rows, graph_start_s, kernel_s, who_measured
from calibrate.fit_profile_curves import law_curve
from sim.hardware import EfficiencyCurve, HardwareProfile
from sim.hardware.laws.device import Floats

HBM_OVER_L2 = 4.0  # working sets so many times larger than L2 are read from HBM
LARGE_COPY_BYTES = 256e6
FEWEST_ROWS = 3
ELEMENTWISE = ("rms_norm", "silu_mul", "rope_cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One number of a profile: ``shipped`` is what the base profile has. ``key`` is its place there, or
    empty for what a profile has no field for."""

    name: str
    key: str
    unit: str
    value: float
    shipped: float | None
    spread: str
    source: str

    @property
    def over_shipped(self) -> float | None:
        """Fraction by which it differs from the shipped one."""
        return self.value / self.shipped - 1.0 if self.shipped else None


def device_constants(measured: Measurements, hardware: HardwareProfile, choice: str) -> list[Constant]:
    """Every constant that the rows suffice for."""
    found = [*memory_constants(measured, hardware), *link_constants(measured, hardware)]
    return [*found, *launch_constants(measured, hardware, choice)]


def memory_constants(measured: Measurements, hardware: HardwareProfile) -> list[Constant]:
    """SRAM, L2 and HBM by working set, and what large copies reach."""
    sram, l2 = hardware.sram_bytes_per_sm, hardware.l2_bytes or 0
    reads = measured.of("read")
    levels = (
        ("read from SRAM", "sram_bytes_per_s", hardware.sram_bytes_per_s, (0.0, sram / 2, 0.0, 1e30)),
        ("read from L2", "l2_bytes_per_s", hardware.l2_bytes_per_s, (sram, 1e30, 0.0, l2)),
        ("read from HBM", "", hardware.hbm_bytes_per_s, (sram, 1e30, HBM_OVER_L2 * l2, 1e30)),
    )
    found = []
    for name, key, shipped, (low, high, least, most) in levels:
        rows = [
            row for row in reads if low <= 4 * row.size["C"] <= high and least <= working_set(row) <= most
        ]
        found += [rate_constant(name, key, shipped, rows, graph_start_s(measured))] if rows else []
    copies = [row for row in measured.of("copy") if row.hbm_bytes >= LARGE_COPY_BYTES]
    if copies:
        start_s = graph_start_s(measured)
        found.append(rate_constant("copy within HBM", "", hardware.hbm_bytes_per_s, copies, start_s))
    return found


def working_set(row: MeasuredRow) -> float:
    """Bytes that a read goes through again and again; float32."""
    return 4.0 * row.size["P"] * row.size["C"]


def rate_constant(
    name: str, key: str, shipped: float | None, rows: list[MeasuredRow], start_s: float
) -> Constant:
    """The median of bytes over time."""
    rates = np.array([row.hbm_bytes / kernel_s(row, start_s) for row in rows])
    spread = f"{rates.min():.4g} to {rates.max():.4g} over {len(rows)} sizes"
    return Constant(
        name=name, key=key, unit="B/s", value=float(np.median(rates)), shipped=shipped, spread=spread,
        source=who_measured(rows),
    )  # fmt: skip


def link_constants(measured: Measurements, hardware: HardwareProfile) -> list[Constant]:
    """The host link: pinned copies of both directions together, then each by itself, and pageable ones."""
    directions = ("host_to_device", "device_to_host")
    found: list[Constant] = []
    link = hardware.host_link
    nominal = link.bytes_per_s if link else 64e9
    for names, provider, key in (
        (directions, "pinned", "host_link"),
        *(((one,), provider, "") for one in directions for provider in ("pinned", "pageable")),
    ):
        rows = [row for name in names for row in measured.of(name, providers=(provider,))]
        if len({row.size["num_bytes"] for row in rows}) < FEWEST_ROWS:
            continue
        ideal_s, measured_s = startup_sizes(rows, nominal, 0.0)
        start_s, fraction = fit_startup(ideal_s, measured_s)
        error = error_text(start_s + ideal_s / fraction, measured_s)
        what = f"{' and '.join(names)}, {provider}"
        source = who_measured(rows)
        found.append(
            Constant(
                name=f"{what}: rate", key=f"{key}.bytes_per_s" if key else "", unit="B/s", spread=error,
                value=fraction * nominal, shipped=link.bytes_per_s if link else None, source=source,
            )
        )  # fmt: skip
        found.append(
            Constant(
                name=f"{what}: start-up", key=f"{key}.latency_s" if key else "", unit="s", spread=error,
                value=start_s, shipped=link.latency_s if link else None, source=source,
            )
        )  # fmt: skip
    return found


def startup_sizes(rows: list[MeasuredRow], peak: float, graph_s: float) -> tuple[Floats, Floats]:
    """(ideal, measured) seconds by size."""
    ideal_s = np.array([row.hbm_bytes / peak for row in rows])
    return ideal_s, np.array([kernel_s(row, graph_s) for row in rows])


def launch_constants(measured: Measurements, hardware: HardwareProfile, choice: str) -> list[Constant]:
    """From one launch to the next, plain and inside a CUDA graph; and the graph's own start."""
    found = []
    for kernel, key, shipped in (
        ("launch_plain", "kernel_launch_s", hardware.kernel_launch_s),
        ("launch_graph", "graph_launch_s", hardware.graph_launch_s),
    ):
        rows = [
            row for row in measured.of(kernel, providers=PROVIDERS[choice]) if row.size["num_launches"] > 1
        ]
        if rows:
            row = min(rows, key=lambda one: one.p50_s)
            spread = f"p20 {row.p20_s:.3g} s, p80 {row.p80_s:.3g} s"
            found.append(
                Constant(
                    name=f"launch, {'plain' if kernel == 'launch_plain' else 'in a CUDA graph'}", key=key,
                    unit="s", value=row.p50_s, shipped=shipped, spread=spread, source=who_measured([row]),
                )
            )  # fmt: skip
    start_s = graph_start_s(measured)
    if start_s:
        rows = measured.of("launch_graph", providers=("triton",))
        found.append(
            Constant(
                name="start of a CUDA graph", key="", unit="s", value=start_s, shipped=None,
                spread="one empty node less one of 1,000", source=who_measured(rows),
            )
        )  # fmt: skip
    return found


def elementwise_curve(
    measured: Measurements, hardware: HardwareProfile, choice: str
) -> EfficiencyCurve | None:
    """Norms, activation and rotary embedding over HBM bytes; None without rows of enough sizes."""
    rows = [row for kernel in ELEMENTWISE for row in chosen_rows(measured, kernel, choice=choice)]
    if choice == "library":  # no library here has the fused ones
        rows = chosen_rows(measured, "rms_norm", choice=choice)
    if len({row.hbm_bytes for row in rows}) < FEWEST_ROWS:
        return None
    peak = hardware.hbm_bytes_per_s
    ideal_s, measured_s = startup_sizes(rows, peak, graph_start_s(measured))
    start_s, fraction = fit_startup(ideal_s, measured_s)
    error = error_text(start_s + ideal_s / fraction, measured_s)
    sizes = f"{min(row.hbm_bytes for row in rows):.3g} to {max(row.hbm_bytes for row in rows):.3g} bytes"
    how = f"fitted: start-up {start_s * 1e6:.2f} us, then {fraction:.3f} of the peak; {error}, {sizes}"
    return law_curve(start_s, fraction, peak, f"{how}; {who_measured(rows)}")
