"""Checkpoints as their quantization says: which modules, which format, which scales, and the KV type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.errors import ScenarioError
from sim.model.config import load_model
from sim.model.counts import kv_bytes_per_token, kv_dtype_bytes
from sim.model.matrices import layer_matrices
from sim.model.shape import (
    FP8_CHANNEL,
    FP8_TENSOR,
    INT8_CHANNEL,
    MXFP4,
    NVFP4,
    ModelShape,
    WeightScheme,
    fp8_blocks,
    grouped,
)
from sim.model.weights import check_block_split, matrix_bytes, weight_bytes

PLAIN: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 1000, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
    "n_shared_experts": 1,
}  # fmt: skip
DENSE = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def read(q: dict[str, Any] | None, **keys: Any) -> ModelShape:
    return load_model({**PLAIN, **keys, "quantization_config": q})


def schemes(shape: ModelShape, layer: int = 0) -> dict[str, WeightScheme]:
    return dict(shape.layers[layer].schemes)


def group(bits: int, kind: str, strategy: str, **rest: Any) -> dict[str, Any]:
    return {"weights": {"num_bits": bits, "type": kind, "strategy": strategy, **rest}, "targets": ["Linear"]}


def compressed(one: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": one}, **rest}


@pytest.mark.parametrize(
    ("q", "scheme"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, fp8_blocks(128, 128)),
        ({"quant_method": "fp8", "activation_scheme": "static"}, FP8_TENSOR),
        ({"quant_method": "fbgemm_fp8"}, FP8_CHANNEL),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, FP8_TENSOR),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4", "group_size": 16}}, NVFP4),
        ({"quant_algo": "FP8_PB_WO"}, fp8_blocks(128, 128)),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, grouped(4, 128, has_zeros=True)),
        ({"quant_method": "gptq", "bits": 8, "group_size": 32}, grouped(8, 32, has_zeros=True)),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, grouped(4, None, has_zeros=True)),
        (compressed(group(8, "float", "channel")), FP8_CHANNEL),
        (compressed(group(8, "float", "tensor")), FP8_TENSOR),
        (compressed(group(8, "float", "block", block_structure=[128, 128])), fp8_blocks(128, 128)),
        (compressed(group(8, "int", "channel")), INT8_CHANNEL),
        (compressed(group(4, "int", "group", group_size=32, symmetric=False)),
         grouped(4, 32, has_zeros=True)),
        (compressed(group(4, "int", "group", group_size=64)), grouped(4, 64, has_zeros=False)),
        (compressed(group(4, "float", "tensor_group", group_size=16)), NVFP4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, INT8_CHANNEL),
    ],
)  # fmt: skip
def test_each_format_is_read(q: dict[str, Any], scheme: WeightScheme) -> None:
    shape = read(q)
    assert schemes(shape) == dict.fromkeys(DENSE, scheme)
    assert shape.checkpoint_quantization == scheme.kind
    assert shape.notes == ()
    head = next(matrix for matrix in layer_matrices(shape) if matrix.name == "lm_head")
    assert head.scheme is None


@pytest.mark.parametrize(
    ("scheme", "num_bytes"),
    [
        (fp8_blocks(128, 128), 300 * 256 + 3 * 2 * 4),
        (FP8_TENSOR, 300 * 256 + 4),
        (FP8_CHANNEL, 300 * 256 + 300 * 4),
        (NVFP4, 300 * 256 / 2 + 300 * 16),
        (MXFP4, 300 * 256 / 2 + 300 * 8),
        (grouped(4, 128, has_zeros=True), 300 * 256 * (4 + 20 / 128) / 8),
        (grouped(4, 32, has_zeros=True), 300 * 256 * (4 + 20 / 32) / 8),
        (grouped(4, 128, has_zeros=False), 300 * 256 * (4 + 16 / 128) / 8),
    ],
)
def test_scales_and_zero_points_take_their_bytes(scheme: WeightScheme, num_bytes: float) -> None:
    assert scheme.num_bytes(300, 256) == num_bytes


@pytest.mark.parametrize(
    ("kept", "layer", "whole"),
    [
        (["lm_head"], 0, set()),
        (["model.layers.1.mlp.down_proj"], 1, {"down_proj"}),
        (["model.layers.1.mlp.down_proj"], 0, set()),
        (["model.layers.1"], 1, set(DENSE)),
        (["model.layers.1"], 2, set()),
        (["language_model.model.layers.2.self_attn.q_proj"], 2, {"qkv_proj"}),
        (["backbone.layers.0.mixer.q_proj"], 0, {"qkv_proj"}),
        (["self_attn"], 2, {"qkv_proj", "o_proj"}),
        (["mlp.gate"], 0, set()),
        (["down_proj"], 0, {"down_proj"}),
        (["model.layers.*.self_attn"], 2, {"qkv_proj", "o_proj"}),
        (["model.layers.2*"], 2, set(DENSE)),
        (["*.o_proj"], 0, {"o_proj"}),
        (["re:.*self_attn.*"], 1, {"qkv_proj", "o_proj"}),
        (["re:.*lm_head"], 1, set()),
        (["re:model\\.layers\\.1\\..*"], 1, set(DENSE)),
        (["re:model\\.layers\\.1\\..*"], 0, set()),
        (["vision_model.layers.0.self_attn.q_proj", "visual.blocks.0.mlp.down_proj"], 0, set()),
    ],
)
@pytest.mark.parametrize("key", ["ignore", "modules_to_not_convert", "exclude_modules"])
def test_modules_that_stay_16_bit(key: str, kept: list[str], layer: int, whole: set[str]) -> None:
    shape = read({"quant_method": "fp8", key: kept})
    assert set(DENSE) - schemes(shape, layer).keys() == whole


def test_routers_stay_whole_and_experts_do_not() -> None:
    shape = read(
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}, **EXPERTS
    )
    assert "router" not in schemes(shape)
    assert schemes(shape)["moe_gate_up"] == schemes(shape)["shared_down"] == NVFP4
    only = read({"quant_method": "mxfp4"}, **EXPERTS)
    assert schemes(only) == {"moe_gate_up": MXFP4, "moe_down": MXFP4}
    without = read({"quant_method": "fp8", "ignore": ["re:.*experts.*"]}, **EXPERTS)
    assert set(schemes(without)) == {"qkv_proj", "o_proj"}


def test_formats_may_differ_by_layer() -> None:
    listed = {
        "model.layers.0.mlp.down_proj": {"quant_algo": "FP8"},
        "model.layers.0.self_attn.q_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.2.mlp": {"quant_algo": "W4A16_AWQ", "group_size": 64},
    }
    q = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": listed}
    shape = read(q)
    assert schemes(shape, 0) == {"down_proj": FP8_TENSOR, "qkv_proj": NVFP4}
    assert schemes(shape, 1) == {}
    awq = grouped(4, 64, has_zeros=False)
    assert schemes(shape, 2) == {"gate_up_proj": awq, "down_proj": awq}
    groups = {
        "group_0": {**group(8, "float", "channel"), "targets": ["re:.*self_attn.*"]},
        "group_1": {**group(4, "float", "tensor_group", group_size=16), "targets": ["re:.*mlp.*"]},
    }
    mixed = read({"quant_method": "compressed-tensors", "config_groups": groups})
    assert schemes(mixed, 1) == {
        "qkv_proj": FP8_CHANNEL, "o_proj": FP8_CHANNEL, "gate_up_proj": NVFP4, "down_proj": NVFP4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("q", "width"),
    [
        ({"quant_method": "fp8"}, 2),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, 1),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}, 1),
        (compressed(group(8, "float", "channel"), kv_cache_scheme={"num_bits": 8, "type": "float"}), 1),
        (compressed(group(8, "float", "channel"), kv_cache_scheme=None), 2),
    ],
)
def test_the_kv_type_that_a_checkpoint_names_is_what_auto_takes(q: dict[str, Any], width: int) -> None:
    shape = read(q)
    assert kv_dtype_bytes(shape) == width
    assert kv_dtype_bytes(shape, "bfloat16") == 2
    assert kv_bytes_per_token(shape, kv_dtype_bytes(shape)) == 3 * 2 * 2 * 64 * width


def test_another_kv_type_is_said() -> None:
    shape = read({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"})
    assert kv_dtype_bytes(shape) == 2 and "KV cache of NVFP4" in shape.notes[0]


def test_a_quantised_checkpoint_takes_its_own_bytes() -> None:
    plain, blocks = read(None), read({"quant_method": "fp8", "weight_block_size": [128, 128]})
    quantised = sum(m.n * m.k * m.layers for m in layer_matrices(plain) if m.name != "lm_head")
    scales = quantised // (128 * 128) * 4
    assert weight_bytes(plain) - weight_bytes(blocks) == quantised - scales


def test_hf_quant_config_beside_the_config_counts_where_it_says_nothing(tmp_path: Path) -> None:
    beside = {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    }
    (tmp_path / "config.json").write_text(json.dumps(PLAIN))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    (tmp_path / "mine.json").write_text(json.dumps(PLAIN))
    (tmp_path / "mine.hf_quant_config.json").write_text(json.dumps(beside))
    for place in (tmp_path, tmp_path / "config.json", tmp_path / "mine.json"):
        assert schemes(load_model(str(place))) == dict.fromkeys(DENSE, FP8_TENSOR)
    own = {**PLAIN, "quantization_config": {"quant_method": "awq"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    assert load_model(str(tmp_path)).checkpoint_quantization == "int4"


def test_a_name_that_promises_a_format_which_no_file_says(tmp_path: Path) -> None:
    for name, is_said in (("Model-8B-NVFP4", True), ("Model-8B-W4A16", True), ("Model-8B-Instruct", False)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(PLAIN))
        assert bool(load_model(str(folder)).notes) == is_said


def test_a_split_that_cuts_blocks_is_refused_for_dense_layers_only() -> None:
    q = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    dense = read(q, num_key_value_heads=4)
    check_block_split(dense, 1)
    check_block_split(dense, 2)
    with pytest.raises(ScenarioError, match="whole blocks of 128") as caught:
        check_block_split(dense, 4)
    assert caught.value.path == "engine.tensor_parallel_size"
    check_block_split(read(None, num_key_value_heads=4), 4)


def test_blocks_of_experts_are_refined() -> None:
    # Qwen3-235B-FP8 at TP 8: 192 of an expert's 1,536 on each GPU, so blocks of 64.
    shape = load_model({"base": "qwen3-235b-a22b", "quantization_config": {
        "quant_method": "fp8", "weight_block_size": [128, 128]}})  # fmt: skip
    check_block_split(shape, 8)
    down = next(m for m in layer_matrices(shape, 8) if m.name == "moe_down")
    assert matrix_bytes(down, "none", 2) == 192 * 4096 + 4 * (192 // 64) * (4096 // 64)


@pytest.mark.parametrize(
    ("kernel", "inner", "hidden"),
    [("none", 2880, 2880), ("triton", 2880, 3072), ("marlin", 2944, 3072), ("cutlass", 2944, 2944)],
)
def test_kernels_of_mxfp4_experts_round_their_sizes(kernel: Any, inner: int, hidden: int) -> None:
    matrices = {m.name: m for m in layer_matrices(load_model("gpt-oss-120b"))}
    per_weight = (4 + 8 / 32) / 8
    assert matrix_bytes(matrices["moe_down"], "none", 2, kernel) == inner * hidden * per_weight
    assert matrix_bytes(matrices["moe_gate_up"], "none", 2, kernel) == 2 * inner * hidden * per_weight


@pytest.mark.parametrize(
    ("q", "problem", "path"),
    [
        ({"quant_method": "quip"}, "not modelled", "quant_method"),
        ({"quant_method": "modelopt", "quant_algo": "MAGIC"}, "not modelled", "quant_algo"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "missing", "quantized_layers"),
        ({"quant_method": "compressed-tensors"}, "missing", "config_groups"),
        (compressed(group(3, "float", "channel")), "not modelled", "config_groups.group_0.weights.num_bits"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "not two sizes", "weight_block_size"),
        ({"quant_method": "fp8", "ignore": "lm_head"}, "not a list of modules", "ignore"),
        ({"quant_method": "fp8", "ignore": ["re:("]}, "not a regular expression", "ignore"),
        ({"quant_method": "awq", "bits": 5}, "not modelled", "bits"),
        (3, "not a mapping", ""),
    ],
)
def test_what_is_not_modelled_is_refused_with_its_place(q: Any, problem: str, path: str) -> None:
    with pytest.raises(ScenarioError, match=problem) as caught:
        read(q)
    assert caught.value.path == "model.quantization_config" + (f".{path}" if path else "")
