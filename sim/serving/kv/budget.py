"""How many KV blocks a replica has."""

from __future__ import annotations

from sim.price.memory import memory_plan
from sim.serving.scenario import Scenario

UNLIMITED_BLOCKS = 1 << 40


def num_blocks_of(scenario: Scenario) -> int:
    """The KV budget of one replica. Without a KV cache, or as a plain queue, there is no limit."""
    if not scenario.engine.has_kv_budget:
        return UNLIMITED_BLOCKS
    if scenario.engine.num_gpu_blocks_override is not None:
        return scenario.engine.num_gpu_blocks_override
    return memory_plan(scenario.model, scenario.hardware, scenario.engine).num_gpu_blocks
