"""Experts: how many are hit, against draws; their kernel against rooflines and the plain GEMM."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import plain_engine

from sim.hardware import hardware_names, load_hardware
from sim.hardware.laws.gemm import experts_hit, tiled_s
from sim.hardware.laws.registry import LAWS
from sim.model.config import load_model
from sim.price.law_times import law_device
from sim.price.providers.analytic import AnalyticTimes
from sim.rng import stream
from sim.serving.scenario import Scenario, Workload

WITH_EXPERTS = [name for name in hardware_names() if "experts_bfloat16" in load_hardware(name).kernels]
H100 = load_hardware("h100-sxm-80gb")


def seconds(operator: str = "experts_bfloat16", name: str = "h100-sxm-80gb", **sizes: float) -> float:
    """One layer of Mixtral-8x7B, but for ``sizes``."""
    hardware = load_hardware(name)
    fit = hardware.kernels[operator]
    width = 1.0 if operator.endswith("float8") else 2.0
    given_: dict[str, float] = {
        "tokens": 1, "hidden": 4096, "inner": 14336, "up_matrices": 2, "experts_per_token": 2, "hit": 2,
        "value_bytes": width, "weight_bits": 8 * width, "copies": 1e9, **sizes,
    }  # fmt: skip
    arrays = {key: np.array([float(value)]) for key, value in given_.items()}
    return float(LAWS[fit.law].seconds(arrays, fit.constants, law_device(hardware, operator))[0])


def times_of(model: str, hardware: str = "h100-sxm-80gb", **engine: object) -> AnalyticTimes:
    return AnalyticTimes(
        Scenario(
            schema_version=1, question="", kind="serving", hardware=load_hardware(hardware),
            model=load_model(model), workload=Workload(),
            engine=plain_engine(**engine),  # type: ignore[arg-type]
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("experts", "per_token", "tokens"), [(8, 2, 1), (8, 2, 3), (128, 8, 10), (256, 8, 64), (64, 6, 500)]
)
def test_distinct_experts_are_those_of_a_draw(experts: int, per_token: int, tokens: int) -> None:
    """200 draws of per_token different experts for each token; the mean within 4 standard errors."""
    rng = stream(1, "experts")
    draws = np.argsort(rng.random((200, tokens, experts)), axis=2)[:, :, :per_token].reshape(200, -1)
    counts = np.array([len(np.unique(one)) for one in draws])
    expected = float(experts_hit(experts, per_token, np.array([float(tokens)]))[0])
    assert abs(counts.mean() - expected) <= 4 * counts.std() / np.sqrt(len(counts)) + 1e-9


@given(experts=st.integers(2, 512), per_token=st.integers(1, 32), tokens=st.integers(1, 20_000))
def test_no_more_experts_are_hit_than_there_are_or_are_asked(
    experts: int, per_token: int, tokens: int
) -> None:
    per_token = min(per_token, experts)
    one, more = experts_hit(experts, per_token, np.array([float(tokens), tokens + 1.0]))
    assert min(per_token, experts) - 1e-9 <= one <= min(experts, per_token * tokens) + 1e-9
    assert more >= one


@pytest.mark.parametrize("name", WITH_EXPERTS)
@given(tokens=st.integers(1, 16384), hit=st.integers(1, 8))
def test_no_faster_than_weights_arrive_nor_than_the_peak(name: str, tokens: int, hit: int) -> None:
    hardware = load_hardware(name)
    hit = min(hit, 2 * tokens)
    time = seconds(name=name, tokens=tokens, hit=hit)
    weights = hit * 3 * 4096 * 14336 * 2
    assert time >= weights / hardware.hbm_bytes_per_s / 1.05
    peak = law_device(hardware, "experts_bfloat16").flops_per_s
    assert time >= 2 * tokens * 2 * 3 * 4096 * 14336 / peak / 1.05


def test_one_expert_is_a_plain_product() -> None:
    """As many groups of m rows take the tiles of one product with all rows, where tiles come out even."""
    constants, device = H100.kernels["gemm_bfloat16"].constants, law_device(H100, "gemm_bfloat16")
    shared = {"n": np.array([4096.0]), "k": np.array([4096.0])}
    shared |= {"value_bytes": np.array([2.0]), "weight_bits": np.array([16.0])}
    whole = tiled_s({"m": np.array([2048.0]), **shared}, constants, device)
    groups = tiled_s({"m": np.array([256.0]), "groups": np.array([8.0]), **shared}, constants, device)
    assert groups == pytest.approx(whole)


def test_more_tokens_read_more_experts_until_all_are_read() -> None:
    """Mixtral-8x7B: one token reads 2 experts, 64 read all 8 (1 - 0.75^64), and 256 no more of them."""
    times = times_of("mixtral-8x7b", "h200-sxm-141gb")
    one, many, more = (
        float(times.linear_s(np.array([tokens]))["moe_experts"][0]) for tokens in (1.0, 64.0, 256.0)
    )
    assert 3 < many / one < 4
    assert more / many < 1.25


def test_fp8_experts_take_their_own_law_and_others_the_roofline() -> None:
    plain = times_of("mixtral-8x7b").linear_s(np.array([64.0]))
    fp8 = times_of("mixtral-8x7b", quantization="fp8").linear_s(np.array([64.0]))
    int4 = times_of("mixtral-8x7b", quantization="int4").linear_s(np.array([64.0]))
    assert {"moe_experts"} == {name for name in plain if name.startswith("moe")}
    assert 0.4 < float(fp8["moe_experts"][0] / plain["moe_experts"][0]) < 0.8
    assert "moe_gate_up" in int4 and "moe_down" in int4


def test_published_time_of_one_token_through_mixtral() -> None:
    """AIConfigurator's H100 table: 259 us for one token (2 of 8 experts) of a bf16 Mixtral-8x7B layer."""
    assert seconds() * 1e6 == pytest.approx(259, rel=0.1)
