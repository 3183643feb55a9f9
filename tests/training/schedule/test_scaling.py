"""Scaling curves against closed forms; sweeps of training scenarios; what cannot run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.cli.command import main
from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario
from sim.training.checks import check_training
from sim.training.records import ScalingPoint
from sim.training.schedule.scaling import scaling_points

GIVEN: dict[str, Any] = {
    "schema_version": 1,
    "question": "How far does it scale?",
    "kind": "training",
    "hardware": {"base": "a100-sxm-80gb", "inter_node": {"bytes_per_s": "10 GB/s", "latency_s": "10 us"}},
    "training": {"num_workers": 4, "num_steps": 50, "gpus_per_node": 1},
    "compute": {"compute_s": "500 ms", "gradient_bytes": "1 GB"},
    "exchange": {"algorithm": "ring", "overlap": False, "first_bucket_mb": 2000, "bucket_cap_mb": 2000},
    "scaling": {"num_workers": [1, 2, 4, 16, 64, 256, 1024], "num_steps": 10},
}


def load(folder: Path, **changes: Any) -> Any:
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(GIVEN | changes), encoding="utf-8")
    return load_scenario(path)


def points(folder: Path, **changes: Any) -> tuple[ScalingPoint, ...]:
    return scaling_points(load(folder, **changes).base, 1, folder, check_training)


def test_a_ring_nobody_hides_costs_its_closed_form(tmp_path: Path) -> None:
    """Efficiency c / (c + 2(n-1)(α + S/(nB))): level from a few workers on, until latency counts."""
    for one in points(tmp_path):
        n = one.num_workers
        ring_s = 2 * (n - 1) * (10e-6 + 1e9 / n / 10e9)
        assert one.efficiency == pytest.approx(0.5 / (0.5 + ring_s), rel=1e-6)
        assert one.exposed_comm_s == pytest.approx(ring_s, rel=1e-6)


def test_exponential_step_times_scale_by_the_harmonic_number(tmp_path: Path) -> None:
    """BSP without exchange: the slowest of n takes H_n times the mean, so a worker brings 1/H_n."""
    changes = {"exchange": {"algorithm": "none"}, "variation": {"distribution": "exponential"}}
    scaling = {"num_workers": [1, 2, 4, 16, 64], "num_steps": 8000}
    for one in points(tmp_path, scaling=scaling, **changes):
        harmonic = sum(1 / k for k in range(1, one.num_workers + 1))
        assert one.efficiency == pytest.approx(1 / harmonic, rel=0.04)


def test_a_server_under_asp_saturates_at_its_nic(tmp_path: Path) -> None:
    """One NIC carries B/S gradients a second, however many workers there are."""
    server = {"algorithm": "parameter_server"}
    found = points(
        tmp_path,
        exchange=server,
        sync={"scheme": "asp"},
        scaling={"num_workers": [1, 64], "num_steps": 100},
    )
    assert found[-1].gradients_per_s == pytest.approx(10, rel=0.02)


def test_sizes_that_cannot_run_are_named_and_the_rest_is_measured(tmp_path: Path) -> None:
    """An 8B model needs ZeRO-3 over several GPUs: efficiency counts from the fewest that can hold it."""
    priced = {
        "model": "llama-3.1-8b",
        "compute": {},
        "exchange": {},
        "training": {"num_workers": 16, "num_steps": 20, "max_seq_len": 1024, "zero_stage": 3},
        "scaling": {"num_workers": [1, 2, 4, 8, 16], "num_steps": 5},
    }
    answer = run_scenario(load(tmp_path, **priced))
    result: Any = answer.results["base"][0]
    refused = [one for one in result.scaling if one.refused]
    assert refused and refused[0].num_workers == 1 and "does not fit" in refused[0].refused
    runs = [one for one in result.scaling if not one.refused]
    assert runs[0].efficiency == 1.0 and runs[-1].num_workers == 16
    metrics = answer.summaries["base"][0].metrics
    assert metrics["scaling_efficiency"] == runs[-1].efficiency
    assert metrics["efficient_workers"] in [one.num_workers for one in runs]


def test_the_report_shows_three_curves_and_says_what_cannot_run(tmp_path: Path) -> None:
    from sim.kinds.registry import report_of
    from sim.report.markdown import render_markdown
    from sim.training.report.page import build_report

    single = {
        "exchange": {"algorithm": "data_parallel_single_process"},
        "training": {"num_workers": 4, "num_steps": 50, "gpus_per_node": 8},
    }
    answer = run_scenario(load(tmp_path, **single))
    pictures = {one.key: one for section in build_report(answer).sections for one in section.pictures}
    assert {"scaling-rate", "scaling-efficiency", "scaling-exposed"} <= set(pictures)
    assert [row[0] for row in pictures["scaling-rate"].rows] == [1, 2, 4]
    assert "cannot run with 16, 64, 256, 1024 workers" in render_markdown(report_of(answer))


@pytest.mark.parametrize(
    ("scaling", "path"),
    [
        ({"num_workers": [4]}, "scaling.num_workers"),
        ({"num_workers": []}, "scaling.num_workers"),
        ({"num_workers": [4, 2]}, "scaling.num_workers"),
        ({"num_workers": [2, 2]}, "scaling.num_workers"),
        ({"num_workers": [0, 2]}, "scaling.num_workers"),
        ({"num_workers": [1, 65536], "num_steps": 1000}, "scaling.num_steps"),
        ({"min_efficiency": 0}, "scaling.min_efficiency"),
        ({"min_efficiency": 1.5}, "scaling.min_efficiency"),
        ({"workers": [1, 2]}, "scaling.workers"),
    ],
)
def test_no_curve_says_why(scaling: dict[str, Any], path: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path, scaling=scaling)
    assert path in caught.value.path


def test_a_sweep_over_workers_is_the_same_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``gpuyard sweep --over training.num_workers=...`` on a training scenario: table, CSV, picture."""
    file = load(tmp_path, training={"num_workers": 4, "num_steps": 10, "gpus_per_node": 1})
    curve = {one.num_workers: one for one in scaling_points(file.base, 1, tmp_path, check_training)}
    out = tmp_path / "sweep"
    words = ["sweep", file.path, "--over", "training.num_workers=1,4,64", "--set", "scaling=null"]
    words += ["--metric", "gradients_per_s", "--metric", "exposed_comm_s", "--jobs", "1", "--out", str(out)]
    assert main(words) == 0
    with (out / "sweep.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["training.num_workers"]) for row in rows] == [1, 4, 64]
    for row in rows:
        point = curve[int(row["training.num_workers"])]
        assert float(row["gradients_per_s"]) == pytest.approx(point.gradients_per_s, rel=1e-6)
        assert float(row["exposed_comm_s"]) == pytest.approx(point.exposed_comm_s, abs=1e-9)
    assert "training.num_workers" in (out / "sweep.html").read_text()
    assert "num_workers" in capsys.readouterr().out
