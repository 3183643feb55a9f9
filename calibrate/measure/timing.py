"""Times of a call on the device: median, 20th and 80th percentile, with a cold L2 before every run.

As ``triton.testing.do_bench`` does it: events on the device around each run, L2 overwritten in between. The
call is captured into a CUDA graph where it can be, so that Python's launches are not in the time; the start
of a graph is (the smallest rows of ``copy`` show it).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from calibrate.measure.slots import MAX_REPEATS, MIN_REPEATS, TIMING_SECONDS

FLUSH_BYTES = 256 << 20  # above the L2 of every GPU that has a profile
MS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one call."""

    p50_s: float
    p20_s: float
    p80_s: float
    num_repeats: int

    def divided(self, by: int) -> Timing:
        """Of one part of a call that repeats itself."""
        return Timing(
            p50_s=self.p50_s / by, p20_s=self.p20_s / by, p80_s=self.p80_s / by, num_repeats=self.num_repeats
        )


def time_call(call: Callable[[], Any], *, in_graph: bool = True, cold_l2: bool = True) -> Timing:
    """Times of ``call``; without a GPU one run by the host's clock, for rehearsals."""
    if not torch.cuda.is_available():
        return time_on_host(call, repeats=1)
    call()  # compiles, and allocates what stays
    torch.cuda.synchronize()
    run = graph_of(call) if in_graph else call
    repeats = num_repeats(run)
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda") if cold_l2 else None
    events = [event_pair() for _ in range(repeats)]
    for start, stop in events:
        if flush is not None:
            flush.zero_()
        start.record()
        run()
        stop.record()
    torch.cuda.synchronize()
    return timing_of([start.elapsed_time(stop) * MS for start, stop in events])


def event_pair() -> tuple[Any, Any]:
    """Start and stop."""
    event: Any = torch.cuda.Event  # torch does not type its making
    return event(enable_timing=True), event(enable_timing=True)


def num_repeats(run: Callable[[], Any]) -> int:
    """So many that they take some 0.1 s, between 10 and 100."""
    start, stop = event_pair()
    start.record()
    for _ in range(3):
        run()
    stop.record()
    torch.cuda.synchronize()
    once_s = max(start.elapsed_time(stop) * MS / 3, 1e-6)
    return int(min(MAX_REPEATS, max(MIN_REPEATS, TIMING_SECONDS / once_s)))


def graph_of(call: Callable[[], Any]) -> Callable[[], None]:
    """The call as a CUDA graph of its own memory."""
    stream: Any = torch.cuda.Stream  # nor of this
    side = stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], None] = graph.replay
    return replay


def time_on_host(call: Callable[[], Any], *, repeats: int) -> Timing:
    """Times by the host's clock, the device awaited: for copies that the host takes part in."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return timing_of(seconds)


def timing_of(seconds: Sequence[float]) -> Timing:
    """Percentiles by linear interpolation, as NumPy has them."""
    values = torch.tensor(seconds, dtype=torch.float64)
    p20, p50, p80 = torch.quantile(values, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    return Timing(p50_s=p50, p20_s=p20, p80_s=p80, num_repeats=len(seconds))
