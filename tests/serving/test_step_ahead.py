"""A step scheduled ahead (``overheads.schedules_ahead``), at 0.1 s a step, by hand and against the queue."""

from __future__ import annotations

from typing import Any

import pytest
from fake_price import in_ps, requests, run_fixed, seconds

from sim.hardware.engine_profile import EngineOverheads
from sim.serving.records import ABORTED, RequestTable, RunResult

VLLM = {"batching": "vllm", "max_model_len": 128, "num_gpu_blocks_override": 64, "async_scheduling": False}


def run(table: RequestTable, *, is_ahead: bool = True, **settings: Any) -> RunResult:
    return run_fixed(table, **VLLM | {"overheads": EngineOverheads(schedules_ahead=is_ahead)} | settings)


@pytest.mark.parametrize("stepping", ["skip", "every_step"])
def test_a_request_waits_one_step_longer(stepping: str) -> None:
    """Request 1 comes in the first step, the second is scheduled by then: its prompt is in the third."""
    table = requests([0, 0.05], [4, 4], [8, 3])
    plain, ahead = run(table, is_ahead=False, stepping=stepping), run(table, stepping=stepping)
    assert seconds(plain.requests.first_token_ps) == [0.1, 0.2]
    assert seconds(ahead.requests.first_token_ps) == [0.1, 0.3]
    assert seconds(ahead.requests.finish_ps) == [0.8, 0.5]  # who runs is not held up


def test_an_idle_engine_has_nothing_scheduled() -> None:
    result = run(requests([0.07, 1.23], [4, 4], [1, 1]))
    assert seconds(result.requests.finish_ps) == [0.17, 1.33]


def test_tokens_come_when_the_asynchronous_queue_of_two_gives_them() -> None:
    arrivals = [0, 0.04, 0.31, 0.33, 0.77, 1.18]
    table = requests(arrivals, [4] * 6, [40, 9, 6, 5, 7, 3])
    ahead, queued = run(table), run(table, is_ahead=False, async_scheduling=True)
    assert seconds(ahead.requests.first_token_ps) == seconds(queued.requests.first_token_ps)
    assert seconds(ahead.requests.finish_ps) == seconds(queued.requests.finish_ps)


def test_asynchronous_scheduling_does_it_by_itself() -> None:
    table = requests([0, 0.05], [4, 4], [8, 3])
    twice, once = (run(table, is_ahead=one, async_scheduling=True) for one in (True, False))
    assert seconds(twice.requests.first_token_ps) == seconds(once.requests.first_token_ps)


def test_a_client_may_leave_before_it_is_seen() -> None:
    table = requests([0, 0.05], [4, 4], [8, 3], timeout_ps=in_ps([300, 0.1]))
    result = run(table)
    assert result.requests.status[1] == ABORTED and result.requests.first_scheduled_ps[1] < 0
    assert seconds(result.requests.finish_ps)[0] == 0.8
