"""The engine section of a scenario in the words of vLLM's scheduler."""

from __future__ import annotations

from typing import Literal

from sim.scenario import EngineConfig
from sim.serving.vllm.limits import Limits as VllmLimits


def scheduling_policy(given: str) -> Literal["fcfs", "priority", "own"]:
    """vLLM's two by name; a path means one's own."""
    if given == "fcfs":
        return "fcfs"
    return "priority" if given == "priority" else "own"


def vllm_limits(engine: EngineConfig, num_gpu_blocks: int, max_model_len: int) -> VllmLimits:
    """The engine section in the scheduler's words."""
    speculative = engine.speculative
    return VllmLimits(
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
