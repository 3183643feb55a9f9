"""From a scenario to its answer: one run per variant and seed, then statistics.

``run_one`` is the only maker of environments, random streams and ids: nothing survives the call.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sim.kinds.registry import KINDS, kind_of
from sim.results.answer import Answer, AnyAnswer, AnyRun
from sim.results.statistics import relative_half_width
from sim.scenario.caution import Caution
from sim.scenario.dataclass import dataclass
from sim.scenario.file import AnyScenario, ScenarioFile, Variant, plain
from sim.scenario.variants import flattened

if TYPE_CHECKING:
    from sim.results.comparison import ChosenLength, Comparison, Setting
    from sim.results.summary import Summary

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run to do."""

    scenario: AnyScenario
    variant: str
    seed: int
    base_dir: str
    record_block_map: bool
    keep_thin_percentiles: bool


def run_one(
    scenario: AnyScenario,
    *,
    variant: str = "base",
    seed: int = 1,
    base_dir: Path = Path("."),
    record_block_map: bool = False,
) -> AnyRun:
    """Simulates one variant with one seed. Same scenario and seed, same result, bit for bit."""
    with _seldom_collected():
        return kind_of(scenario).run_one(
            scenario, variant=variant, seed=seed, base_dir=base_dir, record_block_map=record_block_map
        )


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Python looks for garbage in cycles after so many new objects, of which a run makes many: after 700
    by itself, which was a tenth of the time of conversations."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(before[0], 50_000), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


MAX_FACTOR = 64  # how much longer than stated a run may become
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How long the runs are that ``precision`` chose, in words, and a warning where that is not enough."""

    said: str
    caution: Caution | None = None


def until_precise(
    base: AnyScenario, run: Callable[[int], T], comparison_of: Callable[[T], Comparison]
) -> tuple[T, Length | None]:
    """What ``run`` gives of scenarios that are so many times as long, once it is precise enough.

    The interval is that of independent replications, the seeds, as the answer prints it (Law, "Simulation
    Modeling and Analysis", 5th ed. 2015, 9.5.2); batch means of one run would need batches far longer than a
    busy period to be independent. Not the number of replications grows but their length, which doubles, so
    that what their beginnings are off by shrinks, too (Law and Carson, "A sequential procedure for
    determining the length of a steady-state simulation", Operations Research 27, 1979). As it stops where a
    run looks precise, the interval covers a little less than 95 %, and the less the fewer seeds there are.
    """
    chosen, factor, result = kind_of(base).chosen_length(base), 1, run(1)
    if chosen is None:
        return result, None
    while (unknown := imprecise(comparison_of(result), chosen)) and factor < MAX_FACTOR:
        factor *= 2
        result = run(factor)
    length, share = chosen.said(factor), f"{100 * chosen.precision:g} %"
    if unknown:
        variant, metric, width = max(unknown, key=lambda one: one[2])
        known = "not known at all" if width == math.inf else f"known to {100 * width:.2g} %"
        caution = Caution(
            kind="not_precise",
            observation=f"{length} a run, {factor} times as many as stated, are not enough for {share}",
            meaning=f"{metric} of {variant} is {known}",
            remedy="more seeds, or a wider precision",
        )
        return result, Length(said=f"{caution.observation}: {caution.meaning}", caution=caution)
    words = "are enough" if factor == 1 else "were needed"
    return result, Length(said=f"{length} a run {words} for {share}")


def imprecise(comparison: Comparison, chosen: ChosenLength) -> list[tuple[str, str, float]]:
    """(variant, metric, its relative half-width) of what is not known to the precision."""
    found = []
    for variant in comparison.variants:
        for metric in chosen.sought(comparison, variant):
            values = comparison.cells[variant][metric].values
            known = [value for value in values if value is not None]
            if not known and "samples" not in comparison.cells[variant][metric].note:
                continue  # there is no such number, however long the run
            width = relative_half_width(known) if len(known) == len(values) else math.inf
            if width > chosen.precision:
                found.append((variant, metric, width))
    return found


def run_scenario(
    file: ScenarioFile[AnyScenario],
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    keep_thin_percentiles: bool = False,
    record_block_map: bool = True,
) -> AnyAnswer:
    """Runs every variant with every seed, on ``jobs`` processes; longer ones where ``precision`` asks for it.

    ``progress`` is called with (runs done, runs in all). The block map is kept for the first seed of each
    variant.
    """
    answer, length = until_precise(
        file.base,
        lambda factor: _answer(
            _lengthened(file, factor),
            jobs=jobs,
            progress=progress,
            keep_thin_percentiles=keep_thin_percentiles,
            record_block_map=record_block_map,
        ),
        lambda answer: answer.comparison,
    )
    if length is None:
        return answer
    warnings = answer.comparison.warnings
    if length.caution is not None:
        warnings = (*warnings, ("", length.caution))
    return replace(answer, comparison=replace(answer.comparison, length=length.said, warnings=warnings))


def lengthened(scenario: AnyScenario, factor: int) -> AnyScenario:
    """The same, so many times as long."""
    chosen = kind_of(scenario).chosen_length(scenario) if factor != 1 else None
    return scenario if chosen is None else chosen.lengthened(factor)


def _lengthened(file: ScenarioFile[AnyScenario], factor: int) -> ScenarioFile[AnyScenario]:
    """The file's scenarios, so many times as long."""
    longer = [replace(one, scenario=lengthened(one.scenario, factor)) for one in file.variants]
    return replace(file, base=lengthened(file.base, factor), variants=tuple(longer))


def _answer(
    file: ScenarioFile[AnyScenario],
    *,
    jobs: int,
    progress: Progress | None,
    keep_thin_percentiles: bool,
    record_block_map: bool,
) -> AnyAnswer:
    """Every variant with every seed, as long as the scenarios say."""
    tasks = [
        Task(
            scenario=variant.scenario,
            variant=variant.name,
            seed=seed,
            base_dir=str(Path(file.path).parent),
            record_block_map=record_block_map and seed == variant.scenario.seeds[0],
            keep_thin_percentiles=keep_thin_percentiles,
        )
        for variant in file.variants
        for seed in variant.scenario.seeds
    ]
    for kind in {task.scenario.kind for task in tasks}:
        KINDS[kind].load_run()
    done: dict[int, tuple[AnyRun, Summary]] = {}
    for index, outcome in _outcomes(tasks, jobs):
        done[index] = outcome
        if progress:
            progress(len(done), len(tasks))
    results: dict[str, list[AnyRun]] = {variant.name: [] for variant in file.variants}
    summaries: dict[str, list[Summary]] = {variant.name: [] for variant in file.variants}
    for index, task in enumerate(tasks):
        results[task.variant].append(done[index][0])
        summary = done[index][1]
        summaries[task.variant].append(replace(summary, warnings=(*file.warnings, *summary.warnings)))
    scenarios = [variant.scenario for variant in file.variants]
    draws = any(kind_of(scenario).draws(scenario) for scenario in scenarios)
    return Answer(
        file=file,
        results=results,
        summaries=summaries,
        comparison=replace(
            compare(summaries, file.reference, draws=draws),
            changes=file.changes,
            thresholds=tuple(file.base.thresholds),
            are_thresholds_given=any(text.startswith("thresholds") for text in file.overrides),
            settings=settings_of(file),
            refused={one.name: one.refusal for one in file.refused if one.refusal is not None},
        ),
    )


def _outcomes(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[int, tuple[AnyRun, Summary]]]:
    """(index, what came of it) of each task, as it ends; one alone runs here, and needs no executor."""
    if len(tasks) == 1:
        yield 0, run_task(tasks[0])
        return
    from sim.kinds.executors import in_flight_for, map_as_completed, open_executor

    are_short = all(kind_of(one.scenario).is_short(one.scenario) for one in tasks)
    with open_executor(min(jobs, len(tasks)), num_short=len(tasks) if are_short else 0) as executor:
        yield from map_as_completed(executor, run_task, tasks, in_flight=in_flight_for(jobs))


def settings_of(file: ScenarioFile[AnyScenario]) -> dict[str, Setting]:
    """In what the variants of a file differ; nothing for kinds whose variants all compete.

    Another device is a choice where one looks for the best; where two ways and more are tried on two devices
    and more, it is a circumstance: what does it do for each?
    """
    from sim.results.comparison import Setting

    swept = kind_of(file.base).swept
    if not swept.compares_alike:
        return {}
    values = {one.name: _values(one) for one in file.variants}
    written = {key for one in file.variants for key in _written(one.differences)}
    keys = [key for key in sorted(written) if len({found.get(key, "") for found in values.values()}) > 1]
    asked = {key for key in keys if swept.is_compared(key)}
    if swept.is_told_apart_only and not asked:
        return {}
    ways: dict[str, set[str]] = {}
    for found in values.values():
        rest = repr([found.get(key, "") for key in keys if key != "hardware"])
        ways.setdefault(rest, set()).add(found.get("hardware", ""))
    if sum(len(devices) > 1 for devices in ways.values()) > 1:
        asked.add("hardware")
    return {
        name: Setting(
            asked={key: found.get(key, "") for key in keys if key in asked},
            chosen={key: found.get(key, "") for key in keys if key not in asked},
            circumstances=frozenset(key for key in asked if key == "hardware" or swept.is_circumstance(key)),
        )
        for name, found in values.items()
    }


def _written(differences: Mapping[str, Any]) -> list[str]:
    """The key paths of a variant's differences; a device is one key."""
    whole = {name: "" if name in _WHOLE else value for name, value in differences.items()}
    return [*flattened(whole), *flattened({"model": _changed(differences.get("model"))})]


def _changed(model: object) -> Mapping[str, Any]:
    """In what a variant's model differs from the one that it names as its base."""
    if not isinstance(model, Mapping) or "base" not in model:
        return {}
    return {key: value for key, value in model.items() if key != "base"}


def _values(variant: Variant[AnyScenario]) -> dict[str, str]:
    """All that a variant says, defaults too, as text."""
    tree = plain(variant.scenario)
    flat = {
        key: str(value)
        for key, value in flattened({k: v for k, v in tree.items() if k not in _WHOLE}).items()
    }
    flat |= {name: str(variant.differences.get(name, "")) for name in _WHOLE}
    model = variant.differences.get("model")
    if changed := _changed(model):
        flat |= {key: str(value) for key, value in flattened({"model": changed}).items()}
    return flat | {"model": _base_of(model, getattr(variant.scenario, "model", None))}


def _base_of(given: object, model: object) -> str:
    """The model by the name that a file gives it, whatever is changed in it."""
    if isinstance(given, Mapping) and "base" in given:
        return str(given["base"])
    return str(given or getattr(model, "name", ""))


_WHOLE = ("hardware", "model", "devices")


def run_task(task: Task) -> tuple[AnyRun, Summary]:
    """One run and its statistics, in whatever process."""
    result = run_one(
        task.scenario,
        variant=task.variant,
        seed=task.seed,
        base_dir=Path(task.base_dir),
        record_block_map=task.record_block_map,
    )
    kind = kind_of(task.scenario)
    return result, kind.summarize(result, keep_thin_percentiles=task.keep_thin_percentiles)


def compare(
    summaries: Mapping[str, Sequence[Summary]], reference: str, *, draws: bool | None = None
) -> Comparison:
    """Variants' summaries against those of ``reference``, seed by seed (``sim.results.comparison``).

    ``draws``: whether the scenarios leave anything to chance; unsaid, whatever their kind may.
    """
    from sim.results import comparison

    kind = next((found[0].kind for found in summaries.values() if found), "serving")
    may_draw = KINDS[kind].can_draw if draws is None else draws
    return comparison.compare(summaries, reference, KINDS[kind], draws=may_draw)
