"""Who and what makes a run longer than it need be: parts that add up to its time, to the picosecond.

One cause after another is taken out of the run and the schedule found again; what a cause is charged with is
the difference it makes:

    as it was -> no failures -> data at once -> all workers alike -> links healthy -> nobody queues at the
    servers -> exchange free

What stays is computing (and updating) at the fleet's mean pace. The order matters where causes hide each
other (a slow link behind a slow worker); it is this one, always. A part can be below 0: step times that
differ spread the pushes to a server, and shorten its queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sim.records import Int64
from sim.training.failures import with_failures
from sim.training.job import Job, plan_job
from sim.training.records import Outcome
from sim.training.scenario import ExchangeConfig, TrainingScenario
from sim.training.schedules import schedule
from sim.training.variation import AlikeTimes

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
