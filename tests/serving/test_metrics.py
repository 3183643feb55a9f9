"""Statistics of runs made by hand, against NumPy on written-out lists, queueing theory and laws."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conservation_laws import littles_law_gap, running_time_gap
from fake_results import (
    HARDWARE,
    block_map,
    fake_result,
    preemption_columns,
    ps,
    queue_result,
    replace,
    request_columns,
    scenario,
    three_requests,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_engine import plain_engine

from sim.errors import InvariantError
from sim.hardware import EfficiencyCurve
from sim.hardware.engine_profile import EngineOverheads
from sim.kinds.load import load_scenario
from sim.kinds.run import run_one
from sim.results.statistics import (
    ArithmeticRuns,
    exact_dot,
    exact_sum,
    is_thin,
    order_statistics,
    spread_of_runs,
)
from sim.results.summary import Summary
from sim.rng import stream
from sim.scenario.distribution import Distribution
from sim.serving.judgement import judge
from sim.serving.metrics import METRICS, REQUEST_TIMES
from sim.serving.record_statistics import num_waiting_at_arrival, token_gaps
from sim.serving.scenario import RequestClass, Slo, Speculative, Workload
from sim.serving.summary import summarize
from sim.serving.workload.arrivals import Arrivals


def kinds(summary: Summary) -> set[str]:
    return {caution.kind for caution in summary.warnings}


def test_three_requests_by_head() -> None:
    summary = summarize(three_requests(), keep_thin_percentiles=True)
    expected = {
        "num_offered": 3, "num_finished": 3, "prompt_tokens": 30, "output_tokens": 6, "window_s": 0.4,
        "requests_per_s": 7.5, "output_tokens_per_s": 15, "total_tokens_per_s": 90,
        "mean_queue_s": 0, "mean_ttft_s": 0.1, "max_ttft_s": 0.1, "std_ttft_s": 0,
        "mean_tpot_s": 0.1, "p50_itl_s": 0.1, "max_itl_s": 0.1,
        "mean_e2e_s": 0.2, "p50_e2e_s": 0.2, "p90_e2e_s": 0.28, "max_e2e_s": 0.3,
        "busy_fraction": 1, "mean_num_running": 1.5, "mean_num_waiting": 0, "max_num_running": 2,
        "mean_decode_batch": 1, "num_steps": 4,
        "kv_tokens_fraction": 0.16, "kv_internal_fraction": 0.08, "kv_waste_fraction": 0.08,
        "kv_used_fraction": 0.24, "max_kv_used_fraction": 0.32,
        "cost_per_million_output_tokens": 3.6 / 3600 / 15 * 1e6, "energy_j_per_token": 700 / 15,
        "num_preemptions": 0, "recompute_fraction": 0, "recompute_s": 0, "prefix_hit_fraction": 0,
    }  # fmt: skip
    assert {name: summary.metrics[name] for name in expected} == pytest.approx(expected)


def test_every_metric_has_a_number_or_a_reason_and_never_nan() -> None:
    for result in (three_requests(), fake_result([]), fake_result([{"status": "refused", "finish": 0.0}])):
        summary = summarize(result)
        assert list(summary.metrics) == list(METRICS)
        for name, value in summary.metrics.items():
            assert (value is None) == (name in summary.refused), name
            assert value is None or math.isfinite(value)


def test_metric_names_carry_their_unit() -> None:
    for metric in METRICS.values():
        suffix = {"s": "_s", "fraction": "_fraction", "tokens": "_tokens", "requests/s": "requests_per_s"}
        assert metric.name.endswith(suffix.get(metric.unit, "")), metric
        assert metric.meaning and metric.better in ("higher", "lower", "neither")


def test_one_token_answers_have_no_tpot_and_meet_its_bound() -> None:
    one = {"arrival": 0.0, "scheduled": 0.0, "first": 0.1, "finish": 0.1, "output": 1}
    summary = summarize(fake_result([one, one], scenario=scenario(slo=Slo(tpot_s=1e-6))))
    assert summary.metrics["mean_tpot_s"] is None
    assert summary.refused["mean_tpot_s"] == "no finished request has one"
    assert summary.metrics["goodput_fraction"] == 1.0
    assert summary.meets_slo is True


SLO_ROWS: list[dict[str, Any]] = [
    {"arrival": 0.0, "first": 0.5, "finish": 1.0, "output": 6},  # ttft 0.5, tpot 0.1: exactly at both bounds
    {"arrival": 0.0, "first": 0.6, "finish": 0.7, "output": 2},  # ttft too late
    {"arrival": 0.0, "first": 0.1, "finish": 0.9, "output": 5},  # tpot 0.2: too slow
    {"arrival": 0.0, "first": 0.1, "finish": 0.2, "output": 9, "generated": 2, "status": "aborted"},
    {"arrival": 0.0, "scheduled": -1, "finish": 0.0, "status": "refused"},
    {"arrival": 0.0, "first": 0.1, "finish": -1, "output": 9, "generated": 3, "status": "unfinished"},
    {"arrival": 0.0, "first": 0.1, "finish": 0.1, "output": 1, "measured": False},
    {"arrival": -1, "scheduled": -1, "status": "unfinished"},  # its predecessor never ended
]


def test_goodput_counts_every_bound_over_all_offered_requests() -> None:
    result = fake_result(SLO_ROWS, scenario=scenario(slo=Slo(ttft_s=0.5, tpot_s=0.1)))
    summary = summarize(result)
    expected = {
        "num_offered": 6, "num_finished": 3, "num_aborted": 1, "num_refused": 1, "num_unfinished": 1,
        "ttft_attainment_fraction": 2 / 6, "tpot_attainment_fraction": 2 / 6, "goodput_fraction": 1 / 6,
        "goodput_requests_per_s": 1.0, "requests_per_s": 3.0, "e2e_attainment_fraction": None,
    }  # fmt: skip
    assert {name: summary.metrics[name] for name in expected} == pytest.approx(expected)
    assert summary.meets_slo is False
    assert "requests_lost" in kinds(summary)
    assert summary.whole_run["num_offered"] == 7
    assert summary.whole_run["num_requests"] == 8


@pytest.mark.parametrize(("share", "meets"), [(1 / 6, True), (0.17, False)])
def test_the_share_that_must_meet_the_slo_is_a_key(share: float, meets: bool) -> None:
    slo = Slo(ttft_s=0.5, tpot_s=0.1, attainment_fraction=share)
    assert summarize(fake_result(SLO_ROWS, scenario=scenario(slo=slo))).meets_slo is meets


def test_a_class_uses_its_own_slo() -> None:
    fixed = Distribution(distribution="fixed", value=1)
    plain = RequestClass(share=1, prompt_tokens=fixed, output_tokens=fixed)
    strict = replace(plain, slo=Slo(ttft_s=0.2))
    workload = Workload(
        arrivals=Arrivals(process="poisson", requests_per_s=1.0), classes={"chat": plain, "agent": strict}
    )
    rows = [{"arrival": 0.0, "first": 0.5, "finish": 0.5, "class": c} for c in (0, 0, 0, 1)]
    run = scenario(workload=workload, slo=Slo(ttft_s=1.0, attainment_fraction=0.7))
    summary = summarize(fake_result(rows, scenario=run, class_names=("chat", "agent")))
    assert summary.metrics["goodput_fraction"] == 0.75
    assert summary.by_class["chat"].metrics["goodput_fraction"] == 1.0
    assert summary.by_class["agent"].metrics["goodput_fraction"] == 0.0
    assert [part.meets_slo for part in summary.by_class.values()] == [True, False]
    assert summary.meets_slo is False  # 75 % would do, but the class with its own bounds misses them
    assert summary.by_class["chat"].metrics["num_offered"] == 3


@pytest.mark.parametrize(("limit", "meets"), [(0.2, False), (0.9, True), (None, None)])
def test_the_slo_of_a_class_decides_where_the_whole_states_none(
    limit: float | None, meets: bool | None
) -> None:
    fixed = Distribution(distribution="fixed", value=1)
    plain = RequestClass(share=1, prompt_tokens=fixed, output_tokens=fixed)
    strict = replace(plain, slo=Slo(ttft_s=limit) if limit else None)
    arrivals = Arrivals(process="poisson", requests_per_s=1.0)
    workload = Workload(arrivals=arrivals, classes={"chat": plain, "agent": strict})
    rows = [{"arrival": 0.0, "first": 0.5, "finish": 0.5, "class": c} for c in (0, 0, 0, 1)]
    run = fake_result(rows, scenario=scenario(workload=workload), class_names=("chat", "agent"))
    summary = summarize(run)
    assert summary.meets_slo is meets
    assert ("no_host_time" in kinds(summary)) is (limit is not None)


def test_clients_that_give_up_are_named_where_they_keep_the_queue_short() -> None:
    rows = [
        {"arrival": float(i), "scheduled": float(i), "first": i + 0.5, "finish": i + 0.5,
         "status": "aborted" if i % 4 == 0 else "finished"}
        for i in range(200)
    ]  # fmt: skip
    verdict = judge(fake_result(rows))
    assert verdict.word == "ABANDONED" and verdict.reason == "25 % of the clients gave up before their answer"
    served = judge(fake_result([{**row, "status": "finished"} for row in rows]))
    assert "gave up" not in served.reason


@pytest.mark.parametrize(("percent", "least"), [(50, 20), (90, 100), (95, 200), (99, 1000)])
def test_percentiles_need_ten_samples_beyond(percent: int, least: int) -> None:
    assert is_thin(least - 1, percent)
    assert not is_thin(least, percent)


def test_a_thin_percentile_is_refused_in_words_or_given_with_a_warning() -> None:
    rows = [{"arrival": 0.0, "first": 0.1, "finish": 0.1 * i} for i in range(1, 101)]
    refusing = summarize(fake_result(rows))
    assert refusing.metrics["p99_e2e_s"] is None
    assert refusing.refused["p99_e2e_s"] == "100 samples; p99 needs 1000"
    assert refusing.metrics["p90_e2e_s"] == pytest.approx(np.percentile(np.arange(1, 101) * 0.1, 90))
    assert "percentile_refused" in kinds(refusing)
    on_demand = summarize(fake_result(rows), keep_thin_percentiles=True)
    assert on_demand.metrics["p99_e2e_s"] == pytest.approx(9.901)
    assert "p99_e2e_s" not in on_demand.refused
    assert "thin_percentile" in kinds(on_demand)
    assert "percentile_refused" not in kinds(on_demand)


@st.composite
def arithmetic_runs(draw: st.DrawFn) -> ArithmeticRuns:
    scale = draw(st.sampled_from([1, 1000, 10**10]))
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 50), st.integers(0, 3), st.integers(0, 6), st.integers(0, 4)),
            min_size=1, max_size=12,
        ).filter(lambda rows: sum(num * weight for _, _, num, weight in rows) > 0)
    )  # fmt: skip
    first, growth, num, weight = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return ArithmeticRuns(first=first * scale, growth=growth * scale, num=num, weight=weight)


def written_out(runs: ArithmeticRuns) -> np.ndarray[Any, Any]:
    columns = (runs.first, runs.growth, runs.num, runs.weight)
    return np.array(
        [f + g * j for f, g, n, w in zip(*(c.tolist() for c in columns), strict=True) for j in range(n)
         for _ in range(w)],
        dtype=np.int64,
    )  # fmt: skip


@settings(deadline=None)
@given(arithmetic_runs())
def test_weighted_percentiles_are_those_of_the_list_written_out(runs: ArithmeticRuns) -> None:
    values = written_out(runs)
    found = spread_of_runs(runs)
    assert found is not None
    assert found.num_samples == values.size
    assert found.max == values.max() / 1e12
    assert found.mean == pytest.approx(values.mean() / 1e12, rel=1e-12)
    assert found.std == pytest.approx(values.std() / 1e12, rel=1e-9, abs=1e-9 * found.max)
    for percent, value in found.percentiles.items():
        assert value == pytest.approx(np.percentile(values, percent) / 1e12, rel=1e-12)
    kept = (runs.num > 0) & (runs.weight > 0)
    full = ArithmeticRuns(
        **{name: getattr(runs, name)[kept] for name in ("first", "growth", "num", "weight")}
    )
    ranks = [0, values.size // 2, values.size - 1]
    assert order_statistics(full, ranks) == np.sort(values)[ranks].tolist()


def test_percentiles_of_millions_of_gaps_need_several_chunks() -> None:
    generator = stream(1, "gaps")
    runs = ArithmeticRuns(
        first=generator.integers(10**9, 10**11, 3000),
        growth=generator.integers(0, 10**6, 3000),
        num=generator.integers(1, 2000, 3000),
        weight=np.ones(3000, dtype=np.int64),
    )
    values = written_out(runs)
    assert values.size > 2_500_000
    found = spread_of_runs(runs)
    assert found is not None
    assert list(found.percentiles.values()) == pytest.approx(
        (np.percentile(values, list(found.percentiles)) / 1e12).tolist(), rel=1e-13
    )


def test_gaps_across_steps_that_only_prefill() -> None:
    """Prompt steps stop decoding: the gap reaches back to the sequence's own last token."""
    requests = [
        {"arrival": 0.0, "first": 0.1, "finish": 0.6, "output": 4},
        {"arrival": 0.0, "scheduled": 0.2, "first": 0.3, "finish": 0.6, "output": 3},
        {"arrival": 0.0, "scheduled": 0.3, "first": 0.4, "finish": 0.6, "output": 3},
    ]
    segments = [
        {"start": 0.0, "prefill": 10},
        {"start": 0.1, "decode": 1},
        {"start": 0.2, "prefill": 10},
        {"start": 0.3, "prefill": 10},
        {"start": 0.4, "decode": 3, "steps": 2},
    ]
    gaps = np.sort(written_out(token_gaps(fake_result(requests, segments))))
    # request 0: 0.1, then 0.2 -> 0.5; request 1: 0.3 -> 0.5; request 2: 0.4 -> 0.5; then 0.1 each
    assert gaps.tolist() == [ps(x) for x in (0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.3)]
    assert gaps.sum() == sum(ps(row["finish"]) - ps(row["first"]) for row in requests)


def test_gaps_before_the_window_are_left_out() -> None:
    result = three_requests(window_ps=(ps(0.3), ps(0.4)))
    assert written_out(token_gaps(result)).tolist() == [ps(0.1)]


def test_no_gaps_where_tokens_are_returned_at_once() -> None:
    engine = plain_engine(batching="static", static_returns="at_end")
    summary = summarize(three_requests(scenario=scenario(engine=engine)))
    assert summary.metrics["mean_itl_s"] is None
    assert summary.refused["mean_itl_s"] == "tokens are returned all at once"


def test_recompute_tax() -> None:
    """Two evictions throw away 30 tokens; 40 prefill tokens took 0.4 s alone; 60 tokens were computed."""
    rows = [{"arrival": 0.0, "first": 0.1, "finish": 1.0, "output": 21}]
    segments = [
        {"start": 0.0, "first": 0.4, "prefill": 40, "prefills": 1},
        {"start": 0.4, "first": 0.03, "decode": 1, "steps": 20},
    ]
    ledger = preemption_columns([(0.5, 0, 0, 10), (0.6, 0, 0, 20), (1.5, 0, 0, 99)])
    summary = summarize(fake_result(rows, segments, preemptions=ledger))
    expected = {
        "num_preemptions": 2, "recompute_tokens": 30, "recompute_fraction": 0.5, "recompute_s": 0.3,
    }  # fmt: skip
    assert {name: summary.metrics[name] for name in expected} == pytest.approx(expected)


def test_metrics_over_time_are_cut_to_the_window_and_shared_by_replicas() -> None:
    rows = [{"arrival": 1.0, "scheduled": 1.5, "first": 2.5, "finish": 3.0, "output": 2}]
    segments = [{"start": 0.5, "first": 1.0, "running": 4}, {"start": 2.0, "first": 1.0, "running": 1}]
    run = fake_result(rows, segments, scenario=scenario(replicas=2))
    metrics = summarize(run).metrics
    assert metrics["busy_fraction"] == pytest.approx(1.5 / (2 * 2))
    assert metrics["mean_num_running"] == pytest.approx((0.5 * 4 + 1.0) / 2)
    assert metrics["num_steps"] == 1


def test_cost_and_energy_count_every_gpu_and_stay_silent_without_a_price() -> None:
    one = summarize(three_requests())
    engine = plain_engine(tensor_parallel_size=2)
    eight = summarize(three_requests(scenario=scenario(engine=engine, replicas=4)))
    cost = "cost_per_million_output_tokens"
    assert eight.metrics[cost] == pytest.approx(8 * (one.metrics[cost] or 0))
    # Of four replicas one was busy: 8 GPUs at 100 W + a quarter of 600 W.
    assert eight.metrics["energy_j_per_token"] == pytest.approx(8 * 250 / 15)
    unknown = scenario(hardware=replace(HARDWARE, usd_per_hour=None, idle_w=None))
    silent = summarize(three_requests(scenario=unknown))
    assert silent.refused["cost_per_million_output_tokens"] == "the profile has no price"
    assert silent.refused["energy_j_per_token"] == "the profile lacks idle_w or tdp_w"


HOSTED = plain_engine(overheads=EngineOverheads(step_s=0.001))
DRAFTS = Speculative(num_speculative_tokens=2, acceptance_rate=0.6)


def test_warnings_are_a_closed_list_with_a_remedy() -> None:
    borrowed = EfficiencyCurve(size_unit="flops", points=((1.0, 0.5),), source="borrowed from A100")
    run = scenario(hardware=replace(HARDWARE, efficiency={**HARDWARE.efficiency, "gemm_compute": borrowed}))
    summary = summarize(three_requests(scenario=run, block_map=block_map(is_truncated=True)))
    assert kinds(summary) == {
        "too_few_requests", "queue_untested", "no_slo", "percentile_refused", "block_map_truncated",
        "efficiency_not_measured",
    }  # fmt: skip
    for caution in summary.warnings:
        assert caution.observation and caution.meaning and caution.remedy
    quiet = three_requests(scenario=scenario(slo=Slo(ttft_s=1.0), engine=HOSTED), block_map=block_map())
    assert kinds(summarize(quiet)) == {"too_few_requests", "queue_untested", "percentile_refused"}


@pytest.mark.parametrize(
    ("given", "assumed"),
    [
        ({"slo": Slo(p99_ttft_s=1.0)}, ["no CPU time between steps"]),
        ({"slo": Slo(tpot_s=1.0), "engine": HOSTED}, []),
        ({}, []),
        ({"engine": plain_engine(speculative=DRAFTS)}, ["60 % of ngram drafts right, and drafting free"]),
    ],
)
def test_what_a_run_takes_for_granted_is_a_warning_that_the_answer_repeats(
    given: dict[str, Any], assumed: list[str]
) -> None:
    warnings = summarize(three_requests(scenario=scenario(**given))).warnings
    assert [caution.assumes for caution in warnings if caution.assumes] == assumed


def test_the_summary_is_json_and_says_the_same_twice() -> None:
    texts = {json.dumps(summarize(three_requests()).to_dict(), allow_nan=False) for _ in range(2)}
    assert len(texts) == 1
    content = json.loads(texts.pop())
    assert list(content["metrics"]) == list(METRICS)
    assert content["metrics"]["cost_per_million_output_tokens"] == 66.6666667
    assert content["metrics"]["num_offered"] == 3


def test_class_and_whole_summaries_agree_on_times() -> None:
    result = replace(three_requests(), class_names=("all",))
    summary = summarize(result, keep_thin_percentiles=True)
    for name in REQUEST_TIMES:
        if name != "itl_s":
            assert summary.by_class["all"].metrics[f"mean_{name}"] == summary.metrics[f"mean_{name}"]


def mm1(load: float, num: int, seed: int, *, shape: float = 1.0) -> tuple[Any, Any, Any]:
    """Arrivals, waits (Lindley's recursion in closed form) and services, mean service 1 s."""
    service = stream(seed, "service").exponential(1.0, num)
    gaps = stream(seed, "arrivals").gamma(shape, 1 / load / shape, num)
    walk = np.concatenate([[0.0], np.cumsum(service[:-1] - gaps[1:])])
    return np.cumsum(gaps), walk - np.minimum.accumulate(walk), service


def words(load: float, num: int, *, shape: float = 1.0, runs: int = 60) -> dict[str, int]:
    found = [judge(queue_result(*mm1(load, num, seed, shape=shape))).word for seed in range(runs)]
    return {word: found.count(word) for word in found}


@pytest.mark.parametrize(
    ("load", "num", "shape", "least_stable"),
    [(0.7, 300, 1.0, 59), (0.7, 2000, 1.0, 60), (0.9, 300, 1.0, 57), (0.9, 1000, 1.0, 59),
     (0.9, 5000, 1.0, 60), (0.8, 2000, 0.25, 59)],
)  # fmt: skip
def test_a_stable_queue_rarely_alarms(load: float, num: int, shape: float, least_stable: int) -> None:
    assert words(load, num, shape=shape).get("STABLE", 0) >= least_stable


@pytest.mark.parametrize(("load", "num", "least"), [(1.2, 1000, 57), (1.2, 3000, 60), (1.5, 500, 59)])
def test_an_overloaded_queue_is_seen(load: float, num: int, least: int) -> None:
    found = words(load, num)
    # The backlog of (load - 1) spans drains within one span up to load 2.
    assert found.get("BACKLOGGED", 0) >= least


def test_more_than_twice_the_capacity_is_overloaded() -> None:
    assert words(2.6, 1000, runs=20) == {"OVERLOADED": 20}


def test_a_trend_that_never_drains_is_overloaded() -> None:
    arrival, wait, service = mm1(1.2, 3000, 1)
    result = queue_result(arrival, wait, service)
    status = result.requests.status.copy()
    status[-5:] = 0
    finish = result.requests.finish_ps.copy()
    finish[-5:] = -1
    cut = replace(result, requests=replace(result.requests, status=status, finish_ps=finish))
    assert judge(cut).word == "OVERLOADED"


def test_a_run_that_stops_with_a_queue_is_overloaded() -> None:
    """Every second arrival is served when it comes, the others never: half of all stay waiting."""
    num = 400
    result = queue_result(np.arange(num) * 1.0, np.zeros(num), np.full(num, 1.0))
    stuck = np.arange(num) % 2 == 1
    requests = replace(
        result.requests,
        status=np.where(stuck, 0, result.requests.status).astype(np.uint8),
        first_scheduled_ps=np.where(stuck, -1, result.requests.first_scheduled_ps),
        finish_ps=np.where(stuck, -1, result.requests.finish_ps),
    )
    assert judge(result).word == "STABLE"
    verdict = judge(replace(result, requests=requests))
    assert verdict.word == "OVERLOADED"
    assert verdict.growth == pytest.approx(0.5, rel=0.01)


def test_bursts_far_above_the_slo_are_told() -> None:
    """Every 100th second 40 requests at once, worked off within the next 80: the average load is carried."""
    num = 2000
    arrival, wait = np.arange(num) // 40 * 100.0, np.arange(num) % 40 * 2.0
    loose, tight = (scenario(slo=Slo(p99_ttft_s=limit)) for limit in (20.0, 0.5))
    unsaid, fine, bursts = (
        judge(queue_result(arrival, wait, np.full(num, 2.0), scenario=one))
        for one in (scenario(), loose, tight)
    )
    assert [unsaid.word, fine.word, bursts.word] == ["STABLE", "STABLE", "QUEUES_IN_BURSTS"]
    assert bursts.reason.endswith("one request in 100 waits for 78 s or more")


@pytest.mark.parametrize(
    ("load", "shared_wait_s", "word"),
    [(0.9, 60.0, "STABLE"), (1.05, 60.0, "BACKLOGGED"), (1.05, 300.0, "BACKLOGGED"), (1.05, 0.0, "UNTESTED")],
)
def test_a_load_above_the_capacity_that_is_computed_is_never_stable(
    load: float, shared_wait_s: float, word: str
) -> None:
    """The queue is long from the start, so that the line through it is flat."""
    num = 4000
    engine = plain_engine(service_time=Distribution(distribution="fixed", value=load), max_num_seqs=1)
    wait = shared_wait_s * (1 + 0.2 * np.cos(np.arange(num)))
    result = queue_result(
        np.arange(num) * 0.25, wait, np.full(num, 0.25), scenario=scenario(engine=engine),
        busy_ps=ps(load * num * 0.25),
    )  # fmt: skip
    verdict = judge(result)
    assert verdict.word == word
    assert ("105 % of what the engines can serve" in verdict.reason) is (load > 1)
    said = {one.observation for one in summarize(result).warnings if one.kind == "queue_grows"}
    assert said == ({"many waited while requests came"} if word == "BACKLOGGED" else set())


def test_the_queue_that_an_arrival_meets() -> None:
    """Arrivals at 0, 1, 2, 3 s, served at 0, 2.5, never (it gives up at 3.5) and 4 s."""
    rows = [
        {"arrival": 0.0, "scheduled": 0.0, "finish": 5.0},
        {"arrival": 1.0, "scheduled": 2.5, "finish": 5.0},
        {"arrival": 2.0, "scheduled": -1, "finish": 3.5, "status": "aborted"},
        {"arrival": 3.0, "scheduled": 4.0, "finish": 5.0},
    ]
    assert num_waiting_at_arrival(request_columns(rows), np.arange(4)).tolist() == [0, 0, 1, 1]


def test_verdict_of_loads_without_an_offered_rate() -> None:
    arrival, wait, service = mm1(1.5, 500, 1)
    closed = scenario(workload=Workload(arrivals=Arrivals(process="closed_loop", concurrency=4)))
    assert judge(queue_result(arrival, wait, service, scenario=closed)).word == "STABLE"
    together = np.zeros(100)
    assert judge(queue_result(together, np.arange(100.0), np.ones(100))).word == "ALL_AT_ONCE"
    assert judge(queue_result(arrival[:50], wait[:50], service[:50])).word == "UNTESTED"
    assert judge(fake_result([])).word == "UNTESTED"


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**18), st.integers(0, 10**18), st.booleans()), min_size=1, max_size=40
    )
)
def test_littles_law_is_exact_in_whole_picoseconds(stays: list[tuple[int, int, bool]]) -> None:
    rows = [{"status": "finished" if ended else "unfinished"} for _, _, ended in stays]
    result = fake_result(rows)
    arrival = np.array([a for a, _, _ in stays], dtype=np.int64)
    finish = np.array([a + stay if ended else -1 for a, stay, ended in stays], dtype=np.int64)
    result = replace(result, requests=replace(result.requests, arrival_ps=arrival, finish_ps=finish))
    assert littles_law_gap(result) == 0.0


def test_leaving_before_arriving_is_our_bug() -> None:
    result = three_requests()
    finish = result.requests.finish_ps.copy()
    finish[0] = 0
    arrival = result.requests.arrival_ps + 1
    broken = replace(result, requests=replace(result.requests, finish_ps=finish, arrival_ps=arrival))
    with pytest.raises(InvariantError, match="more requests left than had arrived"):
        littles_law_gap(broken)


def test_time_in_steps_is_time_in_service() -> None:
    assert running_time_gap(three_requests()) == 0.0
    idle = three_requests()
    longer = replace(idle.segments, num_running=idle.segments.num_running + 1)
    assert running_time_gap(replace(idle, segments=longer)) == pytest.approx(4 / 6)


@given(st.lists(st.tuples(st.integers(0, 2**30), st.integers(0, 2**62)), min_size=1, max_size=30))
def test_exact_sums_do_not_overflow(pairs: list[tuple[int, int]]) -> None:
    counts, times = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    assert exact_sum(times) == sum(time for _, time in pairs)
    small = np.minimum(counts, 2**15)
    assert exact_dot(small, times) == sum(min(n, 2**15) * time for n, time in pairs)


SERVING = Path(__file__).parents[2] / "scenarios" / "serving"


@pytest.mark.parametrize(
    "overrides",
    [(), ("engine.schedule_order=prefill_first",), ("replicas=2",),
     ("engine.num_gpu_blocks_override=1500", "engine.schedule_order=prefill_first")],
)  # fmt: skip
def test_laws_between_the_engines_records_and_the_requests(overrides: tuple[str, ...]) -> None:
    """Gaps read off the segments add up to first-to-last token times: none lost but one per preemption."""
    file = load_scenario(SERVING / "multi_turn_sessions.yaml", overrides=overrides)
    whole = replace(file.base, workload=replace(file.base.workload, warmup_requests=0, warmup_s=0.0))
    result = run_one(whole, base_dir=SERVING)
    requests, gaps = result.requests, token_gaps(result)
    num_preemptions = int(requests.num_preemptions.sum())
    assert bool(num_preemptions) is any("blocks" in override for override in overrides)
    assert littles_law_gap(result) == 0.0
    num_gaps = int((requests.generated_tokens - 1)[requests.generated_tokens > 0].sum())
    assert num_gaps - int((gaps.num * gaps.weight).sum()) == pytest.approx(num_preemptions, abs=3)
    if num_preemptions == 0:
        assert running_time_gap(result) == 0.0
        in_gaps = gaps.weight * (gaps.num * gaps.first + gaps.growth * (gaps.num * (gaps.num - 1) // 2))
        assert int(in_gaps.sum()) == int((requests.finish_ps - requests.first_token_ps).sum())
