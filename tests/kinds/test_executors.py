"""What becomes of a run on several processes whose worker is interrupted, or killed."""

from __future__ import annotations

import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from sim.kinds.executors import map_as_completed, open_executor


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
