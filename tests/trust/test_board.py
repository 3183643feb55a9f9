"""Scores of a validation board against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.cli.command import main
from sim.trust.board import Measured, Scored, score_groups

CASES = Path(__file__).parent.parent / "validation"


def scored(measured: float, predicted: float, *, seen: bool = False) -> Scored:
    row = Measured(metric="mean_tpot_s", value=measured, source="by hand", seen_by_fit=seen)
    return Scored(case="case", measured=row, predicted=predicted)


def test_errors_of_a_group() -> None:
    (group,) = score_groups([scored(1.0, 1.1), scored(2.0, 1.6), scored(4.0, 4.0)])
    assert group.median_error == pytest.approx(0.1)
    assert group.p90_error == pytest.approx(0.18)
    assert group.bias == pytest.approx(-0.1 / 3)
    assert group.rank_correlation == pytest.approx(1.0)


def test_reversed_order_has_rank_correlation_minus_one() -> None:
    (group,) = score_groups([scored(1.0, 3.0), scored(2.0, 2.0), scored(3.0, 1.0)])
    assert group.rank_correlation == pytest.approx(-1.0)


def test_what_a_fit_has_seen_is_scored_apart() -> None:
    groups = score_groups([scored(1.0, 1.0, seen=True), scored(1.0, 2.0)])
    assert [(one.seen_by_fit, one.median_error) for one in groups] == [(False, 1.0), (True, 0.0)]


@pytest.mark.parametrize(("limit", "code"), [("0.9", 0), ("0.0001", 1)])
def test_the_threshold_decides_the_exit_code(limit: str, code: int) -> None:
    assert main(["validate", str(CASES), "--max-median-error", limit]) == code


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    assert main(["validate", str(tmp_path)]) == 2
