"""Block keys: the hash chain over full blocks, as small integers.

vLLM hashes (parent's hash, tokens of the block). Here a block's content is the run of
(stream, start, length) pieces that make up its tokens, merged where they touch, so equal tokens have
equal pieces; (parent key, pieces) is interned. A block that goes on in its parent's stream gets its
parent's key plus one: a long segment costs one dictionary entry, and no token is ever listed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from sim.serving.vllm.request import Request, Segment

ROOT = 0
FEW_NODES = 50_000


class BlockKeys:
    """Gives equal keys to blocks whose tokens, from the first token on, are equal.

    A node is a run of keys ``first .. last`` handed out for one interned content. ``owner`` names the
    live request that made a node for its own output: as long as nobody else reaches that node, nobody
    can look its blocks up, and their registration may wait (``Request.registers_late``).
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._nodes: dict[tuple[object, ...], tuple[int, int]] = {}
        self._next_key = ROOT + 1
        self._sweep_at = FEW_NODES
        self.owner: dict[int, Request] = {}
        self.met: list[Request] = []
        """Live requests whose output somebody else's tokens repeat; whoever reads it empties it."""

    def assign(self, request: Request) -> None:
        """Fills ``request.block_keys`` for every block that its prompt and output will fill."""
        output_tokens = request.end_tokens - request.num_prompt_tokens
        segments = merged([*request.prompt, (request.output_stream, 0, output_tokens)])
        size, keys = self._block_size, request.block_keys
        wanted = request.end_tokens // size
        self._run_last = ROOT
        index = offset = 0
        while len(keys) < wanted:
            stream, start, length = segments[index]
            left = length - offset
            if left >= size:
                self._append_run(request, keys, (stream, start + offset, offset > 0), left // size)
                offset += left // size * size
            elif left == 0:
                index, offset = index + 1, 0
            else:
                pieces, index, offset = _straddle(segments, index, offset, size)
                room = 1 + (segments[index][2] - offset) // size
                self._append_node(request, keys, (_last(keys), pieces), 1, room)

    def _append_run(
        self, request: Request, keys: list[int], piece: tuple[int, int, bool], count: int
    ) -> None:
        """Keys of ``count`` whole blocks of one segment; ``piece``: (stream, start, goes on)."""
        stream, start, goes_on = piece
        if not goes_on:
            self._append_node(request, keys, (_last(keys), stream, start), count, count)
            return
        last = keys[-1]
        room = min(count, self._run_last - last)
        keys.extend(range(last + 1, last + 1 + room))
        if room < count:
            self._append_node(request, keys, (keys[-1],), count - room, count - room)

    def _append_node(
        self, request: Request, keys: list[int], content: tuple[object, ...], count: int, room: int
    ) -> None:
        """The first ``count`` keys of the node for this content, and of those that go on from it.

        A node that is new is made with ``room`` keys.
        """
        while True:
            first, last = self._nodes.get(content) or self._new_node(request, keys, content, room)
            owner = self.owner.get(first)
            if owner is not None and owner is not request:
                self.met.append(self.owner.pop(first))
            here = min(count, last - first + 1)
            keys.extend(range(first, first + here))
            self._run_last = last
            count -= here
            if not count:
                return
            content, room = (keys[-1],), count

    def _new_node(
        self, request: Request, keys: list[int], content: tuple[object, ...], room: int
    ) -> tuple[int, int]:
        """A run of ``room`` unused keys; the request's own, if it begins with the output's first block."""
        first = self._next_key
        self._next_key += room
        node = self._nodes[content] = (first, self._next_key - 1)
        if len(keys) == request.num_prompt_tokens // self._block_size:
            self.owner[first] = request
            request.key_node, request.registers_late = first, True
        return node

    @property
    def has_doubled(self) -> bool:
        """Whether there are twice the nodes that the last sweep left."""
        return len(self._nodes) >= self._sweep_at

    def release(self, request: Request) -> None:
        """The request has ended: its output's content is like any other's."""
        self.owner.pop(request.key_node, None)

    def sweep(self, registered: Iterable[int], live: Iterable[Request]) -> None:
        """Forgets content that no block holds and no live request has, nor a continuation of it.

        Exact: a forgotten content can be met again only as something new.
        """
        contents = list(self._nodes)
        firsts = [self._nodes[content][0] for content in contents]
        kept = [False] * len(contents)
        used = set(registered)
        for request in live:
            used.update(request.block_keys)
        for key in used:
            kept[bisect_right(firsts, key) - 1] = True
        for index in range(len(contents) - 1, -1, -1):
            parent = contents[index][0]
            if kept[index] and isinstance(parent, int) and parent != ROOT:
                kept[bisect_right(firsts, parent) - 1] = True
        nodes = self._nodes
        self._nodes = {content: nodes[content] for content, keep in zip(contents, kept, strict=True) if keep}
        self._sweep_at = max(FEW_NODES, 2 * len(self._nodes))


def _last(keys: Sequence[int]) -> int:
    return keys[-1] if keys else ROOT


def merged(segments: Iterable[Segment]) -> list[Segment]:
    """The same tokens in as few segments as possible."""
    result: list[Segment] = []
    for stream, start, length in segments:
        if length == 0:
            continue
        if result and result[-1][0] == stream and result[-1][1] + result[-1][2] == start:
            result[-1] = (stream, result[-1][1], result[-1][2] + length)
        else:
            result.append((stream, start, length))
    return result


def _straddle(
    segments: Sequence[Segment], index: int, offset: int, size: int
) -> tuple[tuple[Segment, ...], int, int]:
    """The pieces of one block that does not lie in one segment, and where the next block begins."""
    pieces = []
    while size:
        stream, start, length = segments[index]
        here = min(size, length - offset)
        if here:
            pieces.append((stream, start + offset, here))
        size -= here
        offset += here
        if size:
            index, offset = index + 1, 0
    return tuple(pieces), index, offset
