"""Where requests come from: drawn from distributions, or played from a recorded trace.

The checks of a scenario read ``SOURCES``; what makes requests is loaded when some are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sim.scenario.dataclass import dataclass
from sim.scenario.file import has_drawn_values
from sim.serving.scenario import Scenario, Workload

if TYPE_CHECKING:
    from sim.serving.records import RequestTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One entry of ``SOURCES``: what makes the requests where the workload's key of that name is given."""

    draw: Callable[[Workload, int, Path], RequestTable]
    label: str = ""  # what a summary has as its arrivals; else the arrival process


def _draw(workload: Workload, seed: int, base_dir: Path) -> RequestTable:
    from sim.serving.workload.drawn import draw_table

    return draw_table(workload, seed, base_dir)


def _play(workload: Workload, seed: int, base_dir: Path) -> RequestTable:
    from sim.serving.workload.recorded import read_trace

    return read_trace(workload, seed, base_dir)


SOURCES: Mapping[str, Source] = {
    "prompt_tokens": Source(draw=_draw),
    "classes": Source(draw=_draw),
    "trace": Source(draw=_play, label="trace"),
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


def read_workloads(workloads: Sequence[Workload], base_dir: Path) -> None:
    """Reads the traces and the files of lengths that workloads name, each workload once.

    A trace is read whole, as a run reads it; of drawn requests a few, which read the files of their lengths.
    """
    for index, workload in enumerate(workloads):
        if workload in workloads[:index]:
            continue
        if workload.trace is None:
            few = min(workload.num_requests or _A_FEW, _A_FEW)
            workload = replace(workload, num_requests=few, duration_s=None)
        draw_requests(workload, 1, base_dir)


_A_FEW = 1000


def arrivals_label(workload: Workload) -> str:
    """The arrivals as a summary names them: a process, or what has times of its own."""
    arrivals, label = workload.arrivals, source_of(workload).label
    if label and not (arrivals is not None and arrivals.is_closed_loop):
        return label
    return arrivals.process if arrivals is not None else "unknown"


def why_no_precision(workload: Workload) -> str | None:
    """Why its length cannot be chosen: it has its own, or another length would be another question."""
    if workload.trace is not None:
        return "a trace has a length of its own"
    process = workload.arrivals.process if workload.arrivals is not None else ""
    return {
        "all_at_once": "how fast requests that come all at once are served depends on how many they are",
        "schedule": "a schedule changes its rate over time: its length is a part of the question",
    }.get(process)


def draws(scenario: Scenario) -> bool:
    """Whether another seed gives other numbers. A trace played at its own times is the same under each."""
    workload, speculative = scenario.workload, scenario.engine.speculative
    classes = list((workload.classes or {}).values())
    prefixes = [workload.shared_prefix, *(one.shared_prefix for one in classes)]
    are_prefixes_drawn = any(
        one is not None and one.num_groups > 1 and one.order != "in_turn" for one in prefixes
    )
    is_mixture = len(classes) > 1 or are_prefixes_drawn
    has_random_times = workload.arrivals is not None and workload.arrivals.is_random
    has_random_drafts = speculative is not None and 0 < speculative.acceptance_rate < 1
    is_drawn = is_mixture or has_random_times or has_random_drafts
    return is_drawn or has_drawn_values(workload) or has_drawn_values(scenario.engine.service_time)
