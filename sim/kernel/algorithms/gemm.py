"""GEMM: an output tile per thread block, slices of k streaming through SRAM.

The tile is the scenario's, or the fastest of a few (the sizes of cuBLAS and CUTLASS). Whole waves and a
partly empty last one emerge from the device. Split-K gives one output tile to several blocks; their
partial sums go through HBM in float32 and a second launch adds them. Weight-only quantization loads
packed weights and dequantizes them in SRAM: vector work, then the product at the activations' rate.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.arrays import to_ps
from sim.errors import CannotRun, ScenarioError
from sim.kernel.algorithms.elementwise import stream
from sim.kernel.algorithms.flash import FLOAT32_BYTES
from sim.kernel.algorithms.problem import Gemm, Tile
from sim.kernel.gpu import DTYPE_BYTES, Efficiency, Footprint, Gpu, fits
from sim.kernel.launches import BlockSpec, Cost, Launch, LaunchSpec, Shared, build_launch, tile_count
from sim.kernel.rates import compute_s
from sim.scenario.dataclass import dataclass

# FP32 instructions per dequantized weight and use: unpack, convert, scale (two weights an instruction).
_DEQUANTIZE_OPS = 1.5
_CANDIDATES = ((128, 256), (128, 128), (64, 256), (64, 128), (64, 64), (16, 128), (16, 64))
_ATOM = 8
_SPLITS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmTile:
    """How the product is cut."""

    block_m: int
    block_n: int
    block_k: int
    num_stages: int
    num_warps: int
    num_splits: int


def gemm_launches(
    gpu: Gpu, efficiency: Efficiency, given: Gemm, tile: Tile, names: tuple[str, str, str] = ("a", "b", "c")
) -> list[Launch]:
    """The product's launches with the given tile, or with the fastest one."""
    if tile.block_m or tile.block_n or tile.num_splits:
        _check_atoms(gpu, given, tile)
        return _launches(gpu, efficiency, given, _given_tile(tile), names)
    return min(
        (_launches(gpu, efficiency, given, one, names) for one in _choices(gpu, given, tile)),
        key=lambda launches: _estimate_ps(gpu, launches),
    )


def _check_atoms(gpu: Gpu, given: Gemm, tile: Tile) -> None:
    """Every product of NVIDIA's tensor cores has a multiple of 8 rows and 8 columns (PTX ISA: mma, wgmma)."""
    if given.dtype == "float32" or gpu.profile.compute_capability is None:
        return
    for name, size in (("block_m", tile.block_m), ("block_n", tile.block_n)):
        if size and size % _ATOM:
            raise CannotRun(
                "the tensor cores cannot be laid over this tile",
                path=f"kernel.tile.{name}",
                given=size,
                allowed=f"a multiple of {_ATOM}",
                hint=f"{name}: {-(-size // _ATOM) * _ATOM}",
            )


def _given_tile(tile: Tile) -> GemmTile:
    block_m, block_n = tile.block_m or 128, tile.block_n or 128
    return GemmTile(
        block_m=block_m,
        block_n=block_n,
        block_k=tile.block_k or 64,
        num_stages=tile.num_stages or 3,
        num_warps=tile.num_warps or (8 if block_m * block_n > 8192 else 4),
        num_splits=tile.num_splits or 1,
    )


def _choices(gpu: Gpu, given: Gemm, tile: Tile) -> list[GemmTile]:
    """Tiles that fit the device; K is split only where output tiles leave SMs empty."""
    found = []
    for block_m, block_n in _CANDIDATES:
        tiles = tile_count(given.m, block_m) * tile_count(given.n, block_n) * given.batch
        for splits in _SPLITS:
            if splits > 1 and (tiles >= gpu.sm_count or given.k // splits < 256):
                continue
            one = _given_tile(
                Tile(
                    block_m=block_m,
                    block_n=block_n,
                    block_k=tile.block_k,
                    num_stages=tile.num_stages,
                    num_warps=tile.num_warps,
                    num_splits=splits,
                )
            )
            if fits(gpu, _footprint(given, one)):
                found.append(one)
    return found


def _footprint(given: Gemm, tile: GemmTile) -> Footprint:
    size = DTYPE_BYTES[given.dtype]
    weight = (given.weight_bits or 8 * size) / 8
    slices = tile.block_k * (tile.block_m * size + tile.block_n * weight)
    return Footprint(
        sram_bytes=int(tile.num_stages * slices),
        warps=tile.num_warps,
        accumulator_bytes=FLOAT32_BYTES * tile.block_m * tile.block_n,
    )


def _estimate_ps(gpu: Gpu, launches: Sequence[Launch]) -> int:
    """A whole-wave estimate: which tile to take, not how long it runs.

    In whole picoseconds, so that of tiles that memory makes alike the first is taken on every Python.
    """
    total = 0.0
    for launch in launches:
        kind, slots = launch.grid[0][0], launch.blocks_per_sm * gpu.sm_count
        waves = tile_count(launch.num_blocks, slots)
        held = min(launch.blocks_per_sm, -(-launch.num_blocks // gpu.sm_count))
        share = 1.0 / min(slots, launch.num_blocks)
        per_block = sum(
            phase.iterations * _iteration_s(phase.cost, held, share, launch) for phase in kind.phases
        )
        total += launch.start_s + waves * per_block
    return to_ps(total)


def _iteration_s(cost: Cost, held: int, share: float, launch: Launch) -> float:
    """The longest of computing, loading, and the latency that loads ahead do not hide."""
    loading = cost.memory_s / min(share, launch.sm_share)
    if cost.num_stages < 2:
        return compute_s(cost, held) + loading + cost.latency_s
    return max(compute_s(cost, held), loading, cost.latency_s / (cost.num_stages - 1))


def _launches(
    gpu: Gpu, efficiency: Efficiency, given: Gemm, tile: GemmTile, names: tuple[str, str, str]
) -> list[Launch]:
    main = LaunchSpec(
        name=f"gemm {tile.block_m}x{tile.block_n}x{tile.block_k}",
        blocks=gemm_blocks(given, tile, names),
        footprint=_footprint(given, tile),
        dtype=given.dtype,
        efficiency=efficiency,
        num_stages=tile.num_stages,
        flops=2.0 * given.m * given.n * given.k * given.batch,
        shared=_shared(given, tile, names),
        counted_once=frozenset(names[:2]),
        from_l2_fraction=gpu.multicast_fraction,
    )
    launches = [build_launch(gpu, main)]
    if tile.num_splits > 1:
        output = given.batch * given.m * given.n
        reads = {"partial": output * tile.num_splits * FLOAT32_BYTES}
        writes = {names[2]: output * DTYPE_BYTES[given.dtype]}
        launches.append(stream(gpu, efficiency, "add partial sums", reads, writes))
    return launches


def _shared(given: Gemm, tile: GemmTile, names: tuple[str, str, str]) -> dict[str, Shared]:
    size = DTYPE_BYTES[given.dtype]
    a = given.batch * given.m * given.k * size
    b = given.batch * given.n * given.k * (given.weight_bits or 8 * size) // 8
    return {
        names[0]: Shared(size_bytes=a, readers=tile_count(given.n, tile.block_n)),
        names[1]: Shared(size_bytes=b, readers=tile_count(given.m, tile.block_m)),
    }


def gemm_blocks(given: Gemm, tile: GemmTile, names: tuple[str, str, str]) -> list[BlockSpec]:
    """Full tiles, and those at the lower and right edges, which load and store less."""
    if given.k < tile.num_splits:
        raise ScenarioError(
            "more splits than the summed dimension has values",
            path="kernel.tile.num_splits",
            given=tile.num_splits,
            allowed=f"at most k ({given.k})",
        )
    found = []
    for rows, down in edges(given.m, tile.block_m):
        for columns, across in edges(given.n, tile.block_n):
            for depth, splits in edges_of_split(given.k, tile.num_splits):
                count = given.batch * down * across * splits
                found.append(_block(given, tile, names, (rows, columns, depth, count)))
    return found


def _block(
    given: Gemm, tile: GemmTile, names: tuple[str, str, str], part: tuple[int, int, int, int]
) -> BlockSpec:
    rows, columns, depth, count = part
    size = DTYPE_BYTES[given.dtype]
    weight_bits = given.weight_bits or 8 * size
    is_partial = tile.num_splits > 1
    stored = rows * columns * (FLOAT32_BYTES if is_partial else size)
    iterations = tile_count(depth, tile.block_k)
    return BlockSpec(
        name=f"{rows}x{columns}",
        count=count,
        iterations=iterations,
        loop={names[0]: rows * depth * size, names[1]: columns * depth * weight_bits // 8},
        last={"partial" if is_partial else names[2]: stored},
        flops=2.0 * tile.block_m * tile.block_n * iterations * tile.block_k,
        vector_ops=_DEQUANTIZE_OPS * columns * depth if given.weight_bits else 0.0,
    )


def edges(length: int, tile: int) -> list[tuple[int, int]]:
    """(length of a tile, how many): the full ones, then the last one where it is shorter."""
    full, rest = divmod(length, tile)
    return [(tile, full)] * (full > 0) + [(rest, 1)] * (rest > 0)


def edges_of_split(length: int, parts: int) -> list[tuple[int, int]]:
    """``length`` in ``parts`` as equal as can be: (length of a part, how many)."""
    small, larger = divmod(length, parts)
    return [(small + 1, larger)] * (larger > 0) + [(small, parts - larger)] * (parts > larger)
