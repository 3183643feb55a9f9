"""Files that appear whole or not at all: tables as CSV, JSON or Parquet, data frames, and summary.json."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.arrays import PS_PER_S, Column
from sim.errors import ScenarioError
from sim.export.records import quoted_cell
from sim.results.comparison import Comparison
from sim.results.summary import Summary

if TYPE_CHECKING:
    import pandas as pd

    from sim.serving.records import RunResult


def write_whole(path: str | Path, text: str | Iterable[str]) -> None:
    """Write ``text`` (or its pieces, one after another) to ``path``; on any error nothing is left."""

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines([text] if isinstance(text, str) else text)

    publish(path, write)


def publish(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a hidden file beside ``path``, then give it that name in one step."""
    target = Path(path)
    if target.is_dir():
        raise ScenarioError("this is a folder, a file is wanted", file=str(path))
    if not target.parent.is_dir():
        raise ScenarioError("there is no such folder to write into", file=str(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(target)
    except OSError as error:
        raise ScenarioError(f"cannot be written: {error.strerror or error}", file=str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def requests_dataframe(result: RunResult) -> pd.DataFrame:
    """One row per request, columns as in the CSV; NaN where a moment never came."""
    from sim.serving.tables import request_record_columns

    return dataframe(request_record_columns(result))


def segments_dataframe(result: RunResult) -> pd.DataFrame:
    """One row per engine jump."""
    from sim.serving.tables import segment_record_columns

    return dataframe(segment_record_columns(result))


def preemptions_dataframe(result: RunResult) -> pd.DataFrame:
    """One row per eviction."""
    from sim.serving.tables import preemption_record_columns

    return dataframe(preemption_record_columns(result))


def write_parquet(frame: pd.DataFrame, path: str | Path) -> None:
    """The frame as a Parquet file, whole or not at all; needs the ``[parquet]`` extra."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ScenarioError(
            "Parquet needs pyarrow, which is not installed",
            file=str(path),
            hint="pip install 'gpuyard[parquet]', or CSV",
        )
    publish(path, lambda partial: frame.to_parquet(partial, index=False, engine="pyarrow"))


def dataframe(columns: Sequence[Column]) -> pd.DataFrame:
    """Columns as a DataFrame."""
    import pandas as pd

    return pd.DataFrame({column.name: _values(column) for column in columns})


def _values(column: Column) -> Any:
    if column.kind == "time":
        seconds = column.values / PS_PER_S
        return seconds if column.is_missing is None else np.where(column.is_missing, np.nan, seconds)
    return column.values


Rows = Sequence[Mapping[str, Any]]


def write_table(rows: Rows, path: str | Path) -> None:
    """Write ``rows`` as the file's ending says; whole or not at all.

    Columns are the union of the rows' keys, in order of first appearance. None, NaN and infinity
    are empty cells (CSV) and null (JSON); numbers keep all their digits.
    """
    write_whole(path, TABLE_FORMATS[check_table_path(path)](_names(rows), rows))


def table_csv(rows: Rows) -> str:
    """The same as text, to be printed."""
    return "".join(_csv_lines(_names(rows), rows))


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


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


SUMMARY_SCHEMA_VERSION = 1


def summary_json(summaries: Mapping[str, Sequence[Summary]], *, comparison: Comparison | None = None) -> str:
    """The summaries by variant (a list per seed) as JSON text: no times of day, no paths, no durations."""
    first = next((found[0] for found in summaries.values() if found), None)
    content: dict[str, Any] = {
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "question": first.question if first else "",
        "hardware": first.hardware if first else "",
        "model": first.model if first else "",
        "runs": [summary.to_dict() for found in summaries.values() for summary in found],
    }
    if comparison is not None and comparison.length:
        content["length"] = comparison.length
    if comparison is not None and comparison.refused:
        content["cannot_run"] = [
            {"variant": name, "reason": why.reason, "remedy": why.remedy}
            for name, why in comparison.refused.items()
        ]
    if comparison is not None and len(comparison.variants) > 1:
        content["comparison"] = comparison.to_dict()
    elif comparison is not None:  # nothing to compare, and warnings of the whole all the same
        content["warnings"] = comparison.warning_dicts
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
