"""The device that skips time against one process per block: every picosecond, every integral."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware import load_hardware
from sim.kernel.launches import BlockKind, Cost, Launch, Phase
from sim.kernel.operations import plan_of
from sim.kernel.rates import PS_PER_S
from sim.kernel.run import run_launches
from sim.kernel.scenario import Attention, KernelWork

seconds = st.sampled_from([0.0, 3.3e-8, 1e-7, 1e-6, 2.5e-6])
costs = st.builds(
    Cost,
    tensor_s=seconds,
    vector_s=seconds,
    memory_s=seconds,
    latency_s=seconds,
    exposed_fraction=st.sampled_from([0.0, 0.4, 1.0]),
    num_stages=st.integers(1, 3),
)
phases = st.builds(Phase, name=st.just("phase"), iterations=st.integers(1, 5), cost=costs)
kinds = st.builds(
    BlockKind, name=st.just("block"), phases=st.lists(phases, min_size=1, max_size=3).map(tuple)
)
launches = st.builds(
    Launch,
    name=st.just("launch"),
    grid=st.lists(st.tuples(kinds, st.integers(0, 9)), min_size=1, max_size=5).map(tuple),
    sram_bytes_per_block=st.just(1024),
    warps_per_block=st.just(4),
    blocks_per_sm=st.integers(1, 4),
    start_s=st.sampled_from([0.0, 1e-6]),
    sm_share=st.sampled_from([0.05, 0.2, 1.0]),
)


@given(st.lists(launches, min_size=1, max_size=2), st.integers(1, 6))
@settings(max_examples=200)
def test_grouped_and_block_by_block_agree_exactly(given_launches: list[Launch], sm_count: int) -> None:
    grouped = run_launches(given_launches, sm_count, spans=True)
    traced = run_launches(given_launches, sm_count, trace=True)
    for one, other in zip(grouped, traced, strict=True):
        for name in ("start_ps", "end_ps", "bound_ps", "resident", "spans"):
            assert getattr(one, name) == getattr(other, name), name


def test_a_real_attention_is_the_same_on_both_devices() -> None:
    """Causal, with a tail: 3 SMs, 40 blocks of different lengths."""
    hardware = replace(load_hardware("a100-sxm-80gb"), sm_count=3)
    attention = Attention(
        algorithm="flash_attention_2", batch=1, num_heads=5, head_dim=64, seqlen=1000, causal=True
    )
    plan = plan_of(hardware, KernelWork(attention=attention))
    (grouped,) = run_launches(plan.launches, 3, spans=True)
    (traced,) = run_launches(plan.launches, 3, trace=True)
    assert (grouped.spans, grouped.end_ps, grouped.bound_ps) == (traced.spans, traced.end_ps, traced.bound_ps)
    assert len(traced.spans) == 40
    assert sum(tile.phase == "loop" for tile in traced.tiles) == 5 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8)


def _one_phase(cost: Cost, count: int, **more: float) -> Launch:
    kind = BlockKind(name="block", phases=(Phase(name="loop", iterations=10, cost=cost),))
    return Launch(
        name="launch",
        grid=((kind, count),),
        sram_bytes_per_block=0,
        warps_per_block=4,
        blocks_per_sm=int(more.get("blocks_per_sm", 1)),
        start_s=0.0,
        sm_share=more.get("sm_share", 1.0),
    )


def test_waves_emerge() -> None:
    """9 equal blocks on 4 SMs take three times as long as one block."""
    cost = Cost(tensor_s=1e-6)
    (one,) = run_launches([_one_phase(cost, 1)], 4)
    (nine,) = run_launches([_one_phase(cost, 9)], 4)
    assert nine.end_ps == 3 * one.end_ps == 30 * PS_PER_S // 1_000_000


def test_memory_is_shared_and_one_sm_cannot_draw_all_of_it() -> None:
    """n blocks that only load take n times one's share, but never less than an SM's own limit allows."""
    cost = Cost(memory_s=1e-7, num_stages=2)
    ends = {
        n: run_launches([_one_phase(cost, n, sm_share=0.25)], 16)[0].end_ps / 10 / 1e6 for n in (1, 4, 8, 16)
    }
    assert {n: round(end, 6) for n, end in ends.items()} == {1: 0.4, 4: 0.4, 8: 0.8, 16: 1.6}


def test_software_pipelining_hides_the_load() -> None:
    """One stage: load, then compute. Two: the longer of the two."""
    times = {
        stages: run_launches([_one_phase(Cost(tensor_s=1e-6, memory_s=5e-7, num_stages=stages), 1)], 1)[
            0
        ].end_ps
        for stages in (1, 2)
    }
    assert (times[1], times[2]) == (pytest.approx(15_000_000, abs=1), 10_000_000)


def test_neighbours_share_the_tensor_cores_and_speed_up_when_alone() -> None:
    """Two residents at half speed each; three blocks on one SM of two slots end like three in a row."""
    launch = _one_phase(Cost(tensor_s=1e-6), 3, blocks_per_sm=2)
    (record,) = run_launches([launch], 1)
    assert record.end_ps == 30_000_000
    assert record.resident == ((0, 2), (20_000_000, 1), (30_000_000, 0))
