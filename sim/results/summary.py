"""A run's statistics as frozen records that print themselves as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sim.results.verdict import Verdict
from sim.scenario.caution import Caution
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SloLine:
    """One thing that an SLO asks, and what was found. ``of``: the bounds that a share of requests meets."""

    metric: str
    limit: float
    value: float | None
    is_most: bool  # at most the limit; else at least
    decides: bool
    of: str = ""

    @property
    def is_met(self) -> bool | None:
        """None where there is no value."""
        if self.value is None:
            return None
        return self.value <= self.limit if self.is_most else self.value >= self.limit

    @property
    def excess(self) -> float:
        """How far on the wrong side, as a share of the limit; a value that is not known is worst."""
        if self.value is None:
            return math.inf
        by = self.value - self.limit if self.is_most else self.limit - self.value
        return by / self.limit if self.limit else by

    def __str__(self) -> str:
        """In words, with digits enough to see on which side of the limit the value lies."""
        found, limit = telling(self.value, self.limit, is_time=self.is_most)
        if not self.is_most:
            return f"{found} of the requests meet {self.of}, {limit} asked"
        verdict = {True: "met", False: "missed", None: "open"}[self.is_met]
        return f"{self.metric} {found}, at most {limit}: {verdict}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "metric": self.metric,
            "at_most" if self.is_most else "at_least": rounded(self.limit),
            "value": rounded(self.value),
            "met": self.is_met,
            "decides": self.decides,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedTime:
    """A statistic of a time and what the SLO allows it. ``of``: the class whose own SLO it is."""

    metric: str
    value: float
    limit: float
    of: str = ""

    @property
    def name(self) -> str:
        """As the rows of a sweep have it: ``p99_ttft_s``, ``p99_ttft_s of chat``."""
        return f"{self.metric} of {self.of}" if self.of else self.metric

    @property
    def ratio(self) -> float:
        """What was found over its limit: the largest of them binds."""
        return self.value / self.limit

    @property
    def in_words(self) -> str:
        """ "45.9 of 50 ms": the unit once where both have it."""
        found, limit = telling(self.value, self.limit, is_time=True)
        number, _, unit = found.partition(" ")
        return f"{number if unit == limit.partition(' ')[2] else found} of {limit}"


def telling(value: float | None, limit: float, *, is_time: bool) -> tuple[str, str]:
    """(value, limit) in words, with as many digits as set them apart."""

    def said(number: float, digits: int) -> str:
        if not is_time:
            return f"{100 * number:.{digits}g} %"
        return f"{number:.{digits}g} s" if number >= 1 else f"{1000 * number:.{digits}g} ms"

    if value is None:
        return "not known", said(limit, 6)
    found = next((said(value, d) for d in range(3, 10) if said(value, d) != said(limit, d)), said(value, 9))
    return found, said(limit, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTime:
    """A percentile that an SLO asks and that too few requests carry; named as a ``LimitedTime`` is."""

    metric: str
    num_finished: int
    num_needed: int
    of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSummary:
    """The same metrics for one class of a mixture; the engine's own belong to all classes together."""

    metrics: Mapping[str, float | None]
    refused: Mapping[str, str]
    meets_slo: bool | None
    slo: tuple[SloLine, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, keys in the order of ``METRICS``."""
        return {
            "meets_slo": self.meets_slo,
            "slo": [line.to_dict() for line in self.slo],
            "metrics": {name: rounded(value) for name, value in self.metrics.items()},
            "refused": dict(self.refused),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one run of one variant with one seed says.

    ``metrics`` has every name of ``METRICS``; None where there is no number, with the reason in
    ``refused``. ``whole_run`` counts requests with warm-up included. ``meets_slo``: the statistics that the
    SLO states keep to their limits, or, without any, at least ``attainment_fraction`` of the offered requests
    meet every bound; and so it is for every class with an SLO of its own. None without one, or where a
    statistic that decides is refused.
    """

    question: str
    variant: str
    seed: int
    hardware: str
    model: str
    allocator: str  # KV allocator with its detail: paged/16, contiguous/max
    arrivals: str  # the arrival process, or "trace"
    metrics: Mapping[str, float | None]
    refused: Mapping[str, str]
    meets_slo: bool | None
    verdict: Verdict
    warnings: tuple[Caution, ...]
    by_class: Mapping[str, ClassSummary]
    whole_run: Mapping[str, int]
    window_s: tuple[float, float]
    notes: tuple[str, ...]
    kind: str = "serving"
    slo: tuple[SloLine, ...] = ()
    limited_times: tuple[LimitedTime, ...] = ()  # every time that an SLO limits, of each class too
    open_times: tuple[OpenTime, ...] = ()  # of those that it asks, the ones without a value
    offered_per_s: float | None = None  # requests that came a second; None where there is no such rate
    window: str = ""  # ``window_s`` in words: how long, and what was left out before it
    headline: str = ""  # the metric that answers, where the scenario says so
    work: str = ""  # by what the work is done, where an answer must say so: "flash_attention_1"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able and deterministic: floats to 9 significant digits, keys in a fixed order."""
        return {
            "variant": self.variant,
            "seed": self.seed,
            "hardware": self.hardware,
            "model": self.model,
            "verdict": self.verdict.word,
            "verdict_reason": self.verdict.reason,
            "meets_slo": self.meets_slo,
            "slo": [line.to_dict() for line in self.slo],
            "window_s": [rounded(moment) for moment in self.window_s],
            "whole_run": dict(self.whole_run),
            "metrics": {name: rounded(value) for name, value in self.metrics.items()},
            "refused": dict(self.refused),
            "by_class": {name: part.to_dict() for name, part in self.by_class.items()},
            "warnings": [{"kind": caution.kind, "text": str(caution)} for caution in self.warnings],
            "notes": list(self.notes),
        }


def warning_cell(warnings: Iterable[Caution]) -> str:
    """All of them as one cell of a table: each with its kind, which a reader filters by."""
    return " | ".join(f"{caution.kind}: {caution}" for caution in warnings)


def rounded(value: float | None) -> float | int | None:
    """Nine significant digits; whole numbers as integers."""
    if value is None:
        return None
    short = float(f"{value:.9g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
