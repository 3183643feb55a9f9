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
    "QUEUES_IN_BURSTS",
    "BACKLOGGED",
    "OVERLOADED",
    "ABANDONED",
    "ALL_AT_ONCE",
    "UNTESTED",
    # A kernel's: what held it back, and "COMPUTE_BOUND".
    "MEMORY_BOUND",
    "L2_BOUND",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """How a sentence has a word: "static {phrase}"; how a table has it, in a few words; when it is said."""

    phrase: str
    short: str
    when: str
    both: str = ""  # where two share it; none: neither is worth a word then

    @property
    def is_trouble(self) -> bool:
        """Whether it is said even where all share it."""
        return bool(self.both)


SAID: Mapping[Word, Said] = {
    "STABLE": Said(
        phrase="keeps up with its load",
        short="keeps up",
        when="the queue does not grow over the arrivals, or cannot (closed loop)",
    ),
    "QUEUES_IN_BURSTS": Said(
        phrase="serves its average load, but queues in bursts",
        short="queues in bursts",
        both="both serve their average load, but queue in bursts",
        when="the queue did not grow, but one in a hundred requests waited for more than ten times the SLO's "
        "limit of the first token",
    ),
    "BACKLOGGED": Said(
        phrase="falls behind its load",
        short="falls behind",
        both="both fall behind their load",
        when="the queue grew while requests came, or many waited at a load above capacity, and all was done "
        "within as long again",
    ),
    "OVERLOADED": Said(
        phrase="is overloaded",
        short="overloaded",
        both="both are overloaded",
        when="the same, and it took longer than that to work off, or never was",
    ),
    "ABANDONED": Said(
        phrase="loses clients that give up waiting",
        short="clients give up",
        both="both lose clients that give up waiting",
        when="the queue did not grow, and at least 5 % of the clients gave up before their answer",
    ),
    # How fast it was done is the answer then: a queue there is whatever serves it.
    "ALL_AT_ONCE": Said(
        phrase="got all requests at once",
        short="all at once",
        when="all requests came together, so that there is a queue whatever serves them",
    ),
    "UNTESTED": Said(
        phrase="ran too briefly to tell whether its queue is stable",
        short="too short to tell",
        both="both ran too briefly to tell whether their queues are stable",
        when="fewer than 80 arrivals; or the number in the system still grows; or half of the requests "
        "waited for more than a tenth of the time in which they came; or few wait at a load above capacity",
    ),
    "COMPUTE_BOUND": Said(
        phrase="is bound by compute",
        short="bound by compute",
        when="training: nothing else takes three tenths of a step; "
        "a kernel: most of what its blocks wait for is computing",
    ),
    "EXCHANGE_BOUND": Said(
        phrase="is bound by the exchange",
        short="bound by the exchange",
        when="exchange that nothing hides takes at least three tenths of a step, more than any other waiting",
    ),
    "STRAGGLER_BOUND": Said(
        phrase="waits for stragglers",
        short="waits for stragglers",
        when="the same of waiting for slower workers",
    ),
    "DATA_BOUND": Said(phrase="waits for data", short="waits for data", when="the same of waiting for data"),
    "FAILURE_BOUND": Said(
        phrase="is held back by failures and checkpoints",
        short="failures and checkpoints",
        when="the same of work done again, restarts and checkpoints",
    ),
    "MEMORY_BOUND": Said(
        phrase="is bound by memory bandwidth",
        short="bound by memory bandwidth",
        when="most of what a kernel's blocks wait for is the memory system, and HBM limits it",
    ),
    "L2_BOUND": Said(
        phrase="is bound by L2 bandwidth",
        short="bound by L2 bandwidth",
        when="the same where L2 limits it: tiles are loaded again and again, and HBM moves few of the bytes",
    ),
    "LATENCY_BOUND": Said(
        phrase="is bound by memory latency",
        short="bound by memory latency",
        when="most of what a kernel's blocks wait for is single loads",
    ),
    "LAUNCH_BOUND": Said(
        phrase="is bound by kernel launches",
        short="bound by kernel launches",
        when="launches take longer than the kernels themselves",
    ),
    "LINK_BOUND": Said(
        phrase="is bound by the host link",
        short="bound by the host link",
        when="the host link takes longer than the kernels",
    ),
    "OUT_OF_MEMORY": Said(
        phrase="does not fit into memory",
        short="does not fit",
        both="neither fits into memory",
        when="the device's memory does not hold it",
    ),
}
