"""The skipping engine against the stepped one: the same picoseconds, preemptions and blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sim.hardware import load_hardware
from sim.model import load_model
from sim.records import FINISHED, REFUSED, RequestTable, RunResult
from sim.scenario import EngineConfig, EngineOverheads, Scenario, Workload
from sim.serving.simulate import Run, simulate

HARDWARE = load_hardware("h100-sxm-80gb")
MODEL = load_model("llama-3.1-8b")
MS = 10**9


@st.composite
def workloads(draw: st.DrawFn) -> RequestTable:
    """Up to 24 requests: open, closed loop or sessions, some impatient, some in warm-up."""
    count = draw(st.integers(1, 24))

    def integers(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    arrival = np.sort(integers(0, 400)) * MS
    prompts, outputs = integers(1, 60), integers(1, 40)
    follows = think = None
    kind = draw(st.sampled_from(["open", "open", "closed", "sessions"]))
    if kind == "closed":
        first = draw(st.integers(1, count))
        arrival = np.where(np.arange(count) < first, 0, -1)
        think = integers(0, 50) * MS
    if kind == "sessions":
        has_predecessor = integers(0, 1).astype(bool)
        has_predecessor[0] = False
        follows = np.where(has_predecessor, np.arange(count) - 1, -1)
        arrival = np.where(has_predecessor, -1, arrival)
        think = integers(0, 50) * MS
    timeouts = None
    if draw(st.booleans()):
        timeouts = np.where(integers(0, 2) == 0, integers(1, 300) * MS, -1)
    return RequestTable(
        arrival_ps=arrival.astype(np.int64),
        prompt_tokens=prompts,
        output_tokens=outputs,
        follows=follows,
        think_ps=think,
        closed_loop=kind == "closed",
        timeout_ps=timeouts,
        num_warmup=draw(st.integers(0, max(0, count // 3))),
    )


@st.composite
def engines(draw: st.DrawFn) -> dict[str, Any]:
    """Engine settings small enough that every limit binds."""
    batching = draw(st.sampled_from(["continuous", "continuous", "static"]))
    allocator = draw(st.sampled_from(["paged", "paged", "contiguous"]))
    settings_: dict[str, Any] = {
        "batching": batching,
        "kv_allocator": allocator,
        "max_num_seqs": draw(st.integers(1, 8)),
        "block_size": draw(st.sampled_from([1, 2, 4, 16])),
        "max_model_len": draw(st.sampled_from([64, 90, 128])),
        "enable_chunked_prefill": draw(st.booleans()),
        "schedule_order": draw(st.sampled_from(["decode_first", "prefill_first"])),
        "watermark": draw(st.sampled_from([0.0, 0.1])),
        "static_batch_wait_s": draw(st.sampled_from([0.0, 0.05])) if batching == "static" else 0.0,
        "static_returns": draw(st.sampled_from(["streamed", "at_end"]))
        if batching == "static"
        else "streamed",
        "kv_reservation": draw(st.sampled_from(["max", "pow2", "oracle"])),
        "overheads": EngineOverheads(step_s=draw(st.sampled_from([0.0, 0.004])), per_sequence_s=1e-5),
    }
    settings_["num_gpu_blocks_override"] = -(-draw(st.integers(100, 500)) // settings_["block_size"])
    low = 8 if settings_["enable_chunked_prefill"] else 128
    settings_["max_num_batched_tokens"] = draw(st.integers(low, 160))
    return settings_


def run(
    table: RequestTable, engine: dict[str, Any], stepping: str, *, has_block_map: bool = True, **fields: Any
) -> RunResult:
    """One run of the table."""
    scenario = Scenario(
        schema_version=1,
        question="do both agree?",
        kind="serving",
        hardware=HARDWARE,
        model=MODEL,
        workload=Workload(),
        engine=EngineConfig(stepping=stepping, **engine),
        **fields,
    )
    return simulate(
        scenario, table, Run(variant="base", seed=1, base_dir=Path(), record_block_map=has_block_map)
    )


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
    assert skipped.kv_time_tokens_ps == stepped.kv_time_tokens_ps
    if skipped.block_map is None:
        return
    assert stepped.block_map is not None
    for name in ("address_tokens", "size_tokens", "start_ps", "end_ps", "request"):
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
