"""What must hold of a scenario's ``learning``; each breach is a ScenarioError."""

from __future__ import annotations

from sim.loading.place import Place
from sim.training.learning_run import LearningConfig, problem_of
from sim.training.scenario import TrainingScenario
from sim.training.sync import SYNC, schemes_where

MAX_EXAMPLES = 100_000_000


def check_learning(scenario: TrainingScenario, place: Place) -> None:
    """Refuses a target that is met before the first step, a rate that changes nothing, endless runs."""
    learning = scenario.learning
    if learning is None:
        return
    _check_target(learning, place.child("target_loss"))
    _check_num_examples(learning, place.child("max_gradients"))
    if learning.staleness_aware and not SYNC[scenario.sync.scheme].is_asynchronous:
        raise place.child("staleness_aware").error(
            f"has no effect with scheme: {scenario.sync.scheme}, where no gradient is stale",
            given=True,
            allowed=f"staleness_aware with one of {schemes_where(lambda one: one.is_asynchronous)}",
            hint="set it in the variants that are asynchronous",
        )


def _check_target(learning: LearningConfig, place: Place) -> None:
    problem = problem_of(learning)
    start = problem.loss(problem.start())
    if learning.target_loss is not None and learning.target_loss >= start:
        raise place.error(
            f"{learning.problem} starts at a loss of {start:.4g}: the target is met before the first update",
            given=learning.target_loss,
            allowed=f"above 0, below {start:.4g}",
            hint=f"target_loss: {0.75 * start:.2g}",
        )


def _check_num_examples(learning: LearningConfig, place: Place) -> None:
    examples = learning.max_gradients * learning.batch_size
    if problem_of(learning).batch_size and examples > MAX_EXAMPLES:
        raise place.error(
            f"{learning.max_gradients:,} gradients of {learning.batch_size:,} examples are {examples:,}",
            given=learning.max_gradients,
            allowed=f"at most {MAX_EXAMPLES:,} examples a run",
            hint=f"max_gradients: {MAX_EXAMPLES // learning.batch_size}",
        )
