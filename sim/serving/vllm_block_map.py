"""vLLM's KV blocks over time: owned, shared, cached with no owner, and evicted.

Kept only where a report asks for it. What a block is changes when a request gets it (a fresh block, or a hit
of the prefix cache) and when one gives it back; neighbouring blocks that began and end together are one
rectangle. Inside a jump the step in which a decoding request takes its next block follows from its length;
on the fast path the map hands these blocks out itself (``note_plan``, ``note_steps``), so that each request
has those that it would have step by step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from sim.serving.decoding import DecodeBatch
from sim.serving.records import CACHED, EVICTED, MAX_RECTANGLES, OWNED, SHARED, BlockMap
from sim.serving.request import Request
from sim.serving.scheduler import Step
from sim.serving.vllm.kv import FreeBlocks, KVCache
from sim.serving.vllm.plan import Plan

Begun = tuple[int, int, Request]
"""(since when, what it is, whose content it holds: the first owner's)."""


class VllmBlockMapRecorder:
    """Rectangles of one replica, the first ``limit`` of them."""

    def __init__(self, replica: int, limit: int = MAX_RECTANGLES) -> None:
        self.replica = replica
        self.limit = limit
        self.is_truncated = False
        self._begun: dict[int, Begun] = {}
        self._owners: dict[int, list[Request]] = {}
        self._num_known: dict[Request, list[int]] = {}  # by KV-cache group
        self._ended: list[tuple[int, int, int, int]] = []  # since when, kind, request, block
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._now_ps = 0  # when the scheduler does what it is asked for
        self._running: Mapping[int, Request] = {}
        self._pool: FreeBlocks
        self._block_size = 0

    def follow(self, kv: KVCache, running: Mapping[int, Request], block_size: int) -> None:
        """From now on it is told what a scheduler's requests give back."""
        self._running, self._pool, self._block_size = running, kv.pool, block_size
        kv.on_release = lambda request: self.release(request, self._now_ps)
        kv.on_release_some = lambda request, blocks, is_end: self.release_some(
            request, blocks, self._now_ps, is_end=is_end
        )

    def note(self, plan: Plan, block_size: int, now_ps: int) -> None:
        """A step was planned: those that run got fresh blocks, then the admitted have hits and fresh ones."""
        if self.is_truncated:
            return
        for request in plan.fresh:
            if request not in plan.admitted:
                self._take(request, 0, now_ps)
        for request, hit_tokens in plan.admitted.items():
            self._take(request, hit_tokens // block_size, now_ps)
        self._write(now_ps)

    def note_jump(self, batch: DecodeBatch, block_size: int, jump: Step) -> None:
        """A jump is over."""
        if self.is_truncated:
            return
        by_step: dict[int, list[tuple[int, Request]]] = {}
        for request in self._running.values():
            batch.settle(request)
            for index in range(self._known_of(request)[0], len(request.blocks)):
                # The block is needed in the step whose token is the first of it.
                step = index * block_size + 1 - (request.num_tokens - jump.num_steps)
                by_step.setdefault(step, []).append((request.blocks[index], request))
            self._num_known[request] = [len(request.blocks)]
        for step in sorted(by_step):
            begun_ps = jump.start_of(step)
            for block, request in by_step[step]:
                self._begin(block, request, begun_ps, is_hit=False)
            self._write(begun_ps)

    def set_time(self, now_ps: int) -> None:
        """What the scheduler does from here on it does then; of the moment before everything is known."""
        if not self.is_truncated:
            self._write(self._now_ps)
        self._now_ps = now_ps

    # on the fast path

    def take(self, request: Request, num_hits: int = 0) -> None:
        if not self.is_truncated:
            self._take(request, num_hits, self._now_ps)

    def note_plan(self, step: int, now_ps: int) -> bool:
        self.set_time(now_ps)
        for request in self._growing(step, 1).get(0, ()):
            self._grow(request)
        return self.is_truncated

    def note_steps(self, step: int, num_steps: int, started_ps: int, first_ps: int, growth_ps: int) -> None:
        steps = Step(num_steps=num_steps, started_ps=started_ps, first_ps=first_ps, growth_ps=growth_ps)
        growing = self._growing(step + 1, num_steps - 1)
        for number in sorted(growing):
            self.set_time(steps.start_of(number + 1))
            for request in growing[number]:
                self._grow(request)
        self.set_time(steps.end_ps)

    def _growing(self, step: int, num_steps: int) -> dict[int, list[Request]]:
        """Who needs a block in the n-th of so many steps of the decode batch, in order of admission."""
        by_step: dict[int, list[Request]] = {}
        for request in self._running.values() if num_steps else ():
            if request.end_step >= step:
                for number in range((request.phase - step) % self._block_size, num_steps, self._block_size):
                    by_step.setdefault(number, []).append(request)
        return by_step

    def _grow(self, request: Request) -> None:
        request.blocks += self._pool.take(1)
        self.take(request)

    def release(self, request: Request, now_ps: int) -> None:
        """A request is about to give its blocks back; those that are registered stay cached."""
        if self.is_truncated:
            return
        self._take(request, 0, now_ps)
        for index, block in enumerate(request.blocks):
            self._end(block, request, now_ps, is_cached=index < request.num_registered_blocks)
        del self._num_known[request]
        self._write(now_ps)

    def release_some(
        self, request: Request, blocks: Iterable[tuple[int, bool]], now_ps: int, *, is_end: bool
    ) -> None:
        """Of several KV-cache groups: these blocks (and whether they stay cached) are given back."""
        if self.is_truncated:
            return
        self._take(request, 0, now_ps)
        for block, is_cached in blocks:
            self._end(block, request, now_ps, is_cached=is_cached)
        if is_end:
            del self._num_known[request]
        self._write(now_ps)

    def _end(self, block: int, request: Request, now_ps: int, *, is_cached: bool) -> None:
        """One owner less."""
        owners = self._owners[block]
        owners.remove(request)
        if len(owners) > 1:
            return
        if owners:
            self._turn(block, OWNED, owners[0], now_ps)
        else:
            del self._owners[block]
            self._turn(block, CACHED if is_cached else None, request, now_ps)

    def _known_of(self, request: Request) -> list[int]:
        known = self._num_known.get(request)
        return known or [0] * len(request.tables or (request.blocks,))

    def _take(self, request: Request, num_hits: int, now_ps: int) -> None:
        tables = request.tables or (request.blocks,)
        for table, known in zip(tables, self._known_of(request), strict=True):
            for index, block in enumerate(table[known:], known):
                if block:  # (0: the null block, where a window has passed)
                    self._begin(block, request, now_ps, is_hit=index < num_hits)
        self._num_known[request] = [len(table) for table in tables]

    def _begin(self, block: int, request: Request, now_ps: int, *, is_hit: bool) -> None:
        owners = self._owners.setdefault(block, [])
        owners.append(request)
        if len(owners) == 1:
            self._turn(block, OWNED, request, now_ps, is_hit=is_hit)
        elif len(owners) == 2:
            self._turn(block, SHARED, owners[0], now_ps)

    def _turn(
        self, block: int, kind: int | None, request: Request, now_ps: int, *, is_hit: bool = True
    ) -> None:
        """From now on the block is something else; None: free, with nothing in it."""
        before = self._begun.pop(block, None)
        if before is not None and before[0] < now_ps:
            since, was, whose = before
            was = EVICTED if was == CACHED and not is_hit else was
            self._ended.append((since, was, int(whose.request_id), block))
        if kind is not None:
            self._begun[block] = (now_ps, kind, request)

    def _write(self, end_ps: int) -> None:
        """Rectangles of the blocks that ceased to be something at this moment."""
        ended, self._ended = sorted(self._ended), []
        at = 0
        while at < len(ended):
            since, kind, request, block = ended[at]
            size = 1
            while at + size < len(ended) and ended[at + size] == (since, kind, request, block + size):
                size += 1
            self._rows.append((block - 1, size, since, end_ps, request, kind))
            at += size
        if len(self._rows) >= self.limit:
            self._close(end_ps)
            self.is_truncated = True

    def _close(self, end_ps: int) -> None:
        self.limit += len(self._begun) + 1
        for block, (_, _, request) in list(self._begun.items()):
            self._turn(block, None, request, end_ps)
        self._write(end_ps)

    def block_map(self, capacity_tokens: int, block_size: int, end_ps: int) -> BlockMap:
        """The rectangles; those still open end at ``end_ps``."""
        if not self.is_truncated:
            self.set_time(end_ps)
            self._close(end_ps)
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, 6)
        return BlockMap(
            capacity_tokens=capacity_tokens,
            block_size=block_size,
            replica=self.replica,
            address_tokens=rows[:, 0] * block_size,
            size_tokens=rows[:, 1] * block_size,
            start_ps=rows[:, 2],
            end_ps=rows[:, 3],
            request=rows[:, 4],
            kind=rows[:, 5],
            is_truncated=self.is_truncated,
        )
