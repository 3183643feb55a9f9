"""vLLM's scheduler in simulated time: skipping against planning every step request by request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property.test_conservation import assert_no_overlap
from property.test_engines_agree import assert_same
from random_runs import run, workloads

from sim.hardware.engine_profile import EngineOverheads
from sim.serving.records import FINISHED, MAX_RECTANGLES, SHARED, RequestTable, RunResult
from sim.serving.scenario import Speculative
from sim.serving.vllm_block_map import VllmBlockMapRecorder

SHIPPED = Path(__file__).parents[2] / "scenarios" / "serving" / "policies" / "cache_aware.py"
OWN_POLICIES = [f"{SHIPPED}:CacheAware", f"{SHIPPED}:CheapestVictim"]


@st.composite
def shared_workloads(draw: st.DrawFn) -> RequestTable:
    """Requests whose prompts begin with a common prefix or repeat an earlier request, answer included."""
    table = draw(workloads())
    count = len(table.arrival_ps)
    offsets, rows = [0], []
    for request in range(count):
        length = int(table.prompt_tokens[request])
        shared = draw(st.integers(0, length)) if draw(st.booleans()) else 0
        origin = draw(st.sampled_from([2 * count + 5, 1 if request else 2 * count + 5]))
        if shared:
            rows.append((origin, 0, shared))
        if length > shared:
            rows.append((2 * request, 0, length - shared))
        offsets.append(len(rows))
    stream, start, size = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return replace(
        table,
        segment_offsets=np.array(offsets, dtype=np.int64),
        segment_stream=stream,
        segment_start=start,
        segment_length=size,
        output_stream=2 * np.arange(count, dtype=np.int64) + 1,
        priority=np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))),
    )


@st.composite
def vllm_engines(draw: st.DrawFn) -> dict[str, Any]:
    """vLLM's settings, small enough that every limit binds."""
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    is_async = draw(st.sampled_from([False, False, True]))
    engine: dict[str, Any] = {
        "batching": "vllm",
        "vllm_version": draw(st.sampled_from(["0.33.0", "0.20.0"])),
        "policy": draw(st.sampled_from(["fcfs", "priority", *OWN_POLICIES])),
        "max_num_seqs": draw(st.integers(1, 8)),
        "block_size": block_size,
        "max_model_len": draw(st.sampled_from([64, 90, 100])),  # one fits into the fewest blocks
        "enable_prefix_caching": draw(st.booleans()),
        "enable_chunked_prefill": draw(st.booleans()),
        "long_prefill_token_threshold": draw(st.sampled_from([0, 0, 7])),
        "async_scheduling": is_async,
        "num_gpu_blocks_override": 1 + -(-draw(st.integers(100, 500)) // block_size),
        "overheads": EngineOverheads(
            step_s=draw(st.sampled_from([0.0, 0.004])),
            per_sequence_s=1e-5,
            cold_start_s=draw(st.sampled_from([0.0, 0.3])),
            launch_per_layer_s=draw(st.sampled_from([0.0, 0.0, 2e-4])),
            per_prompt_token_s=draw(st.sampled_from([0.0, 0.0, 1e-6])),
            cudagraph_capture_sizes=draw(st.sampled_from([(), (), (1, 2, 4, 8, 16)])),
            frontend_s=draw(st.sampled_from([0.0, 0.012])),
            output_s=draw(st.sampled_from([0.0, 0.003])),
            schedules_ahead=draw(st.booleans()),
        ),
    }
    if draw(st.sampled_from([False, False, False, True])) and not is_async:
        engine["speculative"] = Speculative(num_speculative_tokens=2, acceptance_rate=0.6)
    engine["max_num_batched_tokens"] = draw(st.integers(8 if engine["enable_chunked_prefill"] else 128, 160))
    return engine


def assert_map_holds_what_was_given_out(result: RunResult) -> None:
    """At the start of every segment the owned and shared blocks of the map are the pool's used blocks."""
    block_map, segments = result.block_map, result.segments
    assert block_map is not None
    rows = segments.replica == 0
    times = segments.start_ps[rows]
    given_out = (segments.kv_tokens + segments.kv_reserved + segments.kv_internal)[rows]
    is_owned = block_map.kind <= SHARED
    is_there = (block_map.start_ps[:, None] <= times) & (times < block_map.end_ps[:, None])
    held = np.where(is_there & is_owned[:, None], block_map.size_tokens[:, None], 0).sum(axis=0)
    assert np.array_equal(held, given_out)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=st.one_of(workloads(), shared_workloads()),
    engine=vllm_engines(),
    replicas=st.sampled_from([1, 1, 2]),
)
def test_skipping_is_exact(table: RequestTable, engine: dict[str, Any], replicas: int) -> None:
    fields = {"replicas": replicas, "routing": "least_loaded"}
    skipped = run(table, engine, "skip", **fields)
    stepped = run(table, engine, "every_step", **fields)
    assert_same(skipped, stepped)
    assert_same(run(table, engine, "skip", has_block_map=False, **fields), stepped)
    assert_no_overlap(skipped.block_map)
    if not engine["async_scheduling"]:
        assert_map_holds_what_was_given_out(skipped)
    assert (skipped.requests.status != 0).all()
    finished = skipped.requests.status == FINISHED
    wanted = np.minimum(table.output_tokens, engine["max_model_len"] - table.prompt_tokens)
    assert (skipped.requests.generated_tokens[finished] == wanted[finished]).all()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    table=st.one_of(workloads(), shared_workloads()),
    engine=vllm_engines(),
    is_async=st.booleans(),
)
def test_the_common_case_is_exact(
    data: st.DataObject, table: RequestTable, engine: dict[str, Any], is_async: bool
) -> None:
    """By arrival or by priority, with clients that wait or leave, prefixes in common, and without a map."""
    engine |= {"policy": data.draw(st.sampled_from(["fcfs", "priority"])), "async_scheduling": is_async}
    engine |= {"speculative": None, "long_prefill_token_threshold": 0}
    count = len(table.arrival_ps)
    ranks = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    ranked = replace(table, priority=np.array(ranks))
    fields = {"replicas": data.draw(st.sampled_from([1, 1, 2])), "routing": "least_loaded"}
    skipped = run(ranked, engine, "skip", has_block_map=False, **fields)
    assert_same(skipped, run(ranked, engine, "every_step", has_block_map=False, **fields))


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("num_blocks", [2_000, 260])
def test_many_requests_skip_and_agree(
    is_async: bool, num_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plenty of blocks, and so few that the fast path gives back and takes over hundreds of times.

    With a map, too, and with one that is full after 40 rectangles: it does not keep steps from being skipped.
    """
    rng = np.random.default_rng(num_blocks)
    table = RequestTable(
        arrival_ps=np.sort(rng.integers(0, 6 * 10**12, 400)),
        prompt_tokens=rng.integers(1, 200, 400),
        output_tokens=rng.integers(1, 80, 400),
    )
    engine: dict[str, Any] = {"batching": "vllm", "async_scheduling": is_async, "max_num_seqs": 32}
    engine |= {"max_model_len": 512, "max_num_batched_tokens": 160, "num_gpu_blocks_override": num_blocks}
    engine |= {"block_size": 4, "enable_prefix_caching": False, "scheduler_reserve_full_isl": False}
    stepped = run(table, engine, "every_step", has_block_map=False)
    skipped = run(table, engine, "skip", has_block_map=False)
    assert_same(skipped, stepped)
    assert (stepped.requests.num_preemptions.sum() > 0) == (num_blocks == 260)
    asked = [note for note in stepped.notes if "as engine.stepping asks" in note]
    assert len(asked) == 1 and [*skipped.notes, *asked] == [*stepped.notes]
    assert skipped.segments.num_steps.max() > 1
    for most_rectangles in (MAX_RECTANGLES, 40):
        monkeypatch.setattr(VllmBlockMapRecorder.__init__, "__defaults__", (most_rectangles,))
        drawn, stepped = run(table, engine, "skip"), run(table, engine, "every_step")
        assert_same(drawn, stepped)
        assert drawn.block_map is not None and drawn.block_map.is_truncated == (most_rectangles == 40)
        assert drawn.segments.num_steps.max() > 1


def test_a_step_grows_once_though_its_admission_is_refused() -> None:
    """After a preemption the head does not fit beside a decode that takes a block in every step."""
    engine: dict[str, Any] = {"batching": "vllm", "async_scheduling": False, "enable_prefix_caching": False}
    engine |= {"max_num_seqs": 3, "block_size": 1, "max_model_len": 64, "num_gpu_blocks_override": 101}
    engine |= {"enable_chunked_prefill": False, "max_num_batched_tokens": 128}
    table = RequestTable(
        arrival_ps=np.zeros(10, dtype=np.int64),
        prompt_tokens=np.array([1, 1, 1, 1, 1, 39, 42, 1, 1, 1]),
        output_tokens=np.array([1, 1, 1, 21, 21, 22, 1, 1, 1, 1]),
    )
    skipped = run(table, engine, "skip", has_block_map=False)
    assert skipped.requests.num_preemptions.sum() == 1
    assert_same(skipped, run(table, engine, "every_step", has_block_map=False))
