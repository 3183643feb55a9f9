"""What a launch leaves behind. Times are integer picoseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

from sim.kernel.rates import BOUNDS
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One iteration of one block on its SM (kept with ``trace: true``)."""

    block: int
    sm: int
    phase: str
    index: int
    start_ps: int
    end_ps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRecord:
    """One launch as it ran.

    ``num_decisions``: moments after the start at which blocks changed phase or ended and the others' pace
    changed. ``bound_ps``: block-time by what held the blocks back. ``resident``: (time, resident blocks) at
    every change. ``spans``: (start, end, SM) of every block, sorted; empty unless asked for.
    """

    name: str
    start_ps: int
    end_ps: int
    bound_ps: Mapping[str, int]
    resident: tuple[tuple[int, int], ...]
    num_decisions: int
    spans: tuple[tuple[int, int, int], ...] = ()
    tiles: tuple[Tile, ...] = ()

    @property
    def block_ps(self) -> int:
        """Block-time: the integral of resident blocks."""
        return sum(self.bound_ps.values())

    def stretched(self, repeats: int) -> LaunchRecord:
        """So many times one after another; what was resident is kept as one, longer, time."""
        if repeats == 1:
            return self
        return replace(
            self,
            end_ps=self.start_ps + repeats * (self.end_ps - self.start_ps),
            bound_ps={bound: repeats * spent for bound, spent in self.bound_ps.items()},
            resident=tuple((self.start_ps + repeats * (at - self.start_ps), n) for at, n in self.resident),
        )


@dataclass(slots=True)
class Ledger:
    """The record while it is written."""

    bound_ps: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BOUNDS, 0))
    resident: list[tuple[int, int]] = field(default_factory=list)
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    num_decisions: int = 0

    def note_resident(self, time_ps: int, count: int) -> None:
        """Resident blocks from ``time_ps`` on."""
        if self.resident and self.resident[-1][0] == time_ps:
            self.resident.pop()
        if not self.resident or self.resident[-1][1] != count:
            self.resident.append((time_ps, count))

    def close(self, name: str, start_ps: int, end_ps: int) -> LaunchRecord:
        """The finished record."""
        return LaunchRecord(
            name=name,
            start_ps=start_ps,
            end_ps=end_ps,
            bound_ps=dict(self.bound_ps),
            resident=tuple(self.resident),
            num_decisions=self.num_decisions,
            spans=tuple(sorted(self.spans)),
            tiles=tuple(
                sorted(self.tiles, key=lambda tile: (tile.sm, tile.start_ps, tile.block, tile.index))
            ),
        )
