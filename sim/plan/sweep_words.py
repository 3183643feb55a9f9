"""A sweep's answer in sentences: what wins at each load and how closely, and which axis could help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath

from sim.kinds.registry import kind_of
from sim.plan.answer import (
    SAME,
    Load,
    Pick,
    asked_for,
    can_run,
    choice_keys,
    end_of,
    goal_rank,
    goals,
    has_slo,
    is_floored,
    is_idle,
    is_load,
    judged_lower,
    least_of_devices,
    limit_of,
    line_of,
    misses_alone,
    number,
    number_in,
    picks,
    played,
    reaching,
    sign,
    stated_as,
    unable_devices,
)
from sim.plan.evaluate import Row, Value
from sim.plan.sweep import Sweep, setting_words, shared_words
from sim.results.metric import format_metric, label_of
from sim.results.verdict import SAID
from sim.results.wording import ONE_SEED_LEAVES_OPEN, is_near_limit, listed, ratio_words

_LEFT_OPEN = {
    "UNTESTED": "but the run is too short to tell whether its queue grows",
    "BACKLOGGED": "but its queue grew, and a longer run may miss",
}


def _times(text: str) -> str:
    scale = number_in(text)
    return f"at {1 / scale:.4g} ×" if scale else f"at time_scale {text}"


_LOAD_WORDS: Mapping[str, Callable[[str], str]] = {
    "requests_per_s": lambda text: f"at {text} requests/s",
    "time_scale": _times,
    "concurrency": lambda text: f"with {text} clients",
    "path": lambda text: f"for {PurePath(text).name}",
    "model": lambda text: f"for {PurePath(text).stem if '/' in text else text}",
    "variant": lambda text: f"for {text}",
}
"""How a load is said in a sentence, by the last name of its key."""


def load_words(load: Load) -> str:
    """``at 40 requests/s, with 64 clients``; nothing where one load was asked for."""
    said = []
    for key, value in load:
        last = key.rpartition(".")[2]
        said.append(_LOAD_WORDS[last](value) if last in _LOAD_WORDS else f"with {last} = {value}")
    return ", ".join(said)


def choice_words(sweep: Sweep, index: int) -> str:
    """What was chosen: ``4 × l40s (replicas = 4)``, ``2 GPUs (replicas = 2)``, ``max_num_seqs = 64``."""
    point, count = sweep.points[index], int(number(sweep.rows[index]["num_gpus"]))
    keys = choice_keys(sweep)
    said = {"hardware", "replicas"} if point.swept.get("replicas") == str(count) else {"hardware"}
    rest = [f"{short_key(key)} = {point.swept[key]}" for key in keys if key not in said]
    rest += [point.variant] if sweep.has_variants else []
    if "hardware" in keys:
        what = f"{count} × {point.swept['hardware']}"
    elif rest and len({row["num_gpus"] for row in sweep.rows}) == 1:
        return ", ".join(rest)
    else:
        what = f"{count} GPU{'s' * (count != 1)}"
    return f"{what} ({', '.join(rest)})" if rest else what


def short_key(key: str) -> str:
    """The last name of a key path."""
    return key.rpartition(".")[2]


def point_words(sweep: Sweep, index: int) -> str:
    """A point in few words, for a table: ``at 40 requests/s, l40s, replicas = 4``."""
    point, kind = sweep.points[index], kind_of(sweep.points[index].scenario)
    parts = [
        load_words(((key, value),)) if is_load(key, kind) else _choice_word(key, value)
        for key, value in point.swept.items()
    ]
    return ", ".join([*parts, *([point.variant] if sweep.has_variants else [])])


def _choice_word(key: str, value: str) -> str:
    """A device or a file needs no key in front of it."""
    is_name = key == "hardware" or "/" in value
    return short_value(value) if is_name else f"{short_key(key)} = {value}"


def short_value(text: str) -> str:
    """A swept value in a table: of a path its last part."""
    return PurePath(text).name if "/" in text and "{" not in text else text


def cost_words(row: Row) -> str:
    """The price of a point, or that it is not known."""
    price = row["usd_per_hour"]
    return "price unknown" if price is None else f"${number(price):,.2f} an hour"


def limit_words(sweep: Sweep, index: int) -> str:
    """How close to its limit a point comes, by the statistic that comes closest."""
    ratio, name = sweep.rows[index].get("slo_ratio"), sweep.rows[index].get("slo_closest")
    if ratio is None or not isinstance(name, str):
        return ""
    found = closest_words(sweep, index)
    joined = f"{found}, " if found != plain_name(name) else f"{found} at "
    return f"{joined}{ratio_words(number(ratio))} its limit"


def closest_words(sweep: Sweep, index: int) -> str:
    """What comes closest to its limit: of the worst seed, which the SLO judges, and by which percentile."""
    row = sweep.rows[index]
    name, seeds = str(row.get("slo_closest")), len(sweep.points[index].scenario.seeds)
    value, stated = row.get("slo_value", row.get(name)), stated_as(sweep, index, name)
    found = f"{plain_name(name)} {_shown(sweep, name, value)}" if value is not None else plain_name(name)
    worst = f" in the worst of {seeds} seeds" if value is not None and seeds > 1 else ""
    fewer = f" (too few requests for a {stated.partition('_')[0]})" if stated else ""
    return f"{found}{worst}{fewer}"


def _shown(sweep: Sweep, name: str, value: Value) -> str:
    metric = kind_of(sweep.points[0].scenario).metrics[name]
    return format_metric(None if value is None else number(value), metric)


def plain_name(name: str) -> str:
    """``p99 TTFT`` of ``p99_ttft_s``; of a class of the workload, ``p99 TTFT of chat``."""
    metric, of, whose = name.partition(" of ")
    return f"{label_of(metric)}{of}{whose}"


def answer_words(sweep: Sweep) -> str:
    """The answer, and what it rests on."""
    return " ".join(part for part in answer_parts(sweep) if part)


def answer_parts(sweep: Sweep) -> tuple[str, str]:
    """For every load the cheapest choice that meets the SLO, or what comes nearest; what was played, assumed.

    A page has the second in small print under the numbers.
    """
    found = picks(sweep)
    said = _slo_words(sweep, found) if has_slo(sweep) else _goal_words(sweep, found)
    refused = sum(not can_run(row) for row in sweep.rows)
    reasons: dict[str, list[str]] = {}
    for device, why in unable_devices(sweep).items():
        reasons.setdefault(why.replace(device, "it"), []).append(device)
    unable = "".join(f"; none can on {listed(names)}: {why}" for why, names in reasons.items())
    tail = f"{refused} of {len(sweep.rows)} points cannot run{unable}." if refused else ""
    lower = "" if "(too few requests" in said else judged_lower(sweep)
    least, missed = _least_words(sweep, found), _missed_words(sweep)
    parts = (said, _one_seed_words(sweep, found), lower, least, missed, tail)
    basis = (played(sweep), _assumed_words(sweep, found))
    return " ".join(filter(None, parts)), " ".join(filter(None, basis))


def _one_seed_words(sweep: Sweep, found: Sequence[Pick]) -> str:
    """Where what wins, or comes nearest, was run once and lies where another seed may turn the verdict."""
    told = [pick.nearest if pick.winner is None else pick.winner for pick in found]
    points = [(sweep.points[i].scenario, sweep.rows[i].get("slo_ratio")) for i in told if i is not None]
    is_open = any(
        len(one.seeds) == 1 and kind_of(one).draws(one) and is_near_limit(None if x is None else number(x))
        for one, x in points
    )
    if not is_open:
        return ""
    more = "run it with --set seeds=[1,2,3,4,5]"
    return f"One seed does not decide whether it is met: {ONE_SEED_LEAVES_OPEN}; {more}."


def _least_words(sweep: Sweep, found: Sequence[Pick]) -> str:
    """The fewest GPUs of each device that meet the SLO, at each of a few loads at which any does."""
    won = [pick for pick in found if pick.winner is not None and least_of_devices(sweep, pick)]
    if not won or len(found) > _LOADS_TOLD:
        return ""
    several = ", " if len(found) > 1 else ""
    return f"The fewest of each that meet it{several}{_by_load(won, lambda pick: _least_at(sweep, pick))}."


def _least_at(sweep: Sweep, pick: Pick) -> str:
    unable, told = unable_devices(sweep), []
    for device, i in least_of_devices(sweep, pick).items():
        if device in unable:
            continue
        row = {} if i is None else sweep.rows[i]
        price = f" (${number(cost):,.2f})" if (cost := row.get("usd_per_hour")) is not None else ""
        told.append(f"{row['num_gpus']} × {device}{price}" if row else f"no number tried of {device}")
    return ", ".join(told)


def _missed_words(sweep: Sweep) -> str:
    """How many points miss a threshold of the file: these cannot win."""
    missed = [index for index, row in enumerate(sweep.rows) if row.get("meets_thresholds") is False]
    if not missed:
        return ""
    points = f"{len(missed)} of {sum(map(can_run, sweep.rows))} points"
    first = f"{setting_words(sweep, missed[0])}: {sweep.rows[missed[0]]['missed']}"
    return f"{points} miss a threshold of the scenario, as {first}."


def verdict_words(row: Row) -> str:
    """What held the point back, or whether its queue held, in a few plain words; the CSV has the key."""
    word = str(row["verdict"])
    return next((one.short for key, one in SAID.items() if key == word), word.replace("_", " ").lower())


def _assumed_words(sweep: Sweep, found: Sequence[Pick]) -> str:
    """Figures that may decide and that nobody measured: of what wins at each load, or comes nearest."""
    best = [pick.nearest if pick.winner is None else pick.winner for pick in found]
    told = [index for index in best if index is not None]
    told = told or [index for index, row in enumerate(sweep.rows) if can_run(row)]
    whose: dict[str, list[int]] = {}
    for index in dict.fromkeys(told):
        for text in str(sweep.rows[index].get("assumes") or "").splitlines():
            whose.setdefault(text, []).append(index)
    num_told = len(set(told))
    parts = [
        text if len(points) == num_told else f"{text} ({shared_words(sweep, points)})"
        for text, points in whose.items()
    ]
    return f"Assumed: {'; '.join(parts)}." if parts else ""


def _slo_words(sweep: Sweep, found: Sequence[Pick]) -> str:
    num_meeting = sum(row["meets_slo"] is True for row in sweep.rows)
    total = sum(can_run(row) for row in sweep.rows)
    won = [pick for pick in found if pick.winner is not None]
    if len(found) == 1 and not won:
        return f"No point can be recommended: {_none_words(sweep, found[0])}."
    if not won:
        return f"No load is carried within the SLO: {_by_load(found, lambda pick: _none_words(sweep, pick))}."
    bounds = " and the thresholds" if any(row.get("missed") for row in sweep.rows) else ""
    by_gpus = any(pick.measure == "num_gpus" for pick in won)
    head = (
        f"The fewest GPUs that meet the SLO{bounds}{_unpriced(sweep)}"
        if by_gpus
        else f"The cheapest that meets the SLO{bounds}"
    )
    counts = f" {num_meeting} of {total} points meet {'the SLO' if bounds else 'it'}." if total > 1 else ""
    if len(found) == 1:
        return f"{head}: {_winner_words(sweep, found[0])}.{counts}"
    each = _by_load(
        found,
        lambda pick: _none_words(sweep, pick) if pick.winner is None else _winner_words(sweep, pick),
    )
    return f"{head}, {each}.{counts}"


def _by_load(found: Sequence[Pick], words: Callable[[Pick], str]) -> str:
    """``at 1 ×: 1 GPU; at 10 × and at 20 ×: 4 GPUs``: loads with the same answer together."""
    loads: dict[str, list[str]] = {}
    for pick in found:
        loads.setdefault(words(pick), []).append(load_words(pick.load))
    told = [f"{_listed_loads(names)}: {answer}" for answer, names in loads.items()]
    left = sum(len(names) for names in list(loads.values())[_ANSWERS_TOLD:])
    more = [f"{left} more loads are in sweep.csv"] if left else []
    return "; ".join([*told[:_ANSWERS_TOLD], *more])


_ANSWERS_TOLD = 12
_LOADS_TOLD = 6  # of one answer; of more the first and the last


def _listed_loads(names: Sequence[str]) -> str:
    if len(names) <= _LOADS_TOLD:
        return listed(names)
    return f"{names[0]} to {names[-1]} ({len(names)} loads)"


def _unpriced(sweep: Sweep) -> str:
    names = dict.fromkeys(
        point.scenario.hardware.name
        for point, row in zip(sweep.points, sweep.rows, strict=True)
        if row["usd_per_hour"] is None
    )
    return f" (no price is known of {', '.join(names)})" if names else ""


def _winner_words(sweep: Sweep, pick: Pick) -> str:
    """What wins, its price, what its run left open; where there is one load, how close to the limit."""
    assert pick.winner is not None
    verdict = str(sweep.rows[pick.winner]["verdict"])
    parts = [choice_words(sweep, pick.winner), cost_words(sweep.rows[pick.winner])]
    parts += ["" if pick.load else limit_words(sweep, pick.winner), _LEFT_OPEN.get(verdict, "")]
    if pick.settled is not None:
        parts.append(f"and the cheapest that is sure is {choice_words(sweep, pick.settled)}")
    if pick.measured is not None:
        best, cost = choice_words(sweep, pick.measured), cost_words(sweep.rows[pick.measured])
        parts.append(f"and the cheapest on measured figures is {best} at {cost}")
    return ", ".join(part for part in parts if part)


def _none_words(sweep: Sweep, pick: Pick) -> str:
    """Why nothing wins at a load."""
    rows = [sweep.rows[i] for i in pick.indices if can_run(sweep.rows[i])]
    if not rows:
        return "nothing can run"
    within = [row for row in rows if row["meets_slo"] is True]
    if within and all(row.get("meets_thresholds") is False for row in within):
        return "those within the SLO miss a threshold of the scenario"
    if any(row["verdict"] == "ABANDONED" for row in within):
        return "those within the limits are so because clients give up waiting"
    if within:
        return "those within the limits are overloaded, and would miss them in a longer run"
    if all(row["meets_slo"] is None for row in rows):
        return "left open, as too few requests carry the percentiles that the SLO states"
    if pick.nearest is None:
        return "none meets it"
    row = sweep.rows[pick.nearest]
    choice = choice_words(sweep, pick.nearest)
    nearest = f"none meets it, the nearest is {choice}" if len(rows) > 1 else f"{choice} {_miss(choice)} it"
    nearest += _served_words(row)
    if number(row["slo_ratio"]) <= 1 and row.get("goodput_fraction") is not None:
        share = _shown(sweep, "goodput_fraction", row["goodput_fraction"])
        return f"{nearest}, where {share} come in time"
    ran = [i for i in pick.indices if can_run(sweep.rows[i])]
    floor = _floor_words(sweep, ran) if misses_alone(sweep, ran) else ""
    return f"{nearest}, {limit_words(sweep, pick.nearest)}{floor and f'; {floor}'}"


def _miss(choice: str) -> str:
    """The verb of ``1 GPU`` or of ``2 GPUs``."""
    count = choice.split(" ")[0]
    return "miss" if count.isdigit() and count != "1" else "misses"


def _served_words(row: Row) -> str:
    """Of a point whose queue outgrows it, how much it serves: that it is slow follows from it."""
    if row["verdict"] not in ("BACKLOGGED", "OVERLOADED"):
        return ""
    served, offered = row.get("requests_per_s"), row.get("offered_per_s")
    if served is None or offered is None:
        return ", falling behind the load"
    return f", serving {number(served):.3g} of the {number(offered):.3g} requests a second offered"


def _goal_words(sweep: Sweep, found: Sequence[Pick]) -> str:
    """The best of each load; of one load also the best by the other things that are looked for."""
    first, *others = goals(sweep)
    is_open = _could_have_slo(sweep) and not asked_for(sweep)
    why = "No SLO is stated, so nothing says what is fast enough. " if is_open else ""
    parts = (
        f"{load_words(pick.load)}: ".removeprefix(": ")
        + _best_words(sweep, pick.winner, first)
        + (
            ""
            if pick.measured is None
            else f", on measured figures {_best_words(sweep, pick.measured, first)}"
        )
        for pick in found
    )
    said = f"{why}{_best_of(sweep, first)}{': ' if len(found) == 1 else ', '}{'; '.join(parts)}."
    for name in others if len(found) == 1 else ():
        able = reaching(sweep, found[0].indices, name)
        best = min(able, key=lambda i: goal_rank(sweep, i, found[0].measure, name), default=None)
        if best not in (None, found[0].winner):
            said += f" {_best_of(sweep, name)}: {_best_words(sweep, best, name)}."
    return said


def _best_of(sweep: Sweep, name: str) -> str:
    return f"The {'lowest' if sign(sweep, name) > 0 else 'highest'} {plain_name(name)}"


def _best_words(sweep: Sweep, index: int | None, name: str) -> str:
    if index is None:
        return "none"
    value = _shown(sweep, name, sweep.rows[index].get(name))
    is_one_price = len({row["usd_per_hour"] for row in sweep.rows}) == 1
    cost = "" if is_one_price else f", {cost_words(sweep.rows[index])}"
    return f"{value} with {choice_words(sweep, index)}{cost}{_edge_words(sweep, index)}"


def _edge_words(sweep: Sweep, index: int) -> str:
    """That a point has the largest, or the smallest, value tried of an axis: the best may lie beyond."""
    for key in choice_keys(sweep):
        if end := end_of(sweep, index, key):
            return f", the {end} {short_key(key)} tried: the best may lie beyond"
    return ""


def _could_have_slo(sweep: Sweep) -> bool:
    return "slo" in sweep.points[0].scenario.__dataclass_fields__


# --- which axis helps ---------------------------------------------------------------------------


def axis_notes(sweep: Sweep) -> list[str]:
    """What each axis could do for the loads that no point carries, and which axes change nothing."""
    notes = [note for pick in picks(sweep) if pick.winner is None for note in _notes_of(sweep, pick)]
    return [*dict.fromkeys(notes), *_idle_axes(sweep)]


def _notes_of(sweep: Sweep, pick: Pick) -> list[str]:
    """A sentence per axis; those that one floor makes useless share theirs."""
    if pick.nearest is None or not has_slo(sweep) or sweep.rows[pick.nearest]["meets_slo"] is None:
        return []  # where it is open whether the nearest misses at all, nothing is known to be too short
    lines = {key: line for key in choice_keys(sweep) if len(line := line_of(sweep, pick, key)) > 1}
    where = f" {load_words(pick.load)}" if pick.load else ""
    useless = [key for key, line in lines.items() if is_floored(sweep, pick, key, line)]
    points = list(dict.fromkeys(i for key in useless for i in lines[key]))
    floor = _floor_words(sweep, points) if points else ""
    if not floor:
        return [_axis_note(sweep, pick, key, line) for key, line in lines.items()]
    notes = [_axis_note(sweep, pick, key, line) for key, line in lines.items() if key not in useless]
    tried = {key: said for key in useless if (said := _tried_words(sweep, key, lines[key]))}
    beyond = [key for key in useless if key not in tried and not (tried and key == "replicas")]
    if beyond:
        notes.insert(0, f"{listed([short_key(key) for key in beyond])} cannot help{where}: {floor}.")
    for key, said in tried.items():
        others = "other GPUs" if key == "hardware" else "other values"
        notes.insert(0, f"{said} can meet it{where}: {floor}; {others} were not tried.")
    return notes


def _tried_words(sweep: Sweep, key: str, line: Sequence[int]) -> str:
    """Of an axis of choices, with which one request alone takes another time: others may be fast enough."""
    values = [sweep.points[i].swept[key] for i in line]
    alone = [number(sweep.rows[i]["alone_ratio"]) for i in line]
    is_scale = all(number_in(value) is not None for value in values)
    if is_scale or (key != "hardware" and max(alone) < min(alone) * (1 + SAME)):
        return ""
    named = f"{', '.join(values[:-1])} or {values[-1]}"
    return f"no number of replicas on {named}" if key == "hardware" else f"none of {short_key(key)} {named}"


def _axis_note(sweep: Sweep, pick: Pick, key: str, line: Sequence[int]) -> str:
    """Whether more or less of one key would help the nearest point, all others kept."""
    assert pick.nearest is not None
    ratios = [number(sweep.rows[i]["slo_ratio"]) for i in line]
    values = [sweep.points[i].swept[key] for i in line]
    at, name = line.index(pick.nearest), short_key(key)
    where = f" {load_words(pick.load)}" if pick.load else ""
    if max(ratios) < min(ratios) * (1 + SAME):
        stays = limit_words(sweep, pick.nearest)
        return f"{name} does not help{where}: with all its values {stays} or hardly more."
    is_scale = all(number_in(value) is not None for value in values)
    best = limit_words(sweep, pick.nearest)
    if is_scale and at == len(line) - 1 and ratios[-1] < ratios[-2] * (1 - SAME):
        return f"{name} is too short{where}: every value up to {values[-1]} misses ({best} there); raise it."
    if is_scale and at == 0 and ratios[0] < ratios[1] * (1 - SAME):
        return f"{name} is too short{where}: every value down to {values[0]} misses ({best} there); lower it."
    return f"{name} alone does not do it{where}: {values[at]} comes nearest ({best})."


def _floor_words(sweep: Sweep, indices: Sequence[int]) -> str:
    """What one request alone takes at least with any of some points, all of which it misses with."""
    best = min(indices, key=lambda i: number(sweep.rows[i]["alone_ratio"]))
    name = str(sweep.rows[best]["alone_closest"])
    limit = limit_of(sweep, best, name)
    if limit is None:
        return ""
    least: dict[str, float] = {}  # by device, the best ratio of each: its points may differ in other keys
    for i in sorted(indices, key=lambda i: -number(sweep.rows[i]["alone_ratio"])):
        if sweep.rows[i]["alone_closest"] == name:
            least[sweep.points[i].swept.get("hardware", "")] = number(sweep.rows[i]["alone_ratio"])
    ratios = [number(sweep.rows[i]["alone_ratio"]) for i in indices]
    told = [f"{_shown(sweep, name, ratio * limit)} on {device}" for device, ratio in least.items()]
    if 1 < len(least) <= _LOADS_TOLD:
        time = f"{listed(told)}, idle"
    else:
        at_least = "at least " if max(ratios) > min(ratios) * (1 + SAME) else ""
        time = f"{at_least}{_shown(sweep, name, min(ratios) * limit)} on an idle engine"
    named = {"tpot_s": "a token of one request alone", "e2e_s": "one request alone"}
    what = named.get(name.partition("_")[2], "one prompt alone")
    return f"{what} takes {time}, longer than {_shown(sweep, name, limit)} ({plain_name(name)})"


def _idle_axes(sweep: Sweep) -> list[str]:
    """Axes of choices along which no metric of any point changes."""
    return [
        f"{short_key(key)} changes nothing: every metric is the same with all its values."
        for key in choice_keys(sweep)
        if is_idle(sweep, key)
    ]
