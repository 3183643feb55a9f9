"""A sweep over a grid of key paths."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import field
from decimal import Decimal
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from sim.errors import ScenarioError, told_together
from sim.kinds.executors import map_as_completed
from sim.kinds.load import load_point, reading_once
from sim.kinds.registry import kind_of
from sim.plan.evaluate import (
    Point,
    Row,
    Value,
    evaluate,
    fingerprint,
    refused_row,
    warnings_of,
)
from sim.results.comparison import one_seed
from sim.scenario.dataclass import dataclass
from sim.scenario.file import CANNOT_RUN
from sim.scenario.renamed import metric_name
from sim.scenario.variants import flattened, has_path, parse_override

_NUMBER = r"-?\d+(?:\.\d+)?"


_NUMBER_IN_TEXT = re.compile(r"\b\d[\d.,]*\b")


_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(?::({_NUMBER}))?")


_ALLOWED = "KEY=A:B (every whole number from A to B), KEY=A:B:STEP, or KEY=VALUE,VALUE,..."


MAX_POINTS = 100_000


def parse_over(given: str) -> tuple[str, tuple[str, ...]]:
    """(key path, values as one would write them with ``--set``) of one ``--over``."""
    key, equals, values = given.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise ScenarioError("not a key with values", path="--over", given=given, allowed=_ALLOWED)
    match = _RANGE.fullmatch(values.strip())
    written = _range(given, *match.groups()) if match else tuple(_split(values))
    if any(not value for value in written):
        raise ScenarioError("an empty value between commas", path="--over", given=given, allowed=_ALLOWED)
    twice = {value for value in written if written.count(value) > 1}
    if twice:
        raise ScenarioError(f"{', '.join(sorted(twice))} stands there twice", path="--over", given=given)
    return key.strip(), written


def _range(given: str, low: str, high: str, step: str | None) -> tuple[str, ...]:
    """Both ends included, where the step hits the upper one. Decimal: 0.1 steps stay 0.1 steps."""
    first, last, by = Decimal(low), Decimal(high), Decimal(step or 1)
    if by <= 0 or last < first:
        problem = "the step must be above 0" if by <= 0 else "the range runs backwards"
        raise ScenarioError(problem, path="--over", given=given, allowed=_ALLOWED)
    count = int((last - first) / by) + 1
    if count > MAX_POINTS:
        raise ScenarioError(
            f"{count:,} values", path="--over", given=given, allowed=f"at most {MAX_POINTS:,}"
        )
    return tuple(str(first + index * by) for index in range(count))


def _split(values: str) -> Iterator[str]:
    """The values between commas; a comma inside brackets or braces belongs to its value."""
    depth, begin = 0, 0
    for index, letter in enumerate(values):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            yield values[begin:index].strip()
            begin = index + 1
    yield values[begin:].strip()


def grid(overs: Sequence[str]) -> list[Mapping[str, str]]:
    """Every combination, the last key varying fastest."""
    axes = [parse_over(given) for given in overs]
    if not axes:
        raise ScenarioError("nothing to sweep over", path="--over", allowed=_ALLOWED)
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise ScenarioError(
                f"{key} is swept twice", path="--over", hint="give all its values in one --over"
            )
    total = 1
    for _, values in axes:
        total *= len(values)
    if total > MAX_POINTS:
        raise ScenarioError(
            f"the grid has {total:,} points", path="--over", allowed=f"at most {MAX_POINTS:,}"
        )
    return [dict(zip(keys, values, strict=True)) for values in product(*(values for _, values in axes))]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """The answered grid, in the order of the grid whatever finished first.

    One is equal to itself alone, so that what is asked of it again and again is found once.
    """

    question: str
    command: str
    keys: tuple[str, ...]  # swept
    points: tuple[Point, ...]
    rows: tuple[Row, ...]  # one per point: every metric, not only the headlines
    settings: Mapping[str, Any] = field(default_factory=dict)  # what the file says, beside the swept keys

    @property
    def has_variants(self) -> bool:
        """Whether points differ by more than the swept keys."""
        return _has_variants(self)


@lru_cache(maxsize=2)
def _has_variants(sweep: Sweep) -> bool:
    return len({point.variant for point in sweep.points}) > 1


def sweep_points(
    path: str, overs: Sequence[str], *, overrides: Sequence[str] = (), trace: str | None = None
) -> list[Point]:
    """All points of the grid, one per variant, each loaded with every check. Nothing runs yet.

    One that cannot run says why (``Point.refusal``); a mistake in an axis, or a grid in which no point can
    run, is a ScenarioError.
    """
    with reading_once():
        return _points(path, overs, overrides, trace)


def _points(path: str, overs: Sequence[str], overrides: Sequence[str], trace: str | None) -> list[Point]:
    points: list[Point] = []
    errors: list[ScenarioError] = []
    for swept in grid(overs):
        changes = [*overrides, *(f"{key}={value}" for key, value in swept.items())]
        file, refused = load_point(path, changes, trace)
        base_dir = str(Path(file.path).resolve().parent)
        errors += [_at(swept, name, error) for name, error in refused.items()]
        points += [
            Point(
                swept=swept,
                variant=variant.name,
                scenario=variant.scenario,
                base_dir=base_dir,
                warnings=file.warnings,
                differences=variant.differences,
                refusal=variant.refusal,
            )
            for variant in file.variants
        ]
    _refuse_copies(points)
    if len(errors) == len(points):
        raise told_together([ScenarioError("no point of the grid can run", path="--over"), *errors])
    return points


def _refuse_copies(points: Sequence[Point]) -> None:
    """Refuses an axis that a variant overrides: all points of that variant along it would be the same run."""
    first = points[0].swept
    for key in first:
        values = list(dict.fromkeys(point.swept[key] for point in points))
        top = parse_override(f"{key}=0").steps[:1]
        if len(values) < 2 or top == ("compare",):
            continue
        lines: dict[str, list[Point]] = {}
        for point in points:
            if all(point.swept[other] == first[other] for other in first if other != key):
                lines.setdefault(point.variant, []).append(point)
        for variant, line in lines.items():
            is_same = all(point.scenario == line[0].scenario for point in line)
            if is_same and has_path(line[0].differences, top):
                raise _copies(key, values, variant, len(lines))


def _copies(key: str, values: Sequence[str], variant: str, num_variants: int) -> ScenarioError:
    leave_out = f"--set compare.variants.{variant}=null to leave it out, " if num_variants > 2 else ""
    axis = f"{key}={','.join(values)}"
    return ScenarioError(
        f"variant {variant} sets this key itself: along this axis its points would all be the same run",
        file="--over",
        path=key,
        given=axis if len(axis) <= 80 else f"{key}={values[0]},...,{values[-1]}",
        allowed="keys that every variant takes from the file",
        hint=f"--over compare.variants.{variant}.{key}=... to sweep that variant, {leave_out}"
        "or --set compare=null to sweep the scenario without its variants",
    )


def _at(swept: Mapping[str, str], variant: str, error: ScenarioError) -> ScenarioError:
    """Why a point cannot run, with the point in the place of the file."""
    where = ", ".join(f"{key} = {value}" for key, value in swept.items())
    return error.told(file=f"{where} ({variant})" if variant != "base" else where, others=())


def settings_of(
    path: str, overs: Sequence[str], *, overrides: Sequence[str] = (), trace: str | None = None
) -> Mapping[str, Any]:
    """What the file and ``--set`` say of every point alike, by key path: the swept keys are not in it."""
    first = grid(overs)[0]
    changes = [*overrides, *(f"{key}={value}" for key, value in first.items())]
    file, _ = load_point(path, changes, trace)
    flat = flattened({name: value for name, value in file.raw.items() if name not in _ABOUT_THE_FILE})
    return {name: value for name, value in flat.items() if not any(_is_below(name, key) for key in first)}


_ABOUT_THE_FILE = ("schema_version", "question", "thresholds", "measured", "kind")


def _is_below(name: str, key: str) -> bool:
    return name == key or name.startswith((f"{key}.", f"{key}["))


def run_points(
    points: Sequence[Point],
    executor: Executor,
    *,
    in_flight: int,
    ledger: Path,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """A row per point, in their order. Rows already in ``ledger`` are taken from there, new ones added.

    Points that cannot run need no place to run; ``progress`` is told of those that are done already, too.
    """
    keys = [fingerprint(point) for point in points]
    known = read_ledger(ledger)
    known |= {
        key: refused_row(point) for key, point in zip(keys, points, strict=True) if point.refusal is not None
    }
    missing = [index for index, key in enumerate(keys) if key not in known]
    done = len(points) - len(missing)
    if progress:
        progress(done, len(points))
    todo = [points[index] for index in missing]
    with ledger.open("a", encoding="utf-8") as lines:
        for index, row in map_as_completed(executor, evaluate, todo, in_flight=in_flight):
            key = keys[missing[index]]
            known[key] = row
            lines.write(json.dumps({"key": key, "row": row}) + "\n")
            lines.flush()
            done += 1
            if progress:
                progress(done, len(points))
    return [known[key] for key in keys]


def read_ledger(ledger: Path) -> dict[str, Row]:
    """Finished rows by key. A last line that an interruption cut off is taken out of the file."""
    if not ledger.is_file():
        return {}
    text = ledger.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        ledger.write_text(whole, encoding="utf-8")
    try:
        entries = [json.loads(line) for line in whole.splitlines()]
        return {entry["key"]: entry["row"] for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ScenarioError(
            "this is no ledger of a sweep", file=str(ledger), hint="remove it, or give another --out"
        ) from error


_ALWAYS = ("meets_slo", "slo_ratio", "slo_closest", "meets_thresholds", "verdict", "num_gpus", "usd_per_hour")


def csv_rows(sweep: Sweep, metrics: Sequence[str]) -> list[Row]:
    """A row per point in the order of the grid: what was swept, the variant where there are several, whether
    it meets its SLO and how closely, cost, ``metrics``, why it cannot run, and its warnings."""
    rows: list[Row] = []
    for point, row in zip(sweep.points, sweep.rows, strict=True):
        cells: dict[str, Value] = dict(point.swept)
        if sweep.has_variants:
            cells["variant"] = point.variant
        warnings = [
            *(f"{one.kind}: {one}" for one in point.warnings),
            *(f"{kind}: {text}" for kind, text in warnings_of(row)),
        ]
        cells |= {name: row.get(name) for name in (*_ALWAYS, *metrics)}
        rows.append(cells | {"cannot_run": row.get("cannot_run"), "warnings": " | ".join(warnings)})
    return rows


def check_metrics(names: Sequence[str], kind: str = "serving") -> tuple[str, ...]:
    """``names``, or the headlines of the kind; an unknown metric is an error with its neighbours named."""
    from sim.errors import did_you_mean
    from sim.kinds.registry import KINDS

    known = KINDS[kind].metrics
    asked = tuple(metric_name(name)[0] for name in names)
    for name in asked:
        if name not in known:
            raise ScenarioError(f"unknown metric{did_you_mean(name, known)}", path="--metric", given=name)
    return asked or tuple(KINDS[kind].swept.columns)


def setting_words(sweep: Sweep, index: int) -> str:
    """Which point: all that was swept, and the variant where there are several."""
    point = sweep.points[index]
    said = ", ".join(f"{key} = {value}" for key, value in point.swept.items())
    return f"{said} ({point.variant})" if sweep.has_variants else said


def shared_words(sweep: Sweep, indices: Sequence[int]) -> str:
    """Some points by what they have in common, ``hardware = t4 (12 points)``, else the first of them."""
    first = setting_words(sweep, indices[0])
    if len(indices) == 1:
        return first
    points = [sweep.points[i] for i in indices]
    swept = points[0].swept.items()
    same = [f"{key} = {value}" for key, value in swept if all(one.swept[key] == value for one in points)]
    if sweep.has_variants and len({one.variant for one in points}) == 1:
        same.append(points[0].variant)
    return f"{', '.join(same)} ({len(points)} points)" if same else f"{first} and {len(points) - 1} more"


# --- warnings -----------------------------------------------------------------------------------


def sweep_warnings(sweep: Sweep) -> list[str]:
    """What the points' files and runs are warned of: each once, with how many points it concerns."""
    files = dict.fromkeys(str(caution) for point in sweep.points for caution in point.warnings)
    alike: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for index, row in enumerate(sweep.rows):
        for kind, text in warnings_of(row):
            alike.setdefault((kind, _NUMBER_IN_TEXT.sub("#", text)), []).append((index, text))
    lines = [*files, *(_warning_line(sweep, found) for found in alike.values())]
    scenario = sweep.points[0].scenario
    if len(scenario.seeds) == 1 and any(kind_of(one.scenario).draws(one.scenario) for one in sweep.points):
        lines.append(str(one_seed()))
    return lines


def _warning_line(sweep: Sweep, found: Sequence[tuple[int, str]]) -> str:
    """A warning in the words of the first point; others may word it by their own numbers."""
    points = dict.fromkeys(index for index, _ in found)
    texts = list(dict.fromkeys(text for _, text in found))
    whole = sum(row.get("verdict") != CANNOT_RUN for row in sweep.rows)
    who = "every point" if len(points) == whole else f"{len(points)} of {whole} points"
    first = setting_words(sweep, found[0][0])
    if len(points) == 1:
        who = first
    elif len(texts) > 1:
        who += f", first at {first}"
    return f"{who}: {texts[0]}"
