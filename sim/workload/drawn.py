"""Requests drawn from distributions: arrivals, classes, lengths, prefixes, sessions.

Each kind of draw has a random stream of its own, and each class its own of each kind: changing one
distribution, or adding a class, leaves the other draws as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim.arrays import PS_PER_S, Int64
from sim.errors import ScenarioError
from sim.records import RequestTable
from sim.rng import stream
from sim.scenario import Arrivals, Workload
from sim.workload.arrivals import MAX_ROWS, arrival_times, needed
from sim.workload.distributions import MAX_TOKENS, Place
from sim.workload.kinds import (
    Kind,
    by_kind,
    draw_kinds,
    draw_output_tokens,
    draw_prefix_groups,
    draw_prefix_lengths,
    draw_prompt_tokens,
    draw_think_ps,
    draw_turns,
    durations_ps,
    kinds_of,
)
from sim.workload.sessions import Parts, Turns, lay_out_turns, token_segments, whole_prompts


def draw_table(workload: Workload, seed: int, base_dir: Path) -> RequestTable:
    """The requests of a workload without a trace."""
    if (workload.num_requests or 0) > MAX_ROWS:
        raise ScenarioError(
            "too many requests",
            path="workload.num_requests",
            given=workload.num_requests,
            allowed=f"at most {MAX_ROWS:,}",
        )
    arrivals = needed_arrivals(workload)
    kinds = kinds_of(workload, seed, base_dir)
    arrival_ps = arrival_times(arrivals, workload.num_requests, workload.duration_s, seed)
    kind_of = draw_kinds(kinds, len(arrival_ps), seed)
    if any(kind.request_class.sessions or kind.request_class.shared_prefix for kind in kinds):
        return _with_identity(workload, kinds, kind_of, arrival_ps)
    return RequestTable(
        arrival_ps=arrival_ps,
        prompt_tokens=by_kind(kinds, kind_of, len(arrival_ps), draw_prompt_tokens),
        output_tokens=by_kind(kinds, kind_of, len(arrival_ps), draw_output_tokens),
        think_ps=closed_loop_think(arrivals, arrival_ps, seed, base_dir),
        closed_loop=arrivals.is_closed_loop,
        notes=_notes(workload, len(arrival_ps)),
        **_class_columns(kinds, kind_of, len(arrival_ps), workload.timeout_s),
        **warmup_columns(workload),
    )


def needed_arrivals(workload: Workload) -> Arrivals:
    """The workload's arrivals, or an error that says that they are needed."""
    if workload.arrivals is None:
        raise ScenarioError(
            "nothing says when requests come",
            path="workload.arrivals",
            hint="arrivals: {process: poisson, requests_per_s: 8}, or a trace",
        )
    return workload.arrivals


def closed_loop_think(arrivals: Arrivals, arrival_ps: Int64, seed: int, base_dir: Path) -> Int64 | None:
    """Pauses of a closed loop's clients before each triggered request; None without a pause."""
    law = arrivals.think_time_s
    if not arrivals.is_closed_loop or law is None:
        return None
    place = Place(path="workload.arrivals.think_time_s", base_dir=base_dir)
    triggered = arrival_ps < 0
    think = np.zeros(len(arrival_ps), dtype=np.int64)
    think[triggered] = durations_ps(law, int(triggered.sum()), stream(seed, "client_think_time"), place)
    return think


def warmup_columns(workload: Workload) -> dict[str, Any]:
    """The table's fields that say what is simulated but not measured."""
    warmup_ps = round(workload.warmup_s * PS_PER_S)
    return {"num_warmup": workload.warmup_requests, "warmup_ps": warmup_ps}


def timeout_column(timeout_s: float | None, count: int) -> Int64 | None:
    """One patience for every row; None where every client waits for ever."""
    if timeout_s is None:
        return None
    return np.full(count, round(timeout_s * PS_PER_S), dtype=np.int64)


def _class_columns(
    kinds: Sequence[Kind], kind_of_row: Int64 | None, count: int, timeout_s: float | None
) -> dict[str, Any]:
    """Class, timeout and priority of every row. A class's own timeout goes before the workload's."""
    if not kinds[0].name:
        return {"timeout_ps": timeout_column(timeout_s, count)}
    of_row = np.zeros(count, dtype=np.int64) if kind_of_row is None else kind_of_row
    waits = [kind.request_class.timeout_s or timeout_s for kind in kinds]
    priorities = [kind.request_class.priority for kind in kinds]
    columns: dict[str, Any] = {
        "class_id": of_row.astype(np.int16),
        "class_names": tuple(kind.name for kind in kinds),
    }
    if any(waits):
        waits_ps = [-1 if wait is None else round(wait * PS_PER_S) for wait in waits]
        columns["timeout_ps"] = np.array(waits_ps, dtype=np.int64)[of_row]
    if any(priorities):
        columns["priority"] = np.array(priorities, dtype=np.int64)[of_row]
    return columns


def _with_identity(
    workload: Workload, kinds: Sequence[Kind], kind_of: Int64 | None, arrival_ps: Int64
) -> RequestTable:
    """Rows whose prompts share tokens: shared prefixes, or sessions, or both."""
    num_turns = by_kind(kinds, kind_of, len(arrival_ps), draw_turns)
    if workload.num_requests is None and num_turns.sum() > MAX_ROWS:
        raise ScenarioError("too many turns", path="workload.sessions.turns", hint="a shorter run")
    turns = lay_out_turns(num_turns, workload.num_requests)
    num_rows, num_arrivals = len(turns.turn), len(turns.first_row)
    kind_of = None if kind_of is None else kind_of[:num_arrivals]
    kind_of_row = None if kind_of is None else kind_of[turns.arrival]
    group, prefix_tokens = _draw_prefixes(kinds, kind_of, num_arrivals)
    parts = Parts(
        new_tokens=by_kind(kinds, kind_of_row, num_rows, draw_prompt_tokens),
        output_tokens=by_kind(kinds, kind_of_row, num_rows, draw_output_tokens),
        prefix_group=group,
        prefix_tokens=prefix_tokens,
    )
    prompts = whole_prompts(turns, parts)
    if prompts.max() > MAX_TOKENS:
        raise ScenarioError(
            "a session's last prompt is beyond belief",
            path="workload.sessions.turns",
            given=f"{prompts.max():,} tokens",
            allowed=f"at most {MAX_TOKENS:,}",
            hint="fewer turns",
        )
    return RequestTable(
        prompt_tokens=prompts,
        output_tokens=parts.output_tokens,
        notes=_notes(workload, num_rows),
        **_times_of_turns(workload, kinds, kind_of_row, (turns, arrival_ps[:num_arrivals])),
        **token_segments(turns, parts),
        **_class_columns(kinds, kind_of_row, num_rows, workload.timeout_s),
        **warmup_columns(workload),
    )


def _draw_prefixes(kinds: Sequence[Kind], kind_of: Int64 | None, count: int) -> tuple[Int64, Int64]:
    """Prefix group (numbered over all classes, -1: none) and prefix length of every arrival."""
    group = by_kind(kinds, kind_of, count, draw_prefix_groups)
    lengths = [draw_prefix_lengths(kind) for kind in kinds]
    first_group = np.cumsum([0, *(len(one) for one in lengths[:-1])])
    if kind_of is not None:
        group = np.where(group < 0, -1, group + first_group[kind_of])
    every_length = np.concatenate([*lengths, np.zeros(1, dtype=np.int64)])  # group -1 reads the last: 0
    return group, every_length[group]


def _times_of_turns(
    workload: Workload, kinds: Sequence[Kind], kind_of_row: Int64 | None, laid_out: tuple[Turns, Int64]
) -> dict[str, Any]:
    """Arrival, predecessor and pause of every row; in a closed loop a client's sessions follow each other."""
    turns, arrival_ps = laid_out
    arrivals = needed_arrivals(workload)
    is_closed_loop = arrivals.is_closed_loop
    has_sessions = any(kind.request_class.sessions for kind in kinds)
    seed, base_dir = kinds[0].seed, kinds[0].base_dir
    client_think = closed_loop_think(arrivals, arrival_ps, seed, base_dir)
    if not has_sessions:
        return {"arrival_ps": arrival_ps, "think_ps": client_think, "closed_loop": is_closed_loop}
    rows = np.arange(len(turns.turn))
    is_later = turns.turn > 0
    follows = np.where(is_later, rows - 1, -1)
    think = np.zeros(len(rows), dtype=np.int64)
    kind_of_later = None if kind_of_row is None else kind_of_row[is_later]
    think[is_later] = by_kind(kinds, kind_of_later, int(is_later.sum()), draw_think_ps)
    if is_closed_loop:
        clients = int(needed(arrivals, "concurrency"))
        follows[turns.first_row[clients:]] = turns.last_row[:-clients]
        if client_think is not None:
            think[turns.first_row] = client_think
    times = np.where(is_later, -1, arrival_ps[turns.arrival])
    return {"arrival_ps": times, "follows": follows, "think_ps": think, "closed_loop": is_closed_loop}


def _notes(workload: Workload, num_rows: int) -> tuple[str, ...]:
    notes = []
    if workload.num_requests is not None and num_rows < workload.num_requests:
        notes.append(
            f"{num_rows:,} of {workload.num_requests:,} requests arrive before the arrivals (duration_s) end."
        )
    classes = (workload.classes or {}).values()
    if workload.sessions or any(one.sessions for one in classes):
        notes.append("With sessions, requests_per_s and share count sessions; their later turns come on top.")
        if workload.duration_s is not None:
            notes.append("Sessions that began before duration_s are played to their end.")
    return tuple(notes)
