"""The ``measured:`` list of a case: values measured on a real system, one by one or as a table.

A block of the list is one value (``metric``, ``value``) or a table: ``columns`` says what each column of
``rows`` sets in the scenario (a key path) or holds (a measured metric). So one file holds a whole sweep.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from sim.errors import did_you_mean
from sim.scenario.build import build
from sim.scenario.dataclass import dataclass
from sim.scenario.fields import key
from sim.scenario.file import AnyScenario, Measured, MeasuredPoint, ScenarioFile
from sim.scenario.place import Place
from sim.scenario.scalars import read_float
from sim.scenario.variants import override_of
from sim.units import UNITS, unit_of_name


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredColumn:
    """A column of a table that holds measured values; what it does not say, its block says."""

    metric: str = key("a metric of the run")
    unit: str | None = key("unit of the column's numbers; default: the metric's base unit", default=None)
    group: str | None = key("values that are scored together", default=None)
    tolerance: float | None = key("relative uncertainty of the measurement", default=None, gt=0)
    rivals: Mapping[str, float] | None = key("median relative error of other simulators", default=None)
    at_least: float | None = key("the lowest prediction that counts", default=None)
    at_most: float | None = key("the highest prediction that counts", default=None)
    variant: str | None = key("of which variant of compare", default=None)
    over: str | None = key("divided by the same metric of this variant", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTable:
    """Many measured values: each row sets keys of the scenario and holds what was measured there."""

    columns: Mapping[str, Any] = key("by name: a key path (or a list of them), or {metric: ..., unit: ...}")
    rows: tuple[tuple[Any | None, ...], ...] = key("a value per column; null: not measured")
    source: str = key("where the figures stand")
    group: str = key("values that are scored together", default="all")
    tolerance: float | None = key("relative uncertainty of the measurements", default=None, gt=0)
    seen_by_fit: bool = key("a constant was fitted on them: calibrated, not validated", default=False)


def check_measured(
    given: object, file: ScenarioFile[AnyScenario], metrics: Collection[str]
) -> list[MeasuredPoint]:
    """The points of a loaded scenario's ``measured:`` list, their metrics and variants known to exist."""
    points = measured_points(given, file.path, metrics)
    variants = tuple(variant.name for variant in (*file.variants, *file.refused))
    for point in points:
        for value in point.values:
            for name, word in ((value.variant, "variant"), (value.over, "over")):
                if name is not None and name not in variants:
                    raise point.place.child(word).error(
                        f"unknown variant{did_you_mean(name, variants)}",
                        given=name,
                        allowed=", ".join(variants),
                    )
    return points


def measured_points(given: object, file: str, metrics: Collection[str]) -> list[MeasuredPoint]:
    """The points that a ``measured:`` list means; the first thing wrong with it is a ScenarioError."""
    top = Place(file=file, path="measured")
    if not isinstance(given, list) or not given:
        raise top.error(
            "expected a list of measured values",
            given=given,
            allowed="a list; each item a value or a table",
            hint="- {metric: mean_tpot_s, value: 55 ms, source: where it stands}",
        )
    points: list[MeasuredPoint] = []
    for index, block in enumerate(given):
        place = top.item(index)
        if isinstance(block, Mapping) and "columns" in block:
            table = build(MeasuredTable, block, file=file, path=place.path)
            points += _table_points(table, place, metrics)
        else:
            points.append(_single_point(block, place, metrics))
    return points


def _check_metric(metric: str, metrics: Collection[str], place: Place) -> None:
    if metric not in metrics:
        raise place.child("metric").error(
            f"unknown metric{did_you_mean(metric, metrics)}",
            given=metric,
            allowed="a metric of this kind of run",
            hint="summary.json of any run of this kind has every metric",
        )


def _single_point(block: object, place: Place, metrics: Collection[str]) -> MeasuredPoint:
    if not isinstance(block, Mapping):
        raise place.error("expected a measured value", given=block, allowed="{metric: ..., value: ..., ...}")
    given = dict(block)
    metric = given.get("metric")
    if isinstance(metric, str):
        _check_metric(metric, metrics, place)
        unit = None if given.get("over") else unit_of_name(metric)
        for name in ("value", "at_least", "at_most"):
            if name in given:
                there = replace(place.child(name), unit=unit)
                given[name] = _in_base_unit(given[name], given.get("unit"), there)
    value: Measured = build(Measured, given, file=place.file, path=place.path)
    low, high = value.at_least, value.at_most
    if low is not None and high is not None and low > high:
        raise place.child("at_least").error(
            "above at_most", given=block["at_least"], allowed=f"at most {high:g}"
        )
    return MeasuredPoint(label="", overrides=(), values=(value,), place=place)


def _in_base_unit(value: object, unit: object, place: Place) -> float:
    """``value`` in base units: a bare number is in ``unit`` where that is given, text has its own."""
    if unit is None or isinstance(value, str):
        return read_float(value, place)
    known = UNITS.get(place.unit or "", {})
    if unit not in known:
        raise place.error(
            f"unknown unit {unit!r} of this metric" + did_you_mean(unit, known),
            given=value,
            allowed=", ".join(name for name in known if name) or "no unit: the metric is a plain number",
        )
    return read_float(value, replace(place, unit=None)) * float(known[str(unit)])


def _table_points(table: MeasuredTable, place: Place, metrics: Collection[str]) -> list[MeasuredPoint]:
    varied: dict[str, tuple[str, ...]] = {}
    measured: dict[str, MeasuredColumn] = {}
    for name, column in table.columns.items():
        there = place.child("columns").child(name)
        if isinstance(column, Mapping):
            measured[name] = build(MeasuredColumn, column, file=place.file, path=there.path)
            _check_metric(measured[name].metric, metrics, there)
        else:
            varied[name] = _key_paths(column, there)
    if not measured:
        raise place.child("columns").error(
            "no column is measured",
            given=", ".join(table.columns),
            allowed="at least one {metric: ..., unit: ...}",
        )
    return [
        _row_point(table, row, (varied, measured), place.child("rows").item(index))
        for index, row in enumerate(table.rows)
    ]


def _key_paths(column: object, place: Place) -> tuple[str, ...]:
    paths = column if isinstance(column, list) else [column]
    if not paths or not all(isinstance(path, str) for path in paths):
        raise place.error(
            "neither a key path nor a measured metric",
            given=column,
            allowed="engine.tensor_parallel_size, a list of such paths, or {metric: mean_tpot_s, unit: ms}",
        )
    return tuple(paths)


def _row_point(
    table: MeasuredTable,
    row: tuple[Any, ...],
    columns: tuple[Mapping[str, tuple[str, ...]], Mapping[str, MeasuredColumn]],
    place: Place,
) -> MeasuredPoint:
    varied, measured = columns
    if len(row) != len(table.columns):
        raise place.error(
            f"{len(row)} values for {len(table.columns)} columns",
            given=row,
            allowed=", ".join(table.columns),
        )
    cells = dict(zip(table.columns, row, strict=True))
    overrides = [
        override_of(path, cells[name], place.child(name)) for name, paths in varied.items() for path in paths
    ]
    values = [
        _value_of(table, column, cells[name], place.child(name))
        for name, column in measured.items()
        if cells[name] is not None
    ]
    label = ", ".join(f"{name} {cells[name]}" for name in varied)
    return MeasuredPoint(label=label, overrides=tuple(overrides), values=tuple(values), place=place)


def _value_of(table: MeasuredTable, column: MeasuredColumn, value: object, place: Place) -> Measured:
    unit = None if column.over else unit_of_name(column.metric)
    number = _in_base_unit(value, column.unit, replace(place, unit=unit))
    if number <= 0:
        raise place.error("out of bounds", given=value, allowed="above 0")
    return Measured(
        metric=column.metric,
        value=number,
        source=table.source,
        group=column.group or table.group,
        tolerance=column.tolerance or table.tolerance,
        seen_by_fit=table.seen_by_fit,
        rivals=column.rivals,
        at_least=column.at_least,
        at_most=column.at_most,
        variant=column.variant,
        over=column.over,
    )
