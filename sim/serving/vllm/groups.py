"""Several KV-cache groups over one block pool, and what a request holds in each (vLLM's hybrid KV cache).

Layers that keep the same tokens form a group; every group has a block table per request, and all take blocks
of equal size from one pool. Equal to vLLM 0.33.0's recorded decisions for full attention and sliding windows;
what the kinds of groups differ in stands in ``sim.serving.vllm.group_kinds``. The same rules are used for
0.20.0, of which there is no recording. Not modelled: groups of different block sizes, drafting models.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from sim.errors import InvariantError
from sim.scenario.dataclass import dataclass
from sim.serving.request import NEVER, Request
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.group_kinds import NULL, GroupKind, Hit, Retention, kinds_of
from sim.serving.vllm.kv import KVCache
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.prefix_tree import Node, PrefixTree
from sim.serving.vllm.versions import VersionProfile

Content = tuple[Node, int]
Key = tuple[int, Node, int]
"""What a block holds: (group, node of the prefix tree, index in it)."""


class GroupPool:
    """The pool of several KV-cache groups, with the same ids as ``BlockPool``.

    Block by block: a window registers some blocks of a request and not others, and gives blocks back from the
    middle of a table, so that runs of neighbours are of no help.
    """

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

    def release_unhashed(self, blocks: list[int]) -> None:
        """``give_back`` of blocks that hold nothing."""
        self.give_back(reversed(blocks))

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What the prefix cache holds of a request, in the groups together."""

    num_blocks: int = 0
    firsts: tuple[int, ...] = ()
    """By group: the first block of these that is needed."""
    junction_tokens: int = 0
    """Where some kind of group had a longer prefix: what others have in common and one has not kept."""


NO_HIT = Lookup()


class GroupedKVBlocks(KVCache):
    """The block tables of all requests, one a group, over one pool."""

    pool: GroupPool

    def __init__(self, limits: SchedulerConfig, profile: VersionProfile) -> None:
        self.pool = GroupPool(limits.num_gpu_blocks, unhashed_to_front=profile.unhashed_blocks_to_front)
        self.tree = PrefixTree(limits.block_size)
        self.kinds = kinds_of(limits.groups, limits.block_size)
        self._caching = limits.enable_prefix_caching
        self._block_size, self._max_model_len = limits.block_size, limits.max_model_len
        self._reserve_full_isl = limits.scheduler_reserve_full_isl
        self._interval_tokens = limits.prefix_cache_retention_interval
        self.watermark_blocks = int(limits.watermark * limits.num_gpu_blocks)
        self.follows_flight = limits.in_flight_tokens > limits.max_num_batched_tokens
        """Whether steps may be planned while others are not over: their tokens may still need old blocks."""
        self._in_flight: dict[Request, int] = {}
        self._caps = [kind.most_blocks(limits.in_flight_tokens, limits.max_model_len) for kind in self.kinds]
        self._lookups = list(_by_kind(self.kinds))
        self._needs_no_cache = all(group.kind == "chunked" for group in limits.groups)
        self._contents: dict[Request, list[Content]] = {}
        self._still: dict[Request, tuple[int, int, int]] = {}
        self._found: tuple[Request | None, Lookup] = (None, NO_HIT)
        self.num_token_groups = sum(not kind.is_state for kind in self.kinds)

    # a request comes, and what is cached of it

    def open(self, request: Request) -> list[Request]:
        """Makes a new request known; every block is registered when it is full, so nobody is told."""
        if self._caching and request.num_common_tokens:
            self.tree.enter(request, request.end_tokens // self._block_size)
            self.tree.met = []
        return []

    def _contents_of(self, request: Request) -> list[Content]:
        """What each of its full blocks holds; of a request that is alone, in a node beside the tree."""
        contents = self._contents.get(request)
        if contents is None:
            if not request.num_common_tokens:
                self.tree.remember(request)
            contents = [(node, index) for node, count in request.path for index in range(count)]
            self._contents[request] = contents
        return contents

    def find_hits(self, request: Request) -> int:
        """Blocks at the request's start that need not be computed; at least one token is left."""
        is_unseen = not request.num_common_tokens and not request.num_preemptions and not self._needs_no_cache
        may_hit = self._caching and not is_unseen
        lookup = self._look_up(self._contents_of(request), request.num_tokens - 1) if may_hit else NO_HIT
        self._found = (request, lookup)
        return lookup.num_blocks

    def _look_up(self, contents: Sequence[Content], num_tokens: int) -> Lookup:
        """Each kind of group shortens the candidate in turn, until all agree.

        Groups of one kind are asked together. Full attention is asked once: a shorter prefix of what it has
        is a hit as well. With it and one other kind a single pass is enough.
        """
        size, firsts = self._block_size, [0] * len(self.kinds)
        hit = num_tokens
        longest, full_tokens, is_simple = 0, None, len(self._lookups) == 2 and self._lookups[0][2]
        while True:
            candidate = hit
            for kind, members, is_full in self._lookups:
                if is_full and full_tokens is not None:
                    candidate = min(candidate, full_tokens)
                    continue
                first, end = self._find(kind, members, contents, candidate)
                candidate = end * size
                longest = max(longest, candidate)
                if is_full:
                    full_tokens = candidate
                for group in members:
                    firsts[group] = first
            if candidate >= hit:
                break
            hit = candidate
            if is_simple:
                break
        junction = longest if longest > hit else 0
        return Lookup(num_blocks=hit // size, firsts=tuple(firsts), junction_tokens=junction)

    def _find(
        self, kind: GroupKind, members: Sequence[int], contents: Sequence[Content], num_tokens: int
    ) -> Hit:
        cached = self.pool.cached

        def is_cached(index: int) -> bool:
            return all(cached(group, contents[index]) is not None for group in members)

        return kind.find(is_cached, num_tokens)

    # blocks for a running request

    def extend(self, request: Request, num_new_tokens: int) -> list[int] | None:
        """Fresh blocks for ``num_new_tokens`` more, group by group; None if too few are free.

        Blocks that no token will read any longer are given back first, whether the rest succeeds or not.
        """
        computed = request.num_computed_tokens
        total = min(computed + num_new_tokens, self._max_model_len)
        certain = computed - self._in_flight.get(request, 0)
        room, leaves, full = self._still.get(request, (0, 0, 0))
        if total <= room and certain <= leaves and min(computed + num_new_tokens, request.num_tokens) < full:
            return []
        self._recycle(request, certain)
        kinds_and_tables = list(zip(self.kinds, request.tables, strict=True))
        needs = [kind.num_needed(table, computed, total) for kind, table in kinds_and_tables]
        if sum(needs) > self.pool.num_free:
            return None
        fresh: list[int] = []
        if any(needs):
            for (kind, table), need in zip(kinds_and_tables, needs, strict=True):
                fresh += self._grow(kind, table, need, computed, total)
        self.register(request, computed + num_new_tokens)
        self._still[request] = self._still_until(request, certain)
        return fresh

    def _still_until(self, request: Request, num_certain_tokens: int) -> tuple[int, int, int]:
        """Nothing changes for a request up to so many tokens and certain ones, and below so many known."""
        size = self._block_size
        room = min(kind.num_tokens_in(table) for kind, table in zip(self.kinds, request.tables, strict=True))
        leaves = min(kind.next_leave(num_certain_tokens) for kind in self.kinds)
        return room, leaves, (request.num_registered_blocks + 1) * size if self._caching else NEVER

    def _grow(self, kind: GroupKind, table: list[int], need: int, computed: int, total: int) -> list[int]:
        kind.pad(table, computed, total)
        fresh = self.pool.take(need)
        table += fresh
        if kind.is_state:
            self.num_blocks_beside += need
        return fresh

    def _recycle(self, request: Request, num_certain_tokens: int) -> None:
        """Gives back what is out of reach of all tokens after the first ``num_certain_tokens``.

        The latest first, up to a place that is empty already; of states also what stands before a gap.
        """
        if self._caching and request.num_registered_blocks < num_certain_tokens // self._block_size:
            self.register(request, num_certain_tokens)
        for kind, table in zip(self.kinds, request.tables, strict=True):
            if not kind.recycles:
                continue
            index = min(kind.num_skipped_tokens(num_certain_tokens) // self._block_size, len(table)) - 1
            gone = []
            while index >= 0 and (table[index] or kind.is_state):
                if table[index]:
                    gone.append(table[index])
                    table[index] = NULL
                index -= 1
            if gone:
                self._tell(request, gone, is_end=False)
                self.pool.give_back(gone)
                self.num_blocks_beside -= len(gone)

    # an admission

    def admit(self, request: Request, num_hits: int, num_new_tokens: int, *, spare: bool) -> list[int] | None:
        """Fresh blocks for ``num_new_tokens`` after an admission's hits; None if too few are free.

        ``scheduler_reserve_full_isl`` asks that all known tokens would fit now, a window group counted with
        no more than it can hold at a time. ``spare``: the watermark's blocks must stay free.
        """
        found, lookup = self._found
        if found is not request or lookup.num_blocks != num_hits:
            raise InvariantError(f"{request} is admitted with hits that no lookup found")
        computed = num_hits * self._block_size
        total = min(computed + num_new_tokens, self._max_model_len)
        hits = [self._hits(request, lookup, group) for group in range(len(self.kinds))]
        needs = [kind.num_needed(hit, computed, total) for kind, hit in zip(self.kinds, hits, strict=True)]
        available = self.pool.num_free - sum(sum(map(self.pool.is_free, hit)) for hit in hits)
        if spare:
            available -= self.watermark_blocks
        gate = self._gate(hits, computed, request.num_tokens) if self._reserve_full_isl else 0
        if max(sum(needs), gate) > available:
            return None
        for hit in hits:
            self.pool.adopt(filter(None, hit))
        fresh: list[int] = []
        for kind, table, need in zip(self.kinds, hits, needs, strict=True):
            self._count(kind, table, 1)
            fresh += self._grow(kind, table, need, computed, total)
        request.tables, request.blocks = tuple(hits), hits[0]
        request.num_registered_blocks = request.num_hit_blocks = num_hits
        request.junction_tokens = lookup.junction_tokens
        self.register(request, computed + num_new_tokens)
        return fresh

    def _hits(self, request: Request, lookup: Lookup, group: int) -> list[int]:
        """The cached blocks that a group takes over; null where no token to come reads one."""
        num_hits = lookup.num_blocks
        if not num_hits:
            return []
        skipped = self.kinds[group].num_skipped_tokens(num_hits * self._block_size) // self._block_size
        first = min(max(lookup.firsts[group], skipped), num_hits)
        found = [self.pool.cached(group, content) for content in self._contents[request][first:num_hits]]
        return [NULL] * first + [block for block in found if block is not None]

    def _gate(self, hits: Sequence[list[int]], num_computed_tokens: int, num_tokens: int) -> int:
        """Blocks that all known tokens need, with those that are hit taken off."""
        tokens, total = min(num_tokens, self._max_model_len), 0
        for kind, hit, cap in zip(self.kinds, hits, self._caps, strict=True):
            need = kind.num_needed(hit, num_computed_tokens, tokens)
            total += need if cap is None else min(need, max(0, cap - len(hit)))
        return total

    def most_blocks(self, num_tokens: int) -> int:
        """Blocks that a request of so many tokens may need at a time, on its own and as the gate counts."""
        return self._gate([[] for _ in self.kinds], 0, num_tokens)

    # what is registered, and released

    def register(self, request: Request, num_tokens: int) -> None:
        """Makes those full blocks among the first ``num_tokens`` findable that a later request could need."""
        if not self._caching:
            return
        done, size = request.num_registered_blocks, self._block_size
        known = min(num_tokens, request.num_tokens)
        full = known // size
        if full <= done:
            return
        contents = self._contents_of(request)
        retention = Retention(
            interval_tokens=self._interval_tokens,
            boundaries_tokens=(request.num_prompt_tokens - 1, request.junction_tokens),
        )
        chunk = request.num_computed_tokens, known
        for group, (kind, table) in enumerate(zip(self.kinds, request.tables, strict=True)):
            for index in kind.kept(done, full, chunk, retention):
                if table[index]:
                    self.pool.register(group, contents[index], table[index])
        request.num_registered_blocks = full

    def _count(self, kind: GroupKind, table: Sequence[int], sign: int) -> None:
        """A table appears, or goes."""
        num_null = table.count(NULL)
        self.num_blocks_beside += sign * (len(table) - num_null if kind.is_state else -num_null)

    def release(self, request: Request) -> None:
        """Frees the request's blocks, group by group, each tail first."""
        self._tell(request, [block for table in request.tables for block in table if block], is_end=True)
        for kind, table in zip(self.kinds, request.tables, strict=True):
            self._count(kind, table, -1)
            self.pool.give_back(filter(None, reversed(table)))
        request.tables, request.blocks = (), []
        self._still.pop(request, None)
        request.num_registered_blocks = request.num_hit_blocks = request.junction_tokens = 0

    def _tell(self, request: Request, blocks: Sequence[int], *, is_end: bool) -> None:
        if self.on_release_some is not None:
            self.on_release_some(request, [(block, self.pool.is_hashed(block)) for block in blocks], is_end)

    def close(self, request: Request) -> None:
        """Releases a request that has ended."""
        if request.tables:
            self.release(request)
        self._contents.pop(request, None)
        self.tree.leave(request)

    # what the scheduler reads

    def note_planned(self, plan: Plan) -> None:
        """A step is under way."""
        flight = self._in_flight
        for request, num_tokens in plan.chosen.items():
            flight[request] = flight.get(request, 0) + num_tokens

    def note_over(self, plan: Plan) -> None:
        """A step is over."""
        flight = self._in_flight
        for request, num_tokens in plan.chosen.items():
            left = flight[request] - num_tokens
            if left:
                flight[request] = left
            else:
                del flight[request]


def _by_kind(kinds: Sequence[GroupKind]) -> Iterator[tuple[GroupKind, list[int], bool]]:
    """Groups that are looked up together, with their kind and whether it is full attention: that first."""
    found: dict[object, list[int]] = {}
    for index, kind in enumerate(kinds):
        found.setdefault(kind.group, []).append(index)
    together = [(kinds[members[0]], members) for members in found.values()]
    for is_full in (True, False):
        for kind, members in together:
            if (kind.group.kind == "full") == is_full:
                yield kind, members, is_full
