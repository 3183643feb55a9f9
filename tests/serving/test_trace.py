"""The Chrome trace: what the format demands, and that it says what the records say."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_results import fake_result, preemption_columns, three_requests
from toy_runs import toy_run, toy_scenario

from sim.serving.records import RunResult
from sim.serving.trace import trace_events, write_trace


def slices(trace: dict[str, Any], pid: int) -> dict[int, list[dict[str, Any]]]:
    """The slices of a process, by track."""
    found = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X" and event["pid"] == pid:
            found[event["tid"]].append(event)
    return found


@pytest.fixture(scope="module")
def toy() -> RunResult:
    return toy_run(toy_scenario(), "continuous", 1, paged=True)


def test_three_requests_by_hand() -> None:
    trace = trace_events(three_requests())
    tracks = slices(trace, 1)
    # Request 1: arrives and is scheduled at 0.1 s, first token at 0.2, last at 0.4.
    assert [(e["name"], e["ts"], e["dur"]) for e in tracks[2]] == [
        ("prefill", 100_000.0, 100_000.0), ("decode", 200_000.0, 200_000.0)
    ]  # fmt: skip
    engine = slices(trace, 10)[1]
    assert [e["name"] for e in engine] == [
        "prefill 10 tokens", "prefill 10 tokens + decode ×1, 1 seqs", "prefill 10 tokens + decode ×1, 1 seqs",
        "decode ×1, 1 seqs",
    ]  # fmt: skip
    assert trace["otherData"]["note"] == "complete"


def test_every_event_is_well_formed(toy: RunResult, tmp_path: Path) -> None:
    write_trace(toy, tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    named = {e["pid"] for e in trace["traceEvents"] if e["ph"] == "M" and e["name"] == "process_name"}
    for event in trace["traceEvents"]:
        assert event["ph"] in "XiCM"
        assert event["pid"] in named
        if event["ph"] != "M":
            assert isinstance(event["ts"], float) and event["ts"] >= 0
        if event["ph"] in "Xi":
            assert isinstance(event["tid"], int)
        if event["ph"] == "C":
            assert event["args"]["value"] >= 0


def test_slices_of_a_track_do_not_overlap_and_cover_the_request(toy: RunResult) -> None:
    trace = trace_events(toy)
    for pid in (1, 10):
        for track in slices(trace, pid).values():
            for before, after in pairwise(track):
                assert before["ts"] + before["dur"] <= after["ts"] + 1e-5
    rows = toy.requests
    for i, track in ((tid - 1, events) for tid, events in slices(trace, 1).items()):
        spent = sum(event["dur"] for event in track)
        assert spent == pytest.approx((rows.finish_ps[i] - rows.arrival_ps[i]) / 1e6)


def test_counters_follow_the_segments(toy: RunResult) -> None:
    trace = trace_events(toy)
    waiting = [e["args"]["value"] for e in trace["traceEvents"] if e["ph"] == "C" and e["name"] == "waiting"]
    assert waiting == toy.segments.num_waiting.tolist()
    running = [e for e in trace["traceEvents"] if e["ph"] == "C" and e["name"] == "running"]
    assert max(running, key=lambda e: e["ts"])["args"]["value"] == 0


def test_refused_aborted_and_unfinished() -> None:
    run = fake_result(
        [
            {"arrival": 0.0, "scheduled": -1.0, "finish": 0.0, "status": "refused"},
            {"arrival": 0.0, "scheduled": 0.5, "finish": 2.0, "status": "aborted"},
            {"arrival": 1.0, "scheduled": -1.0, "status": "unfinished"},
            {"arrival": -1.0, "scheduled": -1.0, "status": "unfinished"},
        ],
        [{"start": 0.5, "first": 2.5, "decode": 1, "running": 1}],
        preemptions=preemption_columns([(1.5, 1, 0, 33)]),
    )
    trace = trace_events(run)
    tracks = slices(trace, 1)
    assert 1 not in tracks and 4 not in tracks
    assert [(e["name"], e["ts"], e["dur"]) for e in tracks[2]] == [
        ("queue", 0.0, 500_000.0), ("prefill", 500_000.0, 1_500_000.0)
    ]  # fmt: skip
    assert [(e["name"], e["dur"]) for e in tracks[3]] == [("queue", 2_000_000.0)]
    marks = {(e["name"], e["tid"]): e for e in trace["traceEvents"] if e["ph"] == "i"}
    assert set(marks) == {("refused", 1), ("aborted", 2), ("preempted", 2)}
    assert marks["preempted", 2]["args"]["recompute_tokens"] == 33


def test_a_long_run_is_cut_and_says_so(toy: RunResult) -> None:
    trace = trace_events(toy, max_requests=10)
    assert len(slices(trace, 1)) == 10
    assert trace["otherData"]["note"].startswith("truncated: the first 10 of 120 requests")
    last = max(e["ts"] + e["dur"] for track in slices(trace, 1).values() for e in track)
    assert max(e["ts"] for e in slices(trace, 10)[1]) <= last
    assert len(slices(trace_events(toy, max_segments=5), 10)[1]) == 5
