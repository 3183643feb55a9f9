"""vLLM's entry in ``BATCHING``: from a scenario's settings to its scheduler."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sim.scenario.place import Place
from sim.serving.batching.entry import Batching, Replica
from sim.serving.checks.vllm import check_vllm
from sim.serving.scenario import EngineConfig, max_model_len
from sim.serving.scheduler import Scheduler
from sim.serving.vllm.config import ONE_FULL_GROUP, POLICIES, SchedulerConfig

VLLM_KEYS = frozenset([
    "policy", "enable_prefix_caching", "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive", "scheduler_reserve_full_isl", "prefill_schedule_interval",
    "max_num_active_seqs", "async_scheduling", "speculative", "pipeline_parallel_size",
])  # fmt: skip


def scheduler_config(engine: EngineConfig, num_gpu_blocks: int, max_model_len: int) -> SchedulerConfig:
    """The engine section in the scheduler's words: most of them are the same."""
    others: dict[str, Any] = {
        "num_gpu_blocks": num_gpu_blocks,
        "max_model_len": max_model_len,
        "policy": engine.policy if engine.policy in POLICIES else "user",
        "num_speculative_tokens": engine.speculative.num_speculative_tokens if engine.speculative else 0,
        "groups": ONE_FULL_GROUP,
        "prefix_cache_retention_interval": 0,
    }
    same = [one.name for one in fields(SchedulerConfig) if one.name not in others]
    return SchedulerConfig(**others, **{name: getattr(engine, name) for name in same})


class VllmBatching(Batching):
    """vLLM's scheduler over its own pool, whose blocks are shared and cached."""

    def make(self, replica: Replica) -> Scheduler:
        from sim.serving.user_policy import load_scheduling_policy
        from sim.serving.vllm.scheduler import Scheduler as VllmScheduler
        from sim.serving.vllm_block_map import VllmBlockMapRecorder

        engine = replica.scenario.engine
        config = scheduler_config(engine, replica.num_blocks, max_model_len(replica.scenario))
        is_users = config.policy == "user"
        return VllmScheduler(
            config,
            engine.vllm_version,
            steady=engine.stepping == "skip" and engine.pipeline_parallel_size == 1,
            policy=load_scheduling_policy(engine.policy, replica.base_dir) if is_users else None,
            are_alone=replica.are_alone,
            block_map=VllmBlockMapRecorder(replica.index) if replica.keeps_block_map else None,
        )

    def check(self, engine: EngineConfig, place: Place) -> None:
        check_vllm(engine, place)


VLLM = VllmBatching(doc="vLLM V1's scheduler, decision for decision (the default)", keys=VLLM_KEYS)
