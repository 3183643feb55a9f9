"""From a scenario to vLLM's scheduler: its limits, its release, its defaults by device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.hardware import HardwareProfile
from sim.scenario import Scenario
from sim.serving.drafts import Drafts
from sim.serving.limits import Limits
from sim.serving.vllm.limits import Limits as VllmLimits
from sim.serving.vllm.scheduler import Scheduler
from sim.serving.vllm.versions import server_defaults
from sim.serving.vllm_engine import VllmEngine
from sim.serving.vllm_kv import VllmKV


def vllm_kv(scenario: Scenario, num_gpu_blocks: int, limits: Limits) -> VllmKV:
    """A scheduler with its block pool, for one replica."""
    engine = scenario.engine
    speculative = engine.speculative
    vllm_limits = VllmLimits(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=limits.max_model_len,
        block_size=engine.block_size,
        num_gpu_blocks=num_gpu_blocks,
        enable_prefix_caching=engine.enable_prefix_caching,
        enable_chunked_prefill=engine.enable_chunked_prefill,
        policy=engine.policy,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=engine.long_prefill_token_threshold_adaptive,
        scheduler_reserve_full_isl=engine.scheduler_reserve_full_isl,
        watermark=engine.watermark,
        prefill_schedule_interval=engine.prefill_schedule_interval,
        max_num_active_seqs=engine.max_num_active_seqs,
        async_scheduling=engine.async_scheduling,
        num_speculative_tokens=speculative.num_speculative_tokens if speculative else 0,
    )
    scheduler = Scheduler(vllm_limits, engine.vllm_version, steady=engine.stepping == "skip")
    return VllmKV(scheduler, engine.block_size)


def vllm_engine(scenario: Scenario, seed: int) -> type[VllmEngine]:
    """The engine class of this scenario."""
    engine, speculative = scenario.engine, scenario.engine.speculative
    drafts = Drafts(
        speculative.num_speculative_tokens if speculative else 0,
        speculative.acceptance_rate if speculative else 0.0,
        seed,
    )
    choices = {
        "is_async": engine.async_scheduling,
        "is_stepwise": engine.stepping == "every_step",
        "drafts": drafts,
    }
    return type("Engine", (VllmEngine,), choices)


def vllm_defaults(engine: Mapping[str, Any], hardware: HardwareProfile) -> dict[str, Any]:
    """What a scenario's ``engine`` section means where it says nothing.

    ``batching: vllm`` unless something is asked for that it does not have; with it, 0.33.0's server defaults
    on this device, prefix caching on, and asynchronous scheduling (0.33.0) on.
    """
    beyond = engine.get("kv_allocator", "paged") != "paged" or "service_time" in engine
    beyond = beyond or engine.get("use_kv_cache") is False or engine.get("schedule_order") == "prefill_first"
    batching = engine.get("batching", "continuous" if beyond else "vllm")
    if batching != "vllm":
        return {"batching": batching}
    is_newest = engine.get("vllm_version", "0.33.0") == "0.33.0"
    return {
        "batching": "vllm",
        "enable_prefix_caching": True,
        "async_scheduling": is_newest,
        **server_defaults(hardware.hbm_bytes, hardware.name),
    }
