"""Step times' factors are drawn once for all that share them: nobody may see that in a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_jobs import VARIATIONS

from sim.rng import stream
from sim.training.delays import DELAYS, StepVariation
from sim.training.schedule import times
from sim.training.schedule.times import StepTimes, factors_of

ASKED = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=20)


@pytest.mark.parametrize("most", [0, 30, 4_000_000])
@settings(max_examples=40, deadline=None)
@given(variation=st.sampled_from(VARIATIONS), seed=st.integers(1, 10_000), asked=ASKED)
def test_factors_are_the_stream_s_whoever_asked_before(
    most: int, variation: StepVariation, seed: int, asked: list[tuple[int, int]]
) -> None:
    """``most``: how many may be kept; beyond, each takes its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(times, "MAX_KEPT", most)
        takes = [factors_of(variation, seed).of_worker(worker % 2) for worker in range(4)]
        given_so_far: list[list[float]] = [[], [], [], []]
        for index, count in asked:
            given_so_far[index] += takes[index](count).tolist()
    for index, found in enumerate(given_so_far):
        rng = stream(seed, f"step time {index % 2}")
        expected = DELAYS[variation.distribution].draw(variation, rng, len(found))
        assert found == expected.tolist()


def test_what_is_kept_cannot_be_changed_and_differs_by_seed() -> None:
    variation = StepVariation(distribution="exponential")
    first = StepTimes(np.ones(1), variation, 1, Path(".")).matrix(5)[0]
    factors = factors_of(variation, 1).of_worker(0)(5)
    with pytest.raises(ValueError, match="read-only"):
        factors[0] = 2
    assert first.tolist() == StepTimes(np.ones(1), variation, 1, Path(".")).matrix(5)[0].tolist()
    assert first.tolist() != StepTimes(np.ones(1), variation, 2, Path(".")).matrix(5)[0].tolist()
