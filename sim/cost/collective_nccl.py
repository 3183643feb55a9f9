"""NCCL's own cost model of a collective: the fastest of its algorithms and protocols at a size.

    time = base latency + hops x hop latency + bytes / (bus bandwidth x algorithm's ratio)

Latencies and bandwidth factors are the tables of NVIDIA/nccl src/graph/tuning.cc (2.27: base latencies,
hop latencies, LL / LL128 / Simple, the tree's correction by size, the ring's plateau between nodes). LL sends
flags with every 4 bytes (half the bandwidth, least latency), LL128 with every 120 (0.92), Simple
synchronises per chunk (all of the bandwidth). Not modelled: PAT, CollNet and SHARP, NVLS between nodes, user
buffers, channels and threads, GPUs that compute meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2
from typing import Literal

from sim.cost.collective import Fabric
from sim.hardware.architecture import Chosen, by_architecture

Collective = Literal["all_reduce", "reduce_scatter", "all_gather"]
Algorithm = Literal["none", "ring", "tree", "nvls"]
Protocol = Literal["none", "LL", "LL128", "Simple"]

PROTOCOLS: tuple[Protocol, ...] = ("LL", "LL128", "Simple")

# Microseconds, by protocol in the order of PROTOCOLS.
BASE_US = {"ring": (6.6, 14.0, 8.4), "tree": (6.8, 14.0, 8.4)}
HOP_US = {
    ("nvlink", "ring"): (0.6, 1.9, 3.4),
    ("nvlink", "tree"): (0.6, 1.25, 4.0),
    ("pcie", "ring"): (1.0, 2.5, 5.7),
    ("pcie", "tree"): (1.0, 1.9, 4.0),
    ("network", "ring"): (2.7, 4.0, 14.0),
    ("network", "tree"): (5.0, 8.5, 14.0),
}
NVLS_HOP_US = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclFacts:
    """What NCCL's model has by architecture.

    ``ll_max_gb_per_s``: the largest bus bandwidth of LL on 1, 2 and more nodes. ``ring_plateau``: how much
    longer the latency of a Simple ring between nodes is. ``nvls_fraction``: bytes a second that an all-reduce
    inside the NVSwitch finishes, over the link's rate (fitted to 64 MiB and more on eight H100s and eight
    B200s, NCCL 2.27 and later); None where switches do not reduce.
    """

    ll_max_gb_per_s: tuple[float, float, float]
    ring_plateau: float = 1.4
    nvls_fraction: float | None = None


NCCL_FACTS = {
    "Volta": NcclFacts(ll_max_gb_per_s=(39.0, 39.0, 20.4), ring_plateau=1.9),
    "Ampere": NcclFacts(ll_max_gb_per_s=(87.7, 22.5, 19.0)),
    "Hopper": NcclFacts(ll_max_gb_per_s=(141.0, 45.0, 35.0), nvls_fraction=0.585),
    "Blackwell": NcclFacts(ll_max_gb_per_s=(282.0, 90.0, 70.0), nvls_fraction=0.45),
}


def nccl_facts(architecture: str) -> Chosen[NcclFacts]:
    """The architecture's, or Ampere's said to be assumed: its switches do not reduce."""
    what = "NCCL's LL bandwidth and reduction in the switch"
    return by_architecture(NCCL_FACTS, architecture, what, stand_in="Ampere")


# Trees of middle-sized messages fall short of the model; by protocol, for 64 B, 128 B, 256 B, ...
TREE_CORRECTION = (
    (1, 1, 1, 1, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    (1, 1, 1, 1, 1, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.5, 0.6, 0.6, 0.7, 0.7, 0.8, 0.9, 0.9),
    (*(0.9,) * 7, 0.8, 0.7, 0.6, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.6, 0.6, 0.7, 0.8, 0.9),
)

# What is left of a link after packet headers and flow control. NVLink: 0.72 to 0.78 of the datasheet's
# rate at 512 MiB over 4 and 8 A100s and H100s (NCCL itself counts 0.80). Network: nccl-tests over 400 Gb/s
# InfiniBand reach 48.7 of 50 GB/s.
NVLINK_FRACTION, PCIE_FRACTION, NETWORK_FRACTION = 0.76, 0.76, 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCost:
    """Seconds of one collective, how they split, and the regime that was fastest."""

    total_s: float
    latency_s: float
    transfer_s: float
    algorithm: Algorithm
    protocol: Protocol


NOTHING = CollectiveCost(total_s=0.0, latency_s=0.0, transfer_s=0.0, algorithm="none", protocol="none")


def nccl_cost(collective: Collective, num_bytes: float, num_ranks: int, fabric: Fabric) -> CollectiveCost:
    """The regime that NCCL's model finds fastest; ``num_bytes`` is the whole tensor (all-gather: gathered).

    Reduce-scatter and all-gather run on rings only, as in NCCL without PAT.
    """
    if num_ranks <= 1 or num_bytes <= 0:
        return NOTHING
    candidates = [_ring(collective, num_bytes, num_ranks, fabric, p) for p in range(len(PROTOCOLS))]
    if collective == "all_reduce":
        candidates += [_tree(num_bytes, num_ranks, fabric, p) for p in range(len(PROTOCOLS))]
        if _has_nvls(num_ranks, fabric):
            candidates.append(_nvls(num_bytes, fabric))
    return min(candidates, key=lambda cost: cost.total_s)


def nccl_regimes(num_bytes: float, num_ranks: int, fabric: Fabric) -> tuple[CollectiveCost, ...]:
    """Every all-reduce that NCCL chooses from, fastest first: for `explain` and for pictures."""
    both = [_ring("all_reduce", num_bytes, num_ranks, fabric, p) for p in range(len(PROTOCOLS))]
    both += [_tree(num_bytes, num_ranks, fabric, p) for p in range(len(PROTOCOLS))]
    if _has_nvls(num_ranks, fabric):
        both.append(_nvls(num_bytes, fabric))
    return tuple(sorted(both, key=lambda cost: cost.total_s))


def bus_bytes_per_s(num_ranks: int, fabric: Fabric) -> float:
    """NCCL's bus bandwidth of a ring of Simple chunks: the slowest link's rate less its overhead."""
    inside = fabric.link_of(min(num_ranks, fabric.gpus_per_node)) if fabric.gpus_per_node > 1 else None
    rate = float("inf")
    if inside is not None:
        rate = inside.bytes_per_s * (NVLINK_FRACTION if fabric.is_nvlink else PCIE_FRACTION)
    if num_ranks > fabric.gpus_per_node:
        outer = fabric.inter_node or fabric.link_of(num_ranks)
        rate = min(rate, outer.bytes_per_s * fabric.gpus_per_node * NETWORK_FRACTION)
    return rate


def _ring(collective: Collective, num_bytes: float, n: int, fabric: Fabric, protocol: int) -> CollectiveCost:
    """(n-1)/n of the tensor past every GPU, twice for an all-reduce."""
    turns = 2 if collective == "all_reduce" else 1
    nodes = fabric.num_nodes(n)
    bus = bus_bytes_per_s(n, fabric)
    name = PROTOCOLS[protocol]
    if name == "LL":
        bus = min(bus * 0.5, _ll_max(fabric, nodes))
    elif name == "LL128":
        bus *= 0.92
    intra, inter = _hops_s(fabric, "ring", protocol, nodes)
    network_steps = turns * (nodes - 1)
    latency = BASE_US["ring"][protocol] * 1e-6
    latency += (turns * (n - 1) - network_steps) * intra + network_steps * inter
    if name == "Simple" and nodes > 1 and collective == "all_reduce":
        latency *= _facts(fabric).ring_plateau
    return _cost(latency, turns * (n - 1) / n * num_bytes / bus, "ring", name)


def _tree(num_bytes: float, n: int, fabric: Fabric, protocol: int) -> CollectiveCost:
    """A chain inside the node and a double binary tree between nodes, up and down."""
    nodes = fabric.num_nodes(n)
    bus = 0.92 * bus_bytes_per_s(n, fabric)
    name = PROTOCOLS[protocol]
    if name == "LL":
        bus = min(bus / 3.8, _ll_max(fabric, nodes))
    elif name == "LL128":
        bus *= 7 / 9 if nodes == 1 else 120 / 128
    octave = floor(log2(max(num_bytes / 64, 1)))
    if octave < len(TREE_CORRECTION[protocol]):
        bus *= TREE_CORRECTION[protocol][octave]
    intra, inter = _hops_s(fabric, "tree", protocol, nodes)
    hops = (-(-n // nodes) - 1) * intra + floor(log2(nodes)) * inter
    return _cost(BASE_US["tree"][protocol] * 1e-6 + 2 * hops, 2 * num_bytes / bus, "tree", name)


def _has_nvls(num_ranks: int, fabric: Fabric) -> bool:
    """Reduction in the NVSwitch: Hopper and later, all GPUs of one NVLink node."""
    whole_node = num_ranks == fabric.gpus_per_node and num_ranks > 4
    return whole_node and fabric.is_nvlink and _facts(fabric).nvls_fraction is not None


def _nvls(num_bytes: float, fabric: Fabric) -> CollectiveCost:
    rate = fabric.link_of(fabric.gpus_per_node).bytes_per_s * (_facts(fabric).nvls_fraction or 0.0)
    return _cost((BASE_US["ring"][2] + NVLS_HOP_US) * 1e-6, num_bytes / rate, "nvls", "Simple")


def _hops_s(fabric: Fabric, algorithm: str, protocol: int, nodes: int) -> tuple[float, float]:
    """Seconds of a hop inside a node and of one between nodes."""
    inside = HOP_US["nvlink" if fabric.is_nvlink else "pcie", algorithm][protocol]
    if nodes > 1 and PROTOCOLS[protocol] == "LL":
        inside *= 1.8
    return inside * 1e-6, HOP_US["network", algorithm][protocol] * 1e-6


def _ll_max(fabric: Fabric, nodes: int) -> float:
    return _facts(fabric).ll_max_gb_per_s[min(nodes, 3) - 1] * 1e9


def _facts(fabric: Fabric) -> NcclFacts:
    return nccl_facts(fabric.architecture).value


def _cost(latency_s: float, transfer_s: float, algorithm: Algorithm, protocol: Protocol) -> CollectiveCost:
    return CollectiveCost(
        total_s=latency_s + transfer_s,
        latency_s=latency_s,
        transfer_s=transfer_s,
        algorithm=algorithm,
        protocol=protocol,
    )
