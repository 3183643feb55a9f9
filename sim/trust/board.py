"""Cases with measured values, run and scored: errors by case, by group, and what a fit has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.errors import ScenarioError
from sim.scenario import key


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measured value of a case, beside the scenario in its ``measured`` list."""

    metric: str = key("a metric of the summary, e.g. mean_tpot_s")
    value: float = key("what was measured, in the metric's base unit", gt=0)
    source: str = key("where the figure stands")
    group: str = key("rows that are scored together", default="all")
    tolerance: float | None = key("relative uncertainty of the measurement, where known", default=None, gt=0)
    seen_by_fit: bool = key("a constant was fitted on it: calibrated, not validated", default=False)
    rival_error: float | None = key("a rival's relative error on this value", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A measured value beside the predicted one (the mean over seeds)."""

    case: str
    measured: Measured
    predicted: float

    @property
    def error(self) -> float:
        """Signed relative error."""
        return self.predicted / self.measured.value - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScore:
    """Errors of a group; rank correlation is Spearman's, None below three values."""

    group: str
    seen_by_fit: bool
    values: int
    median_error: float
    p90_error: float
    bias: float
    rank_correlation: float | None


def run_case(path: Path) -> list[Scored]:
    """The scenario of one file run with all of its seeds, each measured value scored."""
    from sim.loading import build, load_scenario, load_yaml
    from sim.run import run_scenario

    given = load_yaml(path).get("measured")
    if not isinstance(given, list) or not given:
        raise ScenarioError("not a case: it measures nothing", file=str(path), path="measured")
    rows = [
        build(Measured, one, file=str(path), path=f"measured[{index}]") for index, one in enumerate(given)
    ]
    answer = run_scenario(load_scenario(path))
    summaries = answer.summaries[answer.file.reference]
    scored = []
    for row in rows:
        values = [summary.metrics.get(row.metric) for summary in summaries]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            raise ScenarioError("no such value in the run", file=str(path), path="metric", given=row.metric)
        scored.append(Scored(case=path.stem, measured=row, predicted=float(np.mean(known))))
    return scored


def score_groups(rows: Sequence[Scored]) -> list[GroupScore]:
    """By group; values that a fit has seen stand apart from those it has not."""
    keys = sorted({(row.measured.group, row.measured.seen_by_fit) for row in rows})
    return [
        _score(group, seen, [r for r in rows if (r.measured.group, r.measured.seen_by_fit) == (group, seen)])
        for group, seen in keys
    ]


def _score(group: str, seen: bool, rows: Sequence[Scored]) -> GroupScore:
    errors = np.array([row.error for row in rows])
    return GroupScore(
        group=group,
        seen_by_fit=seen,
        values=len(rows),
        median_error=float(np.median(np.abs(errors))),
        p90_error=float(np.percentile(np.abs(errors), 90)),
        bias=float(errors.mean()),
        rank_correlation=_rank_correlation(
            [row.measured.value for row in rows], [row.predicted for row in rows]
        ),
    )


def _rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's, ties at their mean rank."""
    ranks = [
        np.array([sum(y < x for y in values) + 0.5 * sum(y == x for y in values) for x in values])
        for values in (first, second)
    ]
    if len(first) < 3 or not all(rank.std() for rank in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
