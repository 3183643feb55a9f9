"""What FlashAttention's papers claim, and what the simulator says: traffic, slopes, memory, speed-ups."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sim.errors import ScenarioError
from sim.hardware import load_hardware
from sim.kernel.algorithms import flash1
from sim.kernel.algorithms.flash1 import tile_sizes
from sim.kernel.algorithms.problem import Gemm, Tile
from sim.kernel.gpu import gpu_of
from sim.kernel.launches import totals_of
from sim.kernel.operations import plan_of, problem_of
from sim.kernel.run import run_kernel
from sim.kernel.scenario import Attention, KernelScenario, KernelWork
from sim.price.kernel_set import Squares, peak_bytes

A100 = load_hardware("a100-sxm-40gb")
GPT2 = Attention(
    algorithm="standard",
    batch=64,
    num_heads=16,
    head_dim=64,
    seqlen=1024,
    dtype="float16",
    direction="forward_backward",
    mask=True,
    dropout=True,
)


def run(attention: Attention, hardware: Any = A100, tile: Tile | None = None) -> Any:
    work = KernelWork(attention=attention, tile=tile or Tile())
    return run_kernel(
        KernelScenario(schema_version=1, question="?", kind="kernel", hardware=hardware, kernel=work)
    )


def moved(found: Any) -> float:
    return float(sum(sum(one.reads.values()) + sum(one.writes.values()) for one in found.plan.launches))


def test_traffic_of_gpt2_medium() -> None:
    """FlashAttention, Fig. 2 (2205.14135v2): 40.3 GB standard, 4.4 GB flash."""
    standard, flash = run(GPT2), run(replace(GPT2, algorithm="flash_attention_1"))
    assert moved(standard) == pytest.approx(40.3e9, rel=0.10)
    assert moved(flash) == pytest.approx(4.4e9, rel=0.10)
    assert moved(run(replace(GPT2, mask=False, dropout=False))) == pytest.approx(25.2e9, rel=0.02)
    # The times of the same figure: 41.7 ms and 7.3 ms.
    assert standard.time_ps * 1e-9 == pytest.approx(41.7, rel=0.25)
    assert flash.time_ps * 1e-9 == pytest.approx(7.3, rel=0.45)


def _accesses(length: int, dim: int, elements: int) -> float:
    """Elements that one head's forward pass loads and stores with M elements of SRAM."""
    hardware = replace(A100, sram_bytes_per_sm=2 * elements)
    given = Attention(
        algorithm="flash_attention_1", batch=1, num_heads=1, head_dim=dim, seqlen=length, dtype="float16"
    )
    problem = problem_of(given)
    tile = tile_sizes(gpu_of(hardware), problem, Tile())
    reads, writes = totals_of(flash1.blocks(problem, tile, 1, is_backward=False))
    return sum(reads.values()) + sum(writes.values())


def _slope(xs: list[int], ys: list[float]) -> float:
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def test_accesses_grow_as_theorem_2_says() -> None:
    """Θ(N² d² / M) for M ≤ N d / 8."""
    lengths = [8192, 16384, 32768, 65536]
    assert _slope(lengths, [_accesses(n, 64, 32768) for n in lengths]) == pytest.approx(2, abs=0.05)
    dims = [64, 128, 256]
    assert _slope(dims, [_accesses(65536, d, 65536) for d in dims]) == pytest.approx(2, abs=0.05)
    sizes = [8192, 16384, 32768, 65536]
    assert _slope(sizes, [_accesses(16384, 128, m) for m in sizes]) == pytest.approx(-1, abs=0.05)


def test_extra_memory_is_exactly_linear_against_exactly_quadratic() -> None:
    lengths = (512, 1024, 2048, 4096)
    for algorithm, power in (("flash_attention_1", 1), ("flash_attention_2", 1), ("standard", 2)):
        extra = [
            plan_of(
                A100, KernelWork(attention=replace(GPT2, algorithm=algorithm, batch=1, seqlen=n))
            ).extra_bytes  # type: ignore[arg-type]
            for n in lengths
        ]
        assert [b / a for a, b in pairwise(extra)] == [2**power] * 3


def test_memory_at_4096_tokens_against_the_paper() -> None:
    """Appendix E.6 (batch 16, 8 heads, MB of 2^20 bytes): 17,024 against 836 at 4,096 tokens."""
    paper = replace(GPT2, batch=16, num_heads=8, seqlen=4096, mask=False, dropout=False)
    standard, flash = run(paper), run(replace(paper, algorithm="flash_attention_1"))
    assert standard.memory_bytes == pytest.approx(17_024 * 2**20, rel=0.01)
    # 20 times less in the paper, 26 here: it measures 13 N d tensors, of which 3 are not known.
    assert flash.memory_bytes == pytest.approx((836 - 3 * 64) * 2**20, rel=0.01)
    assert standard.memory_bytes / flash.memory_bytes >= 10
    for length, megabytes in ((1024, 1184), (2048, 4416)):
        assert run(replace(paper, seqlen=length)).memory_bytes == pytest.approx(megabytes * 2**20, rel=0.03)


def test_peaks_of_standard_attention_count_the_tensors_of_its_code() -> None:
    """In N² tensors: S and P forward; P, dP, dP ∘ P and dS backward; dropout's copies and byte masks."""
    sizes = Squares(scores=1000, element_bytes=2, mask_elements=0, has_dropout=False)
    assert peak_bytes(sizes, forward=True, backward=False) == 2 * 2000
    assert peak_bytes(sizes, forward=True, backward=True) == 4 * 2000
    dropped = replace(sizes, has_dropout=True)
    assert peak_bytes(dropped, forward=True, backward=False) == 3.5 * 2000
    assert peak_bytes(dropped, forward=False, backward=True) == 5.5 * 2000
    masked = replace(sizes, mask_elements=100)
    assert peak_bytes(masked, forward=True, backward=False) == 2 * 2000 + 100 * (4 + 2)
    assert peak_bytes(masked, forward=True, backward=True) == 4 * 2000


def test_time_falls_with_the_block_size_then_flattens() -> None:
    """Fig. 2, middle: fewer accesses with larger blocks, until compute takes over."""
    attention = replace(GPT2, algorithm="flash_attention_1", direction="forward", mask=False, dropout=False)
    times = [run(attention, tile=Tile(block_m=64, block_n=n)).time_ps for n in (32, 64, 128, 256, 512)]
    assert all(b < a for a, b in pairwise(times[:4]))
    assert times[0] / times[1] > 1.15 > times[3] / times[4] > 0.9


def test_a_tile_beyond_the_device_is_refused_with_the_limit() -> None:
    attention = replace(GPT2, algorithm="flash_attention_2", head_dim=128)
    with pytest.raises(ScenarioError) as refused:
        run(attention, tile=Tile(block_n=512))
    assert "max_sram_bytes_per_block" in str(refused.value)
    with pytest.raises(ScenarioError) as refused:
        run_kernel(
            KernelScenario(
                schema_version=1,
                question="?",
                kind="kernel",
                hardware=A100,
                kernel=KernelWork(
                    gemm=Gemm(m=4096, n=4096, k=4096),
                    tile=Tile(block_m=512, block_n=256, block_k=16, num_stages=1),
                ),
            )
        )
    assert "register_file_bytes_per_sm" in str(refused.value)


def test_a_paged_prefill_writes_its_pages_and_finds_what_fits_in_l2() -> None:
    """K and V are read and written once more; inputs that fit L2 come from there, larger ones from HBM."""
    small = Attention(algorithm="flash_attention_2", batch=1, num_heads=8, seqlen=512, causal=True)
    dense, paged = run(small), run(replace(small, layout="paged"))
    new = 2 * 8 * 512 * 128 * 2
    tables = sum(one.reads.get("block_table", 0) for one in paged.plan.launches)
    assert moved(paged) == moved(dense) + 2 * new + tables
    assert sum(one.from_hbm_bytes for one in paged.plan.launches) == 0
    large = run(replace(small, layout="paged", batch=64))
    assert sum(one.from_hbm_bytes for one in large.plan.launches) >= 64 * 2 * new


def test_identical_blocks_are_simulated_together() -> None:
    """What makes 16k tokens with 32 heads, or 200,000 blocks, a matter of a moment: events, not blocks."""
    long = Attention(
        algorithm="flash_attention_2", batch=1, num_heads=32, head_dim=128, seqlen=16384, causal=True
    )
    found = run(long)
    assert sum(one.num_decisions for one in found.records) < found.plan.launches[0].num_blocks
    many = replace(long, batch=1024, seqlen=1024, num_heads=25)
    found = run(many, load_hardware("h100-sxm-80gb"))
    assert found.plan.launches[0].num_blocks >= 200_000
    assert sum(one.num_decisions for one in found.records) < found.plan.launches[0].num_blocks / 20
