"""The API server's two delays: what a client sees against what the scheduler sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conservation_laws import running_time_gap
from hypothesis import given, settings
from random_runs import MS, engines, run, workloads

from sim.hardware.engine_profile import EngineOverheads
from sim.serving.records import FINISHED, RequestTable, RunResult
from sim.serving.summary import summarize

FRONTEND_MS, OUTPUT_MS = 12, 3
ENGINES: dict[str, dict[str, Any]] = {
    "continuous": {"batching": "continuous", "max_num_seqs": 4, "block_size": 4, "max_model_len": 128},
    "vllm": {"batching": "vllm", "max_num_seqs": 4, "block_size": 4, "max_model_len": 128},
}


def with_delays(engine: dict[str, Any]) -> dict[str, Any]:
    own = engine.get("overheads", EngineOverheads())
    return {**engine, "overheads": replace(own, frontend_s=FRONTEND_MS / 1e3, output_s=OUTPUT_MS / 1e3)}


def both(table: RequestTable, engine: dict[str, Any]) -> tuple[RunResult, RunResult]:
    return run(table, engine, "skip"), run(table, with_delays(engine), "skip")


def open_table(count: int = 12) -> RequestTable:
    return RequestTable(
        arrival_ps=np.arange(count, dtype=np.int64) * 7 * MS,
        prompt_tokens=np.full(count, 20),
        output_tokens=np.arange(1, count + 1),
    )


@pytest.mark.parametrize("kind", ENGINES)
def test_open_arrivals_are_the_same_run_seen_later(kind: str) -> None:
    plain, delayed = both(open_table(), {**ENGINES[kind], "num_gpu_blocks_override": 200})
    later = (FRONTEND_MS + OUTPUT_MS) * MS
    assert np.array_equal(plain.requests.arrival_ps, delayed.requests.arrival_ps)
    assert np.array_equal(plain.requests.first_token_ps + later, delayed.requests.first_token_ps)
    assert np.array_equal(plain.requests.finish_ps + later, delayed.requests.finish_ps)
    before, after = summarize(plain).metrics, summarize(delayed).metrics
    assert after["mean_ttft_s"] == pytest.approx(before["mean_ttft_s"] + 0.015)
    assert after["mean_e2e_s"] == pytest.approx(before["mean_e2e_s"] + 0.015)
    assert after["mean_queue_s"] == pytest.approx(before["mean_queue_s"] + 0.012)
    assert after["mean_tpot_s"] == pytest.approx(before["mean_tpot_s"])
    assert after["p99_itl_s"] == before["p99_itl_s"]


@pytest.mark.parametrize("kind", ENGINES)
def test_a_client_asks_again_after_it_has_read_the_answer(kind: str) -> None:
    count, think = 6, 10 * MS
    table = RequestTable(
        arrival_ps=np.array([0] + [-1] * (count - 1), dtype=np.int64),
        prompt_tokens=np.full(count, 20),
        output_tokens=np.full(count, 5),
        think_ps=np.full(count, think),
        closed_loop=True,
    )
    _, delayed = both(table, {**ENGINES[kind], "num_gpu_blocks_override": 200})
    requests = delayed.requests
    assert (requests.status == FINISHED).all()
    assert np.array_equal(requests.arrival_ps[1:], requests.finish_ps[:-1] + think)


@pytest.mark.parametrize("kind", ENGINES)
def test_patience_is_the_clients(kind: str) -> None:
    """Who would have waited exactly long enough without the delays gives up with them."""
    engine = {**ENGINES[kind], "num_gpu_blocks_override": 200}
    table = open_table(1)
    needed = int(run(table, engine, "skip").requests.finish_ps[0])
    enough = replace(table, timeout_ps=np.array([needed + (FRONTEND_MS + OUTPUT_MS) * MS]))
    short = replace(table, timeout_ps=np.array([needed + (FRONTEND_MS + OUTPUT_MS) * MS - 1]))
    assert run(enough, with_delays(engine), "skip").requests.status[0] == FINISHED
    assert run(short, with_delays(engine), "skip").requests.status[0] != FINISHED
    assert run(replace(short, timeout_ps=np.array([needed])), engine, "skip").requests.status[0] == FINISHED


@settings(max_examples=60, deadline=None)
@given(table=workloads(), engine=engines())
def test_clients_never_see_less_than_the_delays(table: RequestTable, engine: dict[str, Any]) -> None:
    result = run(table, with_delays(engine), "skip")
    requests = result.requests
    has_token = requests.first_token_ps >= 0
    waited = requests.first_token_ps - requests.arrival_ps
    assert (waited[has_token] > (FRONTEND_MS + OUTPUT_MS) * MS).all()
    stepped = run(table, with_delays(engine), "every_step")
    for name in ("arrival_ps", "first_token_ps", "finish_ps", "status"):
        assert np.array_equal(getattr(requests, name), getattr(stepped.requests, name)), name
    is_open = table.follows is None and not table.closed_loop
    if is_open and not requests.num_preemptions.sum() and (requests.status == FINISHED).all():
        assert running_time_gap(result) == pytest.approx(0.0, abs=1e-9)
