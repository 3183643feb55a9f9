"""What must hold between ``sync``, ``exchange`` and the links; each breach is a ScenarioError."""

from __future__ import annotations

from dataclasses import fields

from sim.arrays import PS_PER_S
from sim.scenario.place import Place, no_effect, placed
from sim.training.exchange.algorithms import EXCHANGES, algorithms_where
from sim.training.exchange.prices import MIB, price_exchange, worker_fabric
from sim.training.scenario import TrainingScenario, num_gpus
from sim.training.schedule.job import nominal_step
from sim.training.schedule.times import MAX_RUN_S, slowdowns
from sim.training.sync import SYNC, SyncConfig, schemes_where, schemes_with

MAX_CHUNK_STEPS = 20_000_000


def check_sync(scenario: TrainingScenario, place: Place) -> None:
    """Refuses a scheme whose own keys are missing, or that waits for more workers than there are."""
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
    """Keys that the scheme needs are there, and no others."""
    needed = SYNC[sync.scheme].keys
    for name in needed:
        if getattr(sync, name) is None:
            raise place.child(name).error(
                f"missing: scheme: {sync.scheme} needs it",
                allowed=f"{name}: a whole number",
                hint=f"{name}: 3",
            )
    for name in (one.name for one in fields(sync) if one.name not in ("scheme", *needed)):
        value = getattr(sync, name)
        if value is not None:
            takers = schemes_with(name)
            raise place.child(name).error(
                f"has no effect with scheme: {sync.scheme}",
                given=value,
                allowed=f"{name} with scheme: {takers}",
                hint=f"scheme: {takers.split(',')[0]}, or remove it",
            )


def check_exchange(scenario: TrainingScenario, place: Place) -> None:
    """Refuses an exchange that the scheme or the device cannot have."""
    exchange, scheme = scenario.exchange, SYNC[scenario.sync.scheme]
    algorithm = EXCHANGES[exchange.algorithm]
    takes = {"all_reduce": scheme.takes_all, "single_process": scheme.is_plain}
    if not takes.get(algorithm.pattern, True):
        without = algorithms_where(lambda one: one.pattern not in takes)
        raise place.child("algorithm").error(
            f"{exchange.algorithm} needs every worker's gradient, and {scenario.sync.scheme} lets workers go "
            "on without",
            given=exchange.algorithm,
            allowed=f"one of {without} with scheme: {scenario.sync.scheme}",
            hint=f"algorithm: {without.split(', ')[-1]}",
        )
    _check_exchange_keys(scenario, place)
    if exchange.chunks and (not scheme.is_plain or scenario.training.zero_stage or scenario.failures):
        plain = schemes_where(lambda one: one.is_plain)
        raise place.child("chunks").error(
            "chunk by chunk only plain BSP is simulated",
            given=True,
            allowed=f"scheme: {plain}, zero_stage: 0 and no failures",
            hint="chunks: false",
        )
    _check_chunks(scenario, place)
    _check_slow_links(scenario, place)
    _check_buckets(scenario, place)


def _check_exchange_keys(scenario: TrainingScenario, place: Place) -> None:
    """Keys that say something for some algorithms only."""
    exchange, algorithm = scenario.exchange, EXCHANGES[scenario.exchange.algorithm]
    if scenario.compute.host_s and algorithm.pattern != "single_process":
        needed = algorithms_where(lambda one: one.pattern == "single_process")
        there = Place(file=place.file).child("compute")
        raise no_effect(there, "host_s", scenario.compute.host_s, f"exchange.algorithm: {needed}")
    if exchange.num_servers > 1 and algorithm.pattern != "server":
        needed = algorithms_where(lambda one: one.pattern == "server")
        raise no_effect(place, "num_servers", exchange.num_servers, f"algorithm: {needed}")
    if exchange.chunks and algorithm.chunk_ps is None:
        needed = algorithms_where(lambda one: one.chunk_ps is not None)
        raise no_effect(place, "chunks", True, f"algorithm: {needed}")


def _check_slow_links(scenario: TrainingScenario, place: Place) -> None:
    """The links of these workers must be there, and something must use them."""
    n, links = scenario.training.num_workers, scenario.exchange.slow_links
    if links and not EXCHANGES[scenario.exchange.algorithm].has_slow_links:
        needed = f"algorithm: {algorithms_where(lambda one: one.has_slow_links)}"
        raise no_effect(place, "slow_links", [one.worker for one in links], needed)
    for index, one in enumerate(links):
        there = place.child("slow_links").item(index).child("worker")
        if one.worker >= n:
            raise there.error(
                f"there is no worker {one.worker}: they are 0 to {n - 1}",
                given=one.worker,
                allowed=f"0 to {n - 1}",
            )
        if one.worker in [other.worker for other in links[:index]]:
            raise there.error(
                f"worker {one.worker} stands there twice", given=one.worker, allowed="each worker once"
            )


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


def check_sharding(scenario: TrainingScenario, place: Place) -> None:
    """Refuses shards that nothing exchanges."""
    stage, exchange = scenario.training.zero_stage, scenario.exchange.algorithm
    can_shard = EXCHANGES[exchange].is_nccl or EXCHANGES[exchange].pattern == "free"
    if stage and not (can_shard and SYNC[scenario.sync.scheme].is_plain):
        raise place.child("zero_stage").error(
            f"shards are exchanged by NCCL under BSP, not by {exchange} under {scenario.sync.scheme}",
            given=stage,
            allowed="zero_stage with exchange.algorithm: nccl and sync.scheme: bsp",
            hint="zero_stage: 0",
        )


def _check_node(scenario: TrainingScenario, top: Place) -> None:
    hardware, job = scenario.hardware, scenario.training
    is_known = hardware.gpus_per_node is not None or job.gpus_per_node is not None
    if not is_known and hardware.inter_node is None and hardware.intra_node is not None:
        raise (
            top.child("training")
            .child("gpus_per_node")
            .error(
                f"missing: nobody says how many {hardware.name} share a node, and its network is unknown",
                allowed="gpus_per_node, or hardware with inter_node",
                hint=f"gpus_per_node: {num_gpus(scenario)}",
            )
        )


def check_length(scenario: TrainingScenario, top: Place) -> None:
    """Refuses a run that takes no time at all, or longer than its clock can count."""
    steps, factor = (
        scenario.training.num_steps,
        float(slowdowns(scenario.variation, scenario.training.num_workers).max()),
    )
    worker = nominal_step(scenario, scenario.hardware)
    exchange_s = price_exchange(scenario, worker).comm_ps / PS_PER_S
    step_s = (worker.compute_s * factor if scenario.variation.recorded is None else 0.0) + exchange_s
    if worker.compute_s + worker.optimizer_s + exchange_s == 0:
        raise (
            top.child("compute")
            .child("compute_s")
            .error(
                "nothing takes any time: neither computing, nor exchange, nor optimizer",
                given=scenario.compute.compute_s,
                allowed="above 0 s where nothing is exchanged",
                hint="compute_s: 1 s",
            )
        )
    if step_s * steps > MAX_RUN_S:
        most = int(MAX_RUN_S / step_s)
        raise (
            top.child("training")
            .child("num_steps")
            .error(
                f"{steps:,} steps of about {step_s:.3g} s",
                given=steps,
                allowed=f"a run of at most {MAX_RUN_S:,.0f} s",
                hint=f"num_steps: {most // 2}" if most > 1 else "shorter steps",
            )
        )


def check_links(scenario: TrainingScenario, top: Place) -> None:
    """What the exchange needs must be known; a single process has the GPUs of one node only."""
    n, algorithm = scenario.training.num_workers, scenario.exchange.algorithm
    pattern = EXCHANGES[algorithm].pattern
    if pattern == "free" or n == 1:
        return
    _check_node(scenario, top)
    fabric = worker_fabric(scenario)
    if pattern == "single_process" and n > fabric.gpus_per_node:
        raise (
            top.child("exchange")
            .child("algorithm")
            .error(
                f"one process drives the GPUs of one node: {fabric.gpus_per_node}, not {n}",
                given=algorithm,
                allowed=f"{algorithm} within a node",
                hint=f"training.num_workers: {fabric.gpus_per_node}, or algorithm: nccl",
            )
        )
    if num_gpus(scenario) > 1_000_000:
        raise (
            top.child("training")
            .child("num_workers")
            .error(f"{num_gpus(scenario):,} GPUs", given=n, allowed="at most 1,000,000 GPUs")
        )
    placed(top, lambda: fabric.link_of(n))
