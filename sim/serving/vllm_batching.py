"""vLLM's entry in ``BATCHING``: from a scenario's settings to its scheduler."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sim.serving.batching.entry import BLOCK_MAP_RECTANGLES, Batching, Replica
from sim.serving.checks.vllm import check_vllm
from sim.serving.scenario import EngineConfig
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.queue import QUEUES

if TYPE_CHECKING:
    from sim.serving.batching.entry import BlockMaps
    from sim.serving.scheduler import Scheduler

VLLM_KEYS = frozenset(
    {
        "vllm_version",
        "policy",
        "enable_prefix_caching",
        "long_prefill_token_threshold",
        "long_prefill_token_threshold_adaptive",
        "scheduler_reserve_full_isl",
        "prefill_schedule_interval",
        "max_num_active_seqs",
        "async_scheduling",
        "speculative",
        "pipeline_parallel_size",
    }
)


def scheduler_config(engine: EngineConfig, num_gpu_blocks: int, max_model_len: int) -> SchedulerConfig:
    """The engine section in the scheduler's words: most of them are the same."""
    others: dict[str, Any] = {
        "num_gpu_blocks": num_gpu_blocks,
        "max_model_len": max_model_len,
        "policy": engine.policy if engine.policy in QUEUES else "user",
        "num_speculative_tokens": engine.speculative.num_speculative_tokens if engine.speculative else 0,
    }
    same = [one.name for one in fields(SchedulerConfig) if one.name not in others]
    return SchedulerConfig(**others, **{name: getattr(engine, name) for name in same})


def why_stepwise(engine: EngineConfig) -> str:
    """What keeps steps from being skipped, or nothing."""
    reasons = {
        "with async_scheduling": engine.async_scheduling,
        "with speculative drafts": engine.speculative is not None,
        "with prefill_schedule_interval": engine.prefill_schedule_interval > 1,
        "with pipeline_parallel_size": engine.pipeline_parallel_size > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def make_scheduler(replica: Replica) -> Scheduler:
    """A scheduler with its block pool, for one replica."""
    from sim.serving.user_policy import load_scheduling_policy
    from sim.serving.vllm.scheduler import Scheduler as VllmScheduler
    from sim.serving.vllm_block_map import VllmBlockMapRecorder

    engine = replica.scenario.engine
    config = scheduler_config(engine, replica.num_blocks, replica.limits.max_model_len)
    skips = engine.stepping == "skip" and engine.pipeline_parallel_size == 1
    return VllmScheduler(
        config,
        engine.vllm_version,
        steady=skips,
        skips=skips,
        policy=load_scheduling_policy(engine.policy, replica.base_dir) if config.policy == "user" else None,
        are_alone=replica.are_alone,
        block_map=replica.block_map if isinstance(replica.block_map, VllmBlockMapRecorder) else None,
    )


def block_map_recorder() -> BlockMaps:
    """vLLM's pool has shared and cached blocks."""
    from sim.serving.vllm_block_map import VllmBlockMapRecorder

    return VllmBlockMapRecorder(0, BLOCK_MAP_RECTANGLES)


VLLM = Batching(
    doc="vLLM V1's scheduler, decision for decision (the default)",
    make=make_scheduler,
    keys=VLLM_KEYS,
    check=check_vllm,
    block_map=block_map_recorder,
    why_stepwise=why_stepwise,
)
