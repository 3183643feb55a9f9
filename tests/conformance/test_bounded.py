"""An even sample of all small workloads; ``python -m tests.conformance.bounded`` plays every one."""

from __future__ import annotations

from conformance.bounded import TOTAL, play, sample, setting

EVERY = 2003


def test_the_laws_hold_in_every_small_workload_of_the_sample() -> None:
    indices = list(sample(EVERY))
    assert len(indices) > 5_000
    assert sum(play(index) for index in indices) > 20_000


def test_the_sample_reaches_every_choice() -> None:
    seen = [setting(index) for index in sample(EVERY)]
    for name in seen[0][0]:
        assert len({str(values[name]) for values, _ in seen}) > 1
    assert {len(shapes) for _, shapes in seen} == {1, 2, 3}
    assert TOTAL == 2 * 2 * 2 * 3 * 3 * 2 * 6 * (24 + 24**2 + 24**3)
