"""What the engine asks of a scheduler, and the step that a scheduler plans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

from sim.errors import InvariantError, ScenarioError
from sim.serving.decoding import DecodeBatch
from sim.serving.request import Request
from sim.serving.usage import BlockMapSource, DrawnBlocks, Levels

Chunk = tuple[int, int, bool, Request]
"""(queries, tokens in the KV cache before, whether a token comes out, whose)."""
NOBODY: Mapping[Request, int] = {}


def is_decode(num_queries: int, num_cached: int) -> bool:
    """Whether such a piece of a step is priced as a decode: one query token, with KV before it.

    More queries, or a first token without any KV, are a prompt chunk. Drafts that are verified beside the
    query are counted apart (``Step.num_drafts``).
    """
    return num_queries == 1 and num_cached > 0


@dataclass(slots=True, kw_only=True)
class Step:
    """A planned step, or ``num_steps`` equal ones of pure decode. Counts are those at its planning."""

    num_decode: int = 0
    context_tokens: int = 0  # sum over the decoding sequences in the first step, drafts counted
    chunks: Sequence[Chunk] = ()
    num_prefill: int = 0  # prompts worked on (without a KV cache ``chunks`` has the decodes besides)
    prefill_tokens: int = 0
    num_drafts: int = 0  # draft tokens that the decoding sequences verify
    num_padded: int = 0  # static batching: members that are done and still computed
    levels: Levels = (0, 0, 0, 0)
    num_steps: int = 1  # for how long the plan stands, if nobody comes; the engine may take fewer
    admitted: Mapping[Request, int] = field(default_factory=lambda: NOBODY)
    """Admitted or resumed requests, with the tokens found in the prefix cache."""
    preempted: Mapping[Request, int] = field(default_factory=lambda: NOBODY)
    """With the computed tokens that are thrown away."""
    emitting: Sequence[Request] = ()
    """Requests whose first token, or first after a preemption, may come out of it."""
    drafts: Mapping[Request, int] = field(default_factory=lambda: NOBODY)
    # Said by the engine:
    started_ps: int = 0
    first_ps: int = 0
    growth_ps: int = 0
    done_ps: int = -1  # over pipeline stages: when it leaves the last one
    # Said by the scheduler when the step is over:
    grown_tokens_ps: int = 0  # KV added after its first step × time

    @property
    def num_requests(self) -> int:
        """Requests that take part."""
        return self.num_decode + len(self.chunks)

    @property
    def end_ps(self) -> int:
        """When the last of its steps is over."""
        return self.start_of(self.num_steps)

    def start_of(self, step: int) -> int:
        """When its step ``step`` (from 0) begins."""
        return self.started_ps + step * self.first_ps + self.growth_ps * (step * (step - 1) // 2)

    def add(
        self, request: Request, num_tokens: int, num_cached: int, *, samples: bool, drafts: int = 0
    ) -> None:
        """A request's piece of the step: a decode, or a prompt chunk."""
        queries = num_tokens - drafts
        if is_decode(queries, num_cached):
            self.num_decode += 1
            self.num_drafts += drafts
            self.context_tokens += num_cached + num_tokens
        else:
            self.chunks = [*self.chunks, (num_tokens, num_cached, samples, request)]
            self.num_prefill += 1
            self.prefill_tokens += queries


class StepLimits(Protocol):
    """What every scheduler keeps to."""

    @property
    def max_num_batched_tokens(self) -> int: ...

    @property
    def max_model_len(self) -> int: ...

    @property
    def enable_chunked_prefill(self) -> bool: ...


class Scheduler(ABC):
    """Decides who computes what in each step. No clock, no chance, no SimPy."""

    waiting: Sized
    running: dict[int, Request]  # by number of admission
    capacity_tokens: int
    block_map: BlockMapSource | None = None  # where it keeps one
    notes: tuple[str, ...] = ()  # what a reader of the run should know of its decisions
    is_paged = True  # KV that grows counts as wanted only when it is there (``sim.serving.usage``)

    @property
    def num_unfinished(self) -> int:
        """Requests that wait, run, or still hold memory."""
        return len(self.running) + len(self.waiting)

    @abstractmethod
    def used_tokens(self) -> int:
        """Tokens' worth of KV memory in use."""

    @abstractmethod
    def is_open(self) -> bool:
        """Whether a request that comes now could change the next step."""

    @abstractmethod
    def refusal(self, request: Request) -> str:
        """Why it could never be served, or nothing."""

    @abstractmethod
    def add(self, request: Request) -> None:
        """Queues a request that ``refusal`` has nothing against."""

    @abstractmethod
    def abort(self, request: Request, now_ps: int = 0) -> int:
        """The client has left; returns the tokens that it has made so far."""

    @abstractmethod
    def schedule(self, now_ps: int = 0) -> Step:
        """Plans the next step, or as many as follow alike, and counts its tokens as computed."""

    @abstractmethod
    def update(self, step: Step, accepted: Mapping[Request, int] = NOBODY, now_ps: int = 0) -> list[Request]:
        """Takes in what a planned step made; returns who finished. ``accepted``: drafts that were right."""

    @abstractmethod
    def num_just_made(self, request: Request) -> int:
        """Tokens that the last finished step made for a request that is still here."""

    def share_queue(self, queue: deque[Request]) -> None:
        """From now on it admits from a queue that other replicas admit from as well."""
        raise InvariantError(f"{type(self).__name__} has a queue of its own")

    def hold_until_ps(self, now_ps: int) -> int:
        """Until when it waits for more requests before it plans; 0: it does not."""
        return 0

    def endless(self, step: Step) -> ScenarioError | None:
        """What to say if requests preempt one another for ever unless one comes or leaves."""
        return None

    def why_stepwise(self) -> str:
        """What has kept its steps from being skipped, or nothing."""
        return ""

    def what_skips(self) -> str:
        """What would let them be skipped, where something has kept them from it."""
        return "without it steps are skipped"

    # Lent to the fast path, where that decides as this scheduler does. While it is lent, ``free`` and
    # ``num_admissions`` are the fast path's, and nobody asks which block is whose.

    can_lend = False
    limits: StepLimits
    batch: DecodeBatch
    prefilling: dict[int, Request]
    block_size: int
    num_blocks: int
    watermark: int  # blocks
    max_running: int
    num_admissions: int
    free: int  # blocks
    takes_whole_prompt = False  # at admission; else blocks are taken chunk by chunk
    gates_whole_prompt = False  # admission asks that the whole prompt would fit
    cuts_answers = False  # an answer that would pass max_model_len is cut short, not refused
    is_ranked = False  # a newcomer may go ahead of others in the queue

    def lend(self, planned: Step | None) -> list[Chunk] | None:
        """Sets ``free`` and hands everything over; the prompts of a step that is not over. None: not now."""
        raise NotImplementedError

    def enter(self, request: Request) -> bool:
        """A newcomer goes to its place in the queue. True: from now on steps have to be planned here."""
        raise NotImplementedError

    preempts_newest = False  # where memory is short

    def preempt_lent(self, request: Request, num_tokens: int, num_known: int, free: int, held: int) -> int:
        """Back into the queue, as ``release_lent``; ``held``: its blocks."""
        raise NotImplementedError

    # Where cached blocks can be found (``keeps_tables``), each request keeps its block table, and these say
    # how many blocks are free then. Blocks that decodes took are given to them when they leave.

    keeps_tables = False
    shared_tokens = 0  # of blocks with several owners, counted once for each owner beyond the first

    def admit_lent(self, request: Request, budget: int, free: int) -> tuple[int, int, int] | None:
        """Admits the head of the queue: tokens in this step, cached ones, free blocks. None: not now."""
        raise NotImplementedError

    def extend_lent(self, request: Request, num_tokens: int, free: int) -> int:
        """Blocks for the next chunk of a prompt."""
        raise NotImplementedError

    def release_lent(self, request: Request, num_tokens: int, num_known: int, free: int) -> int:
        """A request has ended or left. ``num_tokens``: with those being made; 0: it does not decode."""
        raise NotImplementedError

    drawn: DrawnBlocks | None = None  # while a map is drawn

    # The same for steps with drafts (``draft_path``), request by request.

    can_lend_drafts = False

    def lend_drafts(self) -> bool:
        """Hands over the requests as they stand between two steps, their blocks counted; False: not now."""
        raise NotImplementedError

    def take_back_drafts(self, request: Request, num_known: int, num_drafts: int) -> None:
        """A running request, as it stands. ``num_known``: its tokens when its newest step was planned."""
        raise NotImplementedError

    def take_back(self, shown: tuple[Any, ...] | None, chunks: Sequence[Chunk]) -> Step | None:
        """Everything is its own again, the requests as they stand; returns the step that ``shown`` is of."""
        raise NotImplementedError
