"""``board.yaml``: what the groups of a folder of cases must reach, and what others reach on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from sim.loading.build import build
from sim.loading.place import Place
from sim.loading.strict_yaml import load_yaml
from sim.scenario import key
from sim.suggest import did_you_mean
from sim.trust.cases import BOARD_FILE


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
                f"no case is of this group{did_you_mean(name, names)}", given=name, allowed=", ".join(names)
            )


def with_flags(bounds: GroupBounds, flags: GroupBounds) -> GroupBounds:
    """``flags`` (from the command line) over ``bounds``, where they say something."""
    said = {one.name: getattr(flags, one.name) for one in fields(GroupBounds)}
    kept = {one.name: getattr(bounds, one.name) for one in fields(GroupBounds)}
    return GroupBounds(**(kept | {name: value for name, value in said.items() if value not in (None, "")}))
