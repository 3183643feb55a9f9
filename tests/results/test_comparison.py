"""Ratios over seeds against SciPy and by hand; thresholds; the answer in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fake_results import fake_result, queue_result, replace, scenario
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sim.errors import InvariantError, ScenarioError
from sim.kinds.registry import KINDS
from sim.kinds.run import compare
from sim.report.decision import difference_line
from sim.report.terminal import metric_table
from sim.results.answer import (
    answer_line,
    best_variant,
    deciding_numbers,
    headline_metric,
    table_metrics,
)
from sim.results.comparison import Comparison, check_thresholds
from sim.results.metric import LABELS, format_metric
from sim.results.statistics import mean_interval, ratio_interval, student_t_cdf, student_t_quantile
from sim.results.summary import ClassSummary, Summary
from sim.results.verdict import Verdict
from sim.results.wording import CLAIMS
from sim.rng import stream
from sim.scenario.caution import Caution
from sim.scenario.distribution import Distribution
from sim.scenario.fields import Threshold
from sim.serving.metrics import METRICS
from sim.serving.scenario import Sessions, Slo, Workload
from sim.serving.summary import summarize
from sim.serving.workload.arrivals import Arrivals


def summary(variant: str = "base", seed: int = 1, **numbers: float | None) -> Summary:
    """A summary with these metrics; the others are None."""
    plain = summarize(fake_result([], variant=variant, seed=seed, scenario=scenario(slo=Slo(ttft_s=1.0))))
    metrics: dict[str, float | None] = {**dict.fromkeys(METRICS), **numbers}
    refused = {name: "none here" for name, value in metrics.items() if value is None}
    stable = Verdict(word="STABLE", reason="no trend")
    return replace(plain, metrics=metrics, refused=refused, verdict=stable, warnings=(), meets_slo=None)


def compared(reference: Sequence[float | None], other: Sequence[float | None], **fields: Any) -> Comparison:
    """``goodput_requests_per_s`` of two variants, a value per seed."""

    def runs(name: str, values: Sequence[float | None]) -> list[Summary]:
        return [
            replace(summary(name, seed, goodput_requests_per_s=value), **fields)
            for seed, value in enumerate(values, 1)
        ]

    return compare({"paged": runs("paged", other), "static": runs("static", reference)}, "static")


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 5, 9, 10, 29, 100, 999])
def test_student_t_is_scipys(dof: int) -> None:
    for probability in (0.6, 0.9, 0.975, 0.999):
        assert student_t_quantile(probability, dof) == pytest.approx(stats.t.ppf(probability, dof), rel=1e-9)
    for t in (-3.0, 0.0, 0.5, 12.0):
        assert student_t_cdf(t, dof) == pytest.approx(stats.t.cdf(t, dof), abs=1e-13)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=8))
def test_a_mean_and_its_interval_are_scipys(values: list[float]) -> None:
    found = mean_interval(values)
    error = stats.sem(values)
    assert found.estimate == pytest.approx(np.mean(values))
    if error > 1e-12:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


def test_the_interval_covers_the_true_ratio_95_times_in_100() -> None:
    """Log-normal noise on five paired seeds, 2,000 times: 1,900 expected, within four sigma."""
    noise = stream(7, "coverage").normal(0.0, 0.3, (2000, 5))
    covered = 0
    for row in noise:
        interval = ratio_interval([2.0 * math.exp(x) for x in row], [1.0] * 5)
        covered += interval.excludes(2.0) is False
    assert abs(covered - 1900) < 4 * math.sqrt(2000 * 0.95 * 0.05)


def test_what_the_seeds_share_cancels() -> None:
    """Seeds differ by a factor of 10, the ratio is 2 in each: paired, there is no doubt left."""
    cell = compared([1.0, 10.0, 3.0], [2.0, 20.0, 6.0]).cells["paged"]["goodput_requests_per_s"]
    assert cell.ratio is not None
    assert (cell.ratio.low, cell.ratio.estimate, cell.ratio.high) == pytest.approx((2, 2, 2))
    assert cell.is_significant is True
    assert cell.is_better is True
    assert cell.mean == pytest.approx(28 / 3)
    assert cell.difference is not None
    assert cell.difference.estimate == pytest.approx(14 / 3)


def test_noise_is_not_significant() -> None:
    cell = compared([1.0, 2.0, 1.0], [1.1, 1.8, 1.05]).cells["paged"]["goodput_requests_per_s"]
    assert cell.is_significant is False
    assert cell.is_better is None


def test_equal_values_are_not_significant() -> None:
    cell = compared([1.0, 2.0], [1.0, 2.0]).cells["paged"]["goodput_requests_per_s"]
    assert cell.ratio is not None
    assert (cell.ratio.low, cell.ratio.high) == (1.0, 1.0)
    assert cell.is_significant is False


def test_lower_is_better_for_times() -> None:
    slow = [summary("slow", s, p99_ttft_s=x) for s, x in enumerate([1.0, 1.1, 1.2])]
    fast = [summary("fast", s, p99_ttft_s=x / 2) for s, x in enumerate([1.0, 1.1, 1.2])]
    cells = compare({"slow": slow, "fast": fast}, "slow").cells
    assert cells["fast"]["p99_ttft_s"].is_better is True
    assert cells["slow"]["p99_ttft_s"].ratio is None  # the reference has none to itself


def test_one_seed_has_a_ratio_without_interval_and_says_so() -> None:
    comparison = compared([2.0], [5.0])
    cell = comparison.cells["paged"]["goodput_requests_per_s"]
    assert cell.ratio is not None
    assert (cell.ratio.estimate, cell.ratio.low, cell.is_significant) == (2.5, None, None)
    assert [caution.kind for _, caution in comparison.warnings] == ["one_seed"]
    assert "one seed, no interval" in answer_line(replace_slo(comparison, False))


def test_nothing_to_divide_by_leaves_the_difference() -> None:
    cell = compared([0.0, 0.0, 0.0], [2.0, 3.0, 2.5]).cells["paged"]["goodput_requests_per_s"]
    assert cell.ratio is None
    assert cell.difference is not None
    assert cell.difference.estimate == 2.5
    assert cell.is_significant is True


def test_a_refused_seed_leaves_no_mean() -> None:
    cell = compared([1.0, 1.0], [2.0, None]).cells["paged"]["goodput_requests_per_s"]
    assert (cell.mean, cell.ratio, cell.note) == (None, None, "none here")
    assert cell.values == (2.0, None)


def test_unpaired_seeds_and_a_missing_reference_are_our_bugs() -> None:
    with pytest.raises(InvariantError, match="same seeds"):
        compare({"a": [summary(seed=1)], "b": [summary(seed=2)]}, "a")
    with pytest.raises(InvariantError, match="reference"):
        compare({"a": [summary()]}, "b")


def test_warnings_name_who_they_concern() -> None:
    empty = summarize(fake_result([]))
    cautions = compare({"a": [empty], "b": [empty], "c": [summary()]}, "a").warnings
    assert {who for who, caution in cautions if caution.kind == "too_few_requests"} == {"a, b"}


@pytest.mark.parametrize(("fullest", "warned"), [(0.5, True), (0.99, False)])
def test_an_allocator_comparison_with_memory_to_spare_says_nothing(fullest: float, warned: bool) -> None:
    paged = replace(summary("paged", max_kv_used_fraction=0.3), allocator="paged/16")
    whole = replace(summary("whole", max_kv_used_fraction=fullest), allocator="contiguous/max")
    kinds = {caution.kind for _, caution in compare({"p": [paged], "w": [whole]}, "p").warnings}
    assert ("kv_never_full" in kinds) is warned
    same = {caution.kind for _, caution in compare({"p": [paged], "q": [paged]}, "p").warnings}
    assert "kv_never_full" not in same


def test_a_comparison_is_json() -> None:
    content = json.loads(json.dumps(compared([1.0, 2.0], [3.0, 5.0]).to_dict(), allow_nan=False))
    assert content["reference"] == "static"
    assert list(content["variants"]) == ["static", "paged"]
    assert content["variants"]["static"]["goodput_requests_per_s"] == {"mean": 1.5}
    assert content["variants"]["paged"]["goodput_requests_per_s"]["ratio"][0] == 2.73861279


@pytest.mark.parametrize(
    ("bounds", "is_met"),
    [({"max": 4.0}, True), ({"max": 3.9}, False), ({"min": 4.0}, True), ({"min": 4.1}, False),
     ({"min": 1.0, "max": 5.0}, True)],
)  # fmt: skip
def test_thresholds_bound_the_mean_over_seeds(bounds: dict[str, float], is_met: bool) -> None:
    threshold = Threshold(metric="goodput_requests_per_s", variant="paged", **bounds)
    (outcome,) = check_thresholds(compared([1.0, 1.0], [3.0, 5.0]), [threshold])
    assert outcome.is_met is is_met
    assert outcome.value == 4.0
    assert str(outcome).startswith("met: paged" if is_met else "MISSED: paged")


def test_a_missing_number_misses_with_the_reason() -> None:
    (outcome,) = check_thresholds(
        compared([1.0], [1.0]), [Threshold(metric="p99_ttft_s", variant="paged", max=9.0)]
    )
    assert not outcome.is_met
    assert outcome.reason == "there is no number: none here"


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        (Threshold(metric="p99_tfft_s", variant="paged", max=1.0), "did you mean p99_ttft_s"),
        (Threshold(metric="p99_ttft_s", variant="pagde", max=1.0), "did you mean paged"),
        (Threshold(metric="p99_ttft_s", max=1.0), "say which one is meant"),
    ],
)
def test_a_threshold_with_a_wrong_name_is_the_users_error(threshold: Threshold, words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        check_thresholds(compared([1.0], [1.0]), [threshold])


def test_an_unnamed_threshold_means_the_only_variant() -> None:
    alone = compare({"base": [summary(num_finished=3.0)]}, "base")
    (outcome,) = check_thresholds(alone, [Threshold(metric="num_finished", min=3.0)])
    assert outcome.is_met


def replace_slo(comparison: Comparison, meets: bool | None) -> Comparison:
    found = {n: tuple(replace(s, meets_slo=meets) for s in x) for n, x in comparison.summaries.items()}
    return replace(comparison, summaries=found)


def test_the_headline_follows_the_question() -> None:
    numbers = {"goodput_requests_per_s": 1.0, "requests_per_s": 2.0, "p90_ttft_s": 0.1, "mean_ttft_s": 0.05}

    def headline(**fields: Any) -> str:
        return headline_metric(compare({"a": [replace(summary(**numbers), **fields)]}, "a"))

    assert headline(meets_slo=False) == "goodput_requests_per_s"
    assert headline(meets_slo=True) == "p90_ttft_s"  # all meet it: how fast? p99 is refused
    assert headline(verdict=Verdict(word="BACKLOGGED", reason="")) == "requests_per_s"
    assert headline(arrivals="closed_loop") == "requests_per_s"
    assert headline() == "p90_ttft_s"


def test_the_answer_is_one_line_with_interval_and_raw_values() -> None:
    comparison = compared([2.5, 2.6, 2.4], [7.9, 8.1, 7.7], meets_slo=False)
    assert answer_line(comparison) == (
        "paged serves 3.16 × the requests within the SLO that static does (7.90 against 2.50 a second, "
        "95 % 3.05 to 3.28); both miss the SLO."
    )
    same = compared([2.5, 2.6, 2.4], [2.4, 2.7, 2.4], meets_slo=False)
    assert "paged does not differ measurably from static in goodput" in answer_line(same)
    alone = compare({"base": [summary(seed=s, p99_ttft_s=x) for s, x in ((1, 0.1), (2, 0.3))]}, "base")
    assert answer_line(alone) == "P99 TTFT is 200 ms (95 % 0 s to 1.47 s over 2 seeds)."
    refused = compare({"base": [summary()]}, "base")
    assert answer_line(refused) == "Requests per second has no number: none here."


def test_against_a_reference_with_no_goodput_the_finished_requests_are_compared() -> None:
    def runs(name: str, good: float, done: float) -> list[Summary]:
        numbers = {"goodput_requests_per_s": good, "requests_per_s": done}
        return [replace(summary(name, seed, **numbers), meets_slo=False) for seed in (1, 2)]

    comparison = compare({"static": runs("static", 0.0, 3.5), "paged": runs("paged", 7.7, 7.0)}, "static")
    assert answer_line(comparison) == (
        "paged serves 2 × the requests of static (7.00 against 3.50 a second); "
        "both miss the SLO; static has no goodput."
    )


def test_the_best_of_several_variants_answers() -> None:
    runs = {name: [summary(name, p99_ttft_s=x)] for name, x in (("a", 1.0), ("b", 0.5), ("c", 0.7))}
    assert answer_line(compare(runs, "a")).startswith("b, the best of 3, has 0.5 × the p99 TTFT of a (")


def test_the_reference_is_named_where_it_is_the_best() -> None:
    runs = {name: [summary(name, p99_ttft_s=x)] for name, x in (("a", 0.4), ("b", 0.5), ("c", 0.7))}
    assert answer_line(compare(runs, "a")).startswith(
        "a is the best of 3 with a p99 TTFT of 400 ms; the next, b, has 1.25 × the p99 TTFT of a"
    )


@given(st.lists(st.floats(0.01, 100.0), min_size=3, max_size=6))
def test_no_worse_variant_is_called_the_best(values: list[float]) -> None:
    names = "abcdef"[: len(values)]
    runs = {name: [summary(name, p99_ttft_s=x)] for name, x in zip(names, values, strict=True)}
    best = names[values.index(min(values))]
    said = f"{best} is the best of" if best == "a" else f"{best}, the best of"
    assert answer_line(compare(runs, "a")).startswith(f"{said} {len(values)}")


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_metric_has_a_plain_name_of_its_own(kind: Any) -> None:
    labels = [metric.label for metric in kind.metrics.values()]
    assert len(set(labels)) == len(labels)
    assert not [label for label in labels if "_" in label or "  " in label or label != label.strip()]
    assert set(LABELS) <= {name for one in KINDS.values() for name in one.metrics}
    assert {name for group in kind.deciders for name in group} <= set(kind.metrics)


def test_a_claim_is_about_a_metric_that_there_is() -> None:
    assert set(CLAIMS) <= {name for kind in KINDS.values() for name in kind.metrics}


@given(
    st.lists(st.floats(0.01, 100.0), min_size=2, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6)
)
def test_the_reference_is_never_beaten_by_a_worse_variant(values: list[float], trouble: list[bool]) -> None:
    """Whatever the queues and the SLO say beside it, in the sentence and in the large numbers."""
    names = "abcdef"[: len(values)]
    runs = {
        name: [
            replace(
                summary(name, goodput_requests_per_s=x, requests_per_s=x),
                meets_slo=False,
                verdict=Verdict(word="OVERLOADED" if is_bad else "STABLE", reason=""),
            )
        ]
        for name, x, is_bad in zip(names, values, trouble, strict=False)
    }
    comparison = compare(runs, "a")
    best, line = best_variant(comparison), answer_line(compare(runs, "a"))
    value = values[names.index(best)]
    assert line.startswith(best)
    assert deciding_numbers(comparison)[0].value == format_metric(value, METRICS["goodput_requests_per_s"])
    if len(values) > 2:
        assert value == max(values)
    elif value < values[0]:
        times = line.split(" the requests")[0].removesuffix(" ×").removesuffix(" of").rsplit(" ", 1)[1]
        assert 1 / float(times.removeprefix("1/")) <= 1 if "/" in times else float(times) <= 1


def test_one_word_for_all_says_what_differs_instead() -> None:
    def run(name: str, tokens: float, memory: float) -> Summary:
        metrics: dict[str, float | None] = dict.fromkeys(KINDS["training"].metrics)
        metrics |= {"tokens_per_s": tokens, "step_s": 1 / tokens, "peak_memory_bytes": memory}
        verdict = Verdict(word="COMPUTE_BOUND", reason="")
        return replace(summary(name), kind="training", metrics=metrics, refused={}, verdict=verdict)

    comparison = compare({"a": [run("a", 1.0, 4e10)], "b": [run("b", 2.0, 6e10)]}, "a")
    assert difference_line(comparison) == (
        "all alike: bound by compute (COMPUTE_BOUND); they differ most in peak memory (peak_memory_bytes): "
        "60.0 GB in b, 40.0 GB in a"
    )
    assert "bound" not in answer_line(comparison)
    same = compare({"a": [run("a", 1.0, 4e10)], "b": [run("b", 2.0, 4e10)]}, "a")
    assert difference_line(same) == "all alike: bound by compute (COMPUTE_BOUND)"


def test_trouble_that_two_share_is_told_once_and_without_goodput_the_requests_answer() -> None:
    def run(name: str, done: float) -> Summary:
        numbers = {"goodput_requests_per_s": 0.0, "requests_per_s": done}
        return replace(
            summary(name, **numbers), meets_slo=False, verdict=Verdict(word="BACKLOGGED", reason="")
        )

    line = answer_line(compare({"a": [run("a", 2.0)], "b": [run("b", 3.0)]}, "a"))
    assert line.startswith("b serves 1.5 × the requests of a (3.00 against 2.00 a second, one seed")
    assert line.endswith("; both fall behind their load, both miss the SLO.")


def behind(name: str, served: float, word: Any = "OVERLOADED", offered: float | None = 5.0) -> list[Summary]:
    """Two seeds of a variant that misses its SLO, offered so much."""
    return [
        replace(
            summary(name, seed, requests_per_s=served, goodput_requests_per_s=0.0),
            meets_slo=False,
            verdict=Verdict(word=word, reason=""),
            offered_per_s=offered,
        )
        for seed in (1, 2)
    ]


def test_what_falls_behind_its_load_is_said_first_with_what_is_offered() -> None:
    of = "of the 5 requests a second offered"
    alone = answer_line(compare({"base": behind("base", 3.98)}, "base"))
    span = "(95 % 3.98 requests/s to 3.98 requests/s over 2 seeds)"
    assert alone == f"Serves 3.98 {of} {span} and is overloaded; the SLO is missed."
    runs = {"a": behind("a", 3.98), "b": behind("b", 4.5)}
    both = answer_line(compare(runs, "a"))
    assert both.startswith(f"a serves 3.98 and b 4.5 {of}: both are overloaded. b serves 1.13 ×")
    assert both.count("overloaded") == 1 and both.endswith("; both miss the SLO.")
    three = answer_line(compare({**runs, "c": behind("c", 4.0, "BACKLOGGED")}, "a"))
    assert three.startswith(f"a serves 3.98 and b 4.5 {of}: all 3 fall behind their load. ")
    one = answer_line(compare({**runs, "b": behind("b", 4.99, "STABLE")}, "a"))
    assert one.startswith(f"a serves 3.98 {of} and is overloaded. b serves 1.25 ×")
    kept = {name: behind(name, 4.9 if name == "c" else 5.0, "STABLE") for name in "ac"}
    hidden = answer_line(compare({**kept, "b": behind("b", 4.0)}, "a"))
    assert hidden.startswith(f"b serves 4 {of} and is overloaded. a is the best of 3")
    other_load = answer_line(compare({"a": behind("a", 3.98), "b": behind("b", 4.5, offered=10.0)}, "a"))
    assert other_load.startswith("a serves 3.98 of 5 and b serves 4.5 of 10 requests a second offered: both ")
    unknown = answer_line(compare({"base": behind("base", 3.98, offered=None)}, "base"))
    assert unknown.startswith("Requests per second is 3.98") and "; it is overloaded, the SLO" in unknown


def test_requests_that_are_given_up_are_not_served_though_no_queue_grows() -> None:
    def run(name: str, served: float, given_up: float) -> list[Summary]:
        numbers = {"requests_per_s": served, "num_aborted": given_up, "num_offered": 100.0, "p99_ttft_s": 1.0}
        return [replace(summary(name, **numbers), offered_per_s=5.0)]

    alone = answer_line(compare({"base": run("base", 1.3, 73.0)}, "base"))
    gone = "loses 73 % of its clients, who give up."
    assert alone.startswith(f"Serves 1.3 of the 5 requests a second offered and {gone} P99 TTFT is")
    few = answer_line(compare({"base": run("base", 4.9, 4.0)}, "base"))
    assert few.startswith("P99 TTFT is")
    both = answer_line(compare({"a": behind("a", 2.4)[:1], "b": run("b", 1.3, 73.0)}, "a"))
    assert both.startswith(
        f"a serves 2.4 and b 1.3 of the 5 requests a second offered: both fall behind their load; b {gone}"
    )


def test_a_queue_by_construction_is_no_verdict_on_who_serves_it() -> None:
    word = Verdict(word="ALL_AT_ONCE", reason="a queue by construction")
    runs = {
        name: [replace(summary(name, requests_per_s=rate), verdict=word, arrivals="all_at_once")]
        for name, rate in (("a", 2.0), ("b", 3.0))
    }
    said = answer_line(compare(runs, "a"))
    assert said == "b serves 1.5 × the requests of a (3.00 against 2.00 a second, one seed, no interval)."


def test_variants_as_good_as_the_best_are_counted_and_the_worst_is_told() -> None:
    def run(name: str, *rates: float) -> list[Summary]:
        return [
            replace(summary(name, seed, goodput_requests_per_s=rate), meets_slo=True)
            for seed, rate in enumerate(rates, 1)
        ]

    runs = {"a": run("a", 19.6, 19.8), "b": run("b", 19.7, 19.6), "c": run("c", 19.7, 19.5)}
    runs["d"] = [replace(one, meets_slo=False) for one in run("d", 0.3, 0.4)]
    said = answer_line(compare(runs, "a"))
    rest = "and 2 others do not differ measurably from it; the last, d, serves 1/56.9 of"
    assert said.startswith(f"a is the best of 4 at 19.7 requests/s, {rest}")
    assert said.endswith("; all but d meet the SLO.")
    three = answer_line(compare({name: runs[name] for name in ("a", "b", "d")}, "a"))
    assert "requests/s, and b does not differ measurably from it; the last, d, " in three


def test_the_slo_is_said_of_all_variants_not_of_the_two_that_are_compared() -> None:
    def said(*hits: bool) -> str:
        names = "abcd"[: len(hits)]
        runs = {
            name: [
                replace(
                    summary(name, **dict.fromkeys(("goodput_requests_per_s", "p99_ttft_s"), i)), meets_slo=hit
                )
            ]
            for i, (name, hit) in enumerate(zip(names, hits, strict=True), 1)
        }
        return answer_line(compare(runs, "a")).rpartition("; ")[2]

    assert said(True, True, False, True) == "all but c meet the SLO."
    assert said(False, True, False, True) == "2 of 4 meet the SLO."
    assert said(False, False, True) == "only c meets the SLO."
    assert said(True, True, True) == "all 3 meet the SLO."
    assert said(False, False, False) == "all 3 miss the SLO."
    assert said(True, True) == "both meet the SLO."
    assert said(True) == "the SLO is met."


def test_a_class_that_misses_an_slo_of_its_own_is_named() -> None:
    def run(name: str, **classes: bool) -> list[Summary]:
        parts = {one: ClassSummary(metrics={}, refused={}, meets_slo=hit) for one, hit in classes.items()}
        found = replace(summary(name, goodput_requests_per_s=1.0), by_class=parts)
        return [replace(found, meets_slo=all(classes.values()))]

    runs = {"today": run("today", chat=True, rag=True), "doubled": run("doubled", chat=False, rag=True)}
    assert answer_line(compare(runs, "today")).endswith(
        "only today meets the SLO, chat misses its SLO in doubled."
    )
    alone = compare({"base": run("base", chat=False, rag=False)}, "base")
    assert answer_line(alone).endswith("the SLO is missed, chat and rag miss their SLO.")
    assert "misses its SLO" not in answer_line(compare({"base": run("base", all=False)}, "base"))


def test_thresholds_are_part_of_the_answer_where_they_are_missed_or_nothing_is_compared() -> None:
    bounds = Threshold(metric="mean_queue_s", min=2.8, max=3.6)
    alone = compare({"base": [summary(p99_ttft_s=9.0, mean_queue_s=3.14)]}, "base")
    met = answer_line(replace(alone, thresholds=(bounds,)))
    assert met.endswith(" Mean queueing time is 3.14 s, within its threshold (min 2.8, max 3.6).")
    runs = {name: [summary(name, p99_ttft_s=9.0, mean_queue_s=x)] for name, x in (("a", 3.0), ("b", 4.0))}
    both = (replace(bounds, variant="a"), replace(bounds, variant="b"))
    said = answer_line(replace(compare(runs, "a"), thresholds=both))
    assert said.endswith(" Mean queueing time of b is 4.00 s, outside of its threshold (min 2.8, max 3.6).")
    assert said.count("threshold") == 1
    changed = replace(compare(runs, "a"), thresholds=both, changes=("replicas=3",))
    told = " The file's thresholds are for it as it stands, not for what was changed."
    assert answer_line(changed).endswith(told)
    assert answer_line(replace(changed, are_thresholds_given=True)).endswith("(min 2.8, max 3.6).")
    kept = replace(changed, thresholds=(both[0],))
    assert "threshold" not in answer_line(kept)


def test_a_warning_that_differs_only_in_its_numbers_is_one_with_their_range() -> None:
    def stale(name: str, mean: str, most: str, *, is_ranged: bool = True) -> list[Summary]:
        caution = Caution(
            kind="stale_gradients",
            observation=f"{mean} updates old, at most {most}",
            meaning=f"1 step in 4, {most} of them",
            remedy="none",
            is_ranged=is_ranged,
        )
        return [replace(summary(name), warnings=(caution,))]

    runs = {"bsp": [summary("bsp")], "ssp": stale("ssp", "32", "1,127"), "asp": stale("asp", "6.5", "99")}
    lines = compare(runs, "bsp").warning_lines
    assert (
        lines[0]
        == "ssp, asp: 6.5 to 32 updates old, at most 99 to 1,127: 1 step in 4, 99 to 1,127 of them; none"
    )
    apart = {name: stale(name, mean, "9", is_ranged=False) for name, mean in (("ssp", "32"), ("asp", "6.5"))}
    assert [line.partition(":")[0] for line in compare(apart, "ssp").warning_lines[:2]] == ["ssp", "asp"]


def test_a_ratio_of_one_is_said_in_words() -> None:
    runs = {name: [summary(name, p99_ttft_s=x)] for name, x in (("a", 0.333), ("b", 0.3331), ("c", 0.338))}
    said = answer_line(compare(runs, "a"))
    assert "; the next, b, hardly differs from a in p99 TTFT (333 ms against 333 ms, one seed" in said


@pytest.mark.parametrize(
    ("values", "is_significant", "words"),
    [
        ((1.0, 40.0), False, "may or may not differ from a in p99 TTFT: unknown with so few seeds (20.5 s"),
        ((1.0, 1.2), False, "does not differ measurably from a in p99 TTFT (1.10 s against 1.00 s, 95 %"),
        ((1e5, 3e5), True, ", by how much is unknown with so few seeds"),
    ],
)
def test_an_interval_over_a_factor_of_a_hundred_is_no_answer(
    values: tuple[float, float], is_significant: bool, words: str
) -> None:
    runs = {"a": [summary("a", seed, p99_ttft_s=1.0) for seed in (1, 2)]}
    runs["b"] = [summary("b", seed, p99_ttft_s=value) for seed, value in enumerate(values, 1)]
    comparison = compare(runs, "a")
    cell = comparison.cells["b"]["p99_ttft_s"]
    assert cell.ratio is not None and cell.ratio.low is not None and cell.ratio.high is not None
    said, is_wide = answer_line(comparison), cell.ratio.high > 100 * cell.ratio.low
    assert words in said
    assert ("95 %" in said) == (not is_wide)
    assert ("unknown, few seeds" in metric_table(comparison)) == is_wide
    assert cell.is_significant is is_significant


def test_what_is_offered_is_what_is_stated_or_what_came_in_the_window() -> None:
    times = [i / 2 for i in range(200)], [0.0] * 200, [0.1] * 200
    two = Distribution(distribution="fixed", value=2.0)

    def offered(has_window: bool = True, **workload: Any) -> float | None:
        of = scenario(workload=Workload(num_requests=200, **workload))
        return summarize(queue_result(*times, scenario=of, has_window=has_window)).offered_per_s

    assert offered(arrivals=Arrivals(process="poisson", requests_per_s=1.9)) == 1.9
    assert offered(arrivals=Arrivals(process="poisson", requests_per_s=1.9), has_window=False) is None
    on_off = Arrivals(process="on_off", requests_per_s=3.0, on_s=1.0, off_s=1.0)
    assert offered(arrivals=on_off) == pytest.approx(2.0, rel=0.02)
    sessions = Sessions(turns=two, think_time_s=two)
    per_turn = offered(arrivals=Arrivals(process="poisson", requests_per_s=1.0), sessions=sessions)
    assert per_turn == pytest.approx(2.0, rel=0.02)
    assert offered(arrivals=Arrivals(process="closed_loop", concurrency=4)) is None


def test_what_nobody_measured_is_in_the_answer_s_own_words() -> None:
    drafts = Caution(kind="acceptance_assumed", observation="", meaning="", remedy="", assumes="60 % right")
    cpu = replace(drafts, kind="no_host_time", assumes="no CPU time")
    other, plain = replace(drafts, assumes="other"), replace(drafts, kind="no_slo", assumes="")

    def run(name: str, seconds: float, *warnings: Caution) -> list[Summary]:
        return [replace(summary(name, p99_ttft_s=seconds), warnings=warnings)]

    runs = {"a": run("a", 1.0, cpu, plain), "b": run("b", 0.5, cpu, drafts), "c": run("c", 0.7, other)}
    assert answer_line(compare(runs, "a")).endswith(". Assumed: no CPU time; 60 % right (b).")
    assert "Assumed" not in answer_line(compare({"a": run("a", 1.0, plain)}, "a"))


def test_a_changed_question_says_what_was_changed() -> None:
    comparison = compared([1.0], [2.0])
    assert comparison.asked == comparison.question
    changed = replace(comparison, changes=("hardware=h200-sxm-141gb",))
    assert changed.asked == f"Asked of: {comparison.question} Changed: hardware=h200-sxm-141gb"


def test_the_table_shows_what_has_a_number() -> None:
    comparison = compared([1.0], [2.0], meets_slo=False)
    assert table_metrics(comparison) == ("goodput_requests_per_s",)


@pytest.mark.parametrize(
    ("value", "name", "shown"),
    [(0.0123, "p99_ttft_s", "12.3 ms"), (0.452, "goodput_fraction", "45.2 %"), (1204.0, "num_steps", "1,204"),
     (1.0, "requests_per_s", "1.00 requests/s"), (1250.4, "output_tokens_per_s", "1,250 tokens/s"),
     (1.234, "cost_per_million_output_tokens", "$1.23"), (None, "num_steps", "-"),
     (2.5, "mean_decode_batch", "2.50"),
     (46.6667, "energy_j_per_token", "46.7 J")],
)  # fmt: skip
def test_values_are_shown_with_their_unit(value: float | None, name: str, shown: str) -> None:
    assert format_metric(value, METRICS[name]) == shown
