"""Kernel scale and serving price say the same: two models of one kernel, made from different facts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.kernel.algorithms.elementwise import stream
from sim.kernel.algorithms.gemm import gemm_launches
from sim.kernel.algorithms.problem import Gemm, Tile
from sim.kernel.gpu import Efficiency, Gpu, efficiency_of, gemm_efficiency, gpu_of
from sim.kernel.operations import plan_of
from sim.kernel.run import run_launches
from sim.kernel.scenario import Attention, KernelWork
from sim.kinds.load import load_scenario
from sim.model.matrices import layer_matrices
from sim.price.step import CompiledPrice
from sim.serving.scenario import Scenario

PS_PER_S = 1e12
# The band: 25 % from 512 tokens on; below, where start-up and split-K heuristics decide, a factor 1.75.
LARGE, SMALL = 1.25, 1.75


def gemm_seconds(gpu: Gpu, efficiency: Efficiency, given: Gemm) -> float:
    """The product's time on an idle device, launches included."""
    launches = gemm_launches(gpu, efficiency, given, Tile())
    return run_launches(launches, gpu.sm_count)[-1].end_ps * 1e-12


@pytest.fixture(scope="module", params=["a100-sxm-80gb", "h100-sxm-80gb"])
def serving(request: pytest.FixtureRequest) -> Scenario:
    return load_scenario("serving/static_vs_continuous", overrides=[f"hardware={request.param}"]).base


@pytest.mark.parametrize(("tokens", "band"), [(16, SMALL), (128, SMALL), (512, LARGE), (2048, LARGE)])
def test_projections_cost_what_the_step_price_says(serving: Scenario, tokens: int, band: float) -> None:
    priced = CompiledPrice(serving).linear_split_s(np.array([float(tokens)]))
    gpu, efficiency = gpu_of(serving.hardware), efficiency_of("gemm", serving.hardware)
    compared = 0
    for matrix in layer_matrices(serving.model, 1):
        if matrix.name == "lm_head":
            continue
        simulated = gemm_seconds(gpu, efficiency, Gemm(m=tokens, n=matrix.n, k=matrix.k))
        ratio = simulated / (float(priced[matrix.name][0]) / matrix.layers)
        assert 1 / band <= ratio <= band, (matrix.name, ratio)
        compared += 1
    assert compared == 4


@pytest.mark.parametrize(
    ("hardware", "quantization"),
    [
        ("a100-sxm-80gb", "int4"),
        ("h100-sxm-80gb", "int4"),
        ("l40s", "int4"),
        ("h100-sxm-80gb", "fp8"),
        ("l40s", "fp8"),
    ],
)
@pytest.mark.parametrize("tokens", [2048, 8192])
def test_quantised_projections_cost_what_the_step_price_says(
    hardware: str, quantization: str, tokens: int
) -> None:
    """From 2,048 tokens on; below, kernels of few rows differ more. fp8 with the pass that makes it."""
    overrides = [f"hardware={hardware}", f"engine.quantization={quantization}"]
    serving = load_scenario("serving/static_vs_continuous", overrides=overrides).base
    priced = CompiledPrice(serving).linear_split_s(np.array([float(tokens)]))
    gpu, bits = gpu_of(serving.hardware), 4 if quantization == "int4" else None
    dtype: Any = "bfloat16" if bits else "float8"
    efficiency = gemm_efficiency(serving.hardware, dtype, bits)
    for matrix in layer_matrices(serving.model, 1):
        if matrix.name == "lm_head":
            continue
        given = Gemm(m=tokens, n=matrix.n, k=matrix.k, dtype=dtype, weight_bits=bits)
        simulated = gemm_seconds(gpu, efficiency, given)
        if bits is None:
            values = tokens * matrix.k
            made = stream(
                gpu, efficiency_of("stream", gpu.profile), "quantise", {"x": 2 * values}, {"y": values}
            )
            simulated += run_launches([made], gpu.sm_count)[-1].end_ps / PS_PER_S
        ratio = simulated / (float(priced[matrix.name][0]) / matrix.layers)
        assert 1 / LARGE <= ratio <= LARGE, (matrix.name, ratio)


def _attention_s(serving: Scenario, attention: Attention) -> float:
    plan = plan_of(serving.hardware, KernelWork(attention=attention))
    return run_launches(plan.launches, plan.gpu.sm_count)[-1].end_ps / PS_PER_S


@pytest.mark.parametrize("tokens", [512, 2048, 8192])
def test_prefill_attention_costs_what_the_step_price_says(serving: Scenario, tokens: int) -> None:
    model = serving.model
    generation = "flash_attention_3" if serving.hardware.name.startswith("h") else "flash_attention_2"
    simulated = _attention_s(
        serving,
        Attention(
            algorithm=generation,  # type: ignore[arg-type]
            layout="paged",
            batch=1,
            num_heads=model.num_attention_heads,
            num_kv_heads=model.num_key_value_heads,
            head_dim=model.head_dim,
            seqlen=tokens,
            causal=True,
        ),
    )
    priced = CompiledPrice(serving).chunk_ps(tokens, 0) / model.num_hidden_layers / PS_PER_S
    assert 1 / LARGE <= simulated / priced <= LARGE


@pytest.mark.parametrize(("sequences", "band"), [(1, SMALL), (16, LARGE), (64, LARGE)])
def test_decode_attention_costs_what_the_step_price_says(
    serving: Scenario, sequences: int, band: float
) -> None:
    model = serving.model
    simulated = _attention_s(
        serving,
        Attention(
            algorithm="paged_decode",
            batch=sequences,
            num_heads=model.num_attention_heads,
            num_kv_heads=model.num_key_value_heads,
            head_dim=model.head_dim,
            seqlen=1,
            seqlen_kv=2048,
        ),
    )
    price = CompiledPrice(serving)
    priced = price.decode_attention_ps(sequences, sequences * 2048) / model.num_hidden_layers / PS_PER_S
    assert 1 / band <= simulated / priced <= band
