"""Laws of a run, over random workloads, limits, allocators and policies. Nothing is lost, nothing idles."""

from __future__ import annotations

from typing import Any

import numpy as np
from conservation_laws import littles_law_gap, running_time_gap
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_runs import engines, run, workloads

from sim.serving.front_end import FrontEnd
from sim.serving.records import (
    ABORTED,
    FINISHED,
    REFUSED,
    UNFINISHED,
    BlockMap,
    RequestTable,
    RunResult,
)
from sim.serving.usage import KV_KINDS

ROUTINGS = st.sampled_from([(1, "round_robin"), (2, "round_robin"), (2, "least_loaded"), (3, "shared_queue")])


def assert_laws(result: RunResult, table: RequestTable) -> None:
    """What holds for every run. (Blocks all free at the end: the engine itself raises otherwise.)"""
    requests, segments, engine = result.requests, result.segments, result.scenario.engine
    counts = [int((requests.status == status).sum()) for status in (UNFINISHED, FINISHED, REFUSED, ABORTED)]
    assert sum(counts) == len(table.arrival_ps)
    assert counts[0] == 0
    assert (requests.generated_tokens >= 0).all()
    assert (requests.generated_tokens <= table.output_tokens).all()
    assert littles_law_gap(result) == 0.0
    scheduled = requests.first_scheduled_ps >= 0
    told = requests.first_token_ps >= 0
    assert (requests.arrival_ps[scheduled] <= requests.first_scheduled_ps[scheduled]).all()
    assert scheduled[told].all()
    assert (requests.first_scheduled_ps[told] <= requests.first_token_ps[told]).all()
    assert (requests.first_token_ps[told] <= requests.finish_ps[told]).all()
    assert (told == (requests.generated_tokens > 0)).all()
    assert (segments.num_running <= engine.max_num_seqs).all()
    assert (segments.num_steps >= 1).all()
    assert sum(result.kv_time_tokens_ps.values()) >= 0
    for replica in range(result.scenario.replicas):
        own = segments.replica == replica
        start, length = segments.start_ps[own], segments.duration_ps[own]
        assert (start[1:] >= (start + length)[:-1]).all(), "two steps at once"


def assert_budgets(result: RunResult) -> None:
    """Tokens in a step, and KV memory in use."""
    segments, engine = result.segments, result.scenario.engine
    if engine.batching == "continuous":
        assert (segments.num_decode + segments.prefill_tokens <= engine.max_num_batched_tokens).all()
    kinds = [getattr(segments, f"kv_{kind}") for kind in KV_KINDS]
    assert all((kind >= 0).all() for kind in kinds)
    assert (sum(kinds) <= result.kv_budget_tokens).all()


def assert_tokens_add_up(result: RunResult, table: RequestTable) -> None:
    """Every position of prompt and answer but the last is computed once, and again where KV was lost."""
    segments, served = result.segments, result.requests.status == FINISHED
    computed = int(np.sum(segments.prefill_tokens) + np.sum(segments.num_decode * segments.num_steps))
    asked = int(np.sum((table.prompt_tokens + table.output_tokens - 1)[served]))
    assert computed == asked + int(result.preemptions.recompute_tokens.sum())
    assert int(result.requests.recompute_tokens.sum()) == int(result.preemptions.recompute_tokens.sum())


def idle_while_in_system_ps(result: RunResult) -> int:
    """Time that requests spent at the engine while no step ran, over all requests."""
    requests = FrontEnd.of(result.scenario).at_engine(result.requests)
    start = result.segments.start_ps
    end = result.segments.end_ps
    idle = 0
    for arrival, finish in zip(requests.arrival_ps.tolist(), requests.finish_ps.tolist(), strict=True):
        inside = np.minimum(end, finish) - np.maximum(start, arrival)
        idle += finish - arrival - int(np.maximum(inside, 0).sum())
    return idle


@settings(max_examples=300)
@given(table=workloads(), engine=engines(), routing=ROUTINGS)
def test_laws_of_any_run(table: RequestTable, engine: dict[str, Any], routing: tuple[int, str]) -> None:
    assume(routing[1] != "shared_queue" or engine["batching"] != "static")  # the checks refuse it
    result = run(table, engine, "skip", has_block_map=False, replicas=routing[0], routing=routing[1])
    assert_laws(result, table)
    assert_budgets(result)
    if table.timeout_ps is None:
        assert_tokens_add_up(result, table)


@settings(max_examples=100)
@given(table=workloads(), engine=engines())
def test_budgets_hold_in_every_single_step(table: RequestTable, engine: dict[str, Any]) -> None:
    result = run(table, engine, "every_step")
    assert_laws(result, table)
    assert_budgets(result)


@settings(max_examples=200)
@given(table=workloads(), engine=engines())
def test_no_idle_engine_with_work(table: RequestTable, engine: dict[str, Any]) -> None:
    # Static batching may wait for a fuller batch, and only then.
    engine["static_batch_wait_s"] = 0.0
    result = run(table, engine, "skip", has_block_map=False)
    assert idle_while_in_system_ps(result) == 0


@settings(max_examples=100)
@given(table=workloads(), engine=engines())
def test_running_time_is_in_the_steps(table: RequestTable, engine: dict[str, Any]) -> None:
    engine |= {"batching": "continuous", "static_batch_wait_s": 0.0, "static_returns": "streamed"}
    engine["num_gpu_blocks_override"] = 10_000  # nothing is preempted
    result = run(table, engine, "skip", has_block_map=False)
    if table.timeout_ps is None:
        assert running_time_gap(result) == 0.0


@settings(max_examples=100)
@given(table=workloads(), engine=engines())
def test_block_map_rectangles_do_not_overlap(table: RequestTable, engine: dict[str, Any]) -> None:
    block_map = run(table, engine, "skip").block_map
    assert_no_overlap(block_map)


def assert_no_overlap(block_map: BlockMap | None) -> None:
    """A place in memory is one thing at a time."""
    assert block_map is not None and not block_map.is_truncated
    low, high = block_map.address_tokens, block_map.address_tokens + block_map.size_tokens
    assert (low >= 0).all()
    assert (high <= block_map.capacity_tokens).all()
    assert (block_map.start_ps <= block_map.end_ps).all()
    shares_memory = (low[:, None] < high) & (low < high[:, None])
    shares_time = (block_map.start_ps[:, None] < block_map.end_ps) & (
        block_map.start_ps < block_map.end_ps[:, None]
    )
    both = shares_memory & shares_time
    np.fill_diagonal(both, False)
    assert not both.any()
