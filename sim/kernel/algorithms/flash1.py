"""FlashAttention 1: the outer loop over K and V, O and its statistics rescaled in HBM at every step.

2205.14135, Algorithm 1 (forward) and 4 (backward). One block per head; where heads are fewer than SMs
their queries are split over blocks, as the released kernel does. Accesses per head: K and V once,
then for each of the ⌈N / B_c⌉ outer steps Q, and O, l and m read and written (the first step reads the zeros
that were written before it). Causal: tiles above the diagonal are skipped.
Backward keeps dK and dV of the step in registers (spills are not modelled) and two query tiles in SRAM;
its recomputation reads O, dO, dQ, l and m.
"""

from __future__ import annotations

from math import ceil

from sim.kernel.algorithms.flash import BACKWARD_OPS, FLOAT32_BYTES, FORWARD_OPS
from sim.kernel.algorithms.problem import STATISTIC_BYTES, Problem, TileSizes, tile_lengths
from sim.kernel.gpu import Efficiency, Footprint, Gpu
from sim.kernel.launches import BlockSpec, Bytes, Launch, LaunchSpec, Shared, build_launch

# Rescaling the old O and adding the new: multiply, multiply, add, and two statistics per score row.
_RESCALE_OPS_PER_OUTPUT = 3
_COLUMN_STEP = 16
_MOST_SPLITS = 32
_NEARLY = 0.9


def blocks(problem: Problem, tile: TileSizes, num_splits: int, *, is_backward: bool) -> list[BlockSpec]:
    """One kind of block for each part of the query tiles; ``num_splits`` parts per head."""
    tiles = list(enumerate(tile_lengths(problem.given.seqlen, tile.block_m)))
    parts = [tiles[part::num_splits] for part in range(num_splits)]
    return [
        _block(problem, tile, f"part {part}", chosen, is_backward=is_backward)
        for part, chosen in enumerate(parts)
        if chosen
    ]


def _block(
    problem: Problem, tile: TileSizes, name: str, rows_of: list[tuple[int, int]], *, is_backward: bool
) -> BlockSpec:
    given, size = problem.given, problem.element_bytes
    row = given.head_dim * size
    inner, visited, columns = 0, 0, 0  # (key tile, query tile) pairs, their query rows, their columns
    for start in range(0, problem.seqlen_kv, tile.block_n):
        first = problem.first_query(start)
        width = min(tile.block_n, problem.seqlen_kv - start)
        for index, rows in rows_of:
            if index * tile.block_m + rows > first:
                inner, visited, columns = inner + 1, visited + rows, columns + _padded(width)
    own = sum(rows for _, rows in rows_of)
    scores = float(columns * tile.block_m)
    outputs = float(inner * tile.block_m * given.head_dim)
    products, ops = (10.0, BACKWARD_OPS * scores + outputs) if is_backward else (
        4.0, FORWARD_OPS * scores + _RESCALE_OPS_PER_OUTPUT * outputs
    )  # fmt: skip
    return BlockSpec(
        name=name,
        count=problem.heads,
        iterations=max(1, inner),
        **_traffic(problem.seqlen_kv * row, visited, own, row, is_backward=is_backward),
        flops=products * scores * given.head_dim,
        exponentials=scores,
        vector_ops=ops,
    )


def _traffic(keys: int, visited: int, own: int, row: int, *, is_backward: bool) -> dict[str, Bytes]:
    """Bytes of a block: K and V once, ``visited`` query rows over all steps, ``own`` rows besides."""
    step, first = visited * STATISTIC_BYTES, own * STATISTIC_BYTES
    loop = {"k": keys, "v": keys, "q": visited * row, "o": visited * row, "l": step, "m": step}
    if is_backward:
        return {
            "loop": {**loop, "do": visited * row, "dq": visited * row},
            "loop_writes": {"dq": visited * row},
            "last": {"dk": keys, "dv": keys, "dq": own * row},
        }
    return {
        "loop": loop,
        "loop_writes": {"o": visited * row, "l": step, "m": step},
        "last": {"o": own * row, "l": first, "m": first},
    }


def _padded(width: int) -> int:
    """A tile's columns as the tensor cores compute them."""
    return -(-width // _COLUMN_STEP) * _COLUMN_STEP


def footprint(problem: Problem, tile: TileSizes) -> Footprint:
    """Tiles of K, V, Q and O in SRAM; scores and O in registers."""
    row = problem.given.head_dim * problem.element_bytes
    return Footprint(
        sram_bytes=2 * tile.block_n * row + 2 * tile.block_m * row,
        warps=tile.num_warps,
        accumulator_bytes=FLOAT32_BYTES * tile.block_m * (tile.block_n + problem.given.head_dim),
    )


def launches(
    gpu: Gpu, problem: Problem, tile: TileSizes, efficiency: Efficiency, *, is_backward: bool
) -> list[Launch]:
    """The forward or the backward launch."""
    given = problem.given
    splits = _splits(gpu, problem, tile)
    kv = Shared(size_bytes=problem.key_bytes * problem.kv_heads, readers=splits * problem.group)
    q = Shared(size_bytes=problem.query_bytes * problem.heads, readers=1, by_one_block=True)
    twice = Shared(size_bytes=2 * q.size_bytes, readers=1, by_one_block=True)
    spec = LaunchSpec(
        name=f"flash_attention_1 {'backward' if is_backward else 'forward'}",
        blocks=blocks(problem, tile, splits, is_backward=is_backward),
        footprint=footprint(problem, tile),
        dtype=given.dtype,
        efficiency=efficiency,
        num_stages=tile.num_stages,
        flops=problem.backward_flops if is_backward else problem.forward_flops,
        shared={"k": kv, "v": kv, "q": q, "do": q, "o": q if is_backward else twice, "dq": twice},
    )
    return [build_launch(gpu, spec)]


def _splits(gpu: Gpu, problem: Problem, tile: TileSizes) -> int:
    """Parts of the queries per head: the fewest that fill the last wave nearly as well as any."""
    most = min(_MOST_SPLITS, len(tile_lengths(problem.given.seqlen, tile.block_m)))
    filled = {}
    for splits in range(1, most + 1):
        waves = problem.heads * splits / gpu.sm_count
        filled[splits] = waves / ceil(waves)
    enough = _NEARLY * max(filled.values())
    return next(splits for splits, share in filled.items() if share >= enough)
