"""What a batching policy is given and what it returns."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

from sim.serving.kv.contiguous import ContiguousKV
from sim.serving.kv.paged import PagedKV
from sim.serving.limits import Limits
from sim.serving.sequence import Sequence


@dataclass(slots=True)
class StepPlan:
    """One step. ``prefill`` holds (sequence, tokens): running prompts that go on, and newly admitted ones."""

    decode: list[Sequence] = field(default_factory=list)
    prefill: list[tuple[Sequence, int]] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)  # in the order of preemption


class Policy(Protocol):
    """Decides a step. It may reserve and release KV memory through ``kv`` and touches nothing else."""

    def __call__(
        self, waiting: Seq[Sequence], running: Seq[Sequence], kv: KVView, limits: Limits
    ) -> StepPlan:
        """``running`` is in order of admission; ``waiting`` in order of arrival, preempted ones in front."""
        ...


class KVView:
    """The KV memory as a policy sees it: questions, and the three actions admit, extend and release."""

    __slots__ = ("_kv", "_now_ps", "is_blocked")

    def __init__(self, kv: PagedKV | ContiguousKV, now_ps: int) -> None:
        self._kv = kv
        self._now_ps = now_ps
        self.is_blocked = False

    def can_admit(self, sequence: Sequence, *, is_first: bool = False) -> bool:
        """Whether its prompt (with what it had generated) finds memory now; ``is_first``: nothing runs."""
        fits = self._kv.can_admit(sequence, is_first=is_first)
        self.is_blocked = not fits
        return fits

    def admit(self, sequence: Sequence) -> None:
        """Reserves that memory."""
        self._kv.admit(sequence, self._now_ps)

    def can_extend(self, sequence: Sequence) -> bool:
        """Whether its next token finds memory."""
        return self._growth(sequence) <= self._kv.free

    def extend(self, sequence: Sequence) -> None:
        """Reserves memory for its next token."""
        growth = self._growth(sequence)
        if growth and isinstance(self._kv, PagedKV):
            self._kv.grow(sequence, growth, self._now_ps)

    def release(self, sequence: Sequence) -> None:
        """Takes all its memory back (before it goes into ``preempted``)."""
        self._kv.release(sequence, self._now_ps)

    def _growth(self, sequence: Sequence) -> int:
        if not isinstance(self._kv, PagedKV):
            return 0
        return 1 if sequence.computed + 1 > sequence.reserved * self._kv.block_size else 0
