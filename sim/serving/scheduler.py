"""What the engine asks of a scheduler, and the step that a scheduler plans."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sim.errors import ScenarioError
from sim.serving.decoding import DecodeBatch
from sim.serving.kv.allocator import Levels
from sim.serving.request import Request

Chunk = tuple[int, int, bool, Request]
"""(queries, tokens in the KV cache before, whether a token comes out, whose)."""
NOTHING_ACCEPTED: Mapping[Request, int] = {}


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
    """Sequences that decode."""
    context_tokens: int = 0
    """Sum of their contexts in the first step, drafts counted."""
    chunks: Sequence[Chunk] = ()
    num_prefill: int = 0
    """Prompts that are worked on (without a KV cache ``chunks`` has the decodes besides)."""
    prefill_tokens: int = 0
    num_drafts: int = 0
    """Draft tokens that the decoding sequences verify."""
    num_padded: int = 0
    """Static batching: members that are done and still computed."""
    levels: Levels = (0, 0, 0, 0)
    num_steps: int = 1
    """For how many steps the plan stands, if nobody comes; the engine may take fewer."""
    is_steady: bool = False
    """Known to stand without having been planned: to be taken by ``Scheduler.advance``."""
    admitted: Sequence[tuple[Request, int]] = ()
    """Admitted or resumed, with the tokens found in the prefix cache."""
    preempted: Sequence[tuple[Request, int]] = ()
    """With the computed tokens that are thrown away."""
    emitting: Sequence[Request] = ()
    """Requests whose first token, or first after a preemption, may come out of it."""
    drafts: Mapping[Request, int] = field(default_factory=lambda: NOTHING_ACCEPTED)
    plan: object = None
    """What the scheduler itself remembers of it."""
    # Said by the engine:
    started_ps: int = 0
    first_ps: int = 0
    growth_ps: int = 0
    done_ps: int = -1
    """Over pipeline stages: when it leaves the last one."""
    grown_tokens_ps: int = 0
    """Said by the scheduler when the step is over: KV added in its later steps × time."""

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


@dataclass(slots=True, kw_only=True)
class Ground:
    """What a scheduler lends: its queue, its running requests and its memory as a number of free blocks."""

    waiting: deque[Request]
    running: dict[int, Request]
    prefilling: dict[int, Request]
    batch: DecodeBatch
    block_size: int
    num_blocks: int
    watermark: int
    max_running: int
    max_num_batched_tokens: int
    max_model_len: int
    enable_chunked_prefill: bool
    takes_whole_prompt: bool
    """Admission takes the blocks of the whole prompt; else those of each chunk, when it is computed."""
    gates_whole_prompt: bool
    """Admission asks that the whole prompt would fit."""
    cuts_answers: bool
    """An answer that would pass ``max_model_len`` is cut short; else the request is refused."""
    is_alone: bool
    """Said of requests: nobody else has their tokens."""
    enter: Callable[[Ground], bool]
    """Fills in ``free`` and ``num_admissions``; False: not now."""
    leave: Callable[[Ground], None]
    """Takes them back, with the requests as they stand."""
    free: int = 0
    num_admissions: int = 0
    is_lent: bool = False


class Scheduler(Protocol):
    """Decides who computes what in each step. No clock, no chance, no SimPy."""

    @property
    def is_circling(self) -> bool:
        """Requests preempt one another for ever, unless one comes or leaves."""
        ...

    @property
    def num_running(self) -> int: ...

    @property
    def num_waiting(self) -> int: ...

    @property
    def num_unfinished(self) -> int: ...

    @property
    def capacity_tokens(self) -> int: ...

    @property
    def is_paged(self) -> bool: ...

    def share_queue(self, queue: deque[Request]) -> None:
        """From now on it admits from a queue that other replicas admit from as well."""
        ...

    def used_tokens(self) -> int:
        """Tokens' worth of KV memory in use."""
        ...

    def is_open(self) -> bool:
        """Whether a request that comes now could change the next step."""
        ...

    def refusal(self, request: Request) -> str:
        """Why it could never be served, or nothing."""
        ...

    def add(self, request: Request) -> None:
        """Queues a request that ``refusal`` has nothing against."""
        ...

    def abort(self, request: Request, now_ps: int) -> int:
        """The client has left; returns the tokens that it has made so far."""
        ...

    def hold_until_ps(self, now_ps: int) -> int:
        """Until when it waits for more requests before it plans; 0: it does not."""
        ...

    def steady_step(self) -> Step | None:
        """Steps of pure decode that are known to follow without being planned, if nobody comes."""
        ...

    def advance(self, step: Step) -> list[Request]:
        """Takes the steps of a ``steady_step``; returns who finished."""
        ...

    def schedule(self, now_ps: int) -> Step:
        """Plans the next step and counts its tokens as computed."""
        ...

    def update(self, step: Step, now_ps: int, accepted: Mapping[Request, int]) -> list[Request]:
        """Takes in what a planned step made; returns who finished. ``accepted``: drafts that were right."""
        ...

    def num_just_made(self, request: Request) -> int:
        """Tokens that the last finished step made for a request that is still here."""
        ...

    def why_stepwise(self) -> str:
        """What has kept its steps from being skipped, or nothing."""
        ...

    def ground(self) -> Ground | None:
        """What it lends to the fast path, where that decides as it does."""
        ...

    def endless(self, step: Step) -> ScenarioError:
        """What to say of a run that circles."""
        ...
