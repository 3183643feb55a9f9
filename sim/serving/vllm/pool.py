"""vLLM's block pool: physical block ids, the free queue and the map from content to blocks.

Every operation works on many blocks at a time, because the simulator hands out millions. The free
queue is a deque; a block that a cache hit takes out of its middle leaves its entry behind, counted in
``_gone``, and is skipped when it reaches the front. Such an entry always stands before the same block's
next one: a hit block has a hash, so it comes back at the tail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from sim.errors import InvariantError


class BlockPool:
    """Ids 1 to ``num_gpu_blocks`` - 1; id 0 is vLLM's null block and is never handed out."""

    def __init__(self, num_gpu_blocks: int, *, unhashed_to_front: bool) -> None:
        self.num_blocks = num_gpu_blocks - 1
        self.num_free = self.num_blocks
        self.num_evictions = 0
        self.num_extra_owners = 0
        """Owners beyond the first, over all shared blocks."""
        self._unhashed_to_front = unhashed_to_front
        self._queue: deque[int] = deque(range(1, num_gpu_blocks))
        self._gone: dict[int, int] = {}
        self._num_gone = 0
        self._extra_owners: dict[int, int] = {}
        self._first: dict[int, int] = {}
        self._copies: dict[int, list[int]] = {}
        self._evictable: dict[int, int] = {}

    def cached(self, keys: Iterable[int]) -> list[int]:
        """The blocks that hold the first run of these keys; of equal ones the first registered."""
        get = self._first.get
        hits = []
        for key in keys:
            block = get(key)
            if block is None:
                break
            hits.append(block)
        return hits

    def num_free_among(self, blocks: Sequence[int]) -> int:
        """How many of these cached blocks nobody owns: using them shortens the free queue."""
        evictable = self._evictable
        return sum(1 for block in blocks if block in evictable) if blocks else 0

    def take(self, count: int) -> list[int]:
        """``count`` blocks from the front of the free queue; those with a hash lose it (eviction)."""
        self.num_free -= count
        popleft = self._queue.popleft
        taken = self._take_around_gone(count) if self._gone else [popleft() for _ in range(count)]
        if self._evictable:
            self._evict(taken)
        return taken

    def _take_around_gone(self, count: int) -> list[int]:
        gone, popleft = self._gone, self._queue.popleft
        taken: list[int] = []
        while len(taken) < count:
            block = popleft()
            entries = gone.get(block)
            if entries is None:
                taken.append(block)
                continue
            self._num_gone -= 1
            if entries == 1:
                del gone[block]
            else:
                gone[block] = entries - 1
        return taken

    def _evict(self, blocks: list[int]) -> None:
        pop, first, is_unique = self._evictable.pop, self._first, not self._copies
        for block in blocks:
            key = pop(block, 0)
            if key:
                self.num_evictions += 1
                if is_unique:
                    del first[key]
                else:
                    self._forget(block, key)

    def _forget(self, block: int, key: int) -> None:
        """Takes the hash off a block; the next block of the same content, if any, answers lookups."""
        others = self._copies.get(key)
        if others is None:
            del self._first[key]
            return
        if self._first[key] == block:
            self._first[key] = others.pop(0)
        else:
            others.remove(block)
        if not others:
            del self._copies[key]

    def share(self, hits: Sequence[int]) -> None:
        """One more owner for each of these cached blocks; free ones leave the free queue."""
        evictable, extra, gone = self._evictable, self._extra_owners, self._gone
        for block in hits:
            if block in evictable:
                del evictable[block]
                gone[block] = gone.get(block, 0) + 1
                self._num_gone += 1
                self.num_free -= 1
            else:
                extra[block] = extra.get(block, 0) + 1
                self.num_extra_owners += 1
        if self._num_gone > self.num_blocks:
            self._close_gaps()

    def _close_gaps(self) -> None:
        """Rebuilds the queue without the entries of blocks that left its middle."""
        self._queue = deque(self.free_order())
        self._gone.clear()
        self._num_gone = 0

    def free_order(self) -> list[int]:
        left = dict(self._gone)
        order = []
        for block in self._queue:
            if left.get(block, 0):
                left[block] -= 1
            else:
                order.append(block)
        return order

    def register(self, blocks: Sequence[int], keys: Sequence[int]) -> None:
        """Makes full blocks findable by their content's keys, in this order."""
        first = self._first
        if first.keys().isdisjoint(keys):
            first.update(zip(keys, blocks, strict=True))
        else:
            for key, block in zip(keys, blocks, strict=True):
                if key in first:
                    self._copies.setdefault(key, []).append(block)
                else:
                    first[key] = block

    def release(self, blocks: Sequence[int], keys: Sequence[int] = ()) -> None:
        """Gives up a request's blocks, tail first; the first of them are registered with these keys.

        Blocks without other owners become free: hashed ones at the tail of the queue, so that a
        request's last block is evicted before its first; the others at the front, or at the tail
        where the release of vLLM does so.
        """
        num_hashed, hashed = len(keys), blocks[: len(keys)]
        if self._extra_owners and not self._extra_owners.keys().isdisjoint(hashed):
            hashed, keys = self._without_shared(hashed, keys)
        self.num_free += len(hashed) + len(blocks) - num_hashed
        self._evictable.update(zip(hashed, keys, strict=True))
        if self._unhashed_to_front:
            self._queue.extendleft(blocks[num_hashed:])
        else:
            self._queue.extend(reversed(blocks[num_hashed:]))
        self._queue.extend(reversed(hashed))

    def _without_shared(self, blocks: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[int]]:
        """Drops one owner of each shared block; returns the others, with their keys."""
        extra, mine = self._extra_owners, {}
        for block, key in zip(blocks, keys, strict=True):
            owners = extra.get(block)
            if owners is None:
                mine[block] = key
                continue
            self.num_extra_owners -= 1
            if owners == 1:
                del extra[block]
            else:
                extra[block] = owners - 1
        return list(mine), list(mine.values())

    def registered_keys(self) -> Iterable[int]:
        """The keys that some block answers to."""
        return self._first.keys()

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises where the pool's laws do not hold for these owners' block tables."""
        owners: dict[int, int] = {}
        for table in tables:
            for block in table:
                owners[block] = owners.get(block, 0) + 1
        free, hashed = self.free_order(), self.hashed_blocks()
        problems = {
            "a block is free twice": len(set(free)) != len(free),
            "the free count is wrong": len(free) != self.num_free,
            "a free block is owned": not owners.keys().isdisjoint(free),
            "free and owned are not the pool": sorted([*free, *owners])
            != list(range(1, self.num_blocks + 1)),
            "owners are miscounted": {b: n - 1 for b, n in owners.items() if n > 1} != self._extra_owners,
            "extra owners are miscounted": self.num_extra_owners != sum(self._extra_owners.values()),
            "a shared block has no hash": any(n > 1 and b not in hashed for b, n in owners.items()),
            "evictable is not free with a hash": self._evictable
            != {b: hashed[b] for b in free if b in hashed},
        }
        broken = [law for law, holds in problems.items() if holds]
        if broken:
            raise InvariantError(f"block pool: {'; '.join(broken)}; free {free}, owners {owners}")

    def hashed_blocks(self) -> dict[int, int]:
        """The key of every block that has one."""
        found = {block: key for key, block in self._first.items()}
        for key, blocks in self._copies.items():
            found.update(dict.fromkeys(blocks, key))
        return found

    def state(self) -> tuple[object, ...]:
        """All that decides the future: free order, owners, content map (for comparisons in tests)."""
        copies = {key: list(blocks) for key, blocks in self._copies.items()}
        return self.free_order(), dict(self._extra_owners), dict(self._first), copies
