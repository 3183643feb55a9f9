"""A layer's forward pass, simulated block by block, costs what its one price says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sim.hardware import load_hardware
from sim.kernel.algorithms.elementwise import stream
from sim.kernel.algorithms.gemm import gemm_launches
from sim.kernel.algorithms.problem import Gemm, Tile
from sim.kernel.gpu import Gpu, efficiency_of, gpu_of
from sim.kernel.launches import Launch
from sim.kernel.operations import plan_of
from sim.kernel.run import run_launches
from sim.kernel.scenario import Attention, KernelWork
from sim.model.config import load_model
from sim.model.matrices import layer_matrices
from sim.price.kernel_set import KERNEL_SETS, KernelSet, per_layer_bytes
from sim.price.layer import LayerPrice
from sim.price.operators import StepCounter
from sim.price.priced import Precision

BAND = 1.10
# The device's best FlashAttention, which the attention law was fitted to.
BEST = {
    "a100-sxm-80gb": "flash_attention_2",
    "h100-sxm-80gb": "flash_attention_3",
    "h200-sxm-141gb": "flash_attention_3",
    "l40s": "flash_attention_2",
    "b200-sxm-180gb": "flash_trtllm",
}
SIZES = [
    ("llama-3.1-8b", 2048),
    ("llama-3.1-8b", 8192),
    ("qwen2.5-7b", 2048),
    ("qwen2.5-7b", 8192),
    ("mistral-7b-v0.3", 4096),
    ("gpt2-xl", 8192),
]
SETS = [("vllm", "flash"), ("megatron", "flash"), ("pytorch", "flash"), ("pytorch", "standard")]


def seconds(gpu: Gpu, launches: list[Launch]) -> float:
    """On an idle device, one after another."""
    return run_launches(launches, gpu.sm_count)[-1].end_ps * 1e-12


def price(device: str, model: str, kernels: KernelSet, tokens: int) -> LayerPrice:
    """The layer's one price, kernels at their speed in a benchmark loop, as the simulation has them."""
    counter = StepCounter(
        model=load_model(model),
        hardware=load_hardware(device),
        precision=Precision(dtype="bfloat16", quantization="none", activation_bytes=2, kv_bytes=2),
        tensor_parallel_size=1,
        kernels=replace(kernels, sustained_fraction=1.0),
    )
    return LayerPrice(counter=counter, sequences=1.0, queries=float(tokens))


def simulated(priced: LayerPrice, device: str, tokens: int) -> tuple[float, float, float]:
    """Products, attention and element-wise passes, block by block."""
    model, kernels, gpu = priced.counter.model, priced.counter.kernels, gpu_of(load_hardware(device))
    products = [
        launch
        for matrix in layer_matrices(model, 1)
        if matrix.name != "lm_head"
        for launch in gemm_launches(
            gpu, efficiency_of("gemm", gpu.profile), Gemm(m=tokens, n=matrix.n, k=matrix.k), Tile()
        )
    ]
    algorithm: Any = "standard" if kernels.attention.stores_scores else BEST[device]
    asked = Attention(
        algorithm=algorithm,
        layout="dense" if algorithm == "standard" else "paged",
        batch=1,
        num_heads=model.num_attention_heads,
        num_kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        seqlen=tokens,
        causal=True,
    )
    attention = list(plan_of(gpu.profile, KernelWork(attention=asked)).launches)
    moved = per_layer_bytes(kernels.forward, priced.counter.elements, has_dropout=False) * tokens
    each = int(moved * kernels.pass_factor / kernels.launches / 2)
    passes = [stream(gpu, efficiency_of("stream", gpu.profile), "pass", {"x": each}, {"y": each})]
    return seconds(gpu, products), seconds(gpu, attention), seconds(gpu, passes * kernels.launches)


@pytest.mark.parametrize("device", BEST)
@pytest.mark.parametrize(("model", "tokens"), SIZES)
@pytest.mark.parametrize(("kernels", "attention"), SETS)
def test_a_simulated_layer_costs_what_it_is_priced_at(
    device: str, model: str, tokens: int, kernels: str, attention: str
) -> None:
    priced = price(device, model, KERNEL_SETS[kernels].with_attention(attention), tokens)
    parts = simulated(priced, device, tokens)
    assert 1 / BAND <= sum(parts) / priced.times("forward").total_s <= BAND, (parts, priced.times("forward"))
