"""One query a sequence against keys and values in blocks of HBM that a block table finds.

A program takes one sequence, one key/value head and one split of the context. The query heads of the group
are the rows of its tile (padded to the 16 of a tensor core instruction), so each key is read once for all of
them. With more than one split (Flash-Decoding, arXiv:2311.01282 section 2.2), ``_combine`` weighs the partial
outputs by their log-sum-exp. Paged layout as in vLLM (arXiv:2309.06180): cache [blocks, block_size, G, D].

Shapes: B sequences, H query heads, G key/value heads, D head_dim, N blocks of the pool, K block_size tokens,
P blocks of the longest sequence, S splits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kernels.flash_attention import LOG2_E
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
    next_power_of_2,
    randn,
    sm_count_of,
)

MIN_ROWS = 16  # of a tensor core product
MAX_SPLITS = 32
MIN_TOKENS_PER_SPLIT = 256


@triton.jit
def _paged_decode(
    q_ptr, k_ptr, v_ptr, table_ptr, context_ptr, o_ptr, lse_ptr, scale_log2, num_kv_heads, group_size,
    block_size, table_stride, num_splits,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Partial output and log-sum-exp of one split, for the heads of one group."""
    sequence, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    context = tl.load(context_ptr + sequence)
    per_split = tl.cdiv(tl.cdiv(context, BLOCK_S), num_splits) * BLOCK_S
    offs_d, offs_h = tl.arange(0, D), tl.arange(0, ROWS)
    heads = (sequence * num_kv_heads + kv_head) * group_size + offs_h
    real = offs_h < group_size
    q = tl.load(q_ptr + heads[:, None] * D + offs_d[None, :], mask=real[:, None], other=0.0)
    acc = tl.zeros((ROWS, D), dtype=tl.float32)
    row_sum = tl.zeros((ROWS,), dtype=tl.float32)
    row_max = tl.full((ROWS,), -1.0e30, dtype=tl.float32)
    for s in range(split * per_split, tl.minimum(context, (split + 1) * per_split), BLOCK_S):
        offs_s = s + tl.arange(0, BLOCK_S)
        inside = offs_s < context
        block = tl.load(table_ptr + sequence * table_stride + offs_s // block_size, mask=inside, other=0)
        slot = block.to(tl.int64) * block_size + offs_s % block_size
        base = (slot * num_kv_heads + kv_head) * D
        k = tl.load(k_ptr + base[None, :] + offs_d[:, None], mask=inside[None, :], other=0.0)
        v = tl.load(v_ptr + base[:, None] + offs_d[None, :], mask=inside[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale_log2
        scores = tl.where(inside[None, :], scores, -1.0e30)
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        p = tl.exp2(scores - new_max[:, None])
        rescale = tl.exp2(row_max - new_max)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
        row_max = new_max
    slots = heads * num_splits + split
    safe_sum = tl.where(row_sum > 0, row_sum, 1.0)  # a split past the end of a short sequence is empty
    o = (acc / safe_sum[:, None]).to(o_ptr.dtype.element_ty)
    tl.store(o_ptr + slots[:, None] * D + offs_d[None, :], o, mask=real[:, None])
    tl.store(lse_ptr + slots, row_max + tl.log2(safe_sum), mask=real)


@triton.jit
def _combine(parts_ptr, lse_ptr, o_ptr, num_splits, D: tl.constexpr, SPLITS: tl.constexpr):
    """O = Σ 2^(lse_s − max) O_s / Σ 2^(lse_s − max), one head."""
    head = tl.program_id(0).to(tl.int64)
    offs_s, offs_d = tl.arange(0, SPLITS), tl.arange(0, D)
    inside = offs_s < num_splits
    lse = tl.load(lse_ptr + head * num_splits + offs_s, mask=inside, other=-float("inf"))
    weight = tl.exp2(lse - tl.max(lse, 0))
    ptrs = (head * num_splits + offs_s[:, None]) * D + offs_d[None, :]
    parts = tl.load(parts_ptr + ptrs, mask=inside[:, None], other=0.0)
    o = tl.sum(parts * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(o_ptr + head * D + offs_d, o.to(o_ptr.dtype.element_ty))


def tiles_for(capability: Capability, head_dim: int, element_size: int) -> Tiles:
    """Keys of a step of the loop; deeper pipelines where SRAM allows."""
    if head_dim > 128 or element_size == 4:
        return Tiles(constants={"BLOCK_S": 32}, num_warps=4, num_stages=2)
    return Tiles(constants={"BLOCK_S": 64}, num_warps=4, num_stages=2 if not has_wide_sram(capability) else 3)


def split_count(B: int, G: int, max_context: int, sm_count: int) -> int:
    """Splits that give every SM two programs, each with at least 256 keys."""
    wanted = cdiv(2 * sm_count, B * G)
    return max(1, min(wanted, MAX_SPLITS, max_context // MIN_TOKENS_PER_SPLIT))


def launches(tensors: dict[str, Any], *, num_splits: int, tiles: Tiles) -> list[Launch]:
    """Attention by splits, and their combination; ``tensors``: q, k, v, table, context, o, parts, lse."""
    B, H, D = tensors["q"].shape
    block_size, G = tensors["k"].shape[1:3]
    pointers = {f"{name}_ptr": tensors[name] for name in ("q", "k", "v", "table", "context", "lse")}
    arguments = {
        **pointers, "o_ptr": tensors["o" if num_splits == 1 else "parts"],
        "scale_log2": LOG2_E / math.sqrt(D), "num_kv_heads": G, "group_size": H // G,
        "block_size": block_size, "table_stride": tensors["table"].stride(0), "num_splits": num_splits,
    }  # fmt: skip
    whole = tiles.with_constants(D=D, ROWS=max(MIN_ROWS, next_power_of_2(H // G)))
    attend = Launch(kernel=_paged_decode, grid=(B, G, num_splits), arguments=arguments, tiles=whole)
    if num_splits == 1:
        return [attend]
    combined = {"parts_ptr": tensors["parts"], "lse_ptr": tensors["lse"], "o_ptr": tensors["o"]}
    combine = Launch(
        kernel=_combine,
        grid=(B * H,),
        arguments=combined | {"num_splits": num_splits},
        tiles=Tiles(constants={"D": D, "SPLITS": next_power_of_2(num_splits)}, num_warps=2),
    )
    return [attend, combine]


def paged_decode_attention(
    q_BHD: Any, cache: tuple[Any, Any], table_BP: Any, context_B: Any, *, max_context: int,
    num_splits: int | None = None, tiles: Tiles | None = None,
) -> Any:  # fmt: skip
    """O [B, H, D]; ``cache`` is (K, V), each [N, K, G, D]; ``table_BP`` and ``context_B`` are int32."""
    k_NKGD, v_NKGD = cache
    check(q_BHD, k_NKGD, table_BP, max_context)
    B, H, D = q_BHD.shape
    splits = num_splits or split_count(B, k_NKGD.shape[2], max_context, sm_count_of(q_BHD))
    lse = torch.empty((B, H, splits), dtype=torch.float32, device=q_BHD.device)
    parts = None if splits == 1 else torch.empty((B, H, splits, D), dtype=torch.float32, device=q_BHD.device)
    tensors = {
        "q": q_BHD, "k": k_NKGD, "v": v_NKGD, "table": table_BP, "context": context_B,
        "o": torch.empty_like(q_BHD), "lse": lse, "parts": parts,
    }  # fmt: skip
    chosen = tiles or tiles_for(capability_of(q_BHD), D, q_BHD.element_size())
    for launch in launches(tensors, num_splits=splits, tiles=chosen):
        launch.run()
    return tensors["o"]


def check(q_BHD: Any, k_NKGD: Any, table_BP: Any, max_context: int) -> None:
    """Refuse sizes that the kernel cannot run."""
    H, D = q_BHD.shape[1:]
    block_size, G = k_NKGD.shape[1:3]
    check_head_dim("paged_decode_attention", D)
    if H % G:
        raise LaunchError(f"paged_decode_attention: {H} query heads; must be a multiple of {G}")
    if not 1 <= max_context <= table_BP.shape[1] * block_size:
        held = table_BP.shape[1] * block_size
        raise LaunchError(
            f"paged_decode_attention: a context of {max_context:,} tokens; {table_BP.shape[1]} blocks of "
            f"{block_size} hold 1 to {held:,}"
        )
    if not (q_BHD.is_contiguous() and k_NKGD.is_contiguous() and table_BP.stride(1) == 1):
        raise LaunchError(
            "paged_decode_attention: queries, cache and the rows of the table must be contiguous"
        )
    check_grid("paged_decode_attention", kv_heads=G)


def reference(q_BHD: Any, cache: tuple[Any, Any], table_BP: Any, context_B: Any, *, max_context: int) -> Any:
    """Gathers each sequence's keys and values and attends, in float64."""
    rows = []
    group_size = q_BHD.shape[1] // cache[0].shape[2]
    table = table_BP[:, : cdiv(max_context, cache[0].shape[1])].long()
    for q_HD, blocks, context in zip(q_BHD.double(), table, context_B.tolist(), strict=True):
        k, v = (one[blocks].flatten(0, 1)[:context].double() for one in cache)
        k, v = k.repeat_interleave(group_size, 1), v.repeat_interleave(group_size, 1)
        scores = torch.einsum("hd,shd->hs", q_HD, k) / math.sqrt(q_HD.shape[1])
        rows.append(torch.einsum("hs,shd->hd", scores.softmax(-1), v))
    return torch.stack(rows)


def counts(
    B: int, H: int, G: int, D: int, context: int, *, block_size: int = 16, element_bytes: float = 2
) -> Counts:
    """4 · heads · head_dim FLOPs per token of ``context`` (mean of the sequences); K and V are read once."""
    tokens = float(B * context)
    moved = element_bytes * (2.0 * G * D * tokens + 2.0 * B * H * D)
    return Counts(flops=4.0 * H * D * tokens, hbm_bytes=moved)


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """A pool whose blocks are handed out in random order; contexts spread evenly by ± a quarter."""
    B, H, G, D, context, block_size = (size[axis] for axis in ("B", "H", "G", "D", "context", "block_size"))
    contexts = spread_contexts(B, context)
    longest = max(contexts)
    blocks = cdiv(longest, block_size)
    table = torch.randperm(B * blocks, device=device).reshape(B, blocks).to(torch.int32)
    cache = tuple(randn(dtype, device, B * blocks, block_size, G, D) for _ in range(2))
    return {
        "q_BHD": randn(dtype, device, B, H, D), "cache": cache, "table_BP": table,
        "context_B": torch.tensor(contexts, dtype=torch.int32, device=device), "max_context": longest,
    }  # fmt: skip


def spread_contexts(B: int, context: int) -> list[int]:
    """Contexts from 3/4 to 5/4 of ``context`` in even steps; their mean is ``context`` (rounded)."""
    middle = (B - 1) / 2
    return [max(1, round(context * (1 + (i - middle) / (4 * max(middle, 1))))) for i in range(B)]


def builds(capability: Capability) -> Builds:
    """Head sizes 64, 128 and 256, one split and eight."""
    found = {}
    for D in (64, 128, 256):
        cache = meta("bfloat16", 4096, 16, 8, D)
        tensors = {
            "q": meta("bfloat16", 64, 32, D), "k": cache, "v": cache, "o": meta("bfloat16", 64, 32, D),
            "table": meta("int32", 64, 256), "context": meta("int32", 64),
        }  # fmt: skip
        for splits in (1, 8):
            tensors["lse"] = meta("float32", 64, 32, splits)
            tensors["parts"] = meta("float32", 64, 32, splits, D)
            tiles = tiles_for(capability, D, 2)
            found[f"bfloat16 D {D}, {splits} splits"] = launches(tensors, num_splits=splits, tiles=tiles)
    return found


def paged_size(B: int, H: int, G: int, D: int, context: int, block_size: int = 16) -> dict[str, int]:
    """A size by its axes."""
    return {"B": B, "H": H, "G": G, "D": D, "context": context, "block_size": block_size}


KERNEL = KernelSpec(
    name="paged_decode_attention",
    launch=paged_decode_attention,
    reference=reference,
    counts=counts,
    inputs=inputs,
    builds=builds,
    sizes=tuple(paged_size(B, 32, 8, 128, context) for B in (1, 16, 64) for context in (512, 4096)),
    small_sizes=(paged_size(3, 6, 2, 32, 33, 8), paged_size(4, 2, 2, 16, 90), paged_size(1, 8, 1, 16, 1)),
    tile_choices=(Tiles(constants={"BLOCK_S": 16}), Tiles(constants={"BLOCK_S": 32})),
    check_size=paged_size(7, 32, 8, 128, 3000),
    family="decode",
    cpu_libraries=("sdpa_unpaged",),
)
