"""What must hold between the fields of a scenario. Each breach is a ScenarioError with both numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sim.checks.engine import check_engine, check_policies
from sim.checks.fit import check_kv_fits, check_model_and_hardware
from sim.checks.workload import check_workload
from sim.kinds import kind_of
from sim.loading.place import Place
from sim.scenario import Scenario, Threshold
from sim.suggest import did_you_mean

MAX_SEEDS = 1000


def check_scenario(scenario: Any, *, file: str, variant_names: Sequence[str] = ("base",)) -> None:
    """Refuses a scenario whose parts do not go together; ``file`` is where it was read from."""
    kind = kind_of(scenario)
    top = Place(file=file)
    _check_head(scenario, top)
    kind.part("check")(scenario, file=file)
    for index, threshold in enumerate(scenario.thresholds):
        there = top.child("thresholds").item(index)
        _check_threshold(threshold, there, variant_names)
        _check_metric(threshold, there, kind.part("metrics"))


def check_serving(scenario: Scenario, *, file: str) -> None:
    """What must hold in a serving scenario."""
    top = Place(file=file)
    base_dir = Path(file).parent
    check_workload(scenario.workload, top.child("workload"), base_dir, scenario.engine.policy)
    check_engine(scenario.engine, top.child("engine"))
    _check_routing(scenario, top)
    check_policies(scenario.engine, top.child("engine"), base_dir)
    check_model_and_hardware(scenario, top)
    check_kv_fits(scenario, top)


def _check_head(scenario: Any, top: Place) -> None:
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


def _check_routing(scenario: Scenario, top: Place) -> None:
    batching = scenario.engine.batching
    if scenario.routing == "shared_queue" and scenario.replicas > 1 and batching in ("static", "vllm"):
        raise top.child("routing").error(
            f"with batching: {batching} each replica has its own queue",
            given=scenario.routing,
            allowed=f"round_robin or least_loaded with batching: {batching}",
            hint="routing: least_loaded",
        )


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
