"""All runs of a scenario file with their comparison; the answer in a sentence, the numbers that decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from sim.elementary import log
from sim.results.metric import Metric, format_metric
from sim.results.statistics import Interval, mean_interval
from sim.results.verdict import SAID
from sim.scenario.dataclass import dataclass
from sim.scenario.file import AnyScenario, ScenarioFile, ScenarioT_co

if TYPE_CHECKING:  # a run by itself needs neither
    from sim.results.comparison import Comparison
    from sim.results.summary import Summary


class AnyRun(Protocol):
    """What the results of all kinds have in common, beside their own columns."""

    @property
    def scenario(self) -> AnyScenario:
        """What was run."""

    @property
    def variant(self) -> str:
        """Its name among those compared."""

    @property
    def seed(self) -> int:
        """Of the random streams."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know about the run."""


RunT_co = TypeVar("RunT_co", bound=AnyRun, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[ScenarioT_co, RunT_co]):
    """All runs of a scenario file, their statistics and the comparison to the reference."""

    file: ScenarioFile[ScenarioT_co]
    results: Mapping[str, Sequence[RunT_co]]  # by variant, one per seed
    summaries: Mapping[str, Sequence[Summary]]
    comparison: Comparison


AnyAnswer = Answer[AnyScenario, AnyRun]


def headline_metric(comparison: Comparison) -> str:
    """The metric that answers, as the kind of the runs has it."""
    return comparison.kind.headline(comparison)


def table_metrics(comparison: Comparison) -> tuple[str, ...]:
    """The headline metrics of the decision table: those that some variant has a number other than 0 for."""
    headline = headline_metric(comparison)
    rest = (name for name in comparison.kind.table if name != headline)
    cells = comparison.cells
    return (headline, *(name for name in rest if any(cells[v][name].mean for v in comparison.variants)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """How a sentence puts a ratio into words. ``is_speed``: it gives the inverse, how much faster."""

    text: str  # of {times} and {other}
    is_speed: bool = False


CLAIMS: Mapping[str, Claim] = {
    "goodput_requests_per_s": Claim(text="serves {times} the requests within the SLO that {other} does"),
    "requests_per_s": Claim(text="serves {times} the requests of {other}"),
    "tokens_per_s": Claim(text="trains on {times} the tokens of {other}"),
    "useful_tokens_per_s": Claim(text="trains on {times} the useful tokens of {other}"),
    "gradients_per_s": Claim(text="computes {times} the gradients of {other}"),
    "efficient_workers": Claim(text="scales to {times} the workers of {other}"),
    "time_s": Claim(text="is {times} as fast as {other}", is_speed=True),
    "time_to_target_s": Claim(text="reaches the target loss {times} as fast as {other}", is_speed=True),
}
"""By headline; another one is "has {times} the p99 TTFT of {other}"."""


def answer_line(comparison: Comparison) -> str:
    """The answer: who falls behind its load, the sentence, thresholds, what it assumes, how long it ran."""
    behind = _all_behind(comparison) if len(comparison.variants) > 1 else ""
    length = f"{comparison.length}." if comparison.length else ""
    parts = (behind, _sentence(comparison), _thresholds(comparison), _assumed(comparison), length)
    return " ".join(part for part in parts if part)


def _thresholds(comparison: Comparison) -> str:
    """The bounds of the file that are missed; of a single variant also those that are kept."""
    from sim.results.comparison import check_thresholds

    said = []
    for one in check_thresholds(comparison, comparison.thresholds):
        if one.is_met and len(comparison.variants) > 1:
            continue
        label, whose = _label(comparison, one.metric), f" of {one.variant}" * (len(comparison.variants) > 1)
        value = "not known" if one.value is None else _value(comparison, one.value, one.metric)
        word = "within" if one.is_met else "outside of"
        said.append(f"{label[0].upper()}{label[1:]}{whose} is {value}, {word} its threshold ({one.bound}).")
    return " ".join(said)


def _behind(comparison: Comparison, name: str) -> tuple[float, float] | None:
    """(served, offered) requests a second of a variant that falls behind; None where it does not."""
    runs, cell = comparison.summaries[name], comparison.cells[name].get("requests_per_s")
    offered = [run.offered_per_s for run in runs if run.offered_per_s is not None]
    is_behind = bool({run.verdict.word for run in runs} & _FALLS_BEHIND) or _lost(comparison, name) >= _MANY
    if cell is None or cell.mean is None or len(offered) < len(runs) or not is_behind:
        return None
    return cell.mean, sum(offered) / len(offered)


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.3g}"


_FALLS_BEHIND = {"BACKLOGGED", "OVERLOADED"}
_MANY = 0.05  # of the requests


def _lost(comparison: Comparison, name: str) -> float:
    """The share of the requests that were refused or given up, which keeps a queue short."""
    cells = comparison.cells[name]
    lost = sum(cells[one].mean or 0.0 for one in ("num_refused", "num_aborted") if one in cells)
    offered = cells["num_offered"].mean if "num_offered" in cells else None
    return lost / offered if offered else 0.0


def _behind_phrase(comparison: Comparison, name: str) -> str:
    """What is said of one that falls behind: its verdict, or how much it loses instead of a growing queue."""
    said = _verdict(comparison, name).removeprefix(f"{name} ").removeprefix("it ")
    return said or f"loses {100 * _lost(comparison, name):.2g} % of them"


def _all_behind(comparison: Comparison) -> str:
    """First what decides: of those that fall behind their load how much each serves, then how many they are.

    Rates are given of the reference and the best, the variants that the sentence is about.
    """
    rates = {name: found for name in comparison.variants if (found := _behind(comparison, name))}
    if not rates:
        return ""
    told = [name for name in (comparison.reference, best_variant(comparison)) if name in rates]
    told = list(dict.fromkeys(told)) or list(rates)[:1]
    offered = [rates[name][1] for name in told]
    if max(offered) <= 1.01 * min(offered):  # drawn alike, and counted in windows that differ a little
        of = f" of the {_rate(offered[0])}"
        each = [f"{name} {_rate(rates[name][0])}" for name in told]
        each[0] = f"{told[0]} serves {_rate(rates[told[0]][0])}"
    else:
        of, each = "", [f"{name} serves {_rate(rates[name][0])} of {_rate(rates[name][1])}" for name in told]
    said = f"{' and '.join(each)}{of} requests a second offered"
    if len(rates) == 1:
        return f"{said} and {_behind_phrase(comparison, told[0])}."
    is_overloaded = all(comparison.verdicts(name) == "OVERLOADED" for name in rates)
    shared = SAID["OVERLOADED" if is_overloaded else "BACKLOGGED"].both
    num_variants = len(comparison.variants)
    if num_variants > 2:
        who = f"all {num_variants}" if len(rates) == num_variants else f"{len(rates)} of {num_variants}"
        shared = f"{who}{shared.removeprefix('both')}"
    return f"{said}: {shared}."


def _assumed(comparison: Comparison) -> str:
    """Figures that may decide and that nobody measured here, of the variants that the sentence names."""
    names = list(dict.fromkeys((comparison.reference, best_variant(comparison))))
    whose: dict[str, list[str]] = {}
    for name in names:
        for run in comparison.summaries[name]:
            for text in (caution.assumes for caution in run.warnings if caution.assumes):
                if name not in whose.setdefault(text, []):
                    whose[text].append(name)
    parts = [
        text if len(found) == len(names) else f"{text} ({', '.join(found)})" for text, found in whose.items()
    ]
    return f"Assumed: {'; '.join(parts)}." if parts else ""


def _sentence(comparison: Comparison) -> str:
    """One sentence with its interval: the best variant against the reference, by the headline metric.

    Among several variants the reference counts: where it is the best, the sentence says so and by how much.
    """
    metric = headline_metric(comparison)
    reference, others = comparison.reference, comparison.variants[1:]
    if not others:
        return _alone(comparison, reference, metric)
    best = best_variant(comparison)
    if best == reference:
        return _reference_leads(comparison, metric)
    cell, base = comparison.cells[best][metric], comparison.cells[reference][metric]
    subject = best if len(others) == 1 else f"{best}, the best of {len(comparison.variants)},"
    if cell.mean is None or base.mean is None:
        return f"{subject} has no {_label(comparison, metric)} to compare: {cell.note or base.note}."
    told = metric
    if base.mean == 0 and cell.mean > 0:  # nothing to divide by: all that it serves, then
        known = (comparison.cells[name].get("requests_per_s") for name in (best, reference))
        told = "requests_per_s" if all(one and one.mean is not None for one in known) else metric
    rest = f"{_companion(comparison, best, told)}{_state(comparison, (best, reference))}"
    if told != metric:
        rest += f"; {reference} has no {_label(comparison, metric)}"
    return f"{subject} {_relation(comparison, best, told)}{rest}."


def best_variant(comparison: Comparison) -> str:
    """The variant that the sentence is about: the best by the headline, the only one, or the only other.

    Of two the other one is told, better or worse than the reference.
    """
    others = comparison.variants[1:]
    return others[0] if len(others) == 1 else _best(comparison, comparison.variants)


def _reference_leads(comparison: Comparison, metric: str) -> str:
    reference = comparison.reference
    base = comparison.cells[reference][metric]
    subject = f"{reference} is the best of {len(comparison.variants)}"
    if base.mean is None:
        return f"{subject}: no variant has a {_label(comparison, metric)}: {base.note}."
    found = _with(comparison.kind.metrics[metric], base.mean).lstrip()
    others = comparison.variants[1:]
    alike = [name for name in others if comparison.cells[name][metric].is_significant is False]
    others = tuple(name for name in others if name not in alike)
    same = f", and {_number_of(alike)} not differ measurably from it" if alike else ""
    if not others:
        return f"{subject} {found}{same}{_state(comparison, (reference, *alike))}."
    # Where some are as good as the best, what the others lose says more than who comes next.
    told = _worst(comparison, others) if alike else _best(comparison, others)
    state = _state(comparison, (reference, told))
    if comparison.cells[told][metric].mean is None:
        return f"{subject} {found}{same}; no other has one{state}."
    which = "the last" if alike else "the next"
    return f"{subject} {found}{same}; {which}, {told}, {_relation(comparison, told, metric)}{state}."


def _number_of(names: Sequence[str]) -> str:
    return f"{names[0]} does" if len(names) == 1 else f"{len(names)} others do"


def _relation(comparison: Comparison, variant: str, metric: str) -> str:
    """ "serves 2.26 × the requests of static (7.7 against 3.4 a second, 95 % 2.12 to 2.41)"."""
    cell, base = comparison.cells[variant][metric], comparison.cells[comparison.reference][metric]
    assert cell.mean is not None and base.mean is not None
    label, other = _label(comparison, metric), comparison.reference
    values = _values(comparison, (cell.mean, base.mean), metric)
    if cell.is_significant is False:
        return f"does not differ measurably from {other} in {label} ({values}{_span(comparison, cell.ratio)})"
    if cell.ratio is None or cell.difference is None:
        if cell.mean == base.mean:
            return f"has the {label} of {other} ({_value(comparison, cell.mean, metric)})"
        return f"has another {label} than {other} ({values}{_span(comparison, None)})"
    if f"{cell.ratio.estimate:.3g}" == "1":
        return f"hardly differs from {other} in {label} ({values}{_span(comparison, cell.ratio)})"
    claim = CLAIMS.get(metric, Claim(text=f"has {{times}} the {label} of {{other}}"))
    ratio = cell.ratio.inverse() if claim.is_speed else cell.ratio
    said = claim.text.format(times=f"{ratio.estimate:.3g} ×", other=other)
    return f"{said} ({values}{_span(comparison, ratio)})"


def _values(comparison: Comparison, means: tuple[float, float], metric: str) -> str:
    """ "7.73 against 3.42 a second"; with units where they may differ: "3.22 ms against 26.1 ms"."""
    found = comparison.kind.metrics[metric]
    if found.unit.endswith("/s") and found.unit not in ("FLOP/s", "bytes/s"):
        first, second = (format_metric(mean, found, with_rate_unit=False) for mean in means)
        return f"{first} against {second} a second"
    return " against ".join(format_metric(mean, found) for mean in means)


def _span(comparison: Comparison, ratio: Interval | None) -> str:
    """The ratio's interval, or why it has none."""
    if not comparison.draws:
        return ""
    if len(comparison.seeds) == 1:
        return ", one seed, no interval"
    if ratio is None or ratio.low is None or ratio.high is None:
        return ""
    low, high = f"{ratio.low:.3g}", f"{ratio.high:.3g}"
    return f", 95 % {low} to {high}" if (low, high) != ("1", "1") else ""


def _companion(comparison: Comparison, variant: str, headline: str) -> str:
    """The number without which the headline says little: " with a p99 TTFT of 61 ms"."""
    for name in deciding_metrics(comparison, variant)[1:2]:
        value = comparison.cells[variant][name].mean
        found = comparison.kind.metrics[name]
        if value is not None and comparison.kind.metrics[headline].unit != found.unit:
            return _with(found, value)
    return ""


def _with(metric: Metric, value: float) -> str:
    """ " with a p99 TTFT of 61 ms", " at 7.91 requests/s"."""
    shown = format_metric(value, metric)
    is_rate = metric.unit.endswith("/s") and metric.unit not in ("FLOP/s", "bytes/s")
    return f" at {shown}" if is_rate else f" with {_a(metric.label)} of {shown}"


def _a(label: str) -> str:
    """With its article, as an abbreviation is spoken."""
    return f"{'an' if label[0] in 'AEIOUaeio' or label.startswith(('HBM', 'MFU')) else 'a'} {label}"


def _state(comparison: Comparison, names: Sequence[str]) -> str:
    """What the verdicts and the SLO add to the sentence: trouble, and where the variants differ."""
    left = [name for name in names if _behind(comparison, name) is None]  # the others were told first
    left = [name for name in left if not comparison.summaries[name][0].verdict.is_by_construction]
    words = {name: comparison.verdicts(name) for name in left}
    is_telling = len(set(words.values())) > 1 or any(_is_trouble(comparison, name) for name in left)
    parts = [said for name in left if is_telling and (said := _verdict(comparison, name))]
    if len(left) == 2 and len(set(words.values())) == 1 and words[left[0]] in SAID:
        shared = SAID[comparison.summaries[left[0]][0].verdict.word].both
        parts = [shared] if shared else parts
    parts += [said for said in (_slo(comparison), *(_classes(comparison, name) for name in names)) if said]
    return "".join(f"{'; ' if index == 0 else ', '}{part}" for index, part in enumerate(parts))


def _slo(comparison: Comparison) -> str:
    """Who meets the SLO, of all variants: a sentence about two of them must not deny it of a third."""
    found = {name: {run.meets_slo for run in comparison.summaries[name]} for name in comparison.variants}
    if not any(hits - {None} for hits in found.values()):
        return ""
    hits = {name: found[name] - {None} == {True} for name in comparison.variants}
    meeting, missing = ([name for name in hits if hits[name] is wanted] for wanted in (True, False))
    if len(hits) == 1:
        return f"the SLO is {'met' if meeting else 'missed'}"
    if not meeting or not missing:
        who = "both" if len(hits) == 2 else f"all {len(hits)}"
        return f"{who} {'meet' if meeting else 'miss'} the SLO"
    if len(meeting) == 1:
        return f"only {meeting[0]} meets the SLO"
    who = f"all but {missing[0]}" if len(missing) == 1 else f"{len(meeting)} of {len(hits)}"
    return f"{who} meet the SLO"


def _classes(comparison: Comparison, name: str) -> str:
    """The classes of a workload that miss an SLO of their own."""
    runs = comparison.summaries[name]
    missed = {one: None for run in runs for one, part in run.by_class.items() if part.meets_slo is False}
    where = f" in {name}" if len(comparison.variants) > 1 else ""
    if not missed or len(runs[0].by_class) < 2:
        return ""
    return f"{' and '.join(missed)} {'misses its' if len(missed) == 1 else 'miss their'} SLO{where}"


def _is_trouble(comparison: Comparison, name: str) -> bool:
    return any(
        SAID[run.verdict.word].is_trouble and not run.verdict.is_by_construction
        for run in comparison.summaries[name]
    )


def _verdict(comparison: Comparison, name: str) -> str:
    """ "static is overloaded", "static is overloaded in 2 of 5 seeds"; nothing of a queue that keeps up."""
    words = [run.verdict.word for run in comparison.summaries[name]]
    worst = next((word for word in words if SAID[word].is_trouble), words[0])
    if worst == "STABLE":
        return ""
    seeds = "" if words.count(worst) == len(words) else f" in {words.count(worst)} of {len(words)} seeds"
    return f"{'it' if len(comparison.variants) == 1 else name} {SAID[worst].phrase}{seeds}"


def _worst(comparison: Comparison, names: Sequence[str]) -> str:
    return _ranked(comparison, names)[-1]


def _best(comparison: Comparison, names: Sequence[str]) -> str:
    return _ranked(comparison, names)[0]


def _ranked(comparison: Comparison, names: Sequence[str]) -> list[str]:
    """The variants by their mean, the best first; one without a number comes last, among equals the first."""
    metric = headline_metric(comparison)
    sign = -1.0 if comparison.kind.metrics[metric].better == "higher" else 1.0

    def rank(name: str) -> tuple[bool, float]:
        mean = comparison.cells[name][metric].mean
        return mean is None, sign * (mean or 0.0)

    return sorted(names, key=rank)


def _alone(comparison: Comparison, name: str, metric: str) -> str:
    cell, label = comparison.cells[name][metric], _label(comparison, metric)
    subject = f"{label[0].upper()}{label[1:]}"
    if cell.mean is None:
        return f"{subject} has no number: {cell.note}."
    companion, state = _companion(comparison, name, metric), _state(comparison, (name,))
    said = f"{subject} is {_value(comparison, cell.mean, metric)}{_seeds_span(comparison, name, metric)}"
    rates = _behind(comparison, name)
    if rates is None:
        return f"{said}{companion}{state}."
    phrase = _behind_phrase(comparison, name)
    served = f"Serves {_rate(rates[0])} of the {_rate(rates[1])} requests a second offered"
    if metric == "requests_per_s":
        span = _seeds_span(comparison, name, metric)
        return f"{served}{span} and {phrase}{companion and f',{companion}'}{state}."
    return f"{served} and {phrase}. {said}{companion}{state}."


def _seeds_span(comparison: Comparison, name: str, metric: str) -> str:
    """The interval over the seeds, or that there is one seed."""
    cell = comparison.cells[name][metric]
    interval = mean_interval([value for value in cell.values if value is not None])
    if interval.low is None or interval.high is None:
        return " (one seed)" if comparison.draws else ""
    low, high = (_value(comparison, max(0.0, x), metric) for x in (interval.low, interval.high))
    return f" (95 % {low} to {high} over {len(cell.values)} seeds)"


def _label(comparison: Comparison, metric: str) -> str:
    return comparison.kind.metrics[metric].label


def _value(comparison: Comparison, value: float, metric: str) -> str:
    return format_metric(value, comparison.kind.metrics[metric])


# the numbers that decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One of them, as it is shown large: plain name, key, value, and the reference's value."""

    label: str
    metric: str
    value: str
    beside: str = ""


def deciding_metrics(comparison: Comparison, variant: str) -> tuple[str, ...]:
    """The headline, then of each of the kind's ``deciders`` the first that has a number other than 0."""
    cells, headline = comparison.cells[variant], headline_metric(comparison)
    found = [headline]
    for group in comparison.kind.deciders:
        if headline not in group:
            found += [name for name in group if name in cells and cells[name].mean][:1]
    return tuple(found)


def deciding_numbers(comparison: Comparison) -> tuple[Number, ...]:
    """The three numbers that decide, of the variant that the sentence is about."""
    best = best_variant(comparison) if len(comparison.variants) > 1 else comparison.reference
    numbers = []
    for name in deciding_metrics(comparison, best)[:3]:
        metric = comparison.kind.metrics[name]
        cell, base = comparison.cells[best][name], comparison.cells[comparison.reference][name]
        beside = (
            ""
            if best == comparison.reference
            else f"{comparison.reference}: {format_metric(base.mean, metric)}"
        )
        numbers.append(
            Number(label=metric.label, metric=name, value=format_metric(cell.mean, metric), beside=beside)
        )
    return tuple(numbers)


def difference_line(comparison: Comparison) -> str:
    """What variants differ in beside the headline, where one verdict for all says nothing of it.

    Metrics that differ as the headline does (a step's time beside tokens per second) add nothing.
    """
    words = {name: comparison.verdicts(name) for name in comparison.variants}
    if len(words) < 2 or len(set(words.values())) > 1 or next(iter(words.values())) == "STABLE":
        return ""
    found = [
        (abs(log(cell.ratio.estimate)), name, variant)
        for variant in comparison.variants[1:]
        for name in table_metrics(comparison)
        if (cell := comparison.cells[variant][name]).ratio is not None and cell.mean
        if not _follows_headline(comparison, variant, name)
    ]
    if not found or max(found)[0] < log(1.01):
        return f"all are {next(iter(words.values()))}"
    _, name, variant = max(found)
    mean, base = (comparison.cells[which][name].mean for which in (variant, comparison.reference))
    metric = comparison.kind.metrics[name]
    shown = (
        f"{format_metric(mean, metric)} in {variant}, {format_metric(base, metric)} in {comparison.reference}"
    )
    return f"all are {next(iter(words.values()))}; they differ most in {metric.label} ({name}): {shown}"


def _follows_headline(comparison: Comparison, variant: str, name: str) -> bool:
    cells = comparison.cells[variant]
    ratio, headline = cells[name].ratio, cells[headline_metric(comparison)].ratio
    if ratio is None or headline is None:
        return False
    return abs(abs(log(ratio.estimate)) - abs(log(headline.estimate))) < 0.005
