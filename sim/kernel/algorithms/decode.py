"""Decoding attention: few queries per sequence, the KV cache split over blocks, partial results combined.

Split-KV (flash-decoding): a block takes one KV head, all query heads of its group, and a part of the
keys; it stores a float32 partial O and its log-sum-exp, and a second launch combines them. Paged: the same
through a block table, one 4-byte entry read per page.
"""

from __future__ import annotations

from sim.kernel.algorithms.elementwise import stream
from sim.kernel.algorithms.flash import FLOAT32_BYTES, FORWARD_OPS, forward_footprint
from sim.kernel.algorithms.gemm import edges_of_split
from sim.kernel.algorithms.problem import STATISTIC_BYTES, Problem, TileSizes
from sim.kernel.gpu import Efficiency, Gpu, blocks_per_sm
from sim.kernel.launches import BlockSpec, Launch, LaunchSpec, Shared, build_launch, tile_count


def decode_blocks(problem: Problem, tile: TileSizes, num_splits: int) -> list[BlockSpec]:
    """One kind of block per length of a part."""
    given, size = problem.given, problem.element_bytes
    row = given.head_dim * size
    rows = given.seqlen * problem.group
    padded = max(tile.block_m, tile_count(rows, tile.block_m) * tile.block_m)
    stored = rows * row if num_splits == 1 else rows * given.head_dim * FLOAT32_BYTES
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
                flops=4.0 * scores * given.head_dim,
                exponentials=float(scores),
                vector_ops=float(FORWARD_OPS * scores),
            )
        )
    return found


def launches(
    gpu: Gpu, problem: Problem, tile: TileSizes, efficiency: Efficiency, splits: int | None
) -> list[Launch]:
    """The main launch, and the combination where keys are split."""
    given, size = problem.given, problem.element_bytes
    row = given.head_dim * size
    footprint = forward_footprint(problem, tile)
    slots = blocks_per_sm(gpu, footprint, given.algorithm) * gpu.sm_count
    num_splits = splits or num_splits_for(problem, tile, slots)
    # Several rows of query tiles come back to the same keys: at a group beyond block_m rows they are looped.
    spec = LaunchSpec(
        name=f"{given.algorithm}",
        blocks=decode_blocks(problem, tile, num_splits),
        footprint=footprint,
        dtype=given.dtype,
        efficiency=efficiency,
        num_stages=tile.num_stages,
        flops=problem.forward_flops,
        shared={"q": Shared(size_bytes=problem.query_bytes * problem.heads, readers=num_splits)},
    )
    found = [build_launch(gpu, spec)]
    if num_splits > 1:
        rows = problem.heads * given.seqlen
        reads = {
            "o_partial": rows * num_splits * given.head_dim * FLOAT32_BYTES,
            "lse": rows * num_splits * STATISTIC_BYTES,
        }
        writes = {"o": rows * row, "lse_total": rows * STATISTIC_BYTES}
        found.append(stream(gpu, efficiency, "combine", reads, writes))
    return found


def num_splits_for(problem: Problem, tile: TileSizes, slots: int) -> int:
    """Parts that fill the device once, each of at least one tile."""
    most = tile_count(problem.seqlen_kv, tile.block_n)
    return max(1, min(most, slots // max(1, problem.kv_heads), 128))
