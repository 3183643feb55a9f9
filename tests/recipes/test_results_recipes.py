"""What a new metric, view, record format, table format or kind of scenario takes: one entry.

Each test registers one that the shipped code has never heard of, and demands that the loader, the schema, the
run, all tables, thresholds, sweeps and the report obey it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import sim
from sim.arrays import Column
from sim.cli.command import main
from sim.cli.exports import EXPORTS, RECORD_FORMATS, Export, RecordFormat
from sim.errors import ScenarioError
from sim.export.files import TABLE_FORMATS
from sim.hardware import HardwareProfile
from sim.kinds.registry import KINDS, Kind
from sim.kinds.schema import scenario_schema
from sim.report.blocks import Prose, Report, Section
from sim.results.metric import Metric
from sim.results.summary import Summary
from sim.results.verdict import Verdict
from sim.scenario.fields import Threshold, key
from sim.serving.metrics import METRICS, ServingMetric
from sim.serving.records import RunResult

SCENARIO = """\
schema_version: 1
question: Does a new entry show?
kind: serving
hardware: l4
model: gpt2
seeds: [1, 2]
engine: {dtype: float16, max_num_seqs: 4}
workload:
  arrivals: {process: constant, requests_per_s: 1}
  prompt_tokens: {distribution: uniform, min: 5, max: 50}
  output_tokens: 5
  num_requests: 20
compare:
  reference: four
  variants: {four: {}, two: {engine: {max_num_seqs: 2}}}
thresholds:
  - {variant: two, metric: longest_prompt_tokens, max: 1000}
"""


def longest_prompt(result: RunResult) -> float | None:
    return float(result.requests.prompt_tokens.max())


LONGEST = ServingMetric(
    name="longest_prompt_tokens",
    unit="tokens",
    meaning="the longest prompt",
    better="neither",
    number=longest_prompt,
    is_in_table=True,
)


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scenario with a threshold on a metric that is registered for this test only."""
    monkeypatch.setitem(METRICS, LONGEST.name, LONGEST)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def test_a_metric_is_known_to_the_loader_and_is_in_every_summary(scenario: Path) -> None:
    answer = sim.run_scenario(sim.load_scenario(str(scenario)))
    longest = {
        run.seed: int(run.requests.prompt_tokens.max()) for runs in answer.results.values() for run in runs
    }
    for summaries in answer.summaries.values():
        for summary in summaries:
            assert summary.metrics[LONGEST.name] == longest[summary.seed]
            assert summary.to_dict()["metrics"][LONGEST.name] == longest[summary.seed]
    cell = answer.comparison.cells["two"][LONGEST.name]
    assert cell.mean == sum(longest.values()) / 2
    assert cell.ratio is not None and cell.ratio.estimate == 1.0


def test_a_metric_that_is_not_registered_is_refused(scenario: Path) -> None:
    del METRICS[LONGEST.name]  # type: ignore[attr-defined]
    with pytest.raises(ScenarioError, match="unknown metric") as told:
        sim.load_scenario(str(scenario))
    assert told.value.path == "thresholds[0].metric"


def test_a_metric_is_in_the_terminal_s_table_in_json_csv_and_report(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(scenario), "--out", "out", "--csv", "rows.csv", "--jobs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = next(line for line in lines if f"| {LONGEST.name} " in line)
    assert f"| {LONGEST.label.removesuffix(' tokens')} " in shown  # its last word may be in the next line
    content = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
    values = {run["metrics"][LONGEST.name] for run in content["runs"]}
    assert max(values) <= 50 and min(values) >= 5
    mean = content["comparison"]["variants"]["two"][LONGEST.name]["mean"]
    assert f"{mean:.3g}".rstrip("0").rstrip(".") in shown
    rows = list(csv.DictReader(Path("rows.csv").read_text(encoding="utf-8").splitlines()))
    assert {float(row[LONGEST.name]) for row in rows} == values
    report = Path("out/report.md").read_text(encoding="utf-8")
    assert f"| {LONGEST.name}<br>" in report or f"| {LONGEST.name} |" in report or LONGEST.name in report
    assert f"two: {LONGEST.name}".replace("_", "_") in report  # the threshold's row


def test_a_threshold_on_a_metric_decides_the_exit_code(scenario: Path) -> None:
    command = ["run", str(scenario), "--out", "out", "--no-report", "--quiet", "--jobs", "1"]
    assert main(command) == 0
    assert main([*command, "--set", "thresholds[0].max=1"]) == 1


def test_a_sweep_shows_a_metric(scenario: Path) -> None:
    command = ["sweep", str(scenario), "--over", "workload.num_requests=20,40", "--metric", LONGEST.name]
    assert main([*command, "--jobs", "1", "--out", "swept", "--quiet"]) == 0
    rows = list(csv.DictReader(Path("swept/sweep.csv").read_text(encoding="utf-8").splitlines()))
    assert [float(row[LONGEST.name]) > 0 for row in rows] == [True] * 4  # two variants, two sizes


def test_a_metric_without_a_number_says_why(scenario: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ServingMetric(
        name=LONGEST.name, unit="tokens", meaning="", better="neither",
        number=lambda result: None, absent="nobody measured",
    )  # fmt: skip
    monkeypatch.setitem(METRICS, LONGEST.name, absent)
    answer = sim.run_scenario(sim.load_scenario(str(scenario)))
    assert answer.summaries["two"][0].refused[LONGEST.name] == "nobody measured"
    monkeypatch.setitem(METRICS, LONGEST.name, replace(LONGEST, number=lambda result: None))
    unsaid = sim.run_scenario(sim.load_scenario(str(scenario)))
    assert unsaid.summaries["two"][0].refused[LONGEST.name] == "this run has none"


def test_a_metric_cannot_be_made_without_what_computes_it() -> None:
    """It would be null in every summary, in silence."""
    with pytest.raises(TypeError, match="number"):
        ServingMetric(name="forgotten", unit="s", meaning="", better="lower")  # type: ignore[call-arg]


def test_every_shipped_metric_is_made_by_somebody(scenario: Path) -> None:
    """Over all kinds of runs each has a number, or its own reason for having none."""
    answer = sim.run_scenario(sim.load_scenario(str(scenario)))
    for summary in answer.summaries["four"]:
        missing = {name for name in METRICS if summary.metrics[name] is None}
        assert missing <= set(summary.refused) and all(summary.refused.values())


def write_ids(result: Any, path: Path) -> None:
    path.write_text(f"{result.variant} {result.seed}\n", encoding="utf-8")


def test_a_view_is_a_flag_a_file_and_a_text(
    scenario: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    view = Export(
        help="who ran", file="ids-{variant}-{seed}.txt", write=write_ids, console=lambda run: "MY VIEW",
        kind="serving",
    )  # fmt: skip
    monkeypatch.setitem(EXPORTS, "run-ids", view)
    command = ["run", str(scenario), "--out", "out", "--no-report", "--jobs", "1"]
    assert main([*command, "--run-ids"]) == 0
    assert capsys.readouterr().out.count("MY VIEW") == 2
    names = sorted(path.name for path in Path("out").glob("ids-*"))
    assert names == ["ids-four-1.txt", "ids-four-2.txt", "ids-two-1.txt", "ids-two-2.txt"]
    assert Path("out/ids-two-2.txt").read_text(encoding="utf-8") == "two 2\n"
    assert main(command) == 0  # a later run without it leaves none of the earlier run's behind
    assert list(Path("out").glob("ids-*")) == []
    assert main(["run", "kernel/block_size", "--run-ids", "--quiet"]) == 2
    assert "--run-ids: a run of kind kernel has no such view" in capsys.readouterr().err


def write_names(columns: Sequence[Column], path: Path) -> None:
    path.write_text("\n".join(column.name for column in columns), encoding="utf-8")


def test_a_record_format_is_a_flag_and_an_ending(
    scenario: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise ScenarioError("names are not installed", path="--names")

    monkeypatch.setitem(RECORD_FORMATS, "names", RecordFormat(help="names only", write=write_names))
    command = ["run", str(scenario), "--out", "out", "--quiet", "--jobs", "1", "--names"]
    assert main(command) == 0
    assert Path("out/requests-two-1.names").read_text(encoding="utf-8").startswith("request\n")
    assert list(Path("out").glob("*.csv")) == []
    refused = RecordFormat(help="names only", write=write_names, check=refuse)
    monkeypatch.setitem(RECORD_FORMATS, "names", refused)
    assert main(command) == 2
    assert "names are not installed" in capsys.readouterr().err


def test_a_table_format_is_an_ending(scenario: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        return (f"{row['variant']};{row[LONGEST.name]}\n" for row in rows)

    monkeypatch.setitem(TABLE_FORMATS, ".txt", lines)
    assert main(["run", str(scenario), "--no-report", "--quiet", "--csv", "rows.txt", "--jobs", "1"]) == 0
    assert Path("rows.txt").read_text(encoding="utf-8").startswith("four;")
    assert main(["run", str(scenario), "--no-report", "--quiet", "--csv", "rows.tex"]) == 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CoinScenario:
    """A kind of the test's own: coins are tossed."""

    schema_version: int = key("format of this file", ge=1)
    question: str = key("what the report answers")
    kind: str = key("what is simulated", choices=lambda: KINDS)
    seeds: tuple[int, ...] = key("one run per seed and variant", default=(1,), ge=0)
    hardware: HardwareProfile = key("what the coins lie on")
    num_coins: int = key("coins that are tossed", ge=1, le=1000)
    thresholds: tuple[Threshold, ...] = key("bounds", default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class CoinRun:
    """How many heads."""

    scenario: CoinScenario
    variant: str
    seed: int
    heads: int
    notes: tuple[str, ...] = ()


HEADS = Metric(name="num_heads", unit="coins", meaning="heads", better="higher")


def count_column(name: str, value: int) -> Column:
    return Column(name=name, kind="count", values=np.array([value]))


class Coins(Kind[CoinScenario, CoinRun]):
    """Coins."""

    name = "coins"
    metrics: ClassVar = {HEADS.name: HEADS}
    scenario = CoinScenario
    table = ()
    record_tables: ClassVar = {
        "tosses": lambda run: [Column(name="heads", kind="count", values=np.array([run.heads]))]
    }

    def check(self, scenario: CoinScenario, *, file: str) -> None:
        if scenario.num_coins == 13:
            raise ScenarioError("bad luck", file=file, path="num_coins")

    def run_one(self, scenario: CoinScenario, *, variant: str, seed: int, **_: object) -> CoinRun:
        return CoinRun(scenario=scenario, variant=variant, seed=seed, heads=scenario.num_coins // 2 + seed)

    def summarize(self, result: CoinRun, *, keep_thin_percentiles: bool = False) -> Summary:
        return Summary(
            question=result.scenario.question, variant=result.variant, seed=result.seed,
            hardware=result.scenario.hardware.name, model="", allocator="", arrivals="",
            metrics={HEADS.name: float(result.heads)}, refused={}, meets_slo=None,
            verdict=Verdict(word="STABLE", reason=""), warnings=(), by_class={}, whole_run={},
            window_s=(0.0, 1.0), notes=(), kind=self.name,
        )  # fmt: skip

    def headline(self, comparison: Any) -> str:
        return HEADS.name

    def num_gpus(self, scenario: CoinScenario) -> int:
        return 0

    def report(self, answer: Any) -> Report:
        return Report(
            question=answer.file.base.question, answer="heads", badges=(),
            sections=[Section(title="Coins", blocks=(Prose(text="Tossed."),))],
        )  # fmt: skip

    def trace_events(self, result: CoinRun) -> Mapping[str, Any]:
        return {"traceEvents": []}


COINS = """\
schema_version: 1
question: How many heads?
kind: coins
seeds: [1, 2, 3]
hardware: l4
num_coins: 10
compare: {reference: few, variants: {few: {}, many: {num_coins: 20}}}
thresholds: [{variant: many, metric: num_heads, min: 11}]
"""


@pytest.fixture
def coins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scenario of a kind that is registered for this test only."""
    monkeypatch.setitem(KINDS, "coins", Coins())
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "coins.yaml"
    path.write_text(COINS, encoding="utf-8")
    return path


def test_a_kind_is_loaded_checked_run_compared_and_written(
    coins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(coins), "--out", "out", "--trace-events", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "2.32 ×" in printed or "num_heads" in printed
    content = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
    assert [run["metrics"]["num_heads"] for run in content["runs"]] == [6, 7, 8, 11, 12, 13]
    assert content["comparison"]["variants"]["many"]["num_heads"]["mean"] == 12
    assert "Tossed." in Path("out/report.html").read_text(encoding="utf-8")
    assert Path("out/tosses-many-3.csv").read_text(encoding="utf-8") == "heads\n13\n"
    assert Path("out/trace-many-1.json").is_file()


def test_a_kind_s_own_check_and_keys_are_obeyed(coins: Path) -> None:
    with pytest.raises(ScenarioError, match="num_coins: bad luck"):
        sim.load_scenario(str(coins), overrides=["num_coins=13"])
    with pytest.raises(ScenarioError, match="num_coins"):
        sim.load_scenario(str(coins), overrides=["num_coins=0"])
    with pytest.raises(ScenarioError, match="unknown metric"):
        sim.load_scenario(str(coins), overrides=["thresholds[0].metric=num_tails"])


def test_a_kind_s_threshold_sweep_and_schema_follow(coins: Path) -> None:
    quiet = ["--out", "out", "--quiet", "--jobs", "1"]
    assert main(["run", str(coins), *quiet, "--set", "thresholds[0].min=99"]) == 1
    assert main(["sweep", str(coins), "--over", "num_coins=10", *quiet, "--metric", "num_heads"]) == 0
    rows = list(csv.DictReader(Path("out/sweep.csv").read_text(encoding="utf-8").splitlines()))
    assert [float(row["num_heads"]) for row in rows] == [7.0, 12.0]
    described = scenario_schema()["$defs"]["CoinsScenario"]["properties"]
    assert described["num_coins"]["maximum"] == 1000


def test_what_is_no_kind_is_refused_with_those_that_are(coins: Path) -> None:
    with pytest.raises(ScenarioError) as told:
        sim.load_scenario(str(coins), overrides=["kind=coin"])
    assert told.value.allowed == "serving, kernel, training, coins"
    assert told.value.hint == "coins"
