"""What a scenario's ``engine`` section means where it says nothing: vLLM, as its own server would run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.hardware import HardwareProfile
from sim.serving.vllm.versions import server_defaults


def vllm_defaults(engine: Mapping[str, Any], hardware: HardwareProfile) -> dict[str, Any]:
    """What a scenario's ``engine`` section means where it says nothing.

    ``batching: vllm`` unless something is asked for that it does not have; with it, 0.33.0's server defaults
    on this device, prefix caching on, and asynchronous scheduling on (so since 0.14.0, by its
    release notes), except with n-gram drafts (vLLM turns it off then) and with pipeline stages (both
    together are not modelled).
    """
    beyond = engine.get("kv_allocator", "paged") != "paged" or "service_time" in engine
    beyond = beyond or engine.get("use_kv_cache") is False or engine.get("schedule_order") == "prefill_first"
    batching = engine.get("batching", "continuous" if beyond else "vllm")
    if batching != "vllm":
        return {"batching": batching}
    is_pipelined = engine.get("pipeline_parallel_size", 1) != 1
    return {
        "batching": "vllm",
        "enable_prefix_caching": True,
        "async_scheduling": not engine.get("speculative") and not is_pipelined,
        **server_defaults(hardware.hbm_bytes, hardware.name),
    }
