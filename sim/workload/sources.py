"""Where a workload's requests come from: lengths that are drawn, a mixture of classes, or a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sim.records import RequestTable
from sim.scenario import Workload
from sim.workload.drawn import draw_table
from sim.workload.traces import read_trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One entry of ``SOURCES``: what makes the requests where the workload's key of that name is given."""

    draw: Callable[[Workload, int, Path], RequestTable]
    label: str = ""  # what a summary has as its arrivals; else the arrival process


SOURCES: Mapping[str, Source] = {
    "prompt_tokens": Source(draw=draw_table),
    "classes": Source(draw=draw_table),
    "trace": Source(draw=read_trace, label="trace"),
}
"""By the key of ``workload:`` that chooses it; exactly one of them is given."""


def source_of(workload: Workload) -> Source:
    """The source that the workload's keys choose; drawn lengths where none is given."""
    given = [one for name, one in SOURCES.items() if getattr(workload, name) is not None]
    return given[-1] if given else SOURCES["prompt_tokens"]


def draw_requests(workload: Workload, seed: int, base_dir: Path = Path(".")) -> RequestTable:
    """The requests of ``workload`` under ``seed``; files are looked for from ``base_dir``.

    A trace is the same under every seed (save the arrivals that are drawn for one without times).
    """
    return source_of(workload).draw(workload, seed, base_dir)


def arrivals_label(workload: Workload) -> str:
    """The arrivals as a summary names them: a process, or what has times of its own."""
    arrivals, label = workload.arrivals, source_of(workload).label
    if label and not (arrivals is not None and arrivals.is_closed_loop):
        return label
    return arrivals.process if arrivals is not None else "unknown"
