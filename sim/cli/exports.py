"""What ``gpuyard run`` can write beside summary and report. A flag is an entry here, and nothing else.

What an entry calls is imported when it is asked for: the command's help needs none of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.errors import InvariantError, ScenarioError
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    from sim.arrays import Column
    from sim.results.answer import AnyRun
    from sim.serving.records import RunResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One view of a run as a file, and on the terminal where it has ``console``."""

    help: str
    file: str  # its name, with {variant} and {seed}
    write: Callable[[AnyRun, Path], None]
    console: Callable[[AnyRun], str] | None = None
    kind: str = ""  # the one kind of scenario that has it; empty: every kind
    is_of_first_seed: bool = False  # what is looked at, not averaged


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFormat:
    """How a run's tables of records are written."""

    help: str
    write: Callable[[Sequence[Column], Path], None]
    check: Callable[[], None] | None = None  # refuses before the run what would fail after it


def _served(result: AnyRun) -> RunResult:
    from sim.serving.records import RunResult

    if not isinstance(result, RunResult):
        raise InvariantError(f"a view of serving was asked of a run of kind {result.scenario.kind}")
    return result


def _write_vllm_bench(result: AnyRun, path: Path) -> None:
    from sim.export.files import write_whole
    from sim.export.vllm_bench import vllm_bench_json

    write_whole(path, json.dumps(vllm_bench_json(_served(result), detailed=True), indent=1) + "\n")


def _vllm_bench_console(result: AnyRun) -> str:
    from sim.export.vllm_bench import vllm_bench_block

    return vllm_bench_block(_served(result))


def _write_trace_events(result: AnyRun, path: Path) -> None:
    from sim.kinds.registry import kind_of
    from sim.serving.trace import write_events

    write_events(kind_of(result.scenario).trace_events(result), path)


EXPORTS: Mapping[str, Export] = {
    "trace-events": Export(
        help="a Perfetto trace per variant",
        file="trace-{variant}-{seed}.json",
        write=_write_trace_events,
        is_of_first_seed=True,
    ),
    "vllm-bench": Export(
        help="print and write what `vllm bench serve` would",
        file="vllm-bench-{variant}-{seed}.json",
        write=_write_vllm_bench,
        console=_vllm_bench_console,
        kind="serving",
    ),
}
"""By flag."""


def _write_csv(columns: Sequence[Column], path: Path) -> None:
    from sim.export.files import write_whole
    from sim.export.records import csv_text

    write_whole(path, csv_text(columns))


def _write_parquet(columns: Sequence[Column], path: Path) -> None:
    from sim.export.files import dataframe, write_parquet

    write_parquet(dataframe(columns), path)


def _check_parquet() -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise ScenarioError(
            "Parquet needs pyarrow, which is not installed",
            path="--parquet",
            hint="pip install 'gpuyard[parquet]', or leave it out: CSV",
        )


RECORD_FORMATS: Mapping[str, RecordFormat] = {
    "csv": RecordFormat(help="records as CSV", write=_write_csv),
    "parquet": RecordFormat(
        help="records as Parquet (needs gpuyard[parquet])", write=_write_parquet, check=_check_parquet
    ),
}
"""By ending; the first where no flag asks for another."""


def default_records() -> str:
    """The format of records where no flag asks for another."""
    return next(iter(RECORD_FORMATS))


def record_format(arguments: argparse.Namespace) -> RecordFormat:
    """The format of records that the flags ask for."""
    return RECORD_FORMATS[record_ending(arguments)]


def record_ending(arguments: argparse.Namespace) -> str:
    """The ending of the files of records."""
    asked = (ending for ending in RECORD_FORMATS if getattr(arguments, ending, False) is True)
    return next(asked, default_records())


def attribute(flag: str) -> str:
    """The name that argparse gives to a flag's value."""
    return flag.replace("-", "_")


def written_patterns() -> tuple[str, ...]:
    """The files that a run of whatever kind writes, as patterns."""
    from sim.kinds.registry import KINDS

    tables = dict.fromkeys(table for kind in KINDS.values() for table in kind.record_tables)
    records = (f"{table}-*.{ending}" for table in tables for ending in RECORD_FORMATS)
    exports = (one.file.format(variant="*", seed="*") for one in EXPORTS.values())
    return ("report.html", "report.md", "summary.json", *records, *exports)
