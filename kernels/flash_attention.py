"""O = softmax(scale · Q Kᵀ + mask) V in one pass over K and V: the scores never leave SRAM.

A program holds BLOCK_T queries and walks the keys in tiles of BLOCK_S with an online softmax: running
maximum m and sum l, the accumulator rescaled when m grows (FlashAttention-2, arXiv:2307.08691, algorithm 1;
online softmax: arXiv:1805.02867). Written besides: the log-sum-exp of every row, which the backward pass
recomputes the probabilities from. Causal masks are aligned at the end: with S keys and T queries, query t
sees keys 0 … S − T + t, so a chunk of a prompt attends to what came before it.

Shapes: B batch, H query heads, G key/value heads (GQA: H is a multiple of G), T queries, S keys, D head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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
    check_grid,
    check_head_dim,
    has_wide_sram,
    meta,
    randn,
)

LOG2_E = math.log2(math.e)


@triton.jit
def _attend(
    acc, row_sum, row_max, q, k_ptr, v_ptr, scale_log2, start, stop, last_key, kv_tokens,
    D: tl.constexpr, BLOCK_S: tl.constexpr, IS_MASKED: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys from ``start`` to ``stop``; row t sees keys up to ``last_key[t]``."""
    offs_d = tl.arange(0, D)
    for s in range(start, stop, BLOCK_S):
        offs_s = s + tl.arange(0, BLOCK_S)
        inside = offs_s < kv_tokens
        if IS_MASKED:
            k = tl.load(k_ptr + offs_s[None, :] * D + offs_d[:, None], mask=inside[None, :], other=0.0)
            v = tl.load(v_ptr + offs_s[:, None] * D + offs_d[None, :], mask=inside[:, None], other=0.0)
        else:
            k = tl.load(k_ptr + offs_s[None, :] * D + offs_d[:, None])
            v = tl.load(v_ptr + offs_s[:, None] * D + offs_d[None, :])
        scores = tl.dot(q, k, input_precision="ieee") * scale_log2
        if IS_MASKED:
            visible = inside[None, :] & (offs_s[None, :] <= last_key[:, None])
            scores = tl.where(visible, scores, -1.0e30)
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        p = tl.exp2(scores - new_max[:, None])
        rescale = tl.exp2(row_max - new_max)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
        row_max = new_max
    return acc, row_sum, row_max


@triton.jit
def _flash_attention(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, scale_log2, num_heads, group_size, q_tokens, kv_tokens,
    IS_CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head. The longest rows of a causal mask start first, to shorten the tail."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    kv_head = head // num_heads * (num_heads // group_size) + head % num_heads // group_size
    q_base, kv_base = head * q_tokens * D, kv_head * kv_tokens * D
    offs_t = tile * BLOCK_T + tl.arange(0, BLOCK_T)
    tile_ptrs = q_base + offs_t[:, None] * D + tl.arange(0, D)[None, :]
    inside = offs_t < q_tokens
    q = tl.load(q_ptr + tile_ptrs, mask=inside[:, None], other=0.0)
    acc = tl.zeros((BLOCK_T, D), dtype=tl.float32)
    row_sum = tl.zeros((BLOCK_T,), dtype=tl.float32)
    row_max = tl.full((BLOCK_T,), -1.0e30, dtype=tl.float32)
    shift = kv_tokens - q_tokens
    last_key = offs_t + shift if IS_CAUSAL else tl.full((BLOCK_T,), 2**30, dtype=tl.int32)
    stop = tl.minimum(kv_tokens, (tile + 1) * BLOCK_T + shift) if IS_CAUSAL else kv_tokens
    first_masked = tile * BLOCK_T + shift + 1 if IS_CAUSAL else kv_tokens
    whole = tl.minimum(first_masked, kv_tokens) // BLOCK_S * BLOCK_S
    acc, row_sum, row_max = _attend(
        acc, row_sum, row_max, q, k_ptr + kv_base, v_ptr + kv_base, scale_log2, 0, whole, last_key, kv_tokens,
        D, BLOCK_S, False,
    )  # fmt: skip
    acc, row_sum, row_max = _attend(
        acc, row_sum, row_max, q, k_ptr + kv_base, v_ptr + kv_base, scale_log2, whole, stop, last_key,
        kv_tokens, D, BLOCK_S, True,
    )  # fmt: skip
    o = (acc / row_sum[:, None]).to(o_ptr.dtype.element_ty)
    tl.store(o_ptr + tile_ptrs, o, mask=inside[:, None])
    lse = (row_max + tl.log2(row_sum)) / 1.4426950408889634
    tl.store(lse_ptr + head * q_tokens + offs_t, lse, mask=inside)


def tiles_for(capability: Capability, head_dim: int, element_size: int) -> Tiles:
    """Tiles that fit the SRAM and registers of the device: found by compiling, see tests/kernels."""
    if element_size == 4:
        return _tiles(32, 32, num_warps=4, num_stages=2)
    if head_dim > 128:
        return _tiles(64, 32, num_warps=8, num_stages=2)
    if not has_wide_sram(capability):
        return _tiles(128, 32 if head_dim > 64 else 64, num_warps=8, num_stages=3)
    return _tiles(128, 64 if head_dim > 64 else 128, num_warps=8, num_stages=3)


def _tiles(block_t: int, block_s: int, **launch: int) -> Tiles:
    return Tiles(constants={"BLOCK_T": block_t, "BLOCK_S": block_s}, **launch)


def launches(
    q_BHTD: Any, k_BGSD: Any, v_BGSD: Any, o_BHTD: Any, lse_BHT: Any, *, is_causal: bool, tiles: Tiles
) -> list[Launch]:
    """The one kernel of the forward pass."""
    B, H, T, D = q_BHTD.shape
    G, S = k_BGSD.shape[1:3]
    arguments = {
        "q_ptr": q_BHTD, "k_ptr": k_BGSD, "v_ptr": v_BGSD, "o_ptr": o_BHTD, "lse_ptr": lse_BHT,
        "scale_log2": LOG2_E / math.sqrt(D), "num_heads": H, "group_size": H // G,
        "q_tokens": T, "kv_tokens": S,
    }  # fmt: skip
    whole = tiles.with_constants(IS_CAUSAL=is_causal, D=D)
    grid = (cdiv(T, tiles.constants["BLOCK_T"]), B * H)
    return [Launch(kernel=_flash_attention, grid=grid, arguments=arguments, tiles=whole)]


def flash_attention(
    q_BHTD: Any, k_BGSD: Any, v_BGSD: Any, *, is_causal: bool = True, tiles: Tiles | None = None
) -> tuple[Any, Any]:
    """(O, log-sum-exp of the scaled scores in float32). Inputs must be contiguous."""
    check("flash_attention", q_BHTD, k_BGSD, v_BGSD, is_causal)
    o_BHTD = torch.empty_like(q_BHTD)
    lse_BHT = torch.empty(q_BHTD.shape[:3], dtype=torch.float32, device=q_BHTD.device)
    chosen = tiles or tiles_for(capability_of(q_BHTD), q_BHTD.shape[3], q_BHTD.element_size())
    for launch in launches(q_BHTD, k_BGSD, v_BGSD, o_BHTD, lse_BHT, is_causal=is_causal, tiles=chosen):
        launch.run()
    return o_BHTD, lse_BHT


def check(name: str, q_BHTD: Any, k_BGSD: Any, v_BGSD: Any, is_causal: bool) -> None:
    """Refuse sizes that the attention kernels cannot run."""
    B, H, T, D = q_BHTD.shape
    G, S = k_BGSD.shape[1:3]
    check_head_dim(name, D)
    if H % G:
        raise LaunchError(f"{name}: {H} query heads; must be a multiple of the {G} key/value heads")
    if k_BGSD.shape != (B, G, S, D) or v_BGSD.shape != k_BGSD.shape:
        raise LaunchError(
            f"{name}: K {tuple(k_BGSD.shape)}, V {tuple(v_BGSD.shape)}; both must be {(B, G, S, D)}"
        )
    if is_causal and S < T:
        raise LaunchError(f"{name}: {T} queries but {S} keys; causal attention needs at least as many keys")
    if min(B, H, T, S) < 1:
        raise LaunchError(f"{name}: an empty axis in {tuple(q_BHTD.shape)}; every size must be at least 1")
    if not (q_BHTD.is_contiguous() and k_BGSD.is_contiguous() and v_BGSD.is_contiguous()):
        raise LaunchError(f"{name}: Q, K and V must be contiguous")
    check_grid(name, heads=B * H)


def reference(q_BHTD: Any, k_BGSD: Any, v_BGSD: Any, *, is_causal: bool = True) -> tuple[Any, Any]:
    """Plain softmax attention and its log-sum-exp, in float64."""
    q, k, v = q_BHTD.double(), k_BGSD.double(), v_BGSD.double()
    group_size = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group_size, 1), v.repeat_interleave(group_size, 1)
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    if is_causal:
        T, S = scores.shape[2:]
        hidden = torch.ones((T, S), dtype=torch.bool, device=q.device).triu(S - T + 1)
        scores = scores.masked_fill(hidden, -math.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def pairs(T: int, S: int, is_causal: bool) -> float:
    """Query-key pairs of one head: of a causal mask, T (S − T) + T (T + 1) / 2."""
    return T * (S - T) + T * (T + 1) / 2 if is_causal else float(T * S)


def counts(
    B: int, H: int, G: int, T: int, S: int, D: int, *, is_causal: bool = True, element_bytes: float = 2
) -> Counts:
    """4 · head_dim FLOPs a pair; Q, K, V and O cross HBM once, and 4 bytes of log-sum-exp a row.

    K and V are read again by every tile of queries; within a head these reads meet in L2 and are not HBM's.
    """
    moved = element_bytes * B * D * (2 * H * T + 2 * G * S) + 4.0 * B * H * T
    return Counts(flops=4.0 * B * H * D * pairs(T, S, is_causal), hbm_bytes=moved)


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """Normal Q, K and V."""
    B, H, G, T, S, D = (size[axis] for axis in "BHGTSD")
    keys = {name: randn(dtype, device, B, G, S, D) for name in ("k_BGSD", "v_BGSD")}
    return {"q_BHTD": randn(dtype, device, B, H, T, D), **keys, "is_causal": bool(size["is_causal"])}


def builds(capability: Capability) -> Builds:
    """Head sizes 64, 128 and 256, causal and not."""
    found = {}
    for D in (64, 128, 256):
        q, k, lse = (
            meta("bfloat16", 1, 32, 4096, D),
            meta("bfloat16", 1, 8, 4096, D),
            meta("float32", 1, 32, 4096),
        )
        for is_causal in (True, False):
            tiles = tiles_for(capability, D, 2)
            label = f"bfloat16 D {D}{' causal' if is_causal else ''}"
            found[label] = launches(q, k, k, q, lse, is_causal=is_causal, tiles=tiles)
    return found


def attention_size(axes: str, is_causal: bool) -> dict[str, int]:
    """ "1 32 8 4096 4096 128" are B, H, G, T, S, D."""
    return {**dict(zip("BHGTSD", map(int, axes.split()), strict=True)), "is_causal": is_causal}


SMALL_SIZES = (
    attention_size("1 4 2 37 37 16", True),
    attention_size("2 2 1 20 45 32", True),
    attention_size("1 2 2 33 50 16", False),
)
SIZES = tuple(
    attention_size(f"{16384 // T} 32 8 {T} {T} {D}", True) for T in (1024, 4096, 16384) for D in (64, 128)
)
SMALL_TILES = (_tiles(16, 32, num_warps=4, num_stages=1), _tiles(32, 16, num_warps=4, num_stages=1))

KERNEL = KernelSpec(
    name="flash_attention",
    launch=flash_attention,
    reference=reference,
    counts=counts,
    inputs=inputs,
    builds=builds,
    sizes=SIZES,
    small_sizes=SMALL_SIZES,
    tile_choices=SMALL_TILES,
    check_size=attention_size("1 8 2 1000 1500 128", True),
    family="attention",
    cpu_libraries=("sdpa_math",),
)
