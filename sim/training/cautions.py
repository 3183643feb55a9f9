"""What a reader of a training run is warned of: borrowed figures, few steps, stale gradients, a start-up."""

from __future__ import annotations

from math import ceil

import numpy as np

from sim.price.collective import nccl_facts
from sim.price.figures import Used, figures_caution, model_caution, together
from sim.scenario.caution import Caution
from sim.training.exchange.algorithms import EXCHANGES
from sim.training.learning.problems import largest_stable_rate
from sim.training.records import Steady, TrainingResult
from sim.training.scenario import draws, step_shape
from sim.training.schedule.job import devices, is_priced
from sim.training.schedule.scaling import efficient_workers
from sim.training.step.layer import used_by_step
from sim.training.sync import SYNC, UNBOUNDED

# A worker that alone makes the job so much longer, or whose link does, is a straggler.
STRAGGLES_FROM = 1.05
# Of the slowest worker's steps, what the others may be faster by in what is measured of a run under a bound.
_MOST_AHEAD = 0.02
# How many times less learning rate stale gradients bear; half as much: a mean staleness of one update.
_LEAST_THAT_MATTERS = 2 - 1e-9


def cautions_of(result: TrainingResult) -> tuple[Caution, ...]:
    """All that apply, figures first."""
    return (
        *_figures(result),
        *_few_steps(result),
        *_start_up(result),
        *_stale_gradients(result),
        *_scales_on(result),
        *_learning(result),
    )


def _figures(result: TrainingResult) -> list[Caution]:
    """One per device of the job whose figures were not all measured on it."""
    scenario, job = result.scenario, result.scenario.training
    is_nccl = EXCHANGES[scenario.exchange.algorithm].is_nccl and job.num_workers > 1
    found = []
    for hardware in {one.name: one for one in devices(scenario)}.values():
        used = []
        if is_priced(scenario):
            used.append(used_by_step(step_shape(scenario, hardware)))
        if is_nccl or (job.tensor_parallel_size > 1 and is_priced(scenario)):
            used.append(Used(assumed=(nccl_facts(hardware.architecture).assumed,)))
        found.append(figures_caution(hardware, together(used)))
    found.append(model_caution(scenario.model))
    return [caution for caution in found if caution is not None]


def _few_steps(result: TrainingResult) -> list[Caution]:
    updates = result.outcome.update_ps.size
    if updates >= 30 or not draws(result.scenario):
        return []
    return [
        Caution(
            kind="too_few_steps",
            observation=f"{updates} updates",
            meaning="the means depend on which step times were drawn",
            remedy="raise training.num_steps",
        )
    ]


def _start_up(result: TrainingResult) -> list[Caution]:
    """A staleness bound that did not act, or hardly: rates are those of workers that run ahead freely."""
    scenario, outcome = result.scenario, result.outcome
    scheme, job = SYNC[scenario.sync.scheme], scenario.training
    bound = scheme.staleness_bound(scenario.sync)
    is_bounded = scheme.is_asynchronous and not scheme.waits_for_update and bound < UNBOUNDED
    if not is_bounded or job.num_workers == 1 or outcome.gradients is None:
        return []
    if outcome.steady is not None:
        return _start_up_left(result, outcome.steady)
    completed = np.bincount(outcome.gradients.worker, minlength=job.num_workers)
    lead = max(1, int(completed.max() - completed.min()))
    if lead <= bound and max(outcome.slowdown_by_worker) < STRAGGLES_FROM:
        return []  # nobody stays slow: the bound is there for what a run of this length hardly meets
    held = "held workers back only near the end of" if lead > bound else "held nobody back in"
    needed = 2 * ceil(job.num_steps * max(1.0, (bound + 1) / lead))
    return [
        Caution(
            kind="bound_not_reached",
            observation=f"the bound of {bound:,} steps {held} {job.num_steps:,} steps a worker",
            meaning="the rates are of a start-up in which workers run ahead; under the bound they go at the "
            "pace of one that stays slow",
            remedy=f"training.num_steps: {needed:,} or more",
        )
    ]


def _start_up_left(result: TrainingResult, steady: Steady) -> list[Caution]:
    """Where one stays slow all go at its pace in the end; in what is measured others may still go faster."""
    steps, num_steps = steady.workers.num_steps, result.scenario.training.num_steps
    rounds = int(steps.min())
    ahead = float(steps.mean()) - rounds
    if max(result.outcome.slowdown_by_worker) < STRAGGLES_FROM or ahead <= _MOST_AHEAD * rounds:
        return []
    needed = num_steps + ceil(ahead / _MOST_AHEAD) - rounds
    return [
        Caution(
            kind="bound_not_reached",
            observation=f"{num_steps:,} steps a worker are few for this bound: in what is measured workers "
            f"still went {ahead / max(rounds, 1):.1%} faster than the slowest",
            meaning="the rates have part of the start-up in them; in the end all go at the slowest's pace",
            remedy=f"training.num_steps: {-(-needed // 100) * 100:,} or more",
        )
    ]


def _stale_gradients(result: TrainingResult) -> list[Caution]:
    """Rates that count gradients as if they were fresh, where a loss is not simulated beside them."""
    gradients = result.outcome.gradients
    if gradients is None or not gradients.update.size or result.scenario.learning is not None:
        return []
    mean, largest = float(gradients.staleness.mean()), int(gradients.staleness.max())
    times_less = largest_stable_rate(0) / largest_stable_rate(mean)
    if times_less < _LEAST_THAT_MATTERS:
        return []
    return [
        Caution(
            kind="stale_gradients",
            observation=f"gradients are {mean:.3g} updates old when used, at most {largest:,}",
            meaning="tokens and gradients a second count them like fresh ones, but a step may be worth less: "
            f"on a quadratic SGD bears a learning rate {times_less:.2g} times smaller than of fresh ones",
            is_ranged=True,
            remedy="add learning: with a target_loss, and in each variant the learning_rate that its scheme "
            "bears (that of BSP, which averages gradients, is larger: see training/staleness_and_loss), and "
            "compare time_to_target_s",
        )
    ]


def _scales_on(result: TrainingResult) -> list[Caution]:
    """A job that is efficient with as many workers as any that was tried: with how many more is not known."""
    scaling = result.scenario.scaling
    runs = [one.num_workers for one in result.scaling if not one.refused]
    if scaling is None or not runs or efficient_workers(result.scaling, scaling.min_efficiency) != runs[-1]:
        return []
    return [
        Caution(
            kind="scales_on",
            observation=f"still efficient with {runs[-1]:,} workers, the most that were tried",
            meaning="efficient_workers and its ratio to others are at least what is said",
            remedy="add larger numbers to scaling.num_workers",
        )
    ]


def _learning(result: TrainingResult) -> list[Caution]:
    """A loss that did not fall, a target that was not reached."""
    learning, found = result.scenario.learning, result.learning
    if learning is None or found is None:
        return []
    if not found.curve.has_learnt:
        return [
            Caution(
                kind="loss_not_falling",
                observation=f"the loss of {learning.problem} ended at or above its start",
                meaning="under this schedule the learning rate is too high: the weights diverge",
                remedy="lower learning.learning_rate, or set staleness_aware where gradients are stale",
            )
        ]
    if learning.target_loss is None or found.time_to_target_s is not None:
        return []
    more = "learning.max_gradients" if found.is_cut else "training.num_steps"
    return [
        Caution(
            kind="target_not_reached",
            observation=f"learning.target_loss {learning.target_loss:g} was not reached",
            meaning="there is no time to target to compare",
            remedy=f"raise {more} or learning.target_loss, or change the learning rate",
        )
    ]
