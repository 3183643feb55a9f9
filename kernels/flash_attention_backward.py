"""dQ, dK and dV of flash attention, with the probabilities recomputed from the log-sum-exp.

    P = exp(scale · Q Kᵀ − L),  δ = rowsum(dO ∘ O),  dS = P ∘ (dO Vᵀ − δ)
    dV = Pᵀ dO,  dK = scale · dSᵀ Q,  dQ = scale · dS K

(FlashAttention-2, arXiv:2307.08691, algorithm 2.) Two kernels in place of one with atomic additions: one
holds a tile of keys and walks the queries of all heads of its group, one holds a tile of queries and walks
the keys. That recomputes Q Kᵀ and dO Vᵀ twice (7 products in place of 5) and gives the same bits every time.

Shapes: B batch, H query heads, G key/value heads, T queries, S keys, D head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kernels import flash_attention
from kernels.language import tl, torch, triton
from kernels.launch import (
    Builds,
    Capability,
    Counts,
    KernelSpec,
    Launch,
    Tiles,
    capability_of,
    cdiv,
    has_wide_sram,
    meta,
    randn,
)

ROWS_PER_PROGRAM = 32


@triton.jit
def _row_delta(o_ptr, do_ptr, delta_ptr, num_rows, D: tl.constexpr, ROWS: tl.constexpr):
    """δ = rowsum(dO ∘ O)."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ptrs = rows[:, None] * D + tl.arange(0, D)[None, :]
    inside = rows < num_rows
    o = tl.load(o_ptr + ptrs, mask=inside[:, None], other=0.0).to(tl.float32)
    do = tl.load(do_ptr + ptrs, mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(delta_ptr + rows, tl.sum(o * do, 1), mask=inside)


@triton.jit
def _probabilities(qk, lse, scale_log2, visible):
    """P = exp(scale · Q Kᵀ − L), 0 where the mask hides the key."""
    p = tl.exp2(qk * scale_log2 - lse * 1.4426950408889634)
    return tl.where(visible, p, 0.0)


@triton.jit
def _keys_gradient(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, scale, scale_log2, group_size,
    q_tokens, kv_tokens,
    IS_CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """dK and dV of one tile of keys: everything transposed, [keys, queries], so that rows stay keys."""
    tile, kv_head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    offs_s = tile * BLOCK_S + tl.arange(0, BLOCK_S)
    offs_d = tl.arange(0, D)
    tile_ptrs = kv_head * kv_tokens * D + offs_s[:, None] * D + offs_d[None, :]
    inside_s = offs_s < kv_tokens
    k = tl.load(k_ptr + tile_ptrs, mask=inside_s[:, None], other=0.0)
    v = tl.load(v_ptr + tile_ptrs, mask=inside_s[:, None], other=0.0)
    dk = tl.zeros((BLOCK_S, D), dtype=tl.float32)
    dv = tl.zeros((BLOCK_S, D), dtype=tl.float32)
    shift = kv_tokens - q_tokens
    start = tl.maximum(tile * BLOCK_S - shift, 0) // BLOCK_T * BLOCK_T if IS_CAUSAL else 0
    for member in range(group_size):
        head = kv_head * group_size + member
        for t in range(start, q_tokens, BLOCK_T):
            offs_t = t + tl.arange(0, BLOCK_T)
            inside_t = offs_t < q_tokens
            q_ptrs = head * q_tokens * D + offs_t[:, None] * D + offs_d[None, :]
            q = tl.load(q_ptr + q_ptrs, mask=inside_t[:, None], other=0.0)
            lse = tl.load(lse_ptr + head * q_tokens + offs_t, mask=inside_t, other=0.0)
            visible = inside_t[None, :] & inside_s[:, None]
            if IS_CAUSAL:
                visible = visible & (offs_s[:, None] <= offs_t[None, :] + shift)
            qk = tl.dot(k, tl.trans(q), input_precision="ieee")
            p = _probabilities(qk, lse[None, :], scale_log2, visible)
            do = tl.load(do_ptr + q_ptrs, mask=inside_t[:, None], other=0.0)
            dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
            delta = tl.load(delta_ptr + head * q_tokens + offs_t, mask=inside_t, other=0.0)
            dp = tl.dot(v, tl.trans(do), input_precision="ieee")
            ds = p * (dp - delta[None, :])
            dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    tl.store(dk_ptr + tile_ptrs, (dk * scale).to(dk_ptr.dtype.element_ty), mask=inside_s[:, None])
    tl.store(dv_ptr + tile_ptrs, dv.to(dv_ptr.dtype.element_ty), mask=inside_s[:, None])


@triton.jit
def _queries_gradient(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, scale, scale_log2, group_size, q_tokens,
    kv_tokens,
    IS_CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """dQ of one tile of queries."""
    tile, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1).to(tl.int64)
    offs_t = tile * BLOCK_T + tl.arange(0, BLOCK_T)
    offs_d = tl.arange(0, D)
    tile_ptrs = head * q_tokens * D + offs_t[:, None] * D + offs_d[None, :]
    inside_t = offs_t < q_tokens
    q = tl.load(q_ptr + tile_ptrs, mask=inside_t[:, None], other=0.0)
    do = tl.load(do_ptr + tile_ptrs, mask=inside_t[:, None], other=0.0)
    lse = tl.load(lse_ptr + head * q_tokens + offs_t, mask=inside_t, other=0.0)
    delta = tl.load(delta_ptr + head * q_tokens + offs_t, mask=inside_t, other=0.0)
    dq = tl.zeros((BLOCK_T, D), dtype=tl.float32)
    shift = kv_tokens - q_tokens
    stop = tl.minimum(kv_tokens, (tile + 1) * BLOCK_T + shift) if IS_CAUSAL else kv_tokens
    kv_base = head // group_size * kv_tokens * D
    for s in range(0, stop, BLOCK_S):
        offs_s = s + tl.arange(0, BLOCK_S)
        inside_s = offs_s < kv_tokens
        kv_ptrs = kv_base + offs_s[:, None] * D + offs_d[None, :]
        k = tl.load(k_ptr + kv_ptrs, mask=inside_s[:, None], other=0.0)
        v = tl.load(v_ptr + kv_ptrs, mask=inside_s[:, None], other=0.0)
        visible = inside_t[:, None] & inside_s[None, :]
        if IS_CAUSAL:
            visible = visible & (offs_s[None, :] <= offs_t[:, None] + shift)
        qk = tl.dot(q, tl.trans(k), input_precision="ieee")
        p = _probabilities(qk, lse[:, None], scale_log2, visible)
        ds = p * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    tl.store(dq_ptr + tile_ptrs, (dq * scale).to(dq_ptr.dtype.element_ty), mask=inside_t[:, None])


def tiles_for(capability: Capability, head_dim: int, element_size: int) -> dict[str, Tiles]:
    """Tiles of the two kernels: the one that holds its side in registers walks the other in smaller steps."""
    if element_size == 4 or head_dim > 128:
        return {"keys": _tiles(16, 32, 4, 1), "queries": _tiles(32, 16, 4, 1)}
    if not has_wide_sram(capability):
        return {"keys": _tiles(32, 64, 8, 2), "queries": _tiles(64, 32, 4, 2)}
    if capability >= (10, 0):
        return {"keys": _tiles(64, 64, 8, 2), "queries": _tiles(64, 64, 8, 2)}
    return {"keys": _tiles(64, 64 if head_dim > 64 else 128, 8, 2), "queries": _tiles(128, 64, 8, 2)}


def _tiles(block_t: int, block_s: int, num_warps: int, num_stages: int) -> Tiles:
    constants = {"BLOCK_T": block_t, "BLOCK_S": block_s}
    return Tiles(constants=constants, num_warps=num_warps, num_stages=num_stages)


def launches(tensors: dict[str, Any], *, is_causal: bool, tiles: dict[str, Tiles]) -> list[Launch]:
    """δ, then the keys' side, then the queries' side; ``tensors`` by the names of the kernels' pointers."""
    B, H, T, D = tensors["q"].shape
    G, S = tensors["k"].shape[1:3]
    pointers = {f"{name}_ptr": tensor for name, tensor in tensors.items()}
    sizes = {
        "scale": 1 / math.sqrt(D), "scale_log2": flash_attention.LOG2_E / math.sqrt(D),
        "group_size": H // G, "q_tokens": T, "kv_tokens": S,
    }  # fmt: skip

    def side(kernel: Any, name: str, grid: tuple[int, int], outputs: set[str]) -> Launch:
        read = {f"{one}_ptr" for one in ("q", "k", "v", "do", "lse", "delta")} | outputs
        arguments = {**{one: tensor for one, tensor in pointers.items() if one in read}, **sizes}
        whole = tiles[name].with_constants(IS_CAUSAL=is_causal, D=D)
        return Launch(kernel=kernel, grid=grid, arguments=arguments, tiles=whole)

    rows = {name: pointers[name] for name in ("o_ptr", "do_ptr", "delta_ptr")} | {"num_rows": B * H * T}
    delta = Tiles(constants={"D": D, "ROWS": ROWS_PER_PROGRAM})
    keys_grid = (cdiv(S, tiles["keys"].constants["BLOCK_S"]), B * G)
    queries_grid = (cdiv(T, tiles["queries"].constants["BLOCK_T"]), B * H)
    return [
        Launch(kernel=_row_delta, grid=(cdiv(B * H * T, ROWS_PER_PROGRAM),), arguments=rows, tiles=delta),
        side(_keys_gradient, "keys", keys_grid, {"dk_ptr", "dv_ptr"}),
        side(_queries_gradient, "queries", queries_grid, {"dq_ptr"}),
    ]


def flash_attention_backward(
    forward: tuple[Any, Any, Any, Any, Any],
    do_BHTD: Any,
    *,
    is_causal: bool = True,
    tiles: dict[str, Tiles] | None = None,
) -> tuple[Any, Any, Any]:
    """(dQ, dK, dV) for ``forward`` = (Q, K, V, O, log-sum-exp) and dO, all contiguous."""
    q, k, v, o, lse = forward
    flash_attention.check("flash_attention_backward", q, k, v, is_causal)
    tensors = {"q": q, "k": k, "v": v, "o": o, "lse": lse, "do": do_BHTD, "delta": torch.empty_like(lse)}
    gradients = {"dq": torch.empty_like(q), "dk": torch.empty_like(k), "dv": torch.empty_like(v)}
    chosen = tiles or tiles_for(capability_of(q), q.shape[3], q.element_size())
    for launch in launches(tensors | gradients, is_causal=is_causal, tiles=chosen):
        launch.run()
    return gradients["dq"], gradients["dk"], gradients["dv"]


def reference(
    forward: tuple[Any, Any, Any, Any, Any], do_BHTD: Any, *, is_causal: bool = True
) -> tuple[Any, Any, Any]:
    """Gradients of plain attention by autograd, in float64; O and log-sum-exp are not looked at."""
    leaves = [tensor.double().detach().requires_grad_() for tensor in forward[:3]]
    o, _ = flash_attention.reference(*leaves, is_causal=is_causal)
    dq, dk, dv = torch.autograd.grad(o, leaves, do_BHTD.double())
    return dq, dk, dv


def counts(
    B: int, H: int, G: int, T: int, S: int, D: int, *, is_causal: bool = True, element_bytes: float = 2
) -> Counts:
    """2.5 times the forward FLOPs (5 products for 2, as FlashAttention counts them; 7 are done here).

    Moved: Q, K, V, O and dO read, dQ, dK and dV written; log-sum-exp read, δ written and read (float32).
    """
    forward = flash_attention.counts(B, H, G, T, S, D, is_causal=is_causal, element_bytes=element_bytes)
    moved = element_bytes * B * D * (4 * H * T + 4 * G * S) + 4.0 * 3 * B * H * T
    return Counts(flops=2.5 * forward.flops, hbm_bytes=moved)


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """Normal Q, K, V and dO; O and its log-sum-exp from the reference."""
    attention = flash_attention.inputs(size, dtype, device)
    q, k, v = attention["q_BHTD"], attention["k_BGSD"], attention["v_BGSD"]
    o, lse = flash_attention.reference(q, k, v, is_causal=attention["is_causal"])
    forward = (q, k, v, o.to(q.dtype), lse.float())
    return {
        "forward": forward,
        "do_BHTD": randn(dtype, device, *q.shape),
        "is_causal": attention["is_causal"],
    }


def builds(capability: Capability) -> Builds:
    """Head sizes 64, 128 and 256, causal; 128 also not causal."""
    found = {}
    for D in (64, 128, 256):
        q, k, lse = (
            meta("bfloat16", 1, 32, 4096, D),
            meta("bfloat16", 1, 8, 4096, D),
            meta("float32", 1, 32, 4096),
        )
        tensors = {
            "q": q,
            "k": k,
            "v": k,
            "o": q,
            "do": q,
            "lse": lse,
            "delta": lse,
            "dq": q,
            "dk": k,
            "dv": k,
        }
        tiles = tiles_for(capability, D, 2)
        found[f"bfloat16 D {D} causal"] = launches(tensors, is_causal=True, tiles=tiles)
        if D == 128:
            found[f"bfloat16 D {D}"] = launches(tensors, is_causal=False, tiles=tiles)
    return found


KERNEL = KernelSpec(
    name="flash_attention_backward",
    launch=flash_attention_backward,
    reference=reference,
    counts=counts,
    inputs=inputs,
    builds=builds,
    sizes=flash_attention.SIZES,
    small_sizes=flash_attention.SMALL_SIZES,
    tile_choices=tuple({"keys": tiles, "queries": tiles} for tiles in flash_attention.SMALL_TILES),
    check_size={"B": 1, "H": 8, "G": 2, "T": 1000, "S": 1000, "D": 64, "is_causal": True},
    family="attention",
    cpu_libraries=("sdpa_math",),
)
