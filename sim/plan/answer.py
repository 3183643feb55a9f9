"""What a sweep answers: for each load by itself the cheapest choice, the Pareto front, and which axis helps.

What is asked for (rates, lengths, the model, the SLO: ``load_keys`` of the kind) is answered each for itself;
all other keys are choices, and choices compete. A choice wins when it meets the SLO and the file's thresholds
and its queue neither outgrows it (OVERLOADED) nor loses its clients (ABANDONED), at the lowest price; among
equals the one whose queue was tested, then the one with the larger headroom: the smallest ratio of what was
found to its limit, whichever is the largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING

from sim.kinds.registry import kind_of
from sim.plan.evaluate import Point, Row
from sim.plan.sweep import Sweep
from sim.scenario.dataclass import dataclass
from sim.scenario.file import CANNOT_RUN, Refusal
from sim.scenario.variants import flattened

if TYPE_CHECKING:
    from sim.kinds.registry import AnyKind

_once = lru_cache(maxsize=2)  # of the sweep that is told just now
Load = tuple[tuple[str, str], ...]
"""What is asked for: key and value, as they were written."""

HELD = ("STABLE", "QUEUES_IN_BURSTS")  # a longer run would say the same
OUTGROWN = ("OVERLOADED", "ABANDONED")  # by the load: none of them wins
UNSETTLED = ("UNTESTED", "BACKLOGGED")  # verdicts that leave open whether a longer run meets the SLO


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One load, and the choices for it as indices into the grid.

    ``settled``: the cheapest whose queue was found not to grow, where that is not the winner. ``measured``:
    the best whose figures were measured on its device, where the winner's are borrowed or assumed.
    ``nearest``: of those that ran, the one closest to the SLO; the winner where there is one.
    """

    load: Load
    indices: tuple[int, ...]
    winner: int | None
    settled: int | None
    measured: int | None
    nearest: int | None
    front: tuple[int, ...]
    measure: str  # what the winner is cheapest in: usd_per_hour, or num_gpus where a price is missing


def is_load(key: str, kind: AnyKind) -> bool:
    """Whether a key path, of the file or of one of its variants, says what is asked for."""
    parts = key.split(".")
    return kind.swept.is_asked(".".join(parts[3:] if parts[:2] == ["compare", "variants"] else parts))


def load_of(point: Point) -> Load:
    """What a point is asked for: its swept keys and its variant's differences of that kind."""
    kind = kind_of(point.scenario)
    swept = ((key, value) for key, value in point.swept.items() if is_load(key, kind))
    own = ((key, str(value)) for key, value in flattened(point.differences).items() if is_load(key, kind))
    return (*swept, *own)


@_once
def picks(sweep: Sweep) -> tuple[Pick, ...]:
    """The answer for every load, in the order of the grid."""
    loads: dict[Load, list[int]] = {}
    for index, point in enumerate(sweep.points):
        loads.setdefault(load_of(point), []).append(index)
    return tuple(_pick(sweep, load, indices) for load, indices in loads.items())


@_once
def has_slo(sweep: Sweep) -> bool:
    """Whether any point states what is fast enough."""
    stated = (bool(kind_of(one.scenario).slo_limits(one.scenario)) for one in sweep.points)
    return any(stated) or any(row["meets_slo"] is not None for row in sweep.rows)


def _pick(sweep: Sweep, load: Load, indices: Sequence[int]) -> Pick:
    rows = sweep.rows
    ran = [i for i in indices if can_run(rows[i])]
    if has_slo(sweep):
        able = [i for i in ran if rows[i]["meets_slo"] is True and may_win(rows[i])]
        measure = measure_of([rows[i] for i in able])
        order = sorted(able, key=lambda i: _rank(sweep, i, measure))
    else:
        name, measure = goals(sweep)[0], measure_of([rows[i] for i in ran])
        order = sorted(reaching(sweep, ran, name), key=lambda i: goal_rank(sweep, i, measure, name))
    winner = order[0] if order else None
    settled = next((i for i in order if rows[i]["verdict"] not in UNSETTLED), None)
    measured = next((i for i in order if rows[i].get("rests_on_measured") is not False), None)
    rated = [i for i in ran if rows[i].get("slo_ratio") is not None]
    nearest = min(rated, key=lambda i: _distance(sweep, i), default=None)
    return Pick(
        load=_named(sweep, load, indices),
        indices=tuple(indices),
        winner=winner,
        settled=None if settled == winner else settled,
        measured=None if measured == winner else measured,
        nearest=nearest if winner is None else winner,
        front=front(sweep, indices),
        measure=measure,
    )


def _distance(sweep: Sweep, index: int) -> tuple[object, ...]:
    """How far a point is from its SLO; an overloaded one would be farther off in a longer run."""
    row = sweep.rows[index]
    return (row["verdict"] in OUTGROWN, number(row["slo_ratio"]), _setting_order(sweep.points[index]))


def _named(sweep: Sweep, load: Load, indices: Sequence[int]) -> Load:
    """The load with what variants ask for said by their names: ``variant`` in place of many keys."""
    swept = tuple((key, value) for key, value in load if key in sweep.keys)
    if len(swept) == len(load):
        return load
    names = dict.fromkeys(sweep.points[i].variant for i in indices)
    return (*swept, ("variant", " or ".join(names)))


def can_run(row: Row) -> bool:
    """Whether a point gave numbers."""
    return row.get("cannot_run") is None


def kept_word(row: Row) -> str:
    """Whether a point keeps the thresholds of the file."""
    met = row.get("meets_thresholds")
    return "-" if met is None else "met" if met else "missed"


def missed_word(row: Row) -> str:
    """The same beside a verdict, where it does not."""
    return "misses a threshold" if row.get("meets_thresholds") is False else ""


def reasons_of(sweep: Sweep) -> dict[str, list[int]]:
    """Why points cannot run, each reason with its points."""
    reasons: dict[str, list[int]] = {}
    for index, row in enumerate(sweep.rows):
        if not can_run(row):
            reasons.setdefault(_reason(row), []).append(index)
    return reasons


def _reason(row: Row) -> str:
    return str(Refusal(reason=str(row["cannot_run"]), remedy=str(row.get("remedy") or "")))


def may_win(row: Row) -> bool:
    """Whether a point's queue holds without losing its clients, and it keeps the thresholds of the file."""
    return row["verdict"] not in OUTGROWN and row.get("meets_thresholds") is not False


def measure_of(rows: Sequence[Row]) -> str:
    """What cost is: dollars an hour where every one has a price, else GPUs."""
    return "usd_per_hour" if all(row["usd_per_hour"] is not None for row in rows) else "num_gpus"


def _rank(sweep: Sweep, index: int, measure: str) -> tuple[object, ...]:
    """Cheapest first, then tested queues, then headroom; the setting, so that no order of axes matters."""
    row = sweep.rows[index]
    ratio = row.get("slo_ratio")
    headroom = float("inf") if ratio is None else number(ratio)
    is_open = row["verdict"] in UNSETTLED
    return (number(row[measure]), is_open, headroom, _setting_order(sweep.points[index]))


def goal_rank(sweep: Sweep, index: int, measure: str, name: str) -> tuple[object, ...]:
    row = sweep.rows[index]
    best = sign(sweep, name) * number(row.get(name))
    return (best, number(row[measure]), _setting_order(sweep.points[index]))


def reaching(sweep: Sweep, indices: Sequence[int], name: str) -> list[int]:
    """Of points without an SLO, those that may win and whose metric is known."""
    rows = sweep.rows
    return [i for i in indices if rows[i].get(name) is not None and may_win(rows[i])]


@_once
def goals(sweep: Sweep) -> tuple[str, ...]:
    """What is looked for where no SLO decides: metrics that every point has; the first names the winner.

    What the scenario answers by comes first.
    """
    kind = kind_of(sweep.points[0].scenario)
    ran = [row for row in sweep.rows if can_run(row)]
    wanted = dict.fromkeys([*asked_for(sweep), *kind.swept.goals])
    known = [name for name in wanted if all(row.get(name) is not None for row in ran)]
    return tuple(known) or tuple(kind.swept.goals[-1:])


def asked_for(sweep: Sweep) -> list[str]:
    """The metric that the scenario names as its answer (``answer_by``), if it does."""
    named = getattr(sweep.points[0].scenario, "answer_by", None)
    return [named] if named else []


def sign(sweep: Sweep, name: str) -> float:
    """1 where less of a metric is better, else -1."""
    return -1.0 if kind_of(sweep.points[0].scenario).metrics[name].better == "higher" else 1.0


def _setting_order(point: Point) -> tuple[object, ...]:
    """Sorts settings by their values, numbers by size, whatever the order of the axes was."""
    values = ((key, *by_size(value)) for key, value in sorted(point.swept.items()))
    return (*values, point.variant)


def by_size(text: str) -> tuple[float, str]:
    value = number_in(text)
    return (float("inf") if value is None else value, text)


def number_in(text: str) -> float | None:
    """The number that a swept value is, if it is one."""
    try:
        return float(text)
    except ValueError:
        return None


def number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("inf")


@_once
def choice_keys(sweep: Sweep) -> tuple[str, ...]:
    """The swept keys that compete, of those with more than one value."""
    kind = kind_of(sweep.points[0].scenario)
    several = [key for key in sweep.keys if len({point.swept[key] for point in sweep.points}) > 1]
    return tuple(key for key in several if not is_load(key, kind))


def limit_of(sweep: Sweep, index: int, metric: str) -> float | None:
    """What a point's SLO allows a metric, or, for a share of requests, the percentile that stands for it."""
    scenario = sweep.points[index].scenario
    limits = kind_of(scenario).slo_limits(scenario)
    time = metric.partition("_")[2]
    of_time = {name.partition("_")[2]: limit for name, limit in limits.items()}
    closest = sweep.rows[index].get("slo_closest")
    return limits.get(metric, of_time.get(time) if closest == metric else None)


def stated_as(sweep: Sweep, index: int, metric: str) -> str:
    """The percentile of the SLO that a lower one stands for, as too few requests carry it; else nothing."""
    scenario = sweep.points[index].scenario
    limits, time = kind_of(scenario).slo_limits(scenario), metric.partition("_")[2]
    same = (name for name in limits if name.partition("_")[2] == time)
    return "" if metric in limits else next(same, "")


@_once
def judged_metrics(sweep: Sweep) -> tuple[str, ...]:
    """The times that the SLO limits and some point has: as they are stated, then what stood for them."""
    stated = [name for one in sweep.points for name in kind_of(one.scenario).slo_limits(one.scenario)]
    found = [name for row in sweep.rows for name in str(row.get("slo_judged") or "").splitlines()]
    known = dict.fromkeys([*stated, *found])
    return tuple(name for name in known if any(row.get(name) is not None for row in sweep.rows))


def judged_lower(sweep: Sweep) -> str:
    """That a lower percentile than the stated one was judged, and at how many points."""
    ran = [i for i, row in enumerate(sweep.rows) if can_run(row)]
    stated = [stated_as(sweep, i, str(sweep.rows[i].get("slo_closest"))).partition("_")[0] for i in ran]
    lower = [one for one in stated if one]
    if not lower:
        return ""
    where = "" if len(lower) == len(ran) else f" at {len(lower)} of {len(ran)} points"
    return f"Too few requests for a {lower[0]}{where}: the next lower percentile that they carry was judged."


def line_of(sweep: Sweep, pick: Pick, key: str) -> list[int]:
    """The points of a load that differ from its nearest in one key alone, by that key's value."""
    assert pick.nearest is not None
    near = sweep.points[pick.nearest]

    def is_beside(point: Point) -> bool:
        others = (one for one in point.swept if one != key)
        return point.variant == near.variant and all(point.swept[one] == near.swept[one] for one in others)

    line = [i for i in pick.indices if is_beside(sweep.points[i])]
    line = [i for i in line if sweep.rows[i].get("slo_ratio") is not None]
    return sorted(line, key=lambda i: by_size(sweep.points[i].swept[key]))


def is_floored(sweep: Sweep, pick: Pick, key: str, line: Sequence[int]) -> bool:
    """Whether one request alone misses all along a line, and more of its key promises no other.

    What a request takes alone varies along it all the same: prefixes that are found in the cache depend on
    who else is there. More replicas are no faster ones, whatever the cache finds; of another number more is
    of use where the time falls up to the end at which the line comes nearest.
    """
    assert pick.nearest is not None
    if not misses_alone(sweep, line):
        return False
    values = [sweep.points[i].swept[key] for i in line]
    is_scale = all(number_in(value) is not None for value in values)
    at, alone = line.index(pick.nearest), [number(sweep.rows[i]["alone_ratio"]) for i in line]
    if key.rpartition(".")[2] == "replicas" or not is_scale or at not in (0, len(line) - 1):
        return True
    return alone[at] >= min(alone[1:] if at == 0 else alone[:-1]) * (1 - SAME)


def misses_alone(sweep: Sweep, indices: Sequence[int]) -> bool:
    """Whether with each of some points one request alone misses the SLO already."""
    alone = [sweep.rows[i].get("alone_ratio") for i in indices]
    return all(ratio is not None and number(ratio) > 1 for ratio in alone)


def is_idle(sweep: Sweep, key: str) -> bool:
    """Whether no metric of any point changes along an axis."""
    by_rest: dict[tuple[object, ...], list[Row]] = {}
    for point, row in zip(sweep.points, sweep.rows, strict=True):
        rest = tuple((one, value) for one, value in point.swept.items() if one != key)
        numbers = {name: value for name, value in row.items() if name not in ("warnings", "notes", "remedy")}
        by_rest.setdefault((*rest, point.variant), []).append(numbers)
    ran = [rows for rows in by_rest.values() if rows[0]["verdict"] != CANNOT_RUN]
    return bool(ran) and all(row == rows[0] for rows in by_rest.values() for row in rows)


def end_of(sweep: Sweep, index: int, key: str) -> str:
    """Whether a point has the ``smallest`` or the ``largest`` number tried of an axis; else nothing."""
    mine = sweep.points[index]
    alike = [
        point.swept[key]
        for point in sweep.points
        if point.variant == mine.variant
        and all(point.swept[other] == mine.swept[other] for other in sweep.keys if other != key)
    ]
    tried = sorted(value for text in alike if (value := number_in(text)) is not None)
    value = number_in(mine.swept[key])
    if value is None or len(tried) < _FEWEST_TRIED or value not in (tried[0], tried[-1]) or value <= 1:
        return ""
    return "smallest" if value == tried[0] else "largest"


_FEWEST_TRIED = 3


def played(sweep: Sweep) -> str:
    """The load that all points share: the trace, which part of it was played, how many came a second."""
    from sim.serving.workload.recorded import PLAYED, READ

    ran = [row for row in sweep.rows if can_run(row)]
    said: list[str] = []
    notes = {tuple(str(row.get("notes") or "").splitlines()) for row in ran}
    read = {
        note.removeprefix(READ).partition(": ")[0] for one in notes for note in one if note.startswith(READ)
    }
    parts = {_part(one, PLAYED) for one in notes}
    if len(read) == 1:
        said.append(PurePath(read.pop()).name)
        said += [parts.pop() or "all of it"] if len(parts) == 1 else []
    rates = [number(row["offered_per_s"]) for row in ran if row.get("offered_per_s") is not None]
    if rates and len(picks(sweep)) == 1 and max(rates) <= min(rates) * _ONE_RATE:
        said.append(f"{sum(rates) / len(rates):.3g} requests a second")
    return f"Load: {', '.join(said)}." if said else ""


def _part(notes: Sequence[str], played: str) -> str:
    part = next((note.removeprefix(played) for note in notes if note.startswith(played)), "")
    return part.partition(";")[0]


_ONE_RATE = 1.05  # windows differ a little; clients that wait for answers come as fast as those are


SAME = 0.02  # a difference below this is none: seeds and simulation are not more exact


@_once
def least_of_devices(sweep: Sweep, pick: Pick) -> Mapping[str, int | None]:
    """By device the point with the fewest GPUs that meets the SLO at a load, where devices are asked."""
    if "hardware" not in choice_keys(sweep) or not has_slo(sweep):
        return {}
    able = [i for i in pick.indices if sweep.rows[i]["meets_slo"] is True and may_win(sweep.rows[i])]
    least: dict[str, int | None] = {}
    for device in dict.fromkeys(point.swept["hardware"] for point in sweep.points):
        own = [i for i in able if sweep.points[i].swept["hardware"] == device]
        least[device] = min(own, key=lambda i: _rank(sweep, i, "num_gpus"), default=None)
    return least


def unable_devices(sweep: Sweep) -> Mapping[str, str]:
    """Devices of an axis with which no point can run, each with why its first cannot."""
    rows: dict[str, list[Row]] = {}
    for point, row in zip(sweep.points, sweep.rows, strict=True):
        rows.setdefault(point.swept.get("hardware", ""), []).append(row)
    return {
        device: str(own[0]["cannot_run"])
        for device, own in rows.items()
        if device and not any(map(can_run, own))
    }


# --- the front ----------------------------------------------------------------------------------


@_once
def front_metric(sweep: Sweep) -> str:
    """What cost is set against: the first time that the SLO limits, else what is looked for."""
    scenario = sweep.points[0].scenario
    kind, rows = kind_of(scenario), [row for row in sweep.rows if can_run(row)]
    names = [*judged_metrics(sweep), *kind.slo_limits(scenario), *kind.swept.against]
    return max(names, key=lambda name: sum(row.get(name) is not None for row in rows))


def front(sweep: Sweep, indices: Sequence[int]) -> tuple[int, ...]:
    """The Pareto front of some points: none other costs no more and is no worse, and less or better."""
    rows, name = sweep.rows, front_metric(sweep)
    towards = sign(sweep, name)
    able = [i for i in indices if can_run(rows[i]) and rows[i]["verdict"] not in OUTGROWN]
    able = [i for i in able if rows[i].get(name) is not None]
    measure = measure_of([rows[i] for i in able])
    at = {i: (number(rows[i][measure]), towards * number(rows[i][name])) for i in able}
    kept: list[int] = []
    best_of_cheaper = float("inf")
    for cost in sorted({cost for cost, _ in at.values()}):
        best = min(found for one, found in at.values() if one == cost)
        if best < best_of_cheaper:
            kept += [i for i in able if at[i] == (cost, best)]
            best_of_cheaper = best
    return tuple(sorted(kept))


def decisive(sweep: Sweep, most: int) -> tuple[int, ...]:
    """At most so many points that ran, in the order of ``by_cost``: those that decide, of every load as many.

    Of a load first its winner or what comes nearest, then by turns what else meets the SLO from the cheapest,
    its front, and the nearest of the rest.
    """
    order = [i for i in by_cost(sweep) if sweep.rows[i]["verdict"] != CANNOT_RUN]
    place = {index: at for at, index in enumerate(order)}
    ranked: list[list[int]] = []
    for pick in picks(sweep):
        own = sorted((i for i in pick.indices if i in place), key=lambda i: place[i])
        meeting = [i for i in own if sweep.rows[i]["meets_slo"] is True]
        known = [i for i in own if sweep.rows[i].get("slo_ratio") is not None]
        misses = sorted((i for i in known if i not in meeting), key=lambda i: _distance(sweep, i))
        first = [i for i in (pick.winner, pick.nearest) if i in place]
        ranked.append(list(dict.fromkeys([*first, *_by_turns([meeting, pick.front, misses]), *own])))
    return tuple(sorted(islice(_by_turns(ranked), most), key=lambda i: place[i]))


def _by_turns(lists: Sequence[Sequence[int]]) -> Iterator[int]:
    """The first of each list, then the second of each."""
    for turn in range(max(map(len, lists), default=0)):
        yield from (one[turn] for one in lists if turn < len(one))


@_once
def by_cost(sweep: Sweep) -> tuple[int, ...]:
    """All points: load by load, in each the cheapest first, among equals the better; refused ones last."""
    order: list[int] = []
    name = "" if has_slo(sweep) else goals(sweep)[0]

    def place(index: int) -> tuple[object, ...]:
        row = sweep.rows[index]
        if name:
            rank = (number(row[measure]), *goal_rank(sweep, index, measure, name))
            return (not can_run(row), *rank) if row.get(name) is not None else (True, *rank)
        return (not can_run(row), *_rank(sweep, index, measure))

    for pick in picks(sweep):
        measure = measure_of([sweep.rows[i] for i in pick.indices])
        order += sorted(pick.indices, key=place)
    return tuple(order)
