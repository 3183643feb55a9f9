"""What must hold between the fields of a training scenario; each breach is a ScenarioError."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sim.hardware.architecture import check_runs_on
from sim.price.kernel_set import ATTENTION_BY_WORD
from sim.scenario.csv_files import check_file
from sim.scenario.distribution import check_distribution
from sim.scenario.place import Place, no_effect, placed
from sim.training.checks_exchange import (
    check_exchange,
    check_length,
    check_links,
    check_sharding,
    check_sync,
)
from sim.training.delays import DELAYS, StepVariation, delays_with
from sim.training.exchange.algorithms import EXCHANGES
from sim.training.learning.sgd import LearningConfig, problem_of
from sim.training.scenario import ComputeConfig, TrainingScenario, step_shape
from sim.training.schedule.job import is_priced
from sim.training.schedule.scaling import check_scaling
from sim.training.schedule.times import read_recorded
from sim.training.step.layer import peak_of
from sim.training.step.memory import check_fits
from sim.training.step.shape import check_shape, precision_of
from sim.training.sync import SYNC, schemes_where

MAX_WORKER_STEPS = 50_000_000
MAX_EVENT_STEPS = 1_000_000
MAX_STEP_S = 100_000.0


def check_training(scenario: TrainingScenario, *, file: str) -> None:
    """Refuses a training scenario whose parts do not go together."""
    top = Place(file=file)
    _check_size(scenario, top.child("training"))
    check_sync(scenario, top.child("sync"))
    check_exchange(scenario, top.child("exchange"))
    _check_devices(scenario, top.child("devices"))
    _check_times(scenario, top)
    check_variation(scenario.variation, scenario.training.num_workers, top.child("variation"))
    check_failures(scenario, top.child("failures"))
    _check_packing(scenario, top.child("packing"))
    check_learning(scenario, top.child("learning"))
    _check_model(scenario, top)
    check_links(scenario, top)
    check_length(scenario, top)
    check_scaling(scenario, top.child("scaling"), check_training)


def _check_size(scenario: TrainingScenario, place: Place) -> None:
    job = scenario.training
    total = job.num_workers * job.num_steps
    limit = MAX_EVENT_STEPS if job.stepping == "every_step" else MAX_WORKER_STEPS
    if total > limit:
        raise place.child("num_steps").error(
            f"{job.num_workers:,} workers x {job.num_steps:,} steps are {total:,} worker-steps",
            given=job.num_steps,
            allowed=f"at most {limit:,} worker-steps with stepping: {job.stepping}",
            hint=f"num_steps: {limit // job.num_workers}",
        )
    if job.checkpoint_every > 1 and job.activation_checkpointing != "every_k":
        raise place.child("checkpoint_every").error(
            f"has no effect with activation_checkpointing: {job.activation_checkpointing}",
            given=job.checkpoint_every,
            allowed="checkpoint_every with activation_checkpointing: every_k",
            hint="activation_checkpointing: every_k",
        )


def _check_devices(scenario: TrainingScenario, place: Place) -> None:
    total = sum(group.num_workers for group in scenario.devices)
    if total > scenario.training.num_workers:
        raise place.error(
            f"{total} workers on other devices, of {scenario.training.num_workers} in all",
            given=total,
            allowed=f"at most training.num_workers ({scenario.training.num_workers})",
            hint=f"training.num_workers: {total}",
        )
    if scenario.devices and not is_priced(scenario):
        raise place.error(
            "step times are given, so that another device changes nothing",
            given=[group.hardware.name for group in scenario.devices],
            allowed="devices with a priced model",
            hint="variation.slow_workers: [{worker: 0, slowdown: 2}]",
        )


def _check_times(scenario: TrainingScenario, top: Place) -> None:
    compute, recorded = scenario.compute, scenario.variation.recorded
    place = top.child("compute")
    if compute.compute_s is not None and compute.compute_s > MAX_STEP_S:
        raise place.child("compute_s").error(
            "a step of more than a day", given=compute.compute_s, allowed=f"at most {MAX_STEP_S:g} s"
        )
    if compute.compute_s is not None and recorded is not None:
        raise place.child("compute_s").error(
            "compute_s and variation.recorded both say how long a step takes",
            given=compute.compute_s,
            allowed="one of them",
            hint="remove compute_s",
        )
    if is_priced(scenario):
        _check_unused_times(scenario, place)
    if scenario.model is None and is_priced(scenario):
        raise top.child("model").error(
            "missing: without it no step can be priced",
            allowed="model, compute.compute_s or variation.recorded",
            hint="model: llama-3.2-1b, or compute: {compute_s: 1 s}",
        )
    has_bytes = compute.gradient_bytes is not None or scenario.model is not None
    if EXCHANGES[scenario.exchange.algorithm].pattern != "free" and not has_bytes:
        raise place.child("gradient_bytes").error(
            f"missing: nothing says how much {scenario.exchange.algorithm} exchanges",
            allowed="compute.gradient_bytes, or a model",
            hint="gradient_bytes: 1 GB, or exchange: {algorithm: none}",
        )


def _check_unused_times(scenario: TrainingScenario, place: Place) -> None:
    compute = scenario.compute
    if compute.optimizer_s:
        raise no_effect(place, "optimizer_s", compute.optimizer_s, "compute_s: the optimizer is priced too")
    if compute.forward_fraction != ComputeConfig().forward_fraction:
        raise no_effect(place, "forward_fraction", compute.forward_fraction, "compute_s: it is priced too")


def _check_packing(scenario: TrainingScenario, place: Place) -> None:
    packing = scenario.packing
    if packing is None:
        return
    check_distribution(packing.lengths, place.child("lengths"), Path(place.file).parent)
    is_dense = scenario.training.attention == "standard" and packing.attention == "block_diagonal"
    if is_dense and packing.strategy not in ("longest", "maximum", "bucketing"):
        raise place.child("attention").error(
            "standard attention computes the whole square, masked or not",
            given=packing.attention,
            allowed="crossing, or training.attention: flash",
            hint="training.attention: flash",
        )


def _check_model(scenario: TrainingScenario, top: Place) -> None:
    if scenario.model is None:
        if scenario.training.zero_stage:
            raise (
                top.child("training")
                .child("zero_stage")
                .error(
                    "there is no model to shard",
                    given=scenario.training.zero_stage,
                    allowed="0 without a model",
                )
            )
        return
    there = top.child("training")
    placed(there, lambda: precision_of(scenario.training.precision))
    for hardware in (scenario.hardware, *(group.hardware for group in scenario.devices)):
        shape = step_shape(scenario, hardware)
        placed(top, partial(check_shape, shape))
        placed(there.child("precision"), partial(peak_of, shape))
        if is_priced(scenario):
            check_runs_on(
                ATTENTION_BY_WORD[shape.attention].kernel,
                hardware,
                there.child("attention"),
                given=shape.attention,
                names={word: one.kernel for word, one in ATTENTION_BY_WORD.items()},
            )
        check_fits(shape, file=top.file)
    check_sharding(scenario, there)


# What must hold of a scenario's step times and failures; each breach is a ScenarioError.


def check_variation(variation: StepVariation, num_workers: int, place: Place) -> None:
    """Refuses laws whose keys are missing, workers that are not there, files that cannot be read."""
    delay = DELAYS[variation.distribution]
    for name in delay.keys:
        if getattr(variation, name) is None:
            raise place.child(name).error(
                f"missing: distribution: {variation.distribution} needs it",
                allowed=f"{name}: a number",
                hint=f"{name}: 1.5",
            )
    every = {name for one in DELAYS.values() for name in (*one.keys, *one.optional_keys)}
    for name in sorted(every.difference(delay.keys, delay.optional_keys)):
        if getattr(variation, name) is not None:
            raise no_effect(place, name, getattr(variation, name), f"distribution: {delays_with(name)}")
    if variation.min is not None and variation.max is not None and variation.min > variation.max:
        raise place.child("min").error(
            f"min {variation.min:g} is above max {variation.max:g}", given=variation.min, allowed="min <= max"
        )
    for index, one in enumerate(variation.slow_workers):
        there = place.child("slow_workers").item(index)
        if one.worker >= num_workers:
            raise there.child("worker").error(
                f"there is no worker {one.worker}: they are 0 to {num_workers - 1}",
                given=one.worker,
                allowed=f"0 to {num_workers - 1}",
            )
        if one.slowdown < 1:
            raise there.child("slowdown").error(
                f"its compute time, times {one.slowdown:g}, is a worker that is faster than the others",
                given=one.slowdown,
                allowed="1 or more",
                hint=f"slowdown: {1 / one.slowdown:g} is {one.slowdown:.0%} of the speed; faster: devices",
            )
    base_dir = Path(place.file).parent
    if variation.data_loader is not None:
        there = place.child("data_loader").child("stall_s")
        check_distribution(variation.data_loader.stall_s, there, base_dir)
    if variation.recorded is not None:
        _check_recorded(variation, place.child("recorded"), base_dir)


def _check_recorded(variation: StepVariation, place: Place, base_dir: Path) -> None:
    recorded = variation.recorded
    if recorded is None:
        return
    if variation.distribution != "none" or variation.markov is not None:
        raise place.error(
            "recorded times have their own variation",
            given=variation.distribution,
            allowed="recorded with slow_workers and data_loader only",
            hint="distribution: none",
        )
    if not recorded.columns:
        raise place.child("columns").error(
            "no column to read", given=[], allowed="one or more", hint="[step_s]"
        )
    check_file(recorded.path, place.child("path"), base_dir)
    if not read_recorded(recorded, base_dir).size:
        raise place.child("path").error("no row of times", given=recorded.path, allowed="a row per step")


def check_failures(scenario: TrainingScenario, place: Place) -> None:
    """Refuses checkpoints without an interval, and jobs that fail faster than they are saved."""
    failures = scenario.failures
    if failures is None:
        return
    has_checkpoints = not SYNC[scenario.sync.scheme].is_asynchronous
    if failures.interval_s is None and failures.checkpoint_s == 0 and has_checkpoints:
        raise place.child("interval_s").error(
            "missing: checkpoints that cost nothing have no best interval",
            allowed="interval_s, or checkpoint_s above 0",
            hint="checkpoint_s: 30 s",
        )
    per_job = failures.mtbf_s / scenario.training.num_workers
    if failures.checkpoint_s > 0 and failures.checkpoint_s >= per_job:
        raise place.child("checkpoint_s").error(
            f"a checkpoint takes {failures.checkpoint_s:g} s, and of {scenario.training.num_workers} workers "
            f"one fails every {per_job:g} s: such a job never gets on",
            given=failures.checkpoint_s,
            allowed=f"below {per_job:g} s",
            hint="a larger mtbf_s, or a faster checkpoint",
        )


# What must hold of a scenario's ``learning``; each breach is a ScenarioError.

MAX_EXAMPLES = 100_000_000


def check_learning(scenario: TrainingScenario, place: Place) -> None:
    """Refuses a target that is met before the first step, a rate that changes nothing, endless runs."""
    learning = scenario.learning
    if learning is None:
        return
    _check_target(learning, place.child("target_loss"))
    _check_num_examples(learning, place.child("max_gradients"))
    if learning.staleness_aware and not SYNC[scenario.sync.scheme].is_asynchronous:
        raise place.child("staleness_aware").error(
            f"has no effect with scheme: {scenario.sync.scheme}, where no gradient is stale",
            given=True,
            allowed=f"staleness_aware with one of {schemes_where(lambda one: one.is_asynchronous)}",
            hint="set it in the variants that are asynchronous",
        )


def _check_target(learning: LearningConfig, place: Place) -> None:
    problem = problem_of(learning)
    start = problem.loss(problem.start())
    if learning.target_loss is not None and learning.target_loss >= start:
        raise place.error(
            f"{learning.problem} starts at a loss of {start:.4g}: the target is met before the first update",
            given=learning.target_loss,
            allowed=f"above 0, below {start:.4g}",
            hint=f"target_loss: {0.75 * start:.2g}",
        )


def _check_num_examples(learning: LearningConfig, place: Place) -> None:
    examples = learning.max_gradients * learning.batch_size
    if problem_of(learning).batch_size and examples > MAX_EXAMPLES:
        raise place.error(
            f"{learning.max_gradients:,} gradients of {learning.batch_size:,} examples are {examples:,}",
            given=learning.max_gradients,
            allowed=f"at most {MAX_EXAMPLES:,} examples a run",
            hint=f"max_gradients: {MAX_EXAMPLES // learning.batch_size}",
        )
