"""Variants against the reference: ratios with intervals over seeds, and thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

from sim.errors import InvariantError, ScenarioError, did_you_mean
from sim.results.metric import Metric
from sim.results.statistics import Interval, mean_interval, ratio_interval
from sim.results.summary import SloLine, Summary, rounded
from sim.results.verdict import SAID, Word
from sim.scenario.caution import Caution, ranged
from sim.scenario.dataclass import dataclass
from sim.scenario.fields import Threshold
from sim.scenario.file import Refusal, asked

_FULL = 0.95
_SHORT = 24  # characters of a value that a sentence can hold


def kv_never_full(allocators: Mapping[str, str], fullest: Mapping[str, float | None]) -> Caution | None:
    """For a comparison of KV allocators (by variant) in which no variant's memory was ever full."""
    levels = [level for level in fullest.values() if level is not None]
    if len(set(allocators.values())) < 2 or not levels or max(levels) >= _FULL:
        return None
    return Caution(
        kind="kv_never_full",
        observation=f"KV memory was at most {max(levels):.0%} full in every variant",
        meaning="allocators differ only where memory is short: this comparison says nothing about them",
        remedy="raise the load or max_num_seqs, or lower gpu_memory_utilization",
    )


def one_seed() -> Caution:
    """For a comparison over a single seed."""
    return Caution(
        kind="one_seed",
        observation="one seed",
        meaning="numbers and ratios have no interval: they may be luck",
        remedy="give seeds: [1, 2, 3, 4, 5]",
    )


class ComparedKind(Protocol):
    """What a comparison asks of the kind of its runs."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Its metrics by name."""

    @property
    def table(self) -> Sequence[str]:
        """The decision table's metrics, after the headline."""

    @property
    def deciders(self) -> Sequence[Sequence[str]]:
        """What decides beside the headline: of each group the first metric that has a number."""

    def headline(self, comparison: Comparison) -> str:
        """The metric that answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenLength:
    """How the length of a scenario's runs follows from its ``precision``.

    ``why_not`` says why it cannot be chosen even where numbers are drawn. ``sought`` are the metrics of a
    variant that must be known that well.
    """

    precision: float
    why_not: str | None
    sought: Callable[[Comparison, str], Sequence[str]]
    lengthened: Callable[[int], Any]  # the scenario, so many times as long
    said: Callable[[int], str]  # how long that is, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One metric of one variant against the reference.

    ``mean`` is over the seeds; None, with the reason in ``note``, where any seed has no number.
    ``ratio`` is to the reference; None where a value is not above 0. ``difference`` is this variant
    minus the reference. ``is_significant``: the ratio's interval excludes 1 (without a ratio: the
    difference's excludes 0); None for one seed. ``is_better`` follows the metric's direction and is
    None where it has none or nothing differs significantly.
    """

    values: tuple[float | None, ...]
    mean: float | None
    ratio: Interval | None
    difference: Interval | None
    is_significant: bool | None
    is_better: bool | None
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a variant differs from others, by key path: what it is asked for, and how it does that.

    Only variants that are asked for the same compete. ``circumstances``: those of the ``asked`` keys that
    leave the work as it is (a slow worker, another device).
    """

    asked: Mapping[str, str]
    chosen: Mapping[str, str]
    circumstances: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is compared with what: variants that compete, the first of them the one that others are set
    against; a pair of one and what it is set against; or variants that nothing is like (``is_strange``)."""

    names: tuple[str, ...]
    is_pair: bool = False
    is_strange: bool = False
    asked: str = ""  # other work that it is asked for: "m: 13952, n: 256"

    @property
    def rival(self) -> str:
        """Of two, the one that is set against the other."""
        return self.names[0] if self.is_pair else self.names[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Every metric of every variant against ``reference``; the reference's own cells have no ratio."""

    kind: ComparedKind
    question: str
    reference: str
    variants: tuple[str, ...]  # the reference first
    seeds: tuple[int, ...]
    cells: Mapping[str, Mapping[str, Cell]]  # variant -> metric
    summaries: Mapping[str, tuple[Summary, ...]]
    warnings: tuple[tuple[str, Caution], ...]  # (which variants, the warning)
    draws: bool = True  # another seed gives other numbers
    length: str = ""  # where ``precision`` chose it: how long the runs are, and what is known to how much
    changes: tuple[str, ...] = ()  # what was set in place of the file's
    thresholds: tuple[Threshold, ...] = ()  # the file's
    are_thresholds_given: bool = False  # with what was changed, so that they are of it
    settings: Mapping[str, Setting] = field(default_factory=dict)  # by variant; empty: all are asked the same
    refused: Mapping[str, Refusal] = field(default_factory=dict)  # variants of the file that cannot run

    @property
    def all_variants(self) -> tuple[str, ...]:
        """The variants of the file, those that cannot run last."""
        return (*self.variants, *self.refused)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All variants compete where they are asked for the same. Else, in this order:

        Those that are asked for what the reference is. Under other circumstances each against itself, then
        all that are under them against the one that does it as the reference does. Of other work these
        alone, or, where one way alone is tried on it, each against itself. The reference's group is left out
        where all of it is met again under other circumstances: what they cost is the question then. Where it
        is a pair of which the other one loses, it is one pair more: all are in the order of the file.
        """
        first, *others = self._groups
        found: list[Part] = []
        is_left_out = len(first) == 1 and bool(others)
        strange: list[Part] = []
        for group in others:
            is_befallen = self._is_befallen(group)
            asked = "" if is_befallen else self._other_work(group)
            likes = [(name, like) for name in group if (like := self._like(name, first))]
            pairs = [Part(names=pair, is_pair=True, asked=asked) for pair in likes]
            base = self._like(self.reference, group)
            rivals = (base, *(name for name in group if name != base)) if base else ()
            is_left_out |= is_befallen and all(self._like(name, group) for name in first)
            if is_befallen or len(rivals) < 2:
                found += pairs
            if len(rivals) > 1:
                found.append(Part(names=rivals, asked=asked))
            elif not pairs:
                strange.append(Part(names=group, is_strange=True, asked=asked))
        ahead = [] if is_left_out and found else [Part(names=first)]
        if ahead and all(part.is_pair for part in found) and self._only_loses(first):
            found = sorted([*ahead, *found], key=lambda part: self.variants.index(part.rival))
            ahead = []
        return (*ahead, *found, *strange)

    def _only_loses(self, group: Sequence[str]) -> bool:
        """Whether a group is the reference and one that is worse."""
        metric = self.kind.metrics[self.kind.headline(self)]
        first, *others = (self.cells[name][metric.name].mean for name in group)
        if len(others) != 1 or first is None or others[0] is None:
            return False
        return others[0] > first if metric.better == "lower" else others[0] < first

    @property
    def asked_keys(self) -> list[str]:
        """The last words of the key paths in which variants are asked for something else."""
        return [key.rpartition(".")[2] for key in self.settings[self.reference].asked]

    @property
    def _groups(self) -> list[tuple[str, ...]]:
        """The variants by what they are asked for, the reference's first."""
        found: dict[str, list[str]] = {}
        for name in self.variants:
            setting = self.settings.get(name)
            found.setdefault("" if setting is None else repr(sorted(setting.asked.items())), []).append(name)
        return [tuple(names) for names in found.values()]

    def _is_befallen(self, group: Sequence[str]) -> bool:
        """Whether the group does the reference's work under other circumstances."""
        mine, other = self.settings[self.reference], self.settings[group[0]]
        return {key for key, value in other.asked.items() if value != mine.asked[key]} <= mine.circumstances

    def _other_work(self, group: Sequence[str]) -> str:
        """What the group is asked for and the reference is not, as a scenario has it."""
        mine, other = self.settings[self.reference].asked, self.settings[group[0]].asked
        words = {key.rpartition(".")[2]: value for key, value in other.items() if value != mine[key]}
        shown = {key: value.lower() if value in ("True", "False") else value for key, value in words.items()}
        return ", ".join(
            f"{key}: {value}" if len(value) < _SHORT else f"another {key}" for key, value in shown.items()
        )

    def _like(self, name: str, group: Sequence[str]) -> str | None:
        """The variant of a group that does it as this one does."""
        chosen = self.settings[name].chosen
        return next((one for one in group if self.settings[one].chosen == chosen), None)

    def is_other(self, variant: str) -> bool:
        """Whether a variant is asked for something else than the reference: neither better nor worse then."""
        if not self.settings:
            return False
        return self.settings[variant].asked != self.settings[self.reference].asked

    def against(self, variant: str, other: str, metric: str) -> Cell:
        """The variant's metric against another one's than the reference."""
        if other == self.reference:
            return self.cells[variant][metric]
        return _cell(self.kind.metrics[metric], self.summaries[variant], self.summaries[other])

    @property
    def asked(self) -> str:
        """The question, with what was changed."""
        return asked(self.question, self.changes)

    @property
    def warning_lines(self) -> tuple[str, ...]:
        """The warnings as every view of an answer has them: whom each concerns, then what it says."""
        return tuple(f"{who}: {caution}" if who else str(caution) for who, caution in self.warnings)

    @property
    def warning_dicts(self) -> list[dict[str, str]]:
        """The same, JSON-able."""
        return [{"variants": who, "kind": one.kind, "text": str(one)} for who, one in self.warnings]

    def verdicts(self, variant: str) -> str:
        """The variant's verdict words over its seeds: "STABLE", or "4 STABLE, 1 BACKLOGGED"."""
        words = [summary.verdict.word for summary in self.summaries[variant]]
        counts = {word: words.count(word) for word in words}
        return words[0] if len(counts) == 1 else ", ".join(f"{n} {word}" for word, n in counts.items())

    def said(self, variant: str) -> str:
        """As a sentence goes on: "falls behind its load in 1 of 5 seeds (4 STABLE, 1 BACKLOGGED)"."""
        word, seeds = self._worst_word(variant)
        return f"{SAID[word].phrase}{seeds} ({self.verdicts(variant)})"

    def short(self, variant: str) -> str:
        """As a cell of a table has it, where the word itself stands small below."""
        word, seeds = self._worst_word(variant)
        return f"{SAID[word].short}{seeds}"

    def _worst_word(self, variant: str) -> tuple[Word, str]:
        """The word of trouble that some seed has, else of the first; and in how many, where not in all."""
        words = [summary.verdict.word for summary in self.summaries[variant]]
        worst = next((word for word in words if SAID[word].is_trouble), words[0])
        count = words.count(worst)
        return worst, "" if count == len(words) else f" in {count} of {len(words)} seeds"

    def slo_found(self, variant: str) -> list[tuple[SloLine, int]]:
        """What the SLO asks of the variant: the line of its worst seed, and how many of the seeds meet it."""
        by_line = zip(*(summary.slo for summary in self.summaries[variant]), strict=True)
        return [
            (max(lines, key=lambda line: line.excess), sum(line.is_met is True for line in lines))
            for lines in by_line
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: means, ratios and differences by variant and metric; deterministic."""
        return {
            "reference": self.reference,
            "seeds": list(self.seeds),
            "interval": "95 %, Student t over seeds, paired by seed; of ratios: geometric mean",
            "variants": {
                variant: {name: _cell_dict(cell) for name, cell in self.cells[variant].items()}
                for variant in self.variants
            },
            "warnings": self.warning_dicts,
        }


def compare(
    summaries: Mapping[str, Sequence[Summary]], reference: str, kind: ComparedKind, *, draws: bool = True
) -> Comparison:
    """Each metric's mean over the seeds, and its ratio and difference to the reference.

    Paired by seed: variants saw the same arrivals and lengths, so what they share cancels. The
    ratio is the geometric mean of the per-seed ratios with Student's t interval on their logarithms;
    the difference is the mean of the per-seed differences with its t interval.
    """
    if reference not in summaries:
        raise InvariantError(f"reference {reference!r} is not among {sorted(summaries)}")
    variants = (reference, *(name for name in summaries if name != reference))
    seeds = tuple(summary.seed for summary in summaries[reference])
    by_variant = {name: tuple(summaries[name]) for name in variants}
    for name, found in by_variant.items():
        if tuple(summary.seed for summary in found) != seeds:
            raise InvariantError(f"{name} and {reference} were not run with the same seeds {seeds}")
    base = by_variant[reference]
    return Comparison(
        kind=kind,
        question=base[0].question,
        reference=reference,
        variants=variants,
        seeds=seeds,
        cells={
            name: {
                metric: _cell(
                    kind.metrics[metric], found, None if name == reference else by_variant[reference]
                )
                for metric in by_variant[reference][0].metrics
            }
            for name, found in by_variant.items()
        },
        summaries=by_variant,
        warnings=_warnings(by_variant, seeds, draws=draws),
        draws=draws,
    )


def _cell(metric: Metric, runs: Sequence[Summary], others: Sequence[Summary] | None) -> Cell:
    name, better = metric.name, metric.better
    values = tuple(summary.metrics[name] for summary in runs)
    note = next((summary.refused[name] for summary in runs if name in summary.refused), "")
    known = _all_known(values)
    base = None if others is None else _all_known([summary.metrics[name] for summary in others])
    ratio = difference = None
    if known is not None and base is not None:
        difference = mean_interval([a - b for a, b in zip(known, base, strict=True)])
        if min(*known, *base) > 0:
            ratio = ratio_interval(known, base)
    significant = ratio.excludes(1.0) if ratio else difference.excludes(0.0) if difference else None
    return Cell(
        values=values,
        mean=None if known is None else math.fsum(known) / len(known),
        ratio=ratio,
        difference=difference,
        is_significant=significant,
        is_better=None
        if not significant or difference is None or better == "neither"
        else (difference.estimate > 0) == (better == "higher"),
        note=note,
    )


def _all_known(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return known if known and len(known) == len(values) else None


def _warnings(
    summaries: Mapping[str, Sequence[Summary]], seeds: Sequence[int], *, draws: bool
) -> tuple[tuple[str, Caution], ...]:
    """The runs' warnings, each once per text with the variants that share it, and the comparison's own."""
    shared: dict[Caution, list[str]] = {}
    for name, found in summaries.items():
        kinds: set[str] = set()
        for summary in found:
            # Seeds word a warning by their own numbers: the first seed that has one of a kind speaks for all.
            new = [caution for caution in dict.fromkeys(summary.warnings) if caution.kind not in kinds]
            kinds |= {caution.kind for caution in new}
            for caution in new:
                shared.setdefault(caution, []).append(name)
    everyone = "all variants" if len(summaries) > 1 else ""
    alike: dict[str, list[Caution]] = {}
    for caution in shared:
        alike.setdefault(caution.kind if caution.is_ranged else repr(caution), []).append(caution)
    warnings = []
    for cautions in alike.values():
        names = [name for name in summaries if any(name in shared[one] for one in cautions)]
        who = everyone if len(names) == len(summaries) else ", ".join(names)
        warnings.append((who, ranged(cautions) if len(cautions) > 1 else cautions[0]))
    first = {name: found[0] for name, found in summaries.items()}
    full = kv_never_full(
        {name: summary.allocator for name, summary in first.items()},
        {name: summary.metrics.get("max_kv_used_fraction") for name, summary in first.items()},
    )
    alone = one_seed() if draws and len(seeds) == 1 else None
    whole = [caution for caution in (full, alone) if caution is not None]
    return (*warnings, *((everyone, caution) for caution in whole))


def _cell_dict(cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = {"mean": rounded(cell.mean)}
    for name, interval in (("ratio", cell.ratio), ("difference", cell.difference)):
        if interval is not None:
            found[name] = [rounded(interval.estimate), rounded(interval.low), rounded(interval.high)]
    if cell.is_significant is not None:
        found["is_significant"] = cell.is_significant
    return found


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
    variants = comparison.all_variants
    check_threshold_names(thresholds, variants, known)
    return [_outcome(comparison, threshold, _variant_of(threshold, variants)) for threshold in thresholds]


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
                hint="summary.json of any run of this kind has every metric",
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
    is_refused = variant in comparison.refused
    mean = None if is_refused else comparison.cells[variant][threshold.metric].mean
    limits = (("min", threshold.min), ("max", threshold.max))
    bound = ", ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
    unit = comparison.kind.metrics[threshold.metric].unit
    if is_refused:
        is_met, reason = False, f"it cannot run: {comparison.refused[variant].reason}"
    elif mean is None:
        note = comparison.cells[variant][threshold.metric].note
        is_met, reason = False, f"there is no number: {note}"
    else:
        above = threshold.max is not None and mean > threshold.max
        below = threshold.min is not None and mean < threshold.min
        is_met, reason = not (above or below), f"{mean:.6g} {unit}"
    return ThresholdOutcome(
        metric=threshold.metric, variant=variant, bound=bound, value=mean, is_met=is_met, reason=reason
    )
