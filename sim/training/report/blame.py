"""Who is to blame: what a run's time is charged to, by operation and by worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sim.records import PS_PER_S, Int64
from sim.report.blocks import Block, Prose, text_table
from sim.report.figures import digits, percent
from sim.training.records import Outcome
from sim.training.scenario import ExchangeConfig, TrainingScenario
from sim.training.schedule.failures import with_failures
from sim.training.schedule.find import schedule
from sim.training.schedule.job import Job, plan_job
from sim.training.schedule.times import AlikeTimes
from sim.units import format_s

if TYPE_CHECKING:
    from sim.answer import Answer
    from sim.training.records import TrainingResult
    from sim.training.scenario import TrainingScenario


# Who and what makes a run longer than it need be: parts that add up to its time, to the picosecond.
#
# One cause after another is taken out of the run and the schedule found again; what a cause is charged with
# is the difference it makes:
#
#     as it was -> no failures -> data at once -> all workers alike -> links healthy -> nobody queues at the
#     servers -> exchange free
#
# What stays is computing (and updating) at the fleet's mean pace. The order matters where causes hide each
# other (a slow link behind a slow worker); it is this one, always. A part can be below 0: step times that
# differ spread the pushes to a server, and shorten its queue.

MAX_WORKER_STEPS = 200_000

OPERATIONS = (
    "computing, all alike",
    "exchange that nothing hides",
    "queueing at the servers",
    "slow links",
    "slower workers",
    "data loader",
    "failures and checkpoints",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Picoseconds of a run's first ``num_steps`` steps. ``by_operation`` adds up to ``total_ps``.

    ``by_worker``: what the worker that a synchronous step waited for added to it, over a step of workers that
    are alike, with healthy links and data at once; adds up to the operations from "slow links" to "data
    loader". None where nobody waits for one worker (SSP, ASP, K-async).
    """

    num_steps: int
    total_ps: int
    ideal_ps: int
    by_operation: Mapping[str, int]
    by_worker: tuple[int, ...] | None

    @property
    def slowdown(self) -> float:
        """S: the time over that of workers that are alike, with healthy links, data at once, no failure."""
        return self.total_ps / max(1, self.ideal_ps)


def attribute(scenario: TrainingScenario, seed: int, base_dir: Path) -> Attribution:
    """The run's parts, over as many of its steps as are quick to schedule seven times."""
    most = max(1, MAX_WORKER_STEPS // scenario.training.num_workers)
    steps = min(scenario.training.num_steps, most)
    short = replace(scenario, training=replace(scenario.training, num_steps=steps))
    job = plan_job(short, seed, base_dir)
    is_whole = not job.scheme.is_asynchronous
    rungs = [schedule(job)[0] for job in _rungs(short, job, lambda one: plan_job(one, seed, base_dir))]
    ends = [int(outcome.update_ps[-1]) for outcome in rungs]
    if is_whole and job.failures is not None:
        wall = with_failures(rungs[0].update_ps, job.failures, job.num_workers, seed)
        ends[0] = int(wall.update_ps[-1])
    parts = [before - after for before, after in zip(ends, [*ends[1:], 0], strict=True)]
    return Attribution(
        num_steps=steps,
        total_ps=ends[0],
        ideal_ps=ends[4],
        by_operation=dict(zip(OPERATIONS, reversed(parts), strict=True)),
        by_worker=_by_worker(scenario, rungs) if is_whole else None,
    )


def _rungs(scenario: TrainingScenario, job: Job, plan: Callable[[TrainingScenario], Job]) -> list[Job]:
    """The job, and the job without one cause more at a time, in the order of the module's docstring."""
    steady = replace(job, failures=None)
    prompt = replace(steady, times=steady.times.without_stalls()) if job.times.has_stalls else steady
    alike = replace(prompt, times=AlikeTimes(prompt.times))
    healthy = alike
    if scenario.exchange.slow_links:
        exchange = replace(scenario.exchange, slow_links=())
        healthy = replace(alike, exchange=plan(replace(scenario, exchange=exchange)).exchange)
    unqueued = replace(healthy, exchange=replace(healthy.exchange, occupies_ps=0))
    free = plan(replace(scenario, exchange=ExchangeConfig(algorithm="none")))
    free = replace(free, failures=None, times=AlikeTimes(free.times))
    return [job, steady, prompt, alike, healthy, unqueued, free]


def _by_worker(scenario: TrainingScenario, rungs: list[Outcome]) -> tuple[int, ...]:
    """Every step's excess over alike workers, to the worker it waited for; slow links, to the slowest."""
    _, steady, _, alike, healthy, *_ = rungs
    blamed: Int64 = np.zeros(scenario.training.num_workers, dtype=np.int64)
    excess = np.diff(steady.update_ps, prepend=0) - np.diff(alike.update_ps, prepend=0)
    assert steady.slowest is not None
    np.add.at(blamed, steady.slowest, excess)
    if scenario.exchange.slow_links:
        slowest = max(scenario.exchange.slow_links, key=lambda one: one.slowdown)
        blamed[slowest.worker] += int(alike.update_ps[-1]) - int(healthy.update_ps[-1])
    return tuple(blamed.tolist())


MOST_WORKERS = 4

EXPLAINED = (
    "Slowdown S: the run's time over that of the same run in which every worker takes the fleet's mean "
    "compute time in each step, links are healthy, batches are there and nobody dies (first seed). By "
    "operation: causes are taken out one after another, from the last column to the second, and each is "
    "charged with the difference that it makes; together they are the time. A part below 0 helped: step "
    "times that differ spread the load on a server."
)
BY_WORKER = (
    "By worker: what the worker that each step waited for added to it, its share of all that slower workers, "
    "slow links and late data cost. Under SSP, ASP and K-async no step waits for one worker."
)


def blame(answer: Answer[TrainingScenario, TrainingResult]) -> list[Block]:
    """S, its parts by operation, and the workers that steps waited for."""
    base_dir = Path(answer.file.path).resolve().parent
    found = {
        name: attribute(results[0].scenario, results[0].seed, base_dir)
        for name, results in answer.results.items()
    }
    shown = [one for one in OPERATIONS if any(parts.by_operation[one] for parts in found.values())]
    rows = [
        (
            name,
            digits(parts.slowdown),
            format_s(parts.total_ps / PS_PER_S),
            *(digits(parts.by_operation[one] / PS_PER_S) for one in shown),
        )
        for name, parts in found.items()
    ]
    blocks: list[Block] = [
        Prose(text=EXPLAINED + _cut(answer, found)),
        text_table(("variant", "S", "time", *(f"{one} s" for one in shown)), rows, "Time by operation"),
    ]
    workers = [(name, _workers(parts)) for name, parts in found.items() if parts.by_worker is not None]
    if any(said for _, said in workers):
        blocks += [Prose(text=BY_WORKER), text_table(("variant", "waited for"), workers, "Time by worker")]
    return blocks


def _cut(answer: Answer[TrainingScenario, TrainingResult], found: dict[str, Attribution]) -> str:
    steps = {name: results[0].scenario.training.num_steps for name, results in answer.results.items()}
    short = [name for name, parts in found.items() if parts.num_steps < steps[name]]
    if not short:
        return ""
    return f" Of the first {found[short[0]].num_steps:,} steps only: {', '.join(short)}."


def _workers(parts: Attribution) -> str:
    """The most blamed workers, with their shares."""
    blamed = parts.by_worker or ()
    whole = sum(blamed)
    if whole <= 0:
        return ""
    order = sorted(range(len(blamed)), key=lambda worker: -blamed[worker])[:MOST_WORKERS]
    return ", ".join(f"worker {w}: {percent(blamed[w] / whole)}" for w in order if blamed[w] > 0)
