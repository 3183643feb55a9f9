"""Runs share the tables of a price: what one has asked changes nothing for the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_engine import plain_engine

from sim.hardware import load_hardware
from sim.hardware.engine_profile import EngineOverheads
from sim.model.config import load_model
from sim.price.pipeline import NUM_SHARED, step_price
from sim.serving.scenario import Scenario, Workload

HOST = EngineOverheads(step_s=0.002, launch_per_layer_s=2e-5, cudagraph_capture_sizes=(1, 8, 64))
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"overheads": HOST, "batching": "vllm", "async_scheduling": True},
    {"overheads": HOST, "batching": "vllm", "pipeline_parallel_size": 2},
)


def scenario(model: str = "llama-3.1-8b", device: str = "a100-sxm-80gb", **engine: Any) -> Scenario:
    return Scenario(
        schema_version=1, question="", kind="serving", hardware=load_hardware(device),
        model=load_model(model), workload=Workload(), engine=plain_engine(**engine),
    )  # fmt: skip


CHUNKS = st.lists(
    st.tuples(st.integers(1, 3000), st.sampled_from([0, 512, 40_000]), st.booleans()), max_size=3
)
STEPS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 4096), CHUNKS), min_size=1, max_size=5)


@pytest.mark.parametrize("engine", SETTINGS, ids=["kernels", "launches", "stages"])
@settings(max_examples=25, deadline=None)
@given(before=STEPS, then=STEPS)
def test_a_price_that_was_asked_before_answers_as_a_new_one(
    engine: dict[str, Any], before: list[Any], then: list[Any]
) -> None:
    def prices(used: Any, steps: list[Any]) -> list[Any]:
        return [
            (
                used.step_ps(n, n * each, [(*chunk, None) for chunk in chunks]),
                used.decode_run(n, n * each) if n else None,
            )
            for n, each, chunks in steps
            if n or chunks
        ]

    shared = step_price(scenario(**engine))
    prices(shared, before)
    again = step_price(scenario(**engine))
    assert again is shared
    found = prices(again, then)
    for number in range(NUM_SHARED):  # others push it out
        step_price(scenario(overheads=EngineOverheads(step_s=1e-3 * (1 + number))))
    new = step_price(scenario(**engine))
    assert new is not shared
    assert found == prices(new, then)
    assert new.warnings == shared.warnings


def test_what_steps_do_not_depend_on_shares_and_the_rest_does_not() -> None:
    one = scenario()
    price = step_price(one)
    for same in ({"max_num_seqs": 7}, {"block_size": 32}, {"batching": "static"}, {"max_model_len": 64}):
        assert step_price(scenario(**same)) is price, same
    assert step_price(replace(one, workload=Workload(num_requests=3), seeds=(9,))) is price
    for other in (
        {"dtype": "float16"}, {"kv_cache_dtype": "fp8"}, {"quantization": "int8"}, {"attention": "standard"},
        {"tensor_parallel_size": 2}, {"overheads": HOST}, {"model": "llama-2-7b"},
        {"device": "h100-sxm-80gb"},
    ):  # fmt: skip
        assert step_price(scenario(**other)) is not price, other
    changed = replace(one, hardware=replace(one.hardware, hbm_bytes_per_s=1e12))
    assert step_price(changed) is not price
