"""The scheduler's settings, under vLLM's names, checked against each other once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from sim.errors import ScenarioError
from sim.serving.vllm.versions import VERSIONS, VersionProfile


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
    """``user``: a ``SchedulingPolicy`` is given to the scheduler; vLLM has the other two."""
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    scheduler_reserve_full_isl: bool = True
    watermark: float = 0.0
    prefill_schedule_interval: int = 1
    max_num_active_seqs: int | None = None
    async_scheduling: bool = False
    num_speculative_tokens: int = 0

    def __post_init__(self) -> None:
        at_least = {
            "max_num_seqs": 1,
            "max_num_batched_tokens": 1,
            "max_model_len": 1,
            "block_size": 1,
            "num_gpu_blocks": 2,  # block 0 is never handed out
            "prefill_schedule_interval": 1,
            "num_speculative_tokens": 0,
            "max_num_active_seqs": 1,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            _require(value is None or value >= least, name, value, f"{least} or more")
        _require(self.policy in ("fcfs", "priority", "user"), "policy", self.policy, "fcfs, priority")
        _require(0 <= self.watermark < 1, "watermark", self.watermark, "0 up to, not including, 1")
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ScenarioError(
                "without chunked prefill a whole prompt must fit in one step",
                path="max_num_batched_tokens",
                given=self.max_num_batched_tokens,
                allowed=f"at least max_model_len ({self.max_model_len})",
                hint="raise max_num_batched_tokens, lower max_model_len or set enable_chunked_prefill: true",
            )

    @property
    def max_running(self) -> int:
        """Sequences that may run at once."""
        return self.max_num_seqs if self.max_num_active_seqs is None else self.max_num_active_seqs


def _require(holds: bool, name: str, given: object, allowed: str) -> None:
    if not holds:
        raise ScenarioError("impossible value", path=name, given=given, allowed=allowed)


def version_profile(version: str, limits: SchedulerConfig) -> VersionProfile:
    """The release's switches; a setting that it does not have must be left at its default."""
    if version not in VERSIONS:
        raise ScenarioError(
            "unknown vLLM version", path="vllm_version", given=version, allowed=", ".join(VERSIONS)
        )
    profile = VERSIONS[version]
    for field in fields(SchedulerConfig):
        if field.name in profile.missing and getattr(limits, field.name) != field.default:
            raise ScenarioError(
                f"vLLM {version} has no such setting",
                path=field.name,
                given=getattr(limits, field.name),
                hint=f"leave it at {field.default!r}",
            )
    return profile
