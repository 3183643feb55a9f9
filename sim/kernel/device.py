"""The device that skips time: identical blocks advance as one group, from decision to decision.

A decision is a block's change of phase or its end. Between decisions nothing changes, so every rate is
constant and one SimPy timeout jumps to the next. ``sim.kernel.every_block`` is the reference: one
process per block, one event per tile; both agree on every picosecond. A freed SM takes the next block.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from simpy import Environment, Event

from sim.kernel.launches import BlockKind, Cost, Launch
from sim.kernel.rates import UNIT, Rate, Running, demand_order, rates
from sim.kernel.records import LaunchRecord, Ledger

by_order = attrgetter("order")


class Grid:
    """The blocks that have not started, in launch order."""

    def __init__(self, launch: Launch) -> None:
        self._runs = [(kind, count) for kind, count in launch.grid if count > 0]
        self._run = 0
        self._taken = 0
        self.left = launch.num_blocks

    def take_all(self, count: int) -> BlockKind | None:
        """The kind of the next ``count`` blocks, taken, if they are identical; else None."""
        if self.left < count:
            return None
        kind, whole = self._runs[self._run]
        if whole - self._taken < count:
            return None
        self.take(count)
        return kind

    def take(self, most: int) -> tuple[BlockKind, int]:
        """Up to ``most`` identical blocks from the front."""
        kind, count = self._runs[self._run]
        taken = min(most, count - self._taken)
        self._taken += taken
        self.left -= taken
        if self._taken == count:
            self._run, self._taken = self._run + 1, 0
        return kind, taken


def place(
    grid: Grid, residents: list[int], blocks_per_sm: int, sms: Sequence[int]
) -> Iterator[tuple[BlockKind, list[int]]]:
    """The blocks that start now on ``sms``, run by run: fewest residents first, then lowest number.

    ``residents`` is brought up to date.
    """
    heap = [(residents[sm], sm) for sm in sms if residents[sm] < blocks_per_sm]
    heapq.heapify(heap)
    free = sum(blocks_per_sm - held for held, _ in heap)
    while free and grid.left:
        kind, count = grid.take(free)
        free -= count
        chosen = []
        for _ in range(count):
            held, sm = heap[0]
            residents[sm] = held + 1
            if held + 1 < blocks_per_sm:
                heapq.heapreplace(heap, (held + 1, sm))
            else:
                heapq.heappop(heap)
            chosen.append(sm)
        yield kind, chosen


@dataclass(slots=True)
class Group:
    """Blocks of one kind in one phase that will end it together."""

    kind: BlockKind
    phase: int
    residents: int
    start_ps: int
    target: int
    sms: list[int]
    is_gone: bool = False


@dataclass(slots=True, eq=False)
class Pace:
    """Blocks of one signature advance at one rate: a clock of progress, and marks on it."""

    running: Running
    number: int
    order: tuple[float, ...]
    clock: int = 0
    count: int = 0
    marks: list[tuple[int, int, Group]] = field(default_factory=list)


class GroupedDevice:
    """Runs one launch on ``sm_count`` SMs."""

    def __init__(self, env: Environment, launch: Launch, sm_count: int) -> None:
        self._env, self._launch = env, launch
        self._grid, self._ledger = Grid(launch), Ledger()
        self._residents = [0] * sm_count
        self._paces: dict[Running, Pace] = {}
        self._pace_of: dict[
            tuple[int, int], Pace
        ] = {}  # by the cost's identity, which is quick, and residents
        self._known: dict[tuple[tuple[int, int], ...], list[Rate]] = {}
        self._serial = 0
        self.keeps_spans = False

    def run(self) -> Generator[Event, object, LaunchRecord]:
        """A SimPy process: from the first block's start to the last one's end."""
        start_ps = int(self._env.now)
        self._start_blocks(range(len(self._residents)))
        while live := self._live():
            demands = tuple([(pace.number, pace.count) for pace in live])
            found = self._known.get(demands)
            if found is None:
                found = rates([(pace.running, pace.count) for pace in live], self._launch.sm_share)
                self._known[demands] = found
            yield self._env.timeout(self._advance(live, found))
            self._ledger.num_decisions += 1
            self._settle()
        return self._ledger.close(self._launch.name, start_ps, int(self._env.now))

    def _live(self) -> list[Pace]:
        """Who runs, in an order that both devices share."""
        live = [pace for pace in self._paces.values() if pace.count]
        if len(live) > 1:
            live.sort(key=by_order)
        return live

    def _advance(self, live: list[Pace], found: list[Rate]) -> int:
        """Time to the next decision; clocks and integrals are moved there."""
        wait = min(
            [
                -(-(_first_mark(pace) - pace.clock) // rate.units_per_ps)
                for pace, rate in zip(live, found, strict=True)
            ]
        )
        bound_ps = self._ledger.bound_ps
        for pace, rate in zip(live, found, strict=True):
            pace.clock += rate.units_per_ps * wait
            bound_ps[rate.bound] += pace.count * wait
        return wait

    def _settle(self) -> None:
        """Everything that ends now, then everything that starts."""
        now, freed = int(self._env.now), []
        ended = [group for pace in self._paces.values() if pace.marks for group in _ended(pace)]
        going_on = [group for group in ended if group.phase + 1 < len(group.kind.phases)]
        for group in ended:
            if group.phase + 1 == len(group.kind.phases):
                freed.extend(group.sms)
                if self.keeps_spans:
                    self._ledger.spans.extend((group.start_ps, now, sm) for sm in group.sms)
        # Those that go on join their old neighbours' signature first; what then changes is regrouped.
        for group in going_on:
            self._push(group, group.phase + 1, group.residents, group.sms)
        if freed:
            self._start_blocks(freed)

    def _start_blocks(self, freed: range | list[int]) -> None:
        """Fill the freed slots; blocks whose number of neighbours changes get another pace."""
        now, residents = int(self._env.now), self._residents
        # While blocks wait every slot is taken, so identical successors leave all else as it was.
        successor = self._grid.take_all(len(freed)) if isinstance(freed, list) else None
        if successor is not None and isinstance(freed, list):
            group = Group(successor, 0, 0, now, 0, freed)
            self._push(group, 0, self._launch.blocks_per_sm, freed)
            return
        sms = sorted(set(freed))
        before = {sm: residents[sm] for sm in sms}
        if isinstance(freed, list):
            for sm in freed:
                residents[sm] -= 1
        for kind, chosen in list(place(self._grid, residents, self._launch.blocks_per_sm, sms)):
            group = Group(kind, 0, 0, now, 0, chosen)
            for held, members in self._by_residents(chosen).items():
                self._push(group, 0, held, members)
        changed = {sm for sm in sms if residents[sm] != before[sm] and before[sm]}
        if changed:
            self._regroup(changed)
        self._ledger.note_resident(now, sum(residents))

    def _by_residents(self, sms: list[int]) -> dict[int, list[int]]:
        members: dict[int, list[int]] = defaultdict(list)
        for sm in sms:
            members[self._residents[sm]].append(sm)
        return members

    def _push(self, old: Group, phase: int, residents: int, sms: list[int], left: int = -1) -> None:
        """``sms``' blocks have ``left`` units of progress to go in ``phase`` (all of it, by default)."""
        now = old.kind.phases[phase]
        pace = self._pace_of.get((id(now.cost), residents)) or self._new_pace(now.cost, residents)
        target = pace.clock + (left if left >= 0 else now.iterations * UNIT)
        self._serial += 1
        group = Group(old.kind, phase, residents, old.start_ps, target, sms)
        heapq.heappush(pace.marks, (target, self._serial, group))
        pace.count += len(sms)

    def _new_pace(self, cost: Cost, residents: int) -> Pace:
        """That of an equal cost, if there is one."""
        running = Running(cost, residents)
        pace = self._paces.get(running)
        if pace is None:
            pace = Pace(running, len(self._paces), demand_order((running, 0)))
            self._paces[running] = pace
        self._pace_of[id(cost), residents] = pace
        return pace

    def _regroup(self, changed: set[int]) -> None:
        """Blocks on ``changed`` SMs have other neighbours now: they go on at another rate."""
        for pace in list(self._paces.values()):
            for _, _, group in list(pace.marks):
                if group.is_gone or changed.isdisjoint(group.sms):
                    continue
                moved = [sm for sm in group.sms if sm in changed and self._residents[sm] != group.residents]
                if moved:
                    self._split(pace, group, moved)

    def _split(self, pace: Pace, group: Group, moved: list[int]) -> None:
        left, gone = group.target - pace.clock, set(moved)
        pace.count -= len(moved)
        group.sms = [sm for sm in group.sms if sm not in gone]
        group.is_gone = not group.sms
        for held, members in self._by_residents(moved).items():
            self._push(group, group.phase, held, members, left)


def _first_mark(pace: Pace) -> int:
    marks = pace.marks
    while marks[0][2].is_gone:
        heapq.heappop(marks)
    return marks[0][0]


def _ended(pace: Pace) -> list[Group]:
    """Those whose marks its clock has reached."""
    marks, now, ended = pace.marks, pace.clock, []
    while marks and (marks[0][2].is_gone or marks[0][0] <= now):
        group = heapq.heappop(marks)[2]
        if not group.is_gone:
            pace.count -= len(group.sms)
            ended.append(group)
    return ended
