"""Recipes whose entry is a file that is found by its name, or a line of a dict: nobody else need know.

Each test adds an entry that the program has never heard of and demands that every command knows it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

import sim
from sim.cli.catalog import engine_table, model_table, scenario_table
from sim.cli.command import VERBS, main
from sim.kinds.executors import EXECUTORS, Place, SerialExecutor
from sim.model.config import load_model
from sim.model.counts import num_parameters
from sim.scenario.shipped import data_dir

SCENARIO = """\
schema_version: 1
question: Does the new entry run?
kind: serving
seeds: [1]
hardware: l4
model: {model}
workload:
  arrivals: {{process: all_at_once}}
  prompt_tokens: 32
  output_tokens: 8
  num_requests: 4
engine: {engine}
"""


def written(folder: Path, *, model: str = "gpt2", engine: str = "{max_model_len: 1024}") -> Path:
    path = folder / "scenario.yaml"
    path.write_text(SCENARIO.format(model=model, engine=engine), encoding="utf-8")
    return path


def test_an_engine_profile_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profiles = tmp_path / "engine_profiles"
    shutil.copytree(data_dir("engine_profiles"), profiles)
    monkeypatch.setattr("sim.hardware.engine_profile.data_dir", lambda folder: tmp_path / folder)
    (profiles / "nobodys-1.0.yaml").write_text(
        "name: nobodys-1.0\nengine: vllm\nversion: '1.0'\nhost: a desk\n"
        "overheads:\n  step_s: {value: 7 ms, source: 'a test'}\nnotes: of one machine\n",
        encoding="utf-8",
    )
    assert main(["check", str(profiles / "nobodys-1.0.yaml")]) == 0
    assert "nobodys-1.0" in engine_table()
    assert main(["show", "nobodys-1.0"]) == 0
    assert "a test" in capsys.readouterr().out
    results = {}
    for engine in ("{max_model_len: 1024}", "{max_model_len: 1024, profile: nobodys-1.0}"):
        answer = sim.run_scenario(sim.load_scenario(written(tmp_path, engine=engine)))
        results[engine] = answer.results["base"][0]
    without, with_it = results.values()
    assert with_it.scenario.engine.overheads.step_s == 0.007
    assert with_it.scenario.engine.overheads.source == "engine profile nobodys-1.0: a test"
    assert int(with_it.requests.finish_ps.max()) > int(without.requests.finish_ps.max())


def test_a_model_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    shutil.copytree(data_dir("models"), models)
    config = json.loads((models / "gpt2.json").read_text(encoding="utf-8"))
    config |= {"n_layer": 2, "_gpuyard": {**config["_gpuyard"], "name": "Tiny"}}
    (models / "tiny-2-layers.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setattr("sim.model.catalogue.data_dir", lambda folder: tmp_path / folder)
    assert "tiny-2-layers" in model_table()
    shape = load_model("tiny-2-layers")
    assert num_parameters(load_model("gpt2")) - num_parameters(shape) == 10 * 7_087_872  # a layer of GPT-2
    assert main(["show", "tiny-2-layers"]) == 0
    assert main(["memory", "--model", "tiny-2-layers", "--hardware", "l4"]) == 0
    assert main(["explain", "--model", "tiny-2-layers", "--hardware", "l4", "--decode", "1"]) == 0
    assert main(["run", str(written(tmp_path, model="tiny-2-layers"))]) == 0
    assert "tiny-2-layers" in capsys.readouterr().out


def test_a_gallery_scenario_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools import gallery

    scenarios = tmp_path / "scenarios"
    (scenarios / "serving").mkdir(parents=True)
    shutil.move(written(tmp_path), scenarios / "serving" / "a_new_one.yaml")
    monkeypatch.setattr(
        "sim.scenario.shipped.data_dir",
        lambda folder: scenarios if folder == "scenarios" else data_dir(folder),
    )
    monkeypatch.setattr(gallery, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(gallery, "PAGES", tmp_path / "pages")
    assert "serving/a_new_one" in scenario_table()
    assert gallery.check(gallery.chosen([]), jobs=1) == 1  # not committed yet
    assert gallery.build(gallery.chosen([]), jobs=1, draw=False) == 0
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {"a_new_one.json", "README.md"}
    assert {path.name for path in (tmp_path / "pages" / "a_new_one").iterdir()} == {
        "summary.json", "report.html", "report.md"
    }  # fmt: skip
    assert "Does the new entry run?" in (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")
    assert gallery.check(gallery.chosen([]), jobs=1) == 0
    capsys.readouterr()
    assert main(["run", "serving/a_new_one"]) == 0
    assert "Does the new entry run?" in capsys.readouterr().out


def test_a_validation_case_is_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cases"
    folder.mkdir()
    case = folder / "case.yaml"
    shutil.move(written(tmp_path), case)
    answer = sim.run_scenario(sim.load_scenario(case))
    mean = answer.summaries["base"][0].metrics["mean_e2e_s"]
    assert mean is not None
    with case.open("a", encoding="utf-8") as file:
        file.write(f"measured:\n  - {{metric: mean_e2e_s, value: {mean / 1.25:.12f}, source: a test}}\n")
    assert main(["validate", str(folder), "--json"]) == 0
    board = json.loads(capsys.readouterr().out)
    assert [round(row["error"], 6) for row in board["values"]] == [0.25]


def test_a_verb_is_a_module_and_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("sim.cli.greet")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("whom")

    def run(arguments: argparse.Namespace) -> int:
        print(f"hello, {arguments.whom}")
        return 0

    vars(module).update(add_arguments=add_arguments, run=run)
    monkeypatch.setitem(sys.modules, "sim.cli.greet", module)
    monkeypatch.setitem(VERBS, "greet", "say hello")
    assert main(["greet", "world"]) == 0
    assert capsys.readouterr().out == "hello, world\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "say hello" in capsys.readouterr().out


def test_a_place_to_run_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[tuple[int, str]] = []

    @contextmanager
    def beside(jobs: int, address: str) -> Iterator[Executor]:
        opened.append((jobs, address))
        yield SerialExecutor()

    assert isinstance(EXECUTORS, dict)
    monkeypatch.setitem(EXECUTORS, "beside", Place(example="beside://DESK", open=beside))
    sweep = ["sweep", str(written(tmp_path)), "--over", "replicas=1,2", "--out", str(tmp_path / "out")]
    assert main([*sweep, "--executor", "beside://the-window", "--jobs", "3"]) == 0
    assert opened == [(3, "the-window")]
    assert main([*sweep, "--executor", "besides://x"]) == 2
    assert "beside://DESK" in capsys.readouterr().err
