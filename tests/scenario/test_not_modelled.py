"""What is not modelled is answered so, never with a name that only reads like it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from loading_fixtures import GOOD, Load, changed, load, refusal, workload_of

from sim.errors import ScenarioError, closest
from sim.hardware import load_hardware
from sim.hardware.engine_profile import load_engine_profile
from sim.kinds.load import load_tree
from sim.kinds.registry import KINDS
from sim.kinds.run import run_one
from sim.kinds.schema import scenario_schema
from sim.scenario.build import SYNONYMS, field_hints
from sim.scenario.not_modelled import NOT_MODELLED, meant, not_modelled, unknown_word
from sim.serving.metrics import METRICS

__all__ = ["load"]


def sections(cls: type, met: set[type] | None = None) -> Iterator[type]:
    """The dataclass of a scenario and every one below it."""
    met = met if met is not None else set()
    if cls in met:
        return
    met.add(cls)
    yield cls
    for _, hint in field_hints(cls).values():
        for one in (hint, *get_args(hint)):
            if isinstance(one, type) and is_dataclass(one):
                yield from sections(one, met)


ALL = [
    section
    for kind in KINDS.values()
    for section in sections(kind.scenario)
    if not section.__module__.startswith("sim.model")  # read from a config.json, not from a scenario
]


def choices_of(section: type) -> Iterator[list[str]]:
    """The words that each field of a section takes, where it takes words."""
    for one, hint in field_hints(section).values():
        for inner in (hint, *get_args(hint)):
            if "choices" in one.metadata:
                yield list(one.metadata["choices"]())
                break
            if get_origin(inner) is Literal:
                yield [str(word) for word in get_args(inner)]


TRAINING: dict[str, Any] = {
    "schema_version": 1,
    "question": "How long does a step take?",
    "kind": "training",
    "hardware": "h100-sxm-80gb",
    "model": "llama-3.1-8b",
    "training": {"num_workers": 8, "num_steps": 10},
}
KERNEL: dict[str, Any] = {
    "schema_version": 1,
    "question": "How long does it take?",
    "kind": "kernel",
    "hardware": "h100-sxm-80gb",
    "kernel": {"gemm": {"m": 128, "n": 128, "k": 128}},
}
ENGINE = "  max_num_seqs: 256"


@pytest.mark.parametrize(
    ("key", "technique"),
    [
        ("context_parallel_size: 2", "context parallelism"),
        ("decode-context-parallel-size: 2", "context parallelism"),
        ("sp_size: 2", "context parallelism"),
        ("enable_expert_parallel: true", "expert parallelism"),
        ("expert_parallel_size: 8", "expert parallelism"),
        ("moe_expert_parallel_size: 8", "expert parallelism"),
        ("ep_size: 8", "expert parallelism"),
        ("data_parallel_size: 2", "data parallelism inside"),
        ("enable_dp_attention: true", "data parallelism inside"),
        ("kv_transfer_config: {}", "disaggregation"),
        ("disaggregation_mode: prefill", "disaggregation"),
        ("prefill_replicas: 2", "disaggregation"),
        ("swap_space: 4", "offload"),
        ("cpu_offload_gb: 10", "offload"),
        ("kv_offloading_size: 10", "offload"),
        ("speculative_model: x", "drafts by a model"),
        ("draft_tensor_parallel_size: 1", "drafts by a model"),
        ("num_lookahead_slots: 4", "drafts by a model"),
        ("enable_lora: true", "LoRA adapters of a served model"),
        ("limit_mm_per_prompt: 1", "images"),
        ("guided_decoding_backend: x", "structured output"),
        ("temperature: 0.5", "what is sampled"),
        ("num_scheduler_steps: 8", "several steps per scheduling"),
        ("max_num_partial_prefills: 2", "how many prompts are split"),
        ("enforce_eager: true", "CUDA graphs"),
        ("max_replicas: 8", "autoscaling"),
        ("prompt_cache_price: 1", "prices of tokens"),
        ("cached_token_usd: 1", "prices of tokens"),
        ("power_limit_w: 300", "clocks and power"),
        ("enable_ep_moe: true", "expert parallelism"),
        ("enable_flexkv: true", "offload"),
        ("role: prefill", "disaggregation"),
        ("prefill: {tensor_parallel_size: 2}", "disaggregation"),
        ("decode_only: true", "disaggregation"),
        ("kv_connector: NixlConnector", "KV connectors"),
        ("kv_events_config: {}", "routing by a replica's cache"),
        ("router_policy: cache_aware", "routing by a replica's cache"),
        ("routing: prefix_aware", "routing by a replica's cache"),
        ("speculative_config: {method: eagle, num_speculative_tokens: 3}", "drafts by a model"),
        ("speculative_config: {model: llama-3.2-1b, num_speculative_tokens: 3}", "drafts by a model"),
        ("parallel_config: {tensor: 8, expert_parallel: 8}", "expert parallelism"),
        ("kv_cache_config: {host_cache_size: 8}", "offload"),
    ],
)
def test_a_key_of_serving_that_asks_for_it_is_told_what_there_is(
    load: Load, key: str, technique: str
) -> None:
    error = refusal(load, changed(ENGINE, f"{ENGINE}\n  {key}"))
    assert error.path == f"engine.{key.partition(':')[0]}"
    assert error.problem.startswith("not modelled: ")
    assert technique in error.problem
    assert "; what is: " in error.problem
    assert "did you mean" not in str(error)
    assert not error.hint


@pytest.mark.parametrize(
    ("override", "path", "technique"),
    [
        ("engine.speculative.model=llama-3.2-1b", "engine.speculative.model", "drafts by a model"),
        ("engine.speculative.quantization=fp8", "engine.speculative.quantization", "drafts by a model"),
        ("engine.speculative.prompt_lookup_max=4", "engine.speculative.prompt_lookup_max", "looked up"),
        ("engine.speculative.method=draft_model", "engine.speculative.method", "drafts by a model"),
        ("replicas={prefill: 2, decode: 4}", "replicas", "disaggregation"),
        ("prefill={replicas: 2}", "prefill", "disaggregation"),
        ("routing=cache_aware", "routing", "routing by a replica's cache"),
        ("routing=kv", "routing", "routing by a replica's cache"),
        ("routing=random", "routing", "routing at random"),
        ("routing={policy: prefix_aware}", "routing", "routing by a replica's cache"),
        ("router=cache_aware", "router", "routing by a replica's cache"),
        ("prices={input: 0.15, cached: 0.02}", "prices", "prices of tokens"),
        ("model.expert_parallel=8", "model.expert_parallel", "expert parallelism"),
    ],
)
def test_what_a_key_asks_for_depends_on_where_it_stands_and_on_its_value(
    load: Load, override: str, path: str, technique: str
) -> None:
    drafts = changed(ENGINE, f"{ENGINE}\n  speculative: {{num_speculative_tokens: 3, acceptance_rate: 0.6}}")
    error = refusal(load, drafts.replace("batching: continuous\n", "batching: vllm\n"), overrides=[override])
    assert (error.file, error.path) == ("--set", path)
    assert error.problem.startswith("not modelled: ") and technique in error.problem
    assert "; what is: " in error.problem and "did you mean" not in str(error) and not error.hint


def test_a_key_of_another_engine_that_has_a_name_here_is_told_it(load: Load) -> None:
    for key, name in (
        ("max_running_requests: 8", "max_num_seqs"),
        ("tp_size: 2", "tensor_parallel_size"),
    ):
        assert refusal(load, changed(ENGINE, f"{ENGINE}\n  {key}")).problem.endswith(f"did you mean {name}?")
    assert refusal(load, GOOD, overrides=["router_policy=least_loaded"]).hint == "routing"


@pytest.mark.parametrize(
    ("old", "new", "technique"),
    [
        ("kv_allocator: paged\n", "kv_allocator: paged\n  quantization: nvfp4\n", "4- and 6-bit floats"),
        ("kv_allocator: paged\n", "kv_allocator: paged\n  quantization: fp4\n", "4- and 6-bit floats"),
        ("kv_allocator: paged\n", "kv_allocator: paged\n  kv_cache_dtype: int8\n", "8-bit integers"),
        ("kv_allocator: paged\n", "kv_allocator: paged\n  dtype: float64\n", "64-bit floats"),
        ("kv_allocator: paged\n", "kv_allocator: paged\n  attention: sparse_attention\n", "sparse"),
        (
            "kv_allocator: paged\n",
            "kv_allocator: paged\n  speculative: {method: eagle3, num_speculative_tokens: 3}\n",
            "drafts by a model",
        ),
        ("kind: serving", "kind: grpo", "reinforcement learning"),
    ],
)
def test_a_value_of_serving_too(load: Load, old: str, new: str, technique: str) -> None:
    error = refusal(load, changed(old, new))
    assert error.problem.startswith("not modelled: ")
    assert technique in error.problem


@pytest.mark.parametrize(
    ("section", "key", "value", "technique"),
    [
        ("training", "context_parallel_size", 2, "context parallelism"),
        ("training", "sequence_parallel_size", 2, "context parallelism"),
        ("training", "expert_model_parallel_size", 2, "expert parallelism"),
        ("training", "optimizer", "adamw_8bit", "optimizers"),
        ("training", "optimizer", "paged_adamw_32bit", "optimizers"),
        ("training", "optimizer", "adafactor", "optimizers"),
        ("training", "optimizer", "muon", "optimizers"),
        ("training", "precision", "mxfp8", "a scale per block"),
        ("training", "precision", "nvfp4", "4- and 6-bit floats"),
        ("training", "zero_shard_size", 8, "hybrid sharding"),
        ("training", "zero_hpz_partition_size", 8, "hybrid sharding"),
        ("training", "hybrid_shard", True, "hybrid sharding"),
        ("training", "cpu_offload", True, "offload"),
        ("training", "offload_optimizer", True, "offload"),
        ("training", "pipeline_schedule", "gpipe", "1F1B"),
        ("exchange", "compression", "powersgd", "compressed gradients"),
        ("sync", "scheme", "diloco", "compressed gradients"),
    ],
)
def test_and_those_of_training(section: str, key: str, value: object, technique: str) -> None:
    tree = {**TRAINING, section: {**TRAINING.get(section, {}), key: value}}
    with pytest.raises(ScenarioError) as caught:
        load_tree(tree, "job.yaml")
    assert caught.value.problem.startswith("not modelled: "), caught.value
    assert technique in caught.value.problem
    assert "did you mean" not in str(caught.value)


def test_and_those_of_a_kernel_and_of_a_profile() -> None:
    tree = {**KERNEL, "kernel": {"gemm": {**KERNEL["kernel"]["gemm"], "dtype": "float4"}}}
    with pytest.raises(ScenarioError, match="not modelled: 4- and 6-bit floats"):
        load_tree(tree, "gemm.yaml")
    with pytest.raises(ScenarioError, match="not modelled: 64-bit floats"):
        load_hardware({"base": "l4", "peak_flops_per_s": {"float64": "1 TFLOP/s"}}, file="chat.yaml")


@pytest.mark.parametrize(("model", "is_told"), [("mixtral-8x7b", True), ("llama-3.1-70b", False)])
def test_a_run_of_experts_on_several_gpus_says_how_they_are_split(
    load: Load, model: str, is_told: bool
) -> None:
    text = workload_of(
        "  arrivals: {process: all_at_once}\n  prompt_tokens: 9\n  output_tokens: 2\n  num_requests: 3"
    )
    found = load(text, overrides=[f"model={model}", "engine.tensor_parallel_size=4"])
    notes = [note for note in run_one(found.base).notes if "expert parallelism" in note]
    assert notes == [f"{model} is a mixture of experts; {not_modelled('ep_size')}"] * is_told


def test_data_parallel_workers_are_what_training_has() -> None:
    tree = {**TRAINING, "training": {**TRAINING["training"], "data_parallel_size": 2}}
    with pytest.raises(ScenarioError, match="did you mean num_workers"):
        load_tree(tree, "job.yaml")


def test_a_slip_of_a_finger_is_still_a_slip() -> None:
    """Every key of every kind with its last letter doubled means that key, whatever the list says."""
    for section in ALL:
        known = list(field_hints(section))
        for name in known:
            if len(name) > 4 and not name[-1].isdigit():
                assert meant(name + name[-1], known) == name, (section, name)
                assert unknown_word("field", name + name[-1], known).endswith(f"; did you mean {name}?")


def test_nothing_that_is_modelled_is_on_the_list() -> None:
    """A word that some key takes, or a key, may only be listed where another place asks for it."""
    elsewhere = {"data_parallel_size", "dp", "dp_size", "n", "lora", "kv_location", "int8", "float4"}
    elsewhere |= {"cudagraph_capture_sizes", "data_parallel_single_process"}
    elsewhere |= set(METRICS)  # only answer_by takes them
    keys = {name for section in ALL for name in field_hints(section)}
    words = {word for section in ALL for taken in choices_of(section) for word in taken}
    assert {word for word in keys | words | set(SYNONYMS) if not_modelled(word)} <= elsewhere


def test_what_there_is_instead_exists() -> None:
    known = {name for section in ALL for name in field_hints(section)}
    known |= {word for section in ALL for taken in choices_of(section) for word in taken}
    known |= {name for section in ALL for name in (section.__name__.lower(),)}
    known |= {"usd_per_hour", "clock_hz"}  # of a hardware profile
    for one in NOT_MODELLED:
        named = set(re.findall(r"\b[a-z0-9]+(?:_[a-z0-9]+)+\b", one.instead))
        assert named <= known, one.technique


def test_the_schema_prints_the_list() -> None:
    described = scenario_schema()["description"]
    assert all(str(one) in described for one in NOT_MODELLED)


@pytest.mark.parametrize(
    ("word", "options"),
    [
        ("context_parallel_size", ["tensor_parallel_size", "pipeline_parallel_size"]),
        ("p95_ttft_s", ["p99_ttft_s"]),
        ("fp4", ["fp8"]),
        ("float64", ["float32"]),
        ("max_replicas", ["replicas"]),
        ("zero_shard_size", ["zero_stage"]),
        ("adamw_8bit", ["adamw"]),
        ("llama-3.1-9b", ["llama-3.1-8b"]),
    ],
)
def test_what_only_reads_alike_is_not_near(word: str, options: list[str]) -> None:
    assert closest(word, options) is None


@pytest.mark.parametrize(
    ("word", "option"),
    [
        ("max_num_seq", "max_num_seqs"),
        ("maxnumseqs", "max_num_seqs"),
        ("micro_batch", "micro_batch_size"),
        ("max_model_length", "max_model_len"),
        ("statc", "static"),
        ("p99_tfft_s", "p99_ttft_s"),
        ("max-num-batched-tokns", "max_num_batched_tokens"),
    ],
)
def test_a_misspelt_word_is(word: str, option: str) -> None:
    assert closest(word, [option, "something_else"]) == option


def test_all_unknown_keys_of_a_file_are_told_at_once(load: Load) -> None:
    text = changed(ENGINE, f"{ENGINE}\n  max_num_seq: 3\n  ep_size: 2\n  colour: red") + "sloo: {}\n"
    text = text.replace("continuous: {}", "continuous: {engine: {max_model_length: 5}}")
    error = refusal(load, text)
    told = [error, *error.others]
    assert [one.path for one in told] == [
        "engine.max_num_seq",
        "engine.ep_size",
        "engine.colour",
        "sloo",
        "compare.variants.continuous.engine.max_model_length",
    ]
    shown = str(error)
    assert shown.count("38 others (`gpuyard schema` prints all)") == 1  # not once more for every key
    assert all(f"{one.file}: {one.path}: " in shown for one in told)


def test_unknown_keys_of_overrides_are_told_at_once_and_as_such(load: Load) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(GOOD, overrides=["engine.foo=1", "engine.bar=2"])
    told = [caught.value, *caught.value.others]
    assert [(one.file, one.path) for one in told] == [("--set", "engine.foo"), ("--set", "engine.bar")]


def test_unknown_keys_of_a_profile_are_told_at_once(tmp_path: Path) -> None:
    differences = {"base": "l4", "hbm_byte": 1, "host_link": {"latency": 1, "rate": 2}, "colour": "red"}
    with pytest.raises(ScenarioError) as caught:
        load_hardware(differences, file="chat.yaml")
    told = [caught.value, *caught.value.others]
    assert [one.path for one in told] == [
        "hardware.hbm_byte",
        "hardware.colour",
        "hardware.host_link.latency",
        "hardware.host_link.rate",
    ]
    engine = tmp_path / "engine.yaml"
    engine.write_text("base: vllm-2024-offline\nname: x\ncolor: red\noverheads: {steps: 1, stepp: 2}\n")
    with pytest.raises(ScenarioError) as caught:
        load_engine_profile(str(engine))
    told = [caught.value, *caught.value.others]
    assert [one.path for one in told] == ["color", "overheads.steps", "overheads.stepp"]


@pytest.mark.parametrize(
    ("tree", "allowed"),
    [
        ({"hardware": "a100-sxm-80gb", "training": {"precision": "fp8"}}, "amp_bf16, amp_fp16, bf16_mixed"),
        (
            {"hardware": "v100-sxm2-32gb", "training": {"precision": "bf16_mixed"}},
            "fp32, amp_fp16, fp16_mixed",
        ),
    ],
)
def test_the_precisions_of_a_refusal_are_those_that_the_key_takes(tree: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_tree({**TRAINING, **tree, "training": {**TRAINING["training"], **tree["training"]}}, "job.yaml")
    assert caught.value.path == "training.precision"
    assert allowed in caught.value.allowed
    assert "float" not in caught.value.allowed


@pytest.mark.parametrize(
    ("engine", "path", "allowed"),
    [
        ("quantization: fp8", "engine.quantization", "none, int8, int4"),
        ("dtype: bfloat16", "engine.dtype", "float16, float32"),
    ],
)
def test_so_are_those_of_serving(load: Load, engine: str, path: str, allowed: str) -> None:
    card = "a100-sxm-80gb" if "fp8" in engine else "v100-sxm2-32gb"
    text = changed(ENGINE, f"{ENGINE}\n  {engine}").replace("h100-sxm-80gb", card)
    error = refusal(load, text)
    assert (error.path, error.allowed) == (path, allowed)
