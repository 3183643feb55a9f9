"""The tree of block contents: requests whose blocks hold equal tokens meet in it.

vLLM hashes (parent's hash, tokens of the block). Here a block's content is the run of
(stream, start, length) pieces that make up its tokens, merged where they touch, so equal tokens have
equal pieces. A node is a run of blocks that follow each other in one segment, so that a long segment
costs one node and no token is ever listed; a child branches off after some block of its parent. Two
blocks have the same hash exactly if they are the same block of the same node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.serving.request import Request, Segment

Content = tuple[object, ...]
MOST_WALKS = 2_048  # conversations that think at a time: forgetting one costs time only
GOES_ON: Content = ()
"""Content of a node that goes on in its parent's stream."""


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
        "length",
        "num_users",
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
        self.owner: Request | None = None
        """The live request that made this node for its own output. As long as nobody else reaches the node,
        nobody can look its blocks up, and their registration may wait (``Request.registers_late``)."""

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


@dataclass(frozen=True, slots=True)
class _Walk:
    """How a request's path was found: the blocks done, and where in its segments the next one begins."""

    request: Request
    segments: list[Segment]
    path: Path
    done: int
    index: int
    offset: int


class PrefixTree:
    """Gives requests the same nodes for blocks whose tokens, from the first token on, are equal."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self.root = Node(0)
        self.met: list[Request] = []
        """Live requests whose output somebody else's tokens repeat; whoever reads it empties it."""
        self._walks: dict[int, _Walk] = {}  # by output stream, the oldest first
        self._is_continued, self._remembers = False, True

    def enter(self, request: Request) -> None:
        """Fills ``request.path`` for every block that its prompt and output will fill."""
        size = self._block_size
        request.is_alone = request.registers_late = False
        wanted = request.end_tokens // size
        output_tokens = request.end_tokens - request.num_prompt_tokens
        segments = merged([*request.prompt, (request.stream_of_output, 0, output_tokens)])
        request.path, done, index, offset = self._known_beginning(segments)
        while done < wanted:
            stream, start, length = segments[index]
            left = length - offset
            if left >= size:
                count = left // size
                content = GOES_ON if offset else (stream, start)
                self._go(request, done, content, count, count)
                offset += count * size
                done += count
            elif left == 0:
                index, offset = index + 1, 0
            else:
                pieces, index, offset = _straddle(segments, index, offset, size)
                room = 1 + (segments[index][2] - offset) // size
                count = min(room, wanted - done)
                self._go(request, done, pieces, count, room)
                offset += (count - 1) * size
                done += count
        if request.path:
            request.path[-1][0].num_users += 1
            self._remember_end(_Walk(request, segments, request.path, done, index, offset))

    def _known_beginning(self, segments: list[Segment]) -> tuple[Path, int, int, int]:
        """Where the walk begins: after all that an ended request asked and was answered, or at the root.

        The next turn of a conversation asks all of it again.
        """
        for index in range(len(segments) - 2, -1, -1):
            walk = self._walks.get(segments[index][0])
            if walk is not None:
                is_same = walk.request.is_closed and segments[: index + 1] == walk.segments
                self._is_continued = True
                if is_same and walk.path[-1][0].hang():
                    return walk.path.copy(), walk.done, walk.index, walk.offset
                break
        return [], 0, 0, 0

    def _remember_end(self, walk: _Walk) -> None:
        if not self._remembers:
            return
        walks = self._walks
        walks[walk.segments[-1][0]] = walk
        if len(walks) > MOST_WALKS:
            del walks[next(iter(walks))]
            if not self._is_continued:  # nobody goes on: these are no conversations
                self._remembers = False
                walks.clear()

    def _go(self, request: Request, done: int, content: Content, count: int, room: int) -> None:
        """``count`` more blocks of the path, beginning with this content; a new node has ``room`` of them."""
        path = request.path
        parent, at = path[-1] if path else (self.root, 0)
        if content is GOES_ON and at < parent.length:
            here = min(count, parent.length - at)
            path[-1] = (parent, at + here)
            at, count = at + here, count - here
            done, room = done + here, room - here
        while count:
            node = parent.children.get((at, content))
            if node is None:
                node = self._new_node(request, done, Node(room, parent, (at, content)))
            elif node.owner is not None and node.owner is not request:
                self.met.append(node.owner)
                node.owner = None
            here = min(count, node.length)
            path.append((node, here))
            parent, at, content = node, here, GOES_ON
            done, count = done + here, count - here
            room = count

    def _new_node(self, request: Request, done: int, node: Node) -> Node:
        """Hangs the node under its parent; the request's own, if it begins with the output's first block."""
        assert node.parent is not None
        node.parent.children[node.content] = node
        node.parent.num_users += 1
        if done == request.num_prompt_tokens // self._block_size:
            node.owner = request
            request.output_node, request.registers_late = node, True
        return node

    def remember(self, request: Request) -> None:
        """A request that is alone is preempted: a node beside the tree holds what it will look up."""
        if not request.path:
            wanted = request.end_tokens // self._block_size
            request.path = [(Node(wanted), wanted)]

    def leave(self, request: Request) -> None:
        """The request has ended: its output's content is like any other's."""
        path, own = request.path, request.output_node
        request.path, request.output_node, request.is_closed = [], None, True
        if request.is_alone or not path:
            return
        if own is not None and own.owner is request:
            own.owner = None
        node = path[-1][0]
        node.num_users -= 1
        node.drop_if_unused()


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
