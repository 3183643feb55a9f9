"""An engine without CUDA graphs: of a step's kernels and their launches the longer counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.explain import StepShape, explain_step
from sim.cost.launch import LaunchedPrice
from sim.cost.step import CompiledPrice
from sim.hardware import load_hardware
from sim.metrics import summarize
from sim.model import load_model
from sim.records import PS_PER_S
from sim.run import run_one
from sim.scenario import Arrivals, Distribution, EngineConfig, EngineOverheads, Scenario, Workload

LAYERS = 32  # of llama-3.1-8b
HOST = EngineOverheads(step_s=0.002, per_sequence_s=1e-4, per_prompt_token_s=1e-5)
FIXED = Distribution(distribution="fixed", value=128)


def scenario(**overheads: float) -> Scenario:
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
        engine=EngineConfig(overheads=replace(HOST, **overheads)),
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
