"""One price of a layer: an engine's prompt and a training step's forward pass, by the same kernels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.arrays import to_ps
from sim.hardware import load_hardware
from sim.hardware.engine_profile import EngineOverheads
from sim.model.config import load_model
from sim.model.shape import ModelShape
from sim.price.kernel_set import ATTENTION_BY_WORD, KERNEL_SETS, KernelSet, engine_kernels, kernel_words
from sim.price.providers.analytic import AnalyticTimes
from sim.price.roofline import total_s
from sim.training.step.layer import kernels_of, layer_times
from sim.training.step.shape import Parallelism, StepShape

DEVICES = ("a100-sxm-80gb", "h100-sxm-80gb", "b200-sxm-180gb", "l40s", "mi300x", "v100-sxm2-32gb")
MODELS = ("llama-3.1-8b", "gpt2-xl", "qwen2.5-7b", "gemma-3-4b", "mixtral-8x7b")
# An engine's dtype and quantization, and the training precision that computes a layer in the same types.
TYPES = (
    ("bfloat16", "none", "bf16_mixed"),
    ("float16", "none", "fp16_mixed"),
    ("float32", "none", "fp32"),
    ("bfloat16", "fp8", "fp8"),
)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What a price reads of an engine."""

    dtype: Any = "bfloat16"
    quantization: Any = "none"
    tensor_parallel_size: int = 1
    attention: Any = "flash"
    kv_cache_dtype: Any = "auto"
    async_scheduling: bool = False
    pipeline_parallel_size: int = 1
    overheads: EngineOverheads = field(default_factory=EngineOverheads)

    @property
    def gpus_per_replica(self) -> int:
        return self.tensor_parallel_size


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A model on a device under an engine."""

    hardware: Any
    model: ModelShape
    engine: Engine


def serving_ps(asked: Asked, kernels: KernelSet, tokens: int) -> int:
    """A whole prompt of ``tokens`` through all layers, as an engine prices it."""
    times, one = AnalyticTimes(asked, kernels), np.array([float(tokens)])
    linear = sum(float(seconds[0]) for seconds in times.linear_s(one).values())
    return to_ps(linear + float(times.chunk_s(one, np.zeros(1))[0]))


def training_ps(shape: StepShape, kernels: KernelSet) -> int:
    """The same layers in a training step."""
    return to_ps(layer_times(shape, kernels).forward.total_s * shape.model.num_hidden_layers)


@settings(deadline=None, max_examples=150)
@given(
    device=st.sampled_from(DEVICES),
    model=st.sampled_from(MODELS),
    types=st.sampled_from(TYPES),
    size=st.sampled_from((1, 2, 4, 8)),
    tokens=st.integers(1, 8192),
    kernels=st.sampled_from(tuple(KERNEL_SETS)),
    attention=st.sampled_from(tuple(ATTENTION_BY_WORD)),
)
def test_an_engines_prompt_and_a_steps_forward_pass_cost_the_same_to_the_picosecond(
    device: str,
    model: str,
    types: tuple[str, str, str],
    size: int,
    tokens: int,
    kernels: str,
    attention: str,
) -> None:
    """Of an fp8 step its casts are left out: an engine's weights lie there in 8 bits."""
    hardware, shape = load_hardware(device), load_model(model)
    dtype, quantization, precision = types
    peak = "float8" if quantization == "fp8" else dtype
    if peak not in hardware.peak_flops_per_s or shape.num_key_value_heads % size:
        return
    chosen = KERNEL_SETS[kernels].with_attention(attention)
    engine = Engine(dtype=dtype, quantization=quantization, tensor_parallel_size=size)
    step = StepShape(
        model=shape,
        hardware=hardware,
        max_seq_len=tokens,
        micro_batch_size=1,
        precision_name=precision,
        parallelism=Parallelism(tensor_parallel_size=size),
    )
    served = serving_ps(Asked(hardware=hardware, model=shape, engine=engine), chosen, tokens)
    trained = layer_times(step, chosen).forward
    if quantization == "fp8":
        without = replace(trained, elementwise_s=0.0).total_s
        times = AnalyticTimes(Asked(hardware=hardware, model=shape, engine=engine), chosen)
        one = np.array([float(tokens)])
        operator = times.counter.elementwise(one)
        launch_s = chosen.launch_s(hardware)
        passes = float(total_s([operator], hardware, launch_s, None)[0])
        assert to_ps(without * shape.num_hidden_layers + passes) == served
    else:
        assert training_ps(step, chosen) == served


def test_defaults_differ_by_their_kernel_sets_and_nothing_else() -> None:
    """What an engine and a framework run is not the same; each says what it is."""
    hardware, model = load_hardware("a100-sxm-80gb"), load_model("llama-3.1-8b")
    asked = Asked(hardware=hardware, model=model, engine=Engine())
    step = StepShape(model=model, hardware=hardware, max_seq_len=2048, micro_batch_size=1)
    theirs = [engine_kernels(asked.engine), kernels_of(step), kernels_of(replace(step, fused_kernels=True))]
    times = [serving_ps(asked, one, 2048) for one in theirs]
    assert times == [training_ps(step, one) for one in theirs]
    assert times[0] < times[2] < times[1]
    assert len({kernel_words(one) for one in theirs}) == 3


@pytest.mark.parametrize("device", ["a100-sxm-80gb", "h100-sxm-80gb"])
@pytest.mark.parametrize("sequences", [1, 2, 8])
def test_sequences_of_a_batch_share_a_launch(device: str, sequences: int) -> None:
    """No more than one by one, no less than their tokens in one product."""
    step = StepShape(
        model=load_model("llama-3.1-8b"),
        hardware=load_hardware(device),
        max_seq_len=1024,
        micro_batch_size=sequences,
    )
    one, many = layer_times(replace(step, micro_batch_size=1)).forward, layer_times(step).forward
    assert many.attention_s <= sequences * one.attention_s * (1 + 1e-9)
    assert many.total_s >= one.total_s


def standard(**changes: Any) -> Engine:
    return Engine(**{"attention": "standard", **changes})


@pytest.mark.parametrize("size", [1, 2])
def test_standard_attention_skips_nothing_for_its_mask(size: int) -> None:
    """Twice what half of the square would cost: a chunk pays for every key, seen or not."""
    asked = Asked(
        hardware=load_hardware("a100-sxm-80gb"),
        model=load_model("llama-3.1-8b"),
        engine=standard(tensor_parallel_size=size),
    )
    times = AnalyticTimes(asked)
    tokens = np.array([16384.0])
    operators = {one.name: one for one in times.counter.prefill_attention(tokens, np.zeros(1))}
    heads = asked.model.num_attention_heads / size
    scores = 16384**2 * heads
    assert float(operators["attention_mask"].hbm_bytes[0]) == 4 * scores
    assert float(operators["attention_softmax"].hbm_bytes[0]) == 4 * scores
    products = operators["attention_products"]
    assert float(products.flops[0]) == 2 * scores * asked.model.head_dim
    # In chunks, what lies behind a chunk is not computed: that, and only that, is saved.
    whole = float(times.chunk_s(tokens, np.zeros(1))[0])
    chunks = np.full(8, 2048.0)
    cut = float(times.chunk_s(chunks, np.arange(8) * 2048.0).sum())
    assert cut / whole == pytest.approx((8 + 1) / 16, rel=0.02)
