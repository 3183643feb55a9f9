"""The scheduler's settings, under vLLM's names."""

from __future__ import annotations

from typing import Literal

from sim.model.kv_groups import KvKind
from sim.scenario.dataclass import dataclass

POLICIES = ("fcfs", "priority")
"""vLLM's own; ``user``: a ``SchedulingPolicy`` is given to the scheduler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheGroup:
    """Layers that share one block table a request: every group takes its blocks from the one pool."""

    kind: KvKind = "full"
    window_tokens: int = 0
    """Of a sliding window, or of a chunk."""
    pages_per_request: int = 1
    """Of a state: 1 without prefix caching; 2, or 3 where the layers keep checkpoints of prompts."""


ONE_FULL_GROUP = (KVCacheGroup(),)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What vLLM's ``SchedulerConfig`` and ``CacheConfig`` say to its scheduler; defaults are 0.33.0's."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int = 8192
    block_size: int = 16
    num_gpu_blocks: int = 1000
    """Ids of the pool; id 0 is the null block, so one fewer can hold tokens."""
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    policy: Literal["fcfs", "priority", "user"] = "fcfs"
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0
    prefill_schedule_interval: int = 1
    max_num_active_seqs: int | None = None
    async_scheduling: bool = False
    num_speculative_tokens: int = 0
    pipeline_parallel_size: int = 1
    groups: tuple[KVCacheGroup, ...] = ONE_FULL_GROUP
    """In the order of a request's block tables; all have ``block_size``."""
    prefix_cache_retention_interval: int | None = 0

    @property
    def in_flight_tokens(self) -> int:
        """Most tokens of steps that are planned and not over."""
        num_steps = self.pipeline_parallel_size + self.async_scheduling
        return num_steps * self.max_num_batched_tokens

    @property
    def max_running(self) -> int:
        """Sequences that may run at once."""
        return self.max_num_seqs if self.max_num_active_seqs is None else self.max_num_active_seqs
