"""A price table that exists already: checked, and written in one form."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from calibrate.importing.table_writing import Measured, Row
from sim.price.providers.table import load_price_table


def read_price_table(folder: Path) -> Measured:
    """A folder with ``price_table.yaml`` and its CSV files, made by hand or by a profiler."""
    table = load_price_table(folder)
    return Measured(
        device=table.device,
        model=table.model,
        tensor_parallel_size=table.tensor_parallel_size,
        shape=table.shape,
        calls=table.calls,
        source=table.source,
        per_token=rows_of(folder / "per_token.csv"),
        per_sequence=rows_of(folder / "per_sequence.csv"),
        attention=rows_of(folder / "attention.csv"),
    )


def rows_of(file: Path) -> list[Row]:
    """The rows of a file that ``load_price_table`` has checked."""
    return [tuple(row) for row in pd.read_csv(file).itertuples(index=False, name=None)]
