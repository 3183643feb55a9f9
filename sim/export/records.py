"""Per-request, per-segment and per-eviction records as columns and as CSV text.

Times are kept in whole picoseconds, so that CSV prints seconds exactly (12 decimals) and nothing is
rounded but ``tpot_s``, a quotient, to the nearest picosecond. A moment that never came is an empty cell.
What is of serving alone is imported when it is called for: runs of every kind are written from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Column

if TYPE_CHECKING:
    from sim.serving.records import RunResult

_ROWS_PER_CHUNK = 50_000


def requests_csv(result: RunResult) -> Iterator[str]:
    """The requests' records as CSV, in pieces."""
    from sim.serving.tables import request_record_columns

    return csv_text(request_record_columns(result))


def segments_csv(result: RunResult) -> Iterator[str]:
    """The engine's segments as CSV, in pieces."""
    from sim.serving.tables import segment_record_columns

    return csv_text(segment_record_columns(result))


def preemptions_csv(result: RunResult) -> Iterator[str]:
    """The preemption ledger as CSV, in pieces."""
    from sim.serving.tables import preemption_record_columns

    return csv_text(preemption_record_columns(result))


def csv_text(columns: Sequence[Column]) -> Iterator[str]:
    """A header and the rows, fifty thousand at a time."""
    yield ",".join(column.name for column in columns) + "\n"
    num_rows = columns[0].values.size
    for begin in range(0, num_rows, _ROWS_PER_CHUNK):
        rows = slice(begin, min(begin + _ROWS_PER_CHUNK, num_rows))
        cells = [_cells(column, rows) for column in columns]
        yield "\n".join(map(",".join, zip(*cells, strict=True))) + "\n"


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
