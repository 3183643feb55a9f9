"""CSV files: a header line, then numbers and dates by column.

NumPy's reader does the work where every line has as many cells as the header and nothing is quoted;
Python's csv module reads the rest and finds the cell that is wrong.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sim.arrays import Int64
from sim.workload.files import TextFile, read_text_file

if TYPE_CHECKING:
    from sim.arrays import Float64

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?(nan|inf|infinity)\s*", re.I)
_DATE = re.compile(r"((?:19[7-9]|20\d)\d-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:?\d\d)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFile:
    """A CSV file whose header has been read."""

    file: TextFile
    header: tuple[str, ...]
    delimiter: str
    num_rows: int
    rows: tuple[tuple[str, ...], ...] | None  # cells, where NumPy's reader may not read the file
    lines: tuple[int, ...] | None  # the rows' line numbers then; else row i is line i + 2

    def line_of(self, row: int) -> str:
        """Where row ``row`` stands, in words."""
        return f"line {row + 2 if self.lines is None else self.lines[row]}"

    def numbers(self, column: int) -> Float64:
        """A column of numbers; NaN and infinities pass, as whoever asks knows the bounds."""
        if self.rows is None:
            try:
                return np.loadtxt(
                    io.StringIO(self.file.text),
                    delimiter=self.delimiter,
                    skiprows=1,
                    comments=None,
                    usecols=column,
                    ndmin=1,
                    dtype=np.float64,
                )
            except ValueError:
                pass  # read again below, to say where
        cells = self.cells(column)
        for row, cell in enumerate(cells):
            if not _NUMBER.fullmatch(cell):
                raise self.file.error(
                    "not a number" if cell.strip() else "the cell is empty",
                    f"{self.line_of(row)}: column {self.header[column]}",
                    given=cell,
                    allowed="a number",
                )
        return np.array([float(cell) for cell in cells], dtype=np.float64)

    def cells(self, column: int) -> Sequence[str]:
        """A column as it is written."""
        if self.rows is not None:
            return [row[column] for row in self.rows]
        lines = self.file.text.rstrip("\n").split("\n")
        return [line.split(self.delimiter, column + 1)[column] for line in lines[1:]]

    def is_dates(self, column: int) -> bool:
        """Whether a column's first cell is a date with a time."""
        first = self.rows[0] if self.rows else self.file.text.split("\n", 2)[1].split(self.delimiter)
        return _DATE.fullmatch(first[column].strip()) is not None

    def dates_ns(self, column: int) -> Int64:
        """A column of dates with times, as nanoseconds; one time zone for all of them."""
        cells = self.cells(column)
        found = [_DATE.fullmatch(cell.strip()) for cell in cells]
        zone = found[0][3] if found[0] else None
        texts = []
        for row, match in enumerate(found):
            if match is None or match[3] != zone:
                raise self._date_error(row, column, cells[row])
            texts.append(f"{match[1]}T{match[2]}")
        try:
            return np.array(texts, dtype="datetime64[ns]").astype(np.int64)
        except ValueError:
            row = next(row for row, text in enumerate(texts) if not _is_real_date(text))
            raise self._date_error(row, column, cells[row]) from None

    def _date_error(self, row: int, column: int, cell: str) -> Exception:
        return self.file.error(
            "not a date with a time in the time zone of the first row",
            f"{self.line_of(row)}: column {self.header[column]}",
            given=cell,
            allowed="2023-11-16 18:15:46.6805900",
            hint="for times in seconds or the like: format: csv, and time_unit",
        )


def _is_real_date(text: str) -> bool:
    try:
        np.datetime64(text, "ns")
    except ValueError:
        return False
    return True


def open_csv(file: TextFile) -> CsvFile:
    """The file with its header read and its lines seen to have as many cells as the header."""
    first, _, rest = file.text.partition("\n")
    delimiter = max(",;\t", key=first.count)
    quoted = '"' in file.text
    header = tuple(name.strip() for name in _split(file, first, delimiter))
    _check_header(file, header)
    if not rest.strip():
        raise file.error("there is a header but no row", "line 2", allowed="at least one row")
    body = rest.rstrip("\n")
    num_lines = body.count("\n") + 1
    if not quoted and _is_even(body, delimiter, len(header) - 1):
        return CsvFile(
            file=file, header=header, delimiter=delimiter, num_rows=num_lines, rows=None, lines=None
        )
    rows, lines = _read_rows(file, header, delimiter)
    return CsvFile(file=file, header=header, delimiter=delimiter, num_rows=len(rows), rows=rows, lines=lines)


def _is_even(body: str, delimiter: str, expected: int) -> bool:
    """Whether every line has ``expected`` delimiters and something in it."""
    if not body.isascii():
        return False
    characters = np.frombuffer(body.encode("ascii"), dtype=np.uint8)
    ends = np.append(np.flatnonzero(characters == ord("\n")), len(characters))
    if expected == 0:
        return bool(np.all(np.diff(ends, prepend=-1) > 1))
    found = np.searchsorted(np.flatnonzero(characters == ord(delimiter)), ends)
    return bool(np.all(np.diff(found, prepend=0) == expected))


def _split(file: TextFile, line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise file.error(f"not a line of CSV: {error}", "line 1") from None


def _check_header(file: TextFile, header: tuple[str, ...]) -> None:
    if any(_NUMBER.fullmatch(name) for name in header):
        raise file.error(
            "the first line is no header: it has numbers",
            "line 1",
            given=",".join(header),
            allowed="names of columns, e.g. arrived_at,num_prefill_tokens,num_decode_tokens",
        )
    doubled = sorted({name for name in header if header.count(name) > 1 and name})
    if doubled:
        raise file.error("two columns have one name", "line 1", given=doubled[0])


def _read_rows(
    file: TextFile, header: tuple[str, ...], delimiter: str
) -> tuple[tuple[tuple[str, ...], ...], tuple[int, ...]]:
    """Every row's cells and line number, blank lines left out; a row of another length is refused."""
    reader = csv.reader(io.StringIO(file.text), delimiter=delimiter, strict=True)
    rows, lines = [], []
    try:
        next(reader)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise file.error(
                    f"the row has {len(cells)} cells, the header has {len(header)}",
                    f"line {reader.line_num}",
                    given=delimiter.join(cells),
                    allowed=delimiter.join(header),
                    hint="was the file cut off?",
                )
            rows.append(tuple(cells))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise file.error(f"not a line of CSV: {error}", f"line {reader.line_num}") from None
    if not rows:
        raise file.error("there is a header but no row", "line 2", allowed="at least one row")
    return tuple(rows), tuple(lines)


def read_column(base_dir: Path, given: str, column: str | None, key_path: str) -> Float64:
    """One column of a CSV file, for an empirical distribution: numbers of 0 or more."""
    table = open_csv(read_text_file(base_dir, given, key_path))
    if column is None and len(table.header) == 1:
        column = table.header[0]
    if column not in table.header:
        raise table.file.error(
            "no column has this name" if column else "which column?",
            "line 1",
            given=column,
            allowed=", ".join(table.header),
            hint="column: " + table.header[0],
        )
    values = table.numbers(table.header.index(column))
    bad = np.flatnonzero(~(values >= 0) | np.isinf(values))
    if bad.size:
        raise table.file.error(
            "not a number of 0 or more",
            f"{table.line_of(int(bad[0]))}: column {column}",
            given=float(values[bad[0]]),
            allowed="numbers of 0 or more",
        )
    return values
