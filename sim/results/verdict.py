"""The word that a run ends with, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sim.scenario.dataclass import dataclass

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
    is_by_construction: bool = False  # how the load was asked for makes it so, whatever serves it


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """How a sentence has a word: "static {phrase}"."""

    phrase: str
    both: str = ""  # where two share it; none: neither is worth a word then

    @property
    def is_trouble(self) -> bool:
        """Whether it is said even where all share it."""
        return bool(self.both)


SAID: Mapping[Word, Said] = {
    "STABLE": Said(phrase="keeps up with its load"),
    "BACKLOGGED": Said(phrase="falls behind its load", both="both fall behind their load"),
    "OVERLOADED": Said(phrase="is overloaded", both="both are overloaded"),
    "UNTESTED": Said(
        phrase="ran too briefly to tell whether its queue is stable",
        both="both ran too briefly to tell whether their queues are stable",
    ),
    "COMPUTE_BOUND": Said(phrase="is bound by compute"),
    "EXCHANGE_BOUND": Said(phrase="is bound by the exchange"),
    "STRAGGLER_BOUND": Said(phrase="waits for stragglers"),
    "DATA_BOUND": Said(phrase="waits for data"),
    "FAILURE_BOUND": Said(phrase="is held back by failures and checkpoints"),
    "MEMORY_BOUND": Said(phrase="is bound by memory bandwidth"),
    "LATENCY_BOUND": Said(phrase="is bound by memory latency"),
    "LAUNCH_BOUND": Said(phrase="is bound by kernel launches"),
    "LINK_BOUND": Said(phrase="is bound by the host link"),
    "OUT_OF_MEMORY": Said(phrase="does not fit into memory", both="neither fits into memory"),
}
