"""Failures and checkpoints against a step-by-step account and against Young and Daly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_jobs import S

from sim.rng import stream
from sim.training.scenario import Failures
from sim.training.schedule.failures import checkpoint_interval_s, with_failures, young_daly_s


def account(update_ps: list[int], failures: Failures, n: int, seed: int) -> tuple[int, int, int]:
    """(end, failures, checkpoints) of the same job, one step after another."""
    rng = stream(seed, "failures")
    mean_ps = failures.mtbf_s / n * S
    interval = max(1, round(checkpoint_interval_s(failures, n) * S))
    lengths = np.diff(update_ps, prepend=0).tolist()
    now = step = saved = since = num_failures = num_checkpoints = 0
    fails = round(rng.standard_exponential() * mean_ps)
    while step < len(lengths):
        spent = lengths[step]
        is_due = since + lengths[step] >= interval and step + 1 < len(lengths)
        if is_due:
            spent += round(failures.checkpoint_s * S)
        if now + spent > fails:
            num_failures += 1
            rng.integers(n)
            now = fails + round(failures.restart_s * S)
            fails = now + round(rng.standard_exponential() * mean_ps)
            step, since = saved, 0
            continue
        now, step, since = now + spent, step + 1, since + lengths[step]
        if is_due:
            saved, since, num_checkpoints = step, 0, num_checkpoints + 1
    return now, num_failures, num_checkpoints


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=60),
    st.integers(20, 400),
    st.integers(0, 5),
    st.integers(1, 80),
    st.integers(0, 50),
)
def test_jumps_between_checkpoints_are_the_account_of_every_step(
    lengths: list[int], mtbf_s: int, checkpoint_s: int, interval_s: int, seed: int
) -> None:
    failures = Failures(mtbf_s=mtbf_s * 4, restart_s=3, checkpoint_s=checkpoint_s, interval_s=interval_s)
    update_ps = np.cumsum(lengths) * S
    found = with_failures(update_ps, failures, 4, seed)
    end, num_failures, num_checkpoints = account(update_ps.tolist(), failures, 4, seed)
    assert int(found.update_ps[-1]) == end
    assert (found.failures.time_ps.size, found.num_checkpoints) == (num_failures, num_checkpoints)
    assert (np.diff(found.update_ps) > 0).all()


def test_the_young_daly_interval_beats_half_and_twice_of_it() -> None:
    """sqrt(2 delta M) on a long job of many short steps; the losses are those of the first-order formula."""
    best = young_daly_s(5.0, 1000.0)
    assert best == pytest.approx(100.0)
    update_ps = np.arange(1, 400_001, dtype=np.int64) * S
    lost = {}
    for factor in (0.25, 1.0, 4.0):
        failures = Failures(mtbf_s=8000.0, checkpoint_s=5.0, interval_s=best * factor)
        lost[factor] = int(with_failures(update_ps, failures, 8, 1).update_ps[-1]) / int(update_ps[-1]) - 1
        first_order = 5.0 / (best * factor) + (best * factor + 5) / 2 / 1000
        assert lost[factor] == pytest.approx(first_order, rel=0.2)
    assert lost[1.0] < lost[0.25] and lost[1.0] < lost[4.0]
    assert checkpoint_interval_s(Failures(mtbf_s=8000.0, checkpoint_s=5.0), 8) == pytest.approx(best)
