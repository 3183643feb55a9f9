"""A request as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from sim.serving.vllm.prefix_tree import Path

Segment = tuple[int, int, int]
"""(stream, start, length): the tokens (stream, start), (stream, start + 1), ..."""


class Status(Enum):
    """Where a request stands."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"
    REFUSED = "refused"


class Request:
    """Counts and blocks of one request; changed by the scheduler only.

    Tokens are never listed: the prompt is a sequence of segments and output token j is
    (``output_stream``, j). While a request decodes in step with the others its ``num_tokens`` and
    ``num_computed_tokens`` stand still and count from ``settled_step`` (``sim.serving.vllm.steady``);
    ``Scheduler.settle`` brings them up to date.
    """

    # As it arrives; most requests never change the rarer of these.
    num_computed_tokens = 0
    """Tokens whose KV is, or is being, written."""
    num_drafts = 0
    num_placeholders = 0
    """Asynchronous scheduling: tokens that are being made and not known yet."""
    num_stale_tokens = 0
    """Of these, those that were under way when it was preempted."""
    is_prefill_chunk = False
    status = Status.WAITING
    order = -1
    """Place in the running list: numbers of admission grow."""
    num_hit_blocks = 0
    """Found in the prefix cache at its admission."""
    num_registered_blocks = 0
    is_alone = False
    """Said by who makes it: no other request has tokens of its streams."""
    registers_late = False
    settled_step = 0
    num_preemptions = 0
    num_tokens_at_preemption = -1
    num_vain_preemptions = 0
    """Preemptions in a row between which it made no token."""

    def __init__(
        self,
        request_id: str,
        prompt: Sequence[Segment],
        max_tokens: int,
        *,
        output_stream: int = -1,
        priority: int = 0,
        arrival: float = 0,
    ) -> None:
        self.request_id = request_id
        self.prompt = prompt
        self.max_tokens = max_tokens
        """Output tokens that it makes, if ``max_model_len`` lets it."""
        self.output_stream = output_stream
        self.priority = priority
        self.arrival = arrival
        """When it came, in any unit: orders requests of equal priority."""
        tokens = prompt[0][2] if len(prompt) == 1 else sum(piece[2] for piece in prompt)
        self.num_prompt_tokens = self.num_tokens = tokens
        """``num_tokens``: prompt and output tokens known so far."""
        self.end_tokens = tokens + max_tokens
        """``num_tokens`` at which it stops."""
        self.blocks: list[int] = []
        self.path: Path = []
        """Its blocks' contents in the prefix tree; empty without prefix caching."""

    @property
    def num_output_tokens(self) -> int:
        """Output tokens known so far."""
        return self.num_tokens - self.num_prompt_tokens

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id!r}, {self.status.value}, tokens={self.num_tokens}, "
            f"computed={self.num_computed_tokens}, blocks={len(self.blocks)})"
        )
