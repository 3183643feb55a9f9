"""Decoding attention: few queries per sequence, the KV cache split over blocks, partial results combined.

Split-KV (flash-decoding): a block takes one KV head, all query heads of its group, and a part of the
keys; it stores a float32 partial O and its log-sum-exp, and a second launch combines them. Paged: the same
through a block table, one 4-byte entry read per page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from sim.kernel.algorithms.elementwise import stream
from sim.kernel.algorithms.flash import FLOAT32_BYTES, FORWARD_OPS, forward_footprint
from sim.kernel.algorithms.gemm import edges_of_split
from sim.kernel.algorithms.problem import (
    FLASH_TILE_KEYS,
    LARGE_SRAM,
    STATISTIC_BYTES,
    Algorithm,
    Problem,
    Tile,
    TileSizes,
    fitting,
    tiles_of,
)
from sim.kernel.gpu import Direction, Efficiency, Fitted, Gpu, blocks_per_sm
from sim.kernel.launches import BlockSpec, Launch, LaunchSpec, Shared, build_launch, tile_count


def decode_blocks(problem: Problem, tile: TileSizes, num_splits: int) -> list[BlockSpec]:
    """One kind of block per length of a part."""
    size = problem.element_bytes
    row = problem.head_dim * size
    rows = problem.seqlen * problem.group
    padded = max(tile.block_m, tile_count(rows, tile.block_m) * tile.block_m)
    stored = rows * row if num_splits == 1 else rows * problem.head_dim * FLOAT32_BYTES
    name = "o" if num_splits == 1 else "o_partial"
    found = []
    for keys, count in edges_of_split(problem.seqlen_kv, num_splits):
        iterations = max(1, tile_count(keys, tile.block_n))
        scores = padded * iterations * tile.block_n
        loop = {"k": keys * row, "v": keys * row}
        if problem.is_paged:
            loop["block_table"] = problem.table_bytes(keys)
        found.append(
            BlockSpec(
                name=f"{keys} keys",
                count=count * problem.kv_heads,
                iterations=iterations,
                first={"q": rows * row},
                loop=loop,
                last={name: stored, "lse": rows * STATISTIC_BYTES},
                flops=4.0 * scores * problem.head_dim,
                exponentials=float(scores),
                vector_ops=float(FORWARD_OPS * scores),
            )
        )
    return found


def launches_of(
    gpu: Gpu, problem: Problem, tile: TileSizes, efficiency: Efficiency, splits: int | None
) -> list[Launch]:
    """The main launch, and the combination where keys are split."""
    size = problem.element_bytes
    row = problem.head_dim * size
    footprint = forward_footprint(problem, tile)
    slots = blocks_per_sm(gpu, footprint, problem.algorithm) * gpu.sm_count
    num_splits = splits or num_splits_for(problem, tile, slots)
    # Several rows of query tiles come back to the same keys: at a group beyond block_m rows they are looped.
    spec = LaunchSpec(
        name=f"{problem.algorithm}",
        blocks=decode_blocks(problem, tile, num_splits),
        footprint=footprint,
        tile=tile.words,
        dtype=problem.dtype,
        efficiency=efficiency,
        num_stages=tile.num_stages,
        flops=problem.forward_flops,
        shared={"q": Shared(size_bytes=problem.query_bytes * problem.heads, readers=num_splits)},
    )
    found = [build_launch(gpu, spec)]
    if num_splits > 1:
        rows = problem.heads * problem.seqlen
        reads = {
            "o_partial": rows * num_splits * problem.head_dim * FLOAT32_BYTES,
            "lse": rows * num_splits * STATISTIC_BYTES,
        }
        writes = {"o": rows * row, "lse_total": rows * STATISTIC_BYTES}
        found.append(stream(gpu, efficiency, "combine", reads, writes))
    return found


def num_splits_for(problem: Problem, tile: TileSizes, slots: int) -> int:
    """Parts that fill the device once, each of at least one tile."""
    most = tile_count(problem.seqlen_kv, tile.block_n)
    return max(1, min(most, slots // max(1, problem.kv_heads), 128))


def launches(gpu: Gpu, problem: Problem, tile: Tile, direction: Direction) -> list[Launch]:
    """The launches with the published kernel's tile, cut to fit."""
    table = _TILES if gpu.sram_bytes_per_block >= LARGE_SRAM else _SMALL_TILES
    sizes = tiles_of(table, problem.head_dim, tile)
    sizes = fitting(gpu, sizes, tile, partial(forward_footprint, problem))
    return launches_of(gpu, problem, sizes, GENERATION.on(gpu.profile, direction), tile.num_splits)


def extra_bytes(problem: Problem, launches: Sequence[Launch], direction: str) -> int:
    """The partial results, and their log-sum-exp."""
    del problem, direction
    return sum(launches[0].writes.get(name, 0) for name in ("o_partial", "lse"))


# As ``flash._FLASH_2_FORWARD``: (block_m, block_n, num_stages, num_warps) by the largest head_dim.
_TILES = {64: (16, 128, 2, 4), 128: (16, 128, 2, 4), 256: (16, 64, 2, 4), 1024: (16, 32, 2, 4)}
_SMALL_TILES = {64: (16, 128, 2, 4), 128: (16, 64, 2, 4), 256: (16, 32, 2, 4), 1024: (16, 16, 2, 4)}

_TIMINGS = "one-token timings of AIConfigurator@095f58a (vLLM), 100 rows; on 300 others"

GENERATION = Fitted(
    name="decode",
    forward={
        "Ampere": Efficiency(
            tensor_fraction=0.5,
            exposed_fraction=0.4,
            memory_fraction=0.831,
            start_s=13.1e-6,
            block_start_s=3.0e-6,
            block_end_s=1.5e-6,
            source=f"fitted to {_TIMINGS}: median error 21 % (A100 SXM)",
        ),
        "Ada": Efficiency(
            tensor_fraction=0.5,
            exposed_fraction=0.4,
            memory_fraction=0.831,
            start_s=8.75e-6,
            block_start_s=2.0e-6,
            block_end_s=1.0e-6,
            source=f"fitted to {_TIMINGS}: median error 10 % (L40S)",
        ),
        "Blackwell": Efficiency(
            tensor_fraction=0.5,
            exposed_fraction=0.4,
            memory_fraction=0.9,
            start_s=5.91e-6,
            block_start_s=1.5e-6,
            block_end_s=0.75e-6,
            source=f"fitted to {_TIMINGS}: median error 12 % (B200 SXM)",
        ),
        "Hopper": Efficiency(
            tensor_fraction=0.5,
            exposed_fraction=0.4,
            start_s=8.75e-6,
            block_start_s=2.0e-6,
            block_end_s=1.0e-6,
            source=f"fitted to {_TIMINGS}: median error 9 % (H100 SXM)",
        ),
    },
)
SPLIT_KV = Algorithm(
    # decoding, the KV cache of a sequence split over blocks
    launches=launches,
    extra_bytes=extra_bytes,
    generation=GENERATION,
    has_backward=False,
    tile_keys=(*FLASH_TILE_KEYS, "num_splits"),
)
PAGED = replace(SPLIT_KV, is_always_paged=True)  # the same through a block table
