"""An engine without CUDA graphs: of a step's kernels and their launches the longer counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import plain_engine

from sim.arrays import PS_PER_S
from sim.hardware import load_hardware
from sim.hardware.engine_profile import EngineOverheads
from sim.kinds.run import run_one
from sim.model.config import load_model
from sim.price.explain import StepShape, explain_step
from sim.price.overheads import LaunchedPrice
from sim.price.step import CompiledPrice
from sim.scenario.distribution import Distribution
from sim.serving.scenario import Scenario, Workload
from sim.serving.summary import summarize
from sim.serving.workload.arrivals import Arrivals

LAYERS = 32  # of llama-3.1-8b
HOST = EngineOverheads(step_s=0.002, per_sequence_s=1e-4, per_prompt_token_s=1e-5)
FIXED = Distribution(distribution="fixed", value=128)


def scenario(**overheads: Any) -> Scenario:
    return Scenario(
        schema_version=1,
        question="",
        kind="serving",
        hardware=load_hardware("a100-sxm-80gb"),
        model=load_model("llama-3.1-8b"),
        workload=Workload(
            arrivals=Arrivals(process="all_at_once"),
            num_requests=4,
            prompt_tokens=FIXED,
            output_tokens=FIXED,
        ),
        engine=plain_engine(overheads=replace(HOST, **overheads)),
    )


NONE = CompiledPrice(scenario())


def test_launches_that_always_take_longer_are_the_whole_step() -> None:
    price = LaunchedPrice(scenario(launch_per_layer_s=1.0))
    assert price.step_ps(3, 900, ()) == PS_PER_S * LAYERS + NONE.overheads_ps[0] + 3 * NONE.overheads_ps[1]
    mixed = price.step_ps(3, 900, [(100, 0, True, None), (50, 20, False, None)])
    assert mixed == PS_PER_S * LAYERS + round((0.002 + 5e-4 + 150e-5) * PS_PER_S)


@given(st.integers(1, 300), st.integers(1, 3000), st.integers(0, 500))
def test_without_launch_time_decode_costs_what_it_does_without(n: int, context: int, queries: int) -> None:
    price = LaunchedPrice(scenario(launch_per_layer_s=0.0))
    assert price.decode_run(n, n * context) == NONE.decode_run(n, n * context)
    chunks = [(queries, 0, True, None)] if queries else []
    expected = NONE.step_ps(n, n * context, chunks) + 10**7 * queries
    assert price.step_ps(n, n * context, chunks) == expected


@given(st.integers(1, 300), st.integers(1, 3000), st.floats(1e-5, 2e-3))
def test_a_decode_step_is_the_longer_of_the_two(n: int, context: int, launch_s: float) -> None:
    price = LaunchedPrice(scenario(launch_per_layer_s=launch_s))
    host = NONE.overheads_ps[0] + n * NONE.overheads_ps[1]
    kernels = NONE.step_ps(n, n * context, ()) - host
    longer = max(kernels, round(launch_s * PS_PER_S) * LAYERS)
    took = price.step_ps(n, n * context, ()) - host
    # Straight between breakpoints it cuts the corner, by less than a fifth of attention's share.
    assert longer - 1000 <= took <= longer + 0.2 * (kernels + host - NONE.constant_ps(n)) + 1000
    first, growth, steps = price.decode_run(n, n * context)
    assert growth >= 0 and steps >= 1 and first == took + host


def test_a_run_of_a_slow_host_has_its_launch_time_per_token() -> None:
    run = run_one(scenario(launch_per_layer_s=0.002))
    tpot_s = summarize(run).metrics["mean_tpot_s"]
    assert tpot_s == pytest.approx(0.002 * LAYERS + 0.002 + 4e-4)
    assert run.operator_s["launch_wait"] > 0.5 * sum(run.operator_s.values())


def test_explain_shows_the_wait() -> None:
    shape = StepShape(decode=16, context=1024)
    one = scenario(launch_per_layer_s=0.002)
    lines = {line.name: line.time_s for line in explain_step(one, shape)}
    assert sum(lines.values()) == pytest.approx(LaunchedPrice(one).step_ps(16, 16 * 1024, ()) / PS_PER_S)
    assert "launch_wait" not in {line.name for line in explain_step(scenario(), shape)}


GRAPHS = (1, 2, 4, 8, 16)


@given(st.integers(1, 40), st.integers(1, 3000), st.integers(0, 60))
def test_linear_layers_work_on_the_padding_of_a_cuda_graph(n: int, context: int, queries: int) -> None:
    """Attention and the head see the step as it is, and beyond the largest graph so does everything."""
    price = LaunchedPrice(scenario(cudagraph_capture_sizes=GRAPHS, per_prompt_token_s=0.0))
    tokens = n + queries
    chunks = [(queries, 0, True, None)] if queries else []
    plain = CompiledPrice(scenario(per_prompt_token_s=0.0))
    sizes = [next((size for size in GRAPHS if size >= x), x) for x in range(1, tokens + 1)]
    times = sum(plain.linear_split_s(np.array(sizes, dtype=np.float64)).values())
    padded_ps = round(times.max() * PS_PER_S)  # more tokens never cost less
    expected = plain.step_ps(n, n * context, chunks) + padded_ps - plain.linear_ps(tokens)
    assert price.step_ps(n, n * context, chunks) == pytest.approx(expected, abs=1)
    if not queries:
        assert price.decode_run(n, n * context)[0] == pytest.approx(expected, abs=1)


@given(st.integers(1, 40), st.integers(0, 60), st.floats(1e-5, 2e-3))
def test_steps_in_a_cuda_graph_wait_for_no_launch(n: int, queries: int, launch_s: float) -> None:
    launched = scenario(launch_per_layer_s=launch_s, per_prompt_token_s=0.0)
    graphs = scenario(
        launch_per_layer_s=launch_s, per_prompt_token_s=0.0, cudagraph_capture_sizes=tuple(range(1, 17))
    )
    chunks = [(queries, 0, True, None)] if queries else []
    price = NONE if n + queries <= 16 else LaunchedPrice(launched)
    expected = price.step_ps(n, n * 900, chunks)
    assert LaunchedPrice(graphs).step_ps(n, n * 900, chunks) == expected


@given(st.integers(1, 200), st.integers(0, 400), st.floats(0, 0.1))
def test_asynchronous_scheduling_hides_the_host_or_waits_for_it(n: int, queries: int, step_s: float) -> None:
    one = scenario(step_s=step_s)
    hidden = LaunchedPrice(replace(one, engine=replace(one.engine, async_scheduling=True)))
    nothing = scenario(step_s=0.0, per_sequence_s=0.0, per_prompt_token_s=0.0)
    chunks = [(queries, 0, True, None)] if queries else []
    sequences = n + len(chunks)
    host = (step_s + HOST.per_sequence_s * sequences + HOST.per_prompt_token_s * queries) * PS_PER_S
    kernels = CompiledPrice(nothing).step_ps(n, n * 900, chunks)
    took = hidden.step_ps(n, n * 900, chunks)
    if queries:
        assert abs(took - max(kernels, host)) <= 1 + queries + sequences
    else:  # straight between breakpoints it cuts the corner
        attention = kernels - CompiledPrice(nothing).constant_ps(n)
        assert max(kernels, host) - 1000 - n <= took <= max(kernels, host) + 0.2 * attention + 1000 + n


def test_slower_attention_takes_its_fraction_longer() -> None:
    plain = CompiledPrice(scenario(per_prompt_token_s=0.0))
    half = LaunchedPrice(scenario(decode_attention_fraction=0.5, per_prompt_token_s=0.0))
    attention = plain.decode_attention_ps(64, 64 * 4096)
    assert half.step_ps(64, 64 * 4096, ()) == pytest.approx(plain.step_ps(64, 64 * 4096, ()) + attention)
    fp8 = EngineOverheads(fp8_kv_attention_fraction=0.25)
    one = scenario()
    bf16_kv = replace(one, engine=replace(one.engine, overheads=fp8))
    fp8_kv = replace(bf16_kv, engine=replace(bf16_kv.engine, kv_cache_dtype="fp8"))
    fast = replace(fp8_kv, engine=replace(fp8_kv.engine, overheads=EngineOverheads()))
    assert LaunchedPrice(bf16_kv).decode_attention_ps(8, 8000) == NONE.decode_attention_ps(8, 8000)
    ours, theirs = LaunchedPrice(fp8_kv), CompiledPrice(fast)
    assert ours.decode_attention_ps(8, 8000) == pytest.approx(4 * theirs.decode_attention_ps(8, 8000))


def test_explain_gives_the_price_of_a_padded_hidden_step() -> None:
    one = scenario(cudagraph_capture_sizes=GRAPHS, decode_attention_fraction=0.8)
    hidden = replace(one, engine=replace(one.engine, async_scheduling=True))
    for case in (one, hidden):
        lines = explain_step(case, StepShape(decode=11, context=900, prefill=0))
        took = LaunchedPrice(case).step_ps(11, 11 * 900, ())
        assert sum(line.time_s for line in lines) * PS_PER_S == pytest.approx(took, rel=0.01)
