"""Every warning reaches every view of an answer: terminal, pages, Markdown, JSON and CSV, of every kind."""

from __future__ import annotations

import csv
import html
import json
from pathlib import Path

import pytest

from sim.cli.command import main
from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario
from sim.plan.sweep import Sweep, sweep_points, sweep_warnings
from sim.scenario.caution import Caution

SERVING = """\
schema_version: 1
question: How many replicas?
kind: serving
hardware: mi300x
model: llama-3.1-8b
workload:
  arrivals: {process: poisson, requests_per_s: 40}
  prompt_tokens: {distribution: fixed, value: 100}
  output_tokens: {distribution: fixed, value: 5}
  num_requests: 40
slo: {ttft_s: 500 ms}
"""
TRAINING = """\
schema_version: 1
question: How fast does it train?
kind: training
seeds: [1]
hardware: mi300x
model: gpt2-large
training: {num_workers: 2, num_steps: 5, max_seq_len: 1024}
variation: {distribution: exponential}
"""
KERNEL = """\
schema_version: 1
question: How long does it take?
kind: kernel
hardware: mi300x
kernel: {gemm: {m: 512, n: 512, k: 512}}
"""
ONE = {"serving": SERVING, "training": TRAINING, "kernel": KERNEL}
SWEPT = {
    "serving": "replicas=1,2",
    "training": "training.micro_batch_size=1,2",
    "kernel": "kernel.gemm.m=512,1024",
}


def plain(text: str) -> str:
    """Without line ends, escapes and what Markdown puts before its signs."""
    return " ".join(html.unescape(text).replace("\\", "").split())


@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("num_variants", [1, 2])
def test_a_run_shows_its_warnings_in_every_view(
    kind: str, num_variants: int, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = "compare: {reference: a, variants: {a: {}, b: {}}}\n" if num_variants == 2 else ""
    Path("one.yaml").write_text(ONE[kind] + compare, encoding="utf-8")
    answer = run_scenario(load_scenario("one.yaml"))
    wanted = [str(caution) for _, caution in answer.comparison.warnings]
    assert wanted
    assert main(["run", "one.yaml", "--out", "out", "--csv", "rows.csv", "--jobs", "1"]) == 0
    views = {
        "terminal": capsys.readouterr().out,
        **{name: Path("out", name).read_text(encoding="utf-8") for name in ("report.html", "report.md")},
        "summary.json": json.dumps(json.loads(Path("out/summary.json").read_text()), ensure_ascii=False),
    }
    for name, view in views.items():
        for text in wanted:
            assert text in plain(view), f"{name} has not: {text}"
    rows = list(csv.DictReader(Path("rows.csv").read_text(encoding="utf-8").splitlines()))
    for row, summary in zip(rows, (x for found in answer.summaries.values() for x in found), strict=True):
        assert row["warnings"] == " | ".join(f"{one.kind}: {one}" for one in summary.warnings)


@pytest.mark.parametrize("kind", ONE)
def test_a_sweep_shows_its_runs_warnings_in_every_view(
    kind: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("one.yaml").write_text(ONE[kind], encoding="utf-8")
    own = {
        caution.kind: str(caution)
        for found in run_scenario(load_scenario("one.yaml")).summaries.values()
        for summary in found
        for caution in summary.warnings
    }
    assert main(["sweep", "one.yaml", "--over", SWEPT[kind], "--out", "out", "--jobs", "1"]) == 0
    terminal = capsys.readouterr().err
    content = json.loads(Path("out/sweep.json").read_text(encoding="utf-8"))
    page = plain(Path("out/sweep.html").read_text(encoding="utf-8"))
    for text in content["warnings"]:
        assert text in plain(terminal)
        assert text in page
    rows = list(csv.DictReader(Path("out/sweep.csv").read_text(encoding="utf-8").splitlines()))
    assert own
    for name, text in own.items():  # the first point is the scenario as it stands
        assert {"kind": name, "text": text} in content["points"][0]["warnings"]
        assert f"{name}: {text}" in rows[0]["warnings"]
        assert any(line.endswith(text) for line in content["warnings"])


def test_points_that_share_a_warning_are_counted(empty_folder: Path) -> None:
    Path("one.yaml").write_text(SERVING, encoding="utf-8")
    points = tuple(sweep_points("one.yaml", ["replicas=1:3"], overrides=["seeds=[1,2]"]))
    rows = (
        {"warnings": "queue_grows: the queue grew by 5\nno_slo: no SLO"},
        {"warnings": "queue_grows: the queue grew by 3\nno_slo: no SLO"},
        {"warnings": "no_slo: no SLO\nrequests_lost: 3 lost"},
    )
    sweep = Sweep(question="?", command="", keys=("replicas",), points=points, rows=rows)
    assert sweep_warnings(sweep) == [
        "2 of 3 points, first at replicas = 1: the queue grew by 5",
        "every point: no SLO",
        "replicas = 3: 3 lost",
    ]


def test_each_device_of_a_sweep_is_warned_of_by_name(empty_folder: Path) -> None:
    """Of one kind, and worded by more than their numbers."""
    Path("one.yaml").write_text(SERVING, encoding="utf-8")
    points = tuple(sweep_points("one.yaml", ["hardware=l4,l40s,a10"], overrides=["seeds=[1,2]"]))
    rows = tuple(
        {"warnings": f"efficiency_not_measured: {name}: borrowed from another: 3.5 %"}
        for name in ("l4", "l40s", "a10")
    )
    sweep = Sweep(question="?", command="", keys=("hardware",), points=points, rows=rows)
    assert [line.partition(": borrowed")[0] for line in sweep_warnings(sweep)] == [
        f"hardware = {name}: {name}" for name in ("l4", "l40s", "a10")
    ]


def test_two_warnings_of_one_kind_are_two(empty_folder: Path) -> None:
    """Old words in one file: each is named, in the comparison as in the run's own summary."""
    from fake_results import replace

    from sim.kinds.run import compare

    Path("one.yaml").write_text(SERVING, encoding="utf-8")
    first = run_scenario(load_scenario("one.yaml")).summaries["base"][0]
    twice = tuple(
        Caution(kind="renamed", observation=word, meaning="has a new name", remedy="use it")
        for word in ("old_a", "old_b")
    )
    found = compare({"base": [replace(first, warnings=twice)]}, "base").warnings
    assert [caution.observation for _, caution in found if caution.kind == "renamed"] == ["old_a", "old_b"]


@pytest.mark.parametrize(("engine", "is_said"), [("{}", True), ("{overheads: {step_s: 1 ms}}", False)])
@pytest.mark.parametrize("slo", ["500 ms", "1 us"])
def test_an_answer_about_capacity_says_that_host_time_is_left_out(
    engine: str, is_said: bool, slo: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SERVING.replace("500 ms", slo) + f"engine: {engine}\n"
    Path("one.yaml").write_text(text, encoding="utf-8")
    assert main(["sweep", "one.yaml", "--over", "replicas=1,2", "--out", "out", "--jobs", "1"]) == 0
    said = "; no CPU time between steps."  # behind another device's efficiencies
    assert (said in plain(capsys.readouterr().out)) is is_said
    for name in ("sweep.html", "sweep.md", "sweep.json"):
        assert (said in plain(Path("out", name).read_text(encoding="utf-8"))) is is_said
    assert main(["run", "one.yaml", "--out", "one", "--jobs", "1"]) == 0
    assert (said in plain(capsys.readouterr().out)) is is_said


def test_a_start_that_may_run_out_of_memory_is_warned_of_by_run_and_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpt-oss-20b at 0.95 under 0.19 failed in its sampler's warm-up."""
    path = tmp_path / "tight.yaml"
    path.write_text(
        "schema_version: 1\nquestion: Does it start?\nkind: serving\nhardware: h100-sxm-80gb\n"
        "model: gpt-oss-20b\nengine: {vllm_version: 0.19.0, gpu_memory_utilization: 0.95}\n"
        "workload: {arrivals: {process: poisson, requests_per_s: 1}, prompt_tokens: 10, output_tokens: 5,"
        " num_requests: 20}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(path)]) == 0
    assert "the sampler's warm-up" in capsys.readouterr().err
    assert main(["run", str(path), "--out", "out", "--jobs", "1"]) == 0
    assert "the start may run out of memory" in " ".join(capsys.readouterr().out.split())
    assert "start_may_fail" in (tmp_path / "out" / "summary.json").read_text(encoding="utf-8")
    assert "warm-up" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
