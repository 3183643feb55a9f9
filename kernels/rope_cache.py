"""Rotary position embedding of queries and keys, and the new keys and values into their blocks.

    y[i] = x[i] cos θ − x[i + D/2] sin θ,  y[i + D/2] = x[i + D/2] cos θ + x[i] sin θ
    θ = position · base^(−2i/D)

(RoFormer, arXiv:2104.09864, with the halves paired as Llama and GPT-NeoX do it.) One program takes a token
and one of its heads. The place of a token in the pool is its slot: block · block_size + offset, as in vLLM.

Shapes: M tokens, H query heads, G key/value heads, D head_dim, N blocks of the pool, K block_size, W
positions of the table of cosines.
"""

from __future__ import annotations

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
    check_grid,
    check_head_dim,
    meta,
    randn,
)

BASE = 500_000.0  # rope_theta of Llama 3


@triton.jit
def _rope_cache(
    qkv_ptr, cos_ptr, sin_ptr, position_ptr, slot_ptr, q_ptr, k_ptr, v_ptr, num_heads, num_kv_heads,
    HALF: tl.constexpr,
):  # fmt: skip
    """One head of one token: a query is turned, a key turned and stored, a value stored."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    offs = tl.arange(0, HALF)
    source = qkv_ptr + (token * (num_heads + 2 * num_kv_heads) + head) * 2 * HALF
    low, high = tl.load(source + offs), tl.load(source + HALF + offs)
    slot = tl.load(slot_ptr + token)
    if head >= num_heads + num_kv_heads:
        v = v_ptr + (slot * num_kv_heads + head - num_heads - num_kv_heads) * 2 * HALF
        tl.store(v + offs, low)
        tl.store(v + HALF + offs, high)
    else:
        position = tl.load(position_ptr + token).to(tl.int64)
        cos = tl.load(cos_ptr + position * HALF + offs)
        sin = tl.load(sin_ptr + position * HALF + offs)
        turned_low = (low * cos - high * sin).to(low.dtype)
        turned_high = (high * cos + low * sin).to(low.dtype)
        if head < num_heads:
            q = q_ptr + (token * num_heads + head) * 2 * HALF
            tl.store(q + offs, turned_low)
            tl.store(q + HALF + offs, turned_high)
        else:
            k = k_ptr + (slot * num_kv_heads + head - num_heads) * 2 * HALF
            tl.store(k + offs, turned_low)
            tl.store(k + HALF + offs, turned_high)


def cos_sin(num_positions: int, head_dim: int, device: str, base: float = BASE) -> tuple[Any, Any]:
    """Tables [W, D / 2] in float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] * base**-exponents
    return angles.cos().float().to(device), angles.sin().float().to(device)


def launches(tensors: dict[str, Any], *, num_heads: int, num_kv_heads: int, head_dim: int) -> list[Launch]:
    """The one kernel; ``tensors`` by the names of its pointers."""
    arguments = {f"{name}_ptr": tensor for name, tensor in tensors.items()}
    arguments |= {"num_heads": num_heads, "num_kv_heads": num_kv_heads}
    grid = (tensors["qkv"].shape[0], num_heads + 2 * num_kv_heads)
    tiles = Tiles(constants={"HALF": head_dim // 2}, num_warps=1, num_stages=1)
    return [Launch(kernel=_rope_cache, grid=grid, arguments=arguments, tiles=tiles)]


def rope_cache(
    qkv_MC: Any, tables: tuple[Any, Any], position_M: Any, slot_M: Any, cache: tuple[Any, Any]
) -> tuple[Any, Any, Any]:
    """(turned queries [M, H, D], K, V): the two halves of ``cache`` are written in place."""
    M, columns = qkv_MC.shape
    G, D = cache[0].shape[2:]
    num_heads = columns // D - 2 * G
    check_head_dim("rope_cache", D)
    if columns % D or num_heads < 1:
        raise LaunchError(f"rope_cache: rows of {columns}; need more than {2 * G} heads of {D}")
    check_grid("rope_cache", heads=num_heads + 2 * G)
    q_MHD = torch.empty((M, num_heads, D), dtype=qkv_MC.dtype, device=qkv_MC.device)
    tensors = {
        "qkv": qkv_MC, "cos": tables[0], "sin": tables[1], "position": position_M, "slot": slot_M,
        "q": q_MHD, "k": cache[0], "v": cache[1],
    }  # fmt: skip
    for launch in launches(tensors, num_heads=num_heads, num_kv_heads=G, head_dim=D):
        launch.run()
    return q_MHD, *cache


def reference(
    qkv_MC: Any, tables: tuple[Any, Any], position_M: Any, slot_M: Any, cache: tuple[Any, Any]
) -> tuple[Any, Any, Any]:
    """The same in float64, on copies of the cache."""
    G, D = cache[0].shape[2:]
    heads = qkv_MC.double().reshape(qkv_MC.shape[0], -1, D)
    turning, values = heads[:, :-G], heads[:, -G:]
    cos, sin = (table.double()[position_M.long()][:, None] for table in tables)
    low, high = turning.chunk(2, 2)
    turned = torch.cat([low * cos - high * sin, high * cos + low * sin], 2)
    k, v = (one.double().flatten(0, 1) for one in cache)
    k[slot_M], v[slot_M] = turned[:, -G:], values
    return turned[:, :-G], k.reshape(cache[0].shape), v.reshape(cache[1].shape)


def counts(M: int, H: int, G: int, D: int, *, block_size: int = 16, element_bytes: float = 2) -> Counts:
    """3 FLOPs a turned value; every value read and written, a row of cosines and sines a token."""
    moved = 2.0 * element_bytes * M * (H + 2 * G) * D + 4.0 * M * D
    return Counts(flops=3.0 * M * (H + G) * D, hbm_bytes=moved)


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """Tokens at random positions, to random slots of a pool twice their number."""
    M, H, G, D, block_size = (size[axis] for axis in ("M", "H", "G", "D", "block_size"))
    blocks = 2 * M // block_size + 1
    return {
        "qkv_MC": randn(dtype, device, M, (H + 2 * G) * D),
        "tables": cos_sin(4096, D, device),
        "position_M": torch.randint(0, 4096, (M,), dtype=torch.int32, device=device),
        "slot_M": torch.randperm(blocks * block_size, device=device)[:M],
        "cache": tuple(randn(dtype, device, blocks, block_size, G, D) for _ in range(2)),
    }


def builds(capability: Capability) -> Builds:
    """The heads of Llama-3.1-8B."""
    cache, table = meta("bfloat16", 4096, 16, 8, 128), meta("float32", 8192, 64)
    tensors = {
        "qkv": meta("bfloat16", 64, 6144), "cos": table, "sin": table, "position": meta("int32", 64),
        "slot": meta("int64", 64), "q": meta("bfloat16", 64, 32, 128), "k": cache, "v": cache,
    }  # fmt: skip
    return {"bfloat16": launches(tensors, num_heads=32, num_kv_heads=8, head_dim=128)}


KERNEL = KernelSpec(
    name="rope_cache",
    launch=rope_cache,
    reference=reference,
    counts=counts,
    inputs=inputs,
    builds=builds,
    sizes=tuple({"M": M, "H": 32, "G": 8, "D": 128, "block_size": 16} for M in (1, 256, 8192)),
    small_sizes=(
        {"M": 5, "H": 4, "G": 2, "D": 16, "block_size": 4},
        {"M": 1, "H": 1, "G": 1, "D": 32, "block_size": 16},
    ),
    check_size={"M": 300, "H": 32, "G": 8, "D": 128, "block_size": 16},
    family="norm",
)
