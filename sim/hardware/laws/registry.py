"""Every kernel law, and the operators that a profile can give constants for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.elementary import exp_of, log_of
from sim.hardware.laws.attention import ATTENTION_DECODE, ATTENTION_PREFILL
from sim.hardware.laws.device import Constant, Constants, Device, Floats, KernelLaw, Sizes
from sim.hardware.laws.gemm import (
    GROUPED_EXPERTS,
    GROUPED_EXPERTS_QUANTIZED,
    TILED_GEMM,
    TILED_GEMM_QUANTIZED,
)

REGIMES = ("low_latency", "pipelined", "bandwidth")


GPU_COUNTS = (2, 4, 8)


STARTS = {"low_latency": (10e-6, 0.2), "pipelined": (25e-6, 0.5), "bandwidth": (60e-6, 0.8)}


def seconds(sizes: Sizes, constants: Constants, device: Device) -> Floats:
    """Seconds of an all-reduce of ``bytes`` over ``gpus``."""
    gpus, message = sizes["gpus"], sizes["bytes"]
    moved = 2.0 * (gpus - 1.0) / gpus * message
    best = np.full_like(message, np.inf)
    for regime in REGIMES:
        latency = by_count(gpus, constants, f"{regime}_s")
        fraction = by_count(gpus, constants, f"{regime}_fraction")
        best = np.minimum(best, latency + moved / (fraction * device.link_bytes_per_s))
    return best


def by_count(gpus: Floats, constants: Constants, name: str) -> Floats:
    """A constant by GPU count, linear in log(n) of its logarithm."""
    known = log_of(np.array([constants[f"{name}_{count}"] for count in GPU_COUNTS]))
    return exp_of(np.interp(log_of(gpus), log_of(np.array(GPU_COUNTS, dtype=np.float64)), known))


CONSTANTS = {
    f"{regime}_s_{count}": Constant(
        start=STARTS[regime][0], low=1e-6, high=1e-2, unit="s", meaning=f"latency over {count} GPUs"
    )
    for regime in REGIMES
    for count in GPU_COUNTS
} | {
    f"{regime}_fraction_{count}": Constant(
        start=STARTS[regime][1], low=1e-4, high=2.0, unit="of link", meaning=f"bandwidth over {count} GPUs"
    )
    for regime in REGIMES
    for count in GPU_COUNTS
}


ALL_REDUCE = KernelLaw(
    name="all_reduce_regimes", sizes=("gpus", "bytes"), constants=CONSTANTS, seconds=seconds
)


LAWS: Mapping[str, KernelLaw] = {
    law.name: law
    for law in (
        TILED_GEMM,
        TILED_GEMM_QUANTIZED,
        GROUPED_EXPERTS,
        GROUPED_EXPERTS_QUANTIZED,
        ATTENTION_PREFILL,
        ATTENTION_DECODE,
        ALL_REDUCE,
    )
}


# Operator → (law, the peak that its constants are fractions of). float16 runs at bfloat16's constants.
OPERATORS: Mapping[str, tuple[str, str]] = {
    "gemm_bfloat16": ("tiled_gemm", "bfloat16"),
    "gemm_float8": ("tiled_gemm_quantized", "float8"),
    "gemm_int8": ("tiled_gemm_quantized", "int8"),
    "gemm_int8_weights": ("tiled_gemm", "bfloat16"),
    "gemm_int4_weights": ("tiled_gemm", "bfloat16"),
    "experts_bfloat16": ("grouped_experts", "bfloat16"),
    "experts_float8": ("grouped_experts_quantized", "float8"),
    "attention_prefill": ("attention_prefill", "bfloat16"),
    "attention_decode": ("attention_decode", "bfloat16"),
    "attention_prefill_kv_float8": ("attention_prefill", "bfloat16"),
    "attention_decode_kv_float8": ("attention_decode", "bfloat16"),
    "all_reduce_nccl": ("all_reduce_regimes", ""),
    "all_reduce_custom": ("all_reduce_regimes", ""),
}
