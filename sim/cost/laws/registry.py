"""Every kernel law, and the operators that a profile can give constants for."""

from __future__ import annotations

from collections.abc import Mapping

from sim.cost.laws.all_reduce import ALL_REDUCE
from sim.cost.laws.attention import ATTENTION_DECODE, ATTENTION_PREFILL
from sim.cost.laws.device import KernelLaw
from sim.cost.laws.experts import GROUPED_EXPERTS, GROUPED_EXPERTS_QUANTIZED
from sim.cost.laws.gemm import TILED_GEMM, TILED_GEMM_QUANTIZED

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
