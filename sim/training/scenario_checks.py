"""What must hold between the fields of a training scenario; each breach is a ScenarioError."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sim.checks.distributions import check_distribution, check_file
from sim.errors import ScenarioError
from sim.loading.place import Place
from sim.training.buckets import MIB
from sim.training.exchange import worker_fabric
from sim.training.job import devices, is_priced
from sim.training.learning_checks import check_learning
from sim.training.memory import check_fits
from sim.training.precision import precision_of
from sim.training.scenario import COLLECTIVES, SyncConfig, TrainingScenario, num_gpus, step_shape
from sim.training.scenario_variation import StepVariation
from sim.training.step_time_layer import peak_of
from sim.training.step_time_shape import check_shape

MAX_WORKER_STEPS = 50_000_000
MAX_EVENT_STEPS = 1_000_000
MAX_CHUNK_STEPS = 20_000_000
MAX_STEP_S = 100_000.0

# The keys of ``sync`` that say something for one scheme only, and for which.
_SYNC_KEYS = {
    "staleness_bound": "ssp",
    "backup_workers": "k_sync",
    "num_required": "k_async",
    "local_steps": "local_sgd",
}


def check_training(scenario: TrainingScenario, *, file: str) -> None:
    """Refuses a training scenario whose parts do not go together."""
    top = Place(file=file)
    _check_size(scenario, top.child("training"))
    _check_sync(scenario, top.child("sync"))
    _check_exchange(scenario, top.child("exchange"))
    _check_devices(scenario, top.child("devices"))
    _check_times(scenario, top)
    _check_variation(scenario.variation, scenario.training.num_workers, top.child("variation"))
    _check_failures(scenario, top.child("failures"))
    _check_packing(scenario, top.child("packing"))
    check_learning(scenario, top.child("learning"))
    _check_model(scenario, top)
    _check_links(scenario, top)


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


def _check_sync(scenario: TrainingScenario, place: Place) -> None:
    sync, n = scenario.sync, scenario.training.num_workers
    _check_sync_keys(sync, place)
    if sync.backup_workers is not None and sync.backup_workers >= n:
        raise place.child("backup_workers").error(
            f"{sync.backup_workers} backup workers of {n} leave no gradient to wait for",
            given=sync.backup_workers,
            allowed=f"0 to {n - 1}",
            hint=f"backup_workers: {max(1, n // 16) if n > 1 else 0}",
        )
    if sync.num_required is not None and sync.num_required > n:
        raise place.child("num_required").error(
            f"an update that waits for {sync.num_required} gradients of {n} workers never comes",
            given=sync.num_required,
            allowed=f"1 to {n}",
            hint=f"num_required: {max(1, n // 2)}",
        )


def _check_sync_keys(sync: SyncConfig, place: Place) -> None:
    for name, scheme in _SYNC_KEYS.items():
        value = getattr(sync, name)
        if sync.scheme == scheme and value is None:
            raise place.child(name).error(
                f"missing: scheme: {scheme} needs it", allowed=f"{name}: a whole number", hint=f"{name}: 3"
            )
        if sync.scheme != scheme and value is not None:
            raise place.child(name).error(
                f"has no effect with scheme: {sync.scheme}",
                given=value,
                allowed=f"{name} with scheme: {scheme}",
                hint=f"scheme: {scheme}, or remove it",
            )


def _check_exchange(scenario: TrainingScenario, place: Place) -> None:
    exchange, scheme = scenario.exchange, scenario.sync.scheme
    algorithm = exchange.algorithm
    needs_all = algorithm in COLLECTIVES or algorithm == "data_parallel_single_process"
    allowed = ("bsp", "local_sgd") if algorithm in COLLECTIVES else ("bsp",)
    if needs_all and scheme not in allowed:
        raise place.child("algorithm").error(
            f"{algorithm} needs every worker's gradient, and {scheme} lets workers go on without",
            given=algorithm,
            allowed=f"parameter_server or none with scheme: {scheme}",
            hint="algorithm: parameter_server",
        )
    if exchange.num_servers > 1 and algorithm != "parameter_server":
        raise _no_effect(place, "num_servers", exchange.num_servers, "algorithm: parameter_server")
    if exchange.chunks and algorithm != "ring":
        raise _no_effect(place, "chunks", True, "algorithm: ring")
    if exchange.chunks and (scheme != "bsp" or scenario.training.zero_stage or scenario.failures):
        raise place.child("chunks").error(
            "chunk by chunk only plain BSP is simulated",
            given=True,
            allowed="scheme: bsp, zero_stage: 0 and no failures",
            hint="chunks: false",
        )
    _check_chunks(scenario, place)
    _check_buckets(scenario, place)


def _check_chunks(scenario: TrainingScenario, place: Place) -> None:
    job = scenario.training
    sends = job.num_steps * 2 * (job.num_workers - 1) * job.num_workers
    if scenario.exchange.chunks and sends > MAX_CHUNK_STEPS:
        raise place.child("chunks").error(
            f"{job.num_steps:,} steps of {job.num_workers:,} ranks send {sends:,} chunks per bucket",
            given=True,
            allowed=f"at most {MAX_CHUNK_STEPS:,} chunks",
            hint="fewer steps or workers, or chunks: false",
        )


def _check_buckets(scenario: TrainingScenario, place: Place) -> None:
    for name in ("bucket_cap_mb", "first_bucket_mb"):
        size, memory = getattr(scenario.exchange, name) * MIB, scenario.hardware.hbm_bytes
        if size > memory:
            raise place.child(name).error(
                f"a bucket of {size / 1e9:.1f} GB is larger than the {memory / 1e9:.1f} GB of "
                f"{scenario.hardware.name}",
                given=getattr(scenario.exchange, name),
                allowed=f"at most {memory // MIB:,} MiB",
                hint=f"{name}: 25",
            )


def _no_effect(place: Place, name: str, value: object, needed: str) -> ScenarioError:
    return place.child(name).error(
        f"has no effect without {needed}", given=value, allowed=f"{name} with {needed}", hint="remove it"
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
    if scenario.model is None and is_priced(scenario):
        raise top.child("model").error(
            "missing: without it no step can be priced",
            allowed="model, compute.compute_s or variation.recorded",
            hint="model: llama-3.2-1b, or compute: {compute_s: 1 s}",
        )
    has_bytes = compute.gradient_bytes is not None or scenario.model is not None
    if scenario.exchange.algorithm != "none" and not has_bytes:
        raise place.child("gradient_bytes").error(
            f"missing: nothing says how much {scenario.exchange.algorithm} exchanges",
            allowed="compute.gradient_bytes, or a model",
            hint="gradient_bytes: 1 GB, or exchange: {algorithm: none}",
        )


_LAW_KEYS = {"lognormal": ("sigma",), "pareto": ("alpha",), "uniform": ("max",)}


def _check_variation(variation: StepVariation, num_workers: int, place: Place) -> None:
    needed = _LAW_KEYS.get(variation.law, ())
    for name in needed:
        if getattr(variation, name) is None:
            raise place.child(name).error(
                f"missing: law: {variation.law} needs it", allowed=f"{name}: a number", hint=f"{name}: 1.5"
            )
    for name, law in (("sigma", "lognormal"), ("alpha", "pareto"), ("min", "uniform"), ("max", "uniform")):
        if getattr(variation, name) is not None and variation.law != law:
            raise _no_effect(place, name, getattr(variation, name), f"law: {law}")
    if variation.min is not None and variation.max is not None and variation.min > variation.max:
        raise place.child("min").error(
            f"min {variation.min:g} is above max {variation.max:g}", given=variation.min, allowed="min <= max"
        )
    for index, one in enumerate(variation.slow_workers):
        if one.worker >= num_workers:
            raise (
                place.child("slow_workers")
                .item(index)
                .child("worker")
                .error(
                    f"there is no worker {one.worker}: they are 0 to {num_workers - 1}",
                    given=one.worker,
                    allowed=f"0 to {num_workers - 1}",
                )
            )
    base_dir = Path(place.file).parent
    if variation.data_loader is not None:
        there = place.child("data_loader").child("stall_s")
        check_distribution(variation.data_loader.stall_s, there, base_dir)
    if variation.recorded is not None:
        _check_recorded(variation, place.child("recorded"), base_dir)


def _check_recorded(variation: StepVariation, place: Place, base_dir: Path) -> None:
    from sim.training.variation import read_recorded

    recorded = variation.recorded
    if recorded is None:
        return
    if variation.law != "none" or variation.markov is not None:
        raise place.error(
            "recorded times have their own variation",
            given=variation.law,
            allowed="recorded with slow_workers and data_loader only",
            hint="law: none",
        )
    if not recorded.columns:
        raise place.child("columns").error(
            "no column to read", given=[], allowed="one or more", hint="[step_s]"
        )
    check_file(recorded.path, place.child("path"), base_dir)
    if not read_recorded(recorded, base_dir).size:
        raise place.child("path").error("no row of times", given=recorded.path, allowed="a row per step")


def _check_failures(scenario: TrainingScenario, place: Place) -> None:
    failures = scenario.failures
    if failures is None:
        return
    if failures.interval_s is None and failures.checkpoint_s == 0 and scenario.sync.scheme != "asp":
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
    _placed(there, lambda: precision_of(scenario.training.precision))
    for hardware in devices(scenario)[:: max(1, len(devices(scenario)) - 1)]:
        shape = step_shape(scenario, hardware)
        _placed(top, partial(check_shape, shape))
        _placed(there.child("precision"), partial(peak_of, shape))
        check_fits(shape, file=top.file)
    _check_sharding(scenario, there)


def _placed(place: Place, check: Callable[[], object]) -> None:
    """Runs ``check``; its error gets the file."""
    try:
        check()
    except ScenarioError as error:
        raise ScenarioError(
            error.problem,
            file=place.file,
            path=error.path or place.path,
            given=error.given,
            allowed=error.allowed,
            hint=error.hint,
        ) from None


def _check_sharding(scenario: TrainingScenario, place: Place) -> None:
    stage, exchange = scenario.training.zero_stage, scenario.exchange.algorithm
    if stage and (exchange not in ("nccl", "none") or scenario.sync.scheme != "bsp"):
        raise place.child("zero_stage").error(
            f"shards are exchanged by NCCL under BSP, not by {exchange} under {scenario.sync.scheme}",
            given=stage,
            allowed="zero_stage with exchange.algorithm: nccl and sync.scheme: bsp",
            hint="zero_stage: 0",
        )


def _check_links(scenario: TrainingScenario, top: Place) -> None:
    """What the exchange needs must be known; a single process has the GPUs of one node only."""
    n, algorithm = scenario.training.num_workers, scenario.exchange.algorithm
    if algorithm == "none" or n == 1:
        return
    fabric = worker_fabric(scenario)
    if algorithm == "data_parallel_single_process" and n > fabric.gpus_per_node:
        raise (
            top.child("exchange")
            .child("algorithm")
            .error(
                f"one process drives the GPUs of one node: {fabric.gpus_per_node}, not {n}",
                given=algorithm,
                allowed="data_parallel_single_process within a node",
                hint=f"training.num_workers: {fabric.gpus_per_node}, or algorithm: nccl",
            )
        )
    if num_gpus(scenario) > 1_000_000:
        raise (
            top.child("training")
            .child("num_workers")
            .error(f"{num_gpus(scenario):,} GPUs", given=n, allowed="at most 1,000,000 GPUs")
        )
    _placed(top, lambda: fabric.link_of(n))
