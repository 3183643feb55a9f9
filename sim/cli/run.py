"""``gpuyard run``: answer a scenario's question."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli.exits import FINE, THRESHOLD_MISSED
from sim.cli.exports import (
    EXPORTS,
    RECORD_FORMATS,
    attribute,
    default_records,
    record_format,
    written_patterns,
)
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.results.answer import AnyAnswer
    from sim.scenario.file import AnyScenario, ScenarioFile


@contextmanager
def results_folder(out: Path) -> Iterator[Path]:
    """A temporary folder for the results; its files move to ``out`` once all of them are written.

    It is made before the run, so that a place that cannot be written is noticed before the work is done.
    """
    if out.exists() and not out.is_dir():
        raise ScenarioError("results need a folder, this is a file", file="--out", given=str(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-unfinished-"))
    except (OSError, ValueError) as error:
        raise ScenarioError(
            f"cannot be written: {getattr(error, 'strerror', None) or error}",
            file="--out",
            given=str(out),
            allowed="a folder, there or to be made, that you may write",
            hint="--out out/results",
        ) from None
    try:
        yield partial
        out.mkdir(exist_ok=True)
        _replace(out, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(out: Path, partial: Path) -> None:
    """Move the new files in, then remove those that only the earlier run had.

    A folder never mixes two runs, and nothing in it but what runs write is touched.
    """
    new = sorted(partial.iterdir())
    for path in new:
        path.replace(out / path.name)
    others = {path.name for path in out.iterdir()} - {path.name for path in new}
    if not others:
        return
    for pattern in written_patterns():
        for old in out.glob(pattern):
            if old.name in others:
                old.unlink()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The scenario, what to change in it, and what to write where."""
    parser.add_argument("scenario", metavar="SCENARIO", help="a file, or the name of a shipped scenario")
    what = parser.add_argument_group("what-ifs")
    what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override any field")
    what.add_argument("--trace", metavar="PATH", help="a recorded trace in place of the scenario's")
    what.add_argument("--seeds", metavar="1,2,3", help="in place of the scenario's")
    where = parser.add_argument_group("results")
    where.add_argument("--out", metavar="DIR", help="default: out/<scenario>")
    where.add_argument("--json", metavar="PATH", help="also write the summary there; - is standard output")
    where.add_argument("--csv", metavar="PATH", help="also write a row per variant and seed")
    for ending, records in RECORD_FORMATS.items():
        if ending != default_records():
            where.add_argument(f"--{ending}", action="store_true", help=records.help)
    for flag, export in EXPORTS.items():
        where.add_argument(f"--{flag}", action="store_true", help=export.help)
    where.add_argument("--no-report", action="store_true", help="only summary.json, no report and no records")
    how = parser.add_argument_group("how")
    how.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="local processes")
    how.add_argument("--quiet", action="store_true", help="print nothing but errors and what --json asks for")
    how.add_argument(
        "--keep-thin-percentiles",
        action="store_true",
        help="print a percentile even with fewer than ten samples beyond it, with a warning",
    )


def run(arguments: argparse.Namespace) -> int:
    """Load, run, print, write; 1 where a threshold is missed."""
    from sim.cli.results import print_views, write_results
    from sim.kinds.load import load_scenario
    from sim.results.comparison import check_thresholds

    _check_arguments(arguments)
    file = load_scenario(arguments.scenario, overrides=_overrides(arguments), trace=arguments.trace)
    _check_exports(arguments, file.base.kind)
    out = Path(arguments.out or Path("out") / Path(file.path).stem)
    with results_folder(out) as folder:
        answer = _answer(file, arguments)
        write_results(answer, folder, arguments)
    print_views(answer, arguments)
    if not arguments.quiet:
        print(
            f"\nwritten: {out / ('summary.json' if arguments.no_report else 'report.html')}", file=sys.stderr
        )
    outcomes = check_thresholds(answer.comparison, file.base.thresholds)
    return FINE if all(outcome.is_met for outcome in outcomes) else THRESHOLD_MISSED


def _answer(file: ScenarioFile[AnyScenario], arguments: argparse.Namespace) -> AnyAnswer:
    from sim.cli.progress import Progress
    from sim.kinds.run import run_scenario

    with Progress("run", is_quiet=arguments.quiet) as progress:
        return run_scenario(
            file,
            jobs=arguments.jobs,
            progress=progress,
            keep_thin_percentiles=arguments.keep_thin_percentiles,
            record_block_map=not arguments.no_report,
        )


def _overrides(arguments: argparse.Namespace) -> list[str]:
    seeds = [f"seeds=[{arguments.seeds}]"] if arguments.seeds else []
    return [*arguments.set, *seeds]


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse before the run what would fail after it."""
    check = record_format(arguments).check
    if check is not None:
        check()
    if arguments.csv:
        from sim.export.files import check_table_path

        check_table_path(arguments.csv, "--csv")
    for flag, path in (("--csv", arguments.csv), ("--json", arguments.json)):
        if path and path != "-" and not Path(path).parent.is_dir():
            raise ScenarioError("there is no such folder to write into", path=flag, given=path)


def _check_exports(arguments: argparse.Namespace, kind: str) -> None:
    for flag, export in EXPORTS.items():
        if getattr(arguments, attribute(flag)) and export.kind not in ("", kind):
            raise ScenarioError(
                f"a run of kind {kind} has no such view", path=f"--{flag}", allowed=f"kind: {export.kind}"
            )
