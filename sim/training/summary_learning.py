"""What real SGD made of a run's schedule: its metrics, why one is missing, and its warnings."""

from __future__ import annotations

from sim.cautions import Caution
from sim.training.learning_run import LearningResult, learn_run
from sim.training.records import TrainingResult
from sim.training.sync import SYNC

Numbers = dict[str, float | None]

NOT_ABOUT_LARGE_MODELS = (
    "The problem is small and its data generated: this shows what staleness and batch size do to SGD in "
    "principle. It does not say how many updates the scenario's own model needs: a large model's curvature, "
    "gradient noise, optimizer (Adam, warm-up, clipping) and tolerance of staleness are different."
)


def learnt(result: TrainingResult) -> LearningResult | None:
    """The scenario's problem, trained in this run's order and with its staleness; None if not asked for."""
    scenario = result.scenario
    if scenario.learning is None:
        return None
    local_steps = SYNC[scenario.sync.scheme].local_steps(scenario.sync)
    return learn_run(
        scenario.learning,
        result.schedule(),
        result.seed,
        local_steps=local_steps,
        num_steps=scenario.training.num_steps,
    )


def learning_metrics(result: TrainingResult) -> Numbers:
    """Final loss; updates, gradients and seconds to the target where it was reached."""
    found = result.learning
    if found is None:
        return {}
    updates, seconds = found.updates_to_target, found.time_to_target_s
    gradients = found.gradients_to_target
    return {
        "final_loss": float(found.curve.losses[-1]),
        "updates_to_target": None if updates is None else float(updates),
        "gradients_to_target": None if gradients is None else float(gradients),
        "updates_per_s_to_target": updates / seconds if updates and seconds else None,
        "time_to_target_s": seconds,
    }


def missing_learning(result: TrainingResult, name: str) -> str | None:
    """Why a metric of learning has no number; None for another metric."""
    if name not in LEARNING_METRICS:
        return None
    learning = result.scenario.learning
    if learning is None:
        return "the scenario has no learning"
    if learning.target_loss is None:
        return "the scenario has no learning.target_loss"
    return f"the run did not reach learning.target_loss {learning.target_loss:g}"


LEARNING_METRICS = (
    "final_loss",
    "updates_to_target",
    "gradients_to_target",
    "updates_per_s_to_target",
    "time_to_target_s",
)


def learning_cautions(result: TrainingResult) -> list[Caution]:
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
