"""One training run: the job is planned, its schedule found, failures laid over it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.errors import InvariantError
from sim.price.collective import latencies_filled_in
from sim.price.kernel_set import kernel_words
from sim.training.checks import check_training
from sim.training.learning.sgd import LearningResult, learn_run
from sim.training.records import Outcome, TrainingResult, WorkerStepColumns
from sim.training.scenario import TrainingScenario, num_gpus, step_shape
from sim.training.schedule.failures import with_failures
from sim.training.schedule.find import bounded_schedule
from sim.training.schedule.job import Job, is_priced, plan_job
from sim.training.schedule.scaling import scaling_points
from sim.training.schedule.timeline import first_steps
from sim.training.step.layer import kernels_of, used_by_step
from sim.training.step.memory import training_memory
from sim.training.sync import SYNC
from sim.training.worker import simulate_events

TIMELINE_ROWS = 3000
TIMELINE_STEPS = 40
FEWEST_TIMELINE_STEPS = 12  # as many as the picture shows
TIMELINE_EVENTS = 50_000


def run_training(
    scenario: TrainingScenario, *, variant: str, seed: int, base_dir: Path, record_block_map: bool
) -> TrainingResult:
    """What the run left behind; ``record_block_map`` has no meaning here."""
    job = plan_job(scenario, seed, base_dir)
    outcome, failures = bounded_schedule(job)
    if scenario.training.stepping == "every_step" and has_events(job):
        check_against_events(job, outcome)
    checkpoints = (0, 0)
    if job.failures is not None and not job.scheme.is_asynchronous:
        restarted = with_failures(outcome.update_ps, job.failures, job.num_workers, seed)
        late = int(restarted.update_ps[-1] - outcome.update_ps[-1])
        outcome = replace(outcome, update_ps=restarted.update_ps, end_ps=outcome.end_ps + late)
        failures = restarted.failures
        checkpoints = restarted.num_checkpoints, restarted.checkpoint_ps
    result = TrainingResult(
        scenario=scenario,
        variant=variant,
        seed=seed,
        outcome=outcome,
        timeline=timeline(job),
        failures=failures,
        num_checkpoints=checkpoints[0],
        checkpoint_ps=checkpoints[1],
        notes=_notes(scenario, job),
        explain=_explain(scenario, job),
    )
    return replace(
        result,
        learning=learnt(result),
        scaling=scaling_points(scenario, seed, base_dir, check_training),
    )


def check_against_events(job: Job, outcome: Outcome) -> int:
    """Runs every step in SimPy, too; both must agree on every update. Returns the number of updates."""
    trail = simulate_events(job, job.num_steps)
    if trail.updates != outcome.update_ps.tolist():
        wrong = next(
            (
                k
                for k, (a, b) in enumerate(zip(trail.updates, outcome.update_ps.tolist(), strict=False))
                if a != b
            ),
            min(len(trail.updates), outcome.update_ps.size),
        )
        raise InvariantError(
            f"the schedule and its events differ from update {wrong} on (scheme: {job.scheme.meaning})"
        )
    return len(trail.updates)


def timeline(job: Job) -> WorkerStepColumns:
    """The first steps of all workers; chunks and ZeRO-3 as if they came at the end."""
    per_step = job.num_workers * (1 + len(job.exchange.buckets))
    quick = max(FEWEST_TIMELINE_STEPS, TIMELINE_EVENTS // per_step)
    steps = max(1, min(TIMELINE_STEPS, job.num_steps, TIMELINE_ROWS // job.num_workers, quick))
    found = first_steps(job, steps)
    return simulate_events(job, steps).columns() if found is None else found


def has_events(job: Job) -> bool:
    """Whether the reference simulates this exchange too."""
    return (
        not job.exchange.chunks and job.exchange.sharded is None and job.exchange.pattern != "single_process"
    )


def _notes(scenario: TrainingScenario, job: Job) -> tuple[str, ...]:
    notes: list[str] = []
    if scenario.exchange.algorithm != "none":
        used = (scenario.hardware, *(group.hardware for group in scenario.devices))
        size, per_node = num_gpus(scenario), scenario.training.gpus_per_node
        notes += dict.fromkeys(note for one in used for note in latencies_filled_in(one, size, per_node))
    if job.scheme.changes_learning:
        notes.append(
            f"{scenario.sync.scheme} changes what is learnt, not only how fast: "
            "read staleness_steps beside every rate"
            + ("" if scenario.learning else "; a learning section shows what that does to a loss")
        )
    if is_priced(scenario) and (scenario.hardware.efficiency or scenario.hardware.kernels):
        notes.append(_kernels_priced(scenario))
    return tuple(notes)


def _kernels_priced(scenario: TrainingScenario) -> str:
    """By which kernels a step is priced, and whose fit, with its error, their times are."""
    shape = step_shape(scenario, scenario.hardware)
    fits = scenario.hardware.kernels
    laws = dict.fromkeys(asked.law for asked in used_by_step(shape).laws)
    by = [
        f"{law} ({'of ' + fits[law].borrowed_from + ', ' if fits[law].borrowed_from else ''}"
        f"median error {fits[law].median_error_fraction:.0%})"
        for law in laws
    ]
    by.append("the profile's efficiency curves" if not by else "for the rest the profile's efficiency curves")
    return f"kernels priced: {kernel_words(kernels_of(shape))}; by {', '.join(by)}, not measured on this job"


def _explain(scenario: TrainingScenario, job: Job) -> dict[str, Any]:
    exchange = job.exchange
    found: dict[str, Any] = {
        "exchange": {
            "algorithm": exchange.algorithm,
            "gradient_bytes": exchange.gradient_bytes,
            "num_buckets": len(exchange.buckets),
            "comm_s": exchange.comm_ps / 1e12,
            **dict(exchange.notes),
        }
    }
    if scenario.model is not None:
        found["memory"] = training_memory(step_shape(scenario)).to_dict()
    return found


def learnt(result: TrainingResult) -> LearningResult | None:
    """The scenario's problem, trained in this run's order and with its staleness; None if not asked for."""
    scenario = result.scenario
    if scenario.learning is None:
        return None
    local_steps = SYNC[scenario.sync.scheme].local_steps(scenario.sync)
    return learn_run(
        scenario.learning,
        result.schedule(),
        result.seed,
        local_steps=local_steps,
        num_steps=scenario.training.num_steps,
    )
