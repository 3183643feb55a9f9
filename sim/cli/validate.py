"""``gpuyard validate``: a folder of measured cases, run and scored."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli.exits import FINE, THRESHOLD_MISSED

if TYPE_CHECKING:
    from sim.trust.board import Board, GroupBounds

BOUNDS = {
    "max_median_error": "every group's median absolute error at most",
    "max_p90_error": "its 90th percentile at most",
    "min_rank_correlation": "Spearman's at least",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, and what it must reach."""
    parser.add_argument("folder", metavar="DIR", help="scenarios with a measured list, and a board.yaml")
    for name, meaning in BOUNDS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=float, metavar="FRACTION", help=f"exit 1 unless {meaning}"
        )
    parser.add_argument("--only", action="append", default=[], metavar="GROUP", help="this group; repeat")
    parser.add_argument("--values", action="store_true", help="print every value, not only the worst")
    parser.add_argument("--groups", action="store_true", help="print the groups only")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="local processes")
    parser.add_argument(
        "--out", metavar="DIR", help="where board.html, .json and .csv go; default: out/board"
    )
    parser.add_argument("--no-report", action="store_true", help="write no files")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> int:
    """Run every case, print errors by case and by group, write the board."""
    from sim.trust.board_report import board_json, render_board

    board = _board(arguments)
    print(
        board_json(board)
        if arguments.json
        else render_board(board, all_values=arguments.values, only_groups=arguments.groups)
    )
    if not arguments.no_report:
        _write(board, Path(arguments.out or "out/board"))
    return THRESHOLD_MISSED if board.is_missed else FINE


def _board(arguments: argparse.Namespace) -> Board:
    from sim.cli.progress import Progress
    from sim.kinds.executors import in_flight_for, open_executor
    from sim.trust.board import check_groups, load_board, make_board
    from sim.trust.cases import load_folder, run_cases

    folder = Path(arguments.folder)
    cases = load_folder(folder)
    file = load_board(folder)
    groups = {case.measured.group for case in cases}
    check_groups(file, groups, folder)
    cases = [case for case in cases if case.measured.group in _asked(arguments.only, groups)]
    with (
        open_executor(arguments.jobs) as executor,
        Progress("validate", is_quiet=arguments.quiet) as progress,
    ):
        rows = run_cases(cases, executor, in_flight=in_flight_for(arguments.jobs), progress=progress)
    return make_board(file, rows, _command(arguments), _flags(arguments))


def _asked(only: list[str], groups: set[str]) -> set[str]:
    from sim.errors import ScenarioError, did_you_mean

    for name in only:
        if name not in groups:
            raise ScenarioError(
                f"no case is of this group{did_you_mean(name, groups)}",
                file="--only",
                given=name,
                allowed=", ".join(sorted(groups)),
            )
    return set(only) or groups


def _flags(arguments: argparse.Namespace) -> GroupBounds:
    from sim.trust.board import GroupBounds

    return GroupBounds(**{name: getattr(arguments, name) for name in BOUNDS})


def _command(arguments: argparse.Namespace) -> str:
    """The command that reproduces the board, without options that only say where and how fast to run."""
    words = ["gpuyard", "validate", arguments.folder]
    words += [word for name in arguments.only for word in ("--only", name)]
    for name in BOUNDS:
        if getattr(arguments, name) is not None:
            words += [f"--{name.replace('_', '-')}", f"{getattr(arguments, name):g}"]
    return shlex.join(words)


def _write(board: Board, out: Path) -> None:
    from sim.export.files import write_table, write_whole
    from sim.trust.board_report import board_json, render_board_page, value_rows

    out.mkdir(parents=True, exist_ok=True)
    write_table(value_rows(board.rows), out / "board.csv")
    write_whole(out / "board.json", board_json(board))
    write_whole(out / "board.html", render_board_page(board))
    print(f"\nwritten: {out / 'board.html'}, board.csv, board.json", file=sys.stderr)
