"""Attention as it was before FlashAttention: three kernels, with the scores in HBM between them.

    S = scale · Q Kᵀ → HBM,  P = softmax(S + mask) → HBM,  O = P V

S is written and read, P is written and read: four passes over T · S values a head, which is what makes it
slow (FlashAttention, arXiv:2205.14135, algorithm 0). As in PyTorch the causal mask hides scores that were
computed: no FLOPs are saved.

Shapes: B batch, H query heads, G key/value heads, T queries, S keys, D head_dim.
"""

from __future__ import annotations

import math
from typing import Any

from kernels import flash_attention
from kernels.language import tl, torch, triton
from kernels.launch import (
    Builds,
    Capability,
    Counts,
    KernelSpec,
    Launch,
    LaunchError,
    Tiles,
    capability_of,
    cdiv,
    meta,
    next_power_of_2,
)

MAX_KEYS = 32_768  # a row of float32 scores in the registers of 32 warps


@triton.jit
def _scores(
    q_ptr, k_ptr, s_ptr, scale, group_size, q_tokens, kv_tokens,
    D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """S = scale · Q Kᵀ, one tile of one head."""
    head = tl.program_id(2).to(tl.int64)
    offs_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    offs_s = tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S)
    offs_d = tl.arange(0, D)
    q_ptrs = head * q_tokens * D + offs_t[:, None] * D + offs_d[None, :]
    k_ptrs = head // group_size * kv_tokens * D + offs_s[None, :] * D + offs_d[:, None]
    q = tl.load(q_ptr + q_ptrs, mask=offs_t[:, None] < q_tokens, other=0.0)
    k = tl.load(k_ptr + k_ptrs, mask=offs_s[None, :] < kv_tokens, other=0.0)
    scores = tl.dot(q, k, input_precision="ieee") * scale
    s_ptrs = head * q_tokens * kv_tokens + offs_t[:, None].to(tl.int64) * kv_tokens + offs_s[None, :]
    inside = (offs_t[:, None] < q_tokens) & (offs_s[None, :] < kv_tokens)
    tl.store(s_ptr + s_ptrs, scores.to(s_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _softmax(s_ptr, p_ptr, q_tokens, kv_tokens, IS_CAUSAL: tl.constexpr, BLOCK_S: tl.constexpr):
    """P = softmax of one row of S; with a causal mask, of the keys that the row sees."""
    row = tl.program_id(0).to(tl.int64)
    offs = tl.arange(0, BLOCK_S)
    last_key = row % q_tokens + kv_tokens - q_tokens if IS_CAUSAL else kv_tokens - 1
    inside = offs < kv_tokens
    scores = tl.load(s_ptr + row * kv_tokens + offs, mask=inside, other=-float("inf")).to(tl.float32)
    scores = tl.where(offs <= last_key, scores, -float("inf"))
    p = tl.exp(scores - tl.max(scores, 0))
    p = p / tl.sum(p, 0)
    tl.store(p_ptr + row * kv_tokens + offs, p.to(p_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _output(
    p_ptr, v_ptr, o_ptr, group_size, q_tokens, kv_tokens,
    D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """O = P V, one tile of queries of one head."""
    head = tl.program_id(1).to(tl.int64)
    offs_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    offs_d = tl.arange(0, D)
    p_base = p_ptr + head * q_tokens * kv_tokens + offs_t[:, None].to(tl.int64) * kv_tokens
    v_base = v_ptr + head // group_size * kv_tokens * D + offs_d[None, :]
    acc = tl.zeros((BLOCK_T, D), dtype=tl.float32)
    for s in range(0, kv_tokens, BLOCK_S):
        offs_s = s + tl.arange(0, BLOCK_S)
        inside = (offs_t[:, None] < q_tokens) & (offs_s[None, :] < kv_tokens)
        p = tl.load(p_base + offs_s[None, :], mask=inside, other=0.0)
        v = tl.load(v_base + offs_s[:, None] * D, mask=offs_s[:, None] < kv_tokens, other=0.0)
        acc = tl.dot(p, v, acc, input_precision="ieee")
    o_ptrs = head * q_tokens * D + offs_t[:, None] * D + offs_d[None, :]
    tl.store(o_ptr + o_ptrs, acc.to(o_ptr.dtype.element_ty), mask=offs_t[:, None] < q_tokens)


def tiles_for(capability: Capability, head_dim: int, element_size: int) -> Tiles:
    """One tiling for both products."""
    side = 32 if element_size == 4 or head_dim > 128 else 64
    return Tiles(constants={"BLOCK_T": side, "BLOCK_S": side}, num_warps=4, num_stages=2)


def launches(tensors: dict[str, Any], *, is_causal: bool, tiles: Tiles) -> list[Launch]:
    """Scores, softmax, output; ``tensors`` by the names of the kernels' pointers (q, k, v, s, p, o)."""
    B, H, T, D = tensors["q"].shape
    G, S = tensors["k"].shape[1:3]
    sizes = {"group_size": H // G, "q_tokens": T, "kv_tokens": S}
    block_t, block_s = tiles.constants["BLOCK_T"], tiles.constants["BLOCK_S"]
    product = tiles.with_constants(D=D)
    row = next_power_of_2(S)
    softmax = Tiles(
        constants={"IS_CAUSAL": is_causal, "BLOCK_S": row},
        num_warps=min(32, max(1, row // 512)),
        num_stages=1,
    )

    def launch(
        kernel: Any, grid: tuple[int, ...], names: str, numbers: dict[str, Any], chosen: Tiles
    ) -> Launch:
        arguments = {f"{name}_ptr": tensors[name] for name in names} | numbers
        return Launch(kernel=kernel, grid=grid, arguments=arguments, tiles=chosen)

    scale = {"scale": 1 / math.sqrt(D)}
    tokens = {"q_tokens": T, "kv_tokens": S}
    return [
        launch(_scores, (cdiv(T, block_t), cdiv(S, block_s), B * H), "qks", scale | sizes, product),
        launch(_softmax, (B * H * T,), "sp", tokens, softmax),
        launch(_output, (cdiv(T, block_t), B * H), "pvo", sizes, product),
    ]


def standard_attention(
    q_BHTD: Any, k_BGSD: Any, v_BGSD: Any, *, is_causal: bool = True, tiles: Tiles | None = None
) -> Any:
    """O, with S and P allocated in HBM in the type of Q."""
    flash_attention.check("standard_attention", q_BHTD, k_BGSD, v_BGSD, is_causal)
    B, H, T, D = q_BHTD.shape
    S = k_BGSD.shape[2]
    if S > MAX_KEYS:
        raise LaunchError(f"standard_attention: {S:,} keys; a row of scores in registers holds {MAX_KEYS:,}")
    s_BHTS = torch.empty((B, H, T, S), dtype=q_BHTD.dtype, device=q_BHTD.device)
    tensors = {"q": q_BHTD, "k": k_BGSD, "v": v_BGSD, "s": s_BHTS, "p": torch.empty_like(s_BHTS)}
    tensors["o"] = torch.empty_like(q_BHTD)
    chosen = tiles or tiles_for(capability_of(q_BHTD), D, q_BHTD.element_size())
    for launch in launches(tensors, is_causal=is_causal, tiles=chosen):
        launch.run()
    return tensors["o"]


def reference(q_BHTD: Any, k_BGSD: Any, v_BGSD: Any, *, is_causal: bool = True) -> Any:
    """Plain softmax attention, in float64."""
    return flash_attention.reference(q_BHTD, k_BGSD, v_BGSD, is_causal=is_causal)[0]


def counts(
    B: int, H: int, G: int, T: int, S: int, D: int, *, is_causal: bool = True, element_bytes: float = 2
) -> Counts:
    """4 · head_dim FLOPs for every pair, masked or not; Q, K, V, O once and the scores four times."""
    ends = element_bytes * B * D * (2 * H * T + 2 * G * S)
    scores = 4.0 * element_bytes * B * H * T * S
    return Counts(flops=4.0 * B * H * D * T * S, hbm_bytes=ends + scores)


def builds(capability: Capability) -> Builds:
    """Head sizes 64, 128 and 256, causal; 128 also not causal."""
    found = {}
    for D in (64, 128, 256):
        q, k = meta("bfloat16", 1, 32, 4096, D), meta("bfloat16", 1, 8, 4096, D)
        scores = meta("bfloat16", 1, 32, 4096, 4096)
        tensors = {"q": q, "k": k, "v": k, "s": scores, "p": scores, "o": q}
        tiles = tiles_for(capability, D, 2)
        found[f"bfloat16 D {D} causal"] = launches(tensors, is_causal=True, tiles=tiles)
        if D == 128:
            found[f"bfloat16 D {D}"] = launches(tensors, is_causal=False, tiles=tiles)
    return found


KERNEL = KernelSpec(
    name="standard_attention",
    launch=standard_attention,
    reference=reference,
    counts=counts,
    inputs=flash_attention.inputs,
    builds=builds,
    sizes=flash_attention.SIZES[:4],
    small_sizes=flash_attention.SMALL_SIZES,
    tile_choices=flash_attention.SMALL_TILES,
    check_size=flash_attention.attention_size("1 8 2 1000 1000 128", True),
    family="attention",
)
