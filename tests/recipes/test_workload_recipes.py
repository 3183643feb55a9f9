"""What a new trace format, length distribution, arrival process or workload source takes: one entry.

Each test registers an entry that the shipped code has never heard of, and demands that the loader, the
schema, the checks, a run and the report obey it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
from sim.arrays import Float64, Int64
from sim.cli.command import main
from sim.errors import ScenarioError
from sim.kinds.schema import scenario_schema
from sim.scenario.csv_files import TextFile
from sim.scenario.distribution import DISTRIBUTIONS, Distribution, DistributionKind, Keys
from sim.scenario.distribution import DrawPlace as DrawPlace
from sim.serving.records import RequestTable
from sim.serving.scenario import Trace, Workload
from sim.serving.workload.arrivals import ARRIVAL_PROCESSES, ArrivalProcess, Arrivals
from sim.serving.workload.drawn import draw_table
from sim.serving.workload.sources import SOURCES, Source
from sim.serving.workload.trace_formats import TRACE_FORMATS
from sim.serving.workload.trace_rows import ARRIVAL, OUTPUT, PROMPT, RawTrace, TraceFormat

HEAD = """\
schema_version: 1
question: Does a new entry run?
kind: serving
hardware: l4
model: gpt2
engine: {dtype: float16, max_num_seqs: 4}
"""
DRAWN = HEAD + (
    "workload:\n"
    "  arrivals: {process: constant, requests_per_s: 1}\n"
    "  prompt_tokens: 10\n"
    "  output_tokens: 5\n"
    "  num_requests: 7\n"
)
TRACED = HEAD + "workload:\n  trace: {path: mine.txt}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def requests_of(path: Path, *overrides: str) -> Any:
    file = sim.load_scenario(str(path), overrides=list(overrides))
    return sim.run_scenario(file).results["base"][0].requests


def property_of(definition: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = scenario_schema()["$defs"][definition]["properties"][name]
    return found


def read_semicolons(file: TextFile, trace: Trace) -> RawTrace:
    """A layout of the test's own: a magic word, then `time;prompt;output` in tenths of a second."""
    rows = [[float(cell) for cell in line.split(";")] for line in file.text.splitlines()[1:]]
    columns = np.array(rows)
    return RawTrace(
        file=file,
        where=lambda row: f"line {row + 2}",
        names={ARRIVAL: "time", PROMPT: "prompt", OUTPUT: "output"},
        times=columns[:, 0] * 100,
        unit="ms",
        prompt_tokens=columns[:, 1],
        output_tokens=columns[:, 2],
    )


SEMICOLONS = TraceFormat(
    doc="a magic word, then time;prompt;output in tenths of a second",
    recognises=lambda file, trace: file.text.startswith("MAGIC"),
    read=read_semicolons,
)


@pytest.fixture
def semicolons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scenario over a trace in a format that is registered for this test only."""
    monkeypatch.setitem(TRACE_FORMATS, "semicolons", SEMICOLONS)
    (tmp_path / "mine.txt").write_text("MAGIC\n0;11;3\n5;12;4\n20;13;5\n", encoding="utf-8")
    return written(tmp_path, TRACED)


@pytest.mark.parametrize("overrides", [[], ["workload.trace.format=semicolons"]])
def test_a_trace_format_is_recognised_and_read(semicolons: Path, overrides: list[str]) -> None:
    requests = requests_of(semicolons, *overrides)
    assert requests.prompt_tokens.tolist() == [11, 12, 13]
    assert requests.output_tokens.tolist() == [3, 4, 5]
    assert requests.arrival_ps.tolist() == [0, 500_000_000_000, 2_000_000_000_000]


def test_an_unregistered_format_is_refused_with_the_list_of_today(semicolons: Path) -> None:
    with pytest.raises(ScenarioError) as told:
        sim.load_scenario(str(semicolons), overrides=["workload.trace.format=semicolon"])
    assert told.value.allowed == ", ".join(("auto", *TRACE_FORMATS)) and "semicolons" in told.value.allowed
    assert told.value.hint == "semicolons"


def test_a_trace_format_stands_in_the_schema_with_its_line(semicolons: Path) -> None:
    described = property_of("Trace", "format")
    assert described["enum"] == ["auto", *TRACE_FORMATS]
    assert described["description"].endswith(f"\nsemicolons: {SEMICOLONS.doc}")


@pytest.mark.parametrize(
    ("key", "value", "switch", "others"),
    [
        ("columns", "{arrival: time}", "takes_columns", "csv or jsonl"),
        ("hash_block_tokens", "16", "takes_block_tokens", "mooncake"),
    ],
)
def test_keys_that_a_format_does_not_take_are_refused(
    semicolons: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, switch: str, others: str
) -> None:
    overrides = ["workload.trace.format=semicolons", f"workload.trace.{key}={value}"]
    with pytest.raises(ScenarioError) as told:
        sim.load_scenario(str(semicolons), overrides=overrides)
    assert told.value.path == f"workload.trace.{key}"
    assert told.value.allowed == f"{key} with format {others}"
    monkeypatch.setitem(TRACE_FORMATS, "semicolons", replace(SEMICOLONS, **{switch: True}))
    assert sim.load_scenario(str(semicolons), overrides=overrides).base.workload.trace is not None
    with pytest.raises(ScenarioError, match="has no effect") as told:
        sim.load_scenario(str(semicolons), overrides=[*overrides, "workload.trace.format=azure"])
    assert told.value.allowed == f"{key} with format {others} or semicolons"


def test_the_list_of_formats_on_the_terminal_has_it(
    semicolons: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "traces"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["semicolons", SEMICOLONS.doc] in lines
    assert [line[0] for line in lines[1:]] == ["auto", *TRACE_FORMATS]


def draw_thirds(
    distribution: Distribution, count: int, rng: np.random.Generator, place: DrawPlace
) -> Float64:
    assert distribution.mean is not None
    return np.tile([0.5, 1.0, 1.5], count)[:count] * distribution.mean


THIRDS = DistributionKind(
    doc="half the mean, the mean, and half more, in turn", draw=draw_thirds, keys=Keys(needed=("mean",))
)


@pytest.fixture
def thirds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scenario whose prompts have a distribution that is registered for this test only."""
    monkeypatch.setitem(DISTRIBUTIONS, "thirds", THIRDS)
    return written(
        tmp_path, DRAWN.replace("prompt_tokens: 10", "prompt_tokens: {distribution: thirds, mean: 100}")
    )


def test_a_distribution_is_drawn_from(thirds: Path) -> None:
    assert requests_of(thirds).prompt_tokens.tolist() == [50, 100, 150, 50, 100, 150, 50]


def test_a_distribution_s_keys_are_checked_and_its_name_is_listed(thirds: Path) -> None:
    with pytest.raises(ScenarioError, match="missing: thirds needs it"):
        sim.load_scenario(str(thirds), overrides=["workload.prompt_tokens.mean=null"])
    wrong = "workload.prompt_tokens={distribution: thirds, mean: 9, sigma: 1}"
    with pytest.raises(ScenarioError, match="has no effect with distribution: thirds"):
        sim.load_scenario(str(thirds), overrides=[wrong])
    with pytest.raises(ScenarioError) as told:
        sim.load_scenario(str(thirds), overrides=["workload.prompt_tokens.distribution=third"])
    assert told.value.allowed.endswith("empirical, thirds")


def test_a_distribution_s_own_check_is_asked(thirds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(given: Distribution, place: Any, base_dir: Path) -> None:
        raise place.error(f"mean {given.mean:g} is not wanted in {base_dir.name}")

    monkeypatch.setitem(DISTRIBUTIONS, "thirds", replace(THIRDS, check=check))
    with pytest.raises(ScenarioError, match=f"workload.prompt_tokens: mean 100 .* in {thirds.parent.name}"):
        sim.load_scenario(str(thirds))


def test_a_distribution_stands_in_the_schema_with_its_line(thirds: Path) -> None:
    described = property_of("DistributionIn_tokens", "distribution")
    assert described["enum"] == list(DISTRIBUTIONS)
    assert described["description"].endswith(f"\nthirds: {THIRDS.doc}")


def draw_pairs(arrivals: Arrivals, count: int, rng: np.random.Generator) -> Float64:
    assert arrivals.requests_per_s is not None
    return np.floor(np.arange(count) / 2) * 2 / arrivals.requests_per_s


PAIRS = ArrivalProcess(doc="two at a time", draw=draw_pairs, keys=Keys(needed=("requests_per_s",)))


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scenario whose arrivals follow a process that is registered for this test only."""
    monkeypatch.setitem(ARRIVAL_PROCESSES, "pairs", PAIRS)
    return written(tmp_path, DRAWN.replace("process: constant", "process: pairs"))


def seconds(times: Int64) -> list[float]:
    return [time / 1e12 for time in times.tolist()]


def test_an_arrival_process_is_drawn_and_ends_by_number_or_time(pairs: Path) -> None:
    assert seconds(requests_of(pairs).arrival_ps) == [0, 0, 2, 2, 4, 4, 6]
    by_time = ["workload.num_requests=null", "workload.duration_s=3 s"]
    assert seconds(requests_of(pairs, *by_time).arrival_ps) == [0, 0, 2, 2]


def test_an_arrival_process_s_keys_are_checked_and_its_name_is_listed(pairs: Path) -> None:
    with pytest.raises(ScenarioError, match="missing: pairs needs it"):
        sim.load_scenario(str(pairs), overrides=["workload.arrivals.requests_per_s=null"])
    with pytest.raises(ScenarioError, match="has no effect with process: pairs"):
        sim.load_scenario(str(pairs), overrides=["workload.arrivals.cv=2"])
    with pytest.raises(ScenarioError) as told:
        sim.load_scenario(str(pairs), overrides=["workload.arrivals.process=pair"])
    assert told.value.allowed.endswith("all_at_once, pairs")
    described = property_of("Arrivals", "process")
    assert described["enum"] == list(ARRIVAL_PROCESSES)
    assert described["description"].endswith("\npairs: two at a time")


def test_summary_and_report_name_an_arrival_process(pairs: Path, tmp_path: Path) -> None:
    answer = sim.run_scenario(sim.load_scenario(str(pairs)))
    assert answer.summaries["base"][0].arrivals == "pairs"
    assert main(["run", str(pairs), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert "pairs arrivals" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def place_two(arrivals: Arrivals, count: int) -> Int64:
    times = np.full(count, -1, dtype=np.int64)
    times[:2] = 0
    return times


def test_a_process_whose_clients_wait_is_judged_as_one(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients: placed, not drawn; no queue can grow, and duration_s cannot end the run."""
    waiting = ArrivalProcess(doc="two clients", place=place_two, keys=Keys(), is_closed_loop=True)
    monkeypatch.setitem(ARRIVAL_PROCESSES, "pairs", waiting)
    file = sim.load_scenario(str(pairs), overrides=["workload.arrivals.requests_per_s=null"])
    answer = sim.run_scenario(file)
    assert answer.results["base"][0].requests.arrival_ps.max() > 0  # triggered by an answer
    assert answer.summaries["base"][0].verdict.reason.startswith("closed loop")
    with pytest.raises(ScenarioError, match="has no effect with process: pairs"):
        sim.load_scenario(
            str(pairs), overrides=["workload.arrivals.requests_per_s=null", "workload.duration_s=5 s"]
        )


def test_a_source_makes_the_requests_and_names_the_arrivals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(workload: Workload, seed: int, base_dir: Path) -> RequestTable:
        table = draw_table(workload, seed, base_dir)
        return replace(table, prompt_tokens=table.prompt_tokens * 2)

    monkeypatch.setitem(SOURCES, "prompt_tokens", Source(draw=twice, label="doubled"))
    answer = sim.run_scenario(sim.load_scenario(str(written(tmp_path, DRAWN))))
    assert set(answer.results["base"][0].requests.prompt_tokens) == {20}
    assert answer.summaries["base"][0].arrivals == "doubled"
    assert json.loads(json.dumps(answer.summaries["base"][0].to_dict()))["variant"] == "base"
