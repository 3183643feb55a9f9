"""From a scenario to vLLM's scheduler: its limits, its release, its drafts."""

from __future__ import annotations

from pathlib import Path

from sim.scenario import EngineConfig, Scenario
from sim.serving.drafts import Drafts
from sim.serving.limits import Limits
from sim.serving.own_policy import load_scheduling_policy
from sim.serving.vllm.scheduler import Scheduler
from sim.serving.vllm_ahead import VllmAheadEngine
from sim.serving.vllm_block_map import VllmBlockMapRecorder
from sim.serving.vllm_engine import VllmEngine
from sim.serving.vllm_hot_path import VllmHotPath
from sim.serving.vllm_kv import VllmKV
from sim.serving.vllm_limits import vllm_limits
from sim.serving.vllm_pipeline import PipelinedVllmEngine


def vllm_kv(
    scenario: Scenario,
    num_gpu_blocks: int,
    limits: Limits,
    base_dir: Path,
    block_map: VllmBlockMapRecorder | None = None,
) -> VllmKV:
    """A scheduler with its block pool, for one replica."""
    engine = scenario.engine
    limits_ = vllm_limits(engine, num_gpu_blocks, limits.max_model_len)
    own = load_scheduling_policy(engine.policy, base_dir) if limits_.policy == "own" else None
    is_steady = engine.stepping == "skip" and engine.pipeline_parallel_size == 1
    scheduler = Scheduler(limits_, engine.vllm_version, steady=is_steady, policy=own)
    return VllmKV(scheduler, engine.block_size, block_map)


def vllm_engine(scenario: Scenario, seed: int, *, is_alone: bool) -> type[VllmEngine]:
    """The engine class of this scenario; ``is_alone``: one replica, no time-outs, no block map."""
    engine, speculative = scenario.engine, scenario.engine.speculative
    drafts = Drafts(
        speculative.num_speculative_tokens if speculative else 0,
        speculative.acceptance_rate if speculative else 0.0,
        seed,
    )
    is_order_open = engine.policy != "fcfs" or engine.long_prefill_token_threshold > 0
    is_common = is_alone and not is_order_open and not why_vllm_stepwise(engine)
    choices = {
        "is_async": engine.async_scheduling,
        "is_stepwise": engine.stepping == "every_step",
        "is_order_open": is_order_open,
        "drafts": drafts,
    }
    if engine.pipeline_parallel_size > 1:
        pipelined = {**choices, "is_stepwise": True, "num_stages": engine.pipeline_parallel_size}
        return type("Engine", (PipelinedVllmEngine,), pipelined)
    if engine.overheads.schedules_ahead and not engine.async_scheduling:
        return type("Engine", (VllmAheadEngine,), choices)
    return type("Engine", (VllmHotPath if is_common else VllmEngine,), choices)


def why_vllm_stepwise(engine: EngineConfig) -> str:
    """What keeps steps from being skipped, or nothing."""
    reasons = {
        "with async_scheduling": engine.async_scheduling,
        "with speculative drafts": engine.speculative is not None,
        "with prefill_schedule_interval": engine.prefill_schedule_interval > 1,
        "with pipeline_parallel_size": engine.pipeline_parallel_size > 1,
        "as engine.stepping asks": engine.stepping == "every_step",
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
