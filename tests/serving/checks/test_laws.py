"""Each law of a run that is over, broken by hand: the error says which, and shows the state."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from fake_price import requests, run_fixed

from sim.errors import InvariantError
from sim.serving.checks.laws import check_all_ended, check_all_free, check_rows
from sim.serving.engine import Engine
from sim.serving.kv.paged import PagedKV
from sim.serving.recorder import Recorder
from sim.serving.records import ABORTED, FINISHED, SegmentColumns

BUDGET = 160


@pytest.fixture
def segments() -> SegmentColumns:
    """The rows of a run that keeps every law: three requests, one after another on two replicas."""
    table = requests([0.0, 0.1, 5.0], [20, 30, 40], [3, 40, 5])
    result = run_fixed(table, replicas=2, num_gpu_blocks_override=10, block_size=16)
    assert result.kv_budget_tokens == BUDGET and len(result.segments.num_steps) > 3
    check_rows(result.segments, BUDGET, 2)
    return result.segments


def broken(segments: SegmentColumns, column: str, row: int, value: int) -> SegmentColumns:
    changed = getattr(segments, column).copy()
    changed[row] = value
    fields: dict[str, Any] = {column: changed}
    return replace(segments, **fields)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("kv_tokens", -1),
        ("kv_reserved", -1),
        ("kv_internal", -1),
        ("kv_external", -1),
        ("kv_external", BUDGET + 1),
        ("first_step_ps", -(10**13)),
    ],
)
def test_levels_below_zero_or_above_the_budget_and_negative_time_are_found(
    segments: SegmentColumns, column: str, value: int
) -> None:
    with pytest.raises(InvariantError, match=f"in row 2: .*'{column}': {value}.*budget {BUDGET}"):
        check_rows(broken(segments, column, 2, value), BUDGET, 2)


def test_a_step_that_begins_before_the_one_before_it_is_found(segments: SegmentColumns) -> None:
    (own,) = np.nonzero(segments.replica == 1)
    late = broken(segments, "start_ps", own[0], 10**15)
    with pytest.raises(InvariantError, match=r"replica 1: a step begins at \d+ ps after 1000000000000000 ps"):
        check_rows(late, BUDGET, 2)


def test_a_request_that_never_ended_is_found() -> None:
    recorder = Recorder(requests([0.0, 0.0, 0.0], [1, 1, 1], [1, 1, 1]))
    recorder.status[0], recorder.status[1], recorder.status[2] = FINISHED, ABORTED, FINISHED
    check_all_ended(recorder)
    recorder.status[1] = 0
    with pytest.raises(InvariantError, match="1 requests never ended, the first is 1"):
        check_all_ended(recorder)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ({"num_unfinished": 2}, "replica 7 stopped with 2 running, 0 w"),
        ({"used": 48}, "replica 7 ended with 48 tokens of KV in use"),
    ],
)
def test_what_a_scheduler_still_holds_is_found(left: dict[str, int], words: str) -> None:
    def engine(*, used: int = 0, num_unfinished: int = 0) -> Engine:
        held = {"running": dict.fromkeys(range(num_unfinished)), "waiting": ()}
        scheduler = SimpleNamespace(used_tokens=lambda: used, num_unfinished=num_unfinished, **held)
        return cast(Engine, SimpleNamespace(index=7, scheduler=scheduler))

    check_all_free([engine()])
    with pytest.raises(InvariantError, match=words):
        check_all_free([engine(), engine(**left)])


def test_a_run_is_held_to_the_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    table = requests([0.0, 0.0], [20, 30], [3, 4])
    run_fixed(table, stepping="every_step", num_gpu_blocks_override=10)
    monkeypatch.setattr(PagedKV, "release", lambda self, request, now_ps: None)
    with pytest.raises(InvariantError, match=r"replica 0 ended with \d+ tokens of KV in use"):
        run_fixed(table, stepping="every_step", num_gpu_blocks_override=10)
