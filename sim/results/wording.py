"""How a sentence puts numbers into words: a ratio as a claim, values beside each other, their interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import TYPE_CHECKING

from sim.results.metric import Metric, format_metric
from sim.results.statistics import Interval, mean_interval
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    from sim.results.comparison import Comparison
    from sim.results.summary import OpenTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """How a sentence puts a ratio into words.

    ``slower``: of a time, where it is the longer one; the other is then told as how much faster it is.
    """

    text: str  # of {times} and {other}
    slower: str = ""


CLAIMS: Mapping[str, Claim] = {
    "goodput_requests_per_s": Claim(text="serves {times} the requests within the SLO that {other} does"),
    "requests_per_s": Claim(text="serves {times} the requests of {other}"),
    "tokens_per_s": Claim(text="trains on {times} the tokens of {other}"),
    "useful_tokens_per_s": Claim(text="trains on {times} the useful tokens of {other}"),
    "gradients_per_s": Claim(text="computes {times} the gradients of {other}"),
    "efficient_workers": Claim(text="scales to {times} the workers of {other}"),
    "memory_bytes": Claim(text="needs {times} the memory of {other}"),
    "hbm_bytes": Claim(text="loads and stores {times} the bytes of {other}"),
    "time_s": Claim(text="is {times} as fast as {other}", slower="takes {times} the time of {other}"),
    "time_to_target_s": Claim(
        text="reaches the target loss {times} as fast as {other}",
        slower="takes {times} the time of {other} to the target loss",
    ),
}
"""By headline; another one is "has {times} the p99 TTFT of {other}"."""


def relation(
    comparison: Comparison, variant: str, metric: str, other: str, *, with_values: bool = True
) -> str:
    """ "serves 2.26 × the requests of static (7.7 against 3.4 a second, 95 % 2.12 to 2.41)"."""
    cell, base = comparison.against(variant, other, metric), comparison.cells[other][metric]
    named = label_of(comparison, metric)
    if cell.mean is None:
        return f"has no {named} to compare: {cell.note}"
    if base.mean is None:
        return f"has a {named} of {value_of(comparison, cell.mean, metric)}, {other} none: {base.note}"
    values = _values(comparison, (cell.mean, base.mean), metric)
    if cell.is_significant is False:
        if says_nothing(cell.ratio):
            said = f"may or may not differ from {other} in {named}: unknown with so few seeds ({values})"
        else:
            span = _span(comparison, cell.ratio)
            said = f"does not differ measurably from {other} in {named} ({values}{span})"
        return said
    if cell.ratio is None or cell.difference is None:
        if cell.mean == base.mean:
            return f"has the {named} of {other} ({value_of(comparison, cell.mean, metric)})"
        return f"has another {named} than {other} ({values}{_span(comparison, None)})"
    if f"{cell.ratio.estimate:.3g}" == "1":
        return f"hardly differs from {other} in {named} ({values}{_span(comparison, cell.ratio)})"
    claim = CLAIMS.get(metric, Claim(text=f"has {{times}} the {named} of {{other}}"))
    is_slower = bool(claim.slower) and cell.ratio.estimate > 1
    ratio = cell.ratio.inverse() if claim.slower and not is_slower else cell.ratio
    text = claim.slower if is_slower else claim.text
    said, span = text.format(times=_times(ratio.estimate), other=other), _span(comparison, ratio)
    if with_values:
        return f"{said} ({values}{span})"
    return f"{said} ({span.removeprefix(', ')})" if span else said


def kept(comparison: Comparison, pairs: Sequence[tuple[str, str]], metric: str) -> str:
    """ "BSP keeps 64 % of the tokens per second of BSP healthy, and ASP keeps 99 % of theirs".

    What other circumstances leave of a rate, of three ways and more in one sentence; nothing where some lose
    none, or not for sure.
    """
    cells = [comparison.against(name, other, metric) for name, other in pairs]
    ratios = [cell.ratio for cell in cells if cell.ratio and cell.is_significant is not False]
    is_loss = all(ratio.estimate < 1 and not says_nothing(ratio) for ratio in ratios)
    is_rate = comparison.kind.metrics[metric].better == "higher"
    if len(ratios) < max(_FEWEST_TOGETHER, len(pairs)) or not is_loss or not is_rate:
        return ""
    left: dict[str, list[tuple[str, str]]] = {}
    for pair, ratio in zip(pairs, ratios, strict=True):
        left.setdefault(_share(ratio.estimate), []).append(pair)
    (share, first), *others = left.items()
    names, healthy = (listed([pair[at] for pair in first]) for at in (0, 1))
    told = [f"{names} {_keep(first)} {share} of the {label_of(comparison, metric)} of {healthy}"]
    told += [f"{listed([name for name, _ in found])} {_keep(found)} {share}" for share, found in others]
    theirs = " of theirs" if others else ""
    return f"{listed(told)}{theirs}{_widest(comparison, ratios)}"


_FEWEST_TOGETHER = 3


def _keep(variants: Sequence[object]) -> str:
    return "keeps" if len(variants) == 1 else "keep"


def _share(ratio: float) -> str:
    percent = 100 * ratio
    return f"{percent:.3g} %" if percent >= 99 else f"{percent:.2g} %"


def _widest(comparison: Comparison, ratios: Sequence[Interval]) -> str:
    """How far the intervals reach, as a part of each ratio."""
    if not comparison.draws or len(comparison.seeds) == 1:
        return " (one seed, no interval)" if comparison.draws else ""
    ends = [end / one.estimate - 1 for one in ratios for end in (one.low, one.high) if end is not None]
    return f" (95 % intervals within {100 * max(map(abs, ends)):.1g} % of each)"


_SMALL = 0.1  # times that are easier to read as a part: "1/20 of the memory"


def _times(ratio: float) -> str:
    """ "2.26 ×", "1340 ×", "1/20.4 of"."""
    factor = ratio if ratio >= _SMALL else 1 / ratio
    shown = f"{factor:.0f}" if 100 <= factor < 1e6 else f"{factor:.3g}"
    return f"{shown} ×" if ratio >= _SMALL else f"1/{shown} of"


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
    if ratio is None or ratio.low is None or ratio.high is None or ratio.low == ratio.high:
        return ""
    if says_nothing(ratio):
        return ", by how much is unknown with so few seeds"
    low, high = f"{ratio.low:.3g}", f"{ratio.high:.3g}"
    return f", 95 % {low} to {high}" if low != high else ""  # else it is the ratio, to all its digits


_WIDEST = 100.0  # times from an interval's low end to its high one


def says_nothing(ratio: Interval | None) -> bool:
    """Whether a ratio's interval is so wide that its digits would be no answer, as of few seeds."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return False
    return ratio.high > _WIDEST * ratio.low


_WITH = {"staleness_steps": " on gradients {} updates old"}


def with_value(metric: Metric, value: float) -> str:
    """ " with a p99 TTFT of 61 ms", " at 7.91 requests/s"."""
    shown = format_metric(value, metric)
    if metric.name in _WITH:
        return _WITH[metric.name].format(shown)
    is_rate = metric.unit.endswith("/s") and metric.unit not in ("FLOP/s", "bytes/s")
    return f" at {shown}" if is_rate else f" with {_a(metric.label)} of {shown}"


def _a(label: str) -> str:
    """With its article, as an abbreviation is spoken."""
    return f"{'an' if label[0] in 'AEIOUaeio' or label.startswith(('HBM', 'MFU')) else 'a'} {label}"


def seeds_span(comparison: Comparison, name: str, metric: str) -> str:
    """The interval over the seeds, or that there is one seed."""
    cell = comparison.cells[name][metric]
    interval = mean_interval([value for value in cell.values if value is not None])
    if interval.low is None or interval.high is None:
        return " (one seed)" if comparison.draws else ""
    low, high = (value_of(comparison, max(0.0, x), metric) for x in (interval.low, interval.high))
    return f" (95 % {low} to {high} over {len(cell.values)} seeds)"


def label_of(comparison: Comparison, metric: str) -> str:
    return comparison.kind.metrics[metric].label


def value_of(comparison: Comparison, value: float, metric: str) -> str:
    return format_metric(value, comparison.kind.metrics[metric])


def listed(words: Sequence[str]) -> str:
    """ "m", "m and n", "m, n and k"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def ratio_words(ratio: float) -> str:
    """``62 % of``, ``2.4 ×``; with as many digits as show on which side of 1 it lies."""
    if ratio >= 100:
        return f"{ratio:,.0f} ×"
    if ratio <= 1:
        texts = (f"{100 * ratio:.{count}g} % of" for count in range(2, 16))
        return next((text for text in texts if text not in ("1e+02 % of", "100 % of")), "100 % of")
    texts = (f"{ratio:.{count}g} ×" for count in range(2, 16))
    return next((text for text in texts if text != "1 ×"), "1 ×")


def differing(comparison: Comparison, variant: str, other: str) -> str:
    """In what two variants differ, where it is more than one thing."""
    if not comparison.settings:
        return ""
    mine, base = (comparison.settings[name].chosen for name in (variant, other))
    sections = [
        key.partition(".")[0] if key.startswith(_ONE_CHOICE) else key
        for key in mine
        if mine[key] != base[key]
    ]
    words = [key.rpartition(".")[2] for key in dict.fromkeys(sections)]
    return f"; they differ in {listed(words)}" if len(words) > 1 else ""


_ONE_CHOICE = ("sync.", "exchange.")  # sections whose keys together make one choice


_NEAR = 0.04


def near(comparison: Comparison, best: str, others: Sequence[str], metric: str) -> str:
    """Which others are so close behind the best that it hardly matters which one is taken.

    Where numbers are drawn a distance so short may be chance: the intervals are there for that.
    """
    if comparison.draws:
        return ""
    leads = comparison.cells[best][metric].mean
    means = {name: comparison.cells[name][metric].mean for name in others}
    behind = {name: max(mean / leads, leads / mean) - 1 for name, mean in means.items() if mean and leads}
    close = [name for name, share in behind.items() if share <= _NEAR]
    if not close:
        return ""
    most = max(behind[name] for name in close)
    if not most:
        return f"; {listed(close)} {'does' if len(close) == 1 else 'do'} as well"
    verb = "is" if len(close) == 1 else "are"
    return f"; {listed(close)} {verb} within {max(1, ceil(1000 * most)) / 10:g} %"


def edge(comparison: Comparison, best: str, names: Sequence[str]) -> str:
    """That the best is the largest, or the smallest, of the values tried: the best may lie beyond."""
    if not comparison.settings:
        return ""
    chosen = {name: comparison.settings[name].chosen for name in names}
    for key, value in chosen[best].items():
        others = {k: v for k, v in chosen[best].items() if k != key}
        row = {v[key] for v in chosen.values() if {k: w for k, w in v.items() if k != key} == others}
        tried = sorted(number for text in row if (number := _number(text)) is not None)
        mine = _number(value)
        if len(tried) < _FEWEST_TRIED or mine not in (tried[0], tried[-1]) or mine <= 1:
            continue
        word = "smallest" if mine == tried[0] else "largest"
        return f"; {mine:,.9g} is the {word} {key.rpartition('.')[2]} tried, the best may lie beyond"
    return ""


_FEWEST_TRIED = 3


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def assumed_told(comparison: Comparison, names: Sequence[str]) -> str:
    """Figures that may decide and that nobody measured here, of the variants that the sentence names."""
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


def refused_told(comparison: Comparison) -> str:
    """Which variants cannot run, in a sentence for each reason."""
    names: dict[str, list[str]] = {}
    for name, refusal in comparison.refused.items():
        names.setdefault(refusal.short or refusal.reason, []).append(name)
    return " ".join(f"{listed(found)} cannot run: {why}." for why, found in names.items())


def slo_told(comparison: Comparison) -> str:
    """Who meets the SLO, of all variants: a sentence about two of them must not deny it of a third."""
    found = {name: [run.meets_slo for run in comparison.summaries[name]] for name in comparison.variants}
    if not any(set(hits) - {None} for hits in found.values()):
        return ""
    hits = {name: set(found[name]) - {None} == {True} for name in comparison.variants}
    meeting, missing = ([name for name in hits if hits[name] is wanted] for wanted in (True, False))
    if len(hits) == 1:
        runs = found[comparison.reference]
        missed = f"missed in {runs.count(False)} of {len(runs)} seeds" if True in runs else "missed"
        return f"the SLO is {'met' if meeting else missed}"
    if not meeting or not missing:
        who = "both" if len(hits) == 2 else f"all {len(hits)}"
        return f"{who} {'meet' if meeting else 'miss'} the SLO"
    if len(meeting) == 1:
        return f"only {meeting[0]} meets the SLO"
    who = f"all but {missing[0]}" if len(missing) == 1 else f"{len(meeting)} of {len(hits)}"
    return f"{who} meet the SLO"


def classes_told(comparison: Comparison, name: str) -> str:
    """The classes of a workload that miss an SLO of their own."""
    runs = comparison.summaries[name]
    missed = {one: None for run in runs for one, part in run.by_class.items() if part.meets_slo is False}
    where = f" in {name}" if len(comparison.variants) > 1 else ""
    if not missed or len(runs[0].by_class) < 2:
        return ""
    return f"{' and '.join(missed)} {'misses its' if len(missed) == 1 else 'miss their'} SLO{where}"


SEEDS_OVERTURN = 0.15
"""So close to its limit a tail percentile of one seed may lie on the other side with the next.

The p99 TPOT of a Poisson load at three quarters of the capacity was 38 to 52 ms over five seeds of 1,500
requests, a standard deviation of 12 % of the mean. Batches of one run do not show it (they give 2 to 5 %):
its excursions are too few.
"""


def limits_told(comparison: Comparison, variant: str) -> str:
    """The limit of the SLO that binds in the variant of the sentence, and whether one seed decides."""
    times = [one for run in comparison.summaries[variant] for one in run.limited_times]
    not_known = _open_told(comparison, variant)
    if not times:
        return not_known
    closest = max(times, key=lambda one: one.ratio)
    missed = {one.name for one in times if one.ratio > 1}
    is_alone, num_seeds = len(comparison.all_variants) == 1, len(comparison.seeds)
    if missed:
        most = " most" if len(missed) > 1 else ""
        subject = f"The limit that {'it' if is_alone else variant} misses{most}"
    else:
        subject = f"The tightest limit{'' if is_alone else f' of {variant}'}"
    name = f"{label_of(comparison, closest.metric)}{f' of {closest.of}' if closest.of else ''}"
    seeds = f" in the worst of {num_seeds} seeds" if num_seeds > 1 else ""
    said = f"{subject} is {name}, {closest.in_words}{seeds}."
    share = "" if missed else _share_missed(comparison, variant)
    return " ".join(filter(None, (said, not_known, share, _one_seed_told(comparison))))


def _open_told(comparison: Comparison, variant: str) -> str:
    """The percentiles that the SLO asks and that too few requests carry, where it is not missed anyway."""
    runs = [run for run in comparison.summaries[variant] if run.meets_slo is not False]
    groups: dict[tuple[int, int], list[str]] = {}
    for one in min((run.open_times for run in runs), key=_fewest, default=()):
        name = f"{label_of(comparison, one.metric)}{f' of {one.of}' if one.of else ''}"
        groups.setdefault((one.num_finished, one.num_needed), []).append(name)
    return " ".join(_not_known(names, num, needed) for (num, needed), names in groups.items())


def _fewest(times: Sequence[OpenTime]) -> float:
    """A run's rank: the one with the fewest requests carries least; one that carries all comes last."""
    return min((one.num_finished for one in times), default=inf)


def _not_known(names: Sequence[str], num: int, needed: int) -> str:
    said, is_one = listed(names), len(names) == 1
    verb, who = ("is", "it needs") if is_one else ("are", "they need")
    return f"{said[0].upper()}{said[1:]} {verb} not known from {num:,} requests ({who} {needed:,})."


def _share_missed(comparison: Comparison, variant: str) -> str:
    """Each limit by itself is kept, and too few requests keep all of them at once."""
    lines = [line for line, _ in comparison.slo_found(variant) if line.decides and line.is_met is False]
    return f"But only {lines[0]}." if lines and not lines[0].is_most else ""


def _one_seed_told(comparison: Comparison) -> str:
    """Of which variants one seed does not decide whether they meet the SLO, and how to ask for more."""
    if not comparison.draws or len(comparison.seeds) > 1:
        return ""
    ratios = {
        name: max((one.ratio for one in comparison.summaries[name][0].limited_times), default=None)
        for name in comparison.variants
    }
    close = [name for name, ratio in ratios.items() if is_near_limit(ratio)]
    if not close:
        return ""
    whom = "the SLO is met"
    if len(comparison.all_variants) > 1:
        all_said = "both" if len(close) == 2 else f"all {len(close)}"
        who = all_said if len(close) == len(comparison.variants) else listed(close)
        whom = f"{who} {'meets' if len(close) == 1 else 'meet'} the SLO"
    return f"One seed does not decide whether {whom}: {ONE_SEED_LEAVES_OPEN}; run it with --seeds 1,2,3,4,5."


ONE_SEED_LEAVES_OPEN = f"within {100 * SEEDS_OVERTURN:.0f} % of a limit another may say otherwise"


def is_near_limit(ratio: float | None) -> bool:
    """Whether another seed may say otherwise of an SLO that one seed meets, or misses, by so much."""
    return ratio is not None and abs(ratio - 1) <= SEEDS_OVERTURN


def thresholds_told(comparison: Comparison) -> str:
    """The bounds of the file that are missed; of a single variant also those that are kept.

    After a change the file's bounds may no longer fit the question, which is said in place of a miss.
    """
    from sim.results.comparison import check_thresholds

    said: list[str] = []
    for one in check_thresholds(comparison, comparison.thresholds):
        if one.is_met and len(comparison.all_variants) > 1:
            continue
        if comparison.changes and not comparison.are_thresholds_given:
            return "The file's thresholds are for it as it stands, not for what was changed."
        is_alone = len(comparison.all_variants) == 1
        word = f"{'within' if one.is_met else 'outside of'} its threshold ({one.bound})"
        if is_alone and one.value is not None and _was_just_told(comparison, one.metric):
            said.append(f"That is {word}.")
            continue
        label, whose = label_of(comparison, one.metric), "" if is_alone else f" of {one.variant}"
        value = "not known" if one.value is None else value_of(comparison, one.value, one.metric)
        said.append(f"{label[0].upper()}{label[1:]}{whose} is {value}, {word}.")
    return " ".join(said)


def _was_just_told(comparison: Comparison, metric: str) -> bool:
    """Whether the sentence before is of this metric."""
    has_limits = any(run.limited_times for run in comparison.summaries[comparison.reference])
    return metric == comparison.kind.headline(comparison) and not has_limits
