"""What must hold in scenarios of every kind: the question, the seeds, the thresholds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sim.loading.place import Place
from sim.scenario import Threshold
from sim.scenario_file import AnyScenario
from sim.suggest import did_you_mean

MAX_SEEDS = 1000


def check_head(scenario: AnyScenario, top: Place) -> None:
    """A question, and seeds that are worth their runs."""
    if not scenario.question.strip():
        raise top.child("question").error(
            "is empty",
            allowed="the question that the report answers",
            hint="question: What does continuous batching gain over static?",
        )
    seeds = scenario.seeds
    if not 1 <= len(seeds) <= MAX_SEEDS:
        raise top.child("seeds").error(
            "a run per seed",
            given=len(seeds),
            allowed=f"1 to {MAX_SEEDS} seeds",
            hint="seeds: [1, 2, 3, 4, 5]",
        )
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise top.child("seeds").error(
            f"seed {twice} is given twice: the same run would be counted as two",
            given=list(seeds),
            allowed="different whole numbers",
        )


def check_thresholds(
    scenario: AnyScenario, top: Place, variants: Sequence[str], metrics: Collection[str]
) -> None:
    """Thresholds on metrics and variants that there are."""
    for index, threshold in enumerate(scenario.thresholds):
        there = top.child("thresholds").item(index)
        _check_threshold(threshold, there, variants)
        _check_metric(threshold, there, metrics)


def _check_metric(threshold: Threshold, place: Place, metrics: Collection[str]) -> None:
    if threshold.metric not in metrics:
        raise place.child("metric").error(
            f"unknown metric{did_you_mean(threshold.metric, metrics)}",
            given=threshold.metric,
            hint="gpuyard run --help names where the metrics are listed",
        )


def _check_threshold(threshold: Threshold, place: Place, names: Sequence[str]) -> None:
    listed = ", ".join(names)
    if threshold.variant is not None and threshold.variant not in names:
        raise place.child("variant").error(
            f"no such variant{did_you_mean(threshold.variant, names)}",
            given=threshold.variant,
            allowed=listed,
        )
    if threshold.variant is None and len(names) > 1:
        raise place.child("variant").error(
            "missing: with compare, a threshold is on one variant",
            allowed=listed,
            hint=f"variant: {names[0]}",
        )
    low, high = threshold.min, threshold.max
    if low is None and high is None:
        raise place.error(
            "a threshold without a bound",
            allowed="max, min or both",
            hint=f"{{metric: {threshold.metric}, max: ...}}",
        )
    if low is not None and high is not None and low > high:
        raise place.error(f"min {low:g} is above max {high:g}: nothing can meet both", allowed="min <= max")
