"""Scores of a validation board against values worked out by hand, against SciPy, and against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sim.scenario.file import Measured
from sim.trust.board import BoardFile, GroupBounds, make_board, rank_correlation, score, score_groups
from sim.trust.cases import Scored

POSITIVE = st.floats(1e-6, 1e6)


def scored(
    measured: float, predicted: float | None, *, seen: bool = False, group: str = "all", **more: object
) -> Scored:
    row = Measured(
        metric="mean_tpot_s", value=measured, source="by hand", seen_by_fit=seen, group=group, **more
    )
    return Scored(case="case", label="", measured=row, predicted=predicted)


def test_errors_of_a_group() -> None:
    (group,) = score_groups([scored(1.0, 1.1), scored(2.0, 1.6), scored(4.0, 4.0)], {})
    assert group.values == 3
    assert group.median_error == pytest.approx(0.1)
    assert group.p90_error == pytest.approx(0.18)  # 0, 0.1, 0.2: linear between 0.1 and 0.2
    assert group.max_error == pytest.approx(0.2)
    assert group.bias == pytest.approx(-0.1 / 3)
    assert group.rank_correlation == pytest.approx(1.0)
    assert group.misses == ()


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=40))
def test_errors_are_numpys(pairs: list[tuple[float, float]]) -> None:
    measured, predicted = np.array(pairs).T
    relative = predicted / measured - 1
    found = score("all", [scored(one, other) for one, other in pairs])
    assert found.median_error == pytest.approx(np.median(np.abs(relative)))
    assert found.p90_error == pytest.approx(np.percentile(np.abs(relative), 90))
    assert found.bias == pytest.approx(relative.mean())


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=3, max_size=30))
def test_rank_correlation_is_scipys_with_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = (list(map(float, column)) for column in zip(*pairs, strict=True))
    ours = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_two_values_have_no_rank_correlation() -> None:
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None


def test_what_a_fit_has_seen_is_scored_apart() -> None:
    groups = score_groups([scored(1.0, 1.0, seen=True), scored(1.0, 2.0)], {})
    assert [(one.seen_by_fit, one.median_error) for one in groups] == [(False, 1.0), (True, 0.0)]


BOUNDS = [
    (GroupBounds(max_median_error=0.1), GroupBounds(max_median_error=0.09), "median_error 10.0 %"),
    (GroupBounds(max_p90_error=0.19), GroupBounds(max_p90_error=0.17), "p90_error 18.0 %"),
    (GroupBounds(max_error=0.21), GroupBounds(max_error=0.19), "max_error 20.0 %"),
    (GroupBounds(max_bias=0.04), GroupBounds(max_bias=0.03), "bias -3.3 %"),
    (GroupBounds(min_rank_correlation=0.4), GroupBounds(min_rank_correlation=0.6), "rank correlation 0.50"),
]


@pytest.mark.parametrize(("holds", "breaks", "said"), BOUNDS)
def test_a_bound_is_missed_where_it_is_broken_and_nowhere_else(
    holds: GroupBounds, breaks: GroupBounds, said: str
) -> None:
    # Signed errors 0.1 + 1e-12, -0.2, 0; ranks 1, 2, 3 against 2, 1, 3.
    rows = [scored(2.0, 2.2 - 1e-12), scored(2.1, 1.68), scored(4.0, 4.0)]
    assert score("all", rows, holds).misses == ()
    (miss,) = score("all", rows, breaks).misses
    assert miss.startswith(said)


def test_a_value_without_a_prediction_is_a_miss() -> None:
    found = score("all", [scored(1.0, None), scored(1.0, 1.1)])
    assert found.misses == ("1 without a prediction",)
    assert found.median_error == pytest.approx(0.1)
    nothing = score("all", [scored(1.0, None)], GroupBounds(max_median_error=0.5))
    assert nothing.median_error is None
    assert nothing.misses == ("median_error none, at most 50.0 %", "1 without a prediction")


@pytest.mark.parametrize(("predicted", "is_missed"), [(1.9, True), (2.0, False), (3.0, False), (3.1, True)])
def test_a_band_counts_its_ends(predicted: float, is_missed: bool) -> None:
    row = scored(2.4, predicted, at_least=2.0, at_most=3.0)
    assert bool(score("all", [row]).misses) == is_missed


def test_a_rivals_error_is_its_median_over_the_values_that_name_it() -> None:
    rows = [scored(1.0, 1.0, rivals={"other": error}) for error in (0.1, -0.3, 0.2)]
    assert score("all", [*rows, scored(1.0, 1.0)]).rivals == pytest.approx({"other": 0.2})


def test_misses_come_first_and_flags_hold_for_every_group() -> None:
    rows = [scored(1.0, 1.05, group="a"), scored(1.0, 1.5, group="b")]
    file = BoardFile(groups={"a": GroupBounds(max_median_error=0.01)})
    assert [group.name for group in make_board(file, rows, "").groups if group.misses] == ["a"]
    board = make_board(file, rows, "", GroupBounds(max_median_error=0.1))
    assert [(group.name, bool(group.misses)) for group in board.groups] == [("b", True), ("a", False)]
    assert board.is_missed
