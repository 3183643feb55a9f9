"""An answer names the limit of the SLO that binds, and says where one seed does not decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_results import fake_result, queue_result, scenario

from sim.kinds.run import compare
from sim.results.answer import answer_line
from sim.results.summary import LimitedTime, SloLine, Summary
from sim.scenario.distribution import Distribution
from sim.serving.scenario import RequestClass, Slo, Workload
from sim.serving.summary import summarize
from sim.serving.workload.arrivals import Arrivals

ONE = Distribution(distribution="fixed", value=1)

PLAIN = summarize(fake_result([], scenario=scenario(slo=Slo(ttft_s=1.0))))
OPEN = "One seed does not decide whether"


def run(*times: tuple[str, float, float], variant: str = "base", seed: int = 1, of: str = "") -> Summary:
    """A run by its limited times: (metric, found, limit)."""
    made = tuple(LimitedTime(metric=name, value=found, limit=limit, of=of) for name, found, limit in times)
    met = all(one.ratio <= 1 for one in made)
    metrics = {**PLAIN.metrics, "goodput_requests_per_s": 1.0}
    return replace(
        PLAIN, variant=variant, seed=seed, metrics=metrics, limited_times=made, meets_slo=met, slo=()
    )


def told(*runs: Summary, draws: bool = True) -> str:
    by_variant: dict[str, list[Summary]] = {}
    for one in runs:
        by_variant.setdefault(one.variant, []).append(one)
    return answer_line(compare(by_variant, runs[0].variant, draws=draws))


def test_the_largest_share_of_its_limit_binds() -> None:
    said = told(run(("p99_ttft_s", 0.3, 1.0), ("p99_tpot_s", 0.0259, 0.05)))
    assert "The tightest limit is p99 TPOT, 25.9 of 50 ms." in said
    assert OPEN not in said  # half of it: no seed overturns that


@pytest.mark.parametrize(
    ("num", "slo", "said"),
    [
        (150, Slo(p99_ttft_s=1.0, p50_tpot_s=1.0),
         "P99 TTFT is not known from 150 requests (it needs 1,000)."),
        (150, Slo(ttft_s=1.0, e2e_s=9.0),
         "P99 TTFT and p99 end-to-end time are not known from 150 requests (they need 1,000)."),
        (50, Slo(p90_ttft_s=1.0, p99_ttft_s=2.0),
         "P90 TTFT is not known from 50 requests (it needs 100). P99 TTFT is not known from 50 requests (it"),
        (150, Slo(p90_ttft_s=1.0, mean_ttft_s=1.0), ""),
        (1000, Slo(p99_ttft_s=1.0), ""),
        (150, Slo(p99_ttft_s=1.0, p50_ttft_s=0.001), ""),  # missed, whatever the other is
    ],
)  # fmt: skip
def test_a_percentile_that_too_few_requests_carry_is_said_not_to_be_known(
    num: int, slo: Slo, said: str
) -> None:
    arrival = np.arange(num) * 1.0
    result = queue_result(arrival, np.zeros(num), np.full(num, 0.25), scenario=scenario(slo=slo))
    answer = told(summarize(result))
    assert ("not known from" in answer) is bool(said)
    assert said in answer


def test_units_that_differ_are_both_told() -> None:
    assert "p99 TTFT, 800 ms of 1 s." in told(run(("p99_ttft_s", 0.8, 1.0)))


@pytest.mark.parametrize(("found", "is_open"), [(0.84, False), (0.86, True), (1.14, True), (1.16, False)])
def test_within_reach_of_the_limit_one_seed_decides_nothing(found: float, is_open: bool) -> None:
    said = told(run(("p99_ttft_s", found, 1.0)))
    assert (f"{OPEN} the SLO is met: within 15 % of a limit another may say otherwise" in said) is is_open
    assert ("--seeds 1,2,3,4,5" in said) is is_open


def test_a_trace_has_no_other_seed() -> None:
    assert OPEN not in told(run(("p99_ttft_s", 0.95, 1.0)), draws=False)


def test_several_seeds_tell_the_worst_and_how_many_miss() -> None:
    runs = [run(("p99_tpot_s", found, 0.05), seed=seed) for seed, found in enumerate((0.046, 0.0516, 0.04))]
    said = told(*runs)
    assert "the SLO is missed in 1 of 3 seeds" in said
    assert "The limit that it misses is p99 TPOT, 51.6 of 50 ms in the worst of 3 seeds." in said
    assert OPEN not in said


def test_of_several_missed_the_worst_is_told() -> None:
    said = told(run(("p99_ttft_s", 3.0, 1.0), ("p99_tpot_s", 0.06, 0.05)))
    assert "The limit that it misses most is p99 TTFT, 3 of 1 s." in said


def test_the_variants_are_named_that_one_seed_leaves_open() -> None:
    near, far = ("p99_ttft_s", 0.9, 1.0), ("p99_ttft_s", 0.2, 1.0)
    assert f"{OPEN} both meet the SLO" in told(run(near, variant="a"), run(near, variant="b"))
    assert f"{OPEN} b meets the SLO" in told(run(far, variant="a"), run(near, variant="b"))
    assert OPEN not in told(run(far, variant="a"), run(far, variant="b"))


def test_a_share_that_misses_though_every_limit_is_kept_is_told() -> None:
    """98.96 % keep both limits at once, while the p99 of each is within its own."""
    line = SloLine(
        metric="goodput_fraction", limit=0.99, value=0.9896, is_most=False, decides=True, of="ttft_s, tpot_s"
    )
    one = run(("p99_ttft_s", 0.496, 0.5), ("p99_tpot_s", 0.0357, 0.05))
    said = told(replace(one, slo=(line,), meets_slo=False))
    assert "The tightest limit is p99 TTFT, 496 of 500 ms." in said
    assert "But only 98.96 % of the requests meet ttft_s, tpot_s, 99 % asked." in said


def test_the_limits_of_a_run_are_those_of_its_slo_and_of_its_classes() -> None:
    """A class's own limit may be the one that binds."""
    classes = {
        name: RequestClass(share=1.0, prompt_tokens=ONE, output_tokens=ONE, slo=slo)
        for name, slo in (("chat", Slo(p50_ttft_s=2.0)), ("batch", None))
    }
    workload = Workload(arrivals=Arrivals(process="poisson", requests_per_s=1.0), classes=classes)
    made = scenario(slo=Slo(mean_e2e_s=10.0), workload=workload)
    rows = [
        {"arrival": 0.0, "scheduled": 0.0, "first": 1.5, "finish": 4.0, "output": 3, "class": index % 2}
        for index in range(40)
    ]
    found = summarize(replace(fake_result(rows, scenario=made), class_names=("chat", "batch")))
    assert {one.name: (one.value, one.limit) for one in found.limited_times} == {
        "mean_e2e_s": (4.0, 10.0),
        "p50_ttft_s of chat": (1.5, 2.0),
    }
    said = answer_line(compare({found.variant: [found]}, found.variant))
    assert "The tightest limit is p50 TTFT of chat, 1.5 of 2 s." in said
