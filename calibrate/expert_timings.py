"""Measured experts (MoE) of one device, as the sizes of their law."""

from __future__ import annotations

import numpy as np
import pandas as pd

from calibrate.kernel_timings import (
    KernelTimings,
    column,
    number_groups,
    seconds,
    source_of,
    timings_of,
)
from sim.hardware.laws.gemm import experts_hit

# (width, experts per token) of Nemotron 3: squared ReLU, no gate.
UNGATED_EXPERTS = ((1856.0, 6.0), (2688.0, 22.0), (5120.0, 22.0))
# Operator: the table's dtype. fp8 in blocks of 128 (DeepSeek-V3, Qwen3): with one scale per tensor the
# tables' kernel for H100 and H200 (FlashInfer's CUTLASS) is 2 to 4 times slower than bfloat16: no law of fp8.
EXPERTS = {"experts_bfloat16": "bfloat16", "experts_float8": "fp8_block"}


def experts(operator: str, profile: str, table: pd.DataFrame, dtype: str) -> KernelTimings:
    """Fused experts on one GPU, tokens dealt out evenly if so measured; the kernel that most rows are of.

    Even dealing hits min(E, n k) experts. Where only a skewed router was measured (A100: power law 1.2), the
    experts hit are taken as equally likely, which is what a price assumes of every router.
    Left out: widths per GPU that are no multiple of 16 (no vector loads: up to three times slower).
    """
    rows = table[table["dtype"].astype(str) == dtype]
    is_even = rows["distribution"] == "balanced"
    rows = rows[is_even] if is_even.any() else rows
    rows = rows[(rows["moe_ep_size"] == 1) & (rows["inter_size"] // rows["moe_tp_size"] % 16 == 0)]
    kernels = rows["kernel_source"].astype(str)
    if len(rows):
        rows = rows[kernels == kernels.mode()[0]]
    tokens, per_token, count = column(rows, "num_tokens"), column(rows, "topk"), column(rows, "num_experts")
    width = 2.0 if dtype == "bfloat16" else 1.0
    sizes = {
        "tokens": tokens,
        "hidden": column(rows, "hidden_size"),
        "inner": column(rows, "inter_size") / column(rows, "moe_tp_size"),
        "experts_per_token": per_token,
        "hit": np.minimum(tokens * per_token, count)
        if is_even.any()
        else experts_hit(count, per_token, tokens),
    }
    shapes = zip(column(rows, "inter_size").tolist(), per_token.tolist(), strict=True)
    sizes["up_matrices"] = np.array([1.0 if shape in UNGATED_EXPERTS else 2.0 for shape in shapes])
    alike = {"value_bytes": width, "weight_bits": 8.0 * width, "copies": 1.0}
    sizes |= {name: np.full(len(rows), value) for name, value in alike.items()}
    group = number_groups(sizes["hidden"], column(rows, "inter_size"), per_token, count)
    return timings_of(operator, profile, sizes, seconds(rows), group=group, what=source_of(rows))
