"""Collectives and sends: the α-β model of rings and trees, and NCCL's choice among its own algorithms."""

from __future__ import annotations

from math import ceil, floor, log2
from typing import Literal

from sim.errors import CannotRun
from sim.hardware import HardwareProfile, Link
from sim.hardware.architecture import Chosen, by_architecture
from sim.scenario.dataclass import dataclass

# Where a profile does not know a link's latency: NCCL's own hop latencies of the Simple protocol on a
# ring (src/graph/tuning.cc: NVLink 3.4, PCIe 5.7, network 14 us).
NVLINK_HOP_S, PCIE_HOP_S, NETWORK_HOP_S = 3.4e-6, 5.7e-6, 14.0e-6


# PCIe 5.0 x16 carries 64 GB/s per direction; an intra-node link above that is NVLink.
FASTEST_PCIE_BYTES_PER_S = 64e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The links of a cluster, per GPU and direction, and how many GPUs share a node."""

    gpus_per_node: int
    intra_node: Link | None
    inter_node: Link | None
    architecture: str = ""

    @property
    def is_nvlink(self) -> bool:
        """Whether GPUs of one node are joined by more than PCIe."""
        return self.intra_node is not None and self.intra_node.bytes_per_s > FASTEST_PCIE_BYTES_PER_S

    def num_nodes(self, num_ranks: int) -> int:
        """Nodes that ``num_ranks`` fill, one after another."""
        return ceil(num_ranks / self.gpus_per_node)

    def link_of(self, num_ranks: int) -> Link:
        """The link that bounds a ring of ``num_ranks``: the network's once it leaves the node.

        A ring per GPU crosses the node's border (NCCL: one channel per NIC), so the network gives each
        GPU its own ``inter_node`` share, never more than the link inside. Latency known or filled in.
        """
        if num_ranks <= self.gpus_per_node:
            return known_latency(self._link("intra_node"), self.intra_hop_s)
        outer = known_latency(self._link("inter_node"), NETWORK_HOP_S)
        return Link(bytes_per_s=self.ring_bytes_per_s(num_ranks), latency_s=outer.latency_s)

    def ring_bytes_per_s(self, num_ranks: int) -> float:
        """Rate at which one GPU's part of a ring moves.

        Inside a node the link's. Across nodes every GPU's data leaves the node once per turn over all
        of the node's NICs together: min(intra, GPUs of a node x inter).
        """
        intra = self._link("intra_node").bytes_per_s if self.gpus_per_node > 1 else float("inf")
        if num_ranks <= self.gpus_per_node:
            return intra
        return min(intra, self.gpus_per_node * self._link("inter_node").bytes_per_s)

    @property
    def intra_hop_s(self) -> float:
        """Latency of a hop inside the node, the profile's or NCCL's for such a link."""
        link = self._link("intra_node")
        fallback = NVLINK_HOP_S if self.is_nvlink else PCIE_HOP_S
        return fallback if link.latency_s is None else link.latency_s

    @property
    def inter_hop_s(self) -> float:
        """Latency of a hop between nodes, the profile's or NCCL's for the network."""
        link = self._link("inter_node")
        return NETWORK_HOP_S if link.latency_s is None else link.latency_s

    def _link(self, field: str) -> Link:
        link: Link | None = getattr(self, field)
        if link is None:
            raise CannotRun(
                f"GPUs cannot exchange anything: the profile's {field} is unknown",
                path=f"hardware.{field}",
                allowed="bytes_per_s and latency_s per GPU and direction",
                hint=f"hardware: {{base: ..., {field}: {{bytes_per_s: 25 GB/s}}}}",
            )
        return link


def fabric_of(hardware: HardwareProfile, gpus_per_node: int | None = None) -> Fabric:
    """The fabric of a profile; ``gpus_per_node`` where a job places fewer GPUs on a node."""
    return Fabric(
        gpus_per_node=gpus_per_node or hardware.gpus_per_node or 1,
        intra_node=hardware.intra_node,
        inter_node=hardware.inter_node,
        architecture=hardware.architecture,
    )


def latencies_filled_in(
    hardware: HardwareProfile, num_gpus: int, gpus_per_node: int | None = None
) -> tuple[str, ...]:
    """A note for each latency that ``num_gpus`` GPUs need and the profile does not know: what is taken."""
    fabric = fabric_of(hardware, gpus_per_node)
    asked = []
    if min(num_gpus, fabric.gpus_per_node) > 1:
        hop_s = NVLINK_HOP_S if fabric.is_nvlink else PCIE_HOP_S
        asked.append(("intra_node", fabric.intra_node, hop_s))
    if num_gpus > fabric.gpus_per_node:
        asked.append(("inter_node", fabric.inter_node, NETWORK_HOP_S))
    return tuple(
        f"hardware.{name}.latency_s of {hardware.name} is unknown: {hop_s * 1e6:g} us a hop is taken, NCCL's "
        "for such a link"
        for name, link, hop_s in asked
        if link is not None and link.latency_s is None
    )


def known_latency(link: Link, fallback_s: float) -> Link:
    """``link``, with a latency where the profile has none."""
    return link if link.latency_s is not None else Link(bytes_per_s=link.bytes_per_s, latency_s=fallback_s)


def ring_all_reduce_s(num_bytes: float, num_ranks: int, link: Link) -> float:
    """2(n-1)α + 2(n-1)/n · S/B: a reduce-scatter and an all-gather around a ring (Patarasuk, Yuan 2009)."""
    return 2 * ring_all_gather_s(num_bytes, num_ranks, link)


def ring_reduce_scatter_s(num_bytes: float, num_ranks: int, link: Link) -> float:
    """(n-1)α + (n-1)/n · S/B; afterwards each of n GPUs holds the sum of its S/n bytes."""
    return ring_all_gather_s(num_bytes, num_ranks, link)


def ring_all_gather_s(num_bytes: float, num_ranks: int, link: Link) -> float:
    """(n-1)α + (n-1)/n · S/B; S is the gathered tensor, of which each GPU brings S/n."""
    return (num_ranks - 1) * ring_step_s(num_bytes, num_ranks, link)


def ring_step_s(num_bytes: float, num_ranks: int, link: Link) -> float:
    """One of the ring's steps: a chunk of S/n bytes to the neighbour, α + S/(nB)."""
    return (link.latency_s or 0.0) + num_bytes / num_ranks / link.bytes_per_s


def tree_all_reduce_s(num_bytes: float, num_ranks: int, link: Link) -> float:
    """2⌈log2 n⌉α + 2 S/B: up and down a pipelined binary tree, chunks small enough that depth adds only α.

    NCCL's double tree halves neither term: each half of the data moves up and down its own tree and a
    GPU is a leaf in one of them, so that sends and receives balance.
    """
    if num_ranks <= 1:
        return 0.0
    return 2 * ceil(log2(num_ranks)) * (link.latency_s or 0.0) + 2 * num_bytes / link.bytes_per_s


def hierarchical_all_reduce_s(num_bytes: float, num_ranks: int, fabric: Fabric) -> float:
    """Reduce-scatter inside each node, all-reduce of each shard between nodes, all-gather inside.

    The shards of a node's g GPUs travel at the same time, each over its own GPU's share of the network.
    """
    inside = min(num_ranks, fabric.gpus_per_node)
    nodes = fabric.num_nodes(num_ranks)
    total = 0.0
    if inside > 1:
        total += 2 * ring_all_gather_s(num_bytes, inside, fabric.link_of(inside))
    if nodes > 1:
        outer = fabric.inter_node
        if outer is None:
            outer = fabric.link_of(num_ranks)
        total += ring_all_reduce_s(num_bytes / inside, nodes, known_latency(outer, NETWORK_HOP_S))
    return total


def parameter_server_s(num_bytes: float, num_workers: int, num_servers: int, link: Link) -> float:
    """2α + 2 n S / (k B): n workers push gradients to and pull weights from k servers that share the model.

    The servers' links carry n·S/k bytes in and as many out, one after the other; a single worker's own
    link carries S each way, which bounds where there are more servers than workers.
    """
    per_way = max(num_workers / num_servers, 1.0) * num_bytes / link.bytes_per_s
    return 2 * ((link.latency_s or 0.0) + per_way)


def send_s(num_bytes: float, link: Link) -> float:
    """α + S/B: one message to one neighbour (pipeline stages)."""
    return (link.latency_s or 0.0) + num_bytes / link.bytes_per_s


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
