"""A static batch runs to its longest member: E[max of b geometric lengths], exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fake_price import requests, run_fixed

from sim.rng import stream

NUM_BATCHES = 400


def expected_longest(members: int, mean: float) -> float:
    """E[max of b geometric variables on 1, 2, ...] = sum over k >= 0 of 1 - (1 - (1 - p)^k)^b, p = 1/mean."""
    steps = np.arange(math.ceil(60 * mean))  # the terms beyond are below b exp(-60)
    return float(np.sum(1 - (1 - (1 - 1 / mean) ** steps) ** members))


def batch_lengths(members: int, mean: float) -> np.ndarray:
    """Steps of each batch of a queue that is always full, from the engine's segments at 1 s a step."""
    rng = stream(7, f"geometric {members} {mean}")
    outputs = rng.geometric(1 / mean, NUM_BATCHES * members)
    table = requests([0] * len(outputs), [1] * len(outputs), outputs.tolist())
    result = run_fixed(
        table,
        step_s=1.0,
        batching="static",
        max_num_seqs=members,
        max_model_len=1_000_000,
        num_gpu_blocks_override=10_000_000,
    )
    segments = result.segments
    starts = np.flatnonzero(segments.num_prefill > 0)
    assert len(starts) == NUM_BATCHES
    steps = np.add.reduceat(segments.num_steps, starts)
    # Each batch lasts as long as its longest member, no less and no more.
    assert steps.tolist() == outputs.reshape(NUM_BATCHES, members).max(axis=1).tolist()
    return np.asarray(steps)


@pytest.mark.parametrize("members", [1, 4, 32])
@pytest.mark.parametrize("mean", [2.0, 20.0, 300.0])
def test_steps_per_batch(members: int, mean: float) -> None:
    lengths = batch_lengths(members, mean)
    error = lengths.std(ddof=1) / math.sqrt(NUM_BATCHES)
    exact = expected_longest(members, mean)
    assert abs(lengths.mean() - exact) < 4 * error, f"{lengths.mean():.2f} ± {error:.2f}, exactly {exact:.2f}"
    assert error < 0.06 * exact


@pytest.mark.parametrize("members", [1, 4, 32])
def test_long_answers_take_the_harmonic_number_times_the_mean(members: int) -> None:
    # For long means the geometric law becomes exponential: E[max] -> H_b mean (+ 1/2 for whole steps).
    harmonic = sum(1 / k for k in range(1, members + 1))
    mean = 5000.0
    assert expected_longest(members, mean) == pytest.approx(harmonic * mean + 0.5 - harmonic / 2, rel=1e-5)
    # Short answers stay well below it: where most are one token long, so is the longest.
    assert expected_longest(32, 1.05) < 0.6 * sum(1 / k for k in range(1, 33)) * 1.05
