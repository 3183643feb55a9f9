"""The memory account against what real vLLM servers logged, then its arithmetic and its refusals."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import plain_engine

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile, load_hardware
from sim.model.config import load_model
from sim.price.memory import MemoryPlan, activation_peak, kv_of_tokens, memory_plan, render_memory

CONTINUOUS = plain_engine()
GIB = 2**30


def with_hbm(name: str, hbm_bytes: float) -> HardwareProfile:
    return replace(load_hardware(name), hbm_bytes=int(hbm_bytes))


def taken(plan: MemoryPlan, label: str) -> float:
    """GiB that the line of this label takes."""
    return next(-line.num_bytes for line in plan.lines if line.label.startswith(label)) / GIB


# --- measured ---


def test_kv_blocks_of_a_measured_rtx_4090(shared: Path) -> None:
    meta = json.loads((shared / "measured/serving/rtx4090_llama-3.1-8b/meta.json").read_text())
    given_to_vllm, cache = meta["engine_kwargs"], meta["kv_cache"]
    engine = plain_engine(
        max_num_seqs=given_to_vllm["max_num_seqs"],
        max_num_batched_tokens=given_to_vllm["max_num_batched_tokens"],
        max_model_len=given_to_vllm["max_model_len"],
        block_size=cache["block_size"],
        gpu_memory_utilization=cache["gpu_memory_utilization"],
    )
    model = load_model("llama-3.1-8b")
    for hardware in (
        load_hardware("rtx-4090"),
        with_hbm("rtx-4090", meta["hardware"]["device_total_memory_bytes"]),
    ):
        plan = memory_plan(model, hardware, engine)
        assert plan.num_gpu_blocks == pytest.approx(cache["num_gpu_blocks"], rel=0.04)


def test_kv_blocks_of_a_measured_h100(shared: Path) -> None:
    with (shared / "measured/serving/h100_vllm_shared_prefix.csv").open() as rows:
        row = next(row for row in csv.DictReader(rows) if row["model"] == "llama-2-7b")
    engine = plain_engine(
        max_num_seqs=int(row["max_num_seqs"]),
        max_num_batched_tokens=int(row["max_num_batched_tokens"]),
        max_model_len=int(row["max_model_len"]),
    )
    plan = memory_plan(load_model("llama-2-7b"), load_hardware("h100-sxm-80gb"), engine)
    assert plan.num_gpu_blocks == pytest.approx(int(row["num_gpu_blocks"]), rel=0.04)


def test_gpt_oss_20b_on_an_a100_as_vllm_0_19_logged_it() -> None:
    # myoceane.fr, "vLLM system messages, A100" (2026-04-18): vllm serve openai/gpt-oss-20b
    # --max-model-len 131072 --gpu-memory-utilization 0.65: "Available KV cache memory: 36.56 GiB".
    engine = plain_engine(max_num_batched_tokens=2048, gpu_memory_utilization=0.65)
    plan = memory_plan(load_model("gpt-oss-20b"), load_hardware("a100-sxm-80gb"), engine)
    assert plan.kv_budget_bytes / GIB == pytest.approx(36.56, rel=0.02)


@pytest.mark.parametrize(
    ("name", "tokens", "logged_gib"),
    [
        ("llama-3-8b", 8192, 1.26),  # vllm#10511: "PyTorch activation peak memory 1.26GiB"
        ("qwen2.5-7b", 4096, 1.42),  # vllm#13882, max_model_len 4096 (AWQ weights, float16 activations)
    ],
)
def test_the_activation_peak_is_what_vllm_logged(name: str, tokens: int, logged_gib: float) -> None:
    peak = activation_peak(load_model(name), plain_engine(max_num_batched_tokens=tokens))
    assert peak.num_bytes / GIB == pytest.approx(logged_gib, rel=0.04)


def test_weights_with_the_rotary_table_are_what_vllm_logs() -> None:
    # vLLM's "Model loading took 14.99 GiB" for Llama-3.1-8B, 14.96 of it checkpoint.
    plan = memory_plan(load_model("llama-3.1-8b"), load_hardware("h100-sxm-80gb"), CONTINUOUS)
    assert taken(plan, "weights") == pytest.approx(14.99, abs=0.005)


# --- arithmetic ---


def test_readme_example_of_qwen_kv() -> None:
    # vllm#22291: 28 layers x 4 KV heads x 128 x 2 x 2 B.
    model, engine = load_model("qwen2.5-7b"), plain_engine(max_model_len=8192)
    line = kv_of_tokens(model, engine, 3072)
    assert line.num_bytes == 28 * 4 * 128 * 2 * 2 * 3072
    text = render_memory(memory_plan(model, load_hardware("h100-sxm-80gb"), engine), line)
    assert "28 layers x 4 KV heads x head_dim 128 x 2 (K and V) x 2 B = 57,344 B = 56 KiB" in text
    assert "168 MiB = 0.16 GiB = 0.18 GB" in text


def test_the_lines_add_up_and_are_all_printed() -> None:
    plan = memory_plan(load_model("llama-3.1-8b"), load_hardware("h100-sxm-80gb"), CONTINUOUS)
    assert sum(line.num_bytes for line in plan.lines) == plan.kv_budget_bytes
    assert plan.num_gpu_blocks == plan.kv_budget_bytes // (16 * 131_072)
    text = render_memory(plan)
    for line in plan.lines:
        assert line.label in text and line.formula in text
    assert f"{plan.num_gpu_blocks:,} of 16 tokens" in text
    as_json = json.loads(json.dumps(plan.to_dict()))
    assert as_json["num_gpu_blocks"] == plan.num_gpu_blocks and len(as_json["lines"]) == len(plan.lines)


def test_full_requests_as_vllm_counts_them() -> None:
    # "Maximum concurrency for 8,192 tokens per request": tokens / max_model_len without windows.
    engine = plain_engine(max_model_len=8192)
    plan = memory_plan(load_model("llama-3.1-8b"), load_hardware("h100-sxm-80gb"), engine)
    assert plan.max_concurrency == pytest.approx(plan.kv_budget_tokens / 8192)
    # gpt-oss keeps 128 tokens in half of its layers: nearly twice as many requests fit.
    oss = memory_plan(load_model("gpt-oss-20b"), load_hardware("h100-sxm-80gb"), engine)
    assert oss.max_concurrency == pytest.approx(oss.kv_budget_tokens / (8192 / 2 + 128 / 2), rel=1e-9)


def test_an_override_replaces_the_budget() -> None:
    engine = plain_engine(num_gpu_blocks_override=100, max_model_len=1024)
    tiny = with_hbm("rtx-4090", 1e9)
    plan = memory_plan(load_model("llama-3.1-8b"), tiny, engine)
    assert (plan.num_gpu_blocks, plan.kv_budget_tokens, plan.overridden) == (100, 1600, True)
    assert plan.kv_budget_bytes == 1600 * 131_072 and plan.max_concurrency == 1600 / 1024
    assert "num_gpu_blocks_override" in render_memory(plan)


def test_the_peak_is_in_the_layers_where_the_vocabulary_is_small() -> None:
    # Two of hidden_size, gate and up, and their product, in float16.
    peak = activation_peak(
        load_model("llama-2-7b"),
        plain_engine(max_num_seqs=8, max_num_batched_tokens=8192),
    )
    assert peak.num_bytes == 8192 * (2 * 4096 + 3 * 11008) * 2 and peak.formula.startswith("layers")
    sampled = activation_peak(
        load_model("llama-2-7b"),
        plain_engine(max_num_seqs=512, max_num_batched_tokens=512),
    )
    assert sampled.num_bytes == 512 * 32000 * 38 + 512 * 4096 * 2


def test_latent_attention_is_whole_on_every_gpu() -> None:
    engine = plain_engine(tensor_parallel_size=8)
    plan = memory_plan(load_model("deepseek-v3"), load_hardware("h200-sxm-141gb"), engine)
    assert plan.kv_bytes_per_token == 70_272 and "latent attention" in plan.notes[0]


@given(
    model=st.sampled_from(["llama-3.1-8b", "qwen2.5-7b", "gpt-oss-20b", "deepseek-v2-lite", "gemma-2-9b"]),
    seqs=st.integers(1, 1024),
    tokens=st.integers(1, 16384),
    utilization=st.floats(0.8, 0.99),
    block_size=st.sampled_from([8, 16, 32, 128]),
)
def test_more_memory_and_smaller_limits_never_leave_less(
    model: str, seqs: int, tokens: int, utilization: float, block_size: int
) -> None:
    engine = plain_engine(
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        gpu_memory_utilization=utilization,
        block_size=block_size,
    )
    shape, h100, h200 = load_model(model), load_hardware("h100-sxm-80gb"), load_hardware("h200-sxm-141gb")
    plan = memory_plan(shape, h100, engine)
    assert plan.kv_budget_tokens == plan.num_gpu_blocks * block_size
    assert (
        0
        <= plan.kv_budget_bytes - plan.kv_budget_tokens * plan.kv_bytes_per_token
        < (block_size * plan.kv_bytes_per_token)
    )
    assert memory_plan(shape, h200, engine).kv_budget_bytes > plan.kv_budget_bytes
    smaller = replace(engine, max_num_seqs=max(1, seqs // 2), max_num_batched_tokens=max(1, tokens // 2))
    assert memory_plan(shape, h100, smaller).kv_budget_bytes >= plan.kv_budget_bytes
    fp8 = replace(engine, kv_cache_dtype="fp8")
    assert memory_plan(shape, h100, fp8).kv_budget_tokens >= 2 * plan.kv_budget_tokens


# --- refusals ---


def refused(model: str, hardware: str, **engine: Any) -> ScenarioError:
    with pytest.raises(ScenarioError) as caught:
        memory_plan(load_model(model), load_hardware(hardware), replace(CONTINUOUS, **engine))
    return caught.value


def test_no_room_says_the_numbers_and_what_to_try() -> None:
    error = refused("llama-3.1-70b", "h100-sxm-80gb")
    assert error.path == "engine"
    assert "leaves no room for KV cache" in error.problem
    assert "85.0 GB x gpu_memory_utilization 0.90 = 76.5 GB" in error.problem
    assert "weights of llama-3.1-70b in bfloat16 = 141.1 GB" in error.problem
    assert "quantization: int4 (39.8 GB)" in error.hint and "tensor_parallel_size: 2" in error.hint


@pytest.mark.parametrize("model", ["llama-3.1-70b", "qwen2.5-72b", "mixtral-8x7b", "falcon-180b"])
def test_what_a_refusal_suggests_does_fit(model: str) -> None:
    hint = refused(model, "h100-sxm-80gb").hint
    for suggestion in hint.split(", or "):
        key, _, value = suggestion.partition(": ")
        if key == "tensor_parallel_size":
            changed = plain_engine(tensor_parallel_size=int(value))
        elif key == "quantization":
            changed = plain_engine(quantization=value.split()[0])  # type: ignore[arg-type]
        else:
            needed = float(suggestion.rsplit(" ", 2)[1]) * 1e9
            above = with_hbm("h100-sxm-80gb", 1.02 * needed)
            assert memory_plan(load_model(model), above, CONTINUOUS).num_gpu_blocks > 0
            continue
        plan = memory_plan(load_model(model), load_hardware("h100-sxm-80gb"), changed)
        assert plan.num_gpu_blocks > 0


def test_a_split_that_cannot_be_is_refused_at_its_key() -> None:
    error = refused("qwen2.5-7b", "h100-sxm-80gb", tensor_parallel_size=8)
    assert error.path == "engine.tensor_parallel_size"


def test_no_tokens_is_not_a_question() -> None:
    with pytest.raises(ScenarioError):
        kv_of_tokens(load_model("gpt2"), CONTINUOUS, 0)
