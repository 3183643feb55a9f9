"""Laws of a step's price, over the shipped models and devices."""

from __future__ import annotations

from functools import cache

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from plain_engine import plain_engine

from sim.arrays import PS_PER_S
from sim.hardware import HardwareProfile, hardware_names, load_hardware
from sim.model.config import load_model
from sim.model.counts import num_parameters
from sim.model.shape import ModelShape
from sim.price.step import CompiledPrice
from sim.serving.scenario import Scenario, Workload

MODELS = ("gpt2", "llama-3.1-8b", "opt-13b", "mistral-7b-v0.1", "qwen2.5-7b", "llama-3.1-70b")
DEVICES = tuple(hardware_names())


@cache
def scenario_of(model: str, device: str, tensor_parallel_size: int, dtype: str) -> Scenario:
    return Scenario(
        schema_version=1,
        question="what does a step cost?",
        kind="serving",
        hardware=load_hardware(device),
        model=load_model(model),
        workload=Workload(),
        engine=plain_engine(tensor_parallel_size=tensor_parallel_size, dtype=dtype),  # type: ignore[arg-type]
    )


@cache
def price_of(scenario_key: tuple[str, str, int, str]) -> CompiledPrice:
    return CompiledPrice(scenario_of(*scenario_key))


KEYS = st.tuples(
    st.sampled_from(MODELS), st.sampled_from(DEVICES), st.sampled_from([1, 2, 8]), st.just("float16")
)


def has_link(key: tuple[str, str, int, str]) -> bool:
    """One GPU, or a device whose link between GPUs is known."""
    return key[2] == 1 or load_hardware(key[1]).intra_node is not None


@settings(max_examples=150)
@given(key=KEYS, sequences=st.integers(1, 300), context=st.integers(1, 4096), steps=st.integers(1, 3000))
def test_a_run_of_steps_costs_what_its_single_steps_cost(
    key: tuple[str, str, int, str], sequences: int, context: int, steps: int
) -> None:
    assume(has_link(key))
    price = price_of(key)
    total = sequences * context
    first, growth, most = price.decode_run(sequences, total)
    assert most >= 1
    steps = min(steps, most)
    singles = [price.step_ps(sequences, total + j * sequences, []) for j in range(steps)]
    assert singles[0] == first
    assert sum(singles) == steps * first + growth * (steps * (steps - 1) // 2)


@settings(max_examples=150)
@given(
    key=KEYS,
    sequences=st.integers(1, 300),
    context=st.integers(1, 2_000_000),
    more=st.integers(1, 1_000_000),
)
def test_more_context_never_costs_less(
    key: tuple[str, str, int, str], sequences: int, context: int, more: int
) -> None:
    assume(has_link(key))
    price = price_of(key)
    assert price.step_ps(sequences, context, []) <= price.step_ps(sequences, context + more, [])


@settings(max_examples=150)
@given(
    key=KEYS,
    queries=st.integers(1, 8192),
    more_queries=st.integers(0, 4096),
    cached=st.integers(0, 100_000),
    more_cached=st.integers(0, 100_000),
    samples=st.booleans(),
)
def test_more_tokens_never_cost_less(
    key: tuple[str, str, int, str],
    queries: int,
    more_queries: int,
    cached: int,
    more_cached: int,
    samples: bool,
) -> None:
    assume(has_link(key))
    price = price_of(key)

    def chunk_ps(queries: int, cached: int) -> int:
        return price.step_ps(0, 0, [(queries, cached, samples, None)])

    assert chunk_ps(queries, 0) <= chunk_ps(queries + more_queries, 0)
    assert chunk_ps(queries, cached) <= chunk_ps(queries, cached + more_cached)


def weights(model: ModelShape) -> float:
    """Bytes that a decode step of one sequence must read: everything but the embedding table, in fp16."""
    embedding = model.vocab_size * model.hidden_size
    return 2.0 * (num_parameters(model) - embedding)


@settings(max_examples=150)
@given(key=KEYS, context=st.integers(1, 8192))
def test_one_sequence_is_never_faster_than_its_weights_are_read(
    key: tuple[str, str, int, str], context: int
) -> None:
    assume(has_link(key))
    scenario = scenario_of(*key)
    floor_s = weights(scenario.model) / key[2] / scenario.hardware.hbm_bytes_per_s
    assert price_of(key).step_ps(1, context, []) >= 0.999 * floor_s * PS_PER_S


@settings(max_examples=150)
@given(key=KEYS, queries=st.integers(1, 8192))
def test_a_prompt_is_never_faster_than_its_flops_at_peak(
    key: tuple[str, str, int, str], queries: int
) -> None:
    assume(has_link(key))
    scenario = scenario_of(*key)
    flops = weights(scenario.model) * queries  # 2 per parameter and token; the head sees one token only
    flops -= 2.0 * scenario.model.vocab_size * scenario.model.hidden_size * (queries - 1)
    floor_s = flops / key[2] / peak(scenario.hardware)
    assert price_of(key).step_ps(0, 0, [(queries, 0, True, None)]) >= 0.999 * floor_s * PS_PER_S


def peak(hardware: HardwareProfile) -> float:
    return hardware.peak_flops_per_s["float16"]
