"""vLLM's entry in ``BATCHING``: from a scenario's settings to its scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sim.errors import ScenarioError
from sim.scenario.place import Place
from sim.serving.batching.entry import BLOCK_MAP_RECTANGLES, Batching, Replica
from sim.serving.scenario import EngineConfig
from sim.serving.vllm.config import SchedulerConfig, version_profile

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


def scheduling_policy(given: str) -> Literal["fcfs", "priority", "user"]:
    """vLLM's two by name; a path means a user's."""
    if given == "fcfs":
        return "fcfs"
    return "priority" if given == "priority" else "user"


def scheduler_config(engine: EngineConfig, num_gpu_blocks: int, max_model_len: int) -> SchedulerConfig:
    """The engine section in the scheduler's words."""
    speculative = engine.speculative
    return SchedulerConfig(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=max_model_len,
        block_size=engine.block_size,
        num_gpu_blocks=num_gpu_blocks,
        enable_prefix_caching=engine.enable_prefix_caching,
        enable_chunked_prefill=engine.enable_chunked_prefill,
        policy=scheduling_policy(engine.policy),
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=engine.long_prefill_token_threshold_adaptive,
        scheduler_reserve_full_isl=engine.scheduler_reserve_full_isl,
        watermark=engine.watermark,
        prefill_schedule_interval=engine.prefill_schedule_interval,
        max_num_active_seqs=engine.max_num_active_seqs,
        async_scheduling=engine.async_scheduling,
        num_speculative_tokens=speculative.num_speculative_tokens if speculative else 0,
    )


def check_vllm(engine: EngineConfig, place: Place) -> None:
    """Refuses what vLLM itself refuses, and what the named release does not have."""
    _check_pipeline(engine, place)
    if engine.async_scheduling and engine.speculative is not None:
        raise place.child("async_scheduling").error(
            "vLLM itself refuses asynchronous scheduling with n-gram drafts",
            given=True,
            allowed="async_scheduling: false with speculative: {method: ngram}",
            hint="remove async_scheduling (vLLM turns it off with n-gram drafts), or remove speculative",
        )
    blocks = engine.num_gpu_blocks_override or 2
    if blocks < 2:
        raise place.child("num_gpu_blocks_override").error(
            "vLLM keeps one block for itself", given=blocks, allowed="2 or more", hint="batching: continuous"
        )
    try:
        config = scheduler_config(engine, blocks, engine.max_model_len or engine.max_num_batched_tokens)
        version_profile(engine.vllm_version, config)
    except ScenarioError as error:
        raise place.child(error.path).error(
            error.problem, given=error.given, allowed=error.allowed, hint=error.hint
        ) from None


def _check_pipeline(engine: EngineConfig, place: Place) -> None:
    """What a pipeline cannot be combined with here."""
    if engine.pipeline_parallel_size == 1:
        return
    beside = {
        "async_scheduling": (engine.async_scheduling, "false"),
        "speculative": (engine.speculative is not None, "no speculative"),
        "price_table": (engine.price_table is not None, "no price_table: it was measured on one stage"),
    }
    for name, (is_given, allowed) in beside.items():
        if is_given:
            raise place.child(name).error(
                "not modelled with pipeline_parallel_size",
                given=name if name != "async_scheduling" else True,
                allowed=f"{allowed}, with pipeline_parallel_size {engine.pipeline_parallel_size}",
                hint="remove it, or pipeline_parallel_size: 1",
            )
    if engine.overheads.schedules_ahead:
        raise (
            place.child("overheads")
            .child("schedules_ahead")
            .error(
                "not modelled with pipeline_parallel_size: as many batches are planned as there are stages",
                given=True,
                allowed="false with pipeline_parallel_size",
                hint="remove it",
            )
        )


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
    from sim.serving.vllm.scheduler import Scheduler as VllmCore
    from sim.serving.vllm_block_map import VllmBlockMapRecorder
    from sim.serving.vllm_scheduler import VllmScheduler

    engine = replica.scenario.engine
    config = scheduler_config(engine, replica.num_blocks, replica.limits.max_model_len)
    users = load_scheduling_policy(engine.policy, replica.base_dir) if config.policy == "user" else None
    is_one_at_a_time = engine.pipeline_parallel_size == 1
    is_steady = engine.stepping == "skip" and is_one_at_a_time
    scheduler = VllmCore(config, engine.vllm_version, steady=is_steady, policy=users)
    block_map = replica.block_map if isinstance(replica.block_map, VllmBlockMapRecorder) else None
    return VllmScheduler(
        scheduler, are_alone=replica.are_alone, one_at_a_time=is_one_at_a_time, block_map=block_map
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
