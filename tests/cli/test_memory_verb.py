"""``gpuyard memory`` as a newcomer asks it: one schema, tables, options that change nothing, what is said."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from sim.cli.command import main
from sim.hardware import load_hardware
from sim.hardware.engine_defaults import sglang_tier

Capture = pytest.CaptureFixture[str]
H100 = ("--hardware", "h100-sxm-80gb")


def text_of(capsys: Capture, *options: str) -> str:
    assert main(["memory", *options]) == 0
    return capsys.readouterr().out


def json_of(capsys: Capture, *options: str) -> Any:
    return json.loads(text_of(capsys, *options, "--json"))


def refusal_of(capsys: Capture, *options: str) -> str:
    assert main(["memory", *options]) == 2
    return capsys.readouterr().err


# --- whose defaults ---


@pytest.mark.parametrize(
    ("device", "chunk", "sequences"),
    [
        ("l4", 4096, 48),
        ("l40s", 4096, 32),
        ("a100-sxm-40gb", 4096, 32),
        ("a100-sxm-80gb", 8192, 256),
        ("h100-sxm-80gb", 8192, 256),
        ("h200-sxm-141gb", 8192, 256),
        ("b200-sxm-180gb", 16384, 512),
    ],
)
def test_sglang_s_chunk_follows_its_own_tiers(
    capsys: Capture, device: str, chunk: int, sequences: int
) -> None:
    """``_handle_gpu_memory_settings`` of its server_args: by memory, whatever vLLM thinks of the device."""
    options = ("--model", "llama-3.2-1b", "--hardware", device, "--runtime", "sglang")
    content = json_of(capsys, *options)
    assert content["max_num_batched_tokens"] == chunk
    (kept,) = (line for line in content["lines"] if line["label"] == "not static")
    assert f"chunked prefill {chunk:,} x 1.5 MiB + graphs of {sequences} sequences" in kept["formula"]
    assert sglang_tier(load_hardware(device).hbm_bytes).graph_sequences_of_many >= sequences


def test_sglang_s_default_share_is_what_it_logs_on_an_h100() -> None:
    """81,559 MiB by nvidia-smi: 0.83 since prefill is captured in graphs; 464 MiB of 58 of them."""
    reserved = 512 + 8192 * 1.5 + 256 * 2 + 58 * 8 + 1024 / 8
    assert round((81559 - reserved) / 81559, 3) == 0.83


def test_sglang_leaves_a_part_of_its_share_for_images(capsys: Capture) -> None:
    """``adjust_mem_fraction_for_vlm``: 0.95, and a tenth less for every ViT-L/14 (302 M) more than one."""
    (kept,) = (
        line
        for line in json_of(capsys, "--model", "gemma-3-27b", *H100, "--runtime", "sglang")["lines"]
        if line["label"] == "not static"
    )
    factor = 0.95 * (1.1 - 0.1 * 423_060_336 / (12 * 24 * 1024**2))
    assert f"the share x {factor:.3f} for images" in kept["formula"]


@pytest.mark.parametrize(("runtime", "block"), [("sglang", 1), ("tensorrt-llm", 32)])
def test_pages_and_states_are_the_engine_s_own(capsys: Capture, runtime: str, block: int) -> None:
    """No block of 16, none that grows to hold a state, none padded; sizes do not follow vLLM's tiers."""
    options = ("--model", "nemotron-nano-9b-v2", "--hardware", "a100-sxm-80gb", "--runtime", runtime)
    content = json_of(capsys, *options)
    assert {group["block_size"] for group in content["groups"]} == {block}
    assert (content["max_num_seqs"], content["max_num_batched_tokens"]) == (2048, 8192)
    state = content["state_bytes_per_sequence"]
    attention = content["kv_bytes_per_token"] * content["max_model_len"]
    assert state + attention == pytest.approx(content["kv_bytes_per_full_request"], rel=0.001)
    vllm = json_of(capsys, *options[:4])
    assert vllm["groups"][0]["block_size"] > 16 and vllm["max_num_seqs"] == 256


@pytest.mark.parametrize(
    "options",
    [
        ("--runtime", "sglang", "--vllm-version", "0.19"),
        ("--runtime", "sglang", "--usage", "offline"),
        ("--runtime", "tensorrt-llm", "--sampler", "flashinfer"),
        ("--runtime", "sglang", "--performance-mode", "throughput"),
        ("--profile", "sglang-0.5-h100", "--no-async-scheduling"),
        ("--runtime", "tensorrt-llm", "--no-enable-prefix-caching"),
        ("--runtime", "sglang", "--gpu-memory-utilization", "0.92"),
        ("--mem-fraction-static", "0.8"),
        ("--runtime", "sglang", "--free-gpu-memory-fraction", "0.8"),
    ],
)
def test_an_option_that_changes_nothing_is_refused(capsys: Capture, options: tuple[str, ...]) -> None:
    said = refusal_of(capsys, "--model", "qwen2.5-7b", *H100, *options)
    assert "has no effect with runtime" in said and "try:" in said


def test_a_profile_says_whose_account_and_which_release(capsys: Capture) -> None:
    model = ("--model", "qwen2.5-7b", *H100)
    assert json_of(capsys, *model, "--profile", "vllm-0.12-h100")["account"] == "vllm 0.12"
    assert json_of(capsys, *model, "--profile", "vllm-0.15-h100")["account"] == "vllm 0.15.1"
    given = ("--profile", "vllm-0.12-h100", "--vllm-version", "0.19.0")
    assert json_of(capsys, *model, *given)["account"] == "vllm 0.19.0"
    for profile in ("vllm-2023-a100", "vllm-0.5.3-h100", "vllm-2024-offline"):
        said = refusal_of(capsys, *model, "--profile", profile)
        assert "not modelled" in said and "0.6 to 0.33" in said and "--vllm-version 0.6" in said
    said = refusal_of(capsys, *model, "--runtime", "sglang", "--profile", "vllm-0.12-h100")
    assert "is of vllm, and --runtime is sglang" in said


def test_what_is_typed_wrong_is_said_with_what_is_allowed(capsys: Capture) -> None:
    model = ("--model", "qwen2.5-7b", *H100)
    said = refusal_of(capsys, *model, "--block-size", "17")
    assert "multiples of 16" in said and "--block-size 16" in said
    assert "allowed: 0.6 to 0.33" in refusal_of(capsys, *model, "--vllm-version", "abc")
    said = refusal_of(capsys, "--model", "phi-4", *H100, "--tensor-parallel-size", "4")
    assert "try: 1, 2, 5, 10, 20" in said
    for sizes in ("1", "2", "5"):
        assert json_of(capsys, "--model", "phi-4", *H100, "--tensor-parallel-size", sizes)["starts"]


def test_a_refusal_speaks_of_options(capsys: Capture) -> None:
    said = refusal_of(capsys, "--model", "qwen2.5-7b", "--hardware", "l4")
    assert said.startswith("gpuyard: --max-model-len: ") and "try: --max-model-len 73984" in said
    said = refusal_of(capsys, "--model", "qwen3-32b", "--hardware", "l40s")
    assert "try: --quantization int4 (" in said or "--quantization fp8 (" in said
    said = refusal_of(capsys, "--model", "qwen3-32b", *H100, "--tensor-parallel-size", "3")
    assert said.startswith("gpuyard: --tensor-parallel-size: ")


# --- what fits ---


def test_max_num_seqs_bounds_what_fits(capsys: Capture) -> None:
    options = ("--model", "llama-3.1-8b", *H100, "--max-num-seqs", "16", "--fit")
    for one in json_of(capsys, *options)["fit"]:
        assert one["requests"] == min(16, int(one["max_concurrency"]))
        assert (one["limited_by"] == "max_num_seqs") is (one["max_concurrency"] > 17)
    text = text_of(capsys, *options)
    assert "at most               16 requests of 1,024 tokens (max_num_seqs)" in text
    assert "at most               3 requests of 131,072 tokens\n" in text


def test_windows_have_vllm_s_number_and_what_decodes(capsys: Capture) -> None:
    """gemma-3-27b: 10 full layers of 512 blocks, and 6 groups of windows of 65 blocks in place of 513."""
    options = ("--model", "gemma-3-27b", *H100, "--max-model-len", "8192", "--fit", "--tokens", "8192")
    content = json_of(capsys, *options, "--gpu-memory-utilization", "0.95")
    blocks = content["num_gpu_blocks"]
    assert content["max_concurrency"] == blocks / (512 + 6 * 513)
    most = content["decoding_requests"]
    assert most == (blocks - 1) // (512 + 6 * 65) > 3 * content["max_concurrency"]
    (one,) = (one for one in content["fit"] if one["tokens"] == 8192)
    assert (one["requests"], one["max_concurrency"]) == (most, content["max_concurrency"])
    assert content["kv_bytes_of_tokens_while_decoding"] == (512 + 6 * 65) * content["block_bytes"]
    text = text_of(capsys, *options, "--gpu-memory-utilization", "0.95")
    assert f"{content['max_concurrency']:.2f} of 8,192 tokens (vLLM's own maximum concurrency" in text
    assert f"while they decode     up to {most} of 8,192 tokens (902 blocks" in text


def test_tokens_beyond_the_model_or_the_pool_are_said(capsys: Capture) -> None:
    options = ("--model", "qwen2.5-7b", *H100, "--tokens", "10000000")
    text = text_of(capsys, *options)
    assert "10,000,000 is above the 131,072 positions of the model" in text
    assert "10,000,000 is more than the KV cache holds" in text
    assert len(json_of(capsys, *options)["tokens_above"]) == 2
    short = text_of(capsys, *options[:4], "--max-model-len", "4096", "--tokens", "5000")
    assert "5,000 is above max_model_len 4,096" in short


def test_an_engine_that_starts_without_room_for_the_longest_says_so(capsys: Capture) -> None:
    options = ("--model", "qwen2.5-7b", "--hardware", "l4", "--runtime", "sglang")
    assert "not one               request of max_model_len 131,072 fits" in text_of(capsys, *options)


@pytest.mark.parametrize("given", ["21474836480", "20GiB", "20 GiB"])
def test_bytes_for_kv_are_given_as_vllm_takes_them(capsys: Capture, given: str) -> None:
    options = ("--model", "qwen2.5-7b", *H100, "--kv-cache-memory-bytes", given)
    content = json_of(capsys, *options)
    assert content["kv_budget_bytes"] == 20 * 2**30
    left = sum(line["bytes"] for line in content["lines"]) / 2**30
    assert f"the lines above leave {left:.2f} GiB" in content["kv_budget_formula"]
    assert "= KV cache                20.00 GiB    21.47 GB   kv_cache_memory_bytes, as given" in text_of(
        capsys, *options
    )


def test_one_of_a_thing_is_one(capsys: Capture) -> None:
    options = ("--model", "qwen2.5-7b", "--hardware", "h100-sxm-80gb", "--tensor-parallel-size", "4", "--fit")
    text = text_of(capsys, *options, "--max-num-seqs", "1", "--tokens", "1")
    assert "1 KV head of 4 on each GPU" in text and "1 request of" in text and "  1 token: " in text
    for wrong in ("1 requests", "1 KV heads", "1 tokens:", "1 blocks"):
        assert wrong not in text.replace("11 ", "")


# --- tables ---


def test_a_table_has_the_schema_of_one_account(capsys: Capture) -> None:
    """Same keys, same types, and the same values as each alone; numbers are numbers."""
    model, asked = ("--model", "qwen2.5-7b"), ("--fit", "--tokens", "4096")
    table = json_of(capsys, *model, "--hardware", "l4,h100-sxm-80gb", "--tensor-parallel-size", "1,2", *asked)
    assert [(one["hardware"], one["tensor_parallel_size"]) for one in table] == [
        ("l4", 1), ("l4", 2), ("h100-sxm-80gb", 1), ("h100-sxm-80gb", 2),
    ]  # fmt: skip
    for row in table:
        size = str(row["tensor_parallel_size"])
        alone = json_of(capsys, *model, "--hardware", row["hardware"], "--tensor-parallel-size", size, *asked)
        assert row == alone
    refused = json_of(capsys, *model, "--hardware", "l4,h100-sxm-80gb")
    assert [one.keys() for one in refused] == [alone.keys()] * 2
    assert refused[0]["starts"] is False and "one request of it needs 7.00 GiB" in refused[0]["reason"]
    assert isinstance(refused[0]["longest_that_fits"], int)
    split = json_of(capsys, "--model", "phi-4", *H100, "--tensor-parallel-size", "2,4")
    assert split[1].keys() == alone.keys() and split[1]["weight_bytes"] is None
    assert "cannot be split" in split[1]["reason"] and split[1]["lines"] == []


def test_a_table_tells_all_that_one_account_tells(capsys: Capture, tmp_path: Path) -> None:
    options = ("--model", "qwen2.5-7b", "--hardware", "l4,h100-sxm-80gb", "--gpu-memory-utilization", "0.999")
    options += ("--fit", "--tokens", "200000", "--out", str(tmp_path / "out"))
    text = text_of(capsys, *options)
    assert "warning: l4, TP 1: gpu_memory_utilization 0.999 leaves" in text
    assert text.index("warning:") < text.index("weights GiB")
    assert "note: CUDA graphs: half to twice of it was logged" in text  # of both: once, and without a name
    assert "note: l4, TP 1: max_model_len 131,072 does not start: fitted" in text
    assert "at most so many requests at once" in text and "does not start:" not in text.split("note:")[0]
    assert text.count("above the 131,072 positions") == 2
    page = (tmp_path / "out/memory.md").read_text(encoding="utf-8")
    for words in (
        "Warnings",
        "How many of which length: h100-sxm-80gb, TP 1",
        "200,000 tokens",
        "2 of 2 start",
    ):
        assert words in page
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/memory.csv").read_text(encoding="utf-8"))))
    assert [row["hardware"] for row in rows] == ["l4", "h100-sxm-80gb"]
    assert int(rows[1]["requests_of_8192_tokens"]) > 0 and "0.999 leaves" in rows[0]["warnings"]


def test_a_row_without_room_holds_nothing(capsys: Capture) -> None:
    """Not a request, not less than none; and the page has the row, too."""
    options = ("--model", "gemma-3-27b", "--hardware", "l40s,h100-sxm-80gb", "--max-model-len", "8192")
    without, with_room = json_of(capsys, *options)
    assert without["starts"] is False and without["kv_budget_bytes"] < 0
    assert (without["max_concurrency"], without["decoding_requests"]) == (0, 0)
    assert without["longest_that_fits"] is None and with_room["longest_that_fits"] > 8192
    assert "0.00 (0) of 8,192" in text_of(capsys, *options)


def test_what_was_typed_wrong_is_no_row_of_a_table(capsys: Capture) -> None:
    both = ("--model", "qwen2.5-7b", "--hardware", "l4,h100-sxm-80gb")
    assert "unknown value" in refusal_of(capsys, *both, "--vllm-version", "abc")
    assert "above the 131,072 positions" in refusal_of(capsys, *both, "--max-model-len", "1000000")


# --- what was guessed ---


def test_a_guessed_model_is_a_warning_at_the_top_and_everywhere(capsys: Capture, tmp_path: Path) -> None:
    config = {
        "model_type": "llama_of_mine", "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
        "max_position_embeddings": 8192, "sparse_layer_pattern": "0101",
    }  # fmt: skip
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    options = ("--model", str(file), *H100)
    text = text_of(capsys, *options, "--out", str(tmp_path / "out"))
    first = next(line for line in text.splitlines()[1:] if line)
    assert first.startswith("warning: mine: architecture llama_of_mine") and "sparse_layer_pattern" in first
    assert "may be wrong entirely" in first
    content = json_of(capsys, *options)
    assert "sparse_layer_pattern" in content["warnings"][0] and not content["start_warnings"]
    assert not any("sparse_layer_pattern" in note for note in content["notes"])
    page = (tmp_path / "out/memory.md").read_text(encoding="utf-8")
    assert page.index("may be wrong entirely") < page.index("The account")
    table = text_of(capsys, "--model", str(file), "--hardware", "l4,h100-sxm-80gb")
    assert table.index("may be wrong entirely") < table.index("weights GiB")


def test_what_is_assumed_of_one_number_casts_no_doubt_on_the_others(capsys: Capture, tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
    }  # fmt: skip
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    (warning,) = json_of(capsys, "--model", str(file), *H100)["warnings"]
    assert "2,048 are assumed" in warning and "wrong entirely" not in warning


def test_the_price_of_what_does_not_load_says_so(capsys: Capture) -> None:
    assert main(["explain", "--model", "qwen3-32b", "--hardware", "l4"]) == 0
    assert "warning: qwen3-32b does not start on l4 so: the model leaves no room" in capsys.readouterr().out
    assert main(["explain", "--model", "qwen2.5-7b", "--hardware", "l4", "--json"]) == 0
    assert not any("does not start" in one for one in json.loads(capsys.readouterr().out)["warnings"])


def test_a_report_says_what_its_tokens_are(tmp_path: Path, capsys: Capture) -> None:
    """gemma-3-4b's tokens are no capacity: 7 groups share the blocks."""
    path = tmp_path / "one.yaml"
    path.write_text(
        "schema_version: 1\nquestion: What fits?\nkind: serving\nhardware: h100-sxm-80gb\nmodel: gemma-3-4b\n"
        "engine: {max_model_len: 8192}\nworkload: {arrivals: {process: poisson, requests_per_s: 1}, "
        "prompt_tokens: 10, output_tokens: 5, num_requests: 20}\n",
        encoding="utf-8",
    )
    assert main(["run", str(path), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    capsys.readouterr()
    report = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "maximum concurrency x max_model_len 8,192; no capacity" in report
    assert "while they decode up to" in report


def test_every_key_of_the_json_is_in_the_documentation(capsys: Capture) -> None:
    page = (Path(__file__).parents[2] / "docs/memory.md").read_text(encoding="utf-8")
    table = page.split("## JSON and CSV")[1].split("\n## ")[0]
    keys = json_of(capsys, "--model", "qwen2.5-7b", *H100)
    assert not [key for key in keys if f"`{key}`" not in table]
