"""What the exchange of one step costs on the links: every message priced, in whole picoseconds.

The prices, NCCL's included, come from ``sim.price.collective``; the simulation says when a message starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from itertools import pairwise

import numpy as np

from sim.arrays import Int64, to_ps
from sim.hardware import Link
from sim.model.matrices import layer_matrices
from sim.price.collective import NETWORK_HOP_S, Fabric, fabric_of, known_latency, nccl_cost
from sim.scenario.dataclass import dataclass
from sim.training.exchange.algorithms import EXCHANGES, Algorithm, Pattern
from sim.training.exchange.sharded import ShardedTimes, sharded_times
from sim.training.scenario import TrainingScenario, max_seq_len
from sim.training.step.time import WorkerStep
from sim.training.sync import SYNC

# DistributedDataParallel's gradient buckets, and how far their all-reduce hides behind the backward pass.
#
# Gradients become ready from the last layer to the first. PyTorch fills buckets in that order: the first up
# to 1 MiB, the others up to ``bucket_cap_mb`` (torch/nn/parallel/distributed.py,
# ``_compute_bucket_assignment_by_size``), and reduces them one after another on one stream:
#
#     done_k = max(done_{k-1}, ready_k) + all_reduce(bucket_k)
#     step = forward + max(backward, done_last) + optimizer
#
# Not modelled: buckets that wait for an unused parameter, and gradients copied into and out of buckets.

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Gradients that travel together, all there when ``ready_fraction`` of the backward pass has gone by."""

    num_bytes: int
    ready_fraction: float


def fill_buckets(sizes: Sequence[int], first_bucket_bytes: float, bucket_cap_bytes: float) -> list[list[int]]:
    """Indices of ``sizes`` (in the order in which gradients become ready) by bucket.

    As in PyTorch a bucket is closed by the tensor that takes it to its cap or beyond it.
    """
    filled: list[list[int]] = []
    current: list[int] = []
    held = 0
    for index, size in enumerate(sizes):
        current.append(index)
        held += size
        if held >= (first_bucket_bytes if not filled else bucket_cap_bytes):
            filled.append(current)
            current, held = [], 0
    return [*filled, current] if current else filled


def gradient_buckets(
    sizes: Sequence[int], backward_s: Sequence[float], first_bucket_bytes: float, bucket_cap_bytes: float
) -> tuple[Bucket, ...]:
    """The buckets of parameters in *forward* order, with the backward time of each.

    A gradient is ready when the backward pass of its part is over. Without any backward time all are
    ready at once, at its end.
    """
    order = [index for index in reversed(range(len(sizes))) if sizes[index] > 0 or backward_s[index] > 0]
    total = sum(backward_s)
    gone = 0.0
    ready = []
    for index in order:
        gone += backward_s[index]
        ready.append(min(1.0, gone / total) if total > 0 else 1.0)
    ordered = [sizes[index] for index in order]
    buckets = [
        Bucket(num_bytes=sum(ordered[i] for i in one), ready_fraction=ready[one[-1]])
        for one in fill_buckets(ordered, first_bucket_bytes, bucket_cap_bytes)
    ]
    return tuple(bucket for bucket in buckets if bucket.num_bytes > 0)


def overlap(ready_ps: Sequence[int], all_reduce_ps: Sequence[int]) -> list[int]:
    """When each bucket's all-reduce is done: the recursion above, on one communication stream."""
    done: list[int] = []
    free = 0
    for ready, duration in zip(ready_ps, all_reduce_ps, strict=True):
        free = max(free, ready) + duration
        done.append(free)
    return done


# Without a model: gradients are spread evenly over the backward pass in tensors of about this size.
TENSOR_BYTES = MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One step's exchange. Only the fields of its ``pattern`` are set; ``algorithm`` is its name.

    ``buckets``: (share of the backward pass after which it is ready, all-reduce time). ``chunks``: of the
    same buckets on a ring, (latency, transfer) of one chunk on one link.
    """

    algorithm: str = "none"
    pattern: Pattern = "free"
    gradient_bytes: int = 0
    buckets: tuple[tuple[float, int], ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()
    overlap: bool = True
    after_update_ps: int = 0  # ZeRO 1 and 2 gather the updated weights
    sharded: ShardedTimes | None = None  # ZeRO 3
    occupies_ps: int = 0  # parameter server: of one NIC and direction
    takes_ps: int = 0  # parameter server: a message's whole way
    replicate_ps: int = 0  # single process: weights from GPU 0 to the others
    gather_ps: int = 0  # single process: outputs to GPU 0, and their gradients back
    host_ps: int = 0  # single process: Python per replica, one at a time
    link_slowdown: tuple[tuple[int, float], ...] = ()  # chunks: (worker, what its chunks take, times)
    link_ps: tuple[tuple[int, int], ...] = ()  # server: (worker, what its own slow link adds to a step)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_collective(self) -> bool:
        """Whether every worker must bring its gradient before any goes on."""
        return self.pattern == "all_reduce"

    @property
    def is_server(self) -> bool:
        """Whether workers push their gradients to servers and pull the weights from them."""
        return self.pattern == "server"

    @property
    def comm_ps(self) -> int:
        """The links' time in one step of one worker, hidden or not."""
        if self.sharded is not None:
            return self.sharded.comm_ps
        reduced = sum(duration for _, duration in self.buckets)
        return reduced + self.after_update_ps + 2 * self.takes_ps + self.replicate_ps + 2 * self.gather_ps


def chunk_transfer_ps(exchange: Exchange, transfer_ps: int, num_workers: int) -> Int64:
    """What a chunk takes on each worker's link to its right neighbour."""
    factors = np.ones(num_workers)
    for worker, slowdown in exchange.link_slowdown:
        factors[worker] = slowdown
    taken: Int64 = np.rint(transfer_ps * factors).astype(np.int64)
    return taken


def worker_fabric(scenario: TrainingScenario) -> Fabric:
    """The links between data-parallel workers: a tensor-parallel group fills a node first."""
    job = scenario.training
    gpus = job.gpus_per_node or scenario.hardware.gpus_per_node or 1
    return fabric_of(scenario.hardware, max(1, gpus // job.tensor_parallel_size))


def slowed_fabric(scenario: TrainingScenario) -> Fabric:
    """``worker_fabric`` as a collective finds it: its outermost links at the pace of the slowest one.

    Every rank's data passes every link of a ring, up and down a tree, so one slow link bounds them all; with
    several NICs a node NCCL cuts the data into equal channels, and the last channel ends the collective.
    """
    fabric, n = worker_fabric(scenario), scenario.training.num_workers
    slowest = max((one.slowdown for one in scenario.exchange.slow_links), default=1.0)
    if n <= fabric.gpus_per_node:
        return replace(fabric, intra_node=_slowed(fabric.intra_node, slowest))
    return replace(fabric, inter_node=_slowed(fabric.inter_node, slowest))


def _slowed(link: Link | None, slowdown: float) -> Link | None:
    return link and replace(link, bytes_per_s=link.bytes_per_s / slowdown)


def price_exchange(scenario: TrainingScenario, worker: WorkerStep) -> Exchange:
    """The exchange of the scenario for workers that do ``worker`` in a step."""
    name, n = scenario.exchange.algorithm, scenario.training.num_workers
    pattern = EXCHANGES[name].pattern
    size = worker.total_gradient_bytes
    if pattern == "free" or n == 1:
        return Exchange(gradient_bytes=size)
    if pattern == "server":
        return _server(scenario, size)
    if pattern == "single_process":
        return _single_process(scenario, size)
    if scenario.training.zero_stage == 3:
        micro_batches = scenario.training.gradient_accumulation_steps
        sharded = sharded_times(worker, micro_batches, n, slowed_fabric(scenario))
        return Exchange(algorithm=name, pattern=pattern, gradient_bytes=size, sharded=sharded)
    return _collective(scenario, worker)


def _collective(scenario: TrainingScenario, worker: WorkerStep) -> Exchange:
    config, n = scenario.exchange, scenario.training.num_workers
    fabric = slowed_fabric(scenario)
    buckets = _buckets(scenario, worker)
    is_sharded = scenario.training.zero_stage > 0
    algorithm = EXCHANGES[config.algorithm]
    price = _reduce_scatter_ps if is_sharded else algorithm.price_ps
    after = nccl_cost("all_gather", worker.total_gradient_bytes, n, fabric).total_s if is_sharded else 0.0
    chunks: tuple[tuple[int, int], ...] = ()
    if config.chunks and algorithm.chunk_ps is not None:
        links = worker_fabric(scenario)
        chunks = tuple(algorithm.chunk_ps(bucket.num_bytes, n, links) for bucket in buckets)
    return Exchange(
        algorithm=config.algorithm,
        pattern=algorithm.pattern,
        gradient_bytes=worker.total_gradient_bytes,
        buckets=tuple((one.ready_fraction, price(one.num_bytes, n, fabric)) for one in buckets),
        chunks=chunks,
        link_slowdown=tuple((one.worker, one.slowdown) for one in config.slow_links),
        overlap=config.overlap and not SYNC[scenario.sync.scheme].averages_weights,
        after_update_ps=to_ps(after),
        notes=_regimes(algorithm, buckets, n, fabric),
    )


def _buckets(scenario: TrainingScenario, worker: WorkerStep) -> tuple[Bucket, ...]:
    config = scenario.exchange
    sizes, backward_s = _tensors(scenario, worker)
    return gradient_buckets(sizes, backward_s, config.first_bucket_mb * MIB, config.bucket_cap_mb * MIB)


def _tensors(scenario: TrainingScenario, worker: WorkerStep) -> tuple[list[int], list[float]]:
    """Gradient bytes and backward time by tensor: a layer's matrices, in proportion to their size.

    Norms and biases travel with their layer's matrices; q, k and v are one tensor here, as are gate and up.
    """
    weights = [1.0]
    if scenario.model is not None and scenario.training.lora is None:
        matrices = layer_matrices(scenario.model, scenario.training.tensor_parallel_size)
        inside = [one for one in matrices if one.name != "lm_head"]
        weights = [float(one.n * one.k * one.num_experts * one.layers) for one in inside]
    edges = [sum(weights[:index]) / sum(weights) for index in range(len(weights) + 1)]
    sizes: list[int] = []
    backward_s: list[float] = []
    last = len(worker.gradient_bytes) - 1
    for index, (size, spent) in enumerate(zip(worker.gradient_bytes, worker.backward_s, strict=True)):
        parts = edges if 0 < index < last else [0.0, 1.0]
        cuts = [round(size * edge) for edge in parts]
        sizes += [b - a for a, b in pairwise(cuts)]
        backward_s += [spent * (b - a) for a, b in pairwise(parts)]
    return sizes, backward_s


def _regimes(algorithm: Algorithm, buckets: tuple[Bucket, ...], n: int, fabric: Fabric) -> dict[str, str]:
    """What carries buckets of which size, where the algorithm chooses by size."""
    regime = algorithm.regime
    if regime is None:
        return {}
    return {f"{one.num_bytes / MIB:.1f} MiB": regime(one.num_bytes, n, fabric) for one in buckets}


def _reduce_scatter_ps(num_bytes: int, n: int, fabric: Fabric) -> int:
    return to_ps(nccl_cost("reduce_scatter", num_bytes, n, fabric).total_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimes:
    """One worker's message in one direction, in seconds: what it occupies a NIC for, and its whole way."""

    occupies_s: float
    takes_s: float  # at least occupies_s: the worker's own link, and the latency


def server_times(num_bytes: float, num_servers: int, link: Link) -> ServerTimes:
    """A message of ``num_bytes`` spread over the shards."""
    shard_s = num_bytes / num_servers / link.bytes_per_s
    return ServerTimes(
        occupies_s=shard_s, takes_s=(link.latency_s or 0.0) + max(shard_s, num_bytes / link.bytes_per_s)
    )


def _server(scenario: TrainingScenario, size: int) -> Exchange:
    """Servers stand on nodes of their own: workers reach them over the network, or what else there is.

    A slow link holds its worker up on the way out and in; it does not keep a server's NIC busy for longer.
    """
    link = _outer_link(scenario)
    times = server_times(size, scenario.exchange.num_servers, link)
    once_s = size / link.bytes_per_s
    return Exchange(
        algorithm=scenario.exchange.algorithm,
        pattern="server",
        gradient_bytes=size,
        occupies_ps=to_ps(times.occupies_s),
        takes_ps=max(to_ps(times.takes_s), to_ps(times.occupies_s)),
        link_ps=tuple(
            (one.worker, to_ps(2 * (one.slowdown - 1) * once_s)) for one in scenario.exchange.slow_links
        ),
    )


def _outer_link(scenario: TrainingScenario) -> Link:
    link = scenario.hardware.inter_node
    if link is not None:
        return known_latency(link, NETWORK_HOP_S)
    return worker_fabric(scenario).link_of(2)


def _single_process(scenario: TrainingScenario, size: int) -> Exchange:
    """torch.nn.DataParallel: GPU 0 sends the weights to the others, and adds their gradients, one by one.

    Outputs come back to GPU 0 in 32 bits where there is a model: its logits.
    """
    n, link = scenario.training.num_workers, worker_fabric(scenario).link_of(scenario.training.num_workers)
    others, latency = n - 1, link.latency_s or 0.0
    through_gpu_0 = to_ps(others * (latency + size / link.bytes_per_s))
    outputs = 0
    if scenario.model is not None:
        tokens = scenario.training.micro_batch_size * max_seq_len(scenario)
        outputs = 4 * tokens * scenario.model.vocab_size
    return Exchange(
        algorithm=scenario.exchange.algorithm,
        pattern="single_process",
        gradient_bytes=size,
        overlap=False,
        buckets=((1.0, through_gpu_0),),
        replicate_ps=through_gpu_0,
        gather_ps=to_ps(others * outputs / link.bytes_per_s),
        host_ps=to_ps(scenario.compute.host_s),
    )
