"""One point of a sweep or of a plan: run it, and read every metric from its row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import ScenarioError
from sim.scenario.dataclass import dataclass
from sim.scenario.file import CANNOT_RUN, Refusal
from sim.scenario.shared import Shared
from sim.version import __version__

if TYPE_CHECKING:
    from sim.results.summary import Summary
    from sim.scenario.caution import Caution
    from sim.scenario.file import AnyScenario


Value = str | float | bool | None


Row = dict[str, Value]


# The worst of the seeds is the row's.
VERDICTS = (
    "STABLE",
    "QUEUES_IN_BURSTS",
    "ALL_AT_ONCE",
    "UNTESTED",
    "ABANDONED",
    "BACKLOGGED",
    "OVERLOADED",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of a sweep: what was set, and the checked scenario that came of it."""

    swept: Mapping[str, str]
    variant: str
    scenario: AnyScenario
    base_dir: str
    warnings: tuple[Caution, ...] = ()  # of its file
    differences: Mapping[str, Any] = field(default_factory=dict)  # the variant's, from the file
    refusal: Refusal | None = None  # it was read without a fault, and cannot run


def evaluate(point: Point) -> Row:
    """Run every seed and return means over the seeds, by metric.

    A metric that a seed refuses (too few samples for a percentile) is None for the point. The point
    meets its SLO when every seed does; None where the scenario states no SLO, or a seed leaves it open. What
    can only be found out by running (a trace that cannot be read, a policy that breaks a law, a kernel whose
    memory does not suffice) is the row's ``cannot_run``.
    """
    from sim.kinds.run import compare, until_precise

    scenario = point.scenario
    if point.refusal is not None:
        return refused_row(point)
    try:
        (summaries, alone), length = until_precise(
            scenario,
            lambda factor: _runs(point, factor),
            lambda found: compare({point.variant: found[0]}, point.variant),
        )
    except ScenarioError as error:
        return refused_row(replace(point, refusal=Refusal.of(error, point.variant)))
    worst = max((one.verdict for one in summaries), key=lambda verdict: _badness(verdict.word))
    row: Row = {
        "meets_slo": _all_meet(summaries),
        "verdict": worst.word,
        "verdict_reason": worst.reason,
        **_costs(point),
        **_judged(summaries),
        **_closest("alone", [alone]),
    }
    if worst.word == "OUT_OF_MEMORY":
        row["cannot_run"] = worst.reason
    row |= {name: _mean(summaries, name) for name in summaries[0].metrics}
    row |= _threshold_row(point, summaries)
    offered = [one.offered_per_s for one in summaries if one.offered_per_s is not None]
    row["offered_per_s"] = sum(offered) / len(offered) if len(offered) == len(summaries) else None
    cautions = [caution for summary in summaries for caution in summary.warnings]
    row["rests_on_measured"] = not any(
        one.assumes for one in cautions if one.kind == "efficiency_not_measured"
    )
    row["assumes"] = "\n".join(dict.fromkeys(one.assumes for one in cautions if one.assumes))
    notes, warnings = [*dict.fromkeys(summaries[0].notes)], _warnings(summaries)
    if length is not None:
        notes.append(length.said)
        warnings += [f"{length.caution.kind}: {length.caution}"] if length.caution else []
    return row | {"warnings": "\n".join(warnings), "notes": "\n".join(notes)}


def _runs(point: Point, factor: int) -> tuple[list[Summary], Mapping[str, float]]:
    """Every seed of the point, so many times as long; and what one request alone would need, if it misses."""
    from sim.kinds.registry import kind_of
    from sim.kinds.run import lengthened, run_one

    kind, scenario = kind_of(point.scenario), lengthened(point.scenario, factor)
    summaries: list[Summary] = []
    alone: Mapping[str, float] = {}
    for seed in scenario.seeds:
        run = run_one(scenario, variant=point.variant, seed=seed, base_dir=Path(point.base_dir))
        summaries.append(kind.summarize(run))
        if summaries[-1].meets_slo is False and not alone:
            alone = kind.alone_ratios(run, summaries[-1])
    return summaries, alone


def _threshold_row(point: Point, summaries: Sequence[Summary]) -> Row:
    """Whether the point keeps the bounds that the file states of its variant; None where it states none."""
    from sim.kinds.run import compare
    from sim.results.comparison import check_thresholds

    own = [one for one in point.scenario.thresholds if one.variant in (None, point.variant)]
    if not own:
        return {"meets_thresholds": None, "missed": ""}
    found = compare({point.variant: summaries}, point.variant)
    outcomes = check_thresholds(found, [replace(one, variant=point.variant) for one in own])
    missed = [f"{one.metric} {one.bound} ({one.reason})" for one in outcomes if not one.is_met]
    return {"meets_thresholds": not missed, "missed": "; ".join(missed)}


def _costs(point: Point) -> Row:
    from sim.kinds.registry import kind_of

    num_gpus = kind_of(point.scenario).num_gpus(point.scenario)
    price = point.scenario.hardware.usd_per_hour
    return {"num_gpus": num_gpus, "usd_per_hour": None if price is None else price * num_gpus}


def refused_row(point: Point) -> Row:
    """The row of a point that cannot run: what it would cost, and why not."""
    why = point.refusal or Refusal(reason="")
    told: Row = {"cannot_run": why.reason, "remedy": why.remedy}
    return {"meets_slo": None, "verdict": CANNOT_RUN, **_costs(point), **told}


def _closest(what: str, ratios: Sequence[Mapping[str, float]]) -> Row:
    """The largest ratio of what was found to its limit, over all seeds, and of which metric it is."""
    pairs = [(ratio, name) for one in ratios for name, ratio in one.items()]
    ratio, name = max(pairs, key=lambda pair: pair[0], default=(None, None))
    return {f"{what}_ratio": ratio, f"{what}_closest": name}


def _judged(summaries: Sequence[Summary]) -> Row:
    """How close the SLO came, with what the seed that came closest found, and which metrics it judged."""
    ratios = [{one.name: one.ratio for one in run.limited_times} for run in summaries]
    closest = _closest("slo", ratios)
    name = str(closest["slo_closest"])
    pairs = zip(ratios, summaries, strict=True)
    found = [(one[name], run.metrics.get(name)) for one, run in pairs if name in one]
    worst = max(found, key=lambda pair: pair[0])[1] if found else None
    known = (one for found in ratios for one in found if one in summaries[0].metrics)
    return {**closest, "slo_value": worst, "slo_judged": "\n".join(dict.fromkeys(known))}


def _warnings(summaries: Sequence[Summary]) -> list[str]:
    """``kind: text``, one a line of the row; the first seed that has one of a kind speaks for all."""
    seen: dict[str, list[str]] = {}
    for summary in summaries:
        own: dict[str, list[str]] = {}
        for caution in dict.fromkeys(summary.warnings):
            own.setdefault(caution.kind, []).append(f"{caution.kind}: {caution}")
        seen = own | seen
    return [line for lines in seen.values() for line in lines]


def warnings_of(row: Row) -> list[tuple[str, str]]:
    """(kind, text) of what the runs of a row are warned of."""
    lines = str(row.get("warnings") or "").splitlines()
    return [(kind, text) for kind, _, text in (line.partition(": ") for line in lines)]


def _badness(word: str) -> int:
    return VERDICTS.index(word) if word in VERDICTS else 0


def _all_meet(summaries: Sequence[Summary]) -> bool | None:
    met = [summary.meets_slo for summary in summaries]
    return False if False in met else None if None in met else True


def _mean(summaries: Sequence[Summary], name: str) -> float | None:
    values = [summary.metrics.get(name) for summary in summaries]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def fingerprint(point: Point) -> str:
    """A key that changes whenever the row could: the whole scenario, the files it reads, the program."""
    parts = {one.name: getattr(point.scenario, one.name) for one in fields(point.scenario)}
    for name in _WHOLE:
        parts[name] = _WHOLE_DIGESTS.get(parts.get(name), lambda whole: _sha256(_json(whole)))
    content = {
        "scenario": parts,
        "files": [_digest(path) for path in _files_read(point)],
        "program": program_digest(),
    }
    return _sha256(_json(content))


_WHOLE = ("hardware", "model")  # large, and the same for many points
_WHOLE_DIGESTS: Shared[object, str] = Shared(32)


def _json(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, default=_fields_or_text).encode()


def _fields_or_text(value: object) -> object:
    if is_dataclass(value):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    return str(value)


@lru_cache(maxsize=1)
def program_digest() -> str:
    """Version and sources: a row from before a change of the code is not taken for one after it."""
    sources = sorted(Path(__file__).parent.parent.rglob("*.py"))
    return f"{__version__}+{_sha256(b''.join(path.read_bytes() for path in sources))[:16]}"


def _files_read(point: Point) -> list[Path]:
    """The trace, the empirical lengths and the policy that the scenario points at."""
    from sim.scenario.place import code_path

    names: list[str] = []
    for one in fields(point.scenario):
        if one.name not in _WHOLE:
            _collect_paths(getattr(point.scenario, one.name), names)
    engine = getattr(point.scenario, "engine", None)
    files = [Path(point.base_dir) / name for name in names]
    for given in (engine.batching, engine.policy) if engine else ():
        if ":" in given:
            files.append(code_path(given, Path(point.base_dir)))
    return files


def _collect_paths(content: object, names: list[str]) -> None:
    if isinstance(content, (list, tuple)):
        for one in content:
            _collect_paths(one, names)
    items: Iterable[tuple[str, object]] = ()
    if is_dataclass(content):
        items = [(one.name, getattr(content, one.name)) for one in fields(content)]
    elif isinstance(content, Mapping):
        items = content.items()
    for key, value in items:
        if key in ("path", "file") and isinstance(value, str):
            names.append(value)
        else:
            _collect_paths(value, names)


def _digest(path: Path) -> str:
    return _sha256(path.read_bytes()) if path.is_file() else f"absent: {path.name}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
