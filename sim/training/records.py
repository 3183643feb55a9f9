"""What a training run leaves behind: columns, one entry per update, gradient, worker or worker-step.

Times are integer picoseconds since the start of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.arrays import PS_PER_S, Int64
from sim.scenario.dataclass import dataclass
from sim.training.learning.sgd import LearningResult, Schedule, synchronous_schedule

if TYPE_CHECKING:
    from sim.training.scenario import TrainingScenario


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPoint:
    """A job of ``num_workers``; where it cannot run, why, and nothing else."""

    num_workers: int
    refused: str = ""
    gradients_per_s: float = 0.0
    exposed_comm_s: float = 0.0  # a step, mean over workers
    stall_s: float = 0.0
    step_s: float = 0.0  # a worker's, mean
    efficiency: float = 0.0

    @property
    def exposed_comm_fraction(self) -> float:
        """Of a worker's step."""
        return self.exposed_comm_s / self.step_s if self.step_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientColumns:
    """One entry per applied gradient, in the order of application. Versions count updates from 0."""

    update: Int64
    worker: Int64
    version_read: Int64

    @property
    def staleness(self) -> Int64:
        """Updates between reading the weights and applying the gradient."""
        return self.update - self.version_read


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerColumns:
    """Where each worker's time went, summed over its finished steps."""

    num_steps: Int64
    compute_ps: Int64  # forward, backward and recomputation
    data_stall_ps: Int64  # waiting for its data loader
    wait_ps: Int64  # at the staleness barrier, or for slower workers
    exchange_ps: Int64  # exchange that nothing hides, queueing included
    optimizer_ps: Int64
    lost_ps: Int64  # cancelled steps, and steps that a failure undid


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """The part of a run under a staleness bound that has no start-up in it.

    At first workers run ahead freely; from when the bound has first held one back they go at the pace that it
    allows. From one step of the slowest worker to another, so that whole rounds are counted.
    """

    begin: int  # gradients before it
    end: int  # gradients up to its end
    begin_ps: int
    end_ps: int
    workers: WorkerColumns  # of the steps that ended inside it


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSendColumns:
    """One entry per chunk on a link, of the first step of a ring that is simulated chunk by chunk."""

    bucket: Int64
    step: Int64  # of the ring: 0 .. 2(n-1) - 1
    rank: Int64  # that sends it to its right neighbour
    chunk: Int64
    begin_ps: Int64
    end_ps: Int64  # the link is free again; the chunk arrives a latency later


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The schedule of one run. ``gradients`` is None where every update has one fresh gradient per worker.

    ``ideal_ps`` is what the run would take if all workers took the fleet's mean compute time in every step
    and nobody waited for data; ``no_stall_ps`` the run as it was, without waiting for data.
    """

    update_ps: Int64  # when each update was there
    gradients: GradientColumns | None
    workers: WorkerColumns
    slowest: Int64 | None  # per synchronous step: the worker that the others waited for
    end_ps: int
    ideal_ps: int
    no_stall_ps: int
    slowdown_by_worker: tuple[float, ...]  # as if all other workers took the mean time
    num_cancelled: int = 0
    ring_sends: RingSendColumns | None = None
    steady: Steady | None = None  # None: the whole run is

    @property
    def measured(self) -> Steady:
        """What rates and mean times are of: the run, or what of it is steady."""
        if self.steady is not None:
            return self.steady
        size = int(self.workers.num_steps.sum())
        return Steady(begin=0, end=size, begin_ps=0, end_ps=int(self.update_ps[-1]), workers=self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStepColumns:
    """The first worker-steps of a run, for timelines: -1 where the run ended before.

    release -> (weights pulled, batch there) -> compute_start -> compute_end -> done (gradient exchanged).
    """

    worker: Int64
    step: Int64
    release_ps: Int64
    compute_start_ps: Int64
    compute_end_ps: Int64
    done_ps: Int64
    is_cancelled: Int64  # 1: the update came without this gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureColumns:
    """One entry per failure: who, when, and what it cost (work done again, restart)."""

    time_ps: Int64
    worker: Int64
    lost_ps: Int64
    restart_ps: Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """Everything one run of one variant with one seed left behind."""

    scenario: TrainingScenario
    variant: str
    seed: int
    outcome: Outcome
    timeline: WorkerStepColumns
    failures: FailureColumns
    num_checkpoints: int
    checkpoint_ps: int  # time that training stood still for checkpoints
    notes: tuple[str, ...]
    explain: Mapping[str, Any]  # exchange, memory, packing: constants and their formulas
    scaling: tuple[ScalingPoint, ...] = ()  # other numbers of workers, where the scenario asks for them
    learning: LearningResult | None = None  # real SGD on this schedule, where the scenario asks for it

    def schedule(self) -> Schedule:
        """The updates and the gradients in them, for an optimizer that follows this run."""
        times_s = self.outcome.update_ps / PS_PER_S
        gradients = self.outcome.gradients
        if gradients is None:
            return synchronous_schedule(times_s, self.scenario.training.num_workers)
        return Schedule(
            update_times_s=times_s,
            update=gradients.update,
            worker=gradients.worker,
            version_read=gradients.version_read,
        )


def no_failures() -> FailureColumns:
    """A run in which nothing failed."""
    none = np.zeros(0, dtype=np.int64)
    return FailureColumns(time_ps=none, worker=none, lost_ps=none, restart_ps=none)
