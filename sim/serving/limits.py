"""What an engine may do in a step, read once from the scenario."""

from __future__ import annotations

from dataclasses import dataclass

from sim.cost.step import to_ps
from sim.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """vLLM's limits, and the choices of the generic policies."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    enable_chunked_prefill: bool
    is_prefill_first: bool
    is_static: bool
    static_wait_ps: int
    returns_at_end: bool
    uses_kv_cache: bool


def limits_of(scenario: Scenario) -> Limits:
    """The engine section of a scenario, as limits."""
    engine = scenario.engine
    return Limits(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=engine.max_model_len or scenario.model.max_position_embeddings,
        enable_chunked_prefill=engine.enable_chunked_prefill,
        is_prefill_first=engine.schedule_order == "prefill_first",
        is_static=engine.batching == "static",
        static_wait_ps=to_ps(engine.static_batch_wait_s),
        returns_at_end=engine.static_returns == "at_end",
        uses_kv_cache=engine.use_kv_cache,
    )
