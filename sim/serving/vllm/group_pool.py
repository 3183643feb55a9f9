"""The block pool where a model's layers form several KV-cache groups: which block holds what, block by block.

A window registers some blocks of a request and not others, and gives blocks back from the middle of a table,
so that nothing here works on runs of blocks, as ``sim.serving.vllm.pool`` does.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from sim.errors import InvariantError
from sim.serving.vllm.prefix_tree import Node

Content = tuple[Node, int]
Key = tuple[int, Node, int]
"""What a block holds: (group, node of the prefix tree, index in it)."""


class GroupPool:
    """The pool of several KV-cache groups, with the same ids as ``BlockPool``."""

    def __init__(self, num_gpu_blocks: int, *, unhashed_to_front: bool) -> None:
        self.num_blocks = self.num_free = num_gpu_blocks - 1
        self.num_evictions = 0
        self.num_extra_owners = 0
        """Owners beyond the first, over all shared blocks."""
        self._unhashed_to_front = unhashed_to_front
        self._queue = OrderedDict.fromkeys(range(1, num_gpu_blocks))
        self._key_of: dict[int, Key] = {}
        self._holders: dict[Key, dict[int, None]] = {}  # the first registered answers a lookup
        self._extra_owners: Counter[int] = Counter()

    def cached(self, group: int, content: Content) -> int | None:
        """The block that answers a lookup, if any does."""
        holders = self._holders.get((group, *content))
        return next(iter(holders)) if holders else None

    def is_free(self, block: int) -> bool:
        """Nobody owns it: a hit takes it out of the queue."""
        return block in self._queue

    def is_hashed(self, block: int) -> bool:
        """Its content can be found."""
        return block in self._key_of

    def adopt(self, blocks: Iterable[int]) -> None:
        """One more owner for each of these cached blocks; free ones leave the free queue."""
        for block in blocks:
            if block in self._queue:
                del self._queue[block]
                self.num_free -= 1
            else:
                self._extra_owners[block] += 1
                self.num_extra_owners += 1

    def take(self, count: int) -> list[int]:
        """``count`` blocks from the front of the free queue; those with a hash lose it (eviction)."""
        taken = [self._queue.popitem(last=False)[0] for _ in range(count)]
        self.num_free -= count
        for block in taken:
            if block in self._key_of:
                self._forget(block)
        return taken

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block)
        self.num_evictions += 1
        holders = self._holders[key]
        del holders[block]
        if not holders:
            del self._holders[key]
        node = key[1]
        node.num_users -= 1
        if not node.num_users:
            node.drop_if_unused()

    def register(self, group: int, content: Content, block: int) -> None:
        """Makes an owned block findable; one that is in a content's node keeps the node in its tree."""
        key = (group, *content)
        self._key_of[block] = key
        self._holders.setdefault(key, {})[block] = None
        content[0].num_users += 1

    def give_back(self, blocks: Iterable[int]) -> None:
        """One owner less for each, in this order; what nobody owns any longer is free.

        With a hash at the tail of the queue, without one at its front as a group, or at the tail where the
        release of vLLM does so.
        """
        queue, unhashed = self._queue, []
        for block in blocks:
            if block in self._extra_owners:
                self.num_extra_owners -= 1
                self._extra_owners[block] -= 1
                if not self._extra_owners[block]:
                    del self._extra_owners[block]
                continue
            self.num_free += 1
            if self._unhashed_to_front and block not in self._key_of:
                unhashed.append(block)
            else:
                queue[block] = None
        for block in reversed(unhashed):
            queue[block] = None
            queue.move_to_end(block, last=False)

    def retire(self, table: list[int], num_hashed: int) -> None:
        """``give_back`` where nobody can ever look the content up: the first blocks come late again."""
        self.give_back(reversed(table[num_hashed:]))
        self.num_free += num_hashed
        self._queue.update(dict.fromkeys(reversed(table[:num_hashed])))

    def free_order(self) -> list[int]:
        """The free blocks, the next to be taken first."""
        return list(self._queue)

    def free_contents(self) -> list[Key | None]:
        """What the free blocks hold, the next to be taken first; None: nothing that a lookup would find."""
        return [self._key_of.get(block) for block in self._queue]

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises where the pool's laws do not hold for these block tables, one a request and group."""
        owners = Counter(block for table in tables for block in table if block)
        problems = {
            "the free count is wrong": len(self._queue) != self.num_free,
            "a free block is owned": not owners.keys().isdisjoint(self._queue),
            "free and owned are not the pool": sorted([*self._queue, *owners])
            != list(range(1, self.num_blocks + 1)),
            "owners are miscounted": {b: n - 1 for b, n in owners.items() if n > 1} != self._extra_owners,
            "extra owners are miscounted": self.num_extra_owners != self._extra_owners.total(),
            "a shared block has no hash": not self._extra_owners.keys() <= self._key_of.keys(),
            "contents and blocks do not name each other": {
                block: key for key, holders in self._holders.items() for block in holders
            }
            != self._key_of,
        }
        broken = [law for law, is_broken in problems.items() if is_broken]
        if broken:
            raise InvariantError(
                f"block pool: {'; '.join(broken)}; free {list(self._queue)}, owners {owners}"
            )
