"""Per-request, per-segment and per-eviction records as columns and as CSV text.

Times are kept in whole picoseconds, so that CSV prints seconds exactly (12 decimals) and nothing is
rounded but ``tpot_s``, a quotient, to the nearest picosecond. A moment that never came is an empty cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: ``time`` in picoseconds (shown in seconds), ``count``, ``flag`` or ``text``."""

    name: str
    kind: Literal["time", "count", "flag", "text"]
    values: npt.NDArray[Any]
    is_missing: npt.NDArray[np.bool_] | None = None
