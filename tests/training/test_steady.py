"""What a training run says of itself: rates without a start-up, warnings of what rates hide, verdicts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from training_jobs import job

from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.html import render_html
from sim.report.markdown import render_markdown
from sim.report.terminal import render_answer
from sim.training.delays import SlowWorker, StepVariation
from sim.training.learning.problems import largest_stable_rate
from sim.training.schedule.asynchronous import FEWEST_ROUNDS, run_asynchronous
from sim.training.sync import UNBOUNDED

SLOW = StepVariation(slow_workers=(SlowWorker(worker=0, slowdown=2.0),))


def answer(tmp_path: Path, scheme: dict[str, Any], **changes: Any) -> Any:
    """Eight workers without an exchange, one of them at half speed unless said otherwise."""
    made = {
        "schema_version": 1,
        "question": "?",
        "kind": "training",
        "seeds": [1, 2],
        "hardware": "a100-sxm-80gb",
        "training": {"num_workers": 8, "num_steps": 400, "micro_batch_size": 1, "max_seq_len": 1000},
        "compute": {"compute_s": 1.0},
        "exchange": {"algorithm": "none"},
        "variation": {"slow_workers": [{"worker": 0, "slowdown": 2}]},
        "sync": scheme,
    }
    for name, value in changes.items():
        made[name] = {**made[name], **value} if isinstance(made.get(name), dict) else value
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(made), encoding="utf-8")
    return run_scenario(load_scenario(path))


def metrics(found: Any) -> dict[str, Any]:
    return dict(found.summaries["base"][0].metrics)


@pytest.mark.parametrize("num_steps", [400, 3000])
@pytest.mark.parametrize("bound", [0, 3, 10, 50])
def test_under_a_bound_the_rate_is_that_of_the_worker_that_stays_slow(
    tmp_path: Path, bound: int, num_steps: int
) -> None:
    """Half of the nominal rate, exactly, however long the run: without its start-up (0.625 at 400 steps)."""
    found = metrics(
        answer(tmp_path, {"scheme": "ssp", "staleness_bound": bound}, training={"num_steps": num_steps})
    )
    assert found["gradients_per_s"] == pytest.approx(8 * 0.5, rel=1e-9)
    assert found["tokens_per_s"] == pytest.approx(8 * 0.5 * 1000, rel=1e-9)
    assert found["step_s"] == pytest.approx(2.0, rel=1e-9)
    assert found["training_s"] <= 2.0 * num_steps


def test_what_is_measured_adds_up() -> None:
    """In its window every worker computes, waits or exchanges, and nothing else."""
    outcome, _ = run_asynchronous(job(8, 400, "ssp", staleness_bound=50, variation=SLOW))
    steady = outcome.steady
    assert steady is not None and steady.begin_ps > 0
    columns = steady.workers
    parts = columns.compute_ps + columns.wait_ps + columns.exchange_ps + columns.optimizer_ps
    assert int(columns.num_steps.sum()) == steady.end - steady.begin
    # A worker's first step in the window began before it, by at most one step of the slow one.
    assert np.all(np.abs(parts - (steady.end_ps - steady.begin_ps)) <= 2 * 10**12)
    assert columns.wait_ps[0] == 0
    assert columns.wait_ps[1] / columns.num_steps[1] == pytest.approx(10**12, rel=0.02)


@pytest.mark.parametrize(("scheme", "bound"), [("asp", UNBOUNDED), ("k_async", 0)])
def test_without_a_bound_all_of_the_run_is_measured(scheme: str, bound: int) -> None:
    made = job(8, 50, scheme, num_awaited=4, staleness_bound=bound, variation=SLOW)
    outcome, _ = run_asynchronous(made)
    assert outcome.steady is None
    assert (outcome.measured.begin, outcome.measured.end_ps) == (0, outcome.end_ps)


def test_a_run_too_short_for_its_bound_says_so_and_how_long_it_must_be(tmp_path: Path) -> None:
    scheme = {"scheme": "ssp", "staleness_bound": 50}
    short = answer(tmp_path, scheme, training={"num_steps": 60})
    (caution,) = [one for one in short.summaries["base"][0].warnings if one.kind == "bound_not_reached"]
    assert "held nobody back in 60 steps" in caution.observation
    needed = int(caution.remedy.split(": ")[1].split(" ")[0].replace(",", ""))
    long = answer(tmp_path, scheme, training={"num_steps": needed})
    assert "bound_not_reached" not in {one.kind for one in long.summaries["base"][0].warnings}
    assert metrics(long)["gradients_per_s"] == pytest.approx(4.0, rel=1e-9)


def test_a_bound_that_acts_only_at_the_end_is_told_apart(tmp_path: Path) -> None:
    scheme = {"scheme": "ssp", "staleness_bound": 50}
    late = answer(tmp_path, scheme, training={"num_steps": 96 + FEWEST_ROUNDS // 2})
    (caution,) = [one for one in late.summaries["base"][0].warnings if one.kind == "bound_not_reached"]
    assert "only near the end" in caution.observation


# --- staleness -----------------------------------------------------------------------------------


def kinds(found: Any) -> set[str]:
    return {one.kind for one in found.summaries["base"][0].warnings}


def test_a_start_up_that_is_left_in_what_is_measured_is_warned_of(tmp_path: Path) -> None:
    """A fifth slower, 50 steps of lead last 300: the fastest is held long before the others are."""
    slow = {"distribution": "lognormal", "sigma": 0.3, "slow_workers": [{"worker": 0, "slowdown": 1.2}]}
    scheme = {"scheme": "ssp", "staleness_bound": 50}
    short = answer(tmp_path, scheme, training={"num_steps": 500}, variation=slow)
    (caution,) = [one for one in short.summaries["base"][0].warnings if one.kind == "bound_not_reached"]
    assert "part of the start-up" in caution.meaning
    needed = int(caution.remedy.split()[1].replace(",", ""))
    assert needed > 500
    longer = answer(tmp_path, scheme, training={"num_steps": 8000}, variation=slow)
    assert "bound_not_reached" not in kinds(longer)
    steps = [one.results["base"][0].outcome.steady.workers.num_steps for one in (short, longer)]
    ahead = [one.mean() / one.min() - 1 for one in steps]
    assert ahead[0] > 0.02 > ahead[1]


def test_stale_gradients_are_warned_of_where_rates_count_them_in_full(tmp_path: Path) -> None:
    stale = answer(tmp_path, {"scheme": "asp"})
    (caution,) = [one for one in stale.summaries["base"][0].warnings if one.kind == "stale_gradients"]
    mean = metrics(stale)["staleness_steps"]
    assert mean == pytest.approx(7, abs=0.3)  # n - 1
    times_less = largest_stable_rate(0) / largest_stable_rate(mean)
    assert f"a learning rate {times_less:.2g} times smaller" in caution.meaning
    assert "a target_loss, and in each variant the learning_rate that its scheme bears" in caution.remedy
    assert "stale_gradients" not in kinds(answer(tmp_path, {"scheme": "bsp"}))


def test_with_a_loss_beside_it_staleness_needs_no_warning(tmp_path: Path) -> None:
    learning = {"problem": "noisy_quadratic", "learning_rate": 0.01}
    assert "stale_gradients" not in kinds(answer(tmp_path, {"scheme": "asp"}, learning=learning))


def test_half_the_learning_rate_is_where_the_warning_begins(tmp_path: Path) -> None:
    """Two equal workers under ASP have a staleness of 1, at which SGD bears 2 sin(pi/6) = 1, not 2."""
    two = {"num_workers": 2, "num_steps": 400}
    exponential = {"distribution": "exponential", "slow_workers": []}
    assert largest_stable_rate(1) == pytest.approx(largest_stable_rate(0) / 2)
    pair = answer(tmp_path, {"scheme": "asp"}, training=two, variation=exponential)
    assert ("stale_gradients" in kinds(pair)) == (metrics(pair)["staleness_steps"] >= 1)
    one = {"num_workers": 1, "num_steps": 400}
    assert "stale_gradients" not in kinds(
        answer(tmp_path, {"scheme": "asp"}, training=one, variation=exponential)
    )


def test_the_warning_reaches_every_view(tmp_path: Path) -> None:
    from sim.cli.command import main

    answer(tmp_path, {"scheme": "asp"})
    path, out = tmp_path / "scenario.yaml", tmp_path / "out"
    table = tmp_path / "metrics.csv"
    assert main(["run", str(path), "--out", str(out), "--csv", str(table)]) == 0
    said = "updates old when used"
    for name in ("report.html", "report.md", "summary.json"):
        assert said in (out / name).read_text(encoding="utf-8"), name
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert rows and all(said in row["warnings"] for row in rows)


def test_terminal_and_pages_show_it_beside_the_answer(tmp_path: Path) -> None:
    found = answer(tmp_path, {"scheme": "asp"})
    said = "updates old when used"
    assert said in " ".join(render_answer(found).split())
    assert said in render_markdown(report_of(found))
    assert said in render_html(report_of(found))


# --- verdicts ------------------------------------------------------------------------------------


def test_half_of_a_step_spent_waiting_for_one_worker_is_said_so(tmp_path: Path) -> None:
    """Seven of eight workers wait half of their time: computing takes more, but is not what to work on."""
    found = answer(tmp_path, {"scheme": "bsp"})
    verdict = found.summaries["base"][0].verdict
    assert verdict.word == "STRAGGLER_BOUND"
    assert "44% waiting for slower workers" in verdict.reason
    healthy = answer(tmp_path, {"scheme": "bsp"}, variation={"slow_workers": []})
    assert healthy.summaries["base"][0].verdict.word == "COMPUTE_BOUND"


def test_what_failures_take_is_part_of_a_step(tmp_path: Path) -> None:
    found = run_scenario(load_scenario("training/checkpoint_interval"))
    for name, summaries in found.summaries.items():
        for one in summaries:
            lost = one.metrics["lost_fraction"] or 0.0
            assert f"{lost:.0%} work done again, restarts, checkpoints" in one.verdict.reason, name
            assert (one.verdict.word == "FAILURE_BOUND") == (lost >= 0.3)
    interval = found.comparison.cells["Young"]["checkpoint_interval_s"].mean
    assert interval == pytest.approx((2 * 60 * 57_600 / 16) ** 0.5)  # Young's, of the whole job's failures
    page = render_markdown(report_of(found))
    assert json.dumps("time between checkpoints")[1:-1] in page
