"""The reference device: one SimPy process per thread block, one event per tile. Nothing is skipped.

It is what ``trace: true`` runs, and what the grouped device is held against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from simpy import Environment, Event

from sim.kernel.device import Grid, place
from sim.kernel.launches import BlockKind, Cost, Launch, Phase
from sim.kernel.rates import UNIT, Rate, Running, demand_order, rates
from sim.kernel.records import LaunchRecord, Ledger, Tile


@dataclass(slots=True, eq=False)
class Block:
    """A running block: where it is, what it does, how fast."""

    number: int
    sm: int
    kind: BlockKind
    cost: Cost
    units_per_ps: int = 0


class BlockByBlockDevice:
    """Runs one launch on ``sm_count`` SMs."""

    def __init__(self, env: Environment, launch: Launch, sm_count: int) -> None:
        self._env, self._launch = env, launch
        self._grid, self._ledger = Grid(launch), Ledger()
        self._residents = [0] * sm_count
        self._running: list[Block] = []
        self._freed: list[int] = []
        self._rates: list[tuple[Rate, int]] = []
        self._priced_ps = 0
        self._num_started = 0
        self._is_settling = False
        self._changed, self._done = Event(env), Event(env)

    def run(self) -> Generator[Event, object, LaunchRecord]:
        """A SimPy process: from the first block's start to the last one's end."""
        start_ps = self._priced_ps = int(self._env.now)
        self._fill(range(len(self._residents)))
        self._price()
        if self._running:
            yield self._done
        return self._ledger.close(self._launch.name, start_ps, int(self._env.now))

    def _fill(self, sms: Sequence[int]) -> None:
        """Start blocks on the free slots of ``sms``."""
        for kind, chosen in place(self._grid, self._residents, self._launch.blocks_per_sm, sms):
            for sm in chosen:
                block = Block(self._num_started, sm, kind, kind.phases[0].cost)
                self._num_started += 1
                self._running.append(block)
                self._env.process(self._live(block))
        self._ledger.note_resident(int(self._env.now), sum(self._residents))

    def _live(self, block: Block) -> Generator[Event, object, None]:
        """A block's life: its phases, tile by tile."""
        start_ps = int(self._env.now)
        for index, phase in enumerate(block.kind.phases):
            if index:
                block.cost = phase.cost
                self._request_settling()
                yield self._changed
            yield from self._work(block, phase)
        self._running.remove(block)
        self._freed.append(block.sm)
        self._ledger.spans.append((start_ps, int(self._env.now), block.sm))
        self._request_settling()

    def _work(self, block: Block, phase: Phase) -> Generator[Event, object, None]:
        progress = 0
        for index in range(phase.iterations):
            begin_ps, goal = int(self._env.now), (index + 1) * UNIT
            while progress < goal:
                speed, since = block.units_per_ps, int(self._env.now)
                yield self._env.timeout(-(-(goal - progress) // speed)) | self._changed
                progress += speed * (int(self._env.now) - since)
            end_ps = int(self._env.now)
            self._ledger.tiles.append(
                Tile(
                    block=block.number,
                    sm=block.sm,
                    phase=phase.name,
                    index=index,
                    start_ps=begin_ps,
                    end_ps=end_ps,
                )
            )

    def _request_settling(self) -> None:
        """Once per instant, after every block that acts in it."""
        if self._is_settling:
            return
        self._is_settling = True
        # The blocks that act now have their events in the queue already: a new one comes after all of them.
        after_all = self._env.timeout(0)
        after_all.callbacks.append(self._settle)

    def _settle(self, _: Event) -> None:
        """Everything that ends now, then everything that starts; then every pace anew."""
        self._is_settling = False
        self._ledger.num_decisions += 1
        elapsed = int(self._env.now) - self._priced_ps
        for rate, count in self._rates:
            self._ledger.bound_ps[rate.bound] += count * elapsed
        for sm in self._freed:
            self._residents[sm] -= 1
        if self._freed:
            self._fill(sorted(set(self._freed)))
        self._freed = []
        self._price()
        changed, self._changed = self._changed, Event(self._env)
        changed.succeed()
        if not self._running:
            self._done.succeed()

    def _price(self) -> None:
        """Every running block's pace until the next change."""
        signatures = Counter(Running(block.cost, self._residents[block.sm]) for block in self._running)
        demands = sorted(signatures.items(), key=demand_order)
        found = rates(demands, self._launch.sm_share)
        self._rates = [(rate, count) for rate, (_, count) in zip(found, demands, strict=True)]
        self._priced_ps = int(self._env.now)
        speed = {running: rate for rate, (running, _) in zip(found, demands, strict=True)}
        for block in self._running:
            block.units_per_ps = speed[Running(block.cost, self._residents[block.sm])].units_per_ps
