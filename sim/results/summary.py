"""A run's statistics as frozen records that print themselves as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sim.results.verdict import Verdict
from sim.scenario.caution import Caution


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSummary:
    """The same metrics for one class of a mixture; the engine's own belong to all classes together."""

    metrics: Mapping[str, float | None]
    refused: Mapping[str, str]
    meets_slo: bool | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, keys in the order of ``METRICS``."""
        return {
            "meets_slo": self.meets_slo,
            "metrics": {name: rounded(value) for name, value in self.metrics.items()},
            "refused": dict(self.refused),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one run of one variant with one seed says.

    ``metrics`` has every name of ``METRICS``; None where there is no number, with the reason in
    ``refused``. ``whole_run`` counts requests with warm-up included. ``meets_slo``: at least
    ``attainment_fraction`` of the offered requests meet every bound, and so does every class with
    bounds of its own; None without any bound.
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
