"""One set of defaults: an engine built in Python and an empty section in a file mean the same."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

import sim
from sim.cli.command import main
from sim.hardware import load_hardware
from sim.hardware.engine_profile import EngineOverheads
from sim.hardware.vllm_releases import LATEST, Usage, default_sizes, release_of
from sim.price.memory import memory_plan
from sim.serving.scenario import EngineConfig, Scenario

FILE = """\
schema_version: 1
question: What does an engine mean that says nothing?
kind: serving
hardware: {hardware}
model: llama-3.2-1b
engine: {engine}
workload:
  arrivals: {{process: poisson, requests_per_s: 1}}
  prompt_tokens: 10
  output_tokens: 10
  num_requests: 10
"""
ENGINES = (
    {},
    {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
    {"batching": "continuous"},
    {"batching": "vllm", "max_num_seqs": 8},
    {"kv_allocator": "contiguous"},
    {"schedule_order": "prefill_first", "max_num_batched_tokens": 4096},
    {"batching": "static"},
    {"async_scheduling": False, "enable_prefix_caching": False},
)


def loaded(tmp_path: Path, hardware: str, engine: object) -> EngineConfig:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.format(hardware=hardware, engine=engine), encoding="utf-8")
    scenario = sim.load_scenario(str(path)).base
    assert isinstance(scenario, Scenario)
    return scenario.engine


@pytest.mark.parametrize("hardware", ["l4", "a100-sxm-80gb", "h100-sxm-80gb", "b200-sxm-180gb"])
@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_a_file_and_python_mean_the_same_engine(
    tmp_path: Path, hardware: str, engine: dict[str, object]
) -> None:
    from_file = loaded(tmp_path, hardware, engine)
    built = EngineConfig(**engine)  # type: ignore[arg-type]
    assert from_file == built.on(load_hardware(hardware))
    scenario = sim.load_scenario(str(tmp_path / "mine.yaml")).base
    assert replace(scenario, engine=built).engine == from_file  # type: ignore[type-var]


def test_nothing_said_is_vllm_as_its_server_runs() -> None:
    engine = EngineConfig()
    assert (engine.batching, engine.enable_prefix_caching, engine.async_scheduling) == ("vllm", True, True)
    sizes = {
        name: (engine.on(device).max_num_seqs, engine.on(device).max_num_batched_tokens)
        for name, device in ((name, load_hardware(name)) for name in ("l4", "a100-sxm-80gb", "h100-sxm-80gb"))
    }
    assert sizes == {"l4": (256, 2048), "a100-sxm-80gb": (256, 2048), "h100-sxm-80gb": (1024, 8192)}


def test_a_size_that_was_said_stays_on_every_device() -> None:
    engine = EngineConfig(max_num_seqs=256)
    there = engine.on(load_hardware("h100-sxm-80gb"))
    assert (there.max_num_seqs, there.max_num_batched_tokens) == (256, 8192)


def test_a_change_of_another_key_keeps_the_size_of_the_device() -> None:
    engine = replace(EngineConfig(), block_size=32)
    assert engine.on(load_hardware("h100-sxm-80gb")).max_num_seqs == 1024


@pytest.mark.parametrize(
    "engine",
    [
        {"kv_allocator": "contiguous"},
        {"use_kv_cache": False},
        {"schedule_order": "prefill_first"},
    ],
    ids=str,
)
def test_what_vllm_does_not_have_means_continuous(engine: dict[str, object]) -> None:
    built = EngineConfig(**engine)  # type: ignore[arg-type]
    assert (built.batching, built.enable_prefix_caching, built.async_scheduling) == (
        "continuous",
        False,
        False,
    )
    assert (built.max_num_seqs, built.max_num_batched_tokens) == (256, 8192)


def test_no_field_of_a_built_engine_is_left_open() -> None:
    optional = {"max_model_len", "max_num_active_seqs", "speculative", "num_gpu_blocks_override"}
    optional |= {"profile", "price_table", "service_time", "kv_cache_memory_bytes"}
    optional |= {"mem_fraction_static", "free_gpu_memory_fraction"}
    left = {one.name for one in fields(EngineConfig) if getattr(EngineConfig(), one.name) is None}
    assert left == optional
    assert EngineConfig().overheads == EngineOverheads()


def test_vllms_sizes_follow_the_device_the_use_and_the_release() -> None:
    def sizes(gib: int, device: str, usage: Usage = "server", release: str = LATEST) -> tuple[int, int]:
        found = default_sizes(release_of(release), gib * 2**30, device, usage)
        return found["max_num_seqs"], found["max_num_batched_tokens"]

    assert sizes(80, "h100") == (1024, 8192)
    assert sizes(80, "NVIDIA A100") == sizes(119, "NVIDIA GB10") == sizes(24, "l4") == (256, 2048)
    assert sizes(192, "b200") == sizes(184, "gb200") == (1024, 16384)
    assert sizes(80, "h100", "offline") == (1024, 16384)
    assert sizes(24, "l4", "offline") == (256, 8192)
    assert sizes(80, "h100", release="0.7.3")[0] == 256


@pytest.mark.parametrize(("release", "share"), [("0.11.0", 0.90), ("0.21.0", 0.90), ("0.22.1", 0.92)])
def test_the_share_and_asynchronous_scheduling_are_the_release_s(release: str, share: float) -> None:
    engine = EngineConfig(vllm_version=release)
    assert (engine.gpu_memory_utilization, engine.async_scheduling) == (share, release != "0.11.0")
    # A release that is changed later takes its own share along; one that was said stays.
    assert replace(engine, vllm_version=LATEST).gpu_memory_utilization == 0.92
    assert (
        replace(EngineConfig(gpu_memory_utilization=0.9), vllm_version=LATEST).gpu_memory_utilization == 0.9
    )


def test_memory_run_and_check_have_one_set_of_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """gpt-oss-120b on an H100: 1,024 sequences and 8,192 tokens by all of them."""
    for given, flags in (({}, []), ({"vllm_version": "0.19.0"}, ["--vllm-version", "0.19.0"])):
        engine = loaded(tmp_path, "h100-sxm-80gb", given)
        scenario = sim.load_scenario(str(tmp_path / "mine.yaml")).base
        assert isinstance(scenario, Scenario)
        of_run = memory_plan(scenario.model, scenario.hardware, engine).to_dict()
        assert (
            main(["memory", "--model", "llama-3.2-1b", "--hardware", "h100-sxm-80gb", "--json", *flags]) == 0
        )
        asked = json.loads(capsys.readouterr().out)
        assert {name: asked[name] for name in of_run} == json.loads(json.dumps(of_run))


def test_without_chunked_prefill_a_step_has_room_for_the_longest_prompt(tmp_path: Path) -> None:
    """SPEC-memory, section 1: max_num_batched_tokens raised to max_model_len where not given."""
    off = {"enable_chunked_prefill": False}
    assert loaded(tmp_path, "h100-sxm-80gb", {**off, "max_model_len": 20000}).max_num_batched_tokens == 20000
    assert loaded(tmp_path, "h100-sxm-80gb", {**off, "max_model_len": 4000}).max_num_batched_tokens == 8192
    positions = sim.load_model("llama-3.2-1b").max_position_embeddings
    assert loaded(tmp_path, "h100-sxm-80gb", off).max_num_batched_tokens == positions
    fitted = loaded(tmp_path, "h100-sxm-80gb", {**off, "max_model_len": -1})
    assert fitted.max_num_batched_tokens == positions
    with pytest.raises(sim.ScenarioError, match="without chunked prefill the longest prompt never fits"):
        loaded(tmp_path, "h100-sxm-80gb", {**off, "max_num_batched_tokens": 4096, "max_model_len": 8192})


@pytest.mark.parametrize(
    ("hardware", "usage", "sizes"),
    [
        ("l4", "server", (512, 4096)),
        ("h100-sxm-80gb", "server", (2048, 16384)),
        ("h100-sxm-80gb", "offline", (2048, 32768)),
        ("b200-sxm-180gb", "server", (2048, 32768)),
    ],
)
def test_throughput_doubles_what_is_not_given(
    tmp_path: Path, hardware: str, usage: str, sizes: tuple[int, int]
) -> None:
    mode = {"performance_mode": "throughput", "usage": usage, "max_model_len": 4096}
    engine = loaded(tmp_path, hardware, mode)
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == sizes
    given = loaded(tmp_path, hardware, {**mode, "max_num_seqs": 7})
    assert (given.max_num_seqs, given.max_num_batched_tokens) == (7, sizes[1])
    long = {**mode, "enable_chunked_prefill": False, "max_model_len": 40000}
    assert loaded(tmp_path, hardware, long).max_num_batched_tokens == max(40000, sizes[1])
