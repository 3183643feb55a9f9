"""All runs of a scenario file with their comparison; the answer in a sentence, the numbers that decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from sim.results.metric import format_metric
from sim.results.verdict import SAID
from sim.results.wording import (
    assumed_told,
    classes_told,
    differing,
    edge,
    kept,
    label_of,
    limits_told,
    near,
    refused_told,
    relation,
    seeds_span,
    slo_told,
    thresholds_told,
    value_of,
    with_value,
)
from sim.scenario.dataclass import dataclass
from sim.scenario.file import AnyScenario, ScenarioFile, ScenarioT_co

if TYPE_CHECKING:  # a run by itself needs neither
    from sim.results.comparison import Comparison, Part
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


def answer_line(comparison: Comparison) -> str:
    """The answer, and what it rests on."""
    return " ".join(part for part in (answer_itself(comparison), answer_basis(comparison)) if part)


def answer_itself(comparison: Comparison) -> str:
    """Who falls behind its load, the sentence, who cannot run, the limits of the SLO, thresholds."""
    behind = _all_behind(comparison) if len(comparison.variants) > 1 else ""
    said = (behind, _sentence(comparison), refused_told(comparison))
    parts = (*said, limits_told(comparison, best_variant(comparison)), thresholds_told(comparison))
    return " ".join(part for part in parts if part)


def answer_basis(comparison: Comparison) -> str:
    """What the answer assumes, and how long it ran; a page has it in small print under the numbers."""
    names = list(dict.fromkeys((comparison.reference, best_variant(comparison))))
    length = f"{comparison.length}." if comparison.length else ""
    return " ".join(part for part in (assumed_told(comparison, names), length) if part)


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


def _lost(comparison: Comparison, name: str, ways: Sequence[str] = ("num_refused", "num_aborted")) -> float:
    """The share of the requests that were refused or given up, which keeps a queue short."""
    cells = comparison.cells[name]
    lost = sum(cells[one].mean or 0.0 for one in ways if one in cells)
    offered = cells["num_offered"].mean if "num_offered" in cells else None
    return lost / offered if offered else 0.0


def _behind_phrase(comparison: Comparison, name: str) -> str:
    """What is said of one that falls behind: its verdict, or how much it loses instead of a growing queue."""
    said = _verdict(comparison, name).removeprefix(f"{name} ").removeprefix("it ")
    return _given_up(comparison, name) or said or f"loses {100 * _lost(comparison, name):.2g} % of them"


def _given_up(comparison: Comparison, name: str) -> str:
    """How many clients leave a variant, where they are many."""
    share = _lost(comparison, name, ("num_aborted",))
    return f"loses {100 * share:.2g} % of its clients, who give up" if share >= _MANY else ""


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
    left = [f"; {name} {share}" for name in told if (share := _given_up(comparison, name))]
    return f"{said}: {shared}{''.join(left)}."


def _sentence(comparison: Comparison) -> str:
    """The best variant against the reference, by the headline metric, where all are asked for the same."""
    metric = headline_metric(comparison)
    if len(comparison.variants) == 1:
        return _alone(comparison, comparison.reference, metric)
    said = _with_what(comparison)
    for index, (text, is_new_sentence) in enumerate(_across(comparison, metric)):
        part = text.removesuffix(".")
        starts = f"{part[0].upper()}{part[1:]}" if part.startswith(_AT) else part
        said += part if not index else f". {starts}" if is_new_sentence else f"; {part}"
    return f"{said}."


_AT = "at "


def _with_what(comparison: Comparison) -> str:
    """ "With flash_attention_1 on a100-sxm-40gb, ": what all variants have and none's name says."""
    every = [run for runs in comparison.summaries.values() for run in runs]
    work, devices = {run.work for run in every}, {run.hardware for run in every}
    if (
        len(work) > 1
        or not all(work)
        or any(name in variant for name in work for variant in comparison.variants)
    ):
        return ""
    return f"With {work.pop()}{f' on {devices.pop()}' if len(devices) == 1 else ''}, "


def _across(comparison: Comparison, metric: str) -> Iterator[tuple[str, bool]]:
    """What may be said of variants that are not all asked for the same, and what begins a sentence of it."""
    costs = _costs_of_circumstances(comparison)
    short = "" if any(_is_trouble(comparison, name) for name, _ in costs) else kept(comparison, costs, metric)
    if short:
        yield short, False
    loads = _of_other_loads(comparison)
    num_pairs = sum(part.is_pair for part in comparison.parts)
    num_asked = sum(bool(part.asked) and not part.is_pair for part in comparison.parts)
    for index, part in enumerate(comparison.parts):
        if part.is_strange:
            verb = "is" if len(part.names) == 1 else "are"
            states = [_verdict(comparison, name) for name in part.names if _is_trouble(comparison, name)]
            why = f" ({part.asked})" if part.asked else ""
            yield ", ".join([f"{', '.join(part.names)}{why} {verb} not compared", *states]), False
        elif part in loads:
            if part == loads[0]:
                yield _each_load(comparison, loads, metric), True
        elif part.is_pair and not (short and part.names in costs):
            name, other = part.names
            of = f" ({part.asked})" if part.asked else ""
            state = f", {_verdict(comparison, name)}" if _is_trouble(comparison, name) else ""
            has_values = num_pairs <= _MOST_WITH_VALUES
            said = relation(comparison, name, metric, other, with_values=has_values)
            yield f"{name}{of} {said}{state}", False
        elif not part.is_pair:
            has_values = not part.asked or num_asked < _MOST_WITH_VALUES
            found = _among(comparison, part.names, metric, is_first=not index, with_values=has_values)
            yield (f"{_AT}{part.asked}, {found}" if part.asked else found), True


def _of_other_loads(comparison: Comparison) -> list[Part]:
    """Requests served under another load or by another model: rates that follow what is asked for."""
    is_serving = comparison.summaries[comparison.reference][0].kind == "serving"
    return [part for part in comparison.parts if is_serving and part.is_pair and part.asked]


def _each_load(comparison: Comparison, loads: Sequence[Part], metric: str) -> str:
    """ "goodput: today 8.35 requests/s with a p99 TTFT of 210 ms, doubled (requests_per_s: 16) 15.7 ..."."""
    asked = {comparison.reference: "", **{part.names[0]: f" ({part.asked})" for part in loads}}
    told = []
    for name, work in asked.items():
        cell = comparison.cells[name][metric]
        value = "no number" if cell.mean is None else value_of(comparison, cell.mean, metric)
        state = f", {_verdict(comparison, name)}" if _is_trouble(comparison, name) else ""
        told.append(f"{name}{work} {value}{_companion(comparison, name, metric)}{state}")
    label = label_of(comparison, metric)
    said = f"{label[0].upper()}{label[1:]}: {', '.join(told)}"
    rest = [
        part for part in (slo_told(comparison), *(classes_told(comparison, name) for name in asked)) if part
    ]
    return "; ".join([said, ", ".join(rest)] if rest else [said])


_MOST_WITH_VALUES = 2  # pairs of one answer; of more the large numbers and the table have the values


def told_pairs(comparison: Comparison) -> list[tuple[str, str]]:
    """What the sentence compares with what, in its order."""
    parts = [part for part in comparison.parts if not part.is_strange]
    return [
        (part.names[0], part.names[1]) if part.is_pair else _pair(comparison, part.names) for part in parts
    ]


def _pair(comparison: Comparison, names: Sequence[str]) -> tuple[str, str]:
    """The best of some variants and the one that it is compared with, the first."""
    return (names[1] if len(names) == 2 else _best(comparison, names), names[0])


def _among(
    comparison: Comparison, names: Sequence[str], metric: str, *, is_first: bool, with_values: bool
) -> str:
    """The best of variants that are asked for the same against the first of them.

    Among several the first counts: where it is the best, the sentence says so and by how much. ``is_first``:
    of the sentence's parts, the one that says most.
    """
    reference, others = names[0], names[1:]
    if not others:
        return _alone(comparison, reference, metric)
    best, _ = _pair(comparison, names)
    if best == reference:
        return _reference_leads(comparison, names, metric)
    cell, base = comparison.cells[best][metric], comparison.cells[reference][metric]
    subject = best if len(others) == 1 else f"{best}, the best of {len(names)},"
    if cell.mean is None or base.mean is None:
        return f"{subject} {relation(comparison, best, metric, reference)}"
    told = _told_metric(comparison, best, reference)
    rest = _companion(comparison, best, told) if is_first or best == best_variant(comparison) else ""
    rest += _state(comparison, (best, reference)) if is_first else ""
    if told != metric:
        rest += f"; {reference} has no {label_of(comparison, metric)}"
    more = differing(comparison, best, reference) if is_first else ""
    more += near(comparison, best, [name for name in others if name != best], metric)
    more += edge(comparison, best, names)
    said = relation(comparison, best, told, reference, with_values=with_values)
    return f"{subject} {said}{rest}{more}"


def _told_metric(comparison: Comparison, best: str, reference: str) -> str:
    """The headline; all requests served where the reference has none of it: there is nothing to divide by.

    Sentence and numbers tell the same one: goodput counts who arrived in the window, requests a second who
    finished in it, so that side by side the goodput may be the larger.
    """
    metric = headline_metric(comparison)
    cell, base = comparison.cells[best][metric], comparison.cells[reference][metric]
    known = (comparison.cells[name].get("requests_per_s") for name in (best, reference))
    is_told = base.mean == 0 and (cell.mean or 0.0) > 0
    return "requests_per_s" if is_told and all(one and one.mean is not None for one in known) else metric


def best_variant(comparison: Comparison) -> str:
    """The variant that the sentence is about: the best by the headline, the only one, or the only other.

    Of two the other one is told, better or worse than the reference.
    """
    if len(comparison.variants) == 1:
        return comparison.reference
    costs = _costs_of_circumstances(comparison)
    return _best(comparison, [name for name, _ in costs]) if costs else told_pairs(comparison)[0][0]


def _costs_of_circumstances(comparison: Comparison) -> list[tuple[str, str]]:
    """Where the answer is what another circumstance costs each way of doing it: each with it and without."""
    first = comparison.parts[0]
    costs = [part for part in comparison.parts if part.is_pair and not part.asked]
    return [(part.names[0], part.names[1]) for part in costs] if first in costs and len(costs) > 1 else []


def _reference_leads(comparison: Comparison, names: Sequence[str], metric: str) -> str:
    reference = names[0]
    base = comparison.cells[reference][metric]
    subject = f"{reference} is the best of {len(names)}"
    if base.mean is None:
        return f"{subject}: no variant has a {label_of(comparison, metric)}: {base.note}"
    found = with_value(comparison.kind.metrics[metric], base.mean).lstrip()
    others = names[1:]
    alike = [name for name in others if comparison.against(name, reference, metric).is_significant is False]
    others = tuple(name for name in others if name not in alike)
    same = f", and {_number_of_names(alike)} not differ measurably from it" if alike else ""
    beyond = edge(comparison, reference, names)
    if not others:
        return f"{subject} {found}{same}{_state(comparison, (reference, *alike))}{beyond}"
    # Where some are as good as the best, what the others lose says more than who comes next.
    told = _worst(comparison, others) if alike else _best(comparison, others)
    state = f"{_state(comparison, (reference, told))}{beyond}"
    if comparison.cells[told][metric].mean is None:
        return f"{subject} {found}{same}; no other has one{state}"
    which = "the last" if alike else "the next"
    return f"{subject} {found}{same}; {which}, {told}, {relation(comparison, told, metric, reference)}{state}"


def _number_of_names(names: Sequence[str]) -> str:
    return f"{names[0]} does" if len(names) == 1 else f"{len(names)} others do"


def _companion(comparison: Comparison, variant: str, headline: str) -> str:
    """The number without which the headline says little: " with a p99 TTFT of 61 ms"."""
    for name in deciding_metrics(comparison, variant)[1:2]:
        value = comparison.cells[variant][name].mean
        found = comparison.kind.metrics[name]
        if value is not None and comparison.kind.metrics[headline].unit != found.unit:
            return with_value(found, value)
    return ""


def _state(comparison: Comparison, names: Sequence[str]) -> str:
    """What the verdicts and the SLO add to the sentence: trouble, and where the variants differ."""
    left = [name for name in names if _behind(comparison, name) is None]  # the others were told first
    left = [name for name in left if comparison.summaries[name][0].verdict.word != "ALL_AT_ONCE"]
    words = {name: comparison.verdicts(name) for name in left}
    is_telling = len(set(words.values())) > 1 or any(_is_trouble(comparison, name) for name in left)
    parts = [said for name in left if is_telling and (said := _verdict(comparison, name))]
    if len(left) == 2 and len(set(words.values())) == 1 and words[left[0]] in SAID:
        shared = SAID[comparison.summaries[left[0]][0].verdict.word].both
        parts = [shared] if shared else parts
    parts += [
        said for said in (slo_told(comparison), *(classes_told(comparison, name) for name in names)) if said
    ]
    return "".join(f"{'; ' if index == 0 else ', '}{part}" for index, part in enumerate(parts))


def _is_trouble(comparison: Comparison, name: str) -> bool:
    return any(SAID[run.verdict.word].is_trouble for run in comparison.summaries[name])


def _verdict(comparison: Comparison, name: str) -> str:
    """ "static is overloaded", "static is overloaded in 2 of 5 seeds"; nothing of a queue that keeps up."""
    said, _, words = comparison.said(name).rpartition(" (")
    if words in ("STABLE)", "ALL_AT_ONCE)"):
        return ""
    return f"{'it' if len(comparison.variants) == 1 else name} {said}"


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
    cell, label = comparison.cells[name][metric], label_of(comparison, metric)
    whose = f" of {name}" if comparison.refused else ""
    subject = f"{label[0].upper()}{label[1:]}{whose}"
    if cell.mean is None:
        return f"{subject} has no number: {cell.note}."
    companion, state = _companion(comparison, name, metric), _state(comparison, (name,))
    said = f"{subject} is {value_of(comparison, cell.mean, metric)}{seeds_span(comparison, name, metric)}"
    rates = _behind(comparison, name)
    if rates is None:
        return f"{said}{companion}{state}."
    phrase = _behind_phrase(comparison, name)
    served = f"Serves {_rate(rates[0])} of the {_rate(rates[1])} requests a second offered"
    if metric == "requests_per_s":
        span = seeds_span(comparison, name, metric)
        return f"{served}{span} and {phrase}{companion and f',{companion}'}{state}."
    return f"{served} and {phrase}. {said}{companion}{state}."


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
    """The three numbers that decide: of the variant that the sentence is about, or of those it compares.

    Where it compares several with what each is like, the headline of three of them, the best among these.
    """
    best, pairs = best_variant(comparison), told_pairs(comparison)
    if len(pairs) > 1:
        pairs = _costs_of_circumstances(comparison) or pairs
        chosen = [*pairs[:2], *(pair for pair in pairs[2:] if pair[0] == best), *pairs[2:]][:3]
        return tuple(
            _number_of(comparison, pair, _told_metric(comparison, *pair), f", {pair[0]}") for pair in chosen
        )
    other = next((like for name, like in pairs if name == best), comparison.reference)
    names = dict.fromkeys((_told_metric(comparison, best, other), *deciding_metrics(comparison, best)[1:]))
    return tuple(_number_of(comparison, (best, other), name) for name in list(names)[:3])


def _number_of(comparison: Comparison, pair: tuple[str, str], name: str, of: str = "") -> Number:
    metric, (variant, other) = comparison.kind.metrics[name], pair
    value, base = (comparison.cells[one][name].mean for one in pair)
    beside = "" if variant == other else f"{other}: {format_metric(base, metric)}"
    return Number(label=f"{metric.label}{of}", metric=name, value=format_metric(value, metric), beside=beside)
