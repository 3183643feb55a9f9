"""Made-up measurements in the written format, from laws that are written here a second time.

Every point of the plan gets a row through ``rows.append``, as ``measure`` writes it: the time of a plain law
(rate of the level, start-up, roofline with fixed fractions), log-normal noise, and the CUDA graph's start on
top. What is known here is what a fit has to find again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibrate.measure import rows
from calibrate.measure.points import Point, all_points, kernel_counts

PEAK, HBM, KV_HEAD_BYTES = 989e12, 4.8e12, 2.0  # the H200's datasheet; bytes of a 16-bit value
GPU = "NVIDIA H200"


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """The truth. Rates in bytes per second, times in seconds, fractions of the datasheet's peaks."""

    sram_bytes_per_s: float = 31e12
    l2_bytes_per_s: float = 6.2e12
    hbm_fraction: float = 0.91
    link_bytes_per_s: float = 52e9
    link_start_s: float = 9e-6
    launch_s: float = 2.1e-6
    node_s: float = 1.4e-6
    graph_start_s: float = 6e-6
    norm_start_s: float = 2.4e-6
    norm_fraction: float = 0.85
    gemm_start_s: float = 3e-6
    gemm_fraction: float = 0.72
    attention_fraction: float = 0.55
    decode_start_s: float = 8e-6
    decode_fraction: float = 0.8

    def seconds(self, point: Point) -> float:
        """Without noise and without the graph's start."""
        size = dict(point.size)
        if point.family not in BY_FAMILY:
            return 2e-6 + kernel_counts(point)[1] / (self.hbm_fraction * HBM)
        return BY_FAMILY[point.family](self, point.kernel, size)


def launch_s(law: Law, kernel: str, size: dict[str, int]) -> float:
    return law.launch_s if kernel == "launch_plain" else law.node_s


def memory_s(law: Law, kernel: str, size: dict[str, int]) -> float:
    if kernel == "read":
        per_sm, total = 4 * size["C"], 4 * size["C"] * size["P"]
        rate = law.sram_bytes_per_s if per_sm < 200_000 else law.l2_bytes_per_s
        rate = rate if total < 50 * 2**20 else law.hbm_fraction * HBM
        return total * size["num_repeats"] / rate
    return 2e-6 + (2 if kernel == "copy" else 3) * 2 * size["num_values"] / (law.hbm_fraction * HBM)


def link_s(law: Law, kernel: str, size: dict[str, int]) -> float:
    return law.link_start_s + size["num_bytes"] / law.link_bytes_per_s


def norm_s(law: Law, kernel: str, size: dict[str, int]) -> float:
    M = size["M"]
    if kernel == "rms_norm":
        moved = 2.0 * size["N"] + 2.0 * M * size["N"] * (4 if size["has_residual"] else 2)
    elif kernel == "silu_mul":
        moved = 2.0 * M * 3 * size["N"]
    else:
        moved = 2.0 * M * 2 * (size["H"] + 2 * size["G"]) * size["D"]
    return law.norm_start_s + moved / (law.norm_fraction * HBM)


def gemm_s(law: Law, kernel: str, size: dict[str, int]) -> float:
    m, n, k = (float(size[name]) for name in "MNK")
    flops = 2 * m * n * k
    weights = n * k * (0.5 if kernel == "int4_matmul" else 2.0)
    memory = (weights + 2 * m * (n + k)) / (law.hbm_fraction * HBM)
    return law.gemm_start_s + max(flops / (law.gemm_fraction * PEAK), memory)


def attention_s(law: Law, kernel: str, size: dict[str, int]) -> float:
    pairs = size["T"] * size["S"] - (size["T"] ** 2 / 2 if size["is_causal"] else 0)
    flops = 4.0 * size["B"] * size["H"] * size["D"] * pairs
    return 6e-6 + flops / (law.attention_fraction * PEAK)


def decode_s(law: Law, kernel: str, size: dict[str, int]) -> float:
    kv = 2 * KV_HEAD_BYTES * size["B"] * size["context"] * size["G"] * size["D"]
    return law.decode_start_s + kv / (law.decode_fraction * HBM)


def step_s(law: Law, kernel: str, size: dict[str, int]) -> float:
    kv = 131_072.0 * size["B"] * size["context"]
    return 0.8e-3 + (16e9 + kv) / (law.decode_fraction * HBM)


BY_FAMILY: dict[str, Callable[[Law, str, dict[str, int]], float]] = {
    "launch": launch_s, "memory": memory_s, "host_link": link_s, "norm": norm_s, "gemm": gemm_s,
    "attention": attention_s, "decode": decode_s, "step": step_s,
}  # fmt: skip
SLOWER = {"torch": 1.0, "sdpa_flash": 1.0, "sdpa_cudnn": 1.05, "sdpa_math": 8.0, "sdpa_unpaged": 1.4}


def write_measurements(
    folder: Path, law: Law, *, noise: float = 0.03, points: Iterable[Point] | None = None
) -> None:
    """The rows of ``points`` (the whole plan), our own kernels a tenth slower than the libraries'."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)
    for index, point in enumerate(all_points() if points is None else points):
        p50_s = law.seconds(point) * SLOWER.get(point.provider, 1.1 if has_library(point) else 1.0)
        is_graph = point.family not in ("launch", "host_link", "step")
        is_single = point.kernel == "launch_graph" and dict(point.size)["num_launches"] == 1
        p50_s = p50_s * math.exp(noise * rng.standard_normal()) + law.graph_start_s * (is_graph or is_single)
        times = {"p50_s": f"{p50_s:.6g}", "p20_s": f"{p50_s * 0.99:.6g}", "p80_s": f"{p50_s * 1.02:.6g}"}
        found: dict[str, object] = {**times, "num_repeats": 20, "relative_error": "0.002"}
        if index % 97 == 96 and point.family == "gemm":
            found = {"refused": "LaunchError: made up"}
        context = {
            "gpu": GPU, "driver": "570.1", "cuda": "12.8", "torch": "2.8.0", "triton": "3.4.0", "slot": 1,
            "measured_at": "2026-11-21T10:00:00+00:00",
        }  # fmt: skip
        rows.append(folder, point.family, rows.row_of(point, {**found, **context}))


def has_library(point: Point) -> bool:
    """A library runs beside our kernel, and is the faster of the two."""
    return point.kernel in ("matmul", "flash_attention", "rms_norm", "copy", "triad")
