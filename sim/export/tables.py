"""Any list of rows as CSV or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.errors import ScenarioError
from sim.export.atomic import write_whole
from sim.export.records import quoted_cell

Rows = Sequence[Mapping[str, Any]]


def write_table(rows: Rows, path: str | Path) -> None:
    """Write ``rows`` as the file's ending says; whole or not at all.

    Columns are the union of the rows' keys, in order of first appearance. None, NaN and infinity
    are empty cells (CSV) and null (JSON); numbers keep all their digits.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_whole(path, TABLE_FORMATS[check_table_path(path)](names, rows))


def check_table_path(path: str | Path, key_path: str = "") -> str:
    """The ending, one of ``TABLE_FORMATS``."""
    ending = Path(path).suffix.lower()
    if ending not in TABLE_FORMATS:
        raise ScenarioError(
            "the ending says how a table is written",
            path=key_path,
            given=str(path),
            allowed=", ".join(TABLE_FORMATS),
        )
    return ending


def _json_lines(names: Sequence[str], rows: Rows) -> Iterator[str]:
    table = [{name: _plain(row.get(name)) for name in names} for row in rows]
    yield json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _csv_lines(names: Sequence[str], rows: Rows) -> Iterator[str]:
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    return (",".join(quoted_cell(cell) for cell in line) + "\n" for line in lines)


TABLE_FORMATS: Mapping[str, Callable[[Sequence[str], Rows], Iterator[str]]] = {
    ".csv": _csv_lines,
    ".json": _json_lines,
}
"""How a table is written, by the ending of its file."""


def _plain(value: object) -> bool | int | float | str | None:
    """A JSON-able value: NumPy numbers become Python's, what is not finite becomes None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _cell(value: object) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, bool):
        return "true" if plain else "false"
    return repr(plain) if isinstance(plain, float) else str(plain)
