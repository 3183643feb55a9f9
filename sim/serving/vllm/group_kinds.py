"""In what the kinds of KV-cache groups differ: which blocks they keep, find again and register.

Four kinds: full attention, sliding window, chunked local attention and the state of recurrent layers. The
first two are recorded (``gpuyard conformance``); the others are written after vLLM 0.33.0's description and
no recording holds them. Not modelled of states: chunks cut at the edges of pages so that more states can be
cached, and hits inside a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sim.errors import InvariantError
from sim.model.kv_groups import chunk_blocks, window_blocks
from sim.scenario.dataclass import dataclass
from sim.serving.request import NEVER
from sim.serving.vllm.config import KVCacheGroup
from sim.serving.vllm.kv import blocks_for

NULL = 0
"""The null block: a place in a table whose tokens nobody needs any longer, or never did."""
CHUNKS_NOT_CUT = (
    "chunks of a prompt are not cut at the edges of state pages, as vLLM cuts them to keep more states: the "
    "prefix cache may find less here"
)
IsCached = Callable[[int], bool]
Hit = tuple[int, int]
"""(first, end): the prefix ends before block ``end``; of it only the blocks from ``first`` on are needed."""
Chunk = tuple[int, int]
"""(tokens computed before it, and with it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which blocks of a request its groups register: what a later request could find.

    ``interval_tokens`` is ``prefix_cache_retention_interval``: None registers everything, 0 what a resend of
    the prompt or another request with the same beginning would need, r > 0 also the end of every r tokens.
    """

    interval_tokens: int | None
    boundaries_tokens: tuple[int, ...]


class GroupKind:
    """Full attention: every token is needed to the end, and every block is registered."""

    leaves_at: int | None = None
    """Blocks leave a request only when its computed tokens are congruent to this, modulo the block size."""
    recycles = False  # blocks leave a request before its end
    is_state = False

    def __init__(self, group: KVCacheGroup, block_size: int) -> None:
        self.group, self.block_size = group, block_size

    def num_skipped_tokens(self, num_computed_tokens: int) -> int:
        """Tokens at the beginning that no later token reads."""
        return 0

    def next_leave(self, num_computed_tokens: int) -> int:
        """With so many computed tokens, or earlier, no further block leaves."""
        return NEVER

    def most_blocks(self, in_flight_tokens: int, max_model_len: int) -> int | None:
        """Most blocks of one request at a time, ``in_flight_tokens`` of which may be under way at once."""
        return None

    def num_needed(self, table: list[int], num_computed_tokens: int, num_tokens: int) -> int:
        """Fresh blocks for the first ``num_tokens`` tokens of a request."""
        return max(0, blocks_for(num_tokens, self.block_size) - len(table))

    def num_tokens_in(self, table: list[int]) -> int:
        """Tokens up to which a table needs no block more."""
        return len(table) * self.block_size

    def pad(self, table: list[int], num_computed_tokens: int, num_tokens: int) -> None:
        """Fills places that get no block before fresh ones are appended."""

    def find(self, is_cached: IsCached, num_tokens: int, *, drops: bool = False) -> Hit:
        """The longest prefix of at most ``num_tokens`` tokens that may be taken from the cache.

        Full attention: the first run of cached blocks. ``drops``: its last block is given up again.
        """
        end, most = 0, num_tokens // self.block_size
        while end < most and is_cached(end):
            end += 1
        return 0, end - (drops and end > 0)

    def kept(self, first: int, end: int, chunk: Chunk, retention: Retention) -> Iterable[int]:
        """Of the full blocks ``first`` up to ``end``, filled by ``chunk``, those that are registered."""
        return range(first, end)


class WindowKind(GroupKind):
    """Sliding window: a token reads itself and the ``window_tokens`` - 1 before it."""

    recycles = True

    def __init__(self, group: KVCacheGroup, block_size: int) -> None:
        super().__init__(group, block_size)
        self._num_before = group.window_tokens - 1
        self.leaves_at = self._num_before % block_size
        self._num_for_hit = blocks_for(self._num_before, block_size)

    def num_skipped_tokens(self, num_computed_tokens: int) -> int:
        return max(0, num_computed_tokens - self._num_before)

    def next_leave(self, num_computed_tokens: int) -> int:
        gone = self.num_skipped_tokens(num_computed_tokens) // self.block_size
        return self._num_before + (gone + 1) * self.block_size - 1

    def most_blocks(self, in_flight_tokens: int, max_model_len: int) -> int:
        return window_blocks(self._num_before + 1, self.block_size, max_model_len, in_flight_tokens)

    def find(self, is_cached: IsCached, num_tokens: int, *, drops: bool = False) -> Hit:
        """The latest run of blocks that fills a window, or a run at the very start."""
        need, run = self._num_for_hit + drops, 0
        for index in range(num_tokens // self.block_size - 1, -1, -1):
            if not is_cached(index):
                run = 0
                continue
            run += 1
            if run >= need:
                return index, index + run - drops
        return 0, run - (drops and run > 0)

    def kept(self, first: int, end: int, chunk: Chunk, retention: Retention) -> Iterable[int]:
        interval, need, size = retention.interval_tokens, self._num_for_hit, self.block_size
        if interval is None:
            return range(first, end)
        found: set[int] = set()
        if interval:
            segment = interval // size
            if need >= segment:
                return range(first, end)
            found.update(index for index in range(first, end) if index % segment >= segment - need)
        for boundary in retention.boundaries_tokens:
            last = boundary // size
            found.update(range(max(first, last - need), min(end, last)))
        return sorted(found)


class ChunkKind(GroupKind):
    """Chunked local attention: a token reads those before it in its chunk of ``window_tokens``.

    Not recorded.
    """

    recycles = True

    def __init__(self, group: KVCacheGroup, block_size: int) -> None:
        super().__init__(group, block_size)
        self._chunk = group.window_tokens
        self.leaves_at = 0 if self._chunk % block_size == 0 else None

    def num_skipped_tokens(self, num_computed_tokens: int) -> int:
        return num_computed_tokens // self._chunk * self._chunk

    def next_leave(self, num_computed_tokens: int) -> int:
        return self.num_skipped_tokens(num_computed_tokens) + self._chunk - 1

    def most_blocks(self, in_flight_tokens: int, max_model_len: int) -> int:
        return chunk_blocks(self._chunk, self.block_size, max_model_len, in_flight_tokens)

    def find(self, is_cached: IsCached, num_tokens: int, *, drops: bool = False) -> Hit:
        """Whole chunks before the last one are not read again, so they need not be cached."""
        first = end = self.num_skipped_tokens(num_tokens) // self.block_size
        while end < num_tokens // self.block_size and is_cached(end):
            end += 1
        return first, end


class StateKind(GroupKind):
    """The state of recurrent layers: one page holds it as it stands after some token. Not recorded.

    With prefix caching a running request writes a new page when its tokens pass into the next block, and the
    page before is given back when that step is over; where the layers keep checkpoints (three pages a
    request), a chunk of prompt that passes an edge leaves the state at its last edge in a page of its own.
    Without prefix caching one page serves to the end.
    """

    recycles = is_state = True

    def __init__(self, group: KVCacheGroup, block_size: int) -> None:
        super().__init__(group, block_size)
        self._is_one_page, self._keeps_checkpoints = group.pages_per_request == 1, group.pages_per_request > 2
        self.leaves_at = 1 % block_size
        self.recycles = not self._is_one_page

    def num_skipped_tokens(self, num_computed_tokens: int) -> int:
        return 0 if self._is_one_page else max(0, num_computed_tokens - 1)

    def next_leave(self, num_computed_tokens: int) -> int:
        gone = self.num_skipped_tokens(num_computed_tokens) // self.block_size
        return NEVER if self._is_one_page else (gone + 1) * self.block_size

    def num_needed(self, table: list[int], num_computed_tokens: int, num_tokens: int) -> int:
        if self._is_one_page:
            return int(not table)
        last = blocks_for(num_tokens, self.block_size)
        has_checkpoint = self._keeps_checkpoints and num_tokens - num_computed_tokens > 1
        return min(max(0, last - len(table)), 1 + has_checkpoint)

    def num_tokens_in(self, table: list[int]) -> int:
        return NEVER if self._is_one_page else super().num_tokens_in(table)

    def pad(self, table: list[int], num_computed_tokens: int, num_tokens: int) -> None:
        if not self._is_one_page:
            need = self.num_needed(table, num_computed_tokens, num_tokens)
            table += [NULL] * (blocks_for(num_tokens, self.block_size) - len(table) - need)

    def find(self, is_cached: IsCached, num_tokens: int, *, drops: bool = False) -> Hit:
        """The latest state: nothing before it is needed."""
        for index in range(num_tokens // self.block_size - 1, -1, -1):
            if is_cached(index):
                return index, index + 1
        return 0, 0

    def kept(self, first: int, end: int, chunk: Chunk, retention: Retention) -> Iterator[int]:
        """Only the last can hold the state at its edge: where the chunk ends, or in a checkpoint."""
        interval, size, last = retention.interval_tokens, self.block_size, end - 1
        is_checkpoint = self._keeps_checkpoints and blocks_for(chunk[0], size) <= last
        if self._is_one_page or not (is_checkpoint or chunk[1] % size == 0):
            return
        is_boundary = any(boundary // size == end for boundary in retention.boundaries_tokens)
        if interval is None or is_boundary or (interval and end % max(1, interval // size) == 0):
            yield last


KINDS: dict[str, type[GroupKind]] = {
    "full": GroupKind,
    "sliding": WindowKind,
    "chunked": ChunkKind,
    "state": StateKind,
}


def kinds_of(groups: Iterable[KVCacheGroup], block_size: int) -> tuple[GroupKind, ...]:
    """The rules of each group, in table order."""
    found = tuple(KINDS[group.kind](group, block_size) for group in groups)
    if not found:
        raise InvariantError("a model without KV has no groups")
    return found
