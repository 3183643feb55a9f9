"""A training scenario as the simulation needs it: whole picoseconds, one entry per worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sim.arrays import PS_PER_S, Int64, to_ps
from sim.hardware import HardwareProfile
from sim.scenario.dataclass import dataclass
from sim.training.exchange.prices import TENSOR_BYTES, Exchange, price_exchange
from sim.training.packing import packed
from sim.training.scenario import Failures, TrainingScenario, step_shape
from sim.training.schedule.times import Float64, StepTimes
from sim.training.step.layer import OVERLAP_SLOWDOWN
from sim.training.step.time import WorkerStep, worker_step
from sim.training.sync import SYNC, Scheme

MAX_TENSORS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that the schedule of a run depends on."""

    num_workers: int
    num_steps: int
    scheme: Scheme
    staleness_bound: int  # of SSP and ASP
    num_awaited: int  # gradients per update
    local_steps: int
    times: StepTimes
    backward_share: Float64  # of a step's compute time: the last micro-batch's backward pass
    optimizer_ps: Int64
    exchange: Exchange
    failures: Failures | None
    seed: int

    @property
    def num_gradients(self) -> int:
        """Gradients that the run applies: ``num_steps`` a worker, of k_sync's only those it takes."""
        return self.num_steps * (self.num_workers if self.scheme.is_asynchronous else self.num_awaited)

    @property
    def link_ps(self) -> Int64:
        """What each worker's own slow link adds to its step, on the way to the server and back."""
        added = np.zeros(self.num_workers, dtype=np.int64)
        for worker, extra in self.exchange.link_ps:
            added[worker] = extra
        return added


def plan_job(scenario: TrainingScenario, seed: int, base_dir: Path) -> Job:
    """The job that the scenario means, its step times priced or taken as given."""
    kinds = {id(one): one for one in devices(scenario)}
    steps = {key: nominal_step(scenario, hardware) for key, hardware in kinds.items()}
    parts = [steps[id(one)] for one in devices(scenario)]
    first = parts[0]
    job, scheme = scenario.training, SYNC[scenario.sync.scheme]
    exchange = price_exchange(scenario, first)
    if is_priced(scenario):
        parts = [_slowed_by_overlap(part, exchange) for part in parts]
    server = exchange.is_server
    slower = packed(scenario, seed, base_dir).time_factor
    nominal_s = np.array([1.0 if scenario.variation.recorded else part.compute_s * slower for part in parts])
    last = [sum(part.backward_s) / part.compute_s if part.compute_s else 0.0 for part in parts]
    return Job(
        num_workers=job.num_workers,
        num_steps=job.num_steps,
        scheme=scheme,
        staleness_bound=scheme.staleness_bound(scenario.sync),
        num_awaited=scheme.num_awaited(scenario.sync, job.num_workers),
        local_steps=scheme.local_steps(scenario.sync),
        times=StepTimes(nominal_s, scenario.variation, seed, base_dir),
        backward_share=np.array(last),
        # The servers update the weights while the next gradient arrives.
        optimizer_ps=np.array([0 if server else to_ps(part.optimizer_s) for part in parts], dtype=np.int64),
        exchange=exchange,
        failures=scenario.failures,
        seed=seed,
    )


def devices(scenario: TrainingScenario) -> list[HardwareProfile]:
    """The device of each worker: the scenario's, then those of ``devices``."""
    others = [group.hardware for group in scenario.devices for _ in range(group.num_workers)]
    return [scenario.hardware] * (scenario.training.num_workers - len(others)) + others


def is_priced(scenario: TrainingScenario) -> bool:
    """Whether step times come from the price, not from the scenario."""
    return scenario.compute.compute_s is None and scenario.variation.recorded is None


def nominal_step(scenario: TrainingScenario, hardware: HardwareProfile) -> WorkerStep:
    """One worker's step on ``hardware``, before it varies."""
    if is_priced(scenario):
        priced = worker_step(step_shape(scenario, hardware))
        given = scenario.compute.gradient_bytes
        return priced if given is None else replace(priced, gradient_bytes=_evenly(priced, given))
    return given_step(scenario)


def given_step(scenario: TrainingScenario) -> WorkerStep:
    """The step that ``compute`` gives. Without a model gradients are spread evenly over the backward pass."""
    compute, m = scenario.compute, scenario.training.gradient_accumulation_steps
    total_s = 1.0 if compute.compute_s is None else compute.compute_s
    once = total_s / m
    sizes = _gradient_sizes(scenario)
    backward = once * (1 - compute.forward_fraction)
    return WorkerStep(
        forward_s=(once * compute.forward_fraction / len(sizes),) * len(sizes),
        backward_s=(backward / len(sizes),) * len(sizes),
        gradient_bytes=sizes,
        before_s=total_s - once,
        optimizer_s=compute.optimizer_s,
    )


def _gradient_sizes(scenario: TrainingScenario) -> tuple[int, ...]:
    given = scenario.compute.gradient_bytes
    if given is None and scenario.model is not None:
        return worker_step(step_shape(scenario)).gradient_bytes
    total = given or 0
    count = min(MAX_TENSORS, max(1, -(-total // TENSOR_BYTES)))
    return tuple(total * (i + 1) // count - total * i // count for i in range(count))


def _evenly(step: WorkerStep, total: int) -> tuple[int, ...]:
    """``total`` gradient bytes over the parts of ``step``, in proportion."""
    held = step.total_gradient_bytes or 1
    return tuple(size * total // held for size in step.gradient_bytes)


def _slowed_by_overlap(step: WorkerStep, exchange: Exchange) -> WorkerStep:
    """The backward pass with the share of SMs and HBM that NCCL's kernels take from it meanwhile."""
    backward_ps = sum(step.backward_s) * PS_PER_S
    reduced = sum(duration for _, duration in exchange.buckets)
    if not exchange.overlap or not reduced or not backward_ps:
        return step
    done = 0.0
    for share, duration in exchange.buckets:
        done = max(done, share * backward_ps) + duration
    hidden = max(0.0, reduced - max(0.0, done - backward_ps))
    factor = 1 + OVERLAP_SLOWDOWN * hidden / backward_ps
    return replace(step, backward_s=tuple(one * factor for one in step.backward_s))
