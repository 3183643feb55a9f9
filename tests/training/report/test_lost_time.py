"""What failures and checkpoints take of a job's time, in the picture of a comparison that is about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.figures import Picture
from sim.results.answer import AnyAnswer

BASE: dict[str, Any] = {
    "schema_version": 1,
    "question": "?",
    "kind": "training",
    "hardware": "h100-sxm-80gb",
    "training": {"num_workers": 16, "num_steps": 2000, "micro_batch_size": 1, "max_seq_len": 1000},
    "compute": {"compute_s": 10},
    "exchange": {"algorithm": "none"},
    "failures": {"mtbf_s": 57600, "checkpoint_s": 60, "restart_s": 300},
}


def answered(tmp_path: Path, variants: dict[str, Any], **changes: Any) -> AnyAnswer:
    path = tmp_path / "scenario.yaml"
    compare = {"reference": next(iter(variants)), "variants": variants}
    path.write_text(
        yaml.safe_dump({**BASE, **changes, "compare": compare}, sort_keys=False), encoding="utf-8"
    )
    return run_scenario(load_scenario(path))


def pictures(answer: AnyAnswer) -> dict[str, Picture]:
    return {one.key: one for section in report_of(answer).sections for one in section.pictures}


def every(*intervals_s: int) -> dict[str, Any]:
    return {f"every {one}": {"failures": {"interval_s": one}} for one in intervals_s}


def test_useful_and_lost_time_stand_against_the_interval(tmp_path: Path) -> None:
    answer = answered(tmp_path, every(7200, 600, 120))
    shown = pictures(answer)
    assert next(iter(shown)) == "lost-time"  # what the comparison is about decides
    picture = shown["lost-time"]
    by_name = {str(row[0]): dict(zip(picture.header, row, strict=True)) for row in picture.rows}
    cells = answer.comparison.cells
    for name, row in by_name.items():
        lost = sum(float(str(row[part])) for part in ("checkpoints", "work done again", "restarts"))
        assert lost == pytest.approx(cells[name]["lost_fraction"].mean)
        assert row["useful"] == pytest.approx(1 - lost)
        assert row["s between checkpoints"] == cells[name]["checkpoint_interval_s"].mean
    useful = next(trace for trace in picture.traces if trace["name"] == "useful")
    assert useful["x"] == [120, 600, 7200]  # in the order of the axis
    best = max(cells, key=lambda one: cells[one]["ettr_fraction"].mean or 0.0)
    assert picture.layout["shapes"][0]["x0"] == cells[best]["checkpoint_interval_s"].mean
    assert picture.reading.startswith(f"{best} has the most useful time, ")


def test_two_ways_are_bars_and_the_step_has_what_stops_the_job(tmp_path: Path) -> None:
    answer = answered(tmp_path, every(600, 120))
    shown = pictures(answer)
    assert {trace["type"] for trace in shown["lost-time"].traces} == {"bar"}
    split = {str(row[0]): row[1:] for row in shown["step-split"].rows}
    for index, name in enumerate(answer.comparison.variants):
        step_s = sum(float(str(values[index])) for values in split.values())
        assert step_s == pytest.approx(answer.comparison.cells[name]["step_s"].mean, rel=1e-6)


def test_failures_that_cost_all_alike_do_not_decide(tmp_path: Path) -> None:
    alike = {"one": {}, "other": {"compute": {"compute_s": 9.99}}}
    shown = pictures(
        answered(tmp_path, alike, failures={"mtbf_s": 4e6, "checkpoint_s": 0.01, "restart_s": 1})
    )
    assert next(iter(shown)) == "step-split"
    assert "lost-time" in shown


def test_without_failures_there_is_no_such_picture(tmp_path: Path) -> None:
    shown = pictures(answered(tmp_path, {"one": {}, "other": {"compute": {"compute_s": 5}}}, failures=None))
    assert "lost-time" not in shown
    assert "failures, checkpoints" not in {str(row[0]) for row in shown["step-split"].rows}


def test_a_failing_worker_of_asp_loses_its_own_time(tmp_path: Path) -> None:
    """Nobody waits for it: the others' time is useful, and nothing stops the whole job."""
    variants = {"asp": {}, "often": {"failures": {"mtbf_s": 5760}}}
    answer = answered(tmp_path, variants, sync={"scheme": "asp"})
    rows = {str(row[0]): row for row in pictures(answer)["lost-time"].rows}
    for name in variants:
        assert rows[name][1] is None
        assert rows[name][2] == pytest.approx(answer.comparison.cells[name]["ettr_fraction"].mean)
