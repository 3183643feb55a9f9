"""Exact theory of synchronous, asynchronous and bounded-staleness training, within four standard errors."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import numpy.typing as npt
import pytest
from training_jobs import S, job

from sim.training.delays import SlowWorker, StepVariation
from sim.training.schedule.asynchronous import run_asynchronous
from sim.training.schedule.synchronous import run_synchronous
from sim.training.sync import UNBOUNDED

EXPONENTIAL = StepVariation(distribution="exponential")


def harmonic(n: int) -> float:
    return sum(1 / k for k in range(1, n + 1))


def mean_within(gaps: npt.NDArray[np.float64], expected: float, num_batches: int = 40) -> None:
    """The mean agrees within 4 standard errors, from batch means (steps of SSP are correlated)."""
    batches = np.array([part.mean() for part in np.array_split(gaps, num_batches)])
    error = batches.std(ddof=1) / sqrt(num_batches)
    assert abs(batches.mean() - expected) < 4 * error, (batches.mean(), expected, error)
    assert error < 0.02 * expected


def steps_s(update_ps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.diff(update_ps, prepend=0) / S


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_bsp_of_exponential_steps_takes_the_harmonic_number(n: int) -> None:
    outcome = run_synchronous(job(n, 20_000, variation=EXPONENTIAL))
    mean_within(steps_s(outcome.update_ps), harmonic(n))


@pytest.mark.parametrize("n", [2, 9])
def test_bsp_of_uniform_steps_takes_n_over_n_plus_1(n: int) -> None:
    uniform = StepVariation(distribution="uniform", min=0.0, max=1.0)
    mean_within(steps_s(run_synchronous(job(n, 20_000, variation=uniform)).update_ps), n / (n + 1))


@pytest.mark.parametrize(("n", "backups"), [(16, 2), (16, 0), (10, 9)])
def test_backup_workers_save_the_last_order_statistics(n: int, backups: int) -> None:
    outcome = run_synchronous(job(n, 20_000, "k_sync", num_awaited=n - backups, variation=EXPONENTIAL))
    mean_within(steps_s(outcome.update_ps), harmonic(n) - harmonic(backups))
    assert outcome.num_cancelled == 20_000 * backups


def test_k_async_updates_as_often_as_k_sync_of_exponential_steps() -> None:
    outcome, _ = run_asynchronous(job(16, 3000, "k_async", num_awaited=14, variation=EXPONENTIAL))
    mean_within(steps_s(outcome.update_ps), harmonic(16) - harmonic(2))


def test_asp_goes_at_the_sum_of_all_rates_with_a_mean_staleness_of_n_minus_1() -> None:
    n = 8
    outcome, _ = run_asynchronous(job(n, 10_000, "asp", staleness_bound=UNBOUNDED, variation=EXPONENTIAL))
    mean_within(steps_s(outcome.update_ps), 1 / n)
    assert outcome.gradients is not None
    mean_within(outcome.gradients.staleness[1000:].astype(np.float64), n - 1)


def test_asp_of_unlike_workers_goes_at_the_sum_of_their_rates() -> None:
    slow = StepVariation(slow_workers=(SlowWorker(worker=3, slowdown=2.0),))
    outcome, _ = run_asynchronous(job(8, 4000, "asp", staleness_bound=UNBOUNDED, variation=slow))
    assert 8 * 4000 / (outcome.end_ps / S) == pytest.approx(7.5, rel=1e-3)


@pytest.mark.parametrize("bound", [0, 1, 2, 3, 10])
def test_ssp_of_two_workers_has_its_birth_and_death_rate(bound: int) -> None:
    """2s + 3 equally likely differences; a worker is held in the two outermost: mu (4s + 4)/(2s + 3)."""
    outcome, _ = run_asynchronous(job(2, 60_000, "ssp", staleness_bound=bound, variation=EXPONENTIAL))
    mean_within(steps_s(outcome.update_ps), (2 * bound + 3) / (4 * bound + 4))


@pytest.mark.parametrize("law", ["exponential", "lognormal", "pareto"])
def test_ssp_limits_are_bsp_and_asp_exactly(law: str) -> None:
    variation = StepVariation(distribution=law, sigma=0.7, alpha=2.5)  # type: ignore[arg-type]
    bsp = run_synchronous(job(8, 300, variation=variation)).update_ps
    zero, _ = run_asynchronous(job(8, 300, "ssp", variation=variation))
    assert zero.update_ps[7::8].tolist() == bsp.tolist()
    far, _ = run_asynchronous(job(8, 300, "ssp", staleness_bound=10**6, variation=variation))
    asp, _ = run_asynchronous(job(8, 300, "asp", staleness_bound=UNBOUNDED, variation=variation))
    assert far.update_ps.tolist() == asp.update_ps.tolist()
    assert far.gradients is not None and asp.gradients is not None
    assert far.gradients.staleness.tolist() == asp.gradients.staleness.tolist()


def test_a_larger_bound_is_never_slower() -> None:
    ends = [
        run_asynchronous(job(8, 500, "ssp", staleness_bound=bound, variation=EXPONENTIAL))[0].end_ps
        for bound in (0, 1, 2, 5, 20)
    ]
    assert ends == sorted(ends, reverse=True)


@pytest.mark.parametrize("bound", [0, 3, 10, 50])
def test_no_finite_bound_helps_against_a_worker_that_is_always_slow(bound: int) -> None:
    """8 workers, one at half speed: in the long run half of the nominal rate; ASP has 0.9375."""
    slow = StepVariation(slow_workers=(SlowWorker(worker=0, slowdown=2.0),))
    outcome, _ = run_asynchronous(job(8, 2000, "ssp", staleness_bound=bound, variation=slow))
    late = outcome.update_ps[outcome.update_ps.size // 2 :]
    assert (late.size - 1) / ((late[-1] - late[0]) / S) / 8 == pytest.approx(0.5, rel=2e-3)
    asp, _ = run_asynchronous(job(8, 2000, "asp", staleness_bound=UNBOUNDED, variation=slow))
    assert 2000 / (asp.end_ps / S) == pytest.approx(0.9375, rel=1e-3)


def test_staleness_of_a_gated_worker_stays_below_what_the_bound_allows() -> None:
    """Between its read and its gradient the others can do at most 2s + 1 steps each."""
    bound, n = 2, 6
    outcome, _ = run_asynchronous(job(n, 500, "ssp", staleness_bound=bound, variation=EXPONENTIAL))
    assert outcome.gradients is not None
    assert outcome.gradients.staleness.max() <= (n - 1) * (2 * bound + 1)
    assert (outcome.gradients.staleness >= 0).all()


def test_local_sgd_waits_for_the_slowest_sum_of_h_steps() -> None:
    """H exponential steps are an Erlang time: the mean of the largest of two is H + H C(2H, H)/4^H."""
    outcome = run_synchronous(job(2, 40_000, "local_sgd", local_steps=4, variation=EXPONENTIAL))
    mean_within(steps_s(outcome.update_ps), 4 + 4 * 70 / 256)


LAWS: dict[str, tuple[StepVariation, Callable[[], float]]] = {
    "shifted_exponential": (
        StepVariation(distribution="shifted_exponential", random_fraction=0.3),
        lambda: 0.3,
    ),
    "lognormal": (StepVariation(distribution="lognormal", sigma=0.5), lambda: sqrt(np.exp(0.25) - 1)),
    "pareto": (StepVariation(distribution="pareto", alpha=6.0), lambda: 1 / sqrt(6 * 4)),
    "exponential": (EXPONENTIAL, lambda: 1.0),
}


@pytest.mark.parametrize("law", LAWS)
def test_step_times_have_mean_1_and_the_law_s_spread(law: str) -> None:
    variation, deviation = LAWS[law]
    compute, _ = job(20, 20_000, variation=variation).times.matrix(20_000)
    values = compute / S
    assert values.mean() == pytest.approx(1, abs=4 * deviation() / sqrt(values.size))
    assert values.std() == pytest.approx(deviation(), rel=0.05)
