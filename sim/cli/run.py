"""``gpuyard run SCENARIO``: the answer on the terminal, the report and the tables in a folder."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli.exits import FINE, THRESHOLD_MISSED
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.run import Answer
    from sim.scenario import ScenarioFile


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
    where.add_argument("--parquet", action="store_true", help="records as Parquet (needs gpuyard[parquet])")
    where.add_argument("--trace-events", action="store_true", help="a Perfetto trace per variant")
    where.add_argument(
        "--vllm-bench", action="store_true", help="print and write what `vllm bench serve` would"
    )
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
    from sim.cli.output import results_folder
    from sim.cli.results import print_views, write_results
    from sim.loading import load_scenario
    from sim.thresholds import check_thresholds

    _check_arguments(arguments)
    file = load_scenario(arguments.scenario, overrides=_overrides(arguments), trace=arguments.trace)
    if arguments.vllm_bench and file.base.kind != "serving":
        raise ScenarioError("vLLM's benchmark measures serving", path="--vllm-bench", allowed="kind: serving")
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


def _answer(file: ScenarioFile, arguments: argparse.Namespace) -> Answer:
    from sim.plan.progress import Progress
    from sim.run import run_scenario

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
    """What would fail after the run fails before it."""
    if arguments.parquet and importlib.util.find_spec("pyarrow") is None:
        raise ScenarioError(
            "Parquet needs pyarrow, which is not installed",
            path="--parquet",
            hint="pip install 'gpuyard[parquet]', or leave it out: CSV",
        )
    if arguments.csv and Path(arguments.csv).suffix not in (".csv", ".json"):
        raise ScenarioError("the ending says which", path="--csv", given=arguments.csv, allowed=".csv, .json")
    for flag, path in (("--csv", arguments.csv), ("--json", arguments.json)):
        if path and path != "-" and not Path(path).parent.is_dir():
            raise ScenarioError("there is no such folder to write into", path=flag, given=path)
