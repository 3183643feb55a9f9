"""Renamed words: old scenarios are read with a warning, old summaries are compared under the new names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.cli.command import main
from sim.errors import ScenarioError
from sim.scenario import renamed
from sim.scenario.renamed import Renamed
from tools.renamed import main as compare_galleries

SCENARIO = """\
schema_version: 1
question: Is an old word read?
kind: serving
hardware: l4
model: gpt2
engine: {dtype: float16, most_seqs: 4}
workload:
  arrivals: {process: constant, requests_per_s: 1}
  num_requests: 9
  classes:
    chat: {share: 1, in_tokens: 10, output_tokens: 5}
    code: {share: 1, prompt_tokens: 30, output_tokens: 5}
"""
VARIANTS = """\
compare: {reference: a, variants: {a: {}, b: {engine: {most_seqs: 2}}}}
thresholds: [{variant: b, metric: answers_per_s, min: 0.1}]
"""
KEYS = (
    Renamed(old="engine.most_seqs", new="engine.max_num_seqs", since="9.9"),
    Renamed(old="workload.classes.*.in_tokens", new="workload.classes.*.prompt_tokens", since="9.9"),
)
METRICS = (Renamed(old="answers_per_s", new="requests_per_s", since="9.9"),)
WARNED = "engine.most_seqs is called engine.max_num_seqs since version 9.9"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scenario with words that were renamed, for this test only."""
    monkeypatch.setitem(renamed.KEYS, "serving", KEYS)
    monkeypatch.setattr(renamed, "METRICS", METRICS)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "old.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def texts(file: Any) -> list[str]:
    return [str(caution).partition(":")[0] for caution in file.warnings]


def test_old_keys_are_read_under_their_new_names(old: Path) -> None:
    file = sim.load_scenario(str(old))
    assert file.base.engine.max_num_seqs == 4
    assert file.base.workload.classes["chat"].prompt_tokens.value == 10
    assert texts(file) == [
        WARNED,
        "workload.classes.*.in_tokens is called workload.classes.*.prompt_tokens since version 9.9",
    ]


def test_a_scenario_of_today_is_not_warned(old: Path) -> None:
    text = SCENARIO.replace("most_seqs", "max_num_seqs").replace("in_tokens", "prompt_tokens")
    old.write_text(text, encoding="utf-8")
    assert sim.load_scenario(str(old)).warnings == ()


def test_old_keys_in_variants_and_old_metrics_in_thresholds(old: Path) -> None:
    old.write_text(SCENARIO + VARIANTS, encoding="utf-8")
    file = sim.load_scenario(str(old))
    assert [variant.scenario.engine.max_num_seqs for variant in file.variants] == [4, 2]
    assert file.base.thresholds[0].metric == "requests_per_s"
    assert texts(file)[-1] == "answers_per_s is called requests_per_s since version 9.9"


@pytest.mark.parametrize(
    "override",
    [
        "engine.most_seqs=3",
        "engine={most_seqs: 3}",
        "engine.max_num_seqs=3",
    ],
)
def test_an_override_under_the_old_or_the_new_name_wins_over_the_file(old: Path, override: str) -> None:
    if override == "engine={most_seqs: 3}":
        old.write_text(SCENARIO.replace(", most_seqs: 4", ""), encoding="utf-8")
    file = sim.load_scenario(str(old), overrides=[override])
    assert file.base.engine.max_num_seqs == 3
    assert WARNED in texts(file) or "most_seqs" not in override


def test_overrides_of_variants_classes_and_metrics(old: Path) -> None:
    old.write_text(SCENARIO + VARIANTS, encoding="utf-8")
    overrides = [
        "compare.variants.b.engine.most_seqs=7",
        "workload.classes.code.in_tokens=40",
        "thresholds[0].metric=answers_per_s",
    ]
    file = sim.load_scenario(str(old), overrides=overrides)
    assert file.variants[1].scenario.engine.max_num_seqs == 7
    assert file.base.workload.classes["code"].prompt_tokens.value == 40
    assert file.base.thresholds[0].metric == "requests_per_s"


def test_the_old_and_the_new_name_together_are_refused(old: Path) -> None:
    old.write_text(SCENARIO.replace("most_seqs: 4", "most_seqs: 4, max_num_seqs: 4"), encoding="utf-8")
    with pytest.raises(ScenarioError, match="most_seqs is the old name of max_num_seqs") as told:
        sim.load_scenario(str(old))
    assert told.value.path == "engine.most_seqs"


def test_the_warning_is_on_the_terminal_in_summary_and_report(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(old), "--out", "out", "--jobs", "1"]) == 0
    assert "most_seqs is called" in " ".join(capsys.readouterr().out.split())
    content = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
    assert [one["kind"] for one in content["runs"][0]["warnings"]][:2] == ["renamed", "renamed"]
    assert "write engine.max" in Path("out/report.md").read_text(encoding="utf-8").replace("\\", "")


def test_check_and_sweep_warn_too(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(old)]) == 0
    assert f"warning {old}: {WARNED}" in capsys.readouterr().err
    command = ["sweep", str(old), "--over", "engine.most_seqs=1,2", "--metric", "answers_per_s"]
    assert main([*command, "--jobs", "1", "--out", "swept", "--quiet"]) == 0
    said = capsys.readouterr()
    assert f"warning: {WARNED}" in said.err
    assert "warning: answers_per_s is called requests_per_s" in said.err
    rows = json.loads(Path("swept/sweep.json").read_text(encoding="utf-8"))
    assert rows["warnings"][0].startswith(WARNED)
    assert "requests_per_s" in Path("swept/sweep.csv").read_text(encoding="utf-8").splitlines()[0]


def test_a_case_measured_under_an_old_name_is_scored(old: Path) -> None:
    from sim.trust.cases import load_cases

    measured = "measured: [{metric: answers_per_s, value: 1, source: a test}]\n"
    old.write_text(SCENARIO + measured, encoding="utf-8")
    assert load_cases(old, "old")[0].measured.metric == "requests_per_s"
    assert texts(sim.load_scenario(str(old)))[-1].startswith("answers_per_s is called")


def summary(**changes: Any) -> dict[str, Any]:
    run = {"verdict": "COMPUTE-BOUND", "metrics": {"answers_per_s": 1.0, "other": 2}, "seed": 1}
    return {"runs": [{**run, **changes}]}


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"verdict": "COMPUTE_BOUND", "metrics": {"requests_per_s": 1.0, "other": 2}}, 0, "same"),
        ({"verdict": "COMPUTE_BOUND", "metrics": {"requests_per_s": 1.0 + 2**-52, "other": 2}}, 1, "was 1.0"),
        ({"verdict": "MEMORY_BOUND", "metrics": {"requests_per_s": 1.0, "other": 2}}, 1, "runs.0.verdict"),
        ({"verdict": "COMPUTE_BOUND", "metrics": {"answers_per_s": 1.0, "other": 2}}, 1, "gone"),
    ],
)
def test_galleries_are_compared_under_the_new_names(
    old: Path, changes: dict[str, Any], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, content in (("before", summary()), ("after", summary(**changes))):
        (Path(folder) / "one").mkdir(parents=True)
        (Path(folder) / "one" / "summary.json").write_text(json.dumps(content), encoding="utf-8")
    assert compare_galleries(["before", "after"]) == code
    assert said in capsys.readouterr().out
    (Path("after") / "two").mkdir()
    (Path("after") / "two" / "summary.json").write_text("{}", encoding="utf-8")
    assert compare_galleries(["before", "after"]) == 1


def test_every_renamed_word_is_in_the_changelog() -> None:
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    words = [*renamed.METRICS, *renamed.VERDICTS, *renamed.COLUMNS]
    words += [one for keys in renamed.KEYS.values() for one in keys]
    missing = [one.old for one in words if f"| `{one.old}` | `{one.new}` |" not in text]
    assert missing == []
