"""Per-request, per-segment and per-eviction records as columns and as CSV text.

Times are kept in whole picoseconds, so that CSV prints seconds exactly (12 decimals) and nothing is
rounded but ``tpot_s``, a quotient, to the nearest picosecond. A moment that never came is an empty cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S
from sim.records import STATUS_NAMES, RunResult
from sim.request_times import class_slos, met_bounds, request_times
from sim.token_gaps import segment_length_ps

_ROWS_PER_CHUNK = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: ``time`` in picoseconds (shown in seconds), ``count``, ``flag`` or ``text``."""

    name: str
    kind: Literal["time", "count", "flag", "text"]
    values: npt.NDArray[Any]
    is_missing: npt.NDArray[np.bool_] | None = None


def request_record_columns(result: RunResult) -> list[Column]:
    """One entry per request, by id. ``output_tokens`` were asked for, ``generated_tokens`` delivered."""
    requests, times = result.requests, request_times(result.requests)
    tpot_missing = np.isnan(times.tpot)
    met = met_bounds(requests, class_slos(result))
    classes = np.array([*result.class_names, ""], dtype=object)
    index = np.clip(requests.class_id, 0, len(classes) - 1)
    columns = [
        _count("request", np.arange(requests.arrival_ps.size)),
        Column(name="class", kind="text", values=classes[index]),
        _count("replica", requests.replica, may_miss=True),
        Column(name="status", kind="text", values=np.array(STATUS_NAMES, dtype=object)[requests.status]),
        Column(name="is_measured", kind="flag", values=requests.is_measured),
        _time("arrival_s", requests.arrival_ps),
        _time("queue_s", times.queue),
        _time("ttft_s", times.ttft),
        _time("ttft_from_admission_s", times.ttft_from_admission),
        Column(
            name="tpot_s",
            kind="time",
            values=np.rint(np.where(tpot_missing, 0.0, times.tpot)).astype(np.int64),
            is_missing=tpot_missing,
        ),
        _time("e2e_s", times.e2e),
    ]
    counts = ("prompt_tokens", "output_tokens", "generated_tokens", "cached_tokens")
    columns += [_count(name, getattr(requests, name)) for name in counts]
    columns += [_count(name, getattr(requests, name)) for name in ("num_preemptions", "recompute_tokens")]
    if met:
        columns.append(Column(name="meets_slo", kind="flag", values=np.logical_and.reduce([*met.values()])))
    return columns


def segment_record_columns(result: RunResult) -> list[Column]:
    """One entry per engine jump; step j lasts ``first_step_s + j * step_growth_s``."""
    segments = result.segments
    counts = (
        "num_decode", "decode_context_tokens", "num_prefill", "prefill_tokens", "num_running", "num_waiting",
        "kv_tokens", "kv_reserved", "kv_internal", "kv_external",
    )  # fmt: skip
    return [
        _count("replica", segments.replica),
        _time("start_s", segments.start_ps),
        _time("end_s", segments.start_ps + segment_length_ps(segments)),
        _count("num_steps", segments.num_steps),
        _time("first_step_s", segments.first_step_ps),
        Column(name="step_growth_s", kind="time", values=segments.step_growth_ps),
        *(_count(name, getattr(segments, name)) for name in counts),
    ]


def preemption_record_columns(result: RunResult) -> list[Column]:
    """The ledger: one entry per eviction."""
    ledger = result.preemptions
    return [
        _time("time_s", ledger.time_ps),
        _count("request", ledger.request),
        _count("replica", ledger.replica),
        _count("recompute_tokens", ledger.recompute_tokens),
    ]


RECORD_TABLES: Mapping[str, Callable[[RunResult], list[Column]]] = {
    "requests": request_record_columns,
    "segments": segment_record_columns,
    "preemptions": preemption_record_columns,
}


def requests_csv(result: RunResult) -> Iterator[str]:
    """The requests' records as CSV, in pieces."""
    return csv_text(request_record_columns(result))


def segments_csv(result: RunResult) -> Iterator[str]:
    """The engine's segments as CSV, in pieces."""
    return csv_text(segment_record_columns(result))


def preemptions_csv(result: RunResult) -> Iterator[str]:
    """The preemption ledger as CSV, in pieces."""
    return csv_text(preemption_record_columns(result))


def csv_text(columns: Sequence[Column]) -> Iterator[str]:
    """A header and the rows, fifty thousand at a time."""
    yield ",".join(column.name for column in columns) + "\n"
    num_rows = columns[0].values.size
    for begin in range(0, num_rows, _ROWS_PER_CHUNK):
        rows = slice(begin, min(begin + _ROWS_PER_CHUNK, num_rows))
        cells = [_cells(column, rows) for column in columns]
        yield "\n".join(map(",".join, zip(*cells, strict=True))) + "\n"


def _time(name: str, values: npt.NDArray[np.int64]) -> Column:
    return Column(name=name, kind="time", values=values, is_missing=values < 0)


def _count(name: str, values: npt.NDArray[Any], *, may_miss: bool = False) -> Column:
    return Column(name=name, kind="count", values=values, is_missing=values < 0 if may_miss else None)


def _cells(column: Column, rows: slice) -> list[str]:
    values = column.values[rows]
    if column.kind == "time":
        cells = seconds_text(values)
    elif column.kind == "flag":
        cells = ["true" if value else "false" for value in values.tolist()]
    elif column.kind == "text":
        quoted = {value: quoted_cell(value) for value in set(values.tolist())}
        cells = [quoted[value] for value in values.tolist()]
    else:
        cells = list(map(str, values.tolist()))
    if column.is_missing is not None:
        for index in np.flatnonzero(column.is_missing[rows]).tolist():
            cells[index] = ""
    return cells


def seconds_text(times_ps: npt.NDArray[np.int64]) -> list[str]:
    """Picoseconds as exact decimal seconds: 1500000000000 -> "1.500000000000"."""
    whole, rest = np.divmod(np.abs(times_ps), PS_PER_S)
    cells = [f"{second}.{part:012d}" for second, part in zip(whole.tolist(), rest.tolist(), strict=True)]
    for index in np.flatnonzero(times_ps < 0).tolist():
        cells[index] = "-" + cells[index]
    return cells


def quoted_cell(text: str) -> str:
    """A CSV cell, in quotes where it needs them (RFC 4180)."""
    if any(mark in text for mark in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text
