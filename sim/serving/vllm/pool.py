"""vLLM's block pool: physical block ids, the free queue, and which content a block holds.

Every operation of ``BlockPool`` works on runs of blocks, because the simulator hands out millions. The free
queue is made of ``FreeRun``s: what one release freed and one node of the prefix tree describes. A cache hit
takes the beginning of a content run, so it cuts the beginnings of free runs; the queue is used up from their
ends, because a request's last block is evicted before its first. ``GroupPool`` goes block by block, because a
window registers some blocks of a request and not others, and gives blocks back from the middle of a table.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence

from sim.errors import InvariantError
from sim.serving.vllm.prefix_tree import FreeRun, Node, Path


class BlockPool:
    """Ids 1 to ``num_gpu_blocks`` - 1; id 0 is vLLM's null block and is never handed out."""

    def __init__(self, num_gpu_blocks: int, *, unhashed_to_front: bool) -> None:
        self.num_blocks = num_gpu_blocks - 1
        self.num_free = self.num_blocks
        self.num_evictions = 0
        self.num_extra_owners = 0
        """Owners beyond the first, over all shared blocks."""
        self._unhashed_to_front = unhashed_to_front
        self._queue: deque[FreeRun] = deque([FreeRun(list(range(self.num_blocks, 0, -1)))])
        self._num_hollow = 0  # runs that hits have emptied, skipped when they reach the front
        self._extra_owners: dict[int, int] = {}

    # hits

    def num_free_among(self, path: Path, num_blocks: int) -> int:
        """How many of the path's first blocks, all cached, nobody owns: a hit takes them out of the queue."""
        num_free = 0
        for node, count in path:
            if num_blocks <= 0:
                break
            here = min(count, num_blocks)
            num_free += here - node.free[:here].count(None)
            num_blocks -= here
        return num_free

    def share(self, path: Path, num_blocks: int) -> list[int]:
        """One more owner for each of the path's first blocks, all cached; free ones leave the free queue."""
        hits: list[int] = []
        for node, count in path:
            if len(hits) == num_blocks:
                break
            here = min(count, num_blocks - len(hits))
            hits += node.blocks[:here]
            self._share(node, here)
        return hits

    def _share(self, node: Node, count: int) -> None:
        free, blocks, extra = node.free, node.blocks, self._extra_owners
        index = 0
        while index < count:
            run = free[index]
            if run is None:
                block = blocks[index]
                extra[block] = extra.get(block, 0) + 1
                self.num_extra_owners += 1
                index += 1
                continue
            here = min(count - index, len(run.blocks))
            free[index : index + here] = [None] * here
            del run.blocks[:here]
            run.first += here
            self.num_free -= here
            index += here
            if not run.blocks:
                self._num_hollow += 1
        if self._num_hollow > len(self._queue) // 2 + 100:
            self._queue = deque(run for run in self._queue if run.blocks)
            self._num_hollow = 0

    # out of the free queue

    def take(self, count: int) -> list[int]:
        """``count`` blocks from the front of the free queue; those with a hash lose it (eviction)."""
        self.num_free -= count
        queue = self._queue
        if not count:
            return []
        run = queue[0]
        if run.node is None and len(run.blocks) > count:  # mostly: all from one run
            taken = run.blocks[-count:]
            del run.blocks[-count:]
            if run.is_cached:
                self.num_evictions += count
            taken.reverse()
            return taken
        taken = []
        while count:
            run = queue[0]
            blocks, node = run.blocks, run.node
            here = min(len(blocks), count)
            if node is not None and here:
                self._evict(run, node, here)
            elif run.is_cached:
                self.num_evictions += here
            if here == len(blocks):
                queue.popleft()
                self._num_hollow -= not here
                part = blocks
            else:
                part = blocks[-here:]
                del blocks[-here:]
            part.reverse()
            taken += part
            count -= here
        return taken

    def _evict(self, run: FreeRun, node: Node, count: int) -> None:
        """Takes the hash off the last blocks of a free run."""
        self.num_evictions += count
        if node.copies:
            for offset in range(len(run.blocks) - 1, len(run.blocks) - 1 - count, -1):
                _forget(node, run.first + offset, run.blocks[offset])
        else:
            left = run.first + len(run.blocks) - count
            del node.blocks[left:], node.free[left:]
        if not node.blocks:
            node.drop_if_unused()

    # into the content map

    def register(self, path: Path, table: Sequence[int], first: int, last: int) -> None:
        """Makes a table's full blocks ``first`` up to ``last`` findable by their contents, in this order."""
        at = 0
        for node, count in path:
            if at + count > first:
                begin, end = max(first, at), min(last, at + count)
                if len(node.blocks) == begin - at:
                    node.blocks += table[begin:end]
                    node.free += [None] * (end - begin)
                else:
                    _register_each(node, table[begin:end], begin - at)
            at += count
            if at >= last:
                break

    # back into the free queue

    def release(self, table: list[int], path: Path, num_hashed: int) -> None:
        """Gives up a request's blocks, tail first; the first ``num_hashed`` are registered along the path.

        Blocks without other owners become free: hashed ones at the tail of the queue, so that a
        request's last block is evicted before its first; the others at the front, or at the tail
        where the release of vLLM does so.
        """
        if num_hashed < len(table):
            self._release_unhashed(table[num_hashed:])
        if not num_hashed:
            return
        runs: list[FreeRun] = []
        at = 0
        for node, count in path:
            here = min(count, num_hashed - at)
            blocks = table[at : at + here]
            extra = self._extra_owners
            if node.blocks[:here] == blocks and (not extra or extra.keys().isdisjoint(blocks)):
                run = FreeRun(blocks, node)
                node.free[:here] = [run] * here
                runs.append(run)
            else:
                runs += self._release_each(node, blocks)
            at += here
            if at >= num_hashed:
                break
        for run in reversed(runs):
            self.num_free += len(run.blocks)
            self._queue.append(run)

    def _release_unhashed(self, blocks: list[int]) -> None:
        self.num_free += len(blocks)
        if self._unhashed_to_front:
            self._queue.appendleft(FreeRun(blocks))
        else:
            self._queue.append(FreeRun(blocks))

    def retire(self, table: list[int], num_hashed: int) -> None:
        """``release`` where nobody can ever look the content up: the first blocks only count as cached."""
        if num_hashed < len(table):
            self._release_unhashed(table[num_hashed:])
        if num_hashed:
            self.num_free += num_hashed
            run = FreeRun(table[:num_hashed])
            run.is_cached = True
            self._queue.append(run)

    def _release_each(self, node: Node, blocks: Sequence[int]) -> list[FreeRun]:
        """Drops one owner of each block, some of which are shared or copies; the runs that become free."""
        extra, runs = self._extra_owners, []
        for index, block in enumerate(blocks):
            owners = extra.get(block)
            if owners is not None:
                self.num_extra_owners -= 1
                if owners == 1:
                    del extra[block]
                else:
                    extra[block] = owners - 1
            elif node.blocks[index] != block:
                run = FreeRun([block], node, index)
                node.copies[index][block] = run
                runs.append(run)
            else:
                before = node.free[index - 1] if index else None
                if before is not None and runs and runs[-1] is before:
                    run = before
                    run.blocks.append(block)
                else:
                    run = FreeRun([block], node, index)
                    runs.append(run)
                node.free[index] = run
        return runs

    def free_contents(self) -> list[tuple[Node, int] | None]:
        """What the free blocks hold, the next to be taken first; None: nothing that a lookup would find."""
        return [
            None if run.node is None else (run.node, run.first + index)
            for run in self._queue
            for index in range(len(run.blocks) - 1, -1, -1)
        ]

    # for tests

    def free_order(self) -> list[int]:
        """The free blocks, the next to be taken first."""
        return [block for run in self._queue for block in reversed(run.blocks)]

    def hashed_blocks(self, paths: Iterable[Path]) -> dict[int, tuple[Node, int]]:
        """The content of every block that has one, of those that are free or on these paths."""
        nodes = {id(node): node for path in paths for node, _ in path}
        nodes.update({id(run.node): run.node for run in self._queue if run.node is not None})
        found = {}
        for node in nodes.values():
            found.update({block: (node, index) for index, block in enumerate(node.blocks)})
            for index, copies in node.copies.items():
                found.update(dict.fromkeys(copies, (node, index)))
        return found

    def check(self, tables: Iterable[tuple[Sequence[int], Path]]) -> None:
        """Raises where the pool's laws do not hold for these owners' block tables and paths."""
        owned = list(tables)
        owners: dict[int, int] = {}
        for table, _ in owned:
            for block in table:
                owners[block] = owners.get(block, 0) + 1
        free, hashed = self.free_order(), self.hashed_blocks(path for _, path in owned)
        free_hashed = {
            block: (run.node, run.first + index)
            for run in self._queue
            if run.node is not None
            for index, block in enumerate(run.blocks)
        }
        problems = {
            "a block is free twice": len(set(free)) != len(free),
            "the free count is wrong": len(free) != self.num_free,
            "a free block is owned": not owners.keys().isdisjoint(free),
            "free and owned are not the pool": sorted([*free, *owners])
            != list(range(1, self.num_blocks + 1)),
            "owners are miscounted": {b: n - 1 for b, n in owners.items() if n > 1} != self._extra_owners,
            "extra owners are miscounted": self.num_extra_owners != sum(self._extra_owners.values()),
            "a shared block has no hash": any(n > 1 and b not in hashed for b, n in owners.items()),
            "free blocks with a hash are not those that the contents name": free_hashed
            != {b: hashed[b] for b in free if b in hashed},
            "a content does not name its block's free run": any(
                (block in owners) != (_run_of(node, index, block) is None)
                for block, (node, index) in hashed.items()
            ),
            "empty runs are miscounted": self._num_hollow != sum(not run.blocks for run in self._queue),
        }
        broken = [law for law, holds in problems.items() if holds]
        if broken:
            raise InvariantError(f"block pool: {'; '.join(broken)}; free {free}, owners {owners}")


def _run_of(node: Node, index: int, block: int) -> FreeRun | None:
    return node.free[index] if node.blocks[index] == block else node.copies[index][block]


def _register_each(node: Node, blocks: Sequence[int], first: int) -> None:
    """Contents from ``first`` on, of which some have blocks already: further ones are copies."""
    for index, block in enumerate(blocks, first):
        if index < len(node.blocks):
            node.copies.setdefault(index, {})[block] = None
        else:
            node.blocks.append(block)
            node.free.append(None)


def _forget(node: Node, index: int, block: int) -> None:
    """Takes the hash off a block; the next block of the same content, if any, answers lookups."""
    copies = node.copies.get(index)
    if node.blocks[index] != block:
        assert copies is not None
        del copies[block]
    elif copies:
        heir = next(iter(copies))
        node.blocks[index], node.free[index] = heir, copies.pop(heir)
    else:
        del node.blocks[index], node.free[index]
    if copies is not None and not copies:
        del node.copies[index]


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
