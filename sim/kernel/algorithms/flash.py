"""FlashAttention 2 and its successors: one block per tile of queries, K and V stream through SRAM.

Forward (2307.08691, Algorithm 1): Q is loaded once, K and V once per query tile, O and the log-sum-exp
stored once. Backward (Algorithm 2): one block per tile of keys; Q, dO and the statistics stream through,
dQ is added up in HBM in float32, dK and dV are stored once. Tiles that the causal mask hides are never
loaded. Blocks with the most tiles start first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sim.kernel.algorithms.elementwise import stream
from sim.kernel.algorithms.problem import (
    LARGE_SRAM,
    LOADING_WARPS,
    STATISTIC_BYTES,
    Algorithm,
    HeadTable,
    Layout,
    Problem,
    Tile,
    TileSizes,
    check_layout,
    fitting,
    layout_of_warpgroups,
    layout_of_warps,
    tile_lengths,
    tiles_of,
)
from sim.kernel.gpu import (
    FLASH_2_FIGURES,
    FLASH_3_FIGURES,
    Direction,
    Efficiency,
    Fitted,
    Footprint,
    Gpu,
    efficiency_of,
)
from sim.kernel.launches import BlockSpec, Launch, LaunchSpec, Shared, build_launch, tile_count
from sim.scenario.dataclass import dataclass

FLOAT32_BYTES = 4
# FP32 instructions per score beside its exponential. Forward: scale, maximum, subtract, sum, convert;
# backward: scale, subtract, subtract delta, multiply, two conversions.
FORWARD_OPS, BACKWARD_OPS = 5, 6


def forward_blocks(problem: Problem, tile: TileSizes) -> list[BlockSpec]:
    """One kind of block per query tile, for all heads; most keys first."""
    size = problem.element_bytes
    row = problem.head_dim * size
    packed = problem.packed(tile.block_m)
    blocks = []
    for index, rows in enumerate(tile_lengths(problem.seqlen, tile.block_m)):
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
                flops=4.0 * scores * problem.head_dim,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpRoles:
    """Where a generation's accumulators lie, as ``Footprint`` has it."""

    producer_warps: int = 0
    in_tensor_memory: bool = False


ALL_COMPUTE = WarpRoles()


def forward_footprint(problem: Problem, tile: TileSizes, roles: WarpRoles = ALL_COMPUTE) -> Footprint:
    """Q's tile and the stages of K and V in SRAM; scores and O in registers."""
    row = problem.head_dim * problem.element_bytes
    return Footprint(
        sram_bytes=tile.block_m * row + 2 * tile.num_stages * tile.block_n * row,
        warps=tile.num_warps,
        accumulator_bytes=FLOAT32_BYTES * tile.block_m * (tile.block_n + problem.head_dim),
        producer_warps=roles.producer_warps,
        in_tensor_memory=roles.in_tensor_memory,
    )


def backward_footprint(problem: Problem, tile: TileSizes, roles: WarpRoles = ALL_COMPUTE) -> Footprint:
    """K's and V's tile and the stages of Q and dO in SRAM; dK, dV, scores and dP in registers."""
    row = problem.head_dim * problem.element_bytes
    accumulators = 2 * problem.head_dim + 2 * tile.block_m
    return Footprint(
        sram_bytes=2 * tile.block_n * row + (tile.num_stages + 1) * tile.block_m * row,
        warps=tile.num_warps,
        accumulator_bytes=FLOAT32_BYTES * tile.block_n * accumulators,
        producer_warps=roles.producer_warps,
        in_tensor_memory=roles.in_tensor_memory,
    )


def forward(
    gpu: Gpu, problem: Problem, tile: TileSizes, efficiency: Efficiency, roles: WarpRoles = ALL_COMPUTE
) -> list[Launch]:
    """The forward launch."""
    readers = tile_count(problem.seqlen, tile.block_m) * problem.group
    shared = Shared(size_bytes=problem.key_bytes * problem.kv_heads, readers=readers)
    spec = LaunchSpec(
        name=f"{problem.algorithm} forward",
        blocks=forward_blocks(problem, tile),
        footprint=forward_footprint(problem, tile, roles),
        tile=tile.words,
        dtype=problem.dtype,
        efficiency=efficiency,
        num_stages=tile.num_stages,
        flops=problem.forward_flops,
        shared={"k": shared, "v": shared},
        is_warm=problem.is_paged,
    )
    return [build_launch(gpu, spec)]


def backward_blocks(problem: Problem, tile: TileSizes) -> list[BlockSpec]:
    """One kind of block per key tile, for all query heads; most queries first."""
    size = problem.element_bytes
    row = problem.head_dim * size
    blocks = []
    for index, columns in enumerate(tile_lengths(problem.seqlen_kv, tile.block_n)):
        first = problem.first_query(index * tile.block_n) // tile.block_m * tile.block_m
        queries = max(0, problem.seqlen - first)
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
                    "dq_sum": queries * problem.head_dim * FLOAT32_BYTES,
                },
                loop_writes={"dq_sum": queries * problem.head_dim * FLOAT32_BYTES},
                last={"dk": columns * row, "dv": columns * row},
                flops=10.0 * scores * problem.head_dim,
                exponentials=float(scores),
                vector_ops=float(BACKWARD_OPS * scores),
            )
        )
    return merged(sorted(blocks, key=lambda block: -block.iterations))


def backward(
    gpu: Gpu, problem: Problem, tile: TileSizes, efficiency: Efficiency, roles: WarpRoles = ALL_COMPUTE
) -> list[Launch]:
    """delta = rowsum(dO ∘ O), the main kernel, and dQ's conversion from float32."""
    size = problem.element_bytes
    row = problem.head_dim * size
    readers = tile_count(problem.seqlen_kv, tile.block_n)
    q_shared = Shared(size_bytes=problem.query_bytes * problem.heads, readers=readers)
    sums = problem.heads * problem.seqlen * problem.head_dim * FLOAT32_BYTES
    spec = LaunchSpec(
        name=f"{problem.algorithm} backward",
        blocks=backward_blocks(problem, tile),
        footprint=backward_footprint(problem, tile, roles),
        tile=tile.words,
        dtype=problem.dtype,
        efficiency=efficiency,
        num_stages=tile.num_stages,
        flops=problem.backward_flops,
        shared={"q": q_shared, "do": q_shared, "dq_sum": Shared(size_bytes=2 * sums, readers=readers)},
    )
    return [
        _row_pass(gpu, problem, "delta", {"o": row, "do": row}, {"delta": STATISTIC_BYTES}),
        build_launch(gpu, spec),
        _row_pass(gpu, problem, "convert dq", {"dq_sum": problem.head_dim * FLOAT32_BYTES}, {"dq": row}),
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
        for rows, count in _runs(problem.seqlen, 128)
    ]
    spec = LaunchSpec(
        name=name,
        blocks=blocks,
        footprint=Footprint(sram_bytes=4096, warps=4),
        dtype=problem.dtype,
        efficiency=efficiency_of("stream", gpu.profile),
        num_stages=1,
    )
    return build_launch(gpu, spec)


def _runs(length: int, tile: int) -> list[tuple[int, int]]:
    """(rows of a tile, number of such tiles)."""
    full, rest = divmod(length, tile)
    return [(tile, full)] * (full > 0) + [(rest, 1)] * (rest > 0)


def cache_write(gpu: Gpu, problem: Problem) -> Launch:
    """vLLM's reshape_and_cache: the new tokens' K and V, just made by the projection, into their pages."""
    row = problem.head_dim * problem.element_bytes
    size = problem.kv_heads * min(problem.seqlen, problem.seqlen_kv) * row
    reads, writes = {"k_new": size, "v_new": size}, {"k": size, "v": size}
    return stream(gpu, efficiency_of("stream", gpu.profile), "cache write", reads, writes, is_warm=True)


def extra_bytes(problem: Problem, launches: Sequence[Launch], direction: str) -> int:
    """The log-sum-exp of a row; backward also its delta, and dQ's float32 sum."""
    del launches
    rows, is_forward = problem.heads * problem.seqlen, direction == "forward"
    statistics = (1 if is_forward else 2) * rows * STATISTIC_BYTES
    return statistics + (0 if is_forward else rows * problem.head_dim * FLOAT32_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashKernels:
    """One generation's tiles and efficiencies; ``launches`` is what an ``Algorithm`` names.

    ``layout``: what the kernel's warps ask of a tile that a scenario states; none where no source says it.
    """

    forward_tiles: Callable[[Gpu], HeadTable]
    backward_tiles: HeadTable
    dense: Fitted
    paged: Fitted
    roles: WarpRoles = ALL_COMPUTE
    layout: Layout | None = None

    def launches(self, gpu: Gpu, problem: Problem, tile: Tile, direction: Direction) -> list[Launch]:
        """The kernels of one direction, their tiles cut to fit; paged: the cache is written first."""
        efficiency = (self.paged if problem.is_paged else self.dense).on(gpu.profile, direction)
        if direction == "backward":
            sizes = tiles_of(self.backward_tiles, problem.head_dim, tile)
            own = tiles_of(self.backward_tiles, problem.head_dim, Tile())
            check_layout(self.layout, problem, sizes, own, direction)
            sizes = fitting(gpu, sizes, tile, partial(backward_footprint, problem, roles=self.roles))
            return backward(gpu, problem, sizes, efficiency, self.roles)
        sizes = tiles_of(self.forward_tiles(gpu), problem.head_dim, tile)
        own = tiles_of(self.forward_tiles(gpu), problem.head_dim, Tile())
        check_layout(self.layout, problem, sizes, own, direction)
        sizes = fitting(gpu, sizes, tile, partial(forward_footprint, problem, roles=self.roles))
        written = [cache_write(gpu, problem)] if problem.is_paged else []
        return [*written, *forward(gpu, problem, sizes, efficiency, self.roles)]


# (block_m, block_n, num_stages, num_warps) by the largest head_dim they serve: the published kernels' sizes
# (flash-attention 2.7 flash_fwd_launch_template.h and flash_bwd_launch_template.h, hopper/tile_size.h).
_FLASH_2_FORWARD = {64: (128, 128, 1, 4), 128: (128, 64, 1, 4), 256: (64, 64, 1, 4), 1024: (64, 32, 1, 8)}
_FLASH_2_BACKWARD = {64: (128, 128, 1, 8), 128: (64, 128, 1, 8), 256: (64, 64, 1, 8), 1024: (32, 32, 1, 8)}
_FLASH_3_FORWARD = {
    64: (192, 128, 2, 16),
    128: (128, 128, 2, 12),
    192: (128, 96, 2, 12),
    256: (128, 80, 2, 12),
}
_FLASH_3_BACKWARD = {64: (128, 128, 2, 12), 128: (64, 128, 2, 12), 256: (64, 80, 1, 12)}
_SMALL_FORWARD = {64: (128, 128, 1, 4), 128: (128, 32, 1, 4), 256: (64, 32, 1, 4), 1024: (32, 32, 1, 4)}

_TIMINGS = "causal prefill timings of AIConfigurator@095f58a (vLLM), 150 rows; on 300 others"

FLASH_2 = Fitted(
    name="flash_attention_2",
    forward={
        "Ampere": Efficiency(
            tensor_fraction=0.95,
            exposed_fraction=0.4,
            source=f"fitted with its backward; median error 2 % over 24 rows of {FLASH_2_FIGURES}",
        ),
        "Hopper": Efficiency(
            tensor_fraction=0.6,
            exposed_fraction=0.2,
            source=f"fitted; median error 8 % over 24 rows of {FLASH_3_FIGURES}",
        ),
    },
    backward={
        "Ampere": Efficiency(
            tensor_fraction=0.95,
            exposed_fraction=0.4,
            source=f"fitted with its forward; median error 2 % over 24 rows of {FLASH_2_FIGURES}",
        ),
        "Hopper": Efficiency(
            tensor_fraction=0.55,
            exposed_fraction=1.0,
            source=f"fitted; median error 4 % over 24 rows of {FLASH_2_FIGURES}, forward included",
        ),
    },
)
FLASH_3 = Fitted(
    name="flash_attention_3",
    forward={
        "Hopper": Efficiency(
            tensor_fraction=0.95,
            exposed_fraction=0.6,
            source=f"fitted; median error 3 % over 24 rows of {FLASH_3_FIGURES}",
        ),
    },
    backward={
        "Hopper": Efficiency(
            tensor_fraction=0.8,
            exposed_fraction=0.6,
            source="assumed: no backward curve was read; FlashAttention-3 says 1.5 to 1.75 times FA-2's",
        ),
    },
)
TRTLLM = Fitted(
    name="flash_trtllm",
    forward={
        "Blackwell": Efficiency(
            tensor_fraction=0.93,
            exposed_fraction=0.534,
            source="borrowed from its paged timings, without their launch cost",
        ),
    },
)
FLASH_2_PAGED = Fitted(
    name="flash_attention_2_paged",
    forward={
        "Ampere": Efficiency(
            tensor_fraction=0.913,
            exposed_fraction=0.451,
            memory_fraction=0.758,
            start_s=1.06e-6,
            block_start_s=3.04e-6,
            block_end_s=1.52e-6,
            source=f"fitted to {_TIMINGS}: median error 9 % (A100 SXM)",
        ),
        "Ada": Efficiency(
            tensor_fraction=0.826,
            exposed_fraction=0.892,
            memory_fraction=0.561,
            start_s=1.0e-6,
            block_start_s=1.99e-6,
            block_end_s=1.0e-6,
            source=f"fitted to {_TIMINGS}: median error 13 % (L40S)",
        ),
    },
)
FLASH_3_PAGED = Fitted(
    name="flash_attention_3_paged",
    forward={
        "Hopper": Efficiency(
            tensor_fraction=0.902,
            exposed_fraction=0.509,
            memory_fraction=0.711,
            start_s=5.2e-6,
            block_start_s=2.83e-6,
            block_end_s=1.41e-6,
            source=f"fitted to {_TIMINGS}: median error 10 % (H100 SXM)",
        ),
    },
)
TRTLLM_PAGED = Fitted(
    name="flash_trtllm_paged",
    forward={
        "Blackwell": Efficiency(
            tensor_fraction=0.93,
            exposed_fraction=0.534,
            memory_fraction=0.516,
            start_s=4.8e-6,
            block_start_s=1.55e-6,
            block_end_s=0.78e-6,
            source=f"fitted to {_TIMINGS}: median error 11 % (B200 SXM)",
        ),
    },
)


def _flash_2_forward(gpu: Gpu) -> HeadTable:
    return _FLASH_2_FORWARD if gpu.sram_bytes_per_block >= LARGE_SRAM else _SMALL_FORWARD


_KERNELS_2 = FlashKernels(
    forward_tiles=_flash_2_forward,
    backward_tiles=_FLASH_2_BACKWARD,
    dense=FLASH_2,
    paged=FLASH_2_PAGED,
    layout=layout_of_warps,
)
_KERNELS_3 = FlashKernels(
    forward_tiles=lambda _: _FLASH_3_FORWARD,
    backward_tiles=_FLASH_3_BACKWARD,
    dense=FLASH_3,
    paged=FLASH_3_PAGED,
    roles=WarpRoles(producer_warps=LOADING_WARPS),
    layout=layout_of_warpgroups,
)
_KERNELS_TRTLLM = FlashKernels(
    forward_tiles=lambda _: _FLASH_3_FORWARD,
    backward_tiles=_FLASH_3_BACKWARD,
    dense=TRTLLM,
    paged=TRTLLM_PAGED,
    roles=WarpRoles(in_tensor_memory=True),
)
FLASH_ATTENTION_2 = Algorithm(
    # FlashAttention 2: a block per tile of queries
    launches=_KERNELS_2.launches,
    extra_bytes=extra_bytes,
    generation=FLASH_2,
    paged=FLASH_2_PAGED,
    in_training_step=True,
)
FLASH_ATTENTION_3 = Algorithm(
    # FlashAttention 3: asynchronous loads, heads of a group packed into a tile
    launches=_KERNELS_3.launches,
    extra_bytes=extra_bytes,
    generation=FLASH_3,
    paged=FLASH_3_PAGED,
    packs_heads=True,
    in_training_step=True,
)
FLASH_TRTLLM = Algorithm(
    # TensorRT-LLM's kernels, which vLLM takes on Blackwell
    launches=_KERNELS_TRTLLM.launches,
    extra_bytes=extra_bytes,
    generation=TRTLLM,
    paged=TRTLLM_PAGED,
)
