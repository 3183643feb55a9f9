"""Errors name the key path, both numbers, what is allowed and what to try."""

from __future__ import annotations

from pathlib import Path

import pytest
from loading_fixtures import GOOD, Load, changed, load, refusal, with_keys, without_compare, workload_of

__all__ = ["load"]


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (
            changed("max_num_batched_tokens", "max_num_batched_token"),
            "engine.max_num_batched_token",
            ["unknown field; did you mean max_num_batched_tokens?"],
        ),
        (
            changed("  max_num_seqs: 256", "  batch_size: 256"),
            "engine.batch_size",
            ["did you mean max_num_seqs?"],
        ),
        (GOOD + "max_num_seqs: 3\n", "max_num_seqs", ["unknown field", "try: engine.max_num_seqs"]),
        (
            changed("poisson, requests_per_s: 8", "poisson, rps: 8"),
            "workload.arrivals.rps",
            ["did you mean requests_per_s?"],
        ),
        (changed("seeds: [1, 2, 3]", "seeds: 5"), "seeds", ["expected a list", "[1, 2, 3, 4, 5]"]),
        (
            changed("batching: continuous", "batching: continous"),
            "engine.batching",
            ["did you mean continuous?"],
        ),
        (
            changed("batching: continuous", "batching: vllm\n  vllm_version: 0.20.0\n  watermark: 0.1"),
            "engine.watermark",
            ["0.20.0", "no such setting"],
        ),
        (changed("ttft_s: 500 ms", "ttft_s: 500 MB"), "slo.ttft_s", ["a size in bytes, not a time"]),
        (changed("max_num_seqs: 256", "max_num_seqs: 1e3"), "engine.max_num_seqs", ["1.0e+3"]),
        (changed("max_num_seqs: 256", "max_num_seqs: '256'"), "engine.max_num_seqs", ["256 without quotes"]),
        (changed("max_num_seqs: 256", "max_num_seqs: true"), "engine.max_num_seqs", ["boolean"]),
        (changed("max_num_seqs: 256", "max_num_seqs: 0"), "engine.max_num_seqs", ["at least 1"]),
        (
            changed("enable_chunked_prefill: true", "enable_chunked_prefill: 1"),
            "engine.enable_chunked_prefill",
            ["true or false", "try: true"],
        ),
        (
            changed("kv_allocator: paged\n", "kv_allocator: no\n"),
            "engine.kv_allocator",
            ["reads no", "paged"],
        ),
        (
            changed("question: What does continuous batching gain over static?", "question: off"),
            "question",
            ["boolean false", "quotes"],
        ),
        (changed("kind: serving", "kind: serv"), "kind", ["did you mean serving?"]),
        (changed("seeds: [1, 2, 3]", "seeds: [1, -2]"), "seeds[1]", ["at least 0"]),
        (changed("seeds: [1, 2, 3]", "seeds: [1, 1]"), "seeds", ["seed 1 is given twice"]),
        (changed("seeds: [1, 2, 3]", "seeds: []"), "seeds", ["1 to 1000"]),
        (changed("seeds: [1, 2, 3]", "seeds: [1, x]"), "seeds[1]", ["a whole number"]),
        (changed("schema_version: 1\n", ""), "schema_version", ["missing", "schema_version: 1"]),
        (changed("schema_version: 1", "schema_version: 2"), "schema_version", ["not supported", "newer"]),
        (changed("hardware: h100-sxm-80gb", "hardware: h100-sxm-80g"), "hardware", ["h100-sxm-80gb"]),
        (changed("hardware: h100-sxm-80gb", "hardware: 3"), "hardware", ["expected a hardware"]),
        (changed("model: llama-3.1-8b", "model: lama-3.1-8b"), "model", ["llama-3.1-8b"]),
        (
            changed("num_requests: 2000", "num_requests: 1000000000000000"),
            "workload.num_requests",
            ["100 million"],
        ),
        (changed("reference: static", "reference: statc"), "compare.reference", ["did you mean static?"]),
        (changed("reference: static", "referense: static"), "compare.referense", ["did you mean reference?"]),
        (changed("continuous: {}", "continuous: 3"), "compare.variants.continuous", ["differences"]),
        (
            changed("continuous: {}", "continuous: {seeds: [4]}"),
            "compare.variants.continuous.seeds",
            ["the same for all variants"],
        ),
        (
            changed("continuous: {}", "continuous: {engine: {max_num_seq: 4}}"),
            "compare.variants.continuous.engine.max_num_seq",
            ["did you mean max_num_seqs?"],
        ),
        (changed("continuous: {}", "a/b: {}"), "compare.variants.a/b", ["not a name"]),
        (
            changed("variant: continuous", "variant: continous"),
            "thresholds[0].variant",
            ["did you mean continuous?"],
        ),
        (changed("variant: continuous, ", ""), "thresholds[0].variant", ["missing"]),
        (changed(", max: 1 s", ""), "thresholds[0]", ["without a bound"]),
        (changed(", max: 1 s", ", max: 1 s, min: 2 s"), "thresholds[0]", ["min 2 is above max 1"]),
    ],
)
def test_errors_name_the_key_and_what_to_write(load: Load, text: str, path: str, words: list[str]) -> None:
    error = refusal(load, text)
    shown = str(error)
    assert error.path == path, shown
    assert error.file.endswith("chat.yaml")
    assert all(word in shown for word in words), shown


_DRAWN = "  prompt_tokens: 512\n  output_tokens: 256\n"


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (
            changed("warmup_requests: 200", "warmup_requests: 2000"),
            "workload.warmup_requests",
            ["warmup_requests 2,000", "num_requests 2,000"],
        ),
        (
            changed("max_num_batched_tokens: 8192", "max_num_batched_tokens: 128"),
            "engine.max_num_batched_tokens",
            ["max_num_batched_tokens 128", "max_num_seqs 256"],
        ),
        (
            changed("enable_chunked_prefill: true", "enable_chunked_prefill: false").replace(
                "max_num_batched_tokens: 8192", "max_num_batched_tokens: 4096"
            ),
            "engine.max_num_batched_tokens",
            ["4,096", "max_model_len 8,192"],
        ),
        (
            changed("max_model_len: 8192", "max_model_len: 200000"),
            "engine.max_model_len",
            ["200,000", "131,072"],
        ),
        (
            changed("lognormal, mean: 512,", "lognormal, mean: 512, sigma: 80,"),
            "workload.prompt_tokens.sigma",
            ["0 to 5", "stddev: 80"],
        ),
        (
            with_keys("engine", "  kv_reservation: pow2"),
            "engine.kv_reservation",
            ["no effect with kv_allocator: paged"],
        ),
        (
            with_keys("engine", "  use_kv_cache: false\n  num_gpu_blocks_override: 100"),
            "engine.num_gpu_blocks_override",
            ["use_kv_cache is false"],
        ),
        (
            with_keys("engine", "  enable_prefix_caching: true"),
            "engine.enable_prefix_caching",
            ["batching: continuous"],
        ),
        (
            with_keys("engine", "  static_batch_wait_s: 1 s"),
            "engine.static_batch_wait_s",
            ["batching: static"],
        ),
        (
            with_keys("engine", "  service_time: {distribution: exponential, mean: 1 s}"),
            "engine.max_num_seqs",
            ["max_num_seqs is 256", "shared_queue"],
        ),
        (
            with_keys("engine", "  tensor_parallel_size: 3"),
            "engine.tensor_parallel_size",
            ["32 attention heads"],
        ),
        (
            with_keys("engine", "  quantization: fp8").replace("h100-sxm-80gb", "a100-sxm-80gb"),
            "engine.quantization",
            ["float8", "h100-sxm-80gb"],
        ),
        (
            without_compare().replace("h100-sxm-80gb", "v100-sxm2-32gb"),
            "engine.dtype",
            ["bfloat16", "dtype: float16"],
        ),
        (
            without_compare().replace("llama-3.1-8b", "llama-3.1-70b"),
            "engine",
            ["no room for KV cache", "85.0 GB", "141.", "int4"],
        ),
        (workload_of(_DRAWN + "  num_requests: 10"), "workload.arrivals", ["missing"]),
        (
            workload_of(_DRAWN + "  arrivals: {process: poisson, requests_per_s: 8}"),
            "workload",
            ["num_requests"],
        ),
        (
            workload_of(_DRAWN + "  arrivals: {process: closed_loop, concurrency: 8}\n  duration_s: 60"),
            "workload.num_requests",
            ["closed_loop"],
        ),
        (
            workload_of("  arrivals: {process: poisson, requests_per_s: 8}\n  num_requests: 10"),
            "workload",
            ["how long requests are"],
        ),
        (
            workload_of(
                "  prompt_tokens: 5\n  arrivals: {process: poisson, requests_per_s: 8}\n  num_requests: 10"
            ),
            "workload.output_tokens",
            ["missing"],
        ),
        (workload_of(_DRAWN + "  trace: {path: x.csv}"), "workload", ["both say"]),
        (workload_of("  trace: {path: x.csv}"), "workload.trace.path", ["no such file"]),
        (
            changed("mean: 512, max: 4096", "mean: 512, max: 400"),
            "workload.prompt_tokens.mean",
            ["mean 512 is above max 400"],
        ),
        (
            changed("mean: 512, max: 4096", "mean: 512, min: 9, max: 4"),
            "workload.prompt_tokens",
            ["min 9", "max 4"],
        ),
        (
            changed("mean: 512, max: 4096", "mean: 512, sigma: 1, stddev: 2"),
            "workload.prompt_tokens",
            ["spread"],
        ),
        (changed("mean: 512, max: 4096", "max: 4096"), "workload.prompt_tokens.mean", ["lognormal needs it"]),
        (
            changed("mean: 512, max: 4096", "mean: 512, value: 3"),
            "workload.prompt_tokens.value",
            ["no effect", "fixed"],
        ),
        (
            changed("requests_per_s: 8", "requests_per_s: 8, cv: 2"),
            "workload.arrivals.cv",
            ["no effect", "gamma"],
        ),
        (changed("process: poisson", "process: gamma"), "workload.arrivals.cv", ["missing: gamma needs it"]),
        (
            changed("{distribution: lognormal, mean: 512, max: 4096}", "9000"),
            "workload.prompt_tokens",
            ["9000 prompt", "max_model_len 8,192"],
        ),
        (changed("batching: continuous", "batching: ./mine.py:plan"), "engine.batching", ["no such file"]),
    ],
)
def test_checks_between_fields_tell_both_numbers(load: Load, text: str, path: str, words: list[str]) -> None:
    error = refusal(load, text)
    shown = str(error)
    assert error.path == path, shown
    assert all(word in shown for word in words), shown
    assert error.allowed or error.hint, shown


def test_a_policy_file_is_looked_into_but_not_run(load: Load, tmp_path: Path) -> None:
    text = changed("batching: continuous", "batching: mine.py:plan")
    policy = tmp_path / "mine.py"
    policy.write_text("raise SystemExit('was run')\n\ndef plan(): ...\n")
    assert load(text).base.engine.batching == "mine.py:plan"
    policy.write_text("def pln(): ...")
    assert "no function plan; did you mean pln?" in str(refusal(load, text))
    policy.write_text("def plan(:")
    assert "cannot be read as Python" in str(refusal(load, text))


DRAFTS = "  speculative: {num_speculative_tokens: 2, acceptance_rate: 0.5}\n"


def test_with_drafts_vllm_schedules_synchronously(load: Load) -> None:
    text = with_keys("engine", "").replace("  batching: continuous\n", "")
    assert load(text).base.engine.async_scheduling
    assert load(text.replace("engine:\n", "engine:\n  vllm_version: 0.20.0\n")).base.engine.async_scheduling
    drafted = text.replace("engine:\n", f"engine:\n{DRAFTS}")
    assert not load(drafted).base.engine.async_scheduling
    both = drafted.replace("engine:\n", "engine:\n  async_scheduling: true\n")
    assert "vLLM itself refuses asynchronous scheduling with n-gram drafts" in str(refusal(load, both))


def test_priorities_of_classes_go_with_a_policy_that_reads_them(load: Load) -> None:
    lengths = "prompt_tokens: {distribution: fixed, value: 9}, output_tokens: {distribution: fixed, value: 9}"
    classes = f"  classes: {{urgent: {{share: 1, priority: -1, {lengths}}}}}\n"
    text = with_keys("workload", classes)
    text = "\n".join(
        line
        for line in text.split("\n")
        if not line.startswith(("  prompt_tokens", "  output_tokens", "  batching"))
    )
    assert "has no effect under policy: fcfs" in str(refusal(load, text))
    ordered = load(text.replace("engine:\n", "engine:\n  policy: priority\n"))
    assert ordered.base.engine.policy == "priority"
    misspelt = text.replace("engine:\n", "engine:\n  policy: priorit\n")
    assert "did you mean priority" in str(refusal(load, misspelt))
