"""Facts that a naive model gets wrong, held by the price of a step."""

from __future__ import annotations

from typing import Any

import pytest
from plain_engine import plain_engine

from sim.hardware import load_hardware
from sim.hardware.engine_profile import EngineOverheads, load_engine_profile
from sim.model.config import load_model
from sim.price.explain import OperatorLine, StepShape, explain_step
from sim.serving.scenario import Scenario, Workload


def decode_step(hardware: str, model: str, sequences: int, context: int, **engine: Any) -> list[OperatorLine]:
    scenario = Scenario(
        schema_version=1,
        question="",
        kind="serving",
        hardware=load_hardware(hardware),
        model=load_model(model),
        workload=Workload(),
        engine=plain_engine(**engine),
    )
    return explain_step(scenario, StepShape(decode=sequences, context=context))


@pytest.mark.parametrize("hardware", ["h100-sxm-80gb", "a100-sxm-80gb"])
def test_decode_of_one_request_stays_far_below_the_bandwidth(hardware: str) -> None:
    """Medians of published runs: 0.57 (H100, vLLM), 0.67 and 0.71 (A100, vLLM and TensorRT-LLM)."""
    lines = decode_step(hardware, "llama-3.1-8b", 1, 1024)
    time_s = sum(line.time_s for line in lines)
    moved = sum(line.hbm_bytes for line in lines)
    assert 0.50 <= moved / time_s / load_hardware(hardware).hbm_bytes_per_s <= 0.80


@pytest.mark.parametrize(("sequences", "low", "high"), [(1, 0.9, 1.1), (64, 2.0, 3.0)])
@pytest.mark.parametrize("hardware", ["h100-sxm-80gb", "a100-sxm-80gb"])
def test_grouped_queries_help_large_batches_only(
    hardware: str, sequences: int, low: float, high: float
) -> None:
    """Llama-3-8B over Llama-2-7B at 2,048 tokens: nothing at batch 1, 2.4 to 2.5 times at 64."""
    old, new = (
        sum(line.time_s for line in decode_step(hardware, model, sequences, 2048))
        for model in ("llama-2-7b", "llama-3.1-8b")
    )
    assert low <= old / new <= high


def test_an_fp8_kv_cache_slowed_vllm_of_2024_down() -> None:
    """427 against 2,088 tokens/s on an A100 at 64 x 2,048; a price by bytes alone says that it is faster."""
    shape = ("a100-sxm-40gb", "llama-3-8b", 64, 2048)
    old = load_engine_profile("vllm-2024-offline").overheads
    for overheads, is_faster in ((EngineOverheads(), True), (old, False)):
        fp8, bf16 = (
            sum(line.time_s for line in decode_step(*shape, overheads=overheads, kv_cache_dtype=dtype))
            for dtype in ("fp8", "auto")
        )
        assert (fp8 < bf16) is is_faster


def test_the_host_took_more_than_half_of_the_time_in_2024() -> None:
    """vLLM 0.5.3 with an 8B model on an H100 used the GPU 38 % of the time."""
    overheads = load_engine_profile("vllm-0.5.3-h100").overheads
    lines = decode_step("h100-sxm-80gb", "llama-3-8b", 64, 512, overheads=overheads)
    host = sum(line.time_s for line in lines if line.name == "engine_overhead")
    assert host > 0.5 * sum(line.time_s for line in lines)
