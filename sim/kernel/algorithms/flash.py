"""FlashAttention 2 and its successors: one block per tile of queries, K and V stream through SRAM.

Forward (2307.08691, Algorithm 1): Q is loaded once, K and V once per query tile, O and the log-sum-exp
stored once. Backward (Algorithm 2): one block per tile of keys; Q, dO and the statistics stream through,
dQ is added up in HBM in float32, dK and dV are stored once. Tiles that the causal mask hides are never
loaded. Blocks with the most tiles start first.
"""

from __future__ import annotations

from sim.kernel.algorithms.problem import STATISTIC_BYTES, Problem, TileSizes, tile_lengths
from sim.kernel.gpu import Efficiency, Footprint, Gpu, efficiency_of
from sim.kernel.launches import BlockSpec, Launch, LaunchSpec, Shared, build_launch, tile_count

FLOAT32_BYTES = 4
# FP32 instructions per score beside its exponential. Forward: scale, maximum, subtract, sum, convert;
# backward: scale, subtract, subtract delta, multiply, two conversions.
FORWARD_OPS, BACKWARD_OPS = 5, 6


def forward_blocks(problem: Problem, tile: TileSizes) -> list[BlockSpec]:
    """One kind of block per query tile, for all heads; most keys first."""
    given, size = problem.given, problem.element_bytes
    row = given.head_dim * size
    packed = problem.packed(tile.block_m)
    blocks = []
    for index, rows in enumerate(tile_lengths(given.seqlen, tile.block_m)):
        keys = problem.keys_seen(index * tile.block_m + rows)
        iterations = max(1, tile_count(keys, tile.block_n))
        keys = min(problem.seqlen_kv, iterations * tile.block_n) if keys else 0
        loop = {"k": keys * row, "v": keys * row}
        if problem.is_paged:
            loop["block_table"] = problem.table_bytes(keys)
        scores = tile.block_m * iterations * tile.block_n
        blocks.append(
            BlockSpec(
                name=f"queries {index * tile.block_m}+",
                count=problem.heads // packed,
                iterations=iterations,
                first={"q": packed * rows * row},
                loop=loop,
                last={"o": packed * rows * row, "lse": packed * rows * STATISTIC_BYTES},
                flops=4.0 * scores * given.head_dim,
                exponentials=float(scores),
                vector_ops=float(FORWARD_OPS * scores),
            )
        )
    return merged(sorted(blocks, key=lambda block: -block.iterations))


def merged(blocks: list[BlockSpec]) -> list[BlockSpec]:
    """Neighbours that differ in name alone, as one kind."""
    kept: list[BlockSpec] = []
    for block in blocks:
        if kept and _work(kept[-1]) == _work(block):
            last = kept.pop()
            block = BlockSpec(
                **{name: getattr(last, name) for name in BlockSpec.__slots__ if name != "count"},
                count=last.count + block.count,
            )
        kept.append(block)
    return kept


def _work(block: BlockSpec) -> tuple[object, ...]:
    return tuple(getattr(block, name) for name in BlockSpec.__slots__ if name not in ("name", "count"))


def forward_footprint(problem: Problem, tile: TileSizes) -> Footprint:
    """Q's tile and the stages of K and V in SRAM; scores and O in registers."""
    row = problem.given.head_dim * problem.element_bytes
    return Footprint(
        sram_bytes=tile.block_m * row + 2 * tile.num_stages * tile.block_n * row,
        warps=tile.num_warps,
        accumulator_bytes=FLOAT32_BYTES * tile.block_m * (tile.block_n + problem.given.head_dim),
    )


def backward_footprint(problem: Problem, tile: TileSizes) -> Footprint:
    """K's and V's tile and the stages of Q and dO in SRAM; dK, dV and scores in registers."""
    row = problem.given.head_dim * problem.element_bytes
    accumulators = 2 * problem.given.head_dim + tile.block_m
    return Footprint(
        sram_bytes=2 * tile.block_n * row + (tile.num_stages + 1) * tile.block_m * row,
        warps=tile.num_warps,
        accumulator_bytes=FLOAT32_BYTES * tile.block_n * accumulators,
    )


def forward(gpu: Gpu, problem: Problem, tile: TileSizes, efficiency: Efficiency) -> list[Launch]:
    """The forward launch."""
    given = problem.given
    readers = tile_count(given.seqlen, tile.block_m) * problem.group
    shared = Shared(size_bytes=problem.key_bytes * problem.kv_heads, readers=readers)
    spec = LaunchSpec(
        name=f"{given.algorithm} forward",
        blocks=forward_blocks(problem, tile),
        footprint=forward_footprint(problem, tile),
        dtype=given.dtype,
        efficiency=efficiency,
        num_stages=tile.num_stages,
        flops=problem.forward_flops,
        shared={"k": shared, "v": shared},
        is_warm=problem.is_paged,
    )
    return [build_launch(gpu, spec)]


def backward_blocks(problem: Problem, tile: TileSizes) -> list[BlockSpec]:
    """One kind of block per key tile, for all query heads; most queries first."""
    given, size = problem.given, problem.element_bytes
    row = given.head_dim * size
    blocks = []
    for index, columns in enumerate(tile_lengths(problem.seqlen_kv, tile.block_n)):
        first = problem.first_query(index * tile.block_n) // tile.block_m * tile.block_m
        queries = max(0, given.seqlen - first)
        iterations = max(1, tile_count(queries, tile.block_m))
        scores = tile.block_n * iterations * tile.block_m
        blocks.append(
            BlockSpec(
                name=f"keys {index * tile.block_n}+",
                count=problem.heads,
                iterations=iterations,
                first={"k": columns * row, "v": columns * row},
                loop={
                    "q": queries * row,
                    "do": queries * row,
                    "lse": queries * STATISTIC_BYTES,
                    "delta": queries * STATISTIC_BYTES,
                    "dq_sum": queries * given.head_dim * FLOAT32_BYTES,
                },
                loop_writes={"dq_sum": queries * given.head_dim * FLOAT32_BYTES},
                last={"dk": columns * row, "dv": columns * row},
                flops=10.0 * scores * given.head_dim,
                exponentials=float(scores),
                vector_ops=float(BACKWARD_OPS * scores),
            )
        )
    return merged(sorted(blocks, key=lambda block: -block.iterations))


def backward(gpu: Gpu, problem: Problem, tile: TileSizes, efficiency: Efficiency) -> list[Launch]:
    """delta = rowsum(dO ∘ O), the main kernel, and dQ's conversion from float32."""
    given, size = problem.given, problem.element_bytes
    row = given.head_dim * size
    readers = tile_count(problem.seqlen_kv, tile.block_n)
    q_shared = Shared(size_bytes=problem.query_bytes * problem.heads, readers=readers)
    sums = problem.heads * given.seqlen * given.head_dim * FLOAT32_BYTES
    spec = LaunchSpec(
        name=f"{given.algorithm} backward",
        blocks=backward_blocks(problem, tile),
        footprint=backward_footprint(problem, tile),
        dtype=given.dtype,
        efficiency=efficiency,
        num_stages=tile.num_stages,
        flops=problem.backward_flops,
        shared={"q": q_shared, "do": q_shared, "dq_sum": Shared(size_bytes=2 * sums, readers=readers)},
    )
    return [
        _row_pass(gpu, problem, "delta", {"o": row, "do": row}, {"delta": STATISTIC_BYTES}),
        build_launch(gpu, spec),
        _row_pass(gpu, problem, "convert dq", {"dq_sum": given.head_dim * FLOAT32_BYTES}, {"dq": row}),
    ]


def _row_pass(gpu: Gpu, problem: Problem, name: str, reads: dict[str, int], writes: dict[str, int]) -> Launch:
    """A streaming kernel over the query rows, 128 rows per block."""
    blocks = [
        BlockSpec(
            name=name,
            count=problem.heads * count,
            iterations=1,
            loop={tensor: rows * each for tensor, each in reads.items()},
            last={tensor: rows * each for tensor, each in writes.items()},
        )
        for rows, count in _runs(problem.given.seqlen, 128)
    ]
    spec = LaunchSpec(
        name=name,
        blocks=blocks,
        footprint=Footprint(sram_bytes=4096, warps=4),
        dtype=problem.given.dtype,
        efficiency=efficiency_of("stream", gpu.profile),
        num_stages=1,
    )
    return build_launch(gpu, spec)


def _runs(length: int, tile: int) -> list[tuple[int, int]]:
    """(rows, how many tiles of so many rows)."""
    full, rest = divmod(length, tile)
    return [(tile, full)] * (full > 0) + [(rest, 1)] * (rest > 0)
