"""How fast blocks advance while nothing changes: SMs and the memory system shared by the running blocks.

An SM's units are shared equally by its resident blocks. The memory system (L2 and HBM behind it) serves
every block at the same rate at most: the highest one at which all demands together stay within its
bandwidth (max-min fairness). One function prices the running blocks for the grouped and the
block-by-block device, so both see the same integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from math import sqrt
from typing import Literal

from sim.kernel.launches import Cost
from sim.scenario.dataclass import dataclass

UNIT = 1 << 64  # progress of one iteration; rates are whole units per picosecond
PS_PER_S = 1_000_000_000_000
_HALVINGS = 48

Bound = Literal["compute", "memory", "latency"]
BOUNDS: tuple[Bound, ...] = ("compute", "memory", "latency")


@dataclass(frozen=True, slots=True)
class Running:
    """Blocks in the same phase with equally many neighbours on their SM.

    A device asks its dicts for them at every decision: they are hashed once.
    """

    cost: Cost
    residents: int
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.cost, self.residents)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Progress units per picosecond, and what holds the blocks back."""

    units_per_ps: int
    bound: Bound


def compute_s(cost: Cost, residents: int) -> float:
    """An iteration's compute time: the SM's units shared by its residents.

    residents · max(vector, tensor + exposed · vector): softmax follows the matrix product, and other
    warps hide it but for its exposed share; neither unit is oversubscribed.
    """
    together = cost.tensor_s + cost.exposed_fraction * cost.vector_s
    return residents * max(cost.vector_s, together)


def rates(demands: Sequence[tuple[Running, int]], sm_share: float) -> list[Rate]:
    """The rate of each group of ``demands`` (who, how many), in order.

    ``sm_share``: the largest share of the memory system that one SM can draw.
    """
    fixed = [_fixed_s(running) for running, _ in demands]
    level = _memory_level(demands, fixed, sm_share)
    return [
        _rate(running, fixed_s, _memory_s(running, level, sm_share), is_full=level < 1.0)
        for (running, _), fixed_s in zip(demands, fixed, strict=True)
    ]


def _fixed_s(running: Running) -> tuple[float, float]:
    """Compute seconds, and latency that is not hidden."""
    cost = running.cost
    latency = cost.latency_s if cost.num_stages < 2 else cost.latency_s / (cost.num_stages - 1)
    return compute_s(cost, running.residents), latency


def _memory_s(running: Running, level: float, sm_share: float) -> float:
    return running.cost.memory_s / min(level, sm_share / running.residents)


def _iteration_s(cost: Cost, fixed: tuple[float, float], memory_s: float) -> float:
    return sum(fixed) + memory_s if cost.num_stages < 2 else max(*fixed, memory_s)


def _memory_level(
    demands: Sequence[tuple[Running, int]], fixed: Sequence[tuple[float, float]], sm_share: float
) -> float:
    """The largest share of the memory system per block at which the whole is not overdrawn."""

    terms = [
        (
            count * running.cost.memory_s,
            running.cost.memory_s,
            sm_share / running.residents,
            running.cost.num_stages < 2,
            sum(fixed_s) if running.cost.num_stages < 2 else max(fixed_s),
        )
        for (running, count), fixed_s in zip(demands, fixed, strict=True)
        if running.cost.memory_s
    ]

    def drawn(level: float) -> float:
        """(``_iteration_s``, with what does not depend on the level taken out.)"""
        total = 0.0
        for product, memory_s, most, is_in_turn, others_s in terms:
            loads_s = memory_s / (level if level < most else most)
            if is_in_turn:
                total += product / (others_s + loads_s)
            else:
                total += product / (others_s if others_s > loads_s else loads_s)
        return total

    if drawn(1.0) <= 1.0:
        return 1.0
    low, high = 1e-9, 1.0
    for _ in range(_HALVINGS):
        middle = sqrt(low * high)
        low, high = (middle, high) if drawn(middle) <= 1.0 else (low, middle)
    return low


def _rate(running: Running, fixed: tuple[float, float], memory_s: float, *, is_full: bool) -> Rate:
    """Where the memory system is full (``is_full``), a block that loads and then computes waits for it,
    however long it computes: a faster SM would only wait longer."""
    seconds = _iteration_s(running.cost, fixed, memory_s)
    terms = (fixed[0], memory_s, fixed[1])
    bound = BOUNDS[terms.index(max(terms))]
    if is_full and running.cost.num_stages < 2 and running.cost.memory_s:
        bound = "memory"
    return Rate(units_per_ps=max(1, round(UNIT / max(seconds * PS_PER_S, 1.0))), bound=bound)


def demand_order(demand: tuple[Running, int]) -> tuple[float, ...]:
    """Demands sorted by their numbers alone: sums come out the same however they were met."""
    cost = demand[0].cost
    return (
        demand[0].residents,
        cost.tensor_s,
        cost.vector_s,
        cost.memory_s,
        cost.latency_s,
        cost.exposed_fraction,
        cost.num_stages,
    )
