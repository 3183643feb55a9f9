"""The window of a run, MSER-5, and rates that do not depend on how long a run is."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_results import fake_result, request_columns, scenario
from hypothesis import given
from hypothesis import strategies as st

from sim.kinds.load import load_tree
from sim.kinds.run import run_scenario
from sim.results.summary import Summary, telling
from sim.serving.records import SegmentColumns
from sim.serving.scenario import Slo, Workload
from sim.serving.summary import summarize
from sim.serving.usage import KV_KINDS, kv_usage
from sim.serving.window import mser5, served_inside, tokens_inside, window_of
from sim.serving.workload.arrivals import Arrivals


def even(count: int, *, gap_s: float = 0.1, stay_s: float = 1.0) -> list[dict[str, Any]]:
    """A request every ``gap_s``, each served for ``stay_s``: 11 tokens, the first after a tenth of it."""
    times = [(n * gap_s) for n in range(count)]
    return [
        {"arrival": t, "scheduled": t, "first": t + stay_s / 10, "finish": t + stay_s, "output": 11}
        for t in times
    ]


STATED = Workload(arrivals=Arrivals(process="poisson", requests_per_s=10.0), warmup_requests=0)


@given(st.lists(st.integers(0, 1000), min_size=10, max_size=200))
def test_mser_5_is_the_least_squared_standard_error_of_the_first_half(series: list[int]) -> None:
    means = [sum(series[at : at + 5]) for at in range(0, len(series) - len(series) % 5, 5)]

    def error(cut: int) -> float:
        left = means[cut:]
        mean = sum(left) / len(left)
        return sum((y - mean) ** 2 for y in left) / len(left) ** 2

    errors = [error(cut) for cut in range(len(means) // 2 + 1)]
    found = mser5(np.array(series, dtype=np.int64))
    if found is None:
        assert errors[-1] <= min(errors) * (1 + 1e-9) + 1e-9
    else:
        assert errors[found // 5] <= min(errors) * (1 + 1e-9) + 1e-9


def test_mser_5_cuts_a_ramp_and_finds_no_end_of_growth() -> None:
    noise = np.random.default_rng(1).integers(0, 5, 1000)
    ramp = np.minimum(np.arange(1000), 100) + noise
    assert 60 <= (mser5(ramp) or 0) <= 110
    assert mser5(np.arange(1000)) is None
    assert mser5(np.arange(9)) is None  # too few to say


@pytest.mark.parametrize("count", [300, 3000])
def test_a_steady_rate_is_the_rate_however_long_the_run(count: int) -> None:
    requests = request_columns(even(count))
    window = window_of(requests, STATED)
    assert not window.is_whole
    seconds = (window.end_ps - window.begin_ps) / 1e12
    everybody = np.ones(count, dtype=bool)
    # The first second has fewer in service than the others: half of one second's requests are missing.
    assert served_inside(requests, everybody, window.bounds_ps) / seconds == pytest.approx(
        10, abs=6 / seconds
    )
    tokens = int(tokens_inside(requests, window.bounds_ps).sum())
    assert tokens / seconds == pytest.approx(110, abs=70 / seconds)


def test_what_neighbouring_windows_hold_adds_up() -> None:
    requests = request_columns(even(50, stay_s=3.7))
    everybody = np.ones(50, dtype=bool)
    edges = [-1, 10**12, 2_345_678_901_234, 4 * 10**12, 10**14]
    parts = list(itertools.pairwise(edges))
    assert sum(served_inside(requests, everybody, part) for part in parts) == pytest.approx(50, abs=0.2)
    assert sum(int(tokens_inside(requests, part).sum()) for part in parts) == pytest.approx(550, abs=25)


# KV memory inside the window


@st.composite
def kv_rows(draw: st.DrawFn) -> SegmentColumns:
    """Rows of one replica, one after another; some jumps grow by more than 64 bits hold."""
    count = draw(st.integers(1, 8))

    def integers(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    steps, first, growth, idle = integers(1, 5), integers(5, 20), integers(0, 2), integers(0, 9)
    duration = steps * first + growth * (steps * (steps - 1) // 2)
    nothing = np.zeros(count, dtype=np.int64)
    return SegmentColumns(
        replica=np.zeros(count, dtype=np.int16), num_steps=steps, first_step_ps=first, step_growth_ps=growth,
        start_ps=np.cumsum(idle) + np.cumsum(duration) - duration, num_decode=integers(0, 4),
        decode_context_tokens=nothing, num_prefill=nothing, prefill_tokens=nothing, num_running=nothing,
        num_waiting=nothing, kv_tokens=integers(0, 50), kv_reserved=integers(0, 9),
        kv_internal=integers(0, 15), kv_external=integers(0, 3), kv_grown_tokens_ps=grown(draw, steps),
    )  # fmt: skip


def grown(draw: st.DrawFn, steps: np.ndarray) -> np.ndarray:
    """What blocks taken inside each jump add to its integral."""
    amount = st.integers(0, 2**70) if draw(st.booleans()) else st.integers(0, 40)
    values = [draw(amount) if count > 1 else 0 for count in steps.tolist()]
    return np.array(values, dtype=np.int64 if max(values) < 2**63 else object)


def level_at(rows: SegmentColumns, time_ps: int) -> int:
    """Tokens held in the picosecond that begins then."""
    for row in range(len(rows.num_steps)):
        begin = int(rows.start_ps[row])
        for step in range(int(rows.num_steps[row])):
            end = begin + int(rows.first_step_ps[row] + step * rows.step_growth_ps[row])
            if begin <= time_ps < end:
                return int(rows.kv_tokens[row] + step * rows.num_decode[row])
            begin = end
    return 0


@given(kv_rows(), st.integers(0, 60), st.integers(0, 60))
def test_kv_memory_is_that_of_the_window(rows: SegmentColumns, from_ps: int, length_ps: int) -> None:
    end_of_all = 10**4
    edges = (0, from_ps, from_ps + length_ps, end_of_all)

    def within(begin: int, end: int) -> dict[str, int]:
        return kv_usage(rows, (begin, end), is_paged=True)

    whole, parts = within(0, end_of_all), [within(*pair) for pair in itertools.pairwise(edges)]
    for kind in KV_KINDS:
        left = whole[kind] - sum(part[kind] for part in parts)
        assert 0 <= left <= 2 * 2, kind  # what rounding down at two edges loses, on both sides of each
    assert whole["tokens"] == sum(level_at(rows, time) for time in range(0, 1100))
    assert rows.kv_grown_tokens_ps is not None
    ramp = whole["tokens"] - int((rows.kv_tokens * rows.duration_ps).sum())
    taken = sum(rows.kv_grown_tokens_ps.tolist()) - ramp
    assert whole["internal"] == int((rows.kv_internal * rows.duration_ps).sum()) + taken
    if not (rows.num_decode * (rows.num_steps - 1)).any():  # no row whose level changes in it
        exact = sum(level_at(rows, time) for time in range(from_ps, from_ps + length_ps))
        assert abs(parts[1]["tokens"] - exact) <= 2


def test_where_there_is_no_window_the_whole_run_is_taken_and_said() -> None:
    few = window_of(request_columns(even(99)), STATED)
    at_once = window_of(request_columns([{**row, "arrival": 0.0} for row in even(200)]), STATED)
    burst = window_of(request_columns(even(200, gap_s=1e-4, stay_s=5.0)), STATED)
    assert few.is_whole and "99 arrivals" in few.note
    assert at_once.is_whole and "at once" in at_once.note
    assert burst.is_whole and "finished before the last one came" in burst.note


def tree(num_requests: int, arrivals: dict[str, Any], **engine: Any) -> dict[str, Any]:
    return {
        "schema_version": 1, "question": "does the length matter?", "kind": "serving", "seeds": [1],
        "hardware": "h100-sxm-80gb", "model": "llama-3.1-8b",
        "workload": {
            "arrivals": arrivals, "num_requests": num_requests,
            "prompt_tokens": {"distribution": "lognormal", "mean": 256, "sigma": 0.6, "max": 2048},
            "output_tokens": {"distribution": "lognormal", "mean": 128, "sigma": 0.6, "max": 512},
        },
        "engine": {"batching": "continuous", "max_model_len": 4096, **engine},
    }  # fmt: skip


def summary_of(given: dict[str, Any]) -> Summary:
    answer = run_scenario(load_tree(given, "window.yaml"))
    return answer.summaries["base"][0]


@pytest.mark.parametrize("rate", [10.0, 40.0])
def test_a_short_run_says_the_rate_of_a_long_one(rate: float) -> None:
    short, long = (
        summary_of(tree(count, {"process": "poisson", "requests_per_s": rate})).metrics
        for count in (1500, 12_000)
    )
    for name in ("requests_per_s", "busy_fraction", "output_tokens_per_s"):
        assert short[name] == pytest.approx(long[name], rel=0.05), name  # 1,500 Poisson arrivals: 2.6 %
    assert long["requests_per_s"] == pytest.approx(rate, rel=0.03)
    assert (short["whole_run_requests_per_s"] or 0) < (short["requests_per_s"] or 0)


@pytest.mark.parametrize(
    ("clients", "engine"),
    [
        (64, {}),
        (64, {"max_num_seqs": 16}),
        (48, {"batching": "static", "max_num_seqs": 16}),
        (64, {"batching": "vllm", "async_scheduling": False}),
    ],
)
def test_in_a_closed_loop_those_in_the_system_are_the_clients(clients: int, engine: dict[str, Any]) -> None:
    given = tree(1000, {"process": "closed_loop", "concurrency": clients}, **engine)
    metrics = summary_of(given).metrics
    inside = (metrics["mean_num_running"] or 0) + (metrics["mean_num_waiting"] or 0)
    assert inside == pytest.approx(clients, rel=1e-12)
    if not engine:  # not half of it, as with the ramp-down
        assert metrics["mean_decode_batch"] == pytest.approx(64, rel=0.03)


def test_statistics_that_an_slo_states_decide_and_the_share_stands_beside() -> None:
    rows = even(2000)
    for row in rows[:25]:
        row["first"] = row["arrival"] + 0.9  # 1.25 % miss the bound, the 95th percentile does not
    given = fake_result(rows, scenario=scenario(slo=Slo(ttft_s=0.5, p95_ttft_s=0.5, p99_e2e_s=1.5)))
    found = summarize(given)
    assert found.meets_slo is True
    assert [line.decides for line in found.slo] == [True, True, False]
    assert found.slo[-1].is_met is False and "98.8 %" in str(found.slo[-1])
    joint = summarize(replace(given, scenario=scenario(slo=Slo(ttft_s=0.5))))
    assert joint.meets_slo is False
    strict = summarize(replace(given, scenario=scenario(slo=Slo(p99_ttft_s=0.5))))
    assert strict.meets_slo is False and strict.metrics["goodput_fraction"] == pytest.approx(0.9875)


def test_a_percentile_that_the_sample_cannot_carry_leaves_the_slo_open() -> None:
    found = summarize(fake_result(even(50), scenario=scenario(slo=Slo(p99_ttft_s=0.5))))
    assert found.meets_slo is None and "not known" in str(found.slo[0])


def test_digits_are_enough_to_see_the_side() -> None:
    assert telling(0.4999, 0.5, is_time=True) == ("499.9 ms", "500 ms")
    assert telling(0.98796, 0.99, is_time=False)[0] == "98.8 %"
    assert telling(0.98996, 0.99, is_time=False)[0] == "98.996 %"
