"""The word that a run ends with, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Word = Literal[
    "COMPUTE_BOUND",
    "EXCHANGE_BOUND",
    "STRAGGLER_BOUND",
    "DATA_BOUND",
    "FAILURE_BOUND",
    "STABLE",
    "BACKLOGGED",
    "OVERLOADED",
    "UNTESTED",
    # A kernel's: what held it back, and "COMPUTE_BOUND".
    "MEMORY_BOUND",
    "LATENCY_BOUND",
    "LAUNCH_BOUND",
    "LINK_BOUND",
    "OUT_OF_MEMORY",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The word, why, and the trend behind it (requests that stay waiting per request that arrives)."""

    word: Word
    reason: str
    growth: float | None = None
    t_statistic: float | None = None
