"""The tree of block contents: requests whose blocks hold equal tokens meet in it.

vLLM hashes (parent's hash, tokens of the block). Here a block's content is the run of
(stream, start, length) pieces that make up its tokens, merged where they touch, so equal tokens have
equal pieces. A node is a run of blocks that follow each other, so that a long segment costs no more than
a short one and no token is ever listed. Who goes on where a node ends makes it longer, and who goes on in
another way than the first makes a child, which branches off after some block of its parent: a conversation
is one node, however many turns it has. Two blocks have the same hash exactly if they are the same block of
the same node.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.serving.request import Request, Segment

Content = tuple[object, ...]
GOES_ON: Content = ()
"""Content of a block that goes on in the stream of the block before it."""


class FreeRun:
    """Neighbours in the free queue, in the order of their request's table: the last is used first.

    With a hash, they hold the contents ``first``, ``first + 1``, ... of ``node``.
    """

    __slots__ = ("blocks", "first", "is_cached", "node")

    def __init__(self, blocks: list[int], node: Node | None = None, first: int = 0) -> None:
        self.blocks = blocks
        self.node = node
        self.first = first
        self.is_cached = False
        """They hold content with a hash that nobody can ask for."""


class Node:
    """A run of ``length`` block contents, and the blocks of the pool that hold them now.

    ``blocks[i]`` holds content i; what is cached is always a beginning of the run, because a block is never
    evicted before those that follow it. Who owns some of them owns a beginning, too: ``holds`` counts owners
    by how many blocks they own, ``held`` is the most of it, and ``runs`` are the runs of the free queue in
    which the others stand, in order.

    That ends when a content gets a second block. ``copies[i]`` are further blocks of the same content, in
    order of registration, each with its run of the free queue or None while somebody owns it; from then on
    ``free[i]`` says the same of ``blocks[i]``, and the pool counts owners block by block.
    """

    __slots__ = (
        "blocks",
        "children",
        "content",
        "copies",
        "free",
        "held",
        "holds",
        "joints",
        "length",
        "num_users",
        "owned_from",
        "owner",
        "parent",
        "runs",
    )

    def __init__(
        self, length: int, parent: Node | None = None, content: tuple[int, Content] = (0, ())
    ) -> None:
        self.length = length
        self.parent = parent
        self.content = content
        self.blocks: list[int] = []
        self.holds: dict[int, int] = {}
        self.held = 0
        self.runs: list[FreeRun] = []
        self.free: list[FreeRun | None] | None = None
        self.copies: dict[int, dict[int, FreeRun | None]] = {}
        self.children: dict[tuple[int, Content], Node] = {}
        self.num_users = 0
        """Live requests whose path ends here, and children."""
        self.joints: dict[int, Content] = {}
        """Contents, in order, that do not go on in the stream of the block before them."""
        self.owner: Request | None = None
        """The live request whose output its contents from ``owned_from`` on are. As long as nobody else comes
        so far, nobody can look them up, and their registration may wait (``Request.registers_late``)."""
        self.owned_from = 0

    def stretch(self, index: int) -> int:
        """Contents from ``index`` on that go on in one stream."""
        joints = self.joints
        if joints:
            positions = list(joints)
            after = bisect_right(positions, index)
            if after < len(positions):
                return positions[after] - index
        return self.length - index

    def hang(self) -> bool:
        """Puts it and the nodes before it back into the tree, where they were dropped, if that can be."""
        node, parent, dropped = self, self.parent, list[Node]()
        while parent is not None:
            found = parent.children.get(node.content)
            if found is node:
                break
            if found is not None:  # somebody else's tokens have made it anew
                return False
            dropped.append(node)
            node, parent = parent, parent.parent
        for node in dropped:
            assert node.parent is not None
            node.parent.children[node.content] = node
            node.parent.num_users += 1
        return True

    def drop_if_unused(self) -> None:
        """Leaves the tree if no block holds the content and nobody can ask for it.

        Exact: forgotten content can be met again only as something new.
        """
        node, parent = self, self.parent
        while parent is not None and not node.blocks and not node.num_users:
            del parent.children[node.content]
            parent.num_users -= 1
            node, parent = parent, parent.parent


Path = list[tuple[Node, int]]
"""A request's blocks as (node, how many of its first contents), in order."""


class PrefixTree:
    """Gives requests the same nodes for blocks whose tokens, from the first token on, are equal."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self.root = Node(0)
        self.met: list[Request] = []
        """Live requests whose output somebody else's tokens repeat; whoever reads it empties it."""

    def enter(self, request: Request, wanted: int) -> None:
        """Fills ``request.path`` for its first ``wanted`` blocks, or all of those that tokens will fill."""
        size = self._block_size
        request.num_common_blocks = wanted
        request.registers_late = wanted * size <= request.num_prompt_tokens
        answer = request.stream_of_output, 0, request.end_tokens - request.num_prompt_tokens
        segments, path, done, offset = self._beginning(request, answer)
        request.path, index = path, 0
        stream, start, length = segments[0]
        while done < wanted:
            left = length - offset
            if left >= size:
                count = left // size
                content = GOES_ON if offset else (stream, start)
                offset += count * size
            elif left == 0:
                index, offset = index + 1, 0
                stream, start, length = segments[index]
                continue
            else:
                content, index, offset = _straddle(segments, index, offset, size)
                stream, start, length = segments[index]
                count = 1 + (length - offset) // size
                offset += (count - 1) * size
            if done + count > wanted:
                offset -= (done + count - wanted) * size
                count = wanted - done
            self._go(request, done, content, count)
            done += count
        if path:
            path[-1][0].num_users += 1
            request.walk = self, path, done, segments[index:], offset

    def _beginning(self, request: Request, answer: Segment) -> tuple[list[Segment], Path, int, int]:
        """The segments to walk over, and after which path, blocks and tokens of the first of them.

        The next turn of a conversation goes on where the one before it has ended.
        """
        before = request.continues
        if before is not None and before.is_closed and before.walk is not None:
            tree, path, done, left, offset = before.walk
            before.walk = None
            if tree is self and path[-1][0].hang():
                return merged([*left, *(request.segments or ()), answer]), path.copy(), done, offset
        return merged([*request.prompt, answer]), [], 0, 0

    def _go(self, request: Request, done: int, content: Content, count: int) -> None:
        """``count`` more blocks of the path, beginning with this content."""
        path = request.path
        node, at = path[-1] if path else (self.root, 0)
        while True:
            if at < node.length and node.joints.get(at, GOES_ON) == content:
                path[-1] = node, (end := at + min(count, node.stretch(at)))
            elif (child := node.children.get((at, content))) is not None:
                node, at, end = child, 0, min(count, child.stretch(0))
                path.append((node, end))
            else:
                self._make(request, done, content, count)
                return
            if node.owner is not None and node.owner is not request and end > node.owned_from:
                self.met.append(node.owner)
                node.owner = None
            count -= end - at
            if not count:
                return
            done, at, content = done + end - at, end, GOES_ON

    def _make(self, request: Request, done: int, content: Content, count: int) -> None:
        """The same, where nobody has come so far: the request's own, if they begin with its output."""
        path = request.path
        node, at = path[-1] if path else (self.root, 0)
        if path and at == node.length:
            if content is not GOES_ON:
                node.joints[at] = content
            path[-1] = node, at + count
        else:
            node.children[at, content] = child = Node(0, node, (at, content))
            node.num_users += 1
            node, at = child, 0
            path.append((node, count))
        node.length = at + count
        if done == request.num_prompt_tokens // self._block_size:
            node.owner, node.owned_from = request, at
            request.output_node, request.registers_late = node, True

    def remember(self, request: Request) -> None:
        """A request is preempted: a node beside the tree holds what nobody but itself will look up."""
        own = request.end_tokens // self._block_size - request.num_common_blocks
        if own and not (request.path and request.path[-1][0].parent is None):
            request.path = [*request.path, (Node(own), own)]

    def leave(self, request: Request) -> None:
        """The request has ended: its output's content is like any other's."""
        path, own = request.path, request.output_node
        request.path, request.output_node, request.is_closed = [], None, True
        if own is not None and own.owner is request:
            own.owner = None
        for node, _ in reversed(path):
            if node.parent is not None:
                node.num_users -= 1
                node.drop_if_unused()
                break


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
