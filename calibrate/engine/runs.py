"""Which runs there are, and what one leaves behind: ``steps.csv``, ``requests.csv`` and ``run.yaml``.

A run is one variant of a scenario with its first seed. The scenario says everything that both the real engine
and the simulator need: requests, limits, KV blocks. Times are seconds since the start of the run.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.arrays import PS_PER_S
from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.price.providers.table import csv_lines
from sim.scenario.strict_yaml import load_yaml
from sim.serving.records import RequestTable
from sim.serving.scenario import Scenario
from sim.serving.workload.sources import draw_requests

SCENARIOS = Path(__file__).parent / "scenarios"
STEP_COLUMNS = (
    "started_s", "step_s", "model_s", "num_decode", "context_tokens", "num_prefill", "prefill_tokens",
    "num_waiting", "chunks",
)  # fmt: skip
REQUEST_COLUMNS = (
    "request", "arrival_s", "prompt_tokens", "output_tokens", "first_scheduled_s", "first_token_s",
    "finished_s", "num_preemptions",
)  # fmt: skip
ABOUT = ("run", "measured_on")  # what a report needs of run.yaml
CHUNKS = re.compile(r"(\d+@\d+\+?( \d+@\d+\+?)*)?")
AGAIN = "delete the run's folder: `python -m calibrate engine serve` then serves it again"
DRY_REQUESTS, DRY_PROMPT, DRY_OUTPUT = 3, 10, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """One run to be served or simulated. ``base_dir`` is where the scenario's files are looked for."""

    name: str
    file: str
    scenario: Scenario
    seed: int
    base_dir: Path

    def requests(self) -> RequestTable:
        """The requests, the same for the engine and for the simulator."""
        return draw_requests(self.scenario.workload, self.seed, self.base_dir)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What was read back of a run."""

    folder: Path
    steps: list[dict[str, float | str]]
    requests: list[dict[str, float | str]]
    about: Mapping[str, Any]


def engine_runs(paths: Sequence[str], overrides: Sequence[str]) -> list[EngineRun]:
    """Every variant of the scenarios (all of ours, when none is named), each checked for what we can run."""
    files = list(paths) or [str(file) for file in sorted(SCENARIOS.glob("*.yaml"))]
    runs = []
    for path in files:
        loaded = load_scenario(path, overrides=overrides)
        for variant in loaded.variants:
            scenario = variant.scenario
            if not isinstance(scenario, Scenario):
                raise ScenarioError("no engine is asked for", file=loaded.path, allowed="kind: serving")
            run = EngineRun(
                name=f"{Path(loaded.path).stem}-{variant.name}", file=loaded.path, scenario=scenario,
                seed=scenario.seeds[0], base_dir=Path(loaded.path).parent,
            )  # fmt: skip
            check_runnable(run)
            runs.append(run)
    return runs


def check_runnable(run: EngineRun) -> None:
    """The real engine is a small one: what it has not is refused, not left out."""
    scenario, engine = run.scenario, run.scenario.engine
    asked: tuple[tuple[str, object, bool, str], ...] = (
        ("engine.batching", engine.batching, engine.batching == "continuous", "continuous"),
        ("engine.kv_allocator", engine.kv_allocator, engine.kv_allocator == "paged", "paged"),
        ("engine.tensor_parallel_size", engine.tensor_parallel_size, engine.tensor_parallel_size == 1, "1"),
        ("replicas", scenario.replicas, scenario.replicas == 1, "1"),
        (
            "engine.num_gpu_blocks_override", engine.num_gpu_blocks_override,
            engine.num_gpu_blocks_override is not None, "the blocks of the real KV pool",
        ),
        ("model", scenario.model.name, scenario.model.name.startswith("llama-3"), "a Llama 3 model"),
    )  # fmt: skip
    for path, given, is_met, allowed in asked:
        if not is_met:
            problem = "the real engine cannot run this"
            raise ScenarioError(problem, file=run.file, path=path, given=given, allowed=allowed)
    table = run.requests()
    longest = int((table.prompt_tokens + table.output_tokens).max())
    most = engine.max_model_len or scenario.model.max_position_embeddings
    if longest > most:
        raise ScenarioError(
            "a request is longer than max_model_len", file=run.file, path="engine.max_model_len", given=most,
            allowed=f"at least {longest}",
        )  # fmt: skip
    if int(table.arrival_ps.min()) < 0:
        problem = "requests that follow others' ends are not served here"
        raise ScenarioError(problem, file=run.file, path="workload", allowed="arrivals with times")


def write_rows(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """One CSV file, whole or not at all."""
    being_written = file.with_suffix(".new")
    with being_written.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: shown(row[name]) for name in columns} for row in rows)
    being_written.replace(file)


def shown(value: object) -> object:
    """Seconds to the microsecond."""
    return f"{value:.6f}" if isinstance(value, float) else value


def read_run(folder: Path) -> Recorded:
    """A recorded run; a ScenarioError for what is missing or cannot be meant, with file, line and column."""
    if not (folder / "run.yaml").is_file():
        raise ScenarioError(
            "no recorded run here", file=str(folder), allowed="run.yaml, steps.csv, requests.csv"
        )
    about = load_yaml(folder / "run.yaml")
    missing = [key for key in ABOUT if key not in about]
    if missing:
        raise ScenarioError(f"missing: {', '.join(missing)}", file=str(folder / "run.yaml"), hint=AGAIN)
    return Recorded(
        folder=folder,
        steps=list(cells_of(folder / "steps.csv", STEP_COLUMNS)),
        requests=list(cells_of(folder / "requests.csv", REQUEST_COLUMNS)),
        about=about,
    )


def cells_of(file: Path, columns: Sequence[str]) -> Iterator[dict[str, float | str]]:
    """The rows, every column but ``chunks`` a number."""
    if not file.is_file():
        raise ScenarioError("no such file", file=str(file), hint=AGAIN)
    records = csv_lines(file, AGAIN)
    _, header = next(records, (1, []))
    if header != list(columns):
        raise ScenarioError(
            "wrong header", file=f"{file}:1", given=",".join(header), allowed=",".join(columns)
        )
    for line, cells in records:
        where = f"{file}:{line}"
        if len(cells) != len(columns):
            problem = f"{len(cells)} columns where the header has {len(columns)}"
            raise ScenarioError(problem, file=where, allowed=f"{len(columns)} columns", hint=AGAIN)
        yield {name: cell(text, where, name) for name, text in zip(columns, cells, strict=True)}


def cell(text: str, where: str, column: str) -> float | str:
    """A time in seconds (before 0: never came), a whole number, or the chunks as they were written."""
    if column == "chunks":
        if CHUNKS.fullmatch(text):
            return text
        problem, allowed = "not chunks", 'TOKENS@CACHED, "+" where the prompt ends: "512@0+ 128@1024"'
    elif column.endswith("_s"):
        problem, allowed = "expected a number", "seconds, above 0" if column == "step_s" else "seconds"
        value = number(text)
        if math.isfinite(value) and (value > 0 or column != "step_s"):
            return value
    else:
        problem, allowed = "expected a number", "a whole number, 0 or more"
        value = number(text)
        if value >= 0 and value.is_integer():
            return value
    raise ScenarioError(problem, file=where, path=column, given=text, allowed=allowed, hint=AGAIN)


def number(text: str) -> float:
    """A number; NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def expected_s(run: EngineRun) -> float:
    """Seconds that a run may take: its last arrival, and its tokens at 1,500 a second, whichever is later,
    with a minute for weights and compiling. A guess that keeps slots whole, nothing that is reported."""
    table = run.requests()
    arrivals_s = float(table.arrival_ps.max()) / PS_PER_S
    return 60.0 + arrivals_s + float(table.output_tokens.sum()) / 1500.0 * 0.5
