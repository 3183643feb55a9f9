"""Records as pandas DataFrames and Parquet. Seconds are floats here: CSV has them exactly."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.arrays import PS_PER_S
from sim.errors import ScenarioError
from sim.export.atomic import publish
from sim.export.records import (
    Column,
    preemption_record_columns,
    request_record_columns,
    segment_record_columns,
)
from sim.records import RunResult

if TYPE_CHECKING:
    import pandas as pd


def requests_dataframe(result: RunResult) -> pd.DataFrame:
    """One row per request, columns as in the CSV; NaN where a moment never came."""
    return dataframe(request_record_columns(result))


def segments_dataframe(result: RunResult) -> pd.DataFrame:
    """One row per engine jump."""
    return dataframe(segment_record_columns(result))


def preemptions_dataframe(result: RunResult) -> pd.DataFrame:
    """One row per eviction."""
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
