"""Per-request, per-segment and per-eviction records as columns and as CSV text.

Times are kept in whole picoseconds, so that CSV prints seconds exactly (12 decimals) and nothing is
rounded but ``tpot_s``, a quotient, to the nearest picosecond. A moment that never came is an empty cell.
What is of serving alone is imported when it is called for: runs of every kind are written from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Bools, Column

if TYPE_CHECKING:
    from sim.serving.records import RunResult

_ROWS_PER_CHUNK = 8192


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
    """A header and the rows, some thousands at a time.

    Cells are made a column at a time, as characters in an array: a table has up to millions of them, and a
    string for each was most of what writing took.
    """
    yield ",".join(column.name for column in columns) + "\n"
    num_rows = columns[0].values.size
    for begin in range(0, num_rows, _ROWS_PER_CHUNK):
        yield _lines(columns, slice(begin, min(begin + _ROWS_PER_CHUNK, num_rows)))


class Cells(NamedTuple):
    """A column's cells as characters, a row each: those that count."""

    characters: npt.NDArray[np.uint8]
    is_shown: Bools


def _lines(columns: Sequence[Column], rows: slice) -> str:
    cells = [_cells(column, rows) for column in columns]
    height, width = rows.stop - rows.start, sum(one.characters.shape[1] + 1 for one in cells)
    characters, is_shown = np.full((height, width), ord(","), np.uint8), np.ones((height, width), np.bool_)
    at = 0
    for one in cells:
        end = at + one.characters.shape[1]
        characters[:, at:end], is_shown[:, at:end] = one
        at = end + 1
    characters[:, -1] = ord("\n")
    return characters[is_shown].tobytes().decode()


def _cells(column: Column, rows: slice) -> Cells:
    values = column.values[rows]
    if column.kind == "time":
        cells = seconds_cells(values)
    elif column.kind == "count" and values.dtype.kind in "iu":
        cells = whole_cells(values.astype(np.int64))
    else:
        cells = _words(column.kind, values)
    if column.is_missing is not None:
        cells.is_shown[column.is_missing[rows]] = False
    return cells


def _words(kind: str, values: npt.NDArray[Any]) -> Cells:
    """Flags, text, and numbers that are not whole; words that come again are made once."""
    listed = values.tolist()
    if kind == "count":
        encoded, places = [str(value).encode() for value in listed], np.arange(len(listed))
    else:
        index = {value: place for place, value in enumerate(dict.fromkeys(listed))}
        text_of = quoted_cell if kind == "text" else _flag_text
        encoded = [text_of(value).encode() for value in index]
        places = np.fromiter(map(index.__getitem__, listed), np.intp, len(listed))
    characters = np.array(encoded, dtype=np.bytes_).view(np.uint8).reshape(len(encoded), -1)
    lengths = np.array([len(one) for one in encoded])
    return Cells(characters[places], (np.arange(characters.shape[1]) < lengths[:, None])[places])


def _flag_text(value: object) -> str:
    return "true" if value else "false"


def seconds_cells(times_ps: npt.NDArray[np.int64]) -> Cells:
    """Picoseconds as exact decimal seconds: 1500000000000 -> "1.500000000000"."""
    size = np.abs(times_ps)
    whole = size // PS_PER_S
    rest = size - whole * PS_PER_S
    before, after = _digits(whole, _width(whole)), _digits(rest, 12)
    point = np.full((size.size, 1), ord("."), np.uint8)
    shown = np.ones((size.size, 13), np.bool_)
    return _signed(times_ps, whole, before, (point, after), shown)


def whole_cells(values: npt.NDArray[np.int64]) -> Cells:
    """Whole numbers."""
    size = np.abs(values)
    return _signed(values, size, _digits(size, _width(size)), (), np.ones((size.size, 0), np.bool_))


def _signed(
    values: npt.NDArray[np.int64],
    whole: npt.NDArray[np.int64],
    before: npt.NDArray[np.uint8],
    after: tuple[npt.NDArray[np.uint8], ...],
    after_is_shown: Bools,
) -> Cells:
    """Digits before and after the point, without zeros in front and with a sign where one is needed."""
    sign = np.full((values.size, 1), ord("-"), np.uint8)
    from_place = 10 ** np.arange(before.shape[1] - 1, -1, -1, dtype=np.int64)
    is_shown = whole[:, None] >= from_place
    is_shown[:, -1] = True
    shown = np.concatenate([(values < 0)[:, None], is_shown, after_is_shown], axis=1)
    return Cells(np.concatenate([sign, before, *after], axis=1), shown)


def _width(values: npt.NDArray[np.int64]) -> int:
    return len(str(int(values.max(initial=0))))


_PLACES = np.array([1000, 100, 10, 1])
_FOUR_DIGITS = (np.arange(10_000)[:, None] // _PLACES % 10 + ord("0")).astype(np.uint8).view(np.uint32)[:, 0]


def _digits(values: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.uint8]:
    """The last ``width`` digits of each, four at a time."""
    groups = -(-width // 4)
    found = np.empty((values.size, groups), np.uint32)
    left = values
    for group in range(groups - 1, -1, -1):
        before = left // 10_000
        found[:, group] = _FOUR_DIGITS[left - before * 10_000]
        left = before
    return found.view(np.uint8).reshape(values.size, -1)[:, 4 * groups - width :]


def quoted_cell(text: str) -> str:
    """A CSV cell, in quotes where it needs them (RFC 4180)."""
    if any(mark in text for mark in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text
