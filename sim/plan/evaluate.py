"""One point of a sweep or of a plan: run it, and read every metric from its row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sim.report.figures import digits, percent
from sim.units import format_s
from sim.version import __version__

if TYPE_CHECKING:
    from sim.results.summary import Summary
    from sim.scenario.caution import Caution
    from sim.scenario.file import AnyScenario


Value = str | float | bool | None


Row = dict[str, Value]


VERDICTS = ("STABLE", "UNTESTED", "BACKLOGGED", "OVERLOADED")  # the worst of the seeds is the row's


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of a sweep: what was set, and the checked scenario that came of it."""

    swept: Mapping[str, str]
    variant: str
    scenario: AnyScenario
    base_dir: str
    warnings: tuple[Caution, ...] = ()  # of its file


def evaluate(point: Point) -> Row:
    """Run every seed and return means over the seeds, by metric.

    A metric that a seed refuses (too few samples for a percentile) is None for the point. The point
    meets its SLO when every seed does; None where the scenario states no SLO.
    """
    from sim.kinds.registry import kind_of
    from sim.kinds.run import run_one

    scenario = point.scenario
    kind = kind_of(scenario)
    summaries = [
        kind.summarize(run_one(scenario, variant=point.variant, seed=seed, base_dir=Path(point.base_dir)))
        for seed in scenario.seeds
    ]
    num_gpus = kind.num_gpus(scenario)
    price = scenario.hardware.usd_per_hour
    row: Row = {
        "meets_slo": _all_meet(summaries),
        "verdict": max((summary.verdict.word for summary in summaries), key=_badness),
        "num_gpus": num_gpus,
        "usd_per_hour": None if price is None else price * num_gpus,
    }
    row |= {name: _mean(summaries, name) for name in summaries[0].metrics}
    return row | {"warnings": "\n".join(_warnings(summaries))}


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
    return None if None in met else all(met)


def _mean(summaries: Sequence[Summary], name: str) -> float | None:
    values = [summary.metrics.get(name) for summary in summaries]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def fingerprint(point: Point) -> str:
    """A key that changes whenever the row could: the whole scenario, the files it reads, the program."""
    content = {
        "scenario": asdict(point.scenario),
        "files": [_digest(path) for path in _files_read(point)],
        "program": program_digest(),
    }
    return _sha256(json.dumps(content, sort_keys=True, default=str).encode())


@lru_cache(maxsize=1)
def program_digest() -> str:
    """Version and sources: a row from before a change of the code is not taken for one after it."""
    sources = sorted(Path(__file__).parent.parent.rglob("*.py"))
    return f"{__version__}+{_sha256(b''.join(path.read_bytes() for path in sources))[:16]}"


def _files_read(point: Point) -> list[Path]:
    """The trace, the empirical lengths and the policy that the scenario points at."""
    from sim.serving.user_policy import policy_path

    names: list[str] = []
    _collect_paths(asdict(point.scenario), names)
    engine = getattr(point.scenario, "engine", None)
    files = [Path(point.base_dir) / name for name in names]
    for given in (engine.batching, engine.policy) if engine else ():
        if ":" in given:
            files.append(policy_path(given, Path(point.base_dir)))
    return files


def _collect_paths(content: object, names: list[str]) -> None:
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if key in ("path", "file") and isinstance(value, str):
            names.append(value)
        else:
            _collect_paths(value, names)


def _digest(path: Path) -> str:
    return _sha256(path.read_bytes()) if path.is_file() else f"absent: {path.name}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


MEETS = {True: "yes", False: "no", None: "-"}


def shown(name: str, value: Value) -> str:
    """A cell as a person reads it; the CSV keeps full precision."""
    if value is None:
        return "-" if name in ("meets_slo", "usd_per_hour") else "refused"
    if isinstance(value, bool):
        return MEETS[value]
    if isinstance(value, str):
        return value
    if name.endswith("_fraction"):
        return percent(value)
    if name.endswith("_s") and not name.endswith("_per_s"):
        return format_s(value)
    return digits(value)
