"""From a scenario to its answer: one run per variant and seed, then statistics.

``run_one`` is the only maker of environments, random streams and ids: nothing survives the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sim.kinds.registry import KINDS, kind_of
from sim.results.answer import Answer, AnyAnswer, AnyRun
from sim.scenario.file import AnyScenario, ScenarioFile

if TYPE_CHECKING:
    from sim.results.comparison import Comparison
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
    return kind_of(scenario).run_one(
        scenario, variant=variant, seed=seed, base_dir=base_dir, record_block_map=record_block_map
    )


def run_scenario(
    file: ScenarioFile[AnyScenario],
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    keep_thin_percentiles: bool = False,
    record_block_map: bool = True,
) -> AnyAnswer:
    """Runs every variant with every seed, on ``jobs`` processes.

    ``progress`` is called with (runs done, runs in all). The block map is kept for the first seed of each
    variant.
    """
    from sim.kinds.executors import map_as_completed, open_executor

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
    with open_executor(min(jobs, len(tasks))) as executor:
        for index, outcome in map_as_completed(executor, run_task, tasks, in_flight=max(1, jobs)):
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
        comparison=replace(compare(summaries, file.reference, draws=draws), changes=file.changes),
    )


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
