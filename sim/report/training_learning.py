"""What a schedule does to convergence: hardware efficiency, statistical efficiency, their product, apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sim.report.blocks import Block, Prose, Section, text_table
from sim.report.figures import digits, lanes, seconds
from sim.report.training_learning_figures import Runs, efficiency_picture, loss_pictures
from sim.training.learning_problems import largest_stable_rate
from sim.training.learning_run import MAX_POINTS, problem_of
from sim.training.summary_learning import NOT_ABOUT_LARGE_MODELS
from sim.training.sync import SYNC

if TYPE_CHECKING:
    from sim.answer import Answer
    from sim.comparison import Cell, Comparison
    from sim.training.learning_run import LearningConfig
    from sim.training.records import TrainingResult
    from sim.training.scenario import TrainingScenario

HEADER = (
    "variant",
    "learning rate",
    "mean staleness",
    "updates a second",
    "updates to target",
    "time to target",
    "gradients to target",
    "final loss",
)


def learning_section(answer: Answer[TrainingScenario, TrainingResult]) -> Section | None:
    """The efficiencies as a table and a picture, the loss curves; None where no run learns."""
    results = answer.results
    runs: Runs = {name: found for name, found in results.items() if found[0].learning is not None}
    if not runs:
        return None
    shown = [lane for lane in lanes(answer.comparison.variants) if lane.name in runs]
    pictures = [*loss_pictures(runs, shown), efficiency_picture(runs, shown)]
    rows = [
        _row(answer.comparison, name, learning)
        for name, found in runs.items()
        if (learning := found[0].scenario.learning) is not None
    ]
    return Section(
        title="What the schedule does to convergence",
        blocks=(
            Prose(text=_what(runs)),
            text_table(HEADER, rows),
            *_stability(answer.comparison, runs),
            Prose(text=NOT_ABOUT_LARGE_MODELS),
        ),
        pictures=[one for one in pictures if one is not None],
    )


def _what(runs: Runs) -> str:
    learnings = [found[0].scenario.learning for found in runs.values()]
    problems = {_problem(one) for one in learnings if one is not None}
    targets = {one.target_loss for one in learnings if one is not None and one.target_loss is not None}
    is_local = any(SYNC[found[0].scenario.sync.scheme].averages_weights for found in runs.values())
    local = " Local SGD: a worker's step is an update, and the loss is looked at after each average."
    goal = f" to a loss of {' or '.join(f'{one:g}' for one in sorted(targets))}" if targets else ""
    return (
        f"Real SGD{goal}, every gradient computed on the weights that its worker had read, applied when the "
        f"simulated update came: {'; '.join(sorted(problems))}. The k-th mini-batch of a worker is the same "
        "in every variant. Updates to target / updates a second until then = time to target: what the "
        f"hardware does and what the statistics ask for stay apart. The loss is looked at {MAX_POINTS} times "
        f"a run, and update by update where it has just passed the target.{local if is_local else ''} "
        "Means over the seeds."
    )


def _problem(learning: LearningConfig) -> str:
    problem = problem_of(learning)
    start = digits(problem.loss(problem.start()))
    return f"{learning.problem} from a loss of {start}, {learning.batch_size} examples a gradient"


def _row(comparison: Comparison, name: str, learning: LearningConfig) -> tuple[str, ...]:
    cells = comparison.cells[name]
    updates, time_s = cells["updates_to_target"].mean, cells["time_to_target_s"].mean
    missing = _missing(cells["time_to_target_s"], learning)
    aware = " / staleness" if learning.staleness_aware else ""
    return (
        name,
        f"{learning.learning_rate:g}{aware}",
        _number(cells, "staleness_steps"),
        # The ratio of the means, so that the three columns multiply.
        digits(updates / time_s) if updates and time_s else _number(cells, "updates_per_s"),
        digits(updates, 4) if updates else missing,
        seconds(time_s) if time_s else missing,
        _number(cells, "gradients_to_target") if time_s else missing,
        _number(cells, "final_loss"),
    )


def _stability(comparison: Comparison, runs: Runs) -> list[Block]:
    """For the quadratic: each variant's rate against the exact bound of a fixed delay."""
    rows = []
    for name, found in runs.items():
        learning, staleness = found[0].scenario.learning, comparison.cells[name]["staleness_steps"].mean
        steepest = None if learning is None else problem_of(learning).largest_curvature
        if learning is None or staleness is None or steepest is None:
            continue
        delay = round(staleness)
        bound = digits(largest_stable_rate(delay))
        rows.append((name, digits(learning.learning_rate * steepest), str(delay), bound))
    if not rows:
        return []
    told = (
        "Of the quadratic it is known exactly: with every gradient τ updates late it converges for "
        "η·h < 2·sin(π / (2(2τ + 1))), h its largest curvature. Beside it the rate given; τ is the mean "
        "staleness, rounded. Staleness that varies has no such bound; a staleness-aware rate divides η."
    )
    return [Prose(text=told), text_table(("variant", "η·h", "τ", "bound of η·h"), rows)]


def _number(cells: Mapping[str, Cell], name: str) -> str:
    mean = cells[name].mean
    return "–" if mean is None else digits(mean)


def _missing(cell: Cell, learning: LearningConfig) -> str:
    if learning.target_loss is None:
        return "no target"
    reached: Sequence[float] = [value for value in cell.values if value is not None]
    return f"reached by {len(reached)} of {len(cell.values)} seeds"
