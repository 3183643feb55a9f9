"""Collectives: closed forms exactly, NCCL's regimes in order, and measured times."""

from __future__ import annotations

from math import log2
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import ScenarioError
from sim.hardware import Link, load_hardware
from sim.price.collective import (
    NVLINK_HOP_S,
    Fabric,
    fabric_of,
    hierarchical_all_reduce_s,
    nccl_cost,
    nccl_regimes,
    parameter_server_s,
    ring_all_gather_s,
    ring_all_reduce_s,
    ring_reduce_scatter_s,
    ring_step_s,
    tree_all_reduce_s,
)

LINK = Link(bytes_per_s=100e9, latency_s=5e-6)
NODE = Fabric(
    gpus_per_node=8,
    intra_node=Link(bytes_per_s=300e9, latency_s=3e-6),
    inter_node=Link(bytes_per_s=25e9, latency_s=1e-5),
    architecture="Ampere",
)
RANKS = st.integers(2, 1024)
SIZES = st.floats(1, 1e11)


@given(RANKS, SIZES)
def test_ring_all_reduce_is_its_closed_form(n: int, size: float) -> None:
    exact = 2 * (n - 1) * 5e-6 + 2 * (n - 1) / n * size / 100e9
    assert ring_all_reduce_s(size, n, LINK) == pytest.approx(exact, rel=1e-12)


@given(RANKS, SIZES)
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(n: int, size: float) -> None:
    both = ring_reduce_scatter_s(size, n, LINK) + ring_all_gather_s(size, n, LINK)
    assert ring_all_reduce_s(size, n, LINK) == both
    assert ring_all_reduce_s(size, n, LINK) == pytest.approx(2 * (n - 1) * ring_step_s(size, n, LINK))


def test_one_gpu_exchanges_nothing() -> None:
    assert ring_all_reduce_s(1e9, 1, LINK) == 0
    assert tree_all_reduce_s(1e9, 1, LINK) == 0
    assert hierarchical_all_reduce_s(1e9, 1, NODE) == 0
    assert nccl_cost("all_reduce", 1e9, 1, NODE).total_s == 0


def test_a_tree_has_less_latency_and_a_ring_more_bandwidth() -> None:
    assert tree_all_reduce_s(0, 64, LINK) == pytest.approx(2 * log2(64) * 5e-6)
    assert tree_all_reduce_s(1e3, 64, LINK) < ring_all_reduce_s(1e3, 64, LINK)
    assert tree_all_reduce_s(1e10, 64, LINK) > ring_all_reduce_s(1e10, 64, LINK)


def test_a_hierarchy_in_one_node_is_a_ring() -> None:
    assert NODE.intra_node is not None
    assert hierarchical_all_reduce_s(1e9, 8, NODE) == ring_all_reduce_s(1e9, 8, NODE.intra_node)


def test_a_hierarchy_over_nodes_by_hand() -> None:
    """8 MB over 2 nodes of 8: 7 steps of 1 MB inside, twice; then 1 MB between 2 nodes, 2 steps of 0.5 MB."""
    inside = 2 * 7 * (3e-6 + 1e6 / 300e9)
    between = 2 * 1 * (1e-5 + 0.5e6 / 25e9)
    assert hierarchical_all_reduce_s(8e6, 16, NODE) == pytest.approx(inside + between, rel=1e-12)


def test_a_parameter_server_by_hand() -> None:
    """8 workers, 2 servers, 1 GB: each server takes in and gives out 4 GB."""
    assert parameter_server_s(1e9, 8, 2, LINK) == pytest.approx(2 * (5e-6 + 4e9 / 100e9))
    assert parameter_server_s(1e9, 8, 64, LINK) == pytest.approx(2 * (5e-6 + 1e9 / 100e9))


def test_between_nodes_all_nics_of_a_node_work() -> None:
    assert NODE.link_of(8).bytes_per_s == 300e9
    assert NODE.link_of(16).bytes_per_s == 8 * 25e9
    assert NODE.link_of(16).latency_s == 1e-5


def test_a_latency_that_the_profile_does_not_know_is_nccls() -> None:
    assert fabric_of(load_hardware("a100-sxm-80gb")).link_of(8).latency_s == NVLINK_HOP_S


def test_gpus_without_links_cannot_exchange() -> None:
    fabric = Fabric(gpus_per_node=8, intra_node=None, inter_node=None)
    with pytest.raises(ScenarioError, match="intra_node is unknown"):
        nccl_cost("all_reduce", 1e6, 8, fabric)


@given(st.sampled_from([2, 4, 8, 16, 64, 512]), st.floats(1e3, 1e10))
def test_nccl_takes_the_fastest_regime(n: int, size: float) -> None:
    chosen = nccl_cost("all_reduce", size, n, NODE)
    regimes = nccl_regimes(size, n, NODE)
    assert chosen == regimes[0]
    assert chosen.total_s == pytest.approx(chosen.latency_s + chosen.transfer_s)
    assert [r.total_s for r in regimes] == sorted(r.total_s for r in regimes)


def test_regimes_of_nccl_by_size() -> None:
    """From small to large messages over 8 nodes: LL, LL128, Simple; trees before rings (nccl#754)."""
    found = []
    for octave in range(8, 34):
        cost = nccl_cost("all_reduce", 2.0**octave, 64, NODE)
        if (cost.algorithm, cost.protocol) not in found:
            found.append((cost.algorithm, cost.protocol))
    assert found[0] == ("tree", "LL")
    assert found[-1] == ("ring", "Simple")
    protocols = [protocol for _, protocol in found]
    assert protocols == sorted(protocols, key=["LL", "LL128", "Simple"].index)


def test_bus_bandwidth_of_large_messages_between_nodes() -> None:
    """nccl-tests over one 400 Gb/s NIC: 48.7 GB/s of 50 (H200, NVLink forced off)."""
    fabric = Fabric(
        gpus_per_node=1, intra_node=None, inter_node=Link(bytes_per_s=50e9), architecture="Hopper"
    )
    size = 8589934592.0
    bus = size / nccl_cost("all_reduce", size, 8, fabric).total_s * 2 * 7 / 8
    assert bus == pytest.approx(48.71e9, rel=0.05)


@pytest.mark.parametrize(
    ("gpu", "profile", "at_most"),
    [("a100_sxm", "a100-sxm-80gb", 0.10), ("h100_sxm", "h100-sxm-80gb", 0.10)],
)
def test_large_all_reduces_of_4_and_8_gpus(shared: Path, gpu: str, profile: str, at_most: float) -> None:
    """Median error over messages above 16 MiB; NVLINK_FRACTION was read from the largest of them."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = pandas.read_parquet(shared / "measured/kernels/aic/nccl.parquet")
    chosen = table[(table.gpu == gpu) & (table.op == "all_reduce") & (table.dtype == "half")]
    chosen = chosen[(chosen.num_gpus >= 4) & (chosen.message_bytes > 2**24)]
    fabric = fabric_of(load_hardware(profile))
    errors = [
        abs(
            nccl_cost("all_reduce", row.message_bytes, row.num_gpus, fabric).total_s * 1e6 / row.latency_us
            - 1
        )
        for row in chosen.itertuples()
    ]
    assert len(errors) >= 10
    assert median(errors) <= at_most


def test_nvls_of_an_h200_that_the_fit_has_not_seen() -> None:
    """nccl-tests on eight H200s, 8 GiB: 31,306.8 us (NCCL 2.29.7), 480 GB/s on a bus of 450."""
    cost = nccl_cost("all_reduce", 8589934592.0, 8, fabric_of(load_hardware("h200-sxm-141gb")))
    assert cost.algorithm == "nvls"
    assert cost.total_s == pytest.approx(31306.8e-6, rel=0.06)
