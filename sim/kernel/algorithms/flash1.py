"""FlashAttention 1: the outer loop over K and V, O and its statistics rescaled in HBM at every step.

2205.14135, Algorithm 1 (forward) and 4 (backward). One block per head; where heads are fewer than SMs
their queries are split over blocks, as the released kernel does. Accesses per head: K and V once,
then for each of the ⌈N / B_c⌉ outer steps Q, and O, l and m read and written (the first step reads the zeros
that were written before it). Causal: tiles above the diagonal are skipped.
Backward keeps dK and dV of the step in registers beside the scores and two query tiles in SRAM (its sums
would spill at the paper's tile: not modelled, unlike the forward pass's); its recomputation reads O, dO,
dQ, l and m.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil

from sim.kernel.algorithms.flash import BACKWARD_OPS, FLOAT32_BYTES, FORWARD_OPS
from sim.kernel.algorithms.problem import (
    STATISTIC_BYTES,
    Algorithm,
    Problem,
    Tile,
    TileSizes,
    fitting,
    overridden,
    tile_lengths,
)
from sim.kernel.gpu import FLASH_2_FIGURES, Direction, Efficiency, Fitted, Footprint, Gpu, fits
from sim.kernel.launches import BlockSpec, Bytes, Launch, LaunchSpec, Shared, build_launch

# Rescaling the old O and adding the new: multiply, multiply, add, and two statistics per score row.
_RESCALE_OPS_PER_OUTPUT = 3
_COLUMN_STEP = 16
_MOST_SPLITS = 32
_NEARLY = 0.9
_WARPS = (8, 16, 32)


def blocks(problem: Problem, tile: TileSizes, num_splits: int, *, is_backward: bool) -> list[BlockSpec]:
    """One kind of block for each part of the query tiles; ``num_splits`` parts per head."""
    tiles = list(enumerate(tile_lengths(problem.seqlen, tile.block_m)))
    parts = [tiles[part::num_splits] for part in range(num_splits)]
    return [
        _block(problem, tile, f"part {part}", chosen, is_backward=is_backward)
        for part, chosen in enumerate(parts)
        if chosen
    ]


def _block(
    problem: Problem, tile: TileSizes, name: str, rows_of: list[tuple[int, int]], *, is_backward: bool
) -> BlockSpec:
    size = problem.element_bytes
    row = problem.head_dim * size
    inner, visited, columns = 0, 0, 0  # (key tile, query tile) pairs, their query rows, their columns
    for start in range(0, problem.seqlen_kv, tile.block_n):
        first = problem.first_query(start)
        width = min(tile.block_n, problem.seqlen_kv - start)
        for index, rows in rows_of:
            if index * tile.block_m + rows > first:
                inner, visited, columns = inner + 1, visited + rows, columns + _padded(width)
    num_rows = sum(rows for _, rows in rows_of)
    scores = float(columns * tile.block_m)
    outputs = float(inner * tile.block_m * problem.head_dim)
    products, ops = (10.0, BACKWARD_OPS * scores + outputs) if is_backward else (
        4.0, FORWARD_OPS * scores + _RESCALE_OPS_PER_OUTPUT * outputs
    )  # fmt: skip
    return BlockSpec(
        name=name,
        count=problem.heads,
        iterations=max(1, inner),
        **_traffic(problem.seqlen_kv * row, visited, num_rows, row, is_backward=is_backward),
        flops=products * scores * problem.head_dim,
        exponentials=scores,
        vector_ops=ops,
    )


def _traffic(keys: int, visited: int, num_rows: int, row: int, *, is_backward: bool) -> dict[str, Bytes]:
    """Bytes of a block: K and V once, ``visited`` query rows over all steps, ``own`` rows besides."""
    step, first = visited * STATISTIC_BYTES, num_rows * STATISTIC_BYTES
    loop = {"k": keys, "v": keys, "q": visited * row, "o": visited * row, "l": step, "m": step}
    if is_backward:
        return {
            "loop": {**loop, "do": visited * row, "dq": visited * row},
            "loop_writes": {"dq": visited * row},
            "last": {"dk": keys, "dv": keys, "dq": num_rows * row},
        }
    return {
        "loop": loop,
        "loop_writes": {"o": visited * row, "l": step, "m": step},
        "last": {"o": num_rows * row, "l": first, "m": first},
    }


def _padded(width: int) -> int:
    """A tile's columns as the tensor cores compute them."""
    return -(-width // _COLUMN_STEP) * _COLUMN_STEP


def footprint(problem: Problem, tile: TileSizes) -> Footprint:
    """Tiles of K, V, Q and O in SRAM; scores and O in registers."""
    row = problem.head_dim * problem.element_bytes
    return Footprint(
        sram_bytes=2 * tile.block_n * row + 2 * tile.block_m * row,
        warps=tile.num_warps,
        accumulator_bytes=FLOAT32_BYTES * tile.block_m * (tile.block_n + problem.head_dim),
    )


def launches_of(
    gpu: Gpu, problem: Problem, tile: TileSizes, efficiency: Efficiency, *, is_backward: bool
) -> list[Launch]:
    """The forward or the backward launch."""
    splits = _splits(gpu, problem, tile)
    kv = Shared(size_bytes=problem.key_bytes * problem.kv_heads, readers=splits * problem.group)
    q = Shared(size_bytes=problem.query_bytes * problem.heads, readers=1, by_one_block=True)
    twice = Shared(size_bytes=2 * q.size_bytes, readers=1, by_one_block=True)
    spec = LaunchSpec(
        name=f"flash_attention_1 {'backward' if is_backward else 'forward'}",
        blocks=blocks(problem, tile, splits, is_backward=is_backward),
        footprint=footprint(problem, tile),
        tile=tile.words,
        dtype=problem.dtype,
        efficiency=efficiency,
        num_stages=tile.num_stages,
        flops=problem.backward_flops if is_backward else problem.forward_flops,
        shared={"k": kv, "v": kv, "q": q, "do": q, "o": q if is_backward else twice, "dq": twice},
    )
    return [build_launch(gpu, spec)]


def _splits(gpu: Gpu, problem: Problem, tile: TileSizes) -> int:
    """Parts of the queries per head: the fewest that fill the last wave nearly as well as any."""
    most = min(_MOST_SPLITS, len(tile_lengths(problem.seqlen, tile.block_m)))
    filled = {}
    for splits in range(1, most + 1):
        waves = problem.heads * splits / gpu.sm_count
        filled[splits] = waves / ceil(waves)
    enough = _NEARLY * max(filled.values())
    return next(splits for splits, share in filled.items() if share >= enough)


def tile_sizes(gpu: Gpu, problem: Problem, given: Tile, num_warps: int = 8) -> TileSizes:
    """⌈M / 4d⌉ columns and min(⌈M / 4d⌉, d) rows, M an SM's SRAM in elements (2205.14135, Algorithm 1)."""
    elements = gpu.profile.sram_bytes_per_sm // problem.element_bytes
    columns = ceil(elements / (4 * problem.head_dim))
    rows = min(columns, problem.head_dim)
    return overridden((rows, columns, 1, num_warps), given)


def own_tile(gpu: Gpu, problem: Problem) -> TileSizes:
    """The paper's tile, cut to fit; with more warps where only their registers are too few for it.

    That is where an SM has a larger SRAM than any device's, as a what-if may say.
    """
    held = partial(footprint, problem)
    wider = (tile_sizes(gpu, problem, Tile(), warps) for warps in _WARPS)
    whole = next((one for one in wider if fits(gpu, held(one))), tile_sizes(gpu, problem, Tile()))
    return fitting(gpu, whole, Tile(), held)


def launches(gpu: Gpu, problem: Problem, tile: Tile, direction: Direction) -> list[Launch]:
    """The launch of one direction."""
    efficiency = GENERATION.on(gpu.profile, direction)
    sizes = own_tile(gpu, problem) if tile == Tile() else tile_sizes(gpu, problem, tile)
    return launches_of(gpu, problem, sizes, efficiency, is_backward=direction == "backward")


def extra_bytes(problem: Problem, launches: Sequence[Launch], direction: str) -> int:
    """Two statistics a row, and dQ's float32 sum."""
    del launches
    rows = problem.heads * problem.seqlen
    return 2 * rows * STATISTIC_BYTES + (rows * problem.head_dim * FLOAT32_BYTES) * (direction != "forward")


GENERATION = Fitted(
    name="flash_attention_1",
    forward={
        "Ampere": Efficiency(
            tensor_fraction=0.4,
            exposed_fraction=0.3,
            source=f"fitted with its backward; median error 13 % over 24 rows of {FLASH_2_FIGURES}",
        ),
        "Hopper": Efficiency(
            tensor_fraction=0.18,
            exposed_fraction=0.0,
            source=f"fitted with its backward; median error 9 % over 24 rows of {FLASH_2_FIGURES}",
        ),
    },
    backward={
        "Ampere": Efficiency(
            tensor_fraction=0.4,
            exposed_fraction=0.3,
            source=f"fitted with its forward; median error 13 % over 24 rows of {FLASH_2_FIGURES}",
        ),
        "Hopper": Efficiency(
            tensor_fraction=0.18,
            exposed_fraction=0.0,
            source=f"fitted with its forward; median error 9 % over 24 rows of {FLASH_2_FIGURES}",
        ),
    },
)
ALGORITHM = Algorithm(
    # FlashAttention 1: outer loop over K and V
    launches=launches,
    extra_bytes=extra_bytes,
    generation=GENERATION,
    in_training_step=True,
    tiles_follow_sram=True,
)
