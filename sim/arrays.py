"""The types of columns, and the picosecond clock's unit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PS_PER_S = 1_000_000_000_000


def to_ps(seconds: float) -> int:
    """Seconds to integer picoseconds: the one place where a time is rounded to the clock."""
    return round(seconds * PS_PER_S)
