"""What ``gpuyard run`` writes and prints, by its options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.exports import EXPORTS, Export, attribute, record_ending, record_format

if TYPE_CHECKING:
    from sim.results.answer import AnyAnswer, AnyRun


def write_results(answer: AnyAnswer, folder: Path, arguments: argparse.Namespace) -> None:
    """Every file of the run into ``folder``."""
    from sim.export.files import summary_json, write_whole

    write_whole(folder / "summary.json", summary_json(answer.summaries, comparison=answer.comparison))
    if not arguments.no_report:
        _write_report(answer, folder)
        for results in answer.results.values():
            for result in results:
                _write_records(result, folder, arguments)
    for export in _asked(arguments):
        for results in answer.results.values():
            for result in results[:1] if export.is_of_first_seed else results:
                name = export.file.format(variant=result.variant, seed=result.seed)
                export.write(result, folder / name)


def _asked(arguments: argparse.Namespace) -> list[Export]:
    return [one for flag, one in EXPORTS.items() if getattr(arguments, attribute(flag))]


def _write_report(answer: AnyAnswer, folder: Path) -> None:
    from sim.export.files import write_whole
    from sim.kinds.registry import report_of
    from sim.report.html import render_html
    from sim.report.markdown import render_markdown

    report = report_of(answer)
    write_whole(folder / "report.html", render_html(report))
    write_whole(folder / "report.md", render_markdown(report))


def _write_records(result: AnyRun, folder: Path, arguments: argparse.Namespace) -> None:
    from sim.kinds.registry import kind_of

    ending, chosen = record_ending(arguments), record_format(arguments)
    for table, columns_of in kind_of(result.scenario).record_tables.items():
        name = f"{table}-{result.variant}-{result.seed}.{ending}"
        chosen.write(columns_of(result), folder / name)


def print_views(answer: AnyAnswer, arguments: argparse.Namespace) -> None:
    """The answer, the benchmark blocks if asked for, and the extra JSON and CSV."""
    from sim.export.files import summary_json, write_table
    from sim.report.terminal import render_answer

    if not arguments.quiet and arguments.json != "-":
        print(render_answer(answer, tty=sys.stdout.isatty()))
        for export in _asked(arguments):
            for first in [results[0] for results in answer.results.values()]:
                if export.console is not None:
                    print(f"\n{first.variant}, seed {first.seed}\n{export.console(first)}")
    if arguments.json:
        write_text(arguments.json, summary_json(answer.summaries, comparison=answer.comparison))
    if arguments.csv:
        write_table(metric_rows(answer), arguments.csv)


def write_text(path: str, text: str) -> None:
    """``text`` to standard output (``-``) or to a file, which appears whole or not at all."""
    from sim.export.files import write_whole

    if path == "-":
        sys.stdout.write(text)
    else:
        write_whole(path, text)


def metric_rows(answer: AnyAnswer) -> list[dict[str, Any]]:
    """A row per variant and seed: verdict, SLO, every metric and the run's own warnings.

    A variant that cannot run has one, with the reason.
    """
    from sim.results.summary import warning_cell
    from sim.scenario.file import CANNOT_RUN

    rows: list[dict[str, Any]] = [
        {
            "variant": summary.variant,
            "seed": summary.seed,
            "verdict": summary.verdict.word,
            "meets_slo": summary.meets_slo,
            **summary.metrics,
            "warnings": warning_cell(summary.warnings),
        }
        for summaries in answer.summaries.values()
        for summary in summaries
    ]
    refused = answer.comparison.refused.items()
    return rows + [
        {"variant": name, "verdict": CANNOT_RUN, "cannot_run": why.reason} for name, why in refused
    ]
