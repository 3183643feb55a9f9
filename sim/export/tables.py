"""Any list of rows as CSV or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.errors import ScenarioError
from sim.export.atomic import write_whole
from sim.export.records import quoted_cell


def write_table(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write ``rows`` as the file's ending says (.csv or .json); whole or not at all.

    Columns are the union of the rows' keys, in order of first appearance. None, NaN and infinity
    are empty cells (CSV) and null (JSON); numbers keep all their digits.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    ending = Path(path).suffix.lower()
    if ending == ".json":
        table = [{name: _plain(row.get(name)) for name in names} for row in rows]
        write_whole(path, json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    elif ending == ".csv":
        lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
        write_whole(path, (",".join(quoted_cell(cell) for cell in line) + "\n" for line in lines))
    else:
        raise ScenarioError("tables are written as CSV or JSON", file=str(path), allowed=".csv, .json")


def _plain(value: Any) -> Any:
    """A JSON-able value: NumPy numbers become Python's, what is not finite becomes None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _cell(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, bool):
        return "true" if plain else "false"
    return repr(plain) if isinstance(plain, float) else str(plain)
