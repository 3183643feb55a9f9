"""A sample of all small workloads; ``python -m tests.conformance.bounded`` plays every one."""

from __future__ import annotations

import numpy as np
from conformance.bounded import (
    NUM_COMBINATIONS,
    SETTINGS,
    SHAPES,
    TOTAL,
    WORKLOADS,
    canonical,
    play,
    sample,
    workloads,
)

EVERY = 1201


def test_the_laws_hold_in_every_small_workload_of_the_sample() -> None:
    played = [play(values, workload).num_steps for values, workload in sample(EVERY)]
    assert len(played) == -(-NUM_COMBINATIONS // EVERY) > 1_500
    assert sum(played) > 8_000


def test_the_sample_reaches_every_choice() -> None:
    seen = [values for values, _ in sample(EVERY)]
    for name, choices in ((name, {one[name] for one in SETTINGS}) for name in SETTINGS[0]):
        assert {values[name] for values in seen} == choices
    assert {len(workload) for _, workload in sample(EVERY)} >= {2, 3}
    assert TOTAL == 2 * 2 * 2 * 3 * 3 * 2 * 6 * (24 + 24**2 + 24**3)


def test_a_workload_and_the_one_that_is_played_for_it_are_the_same_play() -> None:
    chance = np.random.default_rng(3)
    num_replaced = 0
    for _ in range(2_500):
        values = SETTINGS[chance.integers(len(SETTINGS))]
        workload = WORKLOADS[chance.integers(len(WORKLOADS))]
        kind = canonical(workload, caching=values["caching"], num_blocks=values["num_blocks"])
        if kind == workload:
            continue
        num_replaced += 1
        assert play(values, workload, listens=True).decisions == play(values, kind, listens=True).decisions
    assert num_replaced > 1_000


def test_every_kind_of_workload_is_there() -> None:
    assert len(workloads(caching=False, num_blocks=6)) == 12 + 12**2 + 12**3
    # 9 shapes can share, 3 cannot: of two the pairs, of three each pair and all three, or nobody.
    with_three = 9**3 * 5 + 3 * 9**2 * 3 * 2 + 3 * 9 * 3**2 + 3**3
    assert len(workloads(caching=True, num_blocks=6)) == 12 + (9**2 * 2 + 2 * 9 * 3 + 3**2) + with_three
    assert len(SHAPES) == 4 * 3 * 2
