"""SGD on a schedule: the quadratic's exact stability, gradients by differences, order and staleness."""

from __future__ import annotations

from itertools import islice
from math import pi, sin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.learning.delayed_sgd import convergence_factor, stationary_variance

from sim.errors import InvariantError
from sim.training.learning import sgd
from sim.training.learning.problems import (
    PROBLEMS,
    LogisticRegression,
    Mlp,
    NoisyQuadratic,
    largest_stable_rate,
    rings,
)
from sim.training.learning.sgd import (
    Schedule,
    learn,
    learn_locally,
    single_gradient_schedule,
    synchronous_schedule,
)


def delayed(num_updates: int, delay: int) -> Schedule:
    """One gradient per update, each ``delay`` updates old (as old as can be at the start)."""
    version = np.maximum(np.arange(num_updates) - delay, 0)
    worker = np.arange(num_updates) % (delay + 1)
    return single_gradient_schedule(np.arange(1.0, num_updates + 1), worker, version)


@pytest.mark.parametrize("delay", range(8))
def test_the_stability_limit_by_roots(delay: int) -> None:
    limit = largest_stable_rate(delay)
    assert limit == 2 * sin(pi / (2 * (2 * delay + 1)))
    assert convergence_factor(limit, delay) == pytest.approx(1, abs=1e-9)
    assert convergence_factor(0.999 * limit, delay) < 1 < convergence_factor(1.001 * limit, delay)


@pytest.mark.parametrize("delay", [0, 1, 2, 3, 7])
def test_the_stability_limit_by_simulation(delay: int) -> None:
    """2 % below the limit the loss falls without end, 2 % above it grows."""
    problem = NoisyQuadratic(curvatures=(1.0,))
    limit = largest_stable_rate(delay)
    below = learn(problem, delayed(4000, delay), learning_rate=0.98 * limit, evaluate_every=1000)
    above = learn(problem, delayed(4000, delay), learning_rate=1.02 * limit, evaluate_every=1000)
    assert below.losses[-1] < 1e-3 * below.losses[1]
    assert above.losses[-1] > 1e3 * above.losses[1]


@pytest.mark.parametrize("delay", [0, 2, 5])
def test_the_pace_of_convergence_is_the_largest_roots(delay: int) -> None:
    rate = 0.25 * largest_stable_rate(delay)
    problem = NoisyQuadratic(curvatures=(1.0,))
    curve = learn(problem, delayed(600, delay), learning_rate=rate)
    # the loss is quadratic in the error; complex roots make it swing, so two distant envelopes are compared
    early, late = curve.losses[150:250].max(), curve.losses[350:450].max()
    assert (late / early) ** (1 / 400) == pytest.approx(convergence_factor(rate, delay), rel=2e-3)


def test_noise_ends_at_the_stationary_variance() -> None:
    problem = NoisyQuadratic(curvatures=(0.5,), noise=1.0, start_value=0.0)
    curve = learn(problem, delayed(60_000, 0), learning_rate=0.4)
    squares = 2 * curve.losses[200:] / 0.5
    # successive values are correlated by 1 - η h = 0.8: about a ninth of them count
    spread = 4 * np.sqrt(2 * (1 + 0.64) / (1 - 0.64) / len(squares))
    assert squares.mean() == pytest.approx(stationary_variance(0.4, 0.5, 1.0), rel=spread)


def test_gradients_are_differences_of_the_loss() -> None:
    rng = np.random.default_rng(3)
    problem = Mlp(examples=rings(60, 3, 2), hidden_size=5)
    weights = problem.start() + 0.3 * rng.standard_normal(len(problem.start()))
    exact = problem.gradients_of(weights, problem.examples)
    for i in rng.choice(len(weights), 12, replace=False):
        step = np.zeros(len(weights))
        step[i] = 1e-6
        slope = (problem.loss(weights + step) - problem.loss(weights - step)) / 2e-6
        assert exact[i] == pytest.approx(slope, abs=1e-6)


def test_mini_batches_of_logistic_regression_average_to_the_gradient() -> None:
    problem = LogisticRegression()
    rng = np.random.default_rng(5)
    weights = rng.standard_normal(20) * 0.3
    batches = np.array(list(islice(problem.draws(rng), 4000)))
    drawn = problem.gradients(np.tile(weights, (4000, 1)), batches)
    errors = drawn.std(axis=0) / np.sqrt(len(drawn))
    for i in range(20):
        step = np.zeros(20)
        step[i] = 1e-6
        slope = (problem.loss(weights + step) - problem.loss(weights - step)) / 2e-6
        assert abs(drawn.mean(axis=0)[i] - slope) < 5 * errors[i]


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("batch_size", [1, 16])
def test_gradients_that_are_computed_together_are_those_computed_alone(name: str, batch_size: int) -> None:
    problem = PROBLEMS[name](batch_size)
    rng = np.random.default_rng(7)
    weights = problem.start() + 0.3 * rng.standard_normal((20, len(problem.start())))
    drawn = np.array(list(islice(problem.draws(rng), 20)))
    together = problem.gradients(weights, drawn)
    alone = [problem.gradients(weights[i : i + 1], drawn[i : i + 1])[0] for i in range(20)]
    assert together.tobytes() == np.array(alone).tobytes()


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("aware", [False, True])
def test_a_curve_does_not_depend_on_how_many_gradients_come_together(
    name: str, aware: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stale gradients that arrive one by one, batches of them per update, and local steps."""
    problem = PROBLEMS[name](16)
    version = np.maximum(np.arange(120) - np.arange(120) % 5, 0)
    stale = single_gradient_schedule(np.arange(120.0), np.arange(120) % 7, version)
    times = np.arange(1.0, 21.0)

    def curves() -> list[list[float]]:
        rate = {"learning_rate": 0.3}
        return [
            learn(problem, stale, staleness_aware=aware, **rate).losses.tolist(),
            learn(problem, synchronous_schedule(times, 11), staleness_aware=aware, **rate).losses.tolist(),
            learn_locally(problem, times, num_workers=11, local_steps=3, **rate).losses.tolist(),
        ]

    together = curves()
    monkeypatch.setattr(sgd, "_num_together", lambda problem: 1)
    assert curves() == together


def test_a_worker_draws_the_same_batches_however_far_ahead() -> None:
    """The k-th mini-batch is that of k calls of the generator, one batch each."""
    problem = Mlp(batch_size=5)
    rng = np.random.default_rng(3)
    one_by_one = [rng.integers(1500, size=5).tolist() for _ in range(200)]
    assert [batch.tolist() for batch in islice(problem.draws(np.random.default_rng(3)), 200)] == one_by_one


def test_bsp_is_sgd_on_the_averaged_gradient() -> None:
    """Two workers on x²/2 from 1 with η = 0.5: 1, 0.5, 0.25, at the schedule's times."""
    curve = learn(
        NoisyQuadratic(curvatures=(1.0,)),
        synchronous_schedule(np.array([2.0, 5.0]), 2),
        learning_rate=0.5,
    )
    assert curve.losses.tolist() == [0.5, 0.125, 0.03125]
    assert curve.times_s.tolist() == [0.0, 2.0, 5.0]
    assert curve.mean_staleness == 0


def test_a_stale_gradient_is_the_old_weights() -> None:
    """x: 1, then 1 - 0.5·1 = 0.5, then 0.5 - 0.5·1 = 0 (read at version 0), staleness 1."""
    schedule = single_gradient_schedule(np.array([1.0, 2.0]), np.array([0, 1]), np.array([0, 0]))
    problem = NoisyQuadratic(curvatures=(1.0,))
    assert learn(problem, schedule, learning_rate=0.5).losses.tolist() == [0.5, 0.125, 0.0]
    assert learn(problem, schedule, learning_rate=0.5).mean_staleness == 0.5


def test_a_staleness_aware_rate_divides_by_the_staleness() -> None:
    """Read three updates late: a third of the step (arXiv 1511.05950)."""
    schedule = single_gradient_schedule(np.arange(1.0, 5.0), np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0]))
    problem = NoisyQuadratic(curvatures=(1.0,))
    curve = learn(problem, schedule, learning_rate=0.5, staleness_aware=True)
    assert np.sqrt(2 * curve.losses) == pytest.approx([1, 0.5, 0.25, 0.125, abs(0.125 - 0.5 / 3)])


def test_a_staleness_aware_rate_keeps_a_delayed_run_stable() -> None:
    problem = NoisyQuadratic(curvatures=(1.0,))
    rate = 1.5 * largest_stable_rate(4)
    plain = learn(problem, delayed(3000, 4), learning_rate=rate, evaluate_every=100)
    aware = learn(problem, delayed(3000, 4), learning_rate=rate, staleness_aware=True, evaluate_every=100)
    assert plain.losses[-1] > 1e3
    assert aware.losses[-1] < 1e-6


def test_time_to_target_is_pace_times_updates() -> None:
    """Updates at equal intervals: seconds to target = seconds per update x updates to target."""
    curve = learn(LogisticRegression(), synchronous_schedule(np.arange(1, 301) * 0.25, 4), learning_rate=0.5)
    updates = curve.updates_to_target(0.5)
    assert updates is not None
    assert curve.time_to_target_s(0.5) == pytest.approx(curve.seconds_per_update * updates)
    assert curve.time_to_target_s(0.01) is None
    assert curve.updates_to_target(0.01) is None


def test_staleness_costs_updates() -> None:
    """The same gradients, applied 31 updates late, need more of them: statistical efficiency."""
    problem = Mlp()
    fresh = learn(problem, delayed(6000, 0), learning_rate=0.5, evaluate_every=20)
    stale = learn(problem, delayed(6000, 31), learning_rate=0.5, evaluate_every=20)
    reached = fresh.updates_to_target(0.2)
    assert reached is not None
    late = stale.updates_to_target(0.2)
    assert late is None or late > 1.2 * reached


def test_local_sgd_with_one_step_is_bsp() -> None:
    problem = LogisticRegression()
    times = np.arange(1.0, 41.0)
    bsp = learn(problem, synchronous_schedule(times, 4), learning_rate=0.3, seed=7)
    local = learn_locally(problem, times, num_workers=4, local_steps=1, learning_rate=0.3, seed=7)
    assert local.losses == pytest.approx(bsp.losses, rel=1e-12)


def test_local_sgd_needs_fewer_rounds() -> None:
    times = np.arange(1.0, 41.0)
    one = learn_locally(LogisticRegression(), times, num_workers=4, local_steps=1, learning_rate=0.3)
    eight = learn_locally(LogisticRegression(), times, num_workers=4, local_steps=8, learning_rate=0.3)
    fast, slow = eight.time_to_target_s(0.5), one.time_to_target_s(0.5)
    assert fast is not None
    assert slow is None or fast < slow


@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 99))
def test_the_same_seed_gives_the_same_curve(workers: int, updates: int, seed: int) -> None:
    schedule = synchronous_schedule(np.arange(1.0, updates + 1), workers)
    problem = NoisyQuadratic(noise=0.1)
    first = learn(problem, schedule, learning_rate=0.1, seed=seed)
    again = learn(problem, schedule, learning_rate=0.1, seed=seed)
    assert first.losses.tolist() == again.losses.tolist()
    assert first.num_gradients == workers * updates


def test_a_gradient_from_the_future_is_our_error() -> None:
    schedule = single_gradient_schedule(np.array([1.0]), np.array([0]), np.array([1]))
    with pytest.raises(InvariantError, match="gradient 0 of update 0 was read from version 1"):
        learn(NoisyQuadratic(), schedule, learning_rate=0.1)


def test_divergence_ends_the_curve_without_a_warning() -> None:
    curve = learn(NoisyQuadratic(curvatures=(1.0,)), delayed(5000, 0), learning_rate=9.0)
    assert np.isfinite(curve.losses).all()
    assert len(curve.losses) < 5000
