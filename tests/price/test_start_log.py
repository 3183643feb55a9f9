"""Start-up logs: what is read of real ones, whatever stands around it, and what ours beside them says."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sim.cli.command import main
from sim.errors import ScenarioError
from sim.plan.memory import beside_log
from sim.price.start_log import StartLog, read_start_log
from sim.price.start_log_rows import LogBeside, LogRow

GIB = 2**30
LOGS = Path(__file__).parents[3] / "shared" / "cases" / "engines" / "logs"
NAMES = sorted(path.stem for path in LOGS.glob("*.txt")) or ["no logs"]

# The collection's words for what a line says, and ours. Sizes are in GiB there, bytes here.
SIZES = {
    "weights_gib": "weights_bytes", "kv_cache_gib": "kv_cache_bytes", "total_gpu_gib": "device_total_bytes",
    "usable_gib": "usable_bytes", "non_torch_gib": "non_torch_bytes", "cuda_graph_gib": "cuda_graphs_bytes",
    "activation_peak_gib": "activation_peak_bytes", "k_gib": "k_cache_bytes", "v_gib": "v_cache_bytes",
    "kv_cache_needed_gib": "kv_cache_needed_bytes", "avail_after_weights_gib": "free_after_weights_bytes",
    "cuda_graph_estimate_gib": "cuda_graphs_estimate_bytes",
    "avail_after_graphs_gib": "free_after_graphs_bytes", "kv_cache_bytes": "kv_cache_bytes",
    "avail_after_pool_gib": "free_after_pool_bytes",
}  # fmt: skip
COUNTS = {
    "num_gpu_blocks": "num_gpu_blocks", "kv_cache_tokens": "kv_cache_tokens",
    "padding_layers": "padding_layers",
    "max_concurrency": "max_concurrency", "estimated_max_model_len": "longest_that_fits",
    "encoder_budget_tokens": "encoder_tokens", "world_size": "world_size", "architecture": "architecture",
    "engine_gpu_mib": "engine_gpu",
}  # fmt: skip
SETTINGS = {
    "max_model_len": "max_model_len", "max_model_len_hint": "max_model_len", "dtype": "dtype",
    "model": "model", "max_num_batched_tokens_hint": "max_num_batched_tokens",
    "tensor_parallel_size": "tensor_parallel_size", "gpu_memory_utilization": "gpu_memory_utilization",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "chunked_prefill_size": "max_num_batched_tokens", "max_num_seqs": "max_num_seqs", "version": "version",
    "kv_cache_dtype": "kv_cache_dtype", "mem_fraction_static": "mem_fraction_static",
    "enforce_eager": "enforce_eager",
}  # fmt: skip
# Times, host memory and what the account has nothing of: passed over on purpose.
NOT_READ = {
    "torch_compile_s", "weights_load_s", "model_load_s", "profiling_s", "cuda_graph_s", "init_engine_s",
    "num_cpu_blocks", "max_prefill_tokens", "cuda_graph_max_batch", "bytes_per_token", "quantization",
}  # fmt: skip
ERRORS = {
    "max_model_len_refused": "max_model_len is longer than the KV cache holds",
    "no_kv_memory": "nothing is left for KV cache",
}


def read(text: str) -> StartLog:
    log = read_start_log(text)
    assert log is not None
    return log


def truth(name: str) -> tuple[str, dict[str, Any]]:
    return (LOGS / f"{name}.txt").read_text(), json.loads((LOGS / f"{name}.json").read_text())


def value_of(log: StartLog, name: str) -> Any:
    fact = log.last(name)
    return None if fact is None else fact.value


def wrong_in(log: StartLog, known: Mapping[str, Any]) -> list[str]:
    """What a reader must get, and did not."""
    wrong = []
    parsed, derived = known["parsed"], known.get("derived", ())
    for key, value in parsed.items():
        if key in NOT_READ or key in derived:
            continue
        if key in SIZES or key == "weights_mib":
            unit = 2**20 if key == "weights_mib" else 1 if key.endswith("_bytes") else GIB
            name = SIZES.get(key, "weights_bytes")
            said = [fact.value / unit for fact in log.of(name) if isinstance(fact.value, int)]
            if value is None:
                wrong += [f"{key}: {said} for nothing"] if said else []
            elif value not in [round(one, 4) for one in said]:
                wrong.append(f"{key}: {said} for {value}")
        elif key in COUNTS:
            wrong += [f"{key}: {value_of(log, COUNTS[key])}"] if value_of(log, COUNTS[key]) != value else []
        elif key == "cuda_graphs":
            own = {"piecewise": value_of(log, "piecewise_graphs"), "full": value_of(log, "full_graphs")}
            wrong += [f"{key}: {own}"] if own != value else []
        elif key == "avail_before_weights_gib":
            said = {fact.rank: fact.value for fact in log.of("free_before_weights_bytes")}
            expected = value if isinstance(value, dict) else {"": value}
            wrong += [f"{key}: {said}"] if said != {k: round(v * GIB) for k, v in expected.items()} else []
        elif key == "error":
            wrong += [] if ERRORS[value] in [fact.value for fact in log.of("error")] else [key]
        elif key == "tensor_parallel_size" and key not in log.settings:
            settings = {one.name: one.value for one in beside_log(log, {}).settings}
            wrong += [f"{key}: {settings.get(key)}"] if settings.get(key) != value else []
        else:
            fact = log.settings.get(SETTINGS[key])
            own = fact.value if fact else ("auto" if value == "auto" else None)
            wrong += [f"{key}: {own} for {value}"] if own != value else []
    return wrong


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_collected_logs_is_read(shared: Path, name: str) -> None:
    text, known = truth(name)
    log = read(text)
    assert log.engine == {"trtllm": "tensorrt-llm"}.get(known["engine"], known["engine"])
    assert wrong_in(log, known) == []


# --- whatever stands around a line ---


def of_container(line: str) -> str:
    return f"vllm-1  | {line}"


def of_pod(line: str) -> str:
    return f"2026-05-01T22:44:30.255123456Z stderr F {line}"


def coloured(line: str) -> str:
    return f"\x1b[1;36m(EngineCore_0 pid=7)\x1b[0;0m {line}" if line.startswith(("INFO", "WARN")) else line


def colours_without_their_escape(line: str) -> str:
    return f"[0;36m{line}[0;0m"


def as_json(line: str) -> str:
    return json.dumps({"log": line + "\n", "stream": "stderr"}, ensure_ascii=False)


AROUND: dict[str, Callable[[str], str]] = {
    "container": of_container,
    "pod": of_pod,
    "coloured": coloured,
    "colours without their escape": colours_without_their_escape,
    "JSON": as_json,
    "indented": lambda line: "    " + line,
}


def said_by(log: StartLog) -> dict[str, set[Any]]:
    return {fact.name: {one.value for one in log.of(fact.name)} for fact in log.facts}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", NAMES)
def test_what_stands_before_a_line_changes_nothing(shared: Path, name: str, around: str) -> None:
    text, known = truth(name)
    if name == "18":  # broken by a terminal: whoever writes before each piece has changed the text
        text = text.replace("'Qwe\n", "'Qwe").replace("is\n:", "is:")
    lines = [AROUND[around](line) for line in text.splitlines()]
    log = read("\n".join(lines))
    assert wrong_in(log, known) == []
    assert said_by(log) == said_by(read(text))


@pytest.mark.parametrize("name", NAMES)
def test_other_ends_of_lines_and_other_lines_between_change_nothing(shared: Path, name: str) -> None:
    text, known = truth(name)
    noise = [
        "",
        "INFO 05-12 10:00:00 [x.py:1] Something else happened: 12.5 GiB of it",
        "plain words",
        "=" * 70,
    ]
    draw = random.Random(name)
    if name != "18":
        mixed = [piece for line in text.splitlines() for piece in (line, draw.choice(noise))]
        assert wrong_in(read("\r\n".join(mixed)), known) == []
    assert wrong_in(read(text.replace("\n", "\r\n")), known) == []
    assert wrong_in(read("\ufeff" + text), known) == []


def test_a_line_that_a_terminal_broke_is_read_wherever_it_broke(shared: Path) -> None:
    text, known = truth("19")
    whole = said_by(read(text))
    for width in range(60, 160, 7):
        pieces = [line[i : i + width] for line in text.splitlines() for i in range(0, len(line), width)]
        log = read("\n".join(pieces))
        assert said_by(log) == whole, width
        assert wrong_in(log, known) == [], width


def test_any_lines_may_be_missing(shared: Path) -> None:
    for name in ("07", "13", "18", "20", "21", "24"):
        lines = truth(name)[0].splitlines()
        for left_out in range(len(lines)):
            rest = "\n".join(lines[:left_out] + lines[left_out + 1 :])
            log = read_start_log(rest)
            if log is not None:
                beside_log(log, {"model": "llama-3.1-8b", "hardware": "h100-sxm-80gb"})


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        # Releases that the collection has no line of, as their public logs print them.
        ("model weights take 1.50GiB; non_torch_memory takes 0.02GiB", "non_torch_bytes", 0.02),
        ("peak_torch_memory=3.12GiB memory_usage_post_profile=3.12GiB", "peak_torch_bytes", 3.12),
        ("DEBUG [gpu_worker.py:265] Initial free memory: 43.82 GiB; Requested memory: 0.90 (util), 39.88 GiB",
         "usable_bytes", 39.88),
        ("Total non KV cache memory: 2.78GiB; torch peak memory increase: 0.45GiB; non-torch forward "
         "increase memory: 0.02GiB; weights memory: 2.32GiB.", "activation_peak_bytes", 0.45),
        ("Free memory on device (78.66/79.19 GiB) on startup. Desired GPU memory utilization is (0.9, 71.27 "
         "GiB). Actual usage is 14.08 GiB for weight, 1.97 GiB for peak activation, 0.07 GiB for non-torch "
         "memory, and 0.67 GiB for CUDAGraph memory. Current kv cache memory in use is 59212694937 bytes.",
         "kv_cache_bytes", 59212694937 / GIB),
        ("Free memory on device cuda:0 (15.28/15.51 GiB) on startup.", "device_total_bytes", 15.51),
        ("Actual usage is 10.47 GiB for consumed memory (weights + non-torch), 0.79 GiB for peak activation, "
         "and 0.04 GiB for CUDAGraph memory.", "consumed_bytes", 10.47),
        ("CUDA graph pool memory: 0.11 GiB (actual), 0.14 GiB (estimated), difference: 0.03 GiB (27.3%).",
         "cuda_graphs_estimate_bytes", 0.14),
        ("GPU KV cache size: 172,032 tokens, Maximum concurrency for 172,032 tokens per request: 1.00x",
         "max_concurrency", 1.0),
        ("Setting attention block size to 1568 tokens to ensure that attention page size is >= mamba page.",
         "block_size", 1568),
        ("CUDA out of memory. Tried to allocate 786.00 MiB. GPU 0 has a total capacity of 79.19 GiB of which "
         "551.69 MiB is free.", "tried_to_allocate_bytes", 786 / 1024),
        ("[TensorRT-LLM][INFO] Allocated 52.49 GiB for max tokens in paged KV cache (429984).",
         "kv_cache_tokens", 429984),
        ("[2025-10-16 09:06:30] Capture cuda graph end. Time elapsed: 9.33 s. mem usage=1.06 GB.",
         "cuda_graphs_bytes", 1.06),
        ("[TensorRT-LLM][INFO] Number of tokens per block: 32.", "tokens_per_block", 32),
        ("[2026-09-09 11:57:18] Mamba Cache is allocated. max_mamba_cache_size: 48, conv_state size: 0.09GB, "
         "ssm_state size: 6.46GB", "ssm_states_bytes", 6.46),
        ("Overriding num_gpu_blocks=5867 with num_gpu_blocks_override=1000", "num_gpu_blocks_override", 1000),
    ],
)  # fmt: skip
def test_other_releases_lines(line: str, name: str, value: float) -> None:
    said = value_of(read(line), name)
    assert said == (round(value * GIB) if name.endswith("_bytes") else value)


def test_the_profile_run_s_override_is_not_the_cache_s_size(shared: Path) -> None:
    log = read(truth("15")[0])
    assert not log.of("num_gpu_blocks_override") and not log.of("num_gpu_blocks")


CONFIG = (
    "(EngineCore_DP0 pid=3) INFO 09-23 18:12:05 [core.py:76] Initializing a V1 LLM engine "
    "(v0.11.1rc2.dev141+g38) with config: model='/hub/models--Qwen--Qwen3-8B/snapshots/0e9e', "
    "speculative_config=SpeculativeConfig(method='eagle', model='other', num_spec_tokens=3), tokenizer='x', "
    "dtype=torch.float16, max_seq_len=4096, tensor_parallel_size=4, pipeline_parallel_size=1, "
    "quantization=None, enforce_eager=True, kv_cache_dtype=fp8_e4m3, seed=0, enable_prefix_caching=False, "
    "compilation_config={'max_num_seqs': 7}"
)


def test_the_engine_s_configuration_says_the_settings() -> None:
    beside = beside_log(read(CONFIG), {"hardware": "h100-sxm-80gb"})
    said = {one.name: one.value for one in beside.settings if one.origin == "log"}
    assert said == {
        "runtime": "vllm", "vllm_version": "0.11.1rc2.dev141+g38", "tensor_parallel_size": 4,
        "dtype": "float16", "pipeline_parallel_size": 1, "max_model_len": 4096, "kv_cache_dtype": "fp8",
        "enable_prefix_caching": False, "model": "/hub/models--Qwen--Qwen3-8B/snapshots/0e9e",
    }  # fmt: skip
    assert beside.ours is not None and beside.ours.model.name == "qwen3-8b"
    assert any("a draft model" in note for note in beside.notes)
    assert any("enforce_eager" in note for note in beside.notes)


ARGS = "INFO 11-02 10:00:00 [api_server.py:1] vLLM API server version 0.13.0\n"
ARGS += "INFO 11-02 10:00:01 [utils.py:233] non-default args: {{'model': 'qwen3-8b', {}}}\n"
ARGS += "INFO 11-02 10:01:00 [gpu_model_runner.py:1] Model loading took {} GiB memory and 9 seconds\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("'enable_lora': True", "enable_lora True: LoRA adapters, which is not counted here"),
        ("'enable_expert_parallel': True", "whole experts on each GPU, which is not counted here"),
        ("'speculative_config': {'method': 'ngram', 'num_speculative_tokens': 3}", "no weights and no KV"),
        (
            "'speculative_config': {'method': 'eagle3', 'model': 'x'}",
            "a draft model's weights, KV and graphs",
        ),
        ("'enable_lora': False", ""),
    ],
)
def test_what_the_account_lacks_is_named(said: str, words: str) -> None:
    beside = beside_log(read(ARGS.format(said, "15.27")), {"hardware": "h100-sxm-80gb"})
    assert (
        any(words in note for note in beside.notes) if words else not any("LoRA" in n for n in beside.notes)
    )


@pytest.mark.parametrize(("logged", "is_padding"), [("14.50", True), ("2.20", False)])
def test_padding_explains_no_difference_that_is_large(logged: str, is_padding: bool) -> None:
    beside = beside_log(read(ARGS.format("'dtype': 'bfloat16'", logged)), {"hardware": "h100-sxm-80gb"})
    why = row(beside, "weights_bytes").why
    assert ("pad and repack" in why) is is_padding
    assert ("weights split over other GPUs" in why) is not is_padding


def test_sglang_s_switches_are_the_contrary_of_ours() -> None:
    text = "[2026-05-01 10:00:00] server_args=ServerArgs(model_path='qwen3-8b', disable_radix_cache=True, "
    text += "disable_overlap_schedule=True, tp_size=1)\n[2026-05-01 10:00:20] Load weight end. type=Qwen3, "
    text += "dtype=torch.bfloat16, avail mem=60.00 GB, mem usage=15.30 GB.\n"
    beside = beside_log(read(text), {"hardware": "h100-sxm-80gb"})
    said = {one.name: one.value for one in beside.settings if one.origin == "log"}
    assert said["enable_prefix_caching"] is False and said["async_scheduling"] is False


def test_a_setting_that_changes_nothing_explains_nothing(shared: Path) -> None:
    """178,880 tokens were logged, where the logged bytes hold 180,928 of ours: no setting closes that."""
    given = {
        "model": "Qwen/Qwen3-235B-A22B", "quantization": "fp8", "hardware": "h100-sxm-80gb",
        "tensor_parallel_size": 4,
    }  # fmt: skip
    why = row(beside_log(read(truth("03")[0]), given), "kv_cache_tokens").why
    assert "180,928" in why and "most likely" not in why


def test_no_shipped_device_is_said_where_none_is_near(shared: Path) -> None:
    """230 GiB free after 57 of weights: more than any shipped device has."""
    beside = beside_log(read(truth("21")[0]), {"model": "qwen3-30b-a3b"})
    device = next(one for one in beside.settings if one.name == "hardware")
    assert device.origin == "assumed" and device.why.startswith("no shipped device fits")


def test_of_several_starts_the_last_is_read() -> None:
    first = "INFO [api_server.py:1] vLLM API server version 0.9.0\nINFO Available KV cache memory: 1.00 GiB\n"
    second = first.replace("1.00", "2.00").replace("0.9.0", "0.10.0")
    log = read(first + second)
    assert log.num_starts == 2 and value_of(log, "kv_cache_bytes") == 2 * GIB
    assert [fact.value for fact in log.of("kv_cache_bytes")] == [2 * GIB]
    cut = read(first + second.splitlines()[0])
    assert value_of(cut, "kv_cache_bytes") == GIB  # the last that says anything of memory


def test_replicas_are_not_other_starts() -> None:
    lines = [
        f"(EngineCore_DP{i} pid={i}) INFO Initializing a V1 LLM engine (v0.11.0) with config: model='x', dp=2"
        for i in range(2)
    ]
    assert read("\n".join(lines)).num_starts == 1


# --- beside ours ---

A100_QWEN = {"model": "qwen2.5-7b", "hardware": "a100-sxm-80gb"}


def row(beside: LogBeside, name: str) -> LogRow:
    return next(one for one in beside.rows if one.name == name)


def test_the_sampler_that_nobody_named_is_found(shared: Path) -> None:
    """FlashInfer's, as the same start is explained in the account's own tests."""
    beside = beside_log(read(truth("18")[0]), A100_QWEN)
    kv = row(beside, "kv_cache_bytes")
    assert kv.lines == (9,) and kv.difference is not None and kv.difference < -0.9 * GIB
    assert kv.why.startswith("most likely sampler flashinfer would give 5.0")
    assert "activation peak" in kv.why
    assert row(beside, "weights_bytes").is_same
    tokens = row(beside, "kv_cache_tokens")
    assert re.search(r"of the logged 5.01 GiB ours is 93,8\d\d", tokens.why)
    told = beside_log(read(truth("18")[0]), {**A100_QWEN, "sampler": "flashinfer"})
    assert abs(row(told, "kv_cache_bytes").difference or 0) < 0.1 * GIB


def test_a_device_that_no_line_says_is_the_one_with_that_cache(shared: Path) -> None:
    """Log 18 is of an A100-80GB, and nothing in it says so."""
    beside = beside_log(read(truth("18")[0]), {"model": "qwen2.5-7b"})
    device = next(one for one in beside.settings if one.name == "hardware")
    assert device.origin == "assumed" and device.value.startswith("a100-") and "80gb" in device.value
    assert "nearest to the log's 5.01 GiB" in device.why
    assert "sampler flashinfer would give" in row(beside, "kv_cache_bytes").why
    usual = beside_log(read("Model loading took 14.25 GiB and 3 seconds"), {"model": "qwen2.5-7b"})
    said = next(one for one in usual.settings if one.name == "hardware")
    assert "neither the device nor how much memory it has" in said.why and row(usual, "weights_bytes").is_same


def test_a_device_of_another_size_has_the_memory_that_the_log_says(shared: Path) -> None:
    """An RTX 4060 of 8 GB, which is not shipped: 4-bit weights, 1.42 GiB of activations, -1.05 GiB of KV."""
    beside = beside_log(read(truth("13")[0]), {"model": "qwen2.5-7b"})
    assert row(beside, "device_total_bytes").is_same and "leaves no room" in beside.refusal
    assert "quantization int4 would give 5.22 GiB" in row(beside, "weights_bytes").why
    assert abs(row(beside, "activation_peak_bytes").difference or 1e12) < 0.05 * GIB


def test_parts_that_are_logged_say_where_the_kv_cache_s_difference_lies(shared: Path) -> None:
    """0.6.4 on an H100: 1.79 GiB outside of PyTorch, of which one GPU's constant is 0.13."""
    beside = beside_log(read(truth("07")[0]), {"model": "llama-3-8b"})
    device = next(one for one in beside.settings if one.name == "hardware")
    assert device.origin == "assumed" and device.value == "h100-sxm-80gb" and "79.22 GiB" in device.why
    assert "outside of PyTorch -1.66 GiB" in row(beside, "kv_cache_bytes").why
    assert "of the difference" not in row(beside, "kv_cache_bytes").why  # nothing is left over
    for name in ("weights_bytes", "device_total_bytes", "usable_bytes"):
        assert row(beside, name).is_same


def test_a_cache_of_another_type_is_found_by_the_size_of_a_token() -> None:
    """Llama-3.1-8B on an H100, 0.19 (planner PR 205): 58.11 GiB are 952,032 tokens in FP8, else 476,016."""
    text = "vLLM API server version 0.19.0\nAvailable KV cache memory: 58.11 GiB\n"
    text += "GPU KV cache size: {} tokens\n"
    given = {
        "model": "llama-3.1-8b", "hardware": "h100-sxm-80gb", "gpu_memory_utilization": 0.95,
        "max_model_len": 8192,
    }  # fmt: skip
    half = row(beside_log(read(text.format("952,032")), given), "kv_cache_tokens")
    assert "the size of a token or request differs" in half.why and "kv_cache_dtype fp8" in half.why
    whole = beside_log(read(text.format("476,016")), given)
    assert row(whole, "kv_cache_tokens").is_same and row(whole, "kv_cache_bytes").is_same


def test_what_is_given_takes_the_place_of_what_the_log_says(shared: Path) -> None:
    beside = beside_log(
        read(truth("18")[0]), {**A100_QWEN, "gpu_memory_utilization": 0.5, "max_num_seqs": 64}
    )
    said = {one.name: one for one in beside.settings}
    assert said["gpu_memory_utilization"].said_by == "given here, where the log says 0.25"
    assert said["model"].instead_of == "Qwen2-7B-Instruct"
    assert said["max_num_seqs"].said_by == "given here"
    assert said["max_num_batched_tokens"].said_by == "line 5"
    assert said["tensor_parallel_size"].origin == "default"  # the log prints what is not
    assert beside.ours is not None and beside.ours.engine.max_num_seqs == 64


def test_a_start_that_ours_would_refuse_has_an_account_all_the_same(shared: Path) -> None:
    given = {"model": "llama-3.1-70b", "hardware": "h100-sxm-80gb", "quantization": "int8"}
    beside = beside_log(read(truth("01")[0]), given)
    assert beside.ours is not None and "leaves no room" in beside.refusal
    assert row(beside, "weights_bytes").is_same
    fits = beside_log(read(truth("01")[0]), {**given, "gpu_memory_utilization": 0.98})
    assert not fits.refusal


def test_sglang_s_two_halves_are_one_cache_and_its_tokens_are_counted(shared: Path) -> None:
    """1,669,816 tokens x 48 layers x 4 heads x 128 x 2 x 2 B = 152.88 GiB."""
    beside = beside_log(read(truth("21")[0]), {"model": "qwen3-30b-a3b", "hardware": "mi300x"})
    assert row(beside, "kv_cache_bytes").logged == pytest.approx(152.88 * GIB, rel=1e-6)
    assert "ours is 1,669,8" in row(beside, "kv_cache_tokens").why
    assert abs((row(beside, "weights_bytes").difference or 0) / GIB) < 0.2


def test_tensorrt_llm_s_blocks_are_of_its_own_size() -> None:
    """A public log of Llama-3.1-8B with FP8 KV on 32 GB: 8,219 blocks of 32 tokens of 65,536 B, 16.05 GiB."""
    text = (
        "[TensorRT-LLM][INFO] Memory usage when calculating max tokens in paged kv cache: total: 31.84 GiB, "
        "available: 17.83 GiB\n"
        "[TensorRT-LLM][INFO] Number of blocks in KV cache primary pool: 8219\n"
        "[TensorRT-LLM][INFO] Number of tokens per block: 32.\n"
        "[TensorRT-LLM][INFO] Allocated 16.05 GiB for max tokens in paged KV cache (263008)\n"
    )
    beside = beside_log(read(text), {"model": "llama-3.1-8b", "kv_cache_dtype": "fp8"})
    assert next(one for one in beside.settings if one.name == "block_size").said_by == "line 3"
    assert row(beside, "kv_cache_tokens").logged == 8219 * 32
    for name, own in (("kv_cache_tokens", r"ours is 262,9\d\d"), ("num_gpu_blocks", r"ours is 8,21\d")):
        assert re.search(own, row(beside, name).why), row(beside, name).why


def test_tensorrt_llm_s_cache_is_counted(shared: Path) -> None:
    beside = beside_log(read(truth("24")[0]), {"model": "llama-2-7b", "hardware": "a100-sxm-80gb"})
    assert "ours is 132,608" in row(beside, "kv_cache_tokens").why


def test_every_rank_counts_and_the_fewest_bytes_are_taken(shared: Path) -> None:
    text = truth("19")[0]
    beside = beside_log(read(text), A100_QWEN)
    assert row(beside, "kv_cache_bytes").ranks == "the same on 2 GPUs"
    head, last, tail = text.rpartition("Available KV cache memory: 12.02")
    uneven = head + last.replace("12.02", "11.50") + tail
    kv = row(beside_log(read(uneven), A100_QWEN), "kv_cache_bytes")
    assert kv.logged == pytest.approx(11.5 * GIB) and kv.ranks == "11.50 GiB to 12.02 GiB on 2 GPUs"


@pytest.mark.parametrize(
    ("prefixes", "sizes"),
    [
        (["(Worker_TP0 pid=1)", "(Worker_TP1 pid=2)"], (1, 2)),
        (["(Worker_PP0_TP1 pid=1)", "(Worker_PP2_TP3_EP3 pid=2)"], (3, 4)),
        (["(VllmWorkerProcess pid=7)", "(VllmWorkerProcess pid=8)", "(VllmWorkerProcess pid=9)"], (1, 4)),
        (["[2025-10-16 09:06:09 DP0 TP7 EP7]"], (1, 8)),
        (["INFO 01-01 10:00:00"], (1, 1)),
    ],
)
def test_sizes_are_seen_in_who_prints(prefixes: list[str], sizes: tuple[int, int]) -> None:
    lines = [f"{prefix} Load weight begin. avail mem=78.00 GB" for prefix in prefixes]
    if "[20" not in prefixes[0]:
        lines = [f"{prefix} Model loading took 2.00 GiB and 3 seconds" for prefix in prefixes]
    beside = beside_log(read("\n".join(lines)), {"model": "llama-3.1-8b", "hardware": "h100-sxm-80gb"})
    assert beside.ours is not None
    engine = beside.ours.engine
    assert (engine.pipeline_parallel_size, engine.tensor_parallel_size) == sizes


def test_a_wrong_option_is_the_user_s_and_an_odd_log_is_not() -> None:
    log = read("Model loading took 14.99 GiB and 3 seconds\nUsing max model len 999999999\n")
    given = {"model": "llama-3.1-8b", "hardware": "h100-sxm-80gb"}
    beside = beside_log(log, given)
    assert beside.ours is None and "positions" in beside.refusal
    with pytest.raises(ScenarioError, match="positions"):
        beside_log(log, {**given, "max_model_len": 999_999_999})
    with pytest.raises(ScenarioError):
        beside_log(log, {**given, "model": "no-such-model"})


# --- the command ---


def run(capsys: pytest.CaptureFixture[str], *given: str) -> tuple[int, str, str]:
    code = main(["memory", *given])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def log_18(shared: Path) -> tuple[str, ...]:
    return "--from-log", str(LOGS / "18.txt"), "--model", "qwen2.5-7b", "--hardware", "a100-sxm-80gb"


def test_text_has_the_table_the_words_and_who_said_what(
    log_18: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, *log_18)
    assert code == 0
    assert re.search(r"\| +9 \| KV cache +\| +5.01 GiB \| +4.05 GiB \| -0.96 GiB \(-19.2%\) \|", out)
    assert "most likely sampler flashinfer" in out and "W weights 18 %" in out
    assert re.search(r"sampler +auto +assumed", out) and re.search(
        r"max_num_batched_tokens +2,048 +line 5", out
    )
    assert max(map(len, out.splitlines())) <= 110


def test_json_and_csv_have_the_same_numbers(
    log_18: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, *log_18, "--json", "--out", str(tmp_path))
    found = json.loads(out)
    lines = {one["what"]: one for one in found["lines"]}
    assert lines["KV tokens"]["logged"] == 93_872 and lines["KV tokens"]["line"] == 10
    assert lines["KV cache"]["difference"] == lines["KV cache"]["ours"] - lines["KV cache"]["logged"]
    assert found["account"]["kv_budget_tokens"] == lines["KV tokens"]["ours"]
    assert {one["origin"] for one in found["settings"]} == {"log", "given", "default", "assumed"}
    _, out, _ = run(capsys, *log_18, "--csv")
    assert out == (tmp_path / "memory.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [float(one["logged"]) for one in rows] == [one["logged"] for one in found["lines"]]
    assert json.loads((tmp_path / "memory.json").read_text()) == found
    assert "| KV cache | 5.01 GiB |" in (tmp_path / "memory.md").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such file"),
        ("", "no line of an engine's start-up is in it"),
        ("hello\nGET /v1/models 200\nINFO nothing of memory\n", "no line of an engine's start-up is in it"),
    ],
)
def test_a_log_without_a_start_is_refused(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.log"
    if text is not None:
        file.write_text(text)
    code, _, err = run(capsys, "--from-log", str(file))
    assert code == 2 and words in err and "Traceback" not in err


def test_a_folder_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--from-log", str(tmp_path))
    assert code == 2 and "a directory, not a file" in err


def test_without_a_model_the_log_is_told_and_what_is_missing(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "--from-log", str(LOGS / "05.txt"))
    assert code == 0 and "no account to put beside it: the log names no model: --model" in out
    assert "34,736" in out and "max_model_len is longer than the KV cache holds" in out


def test_one_start_has_one_device(log_18: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for more in (("--tensor-parallel-size", "1,2"), ("--fit",), ("--tokens", "5")):
        code, _, err = run(capsys, *log_18, *more)
        assert code == 2 and "--from-log" in err
    code, _, err = run(capsys, "--hardware", "l4")
    assert code == 2 and "--model is missing" in err


def test_a_log_in_sixteen_bits_is_read(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "powershell.log"
    file.write_text(truth("11")[0], encoding="utf-16")
    code, out, _ = run(capsys, "--from-log", str(file), "--model", "llama-3.1-8b", "--hardware", "l40s")
    assert code == 0 and "158,656" in out


def test_the_page_that_shows_it_shows_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "memory.md").read_text()
    log, command, printed = re.findall(
        r"```(?:text|bash)\n(.*?)```", page.partition("## Beside")[2], re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    Path("start.log").write_text(log)
    _, out, _ = run(capsys, *command.split()[2:])
    assert [line.rstrip() for line in out.splitlines()] == printed.splitlines()


def test_a_long_server_log_is_read_in_seconds(shared: Path) -> None:
    """What a server prints while it runs is most of its log: it is passed over as a whole."""
    text = truth("19")[0]
    running = (
        "(APIServer pid=1) INFO 05-03 18:01:02 [loggers.py:248] Engine 000: Avg prompt throughput: 1234.5 "
        "tokens/s, GPU KV cache usage: 12.3%\n"
        '(APIServer pid=1) INFO: 192.0.2.1:1 - "POST /v1 HTTP/1.1" 200 OK\n'
    )
    long = read(text + running * 20_000)
    assert said_by(long) == said_by(read(text)) and long.ranks == ("TP0", "TP1")


def test_words_end_where_their_sentence_does() -> None:
    beside = beside_log(read("INFO [vllm.py:840] Asynchronous scheduling is enabled.\nversion 1\n"), {})
    assert next(one for one in beside.settings if one.name == "async_scheduling").value is True


def test_a_format_that_only_the_checkpoint_knows_is_not_called_a_default() -> None:
    """Half the width of the weights is then tried, and named where it fits."""
    args = "non-default args: {'model': 'x/unknown', 'quantization': 'compressed-tensors'}"
    text = f"vLLM API server version 0.19.0\nINFO {args}\nModel loading took 7.96 GiB memory and 5 seconds\n"
    beside = beside_log(read(text), {"model": "llama-3.1-8b", "hardware": "h100-sxm-80gb"})
    said = {one.name: one for one in beside.settings}
    assert said["quantization"].origin == "assumed" and "compressed-tensors" in said["quantization"].why
    assert "quantization fp8 would give" in row(beside, "weights_bytes").why
