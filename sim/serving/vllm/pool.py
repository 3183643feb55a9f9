"""vLLM's block pool: physical block ids, the free queue, and which content a block holds.

Every operation works on runs of blocks, because the simulator hands out millions. The free queue is made
of ``FreeRun``s: what one release freed and one node of the prefix tree describes. A cache hit takes the
beginning of a content run, so it cuts the beginnings of free runs; the queue is used up from their ends,
because a request's last block is evicted before its first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from sim.errors import InvariantError
from sim.serving.vllm.prefix_tree import FreeRun, Node, Path

MOST_HOLLOW = 100  # empty runs of the free queue, at least


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
        self._extra_owners: dict[int, int] = {}  # of blocks of nodes that count them one by one

    # hits

    def num_free_among(self, path: Path, num_blocks: int) -> int:
        """How many of the path's first blocks, all cached, nobody owns: a hit takes them out of the queue."""
        num_free = 0
        for node, count in path:
            if num_blocks <= 0:
                break
            here = min(count, num_blocks)
            if node.free is None:
                num_free += max(here - node.held, 0)
            else:
                num_free += here - node.free[:here].count(None)
            num_blocks -= here
        return num_free

    def share(self, path: Path, num_blocks: int) -> list[int]:
        """One more owner for each of the path's first blocks, all cached; free ones leave the free queue."""
        hits: list[int] = []
        for node, here in path:
            here = min(here, num_blocks)
            if here == 0:
                break
            num_blocks -= here
            hits = [*hits, *node.blocks[:here]] if hits else node.blocks[:here]
            self._share(node, here)
        return hits

    def _share(self, node: Node, count: int) -> None:
        if node.free is not None:
            self._share_each(node, node.free, count)
            return
        held, runs = node.held, node.runs
        if count <= held:
            self.num_extra_owners += count
        else:
            self.num_extra_owners += held
            self.num_free -= count - held
            left = count - held
            while left:
                run = runs[0]
                if left < len(run.blocks):
                    del run.blocks[:left]
                    run.first += left
                    break
                left -= len(run.blocks)
                run.blocks = []
                del runs[0]
                self._num_hollow += 1
            node.held = count
        node.holds[count] = node.holds.get(count, 0) + 1
        if self._num_hollow > MOST_HOLLOW:
            self._skip_hollow()

    def _share_each(self, node: Node, free: list[FreeRun | None], count: int) -> None:
        blocks, extra, index = node.blocks, self._extra_owners, 0
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
        self._skip_hollow()

    def _skip_hollow(self) -> None:
        if self._num_hollow > len(self._queue) // 2 + MOST_HOLLOW:
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
            if (here := len(blocks)) > count:
                here = count
            if node is not None and here:
                self._evict(run, node, here)
            elif run.is_cached:
                self.num_evictions += here
            if here == len(blocks):
                queue.popleft()
                if not here:
                    self._num_hollow -= 1
                    continue
            else:
                blocks = blocks[-here:]
                del run.blocks[-here:]
            count -= here
            blocks.reverse()
            if taken:
                taken += blocks
            else:
                taken = blocks
        return taken

    def _evict(self, run: FreeRun, node: Node, count: int) -> None:
        """Takes the hash off the last blocks of a free run."""
        self.num_evictions += count
        if node.free is None:
            if count == (left := len(run.blocks)):
                node.runs.pop()
            del node.blocks[run.first + left - count :]
        elif node.copies:
            for offset in range(len(run.blocks) - 1, len(run.blocks) - 1 - count, -1):
                _forget(node, node.free, run.first + offset, run.blocks[offset])
        else:
            left = run.first + len(run.blocks) - count
            del node.blocks[left:], node.free[left:]
        if not node.blocks:
            node.free = None
            node.drop_if_unused()

    # into the content map

    def register(self, path: Path, table: Sequence[int], first: int, last: int) -> None:
        """Makes a table's full blocks ``first`` up to ``last`` findable by their contents, in this order."""
        at = 0
        for node, count in path:
            end = at + count
            if end > first:
                end = min(end, last)
                self._register(node, table[first:end], first - at)
                if end == last:
                    break
                first = end
            at += count

    def _register(self, node: Node, blocks: Sequence[int], first: int) -> None:
        """The contents from ``first`` on, in these blocks of somebody who owns those before."""
        if len(node.blocks) != first:
            free = self._count_each(node) if node.free is None else node.free
            _register_each(node, free, blocks, first)
            return
        node.blocks += blocks
        if node.free is None:
            if first:
                _let_go(node, first)
            node.held = count = first + len(blocks)
            node.holds[count] = node.holds.get(count, 0) + 1
        else:
            node.free += [None] * len(blocks)

    def _count_each(self, node: Node) -> list[FreeRun | None]:
        """A content gets a second block: owners are counted block by block from here on."""
        node.free = [None] * node.held
        for run in node.runs:
            node.free += [run] * len(run.blocks)
        for index in range(node.held):
            owners = _num_owners(node, index)
            if owners > 1:
                self._extra_owners[node.blocks[index]] = owners - 1
        node.holds, node.held, node.runs = {}, 0, []
        return node.free

    # back into the free queue

    def release(self, table: list[int], path: Path, num_hashed: int) -> None:
        """Gives up a request's blocks, tail first; the first ``num_hashed`` are registered along the path.

        Of those beyond the path nobody can ever look the content up: they only count as cached.
        Blocks without other owners become free: hashed ones at the tail of the queue, so that a
        request's last block is evicted before its first; the others at the front, or at the tail
        where the release of vLLM does so.
        """
        if num_hashed < len(table):
            self.release_unhashed(table[num_hashed:])
        if not num_hashed:
            return
        runs: list[FreeRun] = []
        at = 0
        for node, here in path:
            here = min(here, num_hashed - at)
            if node.free is not None:
                runs += self._release_each(node, node.free, table[at : at + here])
            else:
                held = _let_go(node, here)
                if held < here:
                    run = FreeRun(table[at + held : at + here], node, held)
                    node.runs.insert(0, run)
                    runs.append(run)
                    self.num_extra_owners -= held
                else:
                    self.num_extra_owners -= here
            at += here
            if at >= num_hashed:
                break
        else:
            if at < num_hashed:
                run = FreeRun(table[at:num_hashed])
                run.is_cached = True
                runs.append(run)
        for run in reversed(runs):
            self.num_free += len(run.blocks)
            self._queue.append(run)

    def release_unhashed(self, blocks: list[int]) -> None:
        self.num_free += len(blocks)
        if self._unhashed_to_front:
            self._queue.appendleft(FreeRun(blocks))
        else:
            self._queue.append(FreeRun(blocks))

    def _release_each(self, node: Node, free: list[FreeRun | None], blocks: Sequence[int]) -> list[FreeRun]:
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
                before = free[index - 1] if index else None
                if before is not None and runs and runs[-1] is before:
                    run = before
                    run.blocks.append(block)
                else:
                    run = FreeRun([block], node, index)
                    runs.append(run)
                free[index] = run
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
            "owners are miscounted": any(
                node.free is None and owners.get(block, 0) != _num_owners(node, index)
                for block, (node, index) in hashed.items()
            ),
            "owners are miscounted one by one": self._extra_owners
            != {b: n - 1 for b, n in owners.items() if n > 1 and hashed[b][0].free is not None},
            "extra owners are miscounted": self.num_extra_owners != sum(owners.values()) - len(owners),
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


def _let_go(node: Node, count: int) -> int:
    """One owner less of the first ``count`` blocks; how many still have one."""
    holds = node.holds
    if holds[count] == 1:
        del holds[count]
        if count == node.held:
            node.held = max(holds) if holds else 0
    else:
        holds[count] -= 1
    return node.held


def _num_owners(node: Node, index: int) -> int:
    return sum(number for count, number in node.holds.items() if count > index)


def _run_of(node: Node, index: int, block: int) -> FreeRun | None:
    if node.free is None:
        return next((run for run in node.runs if block in run.blocks), None)
    return node.free[index] if node.blocks[index] == block else node.copies[index][block]


def _register_each(node: Node, free: list[FreeRun | None], blocks: Sequence[int], first: int) -> None:
    """Contents from ``first`` on, of which some have blocks already: further ones are copies."""
    for index, block in enumerate(blocks, first):
        if index < len(node.blocks):
            node.copies.setdefault(index, {})[block] = None
        else:
            node.blocks.append(block)
            free.append(None)


def _forget(node: Node, free: list[FreeRun | None], index: int, block: int) -> None:
    """Takes the hash off a block; the next block of the same content, if any, answers lookups."""
    copies = node.copies.get(index)
    if node.blocks[index] != block:
        assert copies is not None
        del copies[block]
    elif copies:
        heir = next(iter(copies))
        node.blocks[index], free[index] = heir, copies.pop(heir)
    else:
        del node.blocks[index], free[index]
    if copies is not None and not copies:
        del node.copies[index]
