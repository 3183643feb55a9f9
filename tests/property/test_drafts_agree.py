"""Steps with drafts by sums over the batch, against those that are planned request by request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property.test_engines_agree import assert_same
from random_runs import run, workloads

from sim.hardware.engine_profile import EngineOverheads
from sim.serving.records import RequestTable, RunResult
from sim.serving.scenario import Speculative
from sim.serving.vllm.scheduler import Scheduler


@st.composite
def drafting_engines(draw: st.DrawFn) -> dict[str, Any]:
    """Slots, blocks, the token budget and ``max_model_len`` each bind in some of them."""
    block_size, num_drafts = draw(st.sampled_from([1, 3, 4, 16])), draw(st.integers(1, 4))
    is_chunked = draw(st.booleans())
    tight = draw(st.booleans())
    return {
        "batching": "vllm",
        "vllm_version": draw(st.sampled_from(["0.33.0", "0.20.0"])),
        "max_num_seqs": draw(st.integers(1, 8)),
        "block_size": block_size,
        "max_model_len": draw(st.sampled_from([64, 90, 100])),  # one fits into the fewest blocks
        "enable_prefix_caching": draw(st.booleans()),
        "enable_chunked_prefill": is_chunked,
        "watermark": draw(st.sampled_from([0.0, 0.1])),
        "scheduler_reserve_full_isl": draw(st.booleans()),
        "num_gpu_blocks_override": 1 + -(-draw(st.integers(100, 400 if tight else 1500)) // block_size),
        "max_num_batched_tokens": draw(st.integers(8 if is_chunked else 128, 160)),
        "speculative": Speculative(
            num_speculative_tokens=num_drafts,
            acceptance_rate=draw(st.sampled_from([0.0, 0.3, 0.6, 0.6, 0.8, 1.0])),
        ),
        "overheads": EngineOverheads(
            step_s=draw(st.sampled_from([0.0, 0.004])),
            per_sequence_s=1e-5,
            cold_start_s=draw(st.sampled_from([0.0, 0.3])),
            launch_per_layer_s=draw(st.sampled_from([0.0, 2e-4])),
            cudagraph_capture_sizes=draw(st.sampled_from([(), (1, 2, 4, 8, 16)])),
            frontend_s=draw(st.sampled_from([0.0, 0.012])),
        ),
    }


def assert_rows_same(ours: RunResult, theirs: RunResult) -> None:
    """Besides: each step is a row on both ways, with all its columns."""
    assert_same(ours, theirs)
    for name in theirs.segments.__dataclass_fields__:
        one, other = getattr(ours.segments, name), getattr(theirs.segments, name)
        assert (one is None and other is None) or np.array_equal(one, other), (name, one, other)
    assert ours.kv_time_tokens_ps == theirs.kv_time_tokens_ps and ours.operator_s == theirs.operator_s


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=workloads(),
    engine=drafting_engines(),
    is_patient=st.sampled_from([True, True, True, False]),
    replicas=st.sampled_from([1, 1, 2]),
)
def test_sums_are_exact(table: RequestTable, engine: dict[str, Any], is_patient: bool, replicas: int) -> None:
    if is_patient:
        table = replace(table, timeout_ps=None)
    fields = {"replicas": replicas, "routing": "least_loaded", "has_block_map": False}
    assert_rows_same(run(table, engine, "skip", **fields), run(table, engine, "every_step", **fields))


@pytest.mark.parametrize("caches", [False, True])
@pytest.mark.parametrize(("num_blocks", "share"), [(4_000, 0.001), (300, 0.9)])
def test_many_requests_agree(
    num_blocks: int, share: float, caches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plenty of blocks, where next to no step is planned by the scheduler, and so few that many are."""
    rng = np.random.default_rng(num_blocks)
    table = RequestTable(
        arrival_ps=np.sort(rng.integers(0, 20 * 10**12, 600)),
        prompt_tokens=rng.integers(2, 300, 600),
        output_tokens=rng.integers(1, 80, 600),
    )
    speculative = Speculative(num_speculative_tokens=4, acceptance_rate=0.6)
    engine: dict[str, Any] = {"batching": "vllm", "max_num_seqs": 32, "max_model_len": 512}
    engine |= {"max_num_batched_tokens": 256, "num_gpu_blocks_override": num_blocks, "block_size": 4}
    engine |= {"speculative": speculative, "enable_prefix_caching": caches}
    stepped = run(table, engine, "every_step", has_block_map=False)
    planned, plan = [0], Scheduler.schedule

    def counted(self: Scheduler, now_ps: int = 0) -> Any:
        planned[0] += 1
        return plan(self, now_ps)

    monkeypatch.setattr(Scheduler, "schedule", counted)
    assert_rows_same(run(table, engine, "skip", has_block_map=False), stepped)
    assert planned[0] <= share * len(stepped.segments.start_ps)
    assert (stepped.requests.num_preemptions.sum() > 0) == (num_blocks == 300)
    monkeypatch.setattr("sim.serving.draft_path.FEWEST_STEPS", 64)
    assert_rows_same(run(table, engine, "skip", has_block_map=False), stepped)
