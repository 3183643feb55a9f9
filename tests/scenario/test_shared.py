"""Results that a process keeps: made once for equal questions, the oldest forgotten first."""

from __future__ import annotations

from sim.scenario.shared import Shared


def test_equal_questions_have_one_answer_and_the_oldest_goes_first() -> None:
    made: list[tuple[int, ...]] = []

    def make(asked: list[int]) -> tuple[int, ...]:  # a list has no hash
        made.append(tuple(asked))
        return tuple(asked)

    shared: Shared[list[int], tuple[int, ...]] = Shared(2)
    assert shared.get([1], make) is shared.get([1], make)
    shared.get([2], make)
    shared.get([1], make)  # asked again: younger than 2
    shared.get([3], make)
    assert shared.values() == [(3,), (1,)]
    assert made == [(1,), (2,), (3,)]
    shared.get([2], make)
    assert made == [(1,), (2,), (3,), (2,)]
    shared.drop_oldest()
    assert shared.values() == [(2,)]
