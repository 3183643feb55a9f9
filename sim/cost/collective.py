"""Collectives in closed form: what n GPUs pay to sum or gather ``num_bytes`` over their links.

α is the latency of one message, B a link's bytes a second per GPU and direction, S the bytes of the whole
tensor on one GPU. Everywhere one message at a time per link, no contention with other traffic, no
reduction arithmetic (it hides behind the link). What NCCL makes of these is in ``collective_nccl``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile, Link

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
            raise ScenarioError(
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
