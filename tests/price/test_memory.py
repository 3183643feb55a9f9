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
from sim.hardware.vllm_releases import release_of
from sim.kernel.operations import plan_of
from sim.kernel.scenario import Attention, KernelWork
from sim.model.config import load_model
from sim.price.memory import check_length, memory_plan
from sim.price.memory_lines import activation_peak
from sim.price.memory_words import MemoryPlan, render_memory
from sim.serving.scenario import EngineConfig

CONTINUOUS = plain_engine()
H100 = load_hardware("h100-sxm-80gb")
GIB = 2**30


def with_hbm(name: str, hbm_bytes: float) -> HardwareProfile:
    return replace(load_hardware(name), hbm_bytes=int(hbm_bytes))


def peak_of(model: str, release: str, **settings: Any) -> int:
    engine = plain_engine(vllm_version=release, **settings)
    return activation_peak(load_model(model), engine, release_of(release)).num_bytes


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
        vllm_version=meta["vllm_version"],
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
        vllm_version="0.15.1",
    )
    plan = memory_plan(load_model("llama-2-7b"), load_hardware("h100-sxm-80gb"), engine)
    assert plan.num_gpu_blocks == pytest.approx(int(row["num_gpu_blocks"]), rel=0.04)


def test_gpt_oss_20b_on_an_a100_as_vllm_0_19_logged_it() -> None:
    # myoceane.fr, "vLLM system messages, A100" (2026-04-18): vllm serve openai/gpt-oss-20b
    # --max-model-len 131072 --gpu-memory-utilization 0.65: "Available KV cache memory: 36.56 GiB".
    engine = plain_engine(max_num_batched_tokens=2048, gpu_memory_utilization=0.65, vllm_version="0.19.0")
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
    assert peak_of(name, "0.6.4", max_num_batched_tokens=tokens) / GIB == pytest.approx(logged_gib, rel=0.04)


def test_weights_with_the_rotary_table_are_what_vllm_logs() -> None:
    # vLLM's "Model loading took 14.99 GiB" for Llama-3.1-8B, 14.96 of it checkpoint.
    plan = memory_plan(load_model("llama-3.1-8b"), load_hardware("h100-sxm-80gb"), CONTINUOUS)
    assert taken(plan, "weights") == pytest.approx(14.99, abs=0.005)


# --- arithmetic ---


def test_readme_example_of_qwen_kv() -> None:
    # vllm#22291: 28 layers x 4 KV heads x 128 x 2 x 2 B.
    model, engine = load_model("qwen2.5-7b"), plain_engine(max_model_len=8192)
    plan = memory_plan(model, load_hardware("h100-sxm-80gb"), engine)
    assert plan.bytes_of(3072) == plan.bytes_held(3072) == 28 * 4 * 128 * 2 * 2 * 3072
    text = render_memory(plan, 3072)
    assert "57,344 bytes (56 KiB) = 28 layers x 4 KV heads x head_dim 128 x 2 (K and V) x 2 B" in text
    assert "168.0 MiB = 0.16 GiB = 0.18 GB" in text


def test_the_heads_of_one_gpu_are_named() -> None:
    plan = memory_plan(
        load_model("llama-3.1-70b"), load_hardware("h200-sxm-141gb"), plain_engine(tensor_parallel_size=2)
    )
    assert plan.kv_formula == "80 layers x 4 KV heads of 8 on each GPU x head_dim 128 x 2 (K and V) x 2 B"


def test_the_lines_add_up_and_are_all_printed() -> None:
    plan = memory_plan(load_model("llama-3.1-8b"), load_hardware("h100-sxm-80gb"), CONTINUOUS)
    assert sum(line.num_bytes for line in plan.lines) == plan.kv_budget_bytes
    assert plan.num_gpu_blocks == plan.kv_budget_bytes // (16 * 131_072)
    text = render_memory(plan)
    for line in plan.lines:
        assert line.label in text and line.formula in text and f"[{line.basis}]" in text
    assert (
        f"{plan.num_gpu_blocks:,} = KV cache / 2,097,152 B of a block (32 full layers of 16 tokens)" in text
    )
    as_json = json.loads(json.dumps(plan.to_dict()))
    assert as_json["num_gpu_blocks"] == plan.num_gpu_blocks and len(as_json["lines"]) == len(plan.lines)
    assert as_json["groups"] == [
        {
            "kind": "full",
            "num_layers": 32,
            "block_size": 16,
            "window_tokens": None,
            "block_bytes": 2_097_152,
            "caches_prefixes": True,
        }
    ]


def test_what_nobody_has_measured_is_said_beside_the_number() -> None:
    plan = memory_plan(load_model("llama-3.1-8b"), H100, EngineConfig().on(H100))
    for words in ("nobody has measured", "no start of 0.33 was measured", "half to twice of it was logged"):
        assert any(words in note for note in plan.notes), words
        assert words in render_memory(plan)
    old = memory_plan(load_model("llama-3.1-8b"), H100, plain_engine(vllm_version="0.19.0"))
    assert not old.notes


def test_the_account_of_0_33_by_hand() -> None:
    """Its order: share of the total, weights, penalties' state, profile run, growth, graphs."""
    plan = memory_plan(
        load_model("llama-3.1-8b"),
        load_hardware("h100-sxm-80gb"),
        EngineConfig().on(load_hardware("h100-sxm-80gb")),
    )
    assert [line.label for line in plan.lines] == [
        "device total",
        "left alone",
        "weights",
        "sampler state",
        "activation peak",
        "outside of PyTorch",
        "CUDA graphs",
    ]
    assert taken(plan, "sampler state") * GIB == 1024 * 128256 * 4.125
    assert taken(plan, "activation peak") * GIB == 1024 * 128256 * (2 + 4 + 4 + 4) + 8192 * 4096 * 2
    assert taken(plan, "left alone") == pytest.approx(0.08 * 79.18, abs=1e-6)


@pytest.mark.parametrize(
    ("release", "share", "labels"),
    [
        ("0.19.0", 0.90, {"activation peak", "outside of PyTorch"}),
        ("0.21.0", 0.90, {"activation peak", "outside of PyTorch", "CUDA graphs"}),
        ("0.22.0", 0.92, {"activation peak", "outside of PyTorch", "CUDA graphs"}),
        ("0.33.0", 0.92, {"sampler state", "activation peak", "outside of PyTorch", "CUDA graphs"}),
    ],
)
def test_what_is_subtracted_depends_on_the_release(release: str, share: float, labels: set[str]) -> None:
    h100 = load_hardware("h100-sxm-80gb")
    engine = EngineConfig(vllm_version=release).on(h100)
    plan = memory_plan(load_model("llama-3.1-8b"), h100, engine)
    assert engine.gpu_memory_utilization == share
    assert {line.label for line in plan.lines} == labels | {"device total", "left alone", "weights"}


@pytest.mark.parametrize(
    ("release", "sampler", "bytes_per_logit"),
    [
        ("0.11.0", "auto", 38),
        ("0.16.0", "auto", 38),
        ("0.17.0", "auto", 15),
        ("0.10.1.1", "flashinfer", 10),
        ("0.33.0", "auto", 14),
        ("0.33.0", "triton", 6),
    ],
)
def test_bytes_a_logit_by_release_and_sampler(release: str, sampler: str, bytes_per_logit: int) -> None:
    h100 = load_hardware("h100-sxm-80gb")
    engine = plain_engine(vllm_version=release, sampler=sampler, max_num_seqs=1024)
    peak = activation_peak(load_model("qwen3-8b"), engine, release_of(release), h100)
    assert f"x {bytes_per_logit} B" in peak.formula
    assert peak.num_bytes == 1024 * 151936 * bytes_per_logit + 8192 * 4096 * 2


def test_experts_of_triton_keep_two_buffers_and_those_of_mxfp4_none() -> None:
    """Qwen3-30B-A3B: eight experts of 768 entries, each with two buffers as wide as hidden_size 2,048."""
    rest = 1024 * 151936 * 15 + 8192 * 2048 * 2
    peak = peak_of("qwen3-30b-a3b", "0.19.0", max_num_seqs=1024)
    assert peak == rest + 8192 * 8 * (2048 + 2048) * 2
    assert peak_of("qwen3-30b-a3b", "0.16.0", max_num_seqs=1024) == 1024 * 151936 * 38 + 8192 * 2048 * 2
    oss = peak_of("gpt-oss-20b", "0.19.0", max_num_seqs=1024)
    assert oss == 1024 * 201088 * 15 + 8192 * 2880 * 2


def test_fewer_graph_sizes_take_less_and_a_device_without_cuda_has_no_flashinfer() -> None:
    h100 = load_hardware("h100-sxm-80gb")
    model = load_model("llama-3.1-8b")
    few = memory_plan(model, h100, plain_engine(max_num_seqs=4))  # 1, 2, 4, 8, and full ones to 4
    assert taken(few, "CUDA graphs") == pytest.approx((4 + 3) * 9.5 / 1024, abs=1e-9)
    amd = memory_plan(load_model("qwen3-8b"), load_hardware("mi300x"), plain_engine(max_num_seqs=2048))
    assert "sampler (triton)" in next(line.formula for line in amd.lines if line.label == "activation peak")


def test_other_stages_sample_nothing_and_send_two_rows_on() -> None:
    model, engine = load_model("llama-3.1-8b"), plain_engine(vllm_version="0.19.0", max_num_seqs=1024)
    peak = activation_peak(model, engine, release_of("0.19.0"), samples=False)
    assert peak.num_bytes == 8192 * (3 * 14336 + (4 + 2) * 4096) * 2


def test_full_requests_as_vllm_counts_them() -> None:
    # "Maximum concurrency for 8,192 tokens per request": tokens / max_model_len without windows.
    engine = plain_engine(max_model_len=8192)
    plan = memory_plan(load_model("llama-3.1-8b"), load_hardware("h100-sxm-80gb"), engine)
    assert plan.max_concurrency == pytest.approx(plan.kv_budget_tokens / 8192)
    # gpt-oss: 512 blocks of the full group; of the windows 128 - 1 + 8,192 tokens, cut at 8,192, one more.
    oss = memory_plan(load_model("gpt-oss-20b"), load_hardware("h100-sxm-80gb"), engine)
    assert oss.max_concurrency == oss.num_gpu_blocks / (512 + 512 + 1)
    assert oss.kv_budget_tokens == int(oss.max_concurrency * 8192)


def test_windows_hold_two_batches_in_flight_where_scheduling_is_asynchronous() -> None:
    h100, model = load_hardware("h100-sxm-80gb"), load_model("gpt-oss-20b")
    given: dict[str, Any] = {"max_model_len": 131072, "max_num_seqs": 256, "max_num_batched_tokens": 8192}
    asynchronous = memory_plan(model, h100, EngineConfig(**given))
    synchronous = memory_plan(model, h100, EngineConfig(**given, async_scheduling=False))
    old = memory_plan(model, h100, EngineConfig(**given, vllm_version="0.19.0"))
    full = 131072 // 16
    assert asynchronous.pool.blocks_of(131072) == full + -(-(127 + 2 * 8192) // 16) + 1
    assert synchronous.pool.blocks_of(131072) == full + -(-(127 + 8192) // 16) + 1
    assert old.pool.blocks_of(131072) == synchronous.pool.blocks_of(131072)
    # Decoding, a window holds itself and one block more.
    assert asynchronous.bytes_held(131072) == (full + 8 + 1) * asynchronous.pool.block_bytes


def test_gpt_oss_120b_on_four_gpus_as_0_10_logged_it() -> None:
    """284.25 requests of 16,384 tokens: 1,024 blocks in full and 127 + 8,192 tokens in the windows."""
    engine = plain_engine(vllm_version="0.10.0", max_model_len=16384, tensor_parallel_size=4)
    plan = memory_plan(load_model("gpt-oss-120b"), load_hardware("h100-sxm-80gb"), engine)
    assert plan.pool.blocks_of(16384) == 1024 + 520 + 1


def test_an_override_replaces_the_budget() -> None:
    engine = plain_engine(num_gpu_blocks_override=100, max_model_len=1024)
    tiny = with_hbm("rtx-4090", 1e9)
    plan = memory_plan(load_model("llama-3.1-8b"), tiny, engine)
    assert (plan.num_gpu_blocks, plan.kv_budget_tokens, plan.overridden) == (100, 1600, True)
    assert plan.kv_budget_bytes == 1600 * 131_072 and plan.max_concurrency == 1600 / 1024
    assert "num_gpu_blocks_override" in render_memory(plan)


def test_the_peak_is_in_the_layers_where_the_vocabulary_is_small() -> None:
    # Gate and up, their product, and four of hidden_size, in float16.
    layers = peak_of("llama-2-7b", "0.19.0", max_num_seqs=8, max_num_batched_tokens=8192)
    assert layers == 8192 * (4 * 4096 + 3 * 11008) * 2
    sampled = peak_of("llama-2-7b", "0.19.0", max_num_seqs=512, max_num_batched_tokens=512)
    assert sampled == 512 * 32000 * 15 + 512 * 4096 * 2


def test_latent_attention_is_whole_on_every_gpu() -> None:
    engine = plain_engine(tensor_parallel_size=8)
    plan = memory_plan(load_model("deepseek-v3"), load_hardware("h200-sxm-141gb"), engine)
    assert plan.kv_bytes_per_token == 70_272 and any("latent attention" in note for note in plan.notes)


@given(
    model=st.sampled_from(["llama-3.1-8b", "qwen2.5-7b", "qwen3-30b-a3b", "opt-13b"]),
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
    assert "85.0 GB x gpu_memory_utilization 0.92 = 78.2 GB" in error.problem
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


def test_too_long_is_refused_with_the_longest_that_fits() -> None:
    l4 = load_hardware("l4")
    error = refused("qwen2.5-7b", "l4", batching="vllm")
    assert error.path == "engine.max_model_len" and "131,072" in error.problem and "7.00 GiB" in error.problem
    longest = int(error.allowed.removeprefix("at most ").replace(",", ""))
    model = load_model("qwen2.5-7b")
    fitting = replace(CONTINUOUS, batching="vllm", max_model_len=longest)
    assert memory_plan(model, l4, fitting).max_concurrency >= 1
    with pytest.raises(ScenarioError):
        memory_plan(model, l4, replace(fitting, max_model_len=longest + 16))
    # Schedulers that refuse a request when it comes are not stopped.
    assert memory_plan(model, l4, CONTINUOUS).max_concurrency < 1


def test_given_blocks_must_hold_the_longest_too() -> None:
    """512 blocks of 16 tokens for 8,192, and the null block: SPEC-memory, section 5."""
    h100, model = load_hardware("h100-sxm-80gb"), load_model("qwen2.5-7b")
    given = replace(CONTINUOUS, batching="vllm", max_model_len=8192)
    assert memory_plan(model, h100, replace(given, num_gpu_blocks_override=513)).max_concurrency >= 1
    with pytest.raises(ScenarioError) as caught:
        memory_plan(model, h100, replace(given, num_gpu_blocks_override=512))
    assert caught.value.allowed == "at most 8,176" and "num_gpu_blocks_override: 513" in caught.value.hint
    other = replace(given, num_gpu_blocks_override=512, runtime="sglang")
    assert memory_plan(model, h100, other).num_gpu_blocks == 512


def test_minus_one_fits_the_length() -> None:
    l4, model = load_hardware("l4"), load_model("qwen2.5-7b")
    plan = memory_plan(model, l4, replace(CONTINUOUS, batching="vllm", max_model_len=-1))
    assert plan.max_model_len == plan.longest_that_fits == (plan.num_gpu_blocks - 1) * 16
    large = memory_plan(model, load_hardware("h100-sxm-80gb"), replace(CONTINUOUS, max_model_len=-1))
    assert large.max_model_len == model.max_position_embeddings


def test_longer_than_the_model_s_positions_is_refused() -> None:
    with pytest.raises(ScenarioError) as caught:
        check_length(load_model("gpt2"), plain_engine(max_model_len=2048))
    assert (caught.value.path, caught.value.allowed) == ("engine.max_model_len", "at most 1,024")


# --- bytes that were given, and other engines ---


def test_given_kv_bytes_replace_what_is_left() -> None:
    engine = plain_engine(kv_cache_memory_bytes=20 * GIB)
    plan = memory_plan(load_model("llama-3.1-8b"), load_hardware("h100-sxm-80gb"), engine)
    assert (plan.kv_budget_bytes, plan.num_gpu_blocks) == (20 * GIB, 20 * GIB // 2_097_152)
    assert not plan.warnings
    large = memory_plan(load_model("llama-3.1-405b"), load_hardware("h100-sxm-80gb"), engine)
    assert any("runs out of memory" in warning for warning in large.warnings)


def test_a_share_that_leaves_too_little_beside_itself_is_warned_of() -> None:
    """0.19 on H100 at 0.95: gpt-oss-20b ran out of memory in the sampler's warm-up, and started at 0.90."""
    h100, model = load_hardware("h100-sxm-80gb"), load_model("gpt-oss-20b")
    for share, is_warned in ((0.95, True), (0.90, False)):
        engine = EngineConfig(vllm_version="0.19.0", gpu_memory_utilization=share).on(h100)
        warnings = memory_plan(model, h100, engine).warnings
        assert any("sampler's warm-up" in warning for warning in warnings) == is_warned
    inside = EngineConfig(gpu_memory_utilization=0.95).on(h100)
    assert not memory_plan(model, h100, inside).warnings


def test_sglang_s_share_is_of_weights_and_kv() -> None:
    h100, model = load_hardware("h100-sxm-80gb"), load_model("llama-3.1-8b")
    plan = memory_plan(model, h100, plain_engine(runtime="sglang", mem_fraction_static=0.8))
    available = 79.18 - taken(plan, "CUDA context")
    assert (plan.kv_budget_bytes / GIB + taken(plan, "weights")) == pytest.approx(0.8 * available, rel=1e-6)
    assert {line.basis for line in plan.lines} == {"counted", "assumed", "read"}
    # 512 + 8,192 x 1.5 + 256 x 2 + 58 graphs of prefill x 8 + 1,024 / 8 MiB.
    default = memory_plan(model, h100, plain_engine(runtime="sglang"))
    assert (
        f"mem_fraction_static {1 - (512 + 12288 + 512 + 58 * 8 + 128) / 1024 / 79.18:.3f}"
        in render_memory(default)
    )


def test_vllm_s_reservation_for_the_sampler_is_vllm_s_alone() -> None:
    h100, model = load_hardware("h100-sxm-80gb"), load_model("qwen3-32b")
    for runtime in ("sglang", "tensorrt-llm"):
        few, many = (
            memory_plan(model, h100, plain_engine(runtime=runtime, max_num_seqs=seqs)) for seqs in (16, 8192)
        )
        assert few.kv_budget_bytes == many.kv_budget_bytes > 0
        assert few.account == runtime


def test_no_room_under_another_engine_does_not_speak_of_vllm_s_share() -> None:
    error = refused("llama-3.1-70b", "h100-sxm-80gb", runtime="sglang")
    assert "gpu_memory_utilization" not in str(error) and "what sglang keeps beside" in error.problem


def test_tensorrt_llm_takes_a_share_of_what_is_free_after_weights() -> None:
    h100, model = load_hardware("h100-sxm-80gb"), load_model("llama-3.1-8b")
    half, default = (
        memory_plan(model, h100, plain_engine(runtime="tensorrt-llm", free_gpu_memory_fraction=share))
        for share in (0.45, None)
    )
    assert default.kv_budget_bytes == pytest.approx(2 * half.kv_budget_bytes, rel=1e-8)


def test_a_model_without_attention_keeps_one_state_a_request() -> None:
    keys = {
        "model_type": "falcon_mamba", "hidden_size": 4096, "num_hidden_layers": 64, "intermediate_size": 8192,
        "state_size": 16, "conv_kernel": 4, "expand": 2, "time_step_rank": 256, "vocab_size": 65024,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    plan = memory_plan(load_model(keys), H100, EngineConfig().on(H100))
    (group,) = plan.groups
    assert (group.kind, group.num_layers, group.caches_prefixes) == ("state", 64, False)
    assert plan.pool.blocks_of(1) == plan.pool.blocks_of(2048) == 1
    assert plan.max_concurrency == plan.num_gpu_blocks
    assert "no layer attends" in render_memory(plan)


# --- logs of single starts, which no constant was fitted to ---


def test_a_hybrid_of_0_11_as_its_log_counts_it(shared: Path) -> None:
    """vllm#28228: Kimi-Linear on two GPUs, 2.3 GiB: 75,840 tokens, 2.48 requests of 120,000.

    Blocks of 960 tokens, one state page a request, tokens as blocks / 4 groups x 960.
    """
    model = load_model(str(shared / "models/configs/written--kimi-linear-48b.json"))
    engine = plain_engine(
        vllm_version="0.11.0",
        tensor_parallel_size=2,
        max_model_len=120_000,
        kv_cache_memory_bytes=int(2.295 * GIB),
        block_size=16,
    )
    plan = memory_plan(model, H100, engine)
    assert (plan.block_size, len(plan.groups)) == (960, 4)
    assert plan.kv_budget_tokens == 75_840
    assert plan.max_concurrency == pytest.approx(2.48, abs=0.01)


def test_all_layers_slide_as_0_9_logged_it(shared: Path) -> None:
    """vLLM PR 19029: starcoder2-3b, 2,198,512 tokens, 178.68 requests of 16,384: 769 blocks of 16 each."""
    model = load_model(str(shared / "models/configs/written--starcoder2-3b.json"))
    engine = plain_engine(
        vllm_version="0.9.1", max_model_len=16_384, kv_cache_memory_bytes=2_198_512 * 30 * 2 * 2 * 128 * 2
    )
    plan = memory_plan(model, H100, engine)
    assert plan.kv_budget_tokens == 2_198_512
    assert plan.max_concurrency == pytest.approx(178.68, abs=0.005)


def test_delta_nets_of_0_27_as_their_log_counts_them(shared: Path) -> None:
    """Qwen3.8-27B-FP8 on two RTX 3090, FP8 KV: blocks of 1,568, 4.99 GiB, 302,921 tokens, 2.31 at 131,072.

    16 full layers of 4 KV heads of 256; 48 delta nets as Qwen3-Next's, with 48 value heads, in float32.
    """
    keys = json.loads((shared / "models/configs/written--qwen3-next-80b.json").read_text())
    keys |= {"num_hidden_layers": 64, "num_key_value_heads": 4, "linear_num_value_heads": 48}
    keys |= {"mamba_ssm_dtype": "float32"}
    keys.pop("layer_types", None)
    engine = EngineConfig(
        vllm_version="0.27.0",
        tensor_parallel_size=2,
        kv_cache_dtype="fp8",
        max_model_len=131_072,
        kv_cache_memory_bytes=int(4.99 * GIB),
    )
    plan = memory_plan(load_model({**keys, "name": "like Qwen3.8"}), load_hardware("rtx-3090"), engine)
    assert (plan.block_size, plan.kv_bytes_per_token) == (1_568, 16 * 2 * 512)
    assert plan.kv_budget_tokens == 302_921
    assert plan.max_concurrency == pytest.approx(2.31, abs=0.005)


def test_flashinfer_s_sampler_under_0_10_as_its_log_has_it() -> None:
    """Qwen2-7B on an A100-80GB at 0.25, FlashInfer's sampler on: 5.01 GiB, 93,872 tokens were logged."""
    engine = EngineConfig(
        vllm_version="0.10.1.1", sampler="flashinfer", gpu_memory_utilization=0.25, max_model_len=16_384
    )
    a100, model = load_hardware("a100-sxm-80gb"), load_model("qwen2.5-7b")
    plan = memory_plan(model, a100, engine.on(a100))
    assert plan.kv_budget_bytes / GIB == pytest.approx(5.01, abs=0.1)
    assert plan.kv_budget_tokens == pytest.approx(93_872, rel=0.02)


def test_gpt_oss_120b_did_not_start_on_one_h100_under_0_10() -> None:
    """vllm#23278: 65.97 GiB of weights in Marlin's kernels, -2.14 GiB for KV."""
    with pytest.raises(ScenarioError, match="leaves no room for KV cache"):
        memory_plan(load_model("gpt-oss-120b"), H100, EngineConfig(vllm_version="0.10.1").on(H100))


def test_standard_attention_holds_its_scores() -> None:
    """What the simulation of kernels holds at its peak, for a chunk of the largest step and every key."""
    hardware, model = load_hardware("h200-sxm-141gb"), load_model("llama-3.1-8b")
    keys = 16_384
    asked = Attention(
        algorithm="standard", batch=1, num_heads=32, num_kv_heads=8, head_dim=128, seqlen=keys, causal=True
    )
    held = plan_of(hardware, KernelWork(attention=asked)).extra_bytes
    sizes: dict[str, Any] = {"max_model_len": keys, "max_num_batched_tokens": keys, "max_num_seqs": 16}
    flash = memory_plan(model, hardware, plain_engine(**sizes))
    plan = memory_plan(model, hardware, plain_engine(attention="standard", **sizes))
    lines = {line.label: line.num_bytes for line in plan.lines}
    assert -lines["attention scores"] == held
    assert plan.kv_budget_bytes == flash.kv_budget_bytes - held
    chunked = memory_plan(
        model, hardware, plain_engine(attention="standard", **sizes | {"max_num_batched_tokens": 2048})
    )
    lines = {line.label: line.num_bytes for line in chunked.lines}
    assert -lines["attention scores"] == held / 8
    for runtime in ("sglang", "tensorrt-llm"):
        other = memory_plan(model, hardware, plain_engine(attention="standard", runtime=runtime, **sizes))
        assert "attention scores" in {line.label for line in other.lines}


def test_scores_that_do_not_fit_are_refused_with_what_would() -> None:
    hardware, model = load_hardware("a100-sxm-80gb"), load_model("llama-3.1-8b")
    sizes: dict[str, Any] = {"attention": "standard", "max_num_batched_tokens": 32_768}
    with pytest.raises(ScenarioError, match="no room for KV cache") as refused:
        memory_plan(model, hardware, plain_engine(max_model_len=32_768, **sizes))
    assert "attention: flash" in (refused.value.hint or "")
    with pytest.raises(ScenarioError, match="longest length"):
        memory_plan(model, hardware, plain_engine(max_model_len=-1, **sizes))
