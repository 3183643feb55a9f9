"""What must hold between the fields of a training scenario; each breach is a ScenarioError."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sim.checks.distributions import check_distribution
from sim.loading.place import Place, no_effect, placed
from sim.training.exchange_algorithms import EXCHANGES
from sim.training.job import devices, is_priced
from sim.training.learning_checks import check_learning
from sim.training.memory import check_fits
from sim.training.precision import precision_of
from sim.training.scaling import check_scaling
from sim.training.scenario import ComputeConfig, TrainingScenario, step_shape
from sim.training.scenario_checks_exchange import (
    check_exchange,
    check_length,
    check_links,
    check_sharding,
    check_sync,
)
from sim.training.scenario_checks_variation import check_failures, check_variation
from sim.training.step_time_layer import peak_of
from sim.training.step_time_shape import check_shape

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
    check_scaling(scenario, top.child("scaling"))


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
    for hardware in devices(scenario)[:: max(1, len(devices(scenario)) - 1)]:
        shape = step_shape(scenario, hardware)
        placed(top, partial(check_shape, shape))
        placed(there.child("precision"), partial(peak_of, shape))
        check_fits(shape, file=top.file)
    check_sharding(scenario, there)
