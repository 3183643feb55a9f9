"""Columns: the types of arrays, the picosecond clock's unit, and what a table is made of.

Times are kept in whole picoseconds, so that CSV prints seconds exactly (12 decimals) and nothing is rounded
but quotients. A moment that never came is an empty cell.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PS_PER_S = 1_000_000_000_000


def to_ps(seconds: float) -> int:
    """Seconds to integer picoseconds: the one place where a time is rounded to the clock."""
    return round(seconds * PS_PER_S)


class Column(NamedTuple):
    """One column: ``time`` in picoseconds (shown in seconds), ``count``, ``flag`` or ``text``."""

    name: str
    kind: Literal["time", "count", "flag", "text"]
    values: npt.NDArray[Any]
    is_missing: Bools | None = None
