"""Bounds on metrics that decide the exit code."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sim.comparison import Comparison
from sim.errors import ScenarioError
from sim.scenario import Threshold
from sim.suggest import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdOutcome:
    """One threshold against the mean over the seeds. No number is a miss, with the reason."""

    metric: str
    variant: str
    bound: str  # "max 1", "min 5", "min 1, max 2"
    value: float | None
    is_met: bool
    reason: str

    def __str__(self) -> str:
        mark = "met" if self.is_met else "MISSED"
        return f"{mark}: {self.variant} {self.metric} {self.bound}: {self.reason}"


def check_thresholds(comparison: Comparison, thresholds: Sequence[Threshold]) -> list[ThresholdOutcome]:
    """Each threshold's outcome, in the order given; a wrong metric or variant is a ScenarioError."""
    known = comparison.cells[comparison.reference]
    check_threshold_names(thresholds, comparison.variants, known)
    return [
        _outcome(comparison, threshold, _variant_of(threshold, comparison.variants))
        for threshold in thresholds
    ]


def check_threshold_names(
    thresholds: Sequence[Threshold], variants: Sequence[str], metrics: Collection[str]
) -> None:
    """Raise ScenarioError for an unknown metric or variant; may be called before anything is run."""
    for index, threshold in enumerate(thresholds):
        if threshold.metric not in metrics:
            raise ScenarioError(
                f"unknown metric{did_you_mean(threshold.metric, metrics)}",
                path=f"thresholds[{index}].metric",
                given=threshold.metric,
                hint="gpuyard run --help names where the metrics are listed",
            )
        if _variant_of(threshold, variants) not in variants:
            raise ScenarioError(
                "the scenario compares variants: say which one is meant"
                if threshold.variant is None
                else f"unknown variant{did_you_mean(threshold.variant, variants)}",
                path=f"thresholds[{index}].variant",
                given=threshold.variant,
                allowed=", ".join(variants),
            )


def _variant_of(threshold: Threshold, variants: Sequence[str]) -> str:
    """The one named; unnamed, the only variant there is, else the scenario itself (``base``)."""
    if threshold.variant is not None:
        return threshold.variant
    return variants[0] if len(variants) == 1 else "base"


def _outcome(comparison: Comparison, threshold: Threshold, variant: str) -> ThresholdOutcome:
    cell = comparison.cells[variant][threshold.metric]
    limits = (("min", threshold.min), ("max", threshold.max))
    bound = ", ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
    unit = comparison.kind.metrics[threshold.metric].unit
    if cell.mean is None:
        is_met, reason = False, f"there is no number: {cell.note}"
    else:
        above = threshold.max is not None and cell.mean > threshold.max
        below = threshold.min is not None and cell.mean < threshold.min
        is_met, reason = (
            not (above or below),
            f"{cell.mean:.6g} {unit}",
        )
    return ThresholdOutcome(
        metric=threshold.metric, variant=variant, bound=bound, value=cell.mean, is_met=is_met, reason=reason
    )
