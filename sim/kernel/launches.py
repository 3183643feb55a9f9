"""What the device is asked to run: launches of thread blocks, each a few phases of equal iterations.

``build_launch`` makes one from what its blocks load, compute and store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import field, replace

from sim.kernel.gpu import MEMORY_LATENCY_S, Efficiency, Footprint, Gpu, blocks_per_sm
from sim.price.figures import NOTHING, Used
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one iteration of one thread block asks of its SM and of the memory system.

    ``tensor_s`` and ``vector_s`` are seconds of the whole SM. ``memory_s`` is seconds of the device's whole
    memory system (the slower of L2 and HBM for these bytes). ``exposed_fraction``: the share of vector work
    that other warps do not hide behind the tensor cores. With ``num_stages`` of 2 or more the next tile is
    loaded while this one is computed; with 1 the block waits for it.
    """

    tensor_s: float = 0.0
    vector_s: float = 0.0
    memory_s: float = 0.0
    latency_s: float = 0.0
    exposed_fraction: float = 1.0
    num_stages: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """``iterations`` times the same cost, one after another."""

    name: str
    iterations: int
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockKind:
    """A thread block: its phases in order. Blocks of one kind are identical."""

    name: str
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One kernel launch. Blocks start in the order of ``grid``, runs of identical blocks.

    ``reads`` and ``writes`` are bytes by tensor that cross between SRAM and device memory, as
    FlashAttention's Theorem 2 counts accesses; ``from_hbm_bytes`` is what of them L2 does not serve.
    """

    name: str
    grid: tuple[tuple[BlockKind, int], ...]
    sram_bytes_per_block: int
    warps_per_block: int
    blocks_per_sm: int
    start_s: float
    sm_share: float = 1.0  # the largest share of the memory system that one SM can draw
    flops: float = 0.0
    reads: Mapping[str, int] = field(default_factory=dict)
    writes: Mapping[str, int] = field(default_factory=dict)
    from_hbm_bytes: float = 0.0
    is_limited_by_l2: bool = False  # its bytes take longer through L2 than those of them that HBM moves
    repeats: int = 1  # so often one after another (the layers of a model); bytes and FLOPs are of all of them
    used: Used = NOTHING  # what its efficiency takes of the device's figures
    tile: str = ""  # of an attention, in words: "128 x 64, 4 warps"

    @property
    def num_blocks(self) -> int:
        """Thread blocks in the grid, of one time."""
        return sum(count for _, count in self.grid)

    @property
    def loads_ahead(self) -> bool:
        """Whether the next tile is loaded while one is computed."""
        return any(phase.cost.num_stages > 1 for kind, _ in self.grid for phase in kind.phases)


def repeated(launch: Launch, repeats: int, name: str) -> Launch:
    """The launch ``repeats`` times in a row, as one launch called ``name``."""
    return replace(
        launch,
        name=name,
        repeats=launch.repeats * repeats,
        flops=launch.flops * repeats,
        reads={tensor: size * repeats for tensor, size in launch.reads.items()},
        writes={tensor: size * repeats for tensor, size in launch.writes.items()},
        from_hbm_bytes=launch.from_hbm_bytes * repeats,
    )


Bytes = Mapping[str, int]  # by tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """``count`` identical thread blocks: what each moves and computes, in all its iterations."""

    name: str
    count: int
    iterations: int
    first: Bytes = field(default_factory=dict)  # loaded before the loop
    loop: Bytes = field(default_factory=dict)  # loaded in the loop
    loop_writes: Bytes = field(default_factory=dict)
    last: Bytes = field(default_factory=dict)  # stored after the loop
    flops: float = 0.0  # of the tensor cores, tile edges included
    exponentials: float = 0.0
    vector_ops: float = 0.0  # FP32 instructions, per lane


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """One launch before it is priced. ``hbm_footprint``: bytes by tensor that cross L2 at least; a tensor
    that is not named crosses it as often as it is accessed."""

    name: str
    blocks: Sequence[BlockSpec]
    footprint: Footprint
    dtype: str
    efficiency: Efficiency
    num_stages: int
    flops: float = 0.0  # useful ones
    shared: Mapping[str, Shared] = field(default_factory=dict)
    # Library products read each operand once from HBM, their tiles' reuse is L2's: so counts the paper.
    counted_once: frozenset[str] = frozenset()
    from_l2_fraction: float = 1.0
    memory_fraction: float = 1.0  # of streaming bandwidth that this kernel's access pattern reaches
    tile: str = ""  # in words
    is_warm: bool = False  # the kernel before it has just written the inputs: L2 has them if all fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A tensor that is read more than once: ``size_bytes`` of it, each byte by ``readers`` blocks."""

    size_bytes: int
    readers: int
    by_one_block: bool = False  # the same block comes back to it


def build_launch(gpu: Gpu, spec: LaunchSpec) -> Launch:
    """The launch with its occupancy and every block's cost."""
    held = blocks_per_sm(gpu, spec.footprint, spec.name)
    reads, writes = totals_of(spec.blocks)
    from_hbm = _from_hbm(gpu, spec, held, reads, writes)
    total = sum(reads.values()) + sum(writes.values())
    miss = from_hbm / total if total else 0.0
    for tensor in spec.counted_once:
        reads[tensor] = min(reads[tensor], spec.shared[tensor].size_bytes)
    grid = tuple((_kind(gpu, spec, block, miss), block.count) for block in spec.blocks if block.count)
    return Launch(
        name=spec.name,
        grid=grid,
        sram_bytes_per_block=spec.footprint.sram_bytes,
        warps_per_block=spec.footprint.warps,
        blocks_per_sm=held,
        start_s=spec.efficiency.start_s,
        sm_share=gpu.sm_share(miss) if total else 1.0,
        flops=spec.flops,
        reads=reads,
        writes=writes,
        from_hbm_bytes=from_hbm,
        is_limited_by_l2=gpu.is_limited_by_l2(miss, spec.from_l2_fraction),
        used=spec.efficiency.used,
        tile=spec.tile,
    )


def totals_of(blocks: Sequence[BlockSpec]) -> tuple[dict[str, int], dict[str, int]]:
    """(bytes read, bytes written) by tensor, all blocks."""
    reads: dict[str, int] = defaultdict(int)
    writes: dict[str, int] = defaultdict(int)
    for block in blocks:
        for sizes, totals in (
            (block.first, reads),
            (block.loop, reads),
            (block.loop_writes, writes),
            (block.last, writes),
        ):
            for tensor, size in sizes.items():
                totals[tensor] += size * block.count
    return dict(reads), dict(writes)


def _from_hbm(
    gpu: Gpu, spec: LaunchSpec, held: int, reads: Mapping[str, int], writes: Mapping[str, int]
) -> float:
    """Bytes that L2 does not serve.

    What running blocks share passes L2 once if it fits; if not, blocks that run together still read in
    step, so that one load serves all of them. Not modelled: conflicts, other kernels' data left in L2.
    """
    num_blocks = max(1, sum(block.count for block in spec.blocks))
    together = min(num_blocks, held * gpu.sm_count)
    active = sum(shared.size_bytes for shared in spec.shared.values()) * together / num_blocks
    if spec.is_warm and _distinct_bytes(spec, reads, writes) <= gpu.l2_bytes:
        return 0.0
    total = 0.0
    for tensor in {**reads, **writes}:
        moved = reads.get(tensor, 0) + writes.get(tensor, 0)
        shared = spec.shared.get(tensor)
        if shared is None:
            total += moved
        elif active <= gpu.l2_bytes:
            total += min(moved, shared.size_bytes)
        elif shared.by_one_block:
            total += moved
        else:
            total += max(min(moved, shared.size_bytes), moved / min(together, shared.readers))
    return total


def _distinct_bytes(spec: LaunchSpec, reads: Mapping[str, int], writes: Mapping[str, int]) -> int:
    """Each tensor once, however often it is accessed."""
    total = 0
    for tensor in {**reads, **writes}:
        moved, shared = reads.get(tensor, 0) + writes.get(tensor, 0), spec.shared.get(tensor)
        total += moved if shared is None else min(moved, shared.size_bytes)
    return total


def _kind(gpu: Gpu, spec: LaunchSpec, block: BlockSpec, miss: float) -> BlockKind:
    """Three phases: fill the pipeline, the loop, the store."""
    efficiency, n = spec.efficiency, max(1, block.iterations)

    def memory_s(sizes: float) -> float:
        return gpu.memory_s(sizes, miss, spec.from_l2_fraction) / (
            spec.memory_fraction * efficiency.memory_fraction
        )

    moved = sum(block.loop.values()) + sum(block.loop_writes.values())
    rate = gpu.tensor_flops_per_s(spec.dtype) * efficiency.tensor_fraction
    vector_s = block.exponentials / gpu.exponentials_per_s + block.vector_ops / gpu.lanes_per_s
    loop = Cost(
        tensor_s=block.flops / rate / n,
        vector_s=vector_s / n,
        memory_s=memory_s(moved) / n,
        latency_s=MEMORY_LATENCY_S if moved else 0.0,
        exposed_fraction=efficiency.exposed_fraction,
        num_stages=spec.num_stages,
    )
    begin = Cost(memory_s=memory_s(sum(block.first.values())), latency_s=efficiency.block_start_s)
    end = Cost(memory_s=memory_s(sum(block.last.values())), latency_s=efficiency.block_end_s)
    phases = [Phase(name="load", iterations=1, cost=begin), Phase(name="loop", iterations=n, cost=loop)]
    if block.last:
        phases.append(Phase(name="store", iterations=1, cost=end))
    return BlockKind(name=block.name, phases=tuple(phases))


def tile_count(length: int, tile: int) -> int:
    """Tiles over a length, the last one partly empty."""
    return -(-length // tile)
