"""Kernel laws: what must hold for any constants, and the shipped ones against published figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware import HardwareProfile, KernelFit, hardware_names, load_hardware
from sim.hardware.laws.device import KernelLaw
from sim.hardware.laws.gemm import tiled_s, tilings
from sim.hardware.laws.registry import LAWS
from sim.price.law_times import law_device

MEASURED = ("a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb", "l40s")
WITH_KERNELS = [name for name in hardware_names() if load_hardware(name).kernels]


def seconds(hardware: HardwareProfile, operator: str, **sizes: float) -> float:
    fit = hardware.kernels[operator]
    device = law_device(hardware, operator)
    arrays = {name: np.array([float(value)]) for name, value in sizes.items()}
    return float(LAWS[fit.law].seconds(arrays, fit.constants, device)[0])


def gemm(hardware: HardwareProfile, m: float, n: float, k: float, copies: float = 1e9) -> float:
    return seconds(hardware, "gemm_bfloat16", m=m, n=n, k=k, copies=copies, weight_bits=16, value_bytes=2)


def decode(
    hardware: HardwareProfile, sequences: float, context: float, kv_heads: float = 8, copies: float = 1e9
) -> float:
    return seconds(
        hardware, "attention_decode", sequences=sequences, context=context,
        heads=32, kv_heads=kv_heads, head_dim=128, kv_bytes=2, copies=copies,
    )  # fmt: skip


def prefill(hardware: HardwareProfile, queries: float, cached: float = 0, heads: float = 32) -> float:
    return seconds(
        hardware, "attention_prefill",
        sequences=1, queries=queries, cached=cached, heads=heads, kv_heads=8, head_dim=128, kv_bytes=2,
    )  # fmt: skip


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_a_law_is_a_curve_and_not_a_table(law: KernelLaw) -> None:
    assert len(law.constants) <= 30


@pytest.mark.parametrize("name", WITH_KERNELS)
@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.integers(1, 100_000), min_size=1, max_size=40),
    n=st.integers(1, 130_000),
    k=st.integers(1, 60_000),
    quantisation=st.sampled_from([0.01, 0.5, 1.0]),
    cheap_splits=st.booleans(),
)
def test_the_fastest_tiling_is_found_without_trying_all(
    name: str, rows: list[int], n: int, k: int, quantisation: float, cheap_splits: bool
) -> None:
    """To the last bit: which splits are left out must not show in any price."""
    device = law_device(load_hardware(name), "gemm_bfloat16")
    sizes = {"m": rows, "n": n, "k": k, "value_bytes": 2, "weight_bits": 16, "copies": 1e9}
    arrays = dict(zip(sizes, np.broadcast_arrays(*map(np.float64, sizes.values())), strict=True))
    constants = {**load_hardware(name).kernels["gemm_bfloat16"].constants, "quantisation": quantisation}
    if cheap_splits:
        constants |= {"split_s": 1e-9, "tile_s": 1e-8, "tile_area_s": 1e-9}
    every = np.min([time for _, _, time in tilings(arrays, constants, device)], axis=0)
    assert tiled_s(arrays, constants, device).tolist() == every.tolist()


@pytest.mark.parametrize("name", MEASURED)
@given(
    m=st.integers(1, 32768),
    n=st.sampled_from([256, 1024, 4096, 14336, 128256]),
    k=st.sampled_from([256, 1024, 4096, 14336]),
)
def test_no_gemm_beats_the_roofline(name: str, m: int, n: int, k: int) -> None:
    """Cold weights cannot come faster than HBM brings them, nor FLOPs than the dense peak (5 % of clock)."""
    hardware = load_hardware(name)
    time = gemm(hardware, m, n, k)
    assert time >= 2.0 * m * n * k / hardware.peak_flops_per_s["bfloat16"] / 1.05
    assert time >= 2.0 * n * k / hardware.hbm_bytes_per_s / 1.05


@pytest.mark.parametrize("name", MEASURED)
@given(sequences=st.integers(1, 512), context=st.integers(64, 65536))
def test_decode_reads_its_kv_no_faster_than_hbm(name: str, sequences: int, context: int) -> None:
    """In a model, where the other layers push it out of L2; a hot loop over a small KV may be faster."""
    hardware = load_hardware(name)
    kv = 4.0 * 8 * 128 * sequences * context
    cold = decode(hardware, sequences, context)
    assert cold >= kv / hardware.hbm_bytes_per_s / 1.05
    assert decode(hardware, sequences, context, copies=1) <= cold


@pytest.mark.parametrize("name", MEASURED)
@given(queries=st.integers(128, 16384), cached=st.integers(0, 32768))
def test_prefill_never_beats_the_peak(name: str, queries: int, cached: int) -> None:
    hardware = load_hardware(name)
    pairs = queries * cached + queries * (queries + 1) / 2
    peak = hardware.peak_flops_per_s["bfloat16"]
    assert prefill(hardware, queries, cached) >= 4.0 * pairs * 32 * 128 / peak / 1.05


@pytest.mark.parametrize("name", WITH_KERNELS)
@given(start=st.integers(1, 8192), factor=st.sampled_from([2, 3, 8]))
def test_more_work_takes_longer(name: str, start: int, factor: int) -> None:
    """Twice the work is never cheaper; a wave that fills better may make a part of a step flat."""
    hardware = load_hardware(name)
    assert gemm(hardware, factor * start, 4096, 4096) >= gemm(hardware, start, 4096, 4096) * 0.999
    assert decode(hardware, 16, factor * start) >= decode(hardware, 16, start) * 0.98
    assert prefill(hardware, factor * start) >= prefill(hardware, start) * 0.98
    assert prefill(hardware, start, factor * start) >= prefill(hardware, start, start) * 0.98


@pytest.mark.parametrize("name", MEASURED[:4])
@given(exponent=st.integers(9, 28), gpus=st.sampled_from([2, 4, 8]))
def test_all_reduce_grows_with_the_message(name: str, exponent: int, gpus: int) -> None:
    hardware = load_hardware(name)
    small = seconds(hardware, "all_reduce_nccl", gpus=gpus, bytes=2.0**exponent)
    large = seconds(hardware, "all_reduce_nccl", gpus=gpus, bytes=2.0 ** (exponent + 1))
    assert small <= large <= 2.0 * small + 1e-9


def test_published_gemm_rates() -> None:
    """The best dense bfloat16 GEMMs: 794 TFLOPS on an H100 SXM, 268 on an A100 (ml-engineering, MAMF)."""
    flops = 2.0 * 8192**3
    h100, a100 = load_hardware("h100-sxm-80gb"), load_hardware("a100-sxm-80gb")
    assert flops / gemm(h100, 8192, 8192, 8192) == pytest.approx(794e12, rel=0.12)
    assert flops / gemm(a100, 8192, 8192, 8192) == pytest.approx(268e12, rel=0.12)


def test_published_flash_attention_rates() -> None:
    """Causal, heads of 128, 16k tokens: FlashAttention-2 150 to 225 TFLOPS on A100, 3 500 to 700 on H100."""
    flops = 4.0 * 16 * 128 * 16384**2 / 2
    a100, h100 = load_hardware("a100-sxm-80gb"), load_hardware("h100-sxm-80gb")
    assert 150e12 < flops / prefill(a100, 16384, heads=16) < 225e12
    assert 450e12 < flops / prefill(h100, 16384, heads=16) < 700e12


def test_published_bus_bandwidth() -> None:
    """A large NCCL all-reduce over eight H100 reaches 480 GB/s of bus bandwidth (in-switch reduction)."""
    message = 512 * 2.0**20
    time = seconds(load_hardware("h100-sxm-80gb"), "all_reduce_nccl", gpus=8, bytes=message)
    assert 430e9 < 2 * 7 / 8 * message / time < 500e9


def test_hot_weights_are_faster_than_cold_ones() -> None:
    hardware = load_hardware("h100-sxm-80gb")
    assert gemm(hardware, 16, 1024, 2048, copies=1) <= gemm(hardware, 16, 1024, 2048)


def test_grouped_queries_gain_only_where_the_kv_is_large() -> None:
    """Facts a naive model gets wrong: about nothing at one sequence, 2 and more at 64 × 2048."""
    hardware = load_hardware("a100-sxm-80gb")
    assert decode(hardware, 1, 256, kv_heads=32) / decode(hardware, 1, 256) < 1.15
    assert decode(hardware, 64, 2048, kv_heads=32) / decode(hardware, 64, 2048) > 2.0


def test_a_borrower_has_the_lenders_constants() -> None:
    for name in WITH_KERNELS:
        for operator, fit in load_hardware(name).kernels.items():
            if fit.borrowed_from:
                lender = load_hardware(fit.borrowed_from).kernels[operator]
                assert replace(fit, borrowed_from="") == lender
                assert isinstance(lender, KernelFit) and not lender.borrowed_from


@pytest.mark.parametrize("name", MEASURED)
def test_weights_in_rotation_come_from_l2_until_they_outgrow_it(name: str) -> None:
    """Half of L2 in rotation reads faster than HBM could bring it; three times L2 does not."""
    hardware = load_hardware(name)
    assert hardware.l2_bytes is not None
    n = k = int((hardware.l2_bytes / 6 / 2) ** 0.5)  # bfloat16: six copies fill L2 once
    small, large = gemm(hardware, 4, n / 2, k, copies=6), gemm(hardware, 4, 3 * n, k, copies=6)
    cold = gemm(hardware, 4, n / 2, k)
    assert small <= cold
    assert 3 * n * k * 2 / large < hardware.hbm_bytes_per_s
    assert large == pytest.approx(gemm(hardware, 4, 3 * n, k), rel=0.03)


def test_constants_that_a_profile_does_not_state_leave_the_law_as_it_was() -> None:
    """A profile fitted before the GEMM law knew thin kernels has no step at 16 rows."""
    older, newer = load_hardware("h100-sxm-80gb"), load_hardware("l40s")
    assert older.kernels["gemm_float8"].constants["thin_start"] == 1.0
    sizes = {"n": 12288, "k": 1024, "copies": 6, "weight_bits": 8, "value_bytes": 1}
    step = {
        one.name: seconds(one, "gemm_float8", m=17, **sizes) / seconds(one, "gemm_float8", m=16, **sizes)
        for one in (older, newer)
    }
    assert step[older.name] < 1.15
    assert step[newer.name] > 1.2  # measured: 10.1 us at 17 rows, 5.9 to 8.5 us at most of 1 to 16
