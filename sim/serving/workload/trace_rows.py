"""A trace as its file gives it, before units, order and bounds: the layouts' common form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sim.arrays import Float64, Int64
from sim.errors import ScenarioError, did_you_mean
from sim.scenario.csv_files import TextFile
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
    hash_ids: Sequence[Sequence[int]] | None = None
    hash_block_tokens: int | None = None  # tokens per id, where the file says it
    is_dated: bool = False

    def error(self, problem: str, row: int, role: str, **more: object) -> ScenarioError:
        """A ScenarioError about one cell."""
        return self.file.error(problem, f"{self.where(row)}: column {self.names[role]}", **more)


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


def checked_lengths(raw: RawTrace) -> tuple[Int64, Int64, tuple[str, ...]]:
    """Prompt and output lengths as whole numbers from 1 up, and notes on zeros that became 1.

    An engine computes at least one prompt token and gives at least one token back, so a length of 0
    (a failed or filtered request in some traces) is played as 1.
    """
    notes = []
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
        zeros = int(np.count_nonzero(column == 0))
        if zeros:
            notes.append(f"Requests with {raw.names[role]} 0 are played as 1 token: {zeros:,}.")
        lengths.append(np.maximum(column, 1).astype(np.int64))
    return lengths[0], lengths[1], tuple(notes)
