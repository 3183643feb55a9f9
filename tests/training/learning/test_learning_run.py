"""A scenario's learning, followed on a schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario
from sim.training.learning.sgd import (
    LearningConfig,
    first_gradients,
    learn_run,
    single_gradient_schedule,
    synchronous_schedule,
)


@pytest.mark.parametrize("problem", ["logistic_regression", "mlp", "noisy_quadratic"])
def test_every_problem_learns_on_a_schedule(problem: str) -> None:
    schedule = synchronous_schedule(np.arange(1.0, 501.0), 4)
    result = learn_run(LearningConfig(problem=problem), schedule, seed=1)  # type: ignore[arg-type]
    assert result.curve.losses[-1] < 0.8 * result.curve.losses[0]
    assert result.updates_to_target is None
    assert not result.is_cut


def test_a_target_is_reached_sooner_by_more_workers_per_second() -> None:
    """Eight workers' single gradients against one worker's, same pace each: about as many updates, sooner."""
    learning = LearningConfig(target_loss=0.5, learning_rate=0.05)
    one = single_gradient_schedule(np.arange(1.0, 2001.0), np.zeros(2000, dtype=np.int64), np.arange(2000))
    version = np.maximum(np.arange(2000) - 7, 0)
    eight = single_gradient_schedule(np.arange(1.0, 2001.0) / 8, np.arange(2000) % 8, version)
    alone, together = learn_run(learning, one, seed=1), learn_run(learning, eight, seed=1)
    assert alone.time_to_target_s is not None
    assert together.time_to_target_s is not None
    assert together.time_to_target_s < alone.time_to_target_s / 4
    assert together.updates_to_target == pytest.approx(alone.updates_to_target, rel=0.4)


def test_long_schedules_are_cut_at_whole_updates() -> None:
    schedule = synchronous_schedule(np.arange(1.0, 101.0), 8)
    cut = first_gradients(schedule, 100)
    assert cut.num_updates == 12
    assert len(cut.update) == 96
    assert first_gradients(schedule, 800) is schedule
    assert first_gradients(schedule, 3).num_updates == 1
    assert learn_run(LearningConfig(max_gradients=100), schedule, seed=1).is_cut


def test_local_steps_are_counted_as_updates() -> None:
    schedule = synchronous_schedule(np.arange(1.0, 11.0), 2)
    result = learn_run(LearningConfig(), schedule, seed=1, local_steps=5)
    assert result.curve.updates[-1] == 50
    assert result.curve.times_s[-1] == 10


def test_a_scenario_learns_on_its_own_schedule(tmp_path: Path) -> None:
    """ASP's gradients come sooner but stale and one by one: it needs more updates, or never arrives."""
    text = """
schema_version: 1
question: What does staleness cost in updates?
kind: training
hardware: a100-sxm-80gb
training: {num_workers: 8, num_steps: 200, max_seq_len: 128}
compute: {compute_s: 1 s, gradient_bytes: 10 MB}
exchange: {algorithm: none}
variation: {distribution: exponential}
learning: {learning_rate: 0.3, target_loss: 0.485}
compare: {reference: bsp, variants: {bsp: {}, asp: {sync: {scheme: asp}}}}
"""
    file = tmp_path / "learning.yaml"
    file.write_text(text)
    answer = run_scenario(load_scenario(file))
    bsp, asp = (answer.summaries[name][0].metrics for name in ("bsp", "asp"))
    assert bsp["updates_to_target"] is not None
    assert bsp["time_to_target_s"] is not None
    assert (asp["updates_to_target"] or 1600) > 1.5 * bsp["updates_to_target"]
    assert asp["final_loss"] == pytest.approx(bsp["final_loss"], rel=0.1)
    assert bsp["time_to_target_s"] == pytest.approx(
        bsp["updates_to_target"] / (bsp["updates_per_s"] or 0), rel=0.3
    )
