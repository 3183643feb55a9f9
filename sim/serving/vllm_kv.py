"""The vLLM policy's KV memory, as the engine's bookkeeping asks for it."""

from __future__ import annotations

from sim.serving.sequence import Sequence
from sim.serving.vllm.scheduler import Scheduler
from sim.serving.vllm_block_map import VllmBlockMapRecorder


class VllmKV:
    """A view of vLLM's block pool. What it decides is the scheduler's; this only counts."""

    is_paged = True

    def __init__(
        self, scheduler: Scheduler, block_size: int, block_map: VllmBlockMapRecorder | None = None
    ) -> None:
        self.scheduler = scheduler
        self.pool = scheduler.state.kv.pool
        self.block_size = block_size
        self.block_map = block_map
        self.capacity_tokens = self.pool.num_blocks * block_size

    def can_ever_fit(self, sequence: Sequence) -> bool:
        """Asked of the scheduler instead, see ``VllmEngine.receive``."""
        return True

    def release(self, sequence: Sequence, now_ps: int) -> None:
        """The scheduler frees a request's blocks itself."""

    def give_out_tokens(self) -> int:
        """Tokens' worth of blocks that somebody refers to; cached blocks that nobody uses are free."""
        return (self.pool.num_blocks - self.pool.num_free) * self.block_size
