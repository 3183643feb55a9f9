"""What a KV allocator must be able to do, the settings that it is made from, and how many blocks it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

from sim.price.memory import memory_plan
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    from sim.serving.recorder import BlockMapRecorder
    from sim.serving.request import Request
    from sim.serving.scenario import Scenario
    from sim.serving.usage import Levels

Reservation = Literal["max", "pow2", "oracle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KVSettings:
    """The KV memory of one replica. ``num_blocks`` blocks of ``block_size`` tokens are the budget."""

    num_blocks: int
    block_size: int
    watermark: float = 0.0
    reservation: Reservation = "max"
    max_model_len: int = 0
    block_map: BlockMapRecorder | None = None


class KVAllocator(Protocol):
    """Memory for the KV of one replica, in units of the allocator's own. It refuses before it changes
    anything.

    ``growth_period`` is the number of tokens after which a decoding request needs one more unit, first where
    its tokens pass a multiple of it. 0: what a request is given at admission is enough. None: neither, and
    every step has to be planned by itself. Steps are skipped by taking units from ``free`` for many requests
    at once; ``settle`` then brings the request's own account up to date.
    """

    keys: ClassVar[frozenset[str]] = frozenset()
    """Settings of ``engine`` that only some allocators understand, and this one does."""
    capacity_tokens: int
    free: int
    """Units that growth may take."""
    is_paged: bool
    """Whether KV that grows counts as wanted only when it is there (``sim.serving.usage``)."""

    @classmethod
    def of(cls, settings: KVSettings) -> Self:
        """The memory of one replica."""
        ...

    @property
    def growth_period(self) -> int | None: ...

    @property
    def block_map(self) -> BlockMapRecorder | None: ...

    def can_ever_fit(self, request: Request) -> bool:
        """Whether the whole request fits an empty pool."""
        ...

    def can_admit(self, request: Request, *, is_first: bool) -> bool:
        """Whether the tokens to prefill find memory now; ``is_first``: nothing runs."""
        ...

    def admit(self, request: Request, now_ps: int) -> None:
        """Reserves that memory."""
        ...

    def growth(self, request: Request) -> int:
        """Units that its next token needs."""
        ...

    def grow(self, request: Request, num_units: int, now_ps: int) -> None:
        """Gives it ``num_units`` more; the caller has checked ``free``."""
        ...

    def settle(self, request: Request) -> None:
        """Brings its account up to date after a jump took units for its new tokens from ``free``."""
        ...

    def release(self, request: Request, now_ps: int) -> None:
        """Takes all its memory back."""
        ...

    def used_tokens(self) -> int:
        """Tokens' worth of memory in use, rounding included."""
        ...

    def levels(self, held_tokens: int, unfilled_tokens: int, is_blocked: bool) -> Levels:
        """How memory is used now; ``is_blocked``: the head of the queue finds none."""
        ...


UNLIMITED_BLOCKS = 1 << 40


def num_blocks_of(scenario: Scenario) -> int:
    """The KV budget of one replica. Without a KV cache, or as a plain queue, there is no limit."""
    if not scenario.engine.has_kv_budget:
        return UNLIMITED_BLOCKS
    if scenario.engine.num_gpu_blocks_override is not None:
        return scenario.engine.num_gpu_blocks_override
    return memory_plan(scenario.model, scenario.hardware, scenario.engine).whole_blocks
