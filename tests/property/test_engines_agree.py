"""The skipping engine against the stepped one: the same picoseconds, preemptions and blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_runs import engines, run, workloads

from sim.arrays import PS_PER_S
from sim.hardware.engine_profile import EngineOverheads
from sim.rng import stream
from sim.scenario.distribution import Distribution, draw_values
from sim.serving.record_statistics import engine_metrics
from sim.serving.recorder import SEGMENT_BYTES, BlockMapRecorder
from sim.serving.records import FINISHED, REFUSED, RequestTable, RunResult
from sim.serving.request import NEVER
from sim.serving.usage import kv_usage


def assert_same(skipped: RunResult, stepped: RunResult) -> None:
    """Every column of the requests, the ledger, the memory and the time."""
    for name in stepped.requests.__dataclass_fields__:
        ours, theirs = getattr(skipped.requests, name), getattr(stepped.requests, name)
        assert np.array_equal(ours, theirs), (name, ours, theirs)
    for name in stepped.preemptions.__dataclass_fields__:
        assert np.array_equal(getattr(skipped.preemptions, name), getattr(stepped.preemptions, name)), name
    assert skipped.busy_ps == stepped.busy_ps
    assert skipped.window_ps == stepped.window_ps
    assert int(skipped.segments.num_steps.sum()) == len(stepped.segments.num_steps)
    is_paged = stepped.scenario.engine.kv_allocator != "contiguous"  # of the whole run: a window cuts rows
    ours, theirs = (kv_usage(one.segments, (0, NEVER), is_paged=is_paged) for one in (skipped, stepped))
    assert ours == theirs
    ours, theirs = engine_metrics(skipped), engine_metrics(stepped)
    for name in ("num_steps", "mean_decode_batch", "busy_fraction", "mean_num_running", "recompute_fraction"):
        assert ours[name] == theirs[name], name
    if skipped.block_map is None:
        return
    assert stepped.block_map is not None
    for name in ("address_tokens", "size_tokens", "start_ps", "end_ps", "request", "kind"):
        assert np.array_equal(getattr(skipped.block_map, name), getattr(stepped.block_map, name)), name


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=workloads(), engine=engines())
def test_one_replica(table: RequestTable, engine: dict[str, Any]) -> None:
    skipped, stepped = run(table, engine, "skip"), run(table, engine, "every_step")
    assert_same(skipped, stepped)
    assert_same(run(table, engine, "skip", has_block_map=False), stepped)
    ended = skipped.requests.status != 0
    assert ended.all()
    finished = skipped.requests.status == FINISHED
    assert (skipped.requests.generated_tokens[finished] == table.output_tokens[finished]).all()
    refused = skipped.requests.status == REFUSED
    assert (skipped.requests.generated_tokens[refused] == 0).all()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=workloads(),
    engine=engines(),
    replicas=st.integers(2, 3),
    routing=st.sampled_from(["round_robin", "least_loaded", "shared_queue"]),
)
def test_replicas(table: RequestTable, engine: dict[str, Any], replicas: int, routing: str) -> None:
    assume(routing != "shared_queue" or engine["batching"] != "static")  # the checks refuse it
    fields = {"replicas": replicas, "routing": routing}
    assert_same(run(table, engine, "skip", **fields), run(table, engine, "every_step", **fields))


def test_an_end_on_one_replica_is_too_late_for_a_step_that_began_just_then_on_another() -> None:
    """Both replicas end a step at 292.32 ms; the second one's abort triggers a request for the first."""
    ms = 10**9
    table = RequestTable(
        arrival_ps=np.array([0] * 7 + [-1] * 17),
        prompt_tokens=np.array(
            [37, 38, 51, 1, 11, 26, 2, 17, 18, 48, 38, 40, 19, 15, 25, 31, 39, 41, 35, 50, 18, 20, 38, 37]
        ),
        output_tokens=np.array(
            [15, 16, 6, 9, 9, 18, 4, 12, 8, 28, 14, 9, 34, 14, 4, 15, 18, 23, 31, 19, 38, 3, 26, 15]
        ),
        timeout_ps=ms
        * np.array(
            [
                64,
                42,
                169,
                300,
                239,
                52,
                200,
                207,
                145,
                256,
                1,
                1,
                245,
                83,
                56,
                1,
                300,
                193,
                4,
                55,
                64,
                66,
                46,
                245,
            ]
        ),
        think_ps=ms
        * np.array(
            [9, 32, 2, 39, 10, 35, 48, 24, 21, 9, 29, 36, 19, 50, 26, 39, 38, 10, 11, 26, 4, 0, 2, 18]
        ),
        closed_loop=True,
    )
    overheads = EngineOverheads(
        frontend_s=0.012, step_s=0.004, per_sequence_s=1e-5, launch_per_layer_s=0.0005
    )
    engine = {
        "batching": "continuous", "max_num_seqs": 3, "block_size": 2, "max_model_len": 64, "watermark": 0.1,
        "num_gpu_blocks_override": 60, "max_num_batched_tokens": 150, "overheads": overheads,
    }  # fmt: skip
    fields = {"replicas": 2, "routing": "round_robin"}
    stepped = run(table, engine, "every_step", **fields)
    assert 312_340_000_000 in (stepped.requests.first_scheduled_ps).tolist()
    assert_same(run(table, engine, "skip", has_block_map=False, **fields), stepped)


@pytest.mark.parametrize("settings_", [{"batching": "continuous"}, {"batching": "vllm"}])
def test_a_run_with_more_rows_than_are_packed_at_once(
    settings_: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.serving.recorder.FIRST_BYTES", 100 * SEGMENT_BYTES)
    monkeypatch.setattr("sim.serving.recorder.BLOCK_BYTES", 30 * SEGMENT_BYTES)
    rng = np.random.default_rng(7)
    table = RequestTable(
        arrival_ps=np.sort(rng.integers(0, 120 * 10**12, 2500)),
        prompt_tokens=rng.integers(1, 200, 2500),
        output_tokens=rng.integers(1, 12, 2500),
    )
    engine = settings_ | {"max_num_seqs": 8, "max_model_len": 512, "block_size": 4}
    skipped, stepped = run(table, engine, "skip", has_block_map=False), run(table, engine, "every_step")
    assert len(skipped.segments.__dict__["start_ps"].blocks) > 2
    assert_same(skipped, stepped)


@pytest.mark.parametrize("num_blocks", [2_000, 130])
def test_a_full_map_is_followed_no_longer(num_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map ends with its 40th rectangle, on both ways alike, and the run goes on as without one."""
    monkeypatch.setattr(BlockMapRecorder.__init__, "__defaults__", (40,))
    rng = np.random.default_rng(num_blocks)
    table = RequestTable(
        arrival_ps=np.sort(rng.integers(0, 6 * 10**12, 400)),
        prompt_tokens=rng.integers(1, 200, 400),
        output_tokens=rng.integers(1, 80, 400),
    )
    engine: dict[str, Any] = {"batching": "continuous", "max_num_seqs": 32, "max_model_len": 512}
    engine |= {"max_num_batched_tokens": 160, "num_gpu_blocks_override": num_blocks, "block_size": 4}
    skipped, stepped = run(table, engine, "skip"), run(table, engine, "every_step")
    assert_same(skipped, stepped)
    without = run(table, engine, "skip", has_block_map=False)
    assert_same(without, stepped)
    assert (stepped.requests.num_preemptions.sum() > 0) == (num_blocks == 130)
    assert skipped.block_map is not None and skipped.block_map.is_truncated
    assert len(skipped.block_map.start_ps) == 40
    assert len(skipped.segments.num_steps) < 1.2 * len(without.segments.num_steps)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([(1, "round_robin"), (2, "round_robin"), (3, "least_loaded")])
)
def test_a_plain_queue_skips_and_serves_everybody_so_long(seed: int, routing: tuple[int, str]) -> None:
    """With a drawn service time: each replica knows whom it serves, also while others serve others."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 60))
    has_deadline = rng.random(count) < rng.choice([0, 0.2])
    table = RequestTable(
        arrival_ps=np.sort(rng.integers(0, count * 10**12, count)),
        prompt_tokens=rng.integers(1, 100, count),
        output_tokens=rng.integers(1, 6, count),
        timeout_ps=np.where(has_deadline, rng.integers(1, 5, count) * 10**12, -1),
    )
    service = Distribution(distribution="exponential", mean=1)
    engine: dict[str, Any] = {"batching": "continuous", "max_num_seqs": 1, "max_model_len": 128}
    engine |= {"service_time": service}
    fields: dict[str, Any] = {"replicas": routing[0], "routing": routing[1]}
    skipped, stepped = run(table, engine, "skip", **fields), run(table, engine, "every_step", **fields)
    assert_same(skipped, stepped)
    requests = skipped.requests
    drawn = (draw_values(service, count, stream(1, "service_time")) * PS_PER_S).round()
    took = requests.finish_ps - requests.first_scheduled_ps
    assert (took == drawn)[requests.status == FINISHED].all()
