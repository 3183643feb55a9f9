"""``gpuyard validate`` from end to end: case files, exit codes, JSON, CSV and the page."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from sim.cli.command import main
from sim.kinds.schema import scenario_schema

ROOT = Path(__file__).parent.parent.parent

# One request at a time that takes 2 s: e2e is 2 s, and half of the requests' time on a doubled engine.
CASE = """
schema_version: 1
question: How long does a request of 2 s take?
kind: serving
hardware: h100-sxm-80gb
model: llama-3.1-8b
workload:
  arrivals: {process: all_at_once}
  num_requests: 1
  prompt_tokens: 16
  output_tokens: 16
engine: {batching: continuous, max_num_seqs: 1, max_model_len: 512, service_time: 2 s}
compare:
  reference: one
  variants:
    one: {}
    slow: {engine: {service_time: 6 s}}
measured:
"""
SINGLE = '  - {metric: mean_e2e_s, value: 2500 ms, source: "a <book>", group: first, tolerance: 1 %}\n'
RATIO = (
    "  - {metric: mean_e2e_s, variant: slow, over: one, value: 2, at_least: 2.5, at_most: 3.5, source: s}\n"
)
TABLE = """
  - source: a table
    group: second
    columns:
      service: engine.service_time
      time: {metric: mean_e2e_s, unit: ms, variant: one}
      rate: {metric: requests_per_s, variant: one}
    rows:
      - [1 s, 1000, 0.5]
      - [4 s, 8000, null]
"""


def folder_of(tmp_path: Path, measured: str, board: str = "") -> Path:
    folder = tmp_path / "cases"
    folder.mkdir(exist_ok=True)
    (folder / "case.yaml").write_text(CASE + measured, encoding="utf-8")
    if board:
        (folder / "board.yaml").write_text(board, encoding="utf-8")
    return folder


def validate(folder: Path, *more: str) -> int:
    return main(["validate", str(folder), "--jobs", "1", "--out", str(folder.parent / "out"), *more])


def values(folder: Path) -> list[dict[str, str]]:
    with (folder.parent / "out" / "board.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_values_ratios_and_tables_are_run_and_scored(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, SINGLE + RATIO + TABLE)
    assert validate(folder) == 0
    found = {(row["point"], row["metric"], row["over"]): row for row in values(folder)}
    assert {key: float(row["predicted"]) for key, row in found.items()} == pytest.approx(
        {
            ("", "mean_e2e_s", ""): 2.0,
            ("", "mean_e2e_s", "one"): 3.0,
            ("service 1 s", "mean_e2e_s", ""): 1.0,
            ("service 1 s", "requests_per_s", ""): 1.0,
            ("service 4 s", "mean_e2e_s", ""): 4.0,
        }
    )
    errors = [float(row["error"]) for row in found.values()]
    assert errors == pytest.approx([-0.2, 0.5, 0.0, 1.0, -0.5])


def test_json_says_what_the_csv_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path, SINGLE + TABLE)
    assert validate(folder, "--json", "--quiet") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((folder.parent / "out" / "board.json").read_text(encoding="utf-8"))
    assert [row["predicted"] for row in printed["values"]] == [
        float(row["predicted"]) for row in values(folder)
    ]
    assert [group["name"] for group in printed["groups"]] == ["first", "second"]


BOARD = """
title: Small <board>
groups:
  first: {about: A band, max_median_error: 30 %, rivals: {other: 0.4}}
  second: {max_median_error: 10 %, min_rank_correlation: 0.9}
"""


def test_a_missed_bound_is_exit_code_1_and_stands_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, SINGLE + TABLE, BOARD)
    assert validate(folder, "--values") == 1
    text = capsys.readouterr().out
    assert text.index("second (not seen by a fit)") < text.index("first (not seen by a fit)")
    assert "MISSED: median_error 50.0 %, at most 10.0 %" in text
    assert "other: median error 40.0 %" in text
    assert validate(folder, "--only", "first") == 0
    assert validate(folder, "--only", "first", "--max-median-error", "0.1") == 1


def test_the_page_has_the_misses_first_and_a_parity_plot_per_group(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, SINGLE + TABLE, BOARD)
    validate(folder, "--no-report")
    assert not (folder.parent / "out").exists()
    validate(folder)
    page = (folder.parent / "out" / "board.html").read_text(encoding="utf-8")
    assert page.index("<h2>Misses</h2>") < page.index("<h2>Groups</h2>") < page.index("<h2>By case</h2>")
    assert 'id="plot-parity_second_unseen"' in page and 'id="plot-parity_first_unseen"' in page
    assert "Small &lt;board&gt;" in page and "a &lt;book&gt;" in page and "<book>" not in page
    assert "gpuyard validate" in page


def test_a_ratio_outside_its_band_is_a_miss(tmp_path: Path) -> None:
    assert validate(folder_of(tmp_path, RATIO.replace("at_least: 2.5", "at_least: 3.01"))) == 1


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("mean_e2e_s, value", "mean_e2e, value", "measured[0].metric"),
        ("value: 2500 ms", "value: 2500 GB", "measured[0].value"),
        ("value: 2500 ms", "value: -1", "measured[0].value"),
        ("value: 2500 ms", "valu: 1", "measured[0].valu"),
        ("value: 2500 ms", "value: 3, unit: GB", "measured[0].value"),
        ("tolerance: 1 %", "tolerance: 0", "measured[0].tolerance"),
        ("value: 2500 ms", "value: 2, over: two", "measured[0].over"),
        ("engine.service_time", "engine.service_tim", "engine.service_tim"),
        ("engine.service_time", "3", "measured[1].columns.service"),
        ("{metric: requests_per_s, variant: one}", "{metric: requests_per_s, varian: one}", "columns.rate"),
        ("[1 s, 1000, 0.5]", "[1 s, 1000]", "measured[1].rows[0]"),
        ("[1 s, 1000, 0.5]", "[1 GB, 1000, 0.5]", "engine.service_time"),
        ("[1 s, 1000, 0.5]", "[1 s, -4, 0.5]", "measured[1].rows[0].time"),
        (SINGLE + TABLE, "  3", "measured"),
        (SINGLE + TABLE, "  - 3", "measured[0]"),
    ],
)
def test_a_broken_measured_list_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, path: str
) -> None:
    text = SINGLE + TABLE
    assert old in text
    folder = folder_of(tmp_path, text.replace(old, new))
    assert validate(folder) == 2
    said = capsys.readouterr().err
    assert path in said and "case.yaml" in said


@pytest.mark.parametrize(
    ("board", "said"),
    [
        ("groups: {frst: {max_median_error: 0.1}}", "did you mean first"),
        ("groups: {first: {max_median: 0.1}}", "max_median"),
        ("groups: {first: {max_median_error: -1}}", "out of bounds"),
    ],
)
def test_a_broken_board_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], board: str, said: str
) -> None:
    assert validate(folder_of(tmp_path, SINGLE, board)) == 2
    error = capsys.readouterr().err
    assert said in error and "board.yaml" in error


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    assert main(["validate", str(tmp_path)]) == 2
    assert main(["validate", str(tmp_path / "none")]) == 2
    (tmp_path / "case.yaml").write_text(CASE.replace("measured:\n", ""), encoding="utf-8")
    assert main(["validate", str(tmp_path)]) == 2


def test_the_same_scenario_runs_and_checks_with_its_measured_list(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, SINGLE + RATIO, BOARD.replace("second", "all"))
    assert main(["check", str(folder)]) == 0
    assert main(["run", str(folder / "case.yaml"), "--out", str(tmp_path / "run")]) == 0


def test_the_json_schema_knows_measured_values() -> None:
    validator = jsonschema.Draft202012Validator(scenario_schema())
    assert validator.is_valid(yaml.safe_load(CASE + SINGLE + RATIO + TABLE))
    assert not validator.is_valid(yaml.safe_load(CASE + SINGLE.replace("metric:", "metrics:")))
    assert not validator.is_valid(yaml.safe_load(CASE + TABLE.replace("columns:", "column:")))
    for path in sorted((ROOT / "tests" / "validation").rglob("*.yaml")):
        if path.name != "board.yaml":
            assert validator.is_valid(yaml.safe_load(path.read_text(encoding="utf-8"))), path.name
