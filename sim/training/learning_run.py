"""A scenario's ``learning``: which problem is trained on a run's schedule, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from sim.scenario import key
from sim.training.learning import LearningCurve, Schedule, learn, learn_locally
from sim.training.learning_problems import PROBLEMS, Problem

# Loss is computed at this many points of a run: as many gradients apart in every scheme.
MAX_POINTS = 200
# A loss so many times its start is not followed any further.
DIVERGED = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningConfig:
    """Real SGD on the simulated schedule. It says nothing about large models (``learning_problems``)."""

    problem: str = key(
        "what is trained, on generated data", default="logistic_regression", choices=lambda: PROBLEMS
    )
    learning_rate: float = key("of the averaged gradient of an update", default=0.2, gt=0, le=1e6)
    staleness_aware: bool = key("divide each gradient by its staleness (arXiv 1511.05950)", default=False)
    batch_size: int = key("examples per gradient", default=16, ge=1, le=100_000)
    target_loss: float | None = key("time and updates to it are reported", default=None, gt=0)
    max_gradients: int = key("the schedule is followed up to here", default=20_000, ge=1, le=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningResult:
    """The curve and, where a target was given, how long it took. None: not reached in the run."""

    curve: LearningCurve
    updates_to_target: int | None
    gradients_to_target: int | None  # in these updates, of all workers
    time_to_target_s: float | None
    is_cut: bool  # the schedule was longer than max_gradients


def problem_of(learning: LearningConfig) -> Problem:
    """The problem by its name, with the batch size."""
    return PROBLEMS[learning.problem](learning.batch_size)


def learn_run(
    learning: LearningConfig,
    schedule: Schedule,
    seed: int,
    *,
    local_steps: int = 1,
    num_steps: int | None = None,
) -> LearningResult:
    """Train on the run's schedule; ``local_steps`` above 1 is local SGD, whose updates are averages.

    Of local SGD's ``num_steps`` a worker those after the last whole round make a shorter one.
    """
    cut = first_gradients(schedule, max(1, learning.max_gradients // local_steps))
    problem = problem_of(learning)
    ceiling = DIVERGED * problem.loss(problem.start())
    if local_steps > 1:
        curve = learn_locally(
            problem,
            cut.update_times_s,
            num_workers=cut.num_workers,
            local_steps=local_steps,
            num_steps=None if cut.num_updates < schedule.num_updates else num_steps,
            learning_rate=learning.learning_rate,
            seed=seed,
            ceiling=ceiling,
        )
    else:
        curve = learn(
            problem,
            cut,
            learning_rate=learning.learning_rate,
            staleness_aware=learning.staleness_aware,
            seed=seed,
            evaluate_every=ceil(cut.num_updates / MAX_POINTS),
            ceiling=ceiling,
            target_loss=-np.inf if learning.target_loss is None else learning.target_loss,
        )
    target = learning.target_loss
    updates = None if target is None else curve.updates_to_target(target)
    return LearningResult(
        curve=curve,
        updates_to_target=updates,
        gradients_to_target=None if updates is None else _gradients(cut, updates, local_steps),
        time_to_target_s=None if target is None else curve.time_to_target_s(target),
        is_cut=cut.num_updates < schedule.num_updates,
    )


def _gradients(schedule: Schedule, num_updates: int, local_steps: int) -> int:
    """Gradients in the first updates; in local SGD every worker's every step is one."""
    if local_steps > 1:
        return num_updates * schedule.num_workers
    return int(np.searchsorted(schedule.update, num_updates))


def first_gradients(schedule: Schedule, num_gradients: int) -> Schedule:
    """The schedule's whole updates among its first gradients, at least one."""
    if len(schedule.update) <= num_gradients:
        return schedule
    updates = max(1, int(schedule.update[num_gradients]))
    kept = int(np.searchsorted(schedule.update, updates))
    return Schedule(
        update_times_s=schedule.update_times_s[:updates],
        update=schedule.update[:kept],
        worker=schedule.worker[:kept],
        version_read=schedule.version_read[:kept],
    )
