"""Where runs happen: in this process, on local processes, or on a Dask cluster.

Everything goes through ``concurrent.futures.Executor``; another place to run is another line of
``EXECUTORS``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

from sim.errors import ScenarioError
from sim.scenario.dataclass import dataclass

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class SerialExecutor(Executor):
    """Runs each call when it is submitted, in this process: no pickling, and a debugger works."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """A future that is done."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            # Futures carry errors to the caller of ``result()``, as in every other executor.
            future.set_exception(error)
        return future


WORTH_PROCESSES_S = 1.0  # below, starting processes and sending results back eats what they save


class WarmExecutor(Executor):
    """For calls that are known to be short: the first run here, and processes come only where they pay.

    What those have imported and priced, forked processes have, too: not every one starts cold.
    """

    def __init__(self, num_calls: int, open_others: Callable[[], Executor]) -> None:
        self._left, self._open_others = num_calls, open_others
        self._here = SerialExecutor()
        self._others: Executor | None = None
        self._quickest_s = float("inf")
        self._are_warm = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """A future; done already, while calls run here."""
        if self._others is not None:
            return self._others.submit(fn, *args, **kwargs)
        begun = perf_counter()
        future = self._here.submit(fn, *args, **kwargs)
        self._quickest_s = min(self._quickest_s, perf_counter() - begun)
        self._left -= 1
        if self._are_warm and self._left * self._quickest_s > WORTH_PROCESSES_S:
            self._others = self._open_others()
        self._are_warm = True  # the first call also imports and prices
        return future


def _end_quietly_on_interrupt(is_interrupted: Any) -> None:
    """Ctrl-C reaches every process of a terminal; a worker then says so and ends without a traceback."""

    def end(*_: object) -> None:
        is_interrupted.value = True
        os._exit(128 + signal.SIGINT)

    signal.signal(signal.SIGINT, end)


def _dask_executor(address: str) -> Executor:
    try:
        from distributed import Client
    except ImportError as error:
        raise ScenarioError(
            "Dask's distributed is not installed", path="--executor", hint="pip install 'gpuyard[dask]'"
        ) from error
    try:
        executor: Executor = Client(address, timeout="10s").get_executor()
    except (OSError, ValueError) as error:
        raise ScenarioError(
            f"no Dask scheduler answers: {error}",
            path="--executor",
            given=address,
            hint="start one with `dask scheduler`, and give the address that it prints",
        ) from error
    return executor


@contextmanager
def _here(jobs: int, address: str) -> Iterator[Executor]:
    """``jobs`` processes; one job stays in this process."""
    if jobs <= 1:
        yield SerialExecutor()
        return
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor  # loads multiprocessing
    from multiprocessing import RawValue

    is_interrupted = RawValue("b", False)
    executor = ProcessPoolExecutor(jobs, initializer=_end_quietly_on_interrupt, initargs=(is_interrupted,))
    try:
        yield executor
    except BrokenProcessPool as error:
        if is_interrupted.value:  # a worker was faster to end than this process to hear of it
            raise KeyboardInterrupt from error
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _on_dask(jobs: int, address: str) -> Iterator[Executor]:
    """A Dask cluster. Its executor cannot cancel on shutdown, so what is in flight is waited for."""
    with _dask_executor(f"tcp://{address}") as cluster:
        yield cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Somewhere to run: how it is written, and what opens it, given the number of jobs and the address."""

    example: str
    open: Callable[[int, str], AbstractContextManager[Executor]]
    is_here: bool = False  # on this machine, by processes that begin as copies of this one


EXECUTORS: Mapping[str, Place] = {
    "local": Place(example="local", open=_here, is_here=True),
    "dask": Place(example="dask://HOST:PORT", open=_on_dask),
}
"""Where runs may happen, by the word before ``://``."""


def allowed_executors() -> str:
    """How each place is written."""
    return ", ".join(place.example for place in EXECUTORS.values())


@contextmanager
def open_executor(jobs: int, where: str = "local", *, num_short: int = 0) -> Iterator[Executor]:
    """An executor, shut down at the end; what has not started is then left out.

    ``num_short``: how many calls will come, where every one is known to be short (``WarmExecutor``).
    ``where`` is a name of ``EXECUTORS``, with ``://`` and an address for those that have one.
    """
    name, slashes, address = where.partition("://")
    if name not in EXECUTORS or bool(slashes) != ("://" in EXECUTORS[name].example):
        raise ScenarioError("unknown executor", path="--executor", given=where, allowed=allowed_executors())
    place = EXECUTORS[name]
    with ExitStack() as opened:
        if num_short and jobs > 1 and place.is_here:
            yield WarmExecutor(num_short, lambda: opened.enter_context(place.open(jobs, address)))
        else:
            yield opened.enter_context(place.open(jobs, address))


def in_flight_for(jobs: int) -> int:
    """One waits for each that runs: no process idles until this one has heard of a result and sends more."""
    return 2 * jobs if jobs > 1 else 1


def map_as_completed(
    executor: Executor, function: Callable[[T], R], items: Sequence[T], *, in_flight: int
) -> Iterator[tuple[int, R]]:
    """(index, result) of each item, as it ends; at most ``in_flight`` are submitted at a time.

    So an interrupted run has lost only what was in flight, and a million points need no million futures.
    """
    waiting = iter(enumerate(items))
    pending: dict[Future[R], int] = {}
    while True:
        for index, item in islice(waiting, in_flight - len(pending)):
            pending[executor.submit(function, item)] = index
        if not pending:
            return
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        # In the order of the items, so that equal speed gives equal order.
        for future in sorted(done, key=lambda finished: pending[finished]):
            yield pending.pop(future), future.result()
