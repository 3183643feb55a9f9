"""Text and CSV files that a scenario names, read strictly: path, line and column stand in every error."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sim.arrays import Int64
from sim.errors import NoSuchFile, ScenarioError, closest
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    from sim.arrays import Float64
    from sim.scenario.place import Place


_OTHER_LAYOUTS = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x89HDF": "an HDF5 file",
    b"\xff\xfe": "a UTF-16 file",
    b"\xfe\xff": "a UTF-16 file",
    b"SQLite": "an SQLite database",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file's name, as errors print it, and its text with ``\\n`` line ends and no byte order mark."""

    name: str
    text: str

    def error(self, problem: str, where: str = "", **more: object) -> ScenarioError:
        """A ScenarioError about this file: ``where`` is a line, row or column."""
        given, allowed, hint = more.get("given"), str(more.get("allowed", "")), str(more.get("hint", ""))
        return ScenarioError(problem, file=self.name, path=where, given=given, allowed=allowed, hint=hint)


def read_text_file(base_dir: Path, given: str, key_path: str) -> TextFile:
    """The text of file ``given`` (relative to ``base_dir``); gzip is known by its first bytes."""
    packed = _read_bytes(base_dir, given, key_path)
    raw = _unpacked(packed, given)
    if not raw.strip():
        raise ScenarioError(
            "the file is empty", file=given, allowed="a header line and rows, or lines of JSON"
        )
    for magic, layout in _OTHER_LAYOUTS.items():
        if raw.startswith(magic):
            raise ScenarioError(
                f"this is {layout}, not text",
                file=given,
                allowed="UTF-8 text, plain or gzip",
                hint="convert it to CSV",
            )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScenarioError(
            f"not a text file: byte {error.start:,} is not UTF-8",
            file=given,
            given=raw[error.start : error.start + 8],
            allowed="UTF-8 text, plain or gzip",
        ) from None
    if "\0" in text:
        raise ScenarioError(
            f"not a text file: character {text.index(chr(0)):,} is a zero byte",
            file=given,
            allowed="UTF-8 text, plain or gzip",
        )
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return TextFile(name=given, text=text)


def _read_bytes(base_dir: Path, given: str, key_path: str) -> bytes:
    if not given or "\0" in given:
        raise ScenarioError("this is no file name", path=key_path, given=given, allowed="the path of a file")
    path = base_dir / given
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ScenarioError(f"{key_path}: there is no such file", file=given, hint=_near(path)) from None
    except IsADirectoryError:
        raise ScenarioError(
            f"{key_path}: this is a folder, not a file", file=given, hint=_near(path / "x")
        ) from None
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{key_path}: the file cannot be read: {error}", file=given) from None


def _near(path: Path) -> str:
    """Files beside ``path`` that it may have meant, or the folder that is missing too."""
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    import difflib

    names = sorted(one.name for one in path.parent.iterdir() if one.is_file())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:3]
    return f"in that folder there is {', '.join(close)}" if close else "that folder is empty"


def _unpacked(packed: bytes, given: str) -> bytes:
    if not packed.startswith(b"\x1f\x8b"):
        return packed
    import gzip

    try:
        return gzip.decompress(packed)
    except EOFError:
        problem = "the gzip file ends before its end: it was cut off"
    except (gzip.BadGzipFile, zlib.error) as error:
        problem = f"the gzip file is damaged: {error}"
    raise ScenarioError(problem, file=given, hint="fetch or copy the file again; `gzip -t` checks it")


def check_file(given: str, place: Place, base_dir: Path) -> None:
    """Refuses a path behind which there is no file, so that nothing starts without it."""
    path = base_dir / given
    try:
        if path.is_file():
            return
        names = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError):
        names = []
    near = closest(path.name, names)
    raise NoSuchFile(
        "no such file",
        file=place.file,
        path=place.path,
        given=given,
        allowed="a path relative to the scenario file",
        hint=str(Path(given).parent / near) if near else f"looked for {path}",
    )


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
        """A column of numbers; NaN and infinities pass: the caller knows the bounds."""
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
    import csv

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
    import csv

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
