"""The board of measured cases: what a group must reach, and what it reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim.errors import did_you_mean, some_of
from sim.scenario.build import build
from sim.scenario.dataclass import dataclass
from sim.scenario.fields import key
from sim.scenario.place import Place
from sim.scenario.strict_yaml import load_yaml
from sim.trust.cases import BOARD_FILE, Scored


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBounds:
    """What a group must reach; errors are absolute relative errors. A miss makes exit code 1."""

    about: str = key("what the group is, and what is known about its misses", default="")
    max_median_error: float | None = key("the median error at most", default=None, gt=0)
    max_p90_error: float | None = key("its 90th percentile at most", default=None, gt=0)
    max_error: float | None = key("every single error at most", default=None, gt=0)
    max_bias: float | None = key("the mean signed error, either way, at most", default=None, gt=0)
    min_rank_correlation: float | None = key("Spearman's at least", default=None, ge=-1, le=1)
    rivals: Mapping[str, float] | None = key("median error that others publish for such runs", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardFile:
    """The file beside the cases. Groups that it does not name have no bounds."""

    title: str = key("heading of the board", default="Measured against real systems")
    groups: Mapping[str, GroupBounds] = key("by name", default=None)


def load_board(folder: Path) -> BoardFile:
    """The folder's ``board.yaml``, or a board without bounds."""
    path = folder / BOARD_FILE
    return read_board(path) if path.exists() else BoardFile(groups={})


def read_board(path: Path) -> BoardFile:
    """The board that one file holds."""
    board = build(BoardFile, load_yaml(path), file=str(path))
    return board if board.groups is not None else BoardFile(title=board.title, groups={})


def check_groups(board: BoardFile, known: Iterable[str], folder: Path) -> None:
    """Raise ScenarioError for a group that no case belongs to: a bound that nothing can miss."""
    names = sorted(set(known))
    for name in board.groups:
        if name not in names:
            place = Place(file=str(folder / BOARD_FILE), path="groups").child(name)
            raise place.error(
                f"no case is of this group{did_you_mean(name, names)}",
                given=name,
                allowed=some_of(name, names, "board.yaml has all"),
            )


def with_flags(bounds: GroupBounds, flags: GroupBounds) -> GroupBounds:
    """``flags`` (from the command line) over ``bounds``, where they say something."""
    said = {one.name: getattr(flags, one.name) for one in fields(GroupBounds)}
    kept = {one.name: getattr(bounds, one.name) for one in fields(GroupBounds)}
    return GroupBounds(**(kept | {name: value for name, value in said.items() if value not in (None, "")}))


LEAST_FOR_RANKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A folder of cases, run and scored."""

    title: str
    command: str
    rows: Sequence[Scored]
    cases: Sequence[Score]
    groups: Sequence[Score]
    bounds: Mapping[str, GroupBounds]

    @property
    def is_missed(self) -> bool:
        """Whether any group misses a bound."""
        return any(group.misses for group in self.groups)

    @property
    def answer(self) -> str:
        """One line: what holds, and over how many values."""
        missed = sum(bool(group.misses) for group in self.groups)
        unseen = sum(not row.measured.seen_by_fit for row in self.rows)
        held = f"{missed} of {len(self.groups)} groups miss a bound" if missed else "no group misses a bound"
        return f"{held}; {len(self.rows)} measured values, {unseen} of them not seen by a fit"


def make_board(
    file: BoardFile, rows: Sequence[Scored], command: str, flags: GroupBounds | None = None
) -> Board:
    """The board of scored cases, with the bounds of ``file`` and ``flags`` over them for every group."""
    names = {row.measured.group for row in rows}
    bounds = {
        name: with_flags(file.groups.get(name, GroupBounds()), flags or GroupBounds()) for name in names
    }
    return Board(
        title=file.title,
        command=command,
        rows=rows,
        cases=score_cases(rows),
        groups=score_groups(rows, bounds),
        bounds=bounds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Errors of several values. Errors are None where no value has a prediction."""

    name: str
    seen_by_fit: bool
    values: int
    without_prediction: int
    outside_band: int
    median_error: float | None  # of the absolute relative error
    p90_error: float | None
    max_error: float | None
    bias: float | None  # mean of the signed relative error
    rank_correlation: float | None  # Spearman's; None below three values, or where all are equal
    tolerance: float | None  # median relative uncertainty of the measurements, where known
    rivals: Mapping[str, float]  # median error of others
    misses: tuple[str, ...]


def score_groups(rows: Sequence[Scored], bounds: Mapping[str, GroupBounds]) -> list[Score]:
    """By group; values that a fit has seen stand apart from those it has not. What misses comes first."""
    groups: dict[tuple[str, bool], list[Scored]] = {}
    for row in rows:
        groups.setdefault((row.measured.group, row.measured.seen_by_fit), []).append(row)
    scores = [
        score(name, members, bounds.get(name, GroupBounds())) for (name, _), members in sorted(groups.items())
    ]
    return sorted(scores, key=lambda one: not one.misses)


def score_cases(rows: Sequence[Scored]) -> list[Score]:
    """By case file and metric, without bounds, in the order given."""
    cases: dict[tuple[str, str, bool], list[Scored]] = {}
    for row in rows:
        cases.setdefault((row.case, row.measured.metric, row.measured.seen_by_fit), []).append(row)
    return [score(f"{case} {metric}", members) for (case, metric, _), members in cases.items()]


def score(name: str, rows: Sequence[Scored], bounds: GroupBounds | None = None) -> Score:
    """The errors of ``rows``, all of them seen by a fit or none, held against ``bounds``."""
    known = [row for row in rows if row.error is not None]
    errors = np.array([row.error for row in known], dtype=float)
    sizes = np.abs(errors)
    tolerances = [row.measured.tolerance for row in rows if row.measured.tolerance is not None]
    found = {
        "median_error": float(np.median(sizes)) if known else None,
        "p90_error": float(np.percentile(sizes, 90)) if known else None,
        "max_error": float(sizes.max()) if known else None,
        "bias": float(errors.mean()) if known else None,
        "rank_correlation": rank_correlation(
            [row.measured.value for row in known], [row.predicted or 0.0 for row in known]
        ),
    }
    without, outside = len(rows) - len(known), sum(row.is_outside_band for row in known)
    misses = [*_misses(found, bounds or GroupBounds())]
    if without:
        misses.append(f"{without} without a prediction")
    if outside:
        misses.append(f"{outside} outside the accepted band")
    return Score(
        name=name,
        seen_by_fit=rows[0].measured.seen_by_fit,
        values=len(rows),
        without_prediction=without,
        outside_band=outside,
        tolerance=float(np.median(tolerances)) if tolerances else None,
        rivals=_rivals(rows) | dict((bounds.rivals if bounds else None) or {}),
        misses=tuple(misses),
        **found,
    )


def _misses(found: Mapping[str, float | None], bounds: GroupBounds) -> list[str]:
    """The bounds that are broken, in words; a value that does not exist breaks its bound."""
    misses = []
    for name in ("median_error", "p90_error", "max_error"):
        limit = getattr(bounds, f"max_{name.removeprefix('max_')}")
        value = found[name]
        if limit is not None and (value is None or value > limit):
            misses.append(f"{name} {_percent(value)}, at most {_percent(limit)}")
    bias, limit = found["bias"], bounds.max_bias
    if limit is not None and (bias is None or abs(bias) > limit):
        misses.append(f"bias {_percent(bias)}, at most {_percent(limit)} either way")
    rank, least = found["rank_correlation"], bounds.min_rank_correlation
    if least is not None and (rank is None or rank < least):
        misses.append(f"rank correlation {'none' if rank is None else f'{rank:.2f}'}, at least {least:.2f}")
    return misses


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def _rivals(rows: Sequence[Scored]) -> dict[str, float]:
    """Each rival's median error over the values that name it."""
    named: dict[str, list[float]] = {}
    for row in rows:
        for rival, error in (row.measured.rivals or {}).items():
            named.setdefault(rival, []).append(abs(error))
    return {rival: float(np.median(errors)) for rival, errors in named.items()}


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's, ties at their mean rank; None where it says nothing."""
    if len(first) < LEAST_FOR_RANKS:
        return None
    ranks = [_ranks(np.asarray(values, dtype=float)) for values in (first, second)]
    if not all(rank.std() for rank in ranks):
        return None
    a, b = (rank - rank.mean() for rank in ranks)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return np.asarray(below + 0.5 * equal)
