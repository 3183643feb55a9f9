"""Who asks for what, when: requests drawn from distributions or read from a trace."""

from __future__ import annotations

from pathlib import Path

from sim.records import RequestTable
from sim.scenario import Workload
from sim.workload.describe import describe
from sim.workload.distributions import draw_values
from sim.workload.drawn import draw_table

__all__ = ["describe", "draw_requests", "draw_values"]


def draw_requests(workload: Workload, seed: int, base_dir: Path = Path(".")) -> RequestTable:
    """The requests of ``workload`` under ``seed``; files are looked for from ``base_dir``.

    A trace is the same under every seed (save the arrivals that are drawn for one without times).
    """
    if workload.trace is not None:
        from sim.workload.traces import read_trace

        return read_trace(workload, seed, base_dir)
    return draw_table(workload, seed, base_dir)
