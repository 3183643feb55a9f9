"""A trace as its file gives it, before units, order and bounds: the layouts' common form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, NamedTuple, Protocol

import numpy as np

from sim.arrays import Float64, Int64
from sim.errors import ScenarioError, did_you_mean
from sim.scenario.csv_files import TextFile
from sim.scenario.dataclass import dataclass
from sim.scenario.distribution import MAX_TOKENS

ARRIVAL, PROMPT, OUTPUT = "arrival", "prompt_tokens", "output_tokens"

_TIME_STEMS = (
    "arrival",
    "arrival_time",
    "arrival_timestamp",
    "arrived_at",
    "timestamp",
    "time",
    "start_time",
)

ALIASES: Mapping[str, tuple[str, ...]] = {
    ARRIVAL: (
        *_TIME_STEMS,
        *(f"{stem}_{unit}" for stem in _TIME_STEMS for unit in ("s", "ms", "us", "ns")),
    ),
    PROMPT: (
        "num_prefill_tokens",
        "prompt_tokens",
        "num_prompt_tokens",
        "input_tokens",
        "input_length",
        "contexttokens",
        "context_tokens",
        "prompt_len",
        "input_len",
        "prompt_length",
        "request tokens",
    ),
    OUTPUT: (
        "num_decode_tokens",
        "output_tokens",
        "num_output_tokens",
        "output_length",
        "generatedtokens",
        "generated_tokens",
        "completion_tokens",
        "output_len",
        "response tokens",
    ),
}
"""Column names that are known without ``columns``: Vidur's, Azure's, Mooncake's, vLLM's, BurstGPT's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTrace:
    """Columns of a trace in the order of its file; lengths and times are not checked yet."""

    file: TextFile
    where: Callable[[int], str]  # row number -> "line 18"
    names: Mapping[str, str]  # role -> the file's name for it
    times: Float64 | Int64 | None
    unit: str | None  # of the times, where the layout or the column's name says it
    prompt_tokens: Float64
    output_tokens: Float64
    is_unit_guessed: bool = True  # from their size, where nothing says it; else it must be stated
    hash_ids: Sequence[Sequence[int]] | None = None
    hash_block_tokens: int | None = None  # tokens per id, where the file says it
    layout_block_tokens: int | None = None  # the same where the layout says it: its counts are checked, too
    is_dated: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)  # records that are no served requests, by kind
    notes: Sequence[str] = ()  # what else was assumed

    def error(self, problem: str, row: int, role: str, **more: object) -> ScenarioError:
        """A ScenarioError about one cell."""
        return self.file.error(problem, f"{self.where(row)}: column {self.names[role]}", **more)


class Row(NamedTuple):
    """One request as a benchmark recorded it; what is None the record does not have."""

    where: str
    time: object
    prompt_tokens: object
    output_tokens: object


def raw_of_rows(
    file: TextFile,
    rows: Sequence[Row],
    *,
    unit: str | None,
    left_out: Mapping[str, int],
    notes: Sequence[str] = (),
) -> RawTrace:
    """The trace of a benchmark's records; without ``unit`` they have no times."""
    if not rows:
        skipped = ", ".join(f"{count:,} x {what}" for what, count in left_out.items() if count)
        raise file.error("no request in it was served", given=skipped or "no record at all")
    places = [row.where for row in rows]
    times = None
    if unit is not None:
        # Whole nanoseconds since 1970 do not fit into a float: what counts is the time from the first.
        given = [row.time for row in rows]
        first = min((one for one in given if type(one) is int), default=0) if unit == "ns" else 0
        shifted = [one - first if type(one) is int else one for one in given]
        times = numbers(file, [f"{one}: its time" for one in places], shifted)
    return RawTrace(
        file=file,
        where=lambda row: places[row],
        names={PROMPT: PROMPT, OUTPUT: OUTPUT, **({} if times is None else {ARRIVAL: ARRIVAL})},
        times=times,
        unit=unit,
        prompt_tokens=numbers(file, [f"{one}: its prompt tokens" for one in places], [r[2] for r in rows]),
        output_tokens=numbers(file, [f"{one}: its output tokens" for one in places], [r[3] for r in rows]),
        left_out=left_out,
        notes=notes,
    )


def numbers(file: TextFile, where: Sequence[str], values: Sequence[Any]) -> Float64:
    """Numbers of a JSON file; text, booleans, null and lists are refused. NaN passes on."""
    if set(map(type, values)) <= {int, float}:
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            pass  # an int beyond float: found below
    for place, value in zip(where, values, strict=True):
        if type(value) not in (int, float) or abs(value) > 1e300:
            raise file.error("not a number", place, given=value, allowed="a number of 0 or more")
    return np.array(values, dtype=np.float64)


def drawn_alike(
    prompt: tuple[Any, Any],
    output: tuple[Any, Any],
    *,
    rate: object,
    concurrency: object,
    num_requests: object,
) -> str:
    """A workload that draws requests like those whose (mean, standard deviation) a result states."""
    per_s, clients, count = _number(rate), _number(concurrency), _number(num_requests)
    arrivals = "{process: all_at_once}"
    if 0 < per_s < 1e9:
        arrivals = f"{{process: poisson, requests_per_s: {per_s:g}}}"
    elif clients >= 1:
        arrivals = f"{{process: closed_loop, concurrency: {clients:.0f}}}"
    lengths = [(name, _drawn(*one)) for name, one in (("prompt_tokens", prompt), ("output_tokens", output))]
    parts = [f"arrivals: {arrivals}", *(f"{name}: {one}" for name, one in lengths if one)]
    if count >= 1:
        parts.append(f"num_requests: {count:.0f}")
    return f"or draw requests like them: workload: {{{', '.join(parts)}}}"


def _number(value: object) -> float:
    """A number that a result states, or 0 where it is none."""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if is_one and isinstance(value, (int, float)) else 0.0


def _drawn(mean: object, stddev: object) -> str:
    """A distribution of that mean, or nothing where the mean is not known."""
    middle, spread = _number(mean), _number(stddev)
    if middle < 1:
        return ""
    if not spread:
        return f"{middle:.0f}"
    return f"{{distribution: normal, mean: {middle:.6g}, stddev: {spread:.4g}, min: 1}}"


class TraceKeys(Protocol):
    """The keys of ``workload.trace`` that a format reads; ``sim.serving.scenario.Trace`` has them."""

    @property
    def path(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def columns(self) -> Mapping[str, str] | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """One entry of ``TRACE_FORMATS``: how a layout is recognised and read, and which keys it takes.

    ``format: auto`` means the first entry that recognises the file, those with ``takes_any`` asked last.
    ``read`` refuses what is not its layout.
    """

    doc: str
    recognises: Callable[[TextFile, TraceKeys], bool]
    read: Callable[[TextFile, TraceKeys], RawTrace]
    takes_any: bool = False  # recognises whatever is CSV, or JSON
    takes_columns: bool = False  # trace.columns names its columns; otherwise the layout does
    takes_block_tokens: bool = False  # trace.hash_block_tokens says how many tokens a hash id stands for


def is_json(file: TextFile) -> bool:
    """Whether the file can only be JSON: its first character says so."""
    return file.text.lstrip()[0] in "{["


def require_json(file: TextFile) -> None:
    """Refuses a file that is no JSON, for the formats that are."""
    if not is_json(file):
        raise file.error(
            "this is not JSON",
            "line 1",
            given=file.text[:60].partition("\n")[0],
            hint="workload.trace.format: csv, or auto",
        )


def refuse_json(file: TextFile) -> None:
    """Refuses JSON, for the formats that are CSV."""
    if is_json(file):
        raise file.error("this is JSON, not CSV", "line 1", hint="workload.trace.format: jsonl, or auto")


def find_roles(
    file: TextFile, where: str, names: Sequence[str], columns: Mapping[str, str] | None
) -> dict[str, str]:
    """Which of the file's ``names`` is the arrival, the prompt and the output length.

    ``columns`` goes before the names known by themselves. The arrival may be missing.
    """
    chosen = _stated_roles(file, where, names, columns or {})
    for role, aliases in ALIASES.items():
        found = [name for name in names if name.strip().lower() in aliases and name not in chosen.values()]
        if role in chosen or not found:
            continue
        if len(found) > 1:
            raise file.error(
                f"several columns could be {role}",
                where,
                given=", ".join(found),
                hint=f"workload.trace.columns: {{{role}: {found[0]}}}",
            )
        chosen[role] = found[0]
    for role in (PROMPT, OUTPUT):
        if role not in chosen:
            raise file.error(
                f"no column for {role}",
                where,
                given=", ".join(names),
                allowed=f"one of {', '.join(ALIASES[role])}",
                hint=f"workload.trace.columns: {{{role}: NAME}}",
            )
    return chosen


def _stated_roles(
    file: TextFile, where: str, names: Sequence[str], columns: Mapping[str, str]
) -> dict[str, str]:
    for role, name in columns.items():
        if role not in ALIASES:
            raise ScenarioError(
                f"unknown role of a column{did_you_mean(role, ALIASES)}",
                path=f"workload.trace.columns.{role}",
                given=role,
                allowed=", ".join(ALIASES),
            )
        if name not in names:
            raise file.error(
                f"no column {name}, which workload.trace.columns.{role} names{did_you_mean(name, names)}",
                where,
                given=name,
                allowed=", ".join(names),
            )
    return dict(columns)


def unit_in_name(name: str) -> str | None:
    """The unit that a column's name states: ``arrival_ms``, or Vidur's ``arrived_at`` (seconds)."""
    if name.lower() == "arrived_at":
        return "s"
    suffix = name.lower().rpartition("_")[2]
    return suffix if suffix in ("s", "ms", "us", "ns") and "_" in name else None


def checked_lengths(raw: RawTrace) -> tuple[Int64, Int64]:
    """Prompt and output lengths as whole numbers from 0 up."""
    lengths = []
    for role, column in ((PROMPT, raw.prompt_tokens), (OUTPUT, raw.output_tokens)):
        bad = np.flatnonzero(~((column >= 0) & (column <= MAX_TOKENS) & (column == np.floor(column))))
        if bad.size:
            row = int(bad[0])
            raise raw.error(
                "not a number of tokens",
                row,
                role,
                given=float(column[row]),
                allowed=f"whole numbers from 0 to {MAX_TOKENS:,}",
                hint="a column of bytes or characters?" if column[row] > MAX_TOKENS else "",
            )
        lengths.append(column.astype(np.int64))
    return lengths[0], lengths[1]


def served_rows(raw: RawTrace, prompts: Int64, outputs: Int64) -> tuple[Int64, tuple[str, ...]]:
    """The rows that are requests somebody answered, and a note on what is left out.

    A prompt or an answer of 0 tokens is a request that failed or was filtered: no engine computed it, so that
    playing it as one of 1 token would be another load.
    """
    rows = np.flatnonzero((prompts > 0) & (outputs > 0))
    counts = {**raw.left_out, "of 0 tokens": len(prompts) - len(rows)}
    said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    if not len(rows):
        raise raw.file.error(
            "no request in it was served: every one has 0 prompt or 0 output tokens", given=said
        )
    if not said:
        return rows, tuple(raw.notes)
    total = len(prompts) + sum(raw.left_out.values())
    note = f"Left out: {total - len(rows):,} of {total:,} requests of {raw.file.name} ({said})."
    return rows, (*raw.notes, note)
