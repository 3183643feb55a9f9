"""What ``gpuyard run`` writes and prints, by its options."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.records import RunResult
    from sim.run import Answer


def write_results(answer: Answer, folder: Path, arguments: argparse.Namespace) -> None:
    """Every file of the run into ``folder``."""
    from sim.export import summary_json, write_whole

    write_whole(folder / "summary.json", summary_json(answer.summaries, comparison=answer.comparison))
    if not arguments.no_report:
        _write_report(answer, folder)
    for results in answer.results.values():
        for result in results:
            _write_run(result, folder, arguments)
        if arguments.trace_events:
            _write_trace_events(results[0], folder)


def _write_report(answer: Answer, folder: Path) -> None:
    from sim.export import write_whole
    from sim.report.html import render_html
    from sim.report.markdown import render_markdown

    write_whole(folder / "report.html", render_html(answer))
    write_whole(folder / "report.md", render_markdown(answer))


def _write_run(result: RunResult, folder: Path, arguments: argparse.Namespace) -> None:
    from sim import export
    from sim.kinds import kind_of

    name = f"{result.variant}-{result.seed}"
    if not arguments.no_report:
        for table, columns_of in kind_of(result.scenario).part("records").items():
            columns = columns_of(result)
            if arguments.parquet:
                export.write_parquet(export.dataframe(columns), folder / f"{table}-{name}.parquet")
            else:
                export.write_whole(folder / f"{table}-{name}.csv", export.csv_text(columns))
    if arguments.vllm_bench:
        content = export.vllm_bench_json(result, detailed=True)
        export.write_whole(folder / f"vllm-bench-{name}.json", json.dumps(content, indent=1) + "\n")


def _write_trace_events(result: RunResult, folder: Path) -> None:
    """Of the first seed: a trace is looked at, not averaged."""
    from sim.kinds import kind_of
    from sim.report.perfetto import write_events

    trace = kind_of(result.scenario).part("trace_events")(result)
    write_events(trace, folder / f"trace-{result.variant}-{result.seed}.json")


def print_views(answer: Answer, arguments: argparse.Namespace) -> None:
    """The answer, the benchmark blocks if asked for, and the extra JSON and CSV."""
    from sim.export import summary_json, vllm_bench_block, write_table
    from sim.report.terminal import render_answer

    if not arguments.quiet and arguments.json != "-":
        print(render_answer(answer, tty=sys.stdout.isatty()))
        if arguments.vllm_bench:
            for results in answer.results.values():
                print(f"\n{results[0].variant}, seed {results[0].seed}\n{vllm_bench_block(results[0])}")
    if arguments.json:
        write_text(arguments.json, summary_json(answer.summaries, comparison=answer.comparison))
    if arguments.csv:
        write_table(metric_rows(answer), arguments.csv)


def write_text(path: str, text: str) -> None:
    """``text`` to standard output (``-``) or to a file, which appears whole or not at all."""
    from sim.export import write_whole

    if path == "-":
        sys.stdout.write(text)
    else:
        write_whole(path, text)


def metric_rows(answer: Answer) -> list[dict[str, Any]]:
    """A row per variant and seed: verdict, SLO and every metric."""
    return [
        {
            "variant": summary.variant,
            "seed": summary.seed,
            "verdict": summary.verdict.word,
            "meets_slo": summary.meets_slo,
            **summary.metrics,
        }
        for summaries in answer.summaries.values()
        for summary in summaries
    ]
