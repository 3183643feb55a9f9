"""How gradients meet, by name, and what one bucket's all-reduce costs, in whole picoseconds.

``EXCHANGES`` is the only place that names an algorithm: loader, schema, checks, prices, both simulations and
reports ask its entry. What is simulated is its ``pattern``; a collective of the user's needs a price only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from sim.arrays import to_ps
from sim.price.collective import Fabric, hierarchical_all_reduce_s, nccl_cost, ring_step_s, tree_all_reduce_s
from sim.scenario.dataclass import dataclass

# free: no gradient takes any time; all_reduce: buckets, each when every worker's is ready; server: pushes and
# pulls in turn; single_process: one thread per GPU of a node, through GPU 0.
Pattern = Literal["free", "all_reduce", "server", "single_process"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """An exchange: everything that anybody asks about it. Prices are of (bytes, workers, links)."""

    meaning: str
    pattern: Pattern
    all_reduce_ps: Callable[[int, int, Fabric], int] | None = None  # of one bucket; all_reduce has it
    chunk_ps: Callable[[int, int, Fabric], tuple[int, int]] | None = None  # (latency, transfer) of a chunk
    regime: Callable[[int, int, Fabric], str] | None = None  # what carries a bucket, where the price chooses
    is_nccl: bool = False  # has NCCL's all-gather and reduce-scatter, too: shards with ZeRO
    has_slow_links: bool = False  # a slow link makes it slower

    def price_ps(self, num_bytes: int, num_workers: int, fabric: Fabric) -> int:
        """One bucket's all-reduce."""
        if self.all_reduce_ps is None:
            raise ValueError(f"{self.pattern} has no all-reduce")
        return self.all_reduce_ps(num_bytes, num_workers, fabric)


def ring_chunk_ps(num_bytes: int, num_workers: int, fabric: Fabric) -> tuple[int, int]:
    """(latency, transfer) of one chunk of a ring; together ``ring_step_s``."""
    link = fabric.link_of(num_workers)
    latency = to_ps(link.latency_s or 0.0)
    return latency, to_ps(ring_step_s(num_bytes, num_workers, link)) - latency


def _ring_ps(num_bytes: int, num_workers: int, fabric: Fabric) -> int:
    return 2 * (num_workers - 1) * sum(ring_chunk_ps(num_bytes, num_workers, fabric))


def _tree_ps(num_bytes: int, num_workers: int, fabric: Fabric) -> int:
    return to_ps(tree_all_reduce_s(num_bytes, num_workers, fabric.link_of(num_workers)))


def _hierarchical_ps(num_bytes: int, num_workers: int, fabric: Fabric) -> int:
    return to_ps(hierarchical_all_reduce_s(num_bytes, num_workers, fabric))


def _nccl_ps(num_bytes: int, num_workers: int, fabric: Fabric) -> int:
    return to_ps(nccl_cost("all_reduce", num_bytes, num_workers, fabric).total_s)


def _nccl_regime(num_bytes: int, num_workers: int, fabric: Fabric) -> str:
    cost = nccl_cost("all_reduce", num_bytes, num_workers, fabric)
    return f"{cost.algorithm}/{cost.protocol}"


EXCHANGES: dict[str, Algorithm] = {
    "none": Algorithm(meaning="free", pattern="free"),
    "ring": Algorithm(
        meaning="alpha-beta",
        pattern="all_reduce",
        all_reduce_ps=_ring_ps,
        chunk_ps=ring_chunk_ps,
        has_slow_links=True,
    ),
    "tree": Algorithm(
        meaning="alpha-beta", pattern="all_reduce", all_reduce_ps=_tree_ps, has_slow_links=True
    ),
    "hierarchical": Algorithm(
        meaning="alpha-beta, within nodes and between them",
        pattern="all_reduce",
        all_reduce_ps=_hierarchical_ps,
        has_slow_links=True,
    ),
    "nccl": Algorithm(
        meaning="the fastest of NCCL's algorithms and protocols",
        pattern="all_reduce",
        all_reduce_ps=_nccl_ps,
        regime=_nccl_regime,
        is_nccl=True,
        has_slow_links=True,
    ),
    "parameter_server": Algorithm(
        meaning="shards that workers push to and pull from", pattern="server", has_slow_links=True
    ),
    "data_parallel_single_process": Algorithm(meaning="torch.nn.DataParallel", pattern="single_process"),
}


def algorithms_where(holds: Callable[[Algorithm], bool]) -> str:
    """The names of these algorithms, for an error's "allowed"."""
    return ", ".join(name for name, algorithm in EXCHANGES.items() if holds(algorithm))
