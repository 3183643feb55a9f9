"""A request inside an engine, from its arrival to its end: the same object for every scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from operator import attrgetter
from typing import Any

NEVER = 1 << 62
NOTHING: Any = ()  # stands for an empty list that all share: nobody can append to it
Segment = tuple[int, int, int]
"""(stream, start, length): the tokens (stream, start), (stream, start + 1), ..."""


class Status(Enum):
    """Where a request stands."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


class Request:
    """Counts and memory of one request; changed by its scheduler only.

    Tokens are never listed: the prompt is a sequence of segments and output token j is (``output_stream``,
    j). While a request decodes in step with others its ``num_tokens`` and ``num_computed_tokens`` stand still
    and count from ``settled_step`` (``sim.serving.decoding``).
    """

    # As it arrives. These stand on the class, because most requests never change the rarer of them.
    num_computed_tokens = 0  # whose KV is, or is being, written
    target = 0  # tokens that the prefill under way must reach: after a preemption those generated before, too
    order = -1  # place in the running list: numbers of admission grow; -1: not running
    settled_step = 0
    phase = 0
    end_step = -1  # decode step after which its last token is there; -1: it does not decode in step
    reserved = 0  # memory that its allocator gave it: blocks (paged) or tokens (contiguous)
    deadline_ps = NEVER
    is_ended = False
    status = Status.WAITING
    priority = 0
    rank: tuple[int, float, str] = (0, 0, "")  # place in a queue by priority, set when it is queued
    segments: Sequence[Segment] | None = None  # what its prompt is made of; None: tokens that it alone has
    continues: Request | None = None  # before these come all that this one was asked and answers
    output_stream: int | None = None
    num_common_tokens = NEVER  # those after its first so many are surely no other request's
    name: str | None = None  # as recordings call it; None: its number
    # vLLM's scheduler
    num_drafts = 0
    num_placeholders = 0  # asynchronous scheduling: tokens that are being made and not known yet
    num_stale_tokens = 0  # of these, those that were under way when it was preempted
    is_prefill_chunk = False
    num_hit_blocks = 0  # found in the prefix cache at its admission
    num_registered_blocks = 0
    num_common_blocks = 0  # of its beginning, whose contents another request may have, too
    registers_late = True  # nobody could look the blocks of its output up yet
    num_preemptions = 0
    num_tokens_at_preemption = -1
    num_vain_preemptions = 0  # in a row, with no token made in between
    blocks: list[int] = NOTHING
    tables: tuple[list[int], ...] = (
        NOTHING  # of each KV-cache group, where there are several; the first: ``blocks``
    )
    junction_tokens = 0  # some groups had so long a prefix in the cache at its admission, and others less
    path: list[tuple[Any, int]] = NOTHING
    """(node of ``vllm.prefix_tree``, how many of its first contents): what its common blocks hold, in order,
    and once it was preempted what the others do. Empty without prefix caching."""
    walk: Any = None  # where the path ends (``PrefixTree.enter``), for a request that continues this one
    output_node: Any = None  # of these, the one that it made for its output
    is_closed = False  # its path is given up

    def __init__(self, id: int, arrival: int, num_prompt_tokens: int, max_tokens: int) -> None:
        self.id = id  # row of the workload's table: 0, 1, ... in order of arrival
        self.arrival = arrival  # picoseconds; in a recording any unit that orders requests
        self.num_prompt_tokens = num_prompt_tokens
        self.num_tokens = num_prompt_tokens  # prompt and output tokens known so far
        self.max_tokens = max_tokens  # output tokens that it makes, if ``max_model_len`` lets it
        self.end_tokens = num_prompt_tokens + max_tokens  # ``num_tokens`` at which it stops

    @property
    def request_id(self) -> str:
        """Its name; ids compare as strings, as vLLM's do."""
        return f"{self.id:012d}" if self.name is None else self.name

    @property
    def num_output_tokens(self) -> int:
        """Output tokens known so far."""
        return self.num_tokens - self.num_prompt_tokens

    @property
    def prompt(self) -> Sequence[Segment]:
        """What its prompt is made of; without segments a stream of its own."""
        own = [(2 * self.id, 0, self.num_prompt_tokens)] if self.segments is None else self.segments
        turns, before = [own], self.continues
        while before is not None:
            turns.append([*(before.segments or ()), (before.stream_of_output, 0, before.max_tokens)])
            before = before.continues
        return own if len(turns) == 1 else [segment for turn in reversed(turns) for segment in turn]

    @property
    def stream_of_output(self) -> int:
        """Stream of its output tokens."""
        return 2 * self.id + 1 if self.output_stream is None else self.output_stream

    # What batching policies call them.
    arrival_ps = property(attrgetter("arrival"))
    prompt_tokens = property(attrgetter("num_prompt_tokens"))
    output_tokens = property(attrgetter("max_tokens"))
    generated = property(attrgetter("num_output_tokens"))
    computed = property(attrgetter("num_computed_tokens"))

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is computed and its first token is there."""
        return self.num_computed_tokens >= self.target > 0 and self.num_tokens > self.num_prompt_tokens

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id!r}, {self.status.value}, tokens={self.num_tokens}, "
            f"computed={self.num_computed_tokens}, blocks={len(self.blocks)})"
        )
