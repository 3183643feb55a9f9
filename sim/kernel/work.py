"""What the device is asked to run: launches of thread blocks, each a few phases of equal iterations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


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
    repeats: int = 1  # so often one after another (the layers of a model); bytes and FLOPs are of all of them
    assumed: str = ""  # what its efficiency takes from another architecture

    @property
    def num_blocks(self) -> int:
        """Thread blocks in the grid, of one time."""
        return sum(count for _, count in self.grid)


def repeated(launch: Launch, repeats: int, name: str) -> Launch:
    """The same launch so many times, under a name."""
    return replace(
        launch,
        name=name,
        repeats=launch.repeats * repeats,
        flops=launch.flops * repeats,
        reads={tensor: size * repeats for tensor, size in launch.reads.items()},
        writes={tensor: size * repeats for tensor, size in launch.writes.items()},
        from_hbm_bytes=launch.from_hbm_bytes * repeats,
    )
