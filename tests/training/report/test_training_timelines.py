"""The workers' timelines of a report: who is shown, and until when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario
from sim.report.figures import lanes
from sim.training.report.time import shown_workers, timeline_pictures, until_the_first_is_done

TEXT = """
schema_version: 1
question: Who waits for whom?
kind: training
hardware: a100-sxm-80gb
training: {num_workers: WORKERS, num_steps: 40}
compute: {compute_s: 1 s}
exchange: {algorithm: none}
variation: {slow_workers: [{worker: SLOW, slowdown: 2}]}
compare: {reference: bsp, variants: {bsp: {}, asp: {sync: {scheme: asp}}}}
"""


def results_of(folder: Path, num_workers: int, slow: int) -> Any:
    path = folder / "timeline.yaml"
    path.write_text(TEXT.replace("WORKERS", str(num_workers)).replace("SLOW", str(slow)), encoding="utf-8")
    return run_scenario(load_scenario(path)).results


@pytest.mark.parametrize(
    ("num_workers", "slow", "shown"),
    [
        (4, 2, [0, 1, 2, 3]),
        (16, 15, list(range(16))),
        (40, 5, list(range(16))),
        (40, 31, [*range(15), 31]),
    ],
)
def test_the_slowest_worker_is_always_shown(
    tmp_path: Path, num_workers: int, slow: int, shown: list[int]
) -> None:
    assert shown_workers(results_of(tmp_path, num_workers, slow)["bsp"][0]) == shown


def test_shares_are_those_of_a_time_in_which_all_work(tmp_path: Path) -> None:
    """A half-speed worker, 12 steps: under BSP (3 x 12 + 23) / (4 x 23) = 64 %; under ASP all the time."""
    bsp, asp = timeline_pictures(results_of(tmp_path, 4, 2), lanes(["bsp", "asp"]))
    assert "compute 64 % of the time" in bsp.reading
    assert "compute 100 % of the time" in asp.reading
    assert max(float(row[3] or 0) for row in asp.rows) == 12.0


def test_spans_are_cut_where_the_first_worker_is_done() -> None:
    spans = [(0, "compute", 0.0, 2.0), (0, "exchange", 2.0, 3.0), (1, "compute", 0.0, 4.0)]
    assert until_the_first_is_done(spans) == [
        (0, "compute", 0.0, 2.0),
        (0, "exchange", 2.0, 3.0),
        (1, "compute", 0.0, 3.0),
    ]
    assert until_the_first_is_done([]) == []


def test_waits_are_drawn_and_the_straggler_is_marked(tmp_path: Path) -> None:
    bsp, _ = timeline_pictures(results_of(tmp_path, 4, 2), lanes(["bsp", "asp"]))
    drawn = {trace["name"]: trace for trace in bsp.traces}
    assert set(drawn) == {"compute", "waits"}  # nothing is loaded, nothing exchanged: no name for it
    assert drawn["waits"]["marker"]["color"] not in ("@paper", "@free")
    assert set(drawn["waits"]["y"]) == {"worker 0", "worker 1", "worker 3"}
    assert [label for label in dict.fromkeys(drawn["compute"]["y"]) if "▸" in label] == ["<b>▸ worker 2</b>"]
    assert "worker 2 is the slowest" in bsp.reading


def test_workers_that_are_alike_are_not_marked_and_alike_variants_are_drawn_once(tmp_path: Path) -> None:
    path = tmp_path / "timeline.yaml"
    alike = TEXT.replace("WORKERS", "4").replace(
        "variation: {slow_workers: [{worker: SLOW, slowdown: 2}]}", ""
    )
    path.write_text(alike, encoding="utf-8")
    (picture,) = timeline_pictures(run_scenario(load_scenario(path)).results, lanes(["bsp", "asp"]))
    assert picture.title == "The first steps of bsp, asp"
    assert not any("▸" in label for trace in picture.traces for label in trace["y"])
    assert "Marked" not in picture.reading
