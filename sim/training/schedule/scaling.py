"""Scaling curves: what each worker still brings when there are more of them.

Weak scaling: every worker keeps its micro-batches, so the global batch grows with the workers. Efficiency is
the rate per worker over that of the fewest workers that can run. What a larger global batch is worth to
learning is no part of it (``learning`` shows it on small problems).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Protocol

import numpy as np

from sim.arrays import PS_PER_S
from sim.errors import ScenarioError
from sim.scenario.place import Place
from sim.training.records import ScalingPoint
from sim.training.scenario import TrainingScenario
from sim.training.schedule.find import bounded_schedule
from sim.training.schedule.job import plan_job

MAX_SCALING_STEPS = 5_000_000


class Check(Protocol):
    """What refuses a scenario: given by the caller, since it checks scaling curves, too."""

    def __call__(self, scenario: TrainingScenario, *, file: str) -> None:
        """A ScenarioError, or nothing."""
        ...


def scaling_points(
    scenario: TrainingScenario, seed: int, base_dir: Path, check: Check
) -> tuple[ScalingPoint, ...]:
    """One point per number of workers that ``scaling`` names; none where it is not asked for."""
    if scenario.scaling is None:
        return ()
    file = str(base_dir / "scenario.yaml")
    points = [
        _point(_sized(scenario, n), seed, (base_dir, file), check) for n in scenario.scaling.num_workers
    ]
    first = next((one for one in points if not one.refused), None)
    if first is None:
        return tuple(points)
    alone = first.gradients_per_s / first.num_workers
    return tuple(replace(one, efficiency=one.gradients_per_s / one.num_workers / alone) for one in points)


def efficient_workers(points: Sequence[ScalingPoint], min_efficiency: float) -> int | None:
    """The most workers up to which every job that can run is efficient enough."""
    runs = [one for one in points if not one.refused]
    enough = list(takewhile(lambda one: one.efficiency >= min_efficiency, runs))
    return enough[-1].num_workers if enough else None


def check_scaling(scenario: TrainingScenario, place: Place, check: Check) -> None:
    """Refuses a curve that has no two points, does not rise, or takes too long."""
    scaling = scenario.scaling
    if scaling is None:
        return
    sizes = scaling.num_workers
    if list(sizes) != sorted(set(sizes)) or len(sizes) < 2:
        raise place.child("num_workers").error(
            "no curve: two numbers of workers or more are needed, each larger than the one before",
            given=list(sizes),
            allowed="rising whole numbers",
            hint="num_workers: [1, 2, 4, 8, 16, 32, 64]",
        )
    total = sum(sizes) * scaling.num_steps
    if total > MAX_SCALING_STEPS:
        raise place.child("num_steps").error(
            f"{sum(sizes):,} workers x {scaling.num_steps:,} steps are {total:,} worker-steps",
            given=scaling.num_steps,
            allowed=f"at most {MAX_SCALING_STEPS:,} worker-steps",
            hint=f"num_steps: {max(1, MAX_SCALING_STEPS // sum(sizes))}",
        )
    refused = [_refusal(_sized(scenario, n), place.file, check) for n in sizes]
    if refused.count("") < 2:
        raise place.child("num_workers").error(
            f"fewer than two of these jobs can run: {next(one for one in refused if one)}",
            given=list(sizes),
            allowed="at least two numbers of workers that can run",
            hint="larger numbers where the model must be sharded, smaller ones within a node",
        )


def _sized(scenario: TrainingScenario, num_workers: int) -> TrainingScenario:
    assert scenario.scaling is not None
    job = replace(scenario.training, num_workers=num_workers, num_steps=scenario.scaling.num_steps)
    return replace(scenario, training=job, scaling=None, learning=None)


def _refusal(scenario: TrainingScenario, file: str, check: Check) -> str:
    """Why the job cannot run; empty where it can."""
    try:
        check(scenario, file=file)
    except ScenarioError as error:
        return error.problem
    return ""


def _point(scenario: TrainingScenario, seed: int, where: tuple[Path, str], check: Check) -> ScalingPoint:
    base_dir, file = where
    num_workers = scenario.training.num_workers
    refused = _refusal(scenario, file, check)
    if refused:
        return ScalingPoint(num_workers=num_workers, refused=refused)
    outcome, _ = bounded_schedule(plan_job(scenario, seed, base_dir))
    measured = outcome.measured
    workers, total_s = measured.workers, (measured.end_ps - measured.begin_ps) / PS_PER_S
    gradients = float(workers.num_steps.sum())
    exposed, stall = (
        float(column.sum(dtype=np.float64)) / gradients / PS_PER_S
        for column in (workers.exchange_ps, workers.wait_ps)
    )
    return ScalingPoint(
        num_workers=num_workers,
        gradients_per_s=gradients / total_s,
        exposed_comm_s=exposed,
        stall_s=stall,
        step_s=total_s * num_workers / gradients,
    )
