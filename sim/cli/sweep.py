"""``gpuyard sweep SCENARIO --over KEY=VALUES``: a grid of what-ifs."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli.exits import FINE
from sim.errors import ScenarioError, told_together

if TYPE_CHECKING:
    from sim.plan.evaluate import Point, Row
    from sim.plan.sweep import Sweep

FEW_SEEDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The scenario, the axes, and where to run."""
    parser.add_argument("scenario", metavar="SCENARIO", help="a file, or the name of a shipped scenario")
    parser.add_argument(
        "--over", action="append", default=[], required=True, metavar="KEY=VALUES",
        help="an axis: replicas=1:8 (both ends included), a:b:step, or a,b,c; repeat for a grid",
    )  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override any field")
    parser.add_argument(
        "--trace", metavar="PATH", help="a recorded trace in place of the scenario's workload"
    )
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help="a column of the table")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="local processes")
    parser.add_argument(
        "--executor",
        default="local",
        metavar="WHERE",
        help="local, dask://HOST:PORT, or another line of EXECUTORS",
    )
    parser.add_argument("--out", metavar="DIR", help="default: out/<scenario>-sweep; a sweep resumes there")
    parser.add_argument("--quiet", action="store_true", help="print only the answer")


def run(arguments: argparse.Namespace) -> int:
    """Check every point, run what is missing, print the table and write it."""
    from sim.plan.answer import judged_metrics
    from sim.plan.sweep import Sweep, check_metrics, settings_of, sweep_points
    from sim.scenario.file import asked, changes_of
    from sim.scenario.renamed import metric_name
    from sim.scenario.shipped import find_scenario

    path = find_scenario(arguments.scenario)
    what = {"overrides": arguments.set, "trace": arguments.trace}
    try:
        points = sweep_points(str(path), arguments.over, **what)
        settings = settings_of(str(path), arguments.over, **what)
    except ScenarioError as error:
        raise _blame_grid(error, arguments) from None
    metrics = check_metrics(arguments.metric, points[0].scenario.kind)
    for caution in [caution for name in arguments.metric for caution in metric_name(name)[1]]:
        print(f"warning: {caution}", file=sys.stderr)
    out = Path(arguments.out or f"out/{path.stem}-sweep")
    out.mkdir(parents=True, exist_ok=True)
    rows = _rows(points, arguments, out)
    refuse_if_none_ran(points, rows)
    sweep = Sweep(
        question=asked(points[0].scenario.question, changes_of(arguments.set, arguments.trace)),
        command=_command(arguments),
        keys=tuple(points[0].swept),
        points=tuple(points),
        rows=tuple(rows),
        settings=settings,
    )
    if not arguments.metric:  # first what the SLO speaks of, and by which percentile it was judged
        metrics = tuple(dict.fromkeys((*judged_metrics(sweep), *metrics)))
    _write(sweep, metrics, out)
    _print(sweep, metrics, arguments, out)
    return FINE


def _rows(points: Sequence[Point], arguments: argparse.Namespace, out: Path) -> list[Row]:
    """A row per point; what an earlier call finished is taken from the folder."""
    from sim.cli.progress import Progress
    from sim.kinds.executors import in_flight_for, open_executor
    from sim.kinds.registry import kind_of
    from sim.plan.sweep import run_points

    scenarios = [point.scenario for point in points]
    are_short = all(len(one.seeds) <= FEW_SEEDS and kind_of(one).is_short(one) for one in scenarios)
    num_short = len(points) if are_short else 0
    try:
        with (
            open_executor(arguments.jobs, arguments.executor, num_short=num_short) as executor,
            Progress("sweep", is_quiet=arguments.quiet) as progress,
        ):
            return run_points(
                points,
                executor,
                in_flight=in_flight_for(arguments.jobs),
                ledger=out / "points.jsonl",
                progress=progress,
            )
    except KeyboardInterrupt:
        print(f"the points that are done stay in {out}: the same command goes on from there", file=sys.stderr)
        raise


def refuse_if_none_ran(points: Sequence[Point], rows: Sequence[Row]) -> None:
    """Raises the reasons where not one point gave numbers: there is no answer, and nothing to write."""
    from sim.scenario.file import CANNOT_RUN

    if any(row["verdict"] != CANNOT_RUN for row in rows):
        return
    reasons = {str(row["cannot_run"]): str(row["remedy"]) for row in rows}
    raise told_together(
        [
            ScenarioError("no point of the grid can run", path="--over"),
            *(ScenarioError(reason, hint=remedy) for reason, remedy in reasons.items()),
        ]
    )


def _blame_grid(error: ScenarioError, arguments: argparse.Namespace) -> ScenarioError:
    """A value of the grid is applied like ``--set``; the user wrote it behind ``--over``."""
    keys = [over.partition("=")[0].strip() for over in arguments.over]
    if error.file == "--set" and any(error.path == key or error.path.startswith(f"{key}.") for key in keys):
        error.file = "--over"
        error.hint = error.hint.replace("--set compare.variants", "--over compare.variants", 1)
    return error


def _command(arguments: argparse.Namespace) -> str:
    """The command that reproduces the table, without options that only say where and how fast to run."""
    words = ["gpuyard", "sweep", arguments.scenario]
    for name in ("over", "set", "metric"):
        words += [word for value in getattr(arguments, name) for word in (f"--{name}", value)]
    if arguments.trace:
        words += ["--trace", arguments.trace]
    return shlex.join(words)


def _write(sweep: Sweep, metrics: tuple[str, ...], out: Path) -> None:
    from sim.export.files import write_table, write_whole
    from sim.plan.sweep import csv_rows
    from sim.plan.sweep_report import render_json, render_page, render_twin

    write_table(csv_rows(sweep, metrics), out / "sweep.csv")
    write_whole(out / "sweep.json", render_json(sweep))
    write_whole(out / "sweep.html", render_page(sweep, metrics))
    write_whole(out / "sweep.md", render_twin(sweep, metrics))


def _print(sweep: Sweep, metrics: tuple[str, ...], arguments: argparse.Namespace, out: Path) -> None:
    from sim.plan.sweep import sweep_warnings
    from sim.plan.sweep_report import render_answer, render_table

    if not arguments.quiet:
        print(render_table(sweep, metrics, are_asked=bool(arguments.metric)))
        print()
    print(render_answer(sweep))
    for warning in sweep_warnings(sweep):
        print(f"warning: {warning}", file=sys.stderr)
    if not arguments.quiet:
        print(f"\nwritten: {out / 'sweep.html'}, sweep.md, sweep.csv, sweep.json", file=sys.stderr)
