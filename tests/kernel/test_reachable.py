"""Every algorithm, direction, head size and value type runs with its own tiles, or says why it cannot."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest

from sim.errors import ScenarioError
from sim.hardware import load_hardware
from sim.kernel.algorithms import flash1
from sim.kernel.algorithms.problem import Copy, Gemm, Tile, TileSizes, fitting
from sim.kernel.gpu import fits, gpu_of
from sim.kernel.operations import plan_of, problem_of
from sim.kernel.run import run_launches
from sim.kernel.scenario import Attention, KernelWork

H100 = load_hardware("h100-sxm-80gb")
DTYPES: tuple[Any, ...] = ("float32", "float16", "bfloat16", "float8")
PREFILLS: tuple[Any, ...] = ("standard", "flash_attention_1", "flash_attention_2", "flash_attention_3")
DECODERS: tuple[Any, ...] = ("split_kv_decode", "paged_decode")
HEAD_SIZES = (64, 96, 128, 192, 256)


def ends(hardware: Any, work: KernelWork) -> int:
    plan = plan_of(hardware, work)
    return run_launches(plan.launches, plan.gpu.sm_count)[-1].end_ps


@pytest.mark.parametrize("algorithm", PREFILLS)
def test_prefill_and_training_of_every_head_size_and_type(algorithm: Any) -> None:
    directions: tuple[Any, ...] = ("forward", "backward")
    for head_dim, dtype, direction, causal in product(HEAD_SIZES, DTYPES, directions, (False, True)):
        attention = Attention(
            algorithm=algorithm,
            batch=1,
            num_heads=8,
            num_kv_heads=2,
            head_dim=head_dim,
            seqlen=384,
            causal=causal,
            dtype=dtype,
            direction=direction,
        )
        assert ends(H100, KernelWork(attention=attention)) > 0


@pytest.mark.parametrize("algorithm", DECODERS)
def test_decoding_of_every_head_size_type_and_group(algorithm: Any) -> None:
    for head_dim, dtype, kv_heads in product(HEAD_SIZES, DTYPES, (8, 2, 1)):
        attention = Attention(
            algorithm=algorithm,
            batch=4,
            num_heads=8,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            seqlen=1,
            seqlen_kv=2048,
            dtype=dtype,
        )
        assert ends(H100, KernelWork(attention=attention)) > 0


@pytest.mark.parametrize("name", ["t4", "v100-sxm2-16gb", "mi300x", "l40s", "rtx-4090", "b200-sxm-180gb"])
def test_devices_with_little_sram_get_smaller_tiles(name: str) -> None:
    for algorithm in (*PREFILLS, "flash_trtllm", *DECODERS):
        one = Attention(
            algorithm=algorithm, batch=1, num_heads=8, head_dim=128, seqlen=1, seqlen_kv=1024, dtype="float16"
        )
        assert ends(load_hardware(name), KernelWork(attention=one)) > 0


def test_products_of_every_type_and_copies_between_memories() -> None:
    for dtype, bits in product(DTYPES, (None, 4, 8)):
        assert ends(H100, KernelWork(gemm=Gemm(m=64, n=512, k=512, dtype=dtype, weight_bits=bits))) > 0
    assert ends(H100, KernelWork(copy=Copy(size_bytes=1e8))) > 0


def test_a_tile_is_cut_only_as_far_as_it_must_be_and_only_if_it_is_the_algorithms_own() -> None:
    gpu = gpu_of(H100)
    given = Attention(
        algorithm="flash_attention_1", batch=1, num_heads=8, head_dim=192, seqlen=384, dtype="float16"
    )
    problem = problem_of(given)
    own = flash1.tile_sizes(gpu, problem, Tile())
    cut = fitting(gpu, own, Tile(), partial(flash1.footprint, problem))
    wider = TileSizes(block_m=cut.block_m, block_n=cut.block_n + 16, num_stages=1, num_warps=cut.num_warps)
    assert fits(gpu, flash1.footprint(problem, cut))
    assert not fits(gpu, flash1.footprint(problem, wider))
    with pytest.raises(ScenarioError, match="they would spill to memory"):
        ends(H100, KernelWork(attention=given, tile=Tile(block_n=wider.block_n)))
    with pytest.raises(ScenarioError, match="max_sram_bytes_per_block"):
        ends(H100, KernelWork(attention=given, tile=Tile(block_n=own.block_n, num_warps=16)))
