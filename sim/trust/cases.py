"""A folder of cases, run: every measured value beside the predicted one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from sim.errors import ScenarioError
from sim.kinds.executors import map_as_completed
from sim.kinds.load import MEASURED, load_tree
from sim.kinds.registry import KINDS
from sim.plan.evaluate import Point, Row, Value, evaluate
from sim.scenario.dataclass import dataclass
from sim.scenario.file import Measured, MeasuredPoint
from sim.scenario.measured import check_measured
from sim.scenario.renamed import rename_metrics
from sim.scenario.strict_yaml import load_yaml

BOARD_FILE = "board.yaml"
Progress = Callable[[int, int], None]
RunKey = tuple[str, str, tuple[tuple[str, str], ...]]  # file, variant, what the row sets


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measured value, and the run or the two runs that predict it."""

    case: str
    label: str
    measured: Measured
    run: Point
    over: Point | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A measured value beside the predicted one (the mean over seeds); None: the run has no such number."""

    case: str
    label: str
    measured: Measured
    predicted: float | None

    @property
    def error(self) -> float | None:
        """Signed relative error."""
        return None if self.predicted is None else self.predicted / self.measured.value - 1.0

    @property
    def is_outside_band(self) -> bool:
        """Whether the prediction lies outside the band that the case accepts."""
        if self.predicted is None:
            return True
        low, high = self.measured.at_least, self.measured.at_most
        return (low is not None and self.predicted < low) or (high is not None and self.predicted > high)


def case_files(folder: Path) -> list[Path]:
    """The case files of a folder and below it, in the order of their names."""
    if not folder.is_dir():
        raise ScenarioError("no such folder", file=str(folder), allowed="a folder with cases, *.yaml")
    paths = sorted(path for path in folder.rglob("*.yaml") if path.name != BOARD_FILE)
    if not paths:
        raise ScenarioError("no cases in it", file=str(folder), allowed="a folder with cases, *.yaml")
    return paths


def load_folder(folder: Path) -> list[Case]:
    """Every measured value of every case file of a folder."""
    return [
        case
        for path in case_files(folder)
        for case in load_cases(path, path.relative_to(folder).with_suffix("").as_posix())
    ]


def load_cases(path: Path, name: str) -> list[Case]:
    """Every measured value of one file, its scenarios loaded and checked."""
    tree = load_yaml(path)
    if MEASURED not in tree:
        raise ScenarioError(
            "not a case: it measures nothing",
            file=str(path),
            path=MEASURED,
            allowed="a list of measured values",
            hint="measured: [{metric: mean_tpot_s, value: 55 ms, source: where it stands}]",
        )
    points = _checked_points(tree, path)
    return [case for point in points for case in _cases_of(tree, path, name, point)]


def _checked_points(tree: dict[str, object], path: Path) -> list[MeasuredPoint]:
    file = load_tree(tree, str(path))
    return check_measured(rename_metrics(tree[MEASURED])[0], file, KINDS[file.base.kind].metrics)


def _cases_of(tree: dict[str, object], path: Path, name: str, point: MeasuredPoint) -> list[Case]:
    try:
        file = load_tree(tree, str(path), overrides=point.overrides)
    except ScenarioError as error:
        if point.label:  # not the user's --set, but a row of the table
            error.file, error.problem = str(path), f"{error.problem} ({point.place.path}: {point.label})"
        raise
    scenarios = {variant.name: variant.scenario for variant in file.variants}

    swept = {override.path: str(override.value) for override in point.overrides}

    def run_of(variant: str) -> Point:
        return Point(swept=swept, variant=variant, scenario=scenarios[variant], base_dir=str(path.parent))

    return [
        Case(
            case=name,
            label=point.label,
            measured=value,
            run=run_of(value.variant or file.reference),
            over=run_of(value.over) if value.over else None,
        )
        for value in point.values
    ]


def run_cases(
    cases: Sequence[Case], executor: Executor, *, in_flight: int, progress: Progress | None = None
) -> list[Scored]:
    """Each case's prediction; a scenario that several values ask for is run once."""
    runs: dict[RunKey, Point] = {}
    for case in cases:
        for point in (case.run, case.over):
            if point is not None:
                runs.setdefault(_key(case, point), point)
    keys, rows = list(runs), dict[RunKey, Row]()
    for at, row in map_as_completed(executor, evaluate, list(runs.values()), in_flight=in_flight):
        rows[keys[at]] = row
        if progress:
            progress(len(rows), len(runs))
    return [
        Scored(
            case=case.case,
            label=case.label,
            measured=case.measured,
            predicted=_predicted(case, rows),
        )
        for case in cases
    ]


def _key(case: Case, point: Point) -> RunKey:
    return case.case, point.variant, tuple(point.swept.items())


def _predicted(case: Case, rows: Mapping[RunKey, Row]) -> float | None:
    value = _number(rows[_key(case, case.run)][case.measured.metric])
    if case.over is None or value is None:
        return value
    reference = _number(rows[_key(case, case.over)][case.measured.metric])
    return value / reference if reference else None


def _number(value: Value) -> float | None:
    return None if value is None else float(value)
