"""The reference is never beaten by a worse variant in a headline, whatever the summaries hold."""

from __future__ import annotations

import math
from dataclasses import replace

from fake_results import fake_result, scenario
from hypothesis import given
from hypothesis import strategies as st

from sim.kinds.run import compare
from sim.results.answer import answer_line, headline_metric
from sim.results.comparison import Comparison
from sim.results.summary import Summary
from sim.results.verdict import Verdict
from sim.serving.metrics import METRICS
from sim.serving.scenario import Slo
from sim.serving.summary import summarize

NAMES = ("quebec", "sierra", "tango", "uniform", "whisky")
PLAIN = summarize(fake_result([], scenario=scenario(slo=Slo(ttft_s=1.0))))
# What a headline may be of, and numbers of any size: none at all, nothing, equal ones.
ANSWERS = ("requests_per_s", "goodput_requests_per_s", "p99_ttft_s", "p50_ttft_s", "mean_e2e_s")
NUMBERS = st.one_of(
    st.none(), st.just(0.0), st.sampled_from([0.5, 1.0, 2.0]), st.floats(1e-6, 1e9, allow_subnormal=False)
)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """Three to five variants, one to three seeds, in any order and with any of them as the reference."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(3, 5))]
    seeds = range(1, draw(st.integers(1, 3)) + 1)
    words = st.sampled_from(["STABLE", "BACKLOGGED", "OVERLOADED"])
    runs = {name: [run(draw, name, seed, draw(words)) for seed in seeds] for name in names}
    return compare(runs, draw(st.sampled_from(names)))


def run(draw: st.DrawFn, variant: str, seed: int, word: str) -> Summary:
    numbers = {name: draw(NUMBERS) for name in ANSWERS}
    metrics: dict[str, float | None] = {**dict.fromkeys(METRICS), **numbers}
    refused = {name: "none here" for name, value in metrics.items() if value is None}
    return replace(
        PLAIN,
        variant=variant,
        seed=seed,
        metrics=metrics,
        refused=refused,
        verdict=Verdict(word=word, reason="made up"),
        warnings=(),
        meets_slo=draw(st.sampled_from([None, True, False])),
    )


@given(comparisons())
def test_the_variant_that_the_answer_begins_with_is_the_best(comparison: Comparison) -> None:
    metric = headline_metric(comparison)
    sign = -1 if METRICS[metric].better == "higher" else 1

    def badness(name: str) -> float:
        values = [run.metrics[metric] for run in comparison.summaries[name]]
        known = [value for value in values if value is not None]
        return sign * math.fsum(known) / len(known) if len(known) == len(values) else math.inf

    line = answer_line(comparison)
    named = min((name for name in comparison.variants if name in line), key=line.index)
    assert badness(named) == min(badness(name) for name in comparison.variants)
