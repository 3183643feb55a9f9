"""Requests drawn from a scenario's distributions: classes, sessions, shared prefixes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim.arrays import PS_PER_S, Int64
from sim.errors import ScenarioError
from sim.rng import stream
from sim.scenario.dataclass import dataclass
from sim.scenario.distribution import MAX_TOKENS, Distribution, DrawPlace, draw_tokens, draw_values
from sim.serving.records import RequestTable
from sim.serving.scenario import RequestClass, Workload
from sim.serving.workload.arrivals import MAX_ROWS, Arrivals, arrival_times, needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A class of requests, or the workload itself where it has no classes."""

    name: str  # "" without classes
    request_class: RequestClass
    seed: int
    base_dir: Path

    def rng(self, name: str) -> np.random.Generator:
        """This class's own random stream ``name``."""
        return stream(self.seed, f"{self.name}/{name}" if self.name else name)

    def tokens(self, name: str, key_path: str, distribution: Distribution, count: int) -> Int64:
        """``count`` whole numbers of ``distribution`` from the stream ``name``."""
        return draw_tokens(distribution, count, self.rng(name), self._place(key_path))

    def durations_ps(self, name: str, key_path: str, distribution: Distribution, count: int) -> Int64:
        """``count`` times of ``distribution`` (seconds) in ps, from the stream ``name``."""
        return durations_ps(distribution, count, self.rng(name), self._place(key_path))

    def _place(self, key_path: str) -> DrawPlace:
        prefix = f"workload.classes.{self.name}" if self.name else "workload"
        return DrawPlace(path=f"{prefix}.{key_path}", base_dir=self.base_dir)


def durations_ps(distribution: Distribution, count: int, rng: np.random.Generator, place: DrawPlace) -> Int64:
    """``count`` times of ``distribution``, drawn in seconds, in ps."""
    seconds = draw_values(distribution, count, rng, place)
    if seconds.size and seconds.max() > 1e6:
        raise ScenarioError(
            "a pause of more than a million seconds",
            path=place.path,
            given=float(seconds.max()),
            hint="give the distribution a max",
        )
    return np.rint(seconds * PS_PER_S).astype(np.int64)


def kinds_of(workload: Workload, seed: int, base_dir: Path) -> tuple[Kind, ...]:
    """The workload's classes in the order of the file; one without a name where it has none."""
    if workload.classes:
        return tuple(
            Kind(name=name, request_class=one, seed=seed, base_dir=base_dir)
            for name, one in workload.classes.items()
        )
    if workload.prompt_tokens is None or workload.output_tokens is None:
        missing = "prompt_tokens" if workload.prompt_tokens is None else "output_tokens"
        raise ScenarioError(
            "nothing says how long requests are",
            path=f"workload.{missing}",
            hint=f"{missing}: {{distribution: lognormal, mean: 512, max: 4096}}, or classes, or a trace",
        )
    only = RequestClass(
        share=1.0,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        shared_prefix=workload.shared_prefix,
        sessions=workload.sessions,
    )
    return (Kind(name="", request_class=only, seed=seed, base_dir=base_dir),)


def draw_kinds(kinds: Sequence[Kind], count: int, seed: int) -> Int64 | None:
    """The class of every arrival, by share; None where there is one class only."""
    if len(kinds) == 1:
        return None
    shares = np.array([kind.request_class.share for kind in kinds])
    if not (np.all(np.isfinite(shares)) and np.all(shares > 0)):
        raise ScenarioError(
            "shares are numbers above 0",
            path="workload.classes",
            given={kind.name: kind.request_class.share for kind in kinds},
        )
    edges = np.cumsum(shares)
    drawn = np.searchsorted(edges, stream(seed, "classes").random(count) * edges[-1], side="right")
    kind_of: Int64 = np.minimum(drawn, len(kinds) - 1)
    return kind_of


def by_kind(
    kinds: Sequence[Kind], kind_of: Int64 | None, count: int, draw: Callable[[Kind, int], Int64]
) -> Int64:
    """A column put together from each class's own draws: the n-th of a class goes to its n-th row."""
    if kind_of is None:
        return draw(kinds[0], count)
    column = np.empty(count, dtype=np.int64)
    for index, kind in enumerate(kinds):
        rows = np.flatnonzero(kind_of == index)
        column[rows] = draw(kind, len(rows))
    return column


def draw_prompt_tokens(kind: Kind, count: int) -> Int64:
    """Prompt lengths (of a turn's new part) of one class."""
    return kind.tokens("prompt_tokens", "prompt_tokens", kind.request_class.prompt_tokens, count)


def draw_output_tokens(kind: Kind, count: int) -> Int64:
    """Answer lengths of one class."""
    return kind.tokens("output_tokens", "output_tokens", kind.request_class.output_tokens, count)


def draw_turns(kind: Kind, count: int) -> Int64:
    """Turns of each arrival of one class: 1 where the class has no sessions."""
    sessions = kind.request_class.sessions
    if sessions is None:
        return np.ones(count, dtype=np.int64)
    return kind.tokens("sessions", "sessions.turns", sessions.turns, count)


def draw_think_ps(kind: Kind, count: int) -> Int64:
    """Pauses before later turns of one class."""
    sessions = kind.request_class.sessions
    if sessions is None:
        return np.zeros(count, dtype=np.int64)
    return kind.durations_ps("think_time", "sessions.think_time_s", sessions.think_time_s, count)


def draw_prefix_groups(kind: Kind, count: int) -> Int64:
    """The prefix group of each arrival of one class, all alike; -1 where the class shares none."""
    shared = kind.request_class.shared_prefix
    if shared is None:
        return np.full(count, -1, dtype=np.int64)
    if shared.order == "in_turn":
        return np.arange(count, dtype=np.int64) % shared.num_groups
    return kind.rng("prefix_groups").integers(0, shared.num_groups, size=count, dtype=np.int64)


def draw_prefix_lengths(kind: Kind) -> Int64:
    """Length of each prefix of one class."""
    shared = kind.request_class.shared_prefix
    if shared is None:
        return np.zeros(0, dtype=np.int64)
    return kind.tokens("prefixes", "shared_prefix.prefix_tokens", shared.prefix_tokens, shared.num_groups)


MAX_SEGMENTS = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Rows (requests) of arrivals, session by session: turn 0, 1, ... of the first, then of the next."""

    arrival: Int64  # per row: which arrival (session) it belongs to
    turn: Int64  # per row: 0 for the first of its session
    first_row: Int64  # per arrival
    num_turns: Int64  # per arrival

    @property
    def last_row(self) -> Int64:
        """Per arrival: the row of its last turn."""
        return self.first_row + self.num_turns - 1


def lay_out_turns(num_turns: Int64, num_requests: int | None) -> Turns:
    """The rows of sessions of ``num_turns``; the last session is cut where ``num_requests`` are reached."""
    ends = np.cumsum(num_turns)
    if num_requests is not None and ends[-1] > num_requests:
        kept = int(np.searchsorted(ends, num_requests)) + 1
        num_turns, ends = num_turns[:kept].copy(), ends[:kept].copy()
        num_turns[-1] -= ends[-1] - num_requests
        ends[-1] = num_requests
    first_row = ends - num_turns
    arrival = np.repeat(np.arange(len(num_turns)), num_turns)
    turn = np.arange(int(ends[-1])) - first_row[arrival]
    return Turns(arrival=arrival, turn=turn, first_row=first_row, num_turns=num_turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What each row adds to its session's text, and the prefix that the session begins with."""

    new_tokens: Int64  # per row: the new part of the prompt
    output_tokens: Int64  # per row
    prefix_group: Int64  # per arrival: number of the group over all classes, -1 for none
    prefix_tokens: Int64  # per arrival: 0 for none


def whole_prompts(turns: Turns, parts: Parts) -> Int64:
    """Prompt length of every row: prefix, all turns before with their answers, the new part."""
    said = np.cumsum(parts.new_tokens + parts.output_tokens)
    before_row = said - parts.new_tokens - parts.output_tokens
    before_session = before_row[turns.first_row]
    earlier = before_row - before_session[turns.arrival]
    prompts: Int64 = parts.prefix_tokens[turns.arrival] + earlier + parts.new_tokens
    return prompts


def token_segments(turns: Turns, parts: Parts) -> dict[str, Any]:
    """The ``segment_*`` and ``output_stream`` columns of the request table."""
    has_prefix = (parts.prefix_group >= 0).astype(np.int64)[turns.arrival]
    counts = has_prefix + 2 * turns.turn + 1
    total = int(counts.sum())
    if total > MAX_SEGMENTS:
        raise ScenarioError(
            "the sessions are too long to keep track of their tokens",
            path="workload.sessions.turns",
            given=f"{total:,} parts of prompts",
            allowed=f"{MAX_SEGMENTS:,}",
            hint="fewer turns or requests",
        )
    offsets = np.concatenate([[0], np.cumsum(counts)])
    row = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(total) - offsets[row] - has_prefix[row]  # -1: the prefix
    owner = turns.first_row[turns.arrival[row]] + place // 2
    is_output = place % 2
    stream = 2 * owner + is_output
    length = np.where(is_output == 1, parts.output_tokens[owner], parts.new_tokens[owner])
    prefixed = place == -1
    in_arrival = turns.arrival[row[prefixed]]
    stream[prefixed] = 2 * len(counts) + parts.prefix_group[in_arrival]
    length[prefixed] = parts.prefix_tokens[in_arrival]
    return {
        "segment_offsets": offsets,
        "segment_stream": stream,
        "segment_start": np.zeros(total, dtype=np.int64),
        "segment_length": length,
        "output_stream": 2 * np.arange(len(counts), dtype=np.int64) + 1,
    }


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
    distribution = arrivals.think_time_s
    if not arrivals.is_closed_loop or distribution is None:
        return None
    place = DrawPlace(path="workload.arrivals.think_time_s", base_dir=base_dir)
    triggered = arrival_ps < 0
    think = np.zeros(len(arrival_ps), dtype=np.int64)
    think[triggered] = durations_ps(
        distribution, int(triggered.sum()), stream(seed, "client_think_time"), place
    )
    return think


def warmup_columns(workload: Workload) -> dict[str, Any]:
    """The table's fields that say what is simulated but not measured."""
    warmup_ps = round((workload.warmup_s or 0.0) * PS_PER_S)
    return {"num_warmup": workload.warmup_requests or 0, "warmup_ps": warmup_ps}


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
