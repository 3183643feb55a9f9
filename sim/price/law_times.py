"""Kernel laws applied to a model's operators: seconds of one launch, where the profile has constants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.hardware import HardwareProfile
from sim.hardware.laws.device import Device, Floats
from sim.hardware.laws.gemm import experts_hit
from sim.hardware.laws.registry import LAWS, OPERATORS
from sim.model.matrices import Matrix

Widths = tuple[float, float]  # bits of a weight, bytes of an activation as the kernel reads them
NEVER_HOT = 1e9  # weight copies in rotation: in a model the other layers pass through L2 in between
GEMM_OF_QUANTIZATION = {"fp8": "gemm_float8", "int8": "gemm_int8", "int4": "gemm_int4_weights"}
EXPERTS_OF_QUANTIZATION = {"fp8": "experts_float8"}
HALF_TYPES = ("bfloat16", "float16")
NEAR = 2.0  # a size within this factor of the fitted range needs no warning


def gemm_operator(quantization: str, is_quantized: bool, dtype: str) -> str:
    """The operator of a profile's ``kernels`` that a matrix runs as; empty where there is none."""
    if dtype not in HALF_TYPES:
        return ""
    return GEMM_OF_QUANTIZATION.get(quantization, "") if is_quantized else "gemm_bfloat16"


def experts_operator(quantization: str, is_quantized: bool, dtype: str) -> str:
    """The operator that a fused mixture of experts runs as; empty where no table was fitted."""
    if dtype not in HALF_TYPES:
        return ""
    return EXPERTS_OF_QUANTIZATION.get(quantization, "") if is_quantized else "experts_bfloat16"


def attention_operator(which: str, kv_bytes: float, dtype: str) -> str:
    """``attention_prefill`` or ``attention_decode``, by the type of the KV entries."""
    if dtype not in HALF_TYPES or kv_bytes not in (1, 2):
        return ""
    return which if kv_bytes == 2 else f"{which}_kv_float8"


def law_s(hardware: HardwareProfile, operator: str, sizes: Mapping[str, Floats | float]) -> Floats | None:
    """Seconds of one launch by the profile's law for ``operator``; None where it has none."""
    fit = hardware.kernels.get(operator)
    if fit is None:
        return None
    return LAWS[fit.law].seconds(as_arrays(sizes), fit.constants, law_device(hardware, operator))


def as_arrays(sizes: Mapping[str, Floats | float]) -> dict[str, Floats]:
    """Every size as an array of one shape."""
    arrays = np.broadcast_arrays(*[np.asarray(one, float) for one in sizes.values()])
    return dict(zip(sizes, arrays, strict=True))


def device_of(hardware: HardwareProfile, peak: str) -> Device:
    """The limits of ``hardware`` for operators in the type ``peak``."""
    link = hardware.intra_node
    return Device(
        sm_count=hardware.sm_count,
        flops_per_s=hardware.peak_flops_per_s[peak],
        hbm_bytes_per_s=hardware.hbm_bytes_per_s,
        l2_bytes=float(hardware.l2_bytes or 0),
        link_bytes_per_s=link.bytes_per_s if link else 0.0,
    )


def law_device(hardware: HardwareProfile, operator: str) -> Device:
    """The peaks that the operator's constants are fractions of."""
    peak = OPERATORS[operator][1] or "float16"
    if peak not in hardware.peak_flops_per_s:
        peak = "float16"
    return device_of(hardware, peak)


def gemm_s(
    hardware: HardwareProfile, operator: str, matrix: Matrix, rows: Floats, widths: Widths
) -> Floats | None:
    """(rows × k) · (k × n), weights from memory."""
    return law_s(hardware, operator, gemm_sizes(matrix, rows, widths))


def gemm_sizes(matrix: Matrix, rows: Floats, widths: Widths) -> dict[str, Floats | float]:
    """A matrix as the GEMM law sees it."""
    return {
        "m": np.maximum(rows, 1.0),
        "n": float(matrix.n),
        "k": float(matrix.k),
        "value_bytes": widths[1],
        "weight_bits": widths[0],
        "copies": NEVER_HOT,
    }


def experts_s(
    hardware: HardwareProfile, operator: str, matrices: tuple[Matrix, Matrix], tokens: Floats, widths: Widths
) -> Floats | None:
    """The fused experts of one layer; weights from memory."""
    return law_s(hardware, operator, experts_sizes(matrices, tokens, widths))


def experts_sizes(
    matrices: tuple[Matrix, Matrix], tokens: Floats, widths: Widths
) -> dict[str, Floats | float]:
    """Experts as their law sees them: ``matrices`` are gate and up in one, then down."""
    up, down = matrices
    tokens = np.maximum(tokens, 1.0)
    return {
        "tokens": tokens,
        "hidden": float(up.k),
        "inner": float(down.k),
        "up_matrices": up.n / down.k,
        "experts_per_token": float(up.experts_per_token),
        "hit": experts_hit(up.num_experts, up.experts_per_token, tokens),
        "value_bytes": widths[1],
        "weight_bits": widths[0],
        "copies": NEVER_HOT,
    }


def all_reduce_s(hardware: HardwareProfile, gpus: int, message: Floats) -> Floats | None:
    """The faster of NCCL and the engine's custom all-reduce, up to the messages that were measured."""
    sizes: dict[str, Floats | float] = {"gpus": float(gpus), "bytes": np.maximum(message, 1.0)}
    nccl = law_s(hardware, "all_reduce_nccl", sizes)
    custom = law_s(hardware, "all_reduce_custom", sizes)
    if nccl is None or custom is None:
        return nccl
    largest = hardware.kernels["all_reduce_custom"].sizes["bytes"][1]
    return np.where(message <= largest, np.minimum(nccl, custom), nccl)


def all_reduce_law(hardware: HardwareProfile, gpus: int, message: float) -> str:
    """Which of the two it is, by name; empty where the profile has neither."""
    if "all_reduce_nccl" not in hardware.kernels:
        return ""
    asked = np.array([max(message, 1.0)])
    faster = all_reduce_s(hardware, gpus, asked)
    nccl = law_s(hardware, "all_reduce_nccl", {"gpus": float(gpus), "bytes": asked})
    assert faster is not None and nccl is not None
    return "all_reduce_custom" if faster[0] < nccl[0] else "all_reduce_nccl"


def outside(hardware: HardwareProfile, operator: str, sizes: Mapping[str, float]) -> str:
    """Which size lies outside of what the operator was fitted to, in words; empty where none does."""
    fit = hardware.kernels.get(operator)
    if fit is None:
        return ""
    for name, size in sizes.items():
        low, high = fit.sizes.get(name, (0.0, np.inf))
        if not low / NEAR <= size <= high * NEAR:
            return f"{operator} with {name} {size:g} (fitted to {low:g} to {high:g})"
    return ""
