"""What must hold of a scenario's step times and failures; each breach is a ScenarioError."""

from __future__ import annotations

from pathlib import Path

from sim.checks.distributions import check_distribution
from sim.loading.place import Place, no_effect
from sim.training.delays import DELAYS, delays_with
from sim.training.scenario import TrainingScenario
from sim.training.scenario_variation import StepVariation
from sim.training.sync import SYNC
from sim.workload.files import check_file


def check_variation(variation: StepVariation, num_workers: int, place: Place) -> None:
    """Refuses laws whose keys are missing, workers that are not there, files that cannot be read."""
    delay = DELAYS[variation.law]
    for name in delay.keys:
        if getattr(variation, name) is None:
            raise place.child(name).error(
                f"missing: law: {variation.law} needs it", allowed=f"{name}: a number", hint=f"{name}: 1.5"
            )
    every = {name for one in DELAYS.values() for name in (*one.keys, *one.optional_keys)}
    for name in sorted(every.difference(delay.keys, delay.optional_keys)):
        if getattr(variation, name) is not None:
            raise no_effect(place, name, getattr(variation, name), f"law: {delays_with(name)}")
    if variation.min is not None and variation.max is not None and variation.min > variation.max:
        raise place.child("min").error(
            f"min {variation.min:g} is above max {variation.max:g}", given=variation.min, allowed="min <= max"
        )
    for index, one in enumerate(variation.slow_workers):
        if one.worker >= num_workers:
            raise (
                place.child("slow_workers")
                .item(index)
                .child("worker")
                .error(
                    f"there is no worker {one.worker}: they are 0 to {num_workers - 1}",
                    given=one.worker,
                    allowed=f"0 to {num_workers - 1}",
                )
            )
    base_dir = Path(place.file).parent
    if variation.data_loader is not None:
        there = place.child("data_loader").child("stall_s")
        check_distribution(variation.data_loader.stall_s, there, base_dir)
    if variation.recorded is not None:
        _check_recorded(variation, place.child("recorded"), base_dir)


def _check_recorded(variation: StepVariation, place: Place, base_dir: Path) -> None:
    from sim.training.variation import read_recorded

    recorded = variation.recorded
    if recorded is None:
        return
    if variation.law != "none" or variation.markov is not None:
        raise place.error(
            "recorded times have their own variation",
            given=variation.law,
            allowed="recorded with slow_workers and data_loader only",
            hint="law: none",
        )
    if not recorded.columns:
        raise place.child("columns").error(
            "no column to read", given=[], allowed="one or more", hint="[step_s]"
        )
    check_file(recorded.path, place.child("path"), base_dir)
    if not read_recorded(recorded, base_dir).size:
        raise place.child("path").error("no row of times", given=recorded.path, allowed="a row per step")


def check_failures(scenario: TrainingScenario, place: Place) -> None:
    """Refuses checkpoints without an interval, and jobs that fail faster than they are saved."""
    failures = scenario.failures
    if failures is None:
        return
    has_checkpoints = not SYNC[scenario.sync.scheme].is_asynchronous
    if failures.interval_s is None and failures.checkpoint_s == 0 and has_checkpoints:
        raise place.child("interval_s").error(
            "missing: checkpoints that cost nothing have no best interval",
            allowed="interval_s, or checkpoint_s above 0",
            hint="checkpoint_s: 30 s",
        )
    per_job = failures.mtbf_s / scenario.training.num_workers
    if failures.checkpoint_s > 0 and failures.checkpoint_s >= per_job:
        raise place.child("checkpoint_s").error(
            f"a checkpoint takes {failures.checkpoint_s:g} s, and of {scenario.training.num_workers} workers "
            f"one fails every {per_job:g} s: such a job never gets on",
            given=failures.checkpoint_s,
            allowed=f"below {per_job:g} s",
            hint="a larger mtbf_s, or a faster checkpoint",
        )
