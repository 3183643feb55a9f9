"""What becomes of a run on several processes whose worker is interrupted, or killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

import pytest

from sim.errors import ScenarioError
from sim.kinds import executors
from sim.kinds.executors import SerialExecutor, WarmExecutor, map_as_completed, open_executor

P = ParamSpec("P")
T = TypeVar("T")


def signal_itself(number: int) -> int:
    os.kill(os.getpid(), number)
    return number


def send(number: int) -> None:
    with open_executor(2) as executor:
        list(map_as_completed(executor, signal_itself, [number], in_flight=2))


def test_a_worker_that_heard_of_the_interruption_first_is_no_fault_of_ours() -> None:
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_a_worker_that_was_killed_is_told() -> None:
    with pytest.raises(BrokenProcessPool):
        send(signal.SIGKILL)


class Elsewhere(SerialExecutor):
    """Counts what it is given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.given.append(len(self.given))
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize(
    ("call_s", "num_calls", "num_here"),
    [(0.01, 20, 20), (0.2, 20, 2), (0.2, 5, 5), (0.2, 6, 6), (0.2, 8, 2)],
)
def test_short_calls_go_elsewhere_only_where_it_pays(
    call_s: float, num_calls: int, num_here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second of work must be left; the first call does not count, because it imports and prices."""
    now_s = 0.0

    def call(number: int) -> int:
        nonlocal now_s
        now_s += call_s if number else 10 * call_s
        return -number

    monkeypatch.setattr(executors, "perf_counter", lambda: now_s)
    others = Elsewhere()
    warm = WarmExecutor(num_calls, lambda: others)
    results = dict(map_as_completed(warm, call, range(num_calls), in_flight=2))
    assert results == {number: -number for number in range(num_calls)}
    assert num_calls - len(others.given) == num_here


def test_an_error_of_a_call_that_runs_here_is_its_future_s() -> None:
    def fail(number: int) -> int:
        raise ScenarioError("no")

    with open_executor(2, num_short=3) as executor:
        assert isinstance(executor, WarmExecutor)
        with pytest.raises(ScenarioError, match="no"):
            executor.submit(fail, 1).result()
