"""From counts to seconds: one roofline, with the efficiency that a size reaches.

An ``Operator`` is one kind of kernel, launched ``count`` times in a step. Its counts are arrays over
the steps that are priced together. Time of one launch:

    max(flops / (peak_flops_per_s * compute fraction * utilisation),
        hbm_bytes / (hbm_bytes_per_s * memory fraction),
        link_bytes / (link bytes_per_s * link fraction) + link latency,
        kernel launch)

Where the profile has a kernel law for the operator (``HardwareProfile.kernels``), the law's time stands
in place of this one, and the bounds say what holds it back. ``speed`` divides either: a kernel that is not
the one measured, or a long step in which kernels do not keep their speed.

(Williams et al., "Roofline", CACM 2009, with measured fractions of the peaks.) Not modelled: overlap of
different operators in one step, clock throttling, contention with copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from sim.hardware import HardwareProfile, Link, curve_fractions
from sim.scenario.dataclass import dataclass

Floats = npt.NDArray[np.float64]
Bound = Literal["compute", "memory", "link", "launch"]
BOUNDS: tuple[Bound, ...] = ("compute", "memory", "link", "launch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Counts of one launch, as arrays over steps, and how often it is launched in a step."""

    name: str
    count: int
    flops: Floats
    hbm_bytes: Floats
    peak: str  # key of peak_flops_per_s
    compute_curve: str = "gemm_compute"
    memory_curve: str = "gemm_memory"
    output: tuple[Floats, Floats] | None = None  # rows and columns of a GEMM's output, in tiles on the SMs
    link_bytes: Floats | float = 0.0
    link_messages: int = 0  # latencies paid one after another
    law_s: Floats | None = None  # seconds of one launch by a fitted kernel law, in place of the roofline
    law: str = ""  # the operator's name in the profile's ``kernels``
    memory_fraction: float = 1.0  # of the memory curve's rate that its access pattern reaches
    speed: float = 1.0  # over the kernels that law and curves were measured on

    def times_s(self, hardware: HardwareProfile, launch_s: float, link: Link | None) -> Floats:
        """Seconds in a step, all launches together; 0 where there is no work."""
        has_work = (self.flops > 0) | (self.hbm_bytes > 0) | (np.asarray(self.link_bytes) > 0)
        if self.law_s is not None:
            return np.where(has_work, self.count / self.speed * self.law_s, 0.0)
        bounds = self.bounds_s(hardware, launch_s, link)
        longest: Floats = self.count / self.speed * np.max(np.broadcast_arrays(*bounds), axis=0)
        return np.where(has_work, longest, 0.0)

    def bounds_s(self, hardware: HardwareProfile, launch_s: float, link: Link | None) -> list[Floats]:
        """Seconds of one launch under each bound, in the order of ``BOUNDS``."""
        rate = hardware.peak_flops_per_s[self.peak]
        compute = fractions(hardware, self.compute_curve, self.flops * slower_than_measured(hardware, rate))
        memory = fractions(hardware, self.memory_curve, self.hbm_bytes)
        utilisation = 1.0 if self.output is None else wave_utilisation(*self.output, hardware.sm_count)
        transfer = np.zeros_like(self.flops)
        if link is not None and self.link_messages:
            size = np.asarray(self.link_bytes, dtype=np.float64)
            achieved = link.bytes_per_s * fractions(hardware, "link", size)
            transfer = size / achieved + self.link_messages * (link.latency_s or 0.0)
        return [
            self.flops / (rate * compute * utilisation),
            self.hbm_bytes / (hardware.hbm_bytes_per_s * memory * self.memory_fraction),
            transfer,
            np.full_like(self.flops, launch_s),
        ]


def slower_than_measured(hardware: HardwareProfile, rate: float) -> float:
    """How many times slower than 16-bit FLOPs, on which the curves were measured; 1 for faster types.

    A kernel of float32 or TF32 takes the fraction of a 16-bit kernel of equal ideal time: start-up costs are
    times, and hide in as many FLOPs more as these are faster.
    """
    peaks = hardware.peak_flops_per_s
    return max(peaks.get("bfloat16", peaks.get("float16", rate)) / rate, 1.0)


def fractions(hardware: HardwareProfile, curve_name: str, sizes: Floats) -> Floats:
    """Fraction of the peak reached at each size; 1 where the profile has no such curve."""
    curve = hardware.efficiency.get(curve_name)
    if curve is None:
        return np.ones_like(sizes)
    return curve_fractions(curve, sizes)


def wave_utilisation(rows: Floats, columns: Floats | int, sm_count: int) -> Floats:
    """Share of the SMs' time that useful output tiles fill, for the best of a few tilings.

    A GEMM's output is cut into tiles, one per SM and wave; the last wave is partly empty, and so are
    tiles that reach over the edge. Thin outputs split K over SMs (stream-K or split-K), which is the
    ``split`` below. Tile sizes as in cuBLAS and CUTLASS; the choice between them is ours.
    """
    best = np.zeros_like(rows)
    for tile_rows, tile_columns in ((128, 256), (128, 128), (64, 128), (64, 64)):
        tiles = np.maximum(1.0, np.ceil(rows / tile_rows)) * np.ceil(columns / tile_columns)
        useful = (rows * columns) / (tiles * tile_rows * tile_columns)
        for split in (1, 2, 4, 8):
            waves = np.ceil(tiles * split / sm_count)
            best = np.maximum(best, useful * tiles * split / (waves * sm_count))
    return np.maximum(best, 1e-6)


def total_s(
    operators: Sequence[Operator], hardware: HardwareProfile, launch_s: float, link: Link | None
) -> Floats:
    """Seconds of all operators, one after another."""
    times: Floats = np.sum([op.times_s(hardware, launch_s, link) for op in operators], axis=0)
    return times
