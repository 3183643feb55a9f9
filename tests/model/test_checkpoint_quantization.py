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
         grouped(4, 32, has_zeros=True, groups="whole")),
        (compressed(group(4, "int", "group", group_size=64)), grouped(4, 64, has_zeros=False)),
        (compressed(group(4, "float", "tensor_group", group_size=16)), NVFP4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, INT8_CHANNEL),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 64, "sym": True,
          "packing_format": "auto_round:auto_gptq"}, grouped(4, 64, has_zeros=True)),
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


def split_sizes(q: dict[str, Any], **keys: Any) -> list[int]:
    """The tensor parallel sizes up to 8 at which this checkpoint is not refused."""
    shape, found = read(q, num_attention_heads=32, num_key_value_heads=8, **keys), []
    for size in (1, 2, 4, 8):
        try:
            check_block_split(shape, size)
        except ScenarioError as error:
            assert error.path == "engine.tensor_parallel_size" and error.hint
            continue
        found.append(size)
    return found


def int_group(size: int, **rest: Any) -> dict[str, Any]:
    return compressed(group(4, "int", "group", group_size=size, **rest))


AWQ, GPTQ = {"quant_method": "awq", "bits": 4}, {"quant_method": "gptq", "bits": 4, "sym": True}
# vLLM 0.33: BaseAWQLinearMethod ("not aligned with the quantized weight shape"), Marlin's can_implement and
# verify_group_size_divides_partition want whole groups of what a GPU has of the input.
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11_008}  # 86 groups of 128
QWEN_72B = {"hidden_size": 8192, "intermediate_size": 29_568, "head_dim": 128}  # 231 groups of 128


@pytest.mark.parametrize("form", [AWQ, GPTQ, int_group(0)])
@pytest.mark.parametrize(
    ("group_size", "sizes", "allowed"),
    [
        (128, LLAMA_7B, [1, 2]),
        (64, LLAMA_7B, [1, 2, 4]),
        (32, LLAMA_7B, [1, 2, 4, 8]),
        (128, QWEN_72B, [1]),
        (32, QWEN_72B, [1, 2, 4]),
        (128, QWEN_72B | {"intermediate_size": 29_696}, [1, 2, 4, 8]),  # as Qwen pads it
        (100, LLAMA_7B, []),
        (-1, LLAMA_7B, [1, 2, 4, 8]),
    ],
)
def test_groups_that_a_split_cuts_are_refused(
    form: dict[str, Any], group_size: int, sizes: dict[str, Any], allowed: list[int]
) -> None:
    q = form | {"group_size": group_size} if "config_groups" not in form else int_group(group_size)
    assert split_sizes(q, **sizes) == allowed


def test_groups_of_floats_must_be_whole_too() -> None:
    nvfp4 = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    assert split_sizes(nvfp4, hidden_size=4096, intermediate_size=16 * 6) == [1, 2]
    # bitsandbytes counts its blocks along the whole matrix, wherever it is cut.
    bnb = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    assert split_sizes(bnb, hidden_size=4096, intermediate_size=11_008) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("q", "inner", "allowed"),
    [
        # moe_wna16.py halves a group until it divides, and asserts that it is at least 32.
        (AWQ | {"group_size": 128}, 768, [1, 2, 4, 8]),
        (GPTQ | {"group_size": 128}, 768, [1, 2, 4, 8]),
        (GPTQ | {"group_size": 128}, 1408, [1, 2, 4]),
        # compressed_tensors_moe_wna16.py: "Scale groups would otherwise cross TP shard boundaries".
        (int_group(128), 768, [1, 2]),
        (int_group(32), 768, [1, 2, 4, 8]),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 1408, [1, 2, 4, 8]),  # padded
    ],
)
def test_groups_of_experts(q: dict[str, Any], inner: int, allowed: list[int]) -> None:
    moe = EXPERTS | {"moe_intermediate_size": inner, "n_shared_experts": 0, "hidden_size": 4096}
    assert split_sizes(q, **moe) == allowed


def test_halved_groups_of_experts_have_more_scales() -> None:
    moe = EXPERTS | {"moe_intermediate_size": 768, "n_shared_experts": 0, "hidden_size": 2048}
    shape = read(AWQ | {"group_size": 128}, num_attention_heads=32, num_key_value_heads=8, **moe)
    down = next(m for m in layer_matrices(shape, 4) if m.name == "moe_down")
    assert matrix_bytes(down, "none", 2) == 192 * 2048 * (4 + 20 / 64) / 8  # groups of 64 for 192 inputs


def test_an_lm_head_that_gptq_names_is_quantised() -> None:
    plain, head = read(GPTQ), read(GPTQ | {"lm_head": True})
    saved = 1000 * 256 * (2 - (4 + 20 / 128) / 8)
    assert weight_bytes(plain) - weight_bytes(head) == pytest.approx(saved, abs=1)
    tied = read(GPTQ | {"lm_head": True}, tie_word_embeddings=True)
    assert weight_bytes(tied) == weight_bytes(read(GPTQ, tie_word_embeddings=True))
    skipped = read(GPTQ | {"lm_head": True, "dynamic": {"-:lm_head": {}}})
    assert weight_bytes(skipped) == weight_bytes(plain)


def test_gptqs_dynamic_rules_skip_modules_or_give_them_other_bits() -> None:
    rules = {
        "-:.*self_attn.*": {},
        r"+:.*\.(?:2)\..*down_proj.*": {"bits": 8, "group_size": 32},
        ".*down_proj.*": {"bits": 8},
        ".*": {"group_size": 64},
    }
    shape = read(GPTQ | {"group_size": 128, "dynamic": rules})
    up, down = grouped(4, 64, has_zeros=True), grouped(8, 128, has_zeros=True)
    assert schemes(shape, 0) == {"gate_up_proj": up, "down_proj": down}
    assert schemes(shape, 2) == {"gate_up_proj": up, "down_proj": grouped(8, 32, has_zeros=True)}
    only = read(
        GPTQ | {"modules_in_block_to_quantize": [["mlp.up_proj", "mlp.gate_proj"], ["mlp.down_proj"]]}
    )
    assert set(schemes(only)) == {"gate_up_proj", "down_proj"}
    assert shape.notes == only.notes == ()


def test_auto_rounds_extra_config_has_modules_of_other_bits() -> None:
    extra = {
        "model.layers.1.mlp.down_proj": {"bits": 16},
        "model.layers.0.self_attn.q_proj": {"bits": 8, "group_size": 32},
        "lm_head": {"bits": 4, "group_size": 128},
    }
    shape = read({"quant_method": "auto-round", "bits": 4, "group_size": 128, "extra_config": extra})
    usual = grouped(4, 128, has_zeros=True)
    assert schemes(shape, 0)["qkv_proj"] == grouped(8, 32, has_zeros=True)
    assert set(schemes(shape, 1)) == {"qkv_proj", "o_proj", "gate_up_proj"}
    assert schemes(shape, 2) == dict.fromkeys(DENSE, usual)
    assert shape.lm_head_scheme == usual and shape.notes == ()


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ({"bits": 3}, "GPTQ of 3 bits"),
        ({"desc_act": True}, "desc_act"),
        ({"sym": False}, "asymmetric"),
        ({"group_size": 256}, "groups of 256"),
        ({"desc_act": True, "group_size": -1}, ""),
    ],
)
def test_what_0_33_no_longer_loads_of_gptq_is_said(rest: dict[str, Any], said: str) -> None:
    notes = read(GPTQ | rest).notes
    assert said in notes[0] if said else notes == ()


@pytest.mark.parametrize(
    ("q", "named"),
    [
        ({"quant_method": "fp8", "modules_to_not_convertt": ["self_attn"]}, "modules_to_not_convertt"),
        (GPTQ | {"outlier_columns": 8}, "outlier_columns"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algoo": "FP8"}, "algoo"),
        (compressed(group(8, "float", "channel", rotation="hadamard")), "rotation"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_module": ["a"]}, "exclude_module"),
        ({"quantization": {"quant_algo": "FP8", "exclude_module": ["a"]}}, "exclude_module"),
        (compressed(group(8, "float", "channel"), sparsity_config={"format": "dense", "targets": ["Linear"]}),
         "sparsity_config"),
    ],
)  # fmt: skip
def test_keys_of_the_quantization_that_nobody_read_are_named(q: dict[str, Any], named: str) -> None:
    assert named in read(q).notes[0]


@pytest.mark.parametrize(
    "harmless",
    [
        {"activation_scheme": "dynamic", "fmt": "e4m3", "scale_fmt": "ue8m0"},
        {"zero_point": True, "version": "gemm"},
        {
            "damp_percent": 0.1,
            "true_sequential": True,
            "model_file_base_name": "model",
            "static_groups": False,
        },
        {"quantizer": ["gptqmodel:4.0"], "meta": {"quantizer": "x"}, "checkpoint_format": "gptq"},
        {"ignore_nothing": None, "outlier_columns": 0, "extra_list": []},
        {
            "producer": {"name": "modelopt"},
            "quantization_status": "compressed",
            "global_compression_ratio": 1.5,
        },
    ],
)
def test_keys_of_the_quantization_that_change_no_bytes_are_not(harmless: dict[str, Any]) -> None:
    assert read({"quant_method": "fp8"} | harmless).notes == ()


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
        ({"quant_method": "awq", "bits": 3}, "not modelled", "bits"),
        ({"bits": 4, "group_size": 128}, "missing", "quant_method"),
        ({"quant_method": "gptq", "dynamic": {"+:a": 8}}, "not a mapping", "dynamic.+:a"),
        ({"quant_method": "gptq", "dynamic": {"+:(": {"bits": 8}}}, "not a regular expression", "dynamic"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": None}},
            "null",
            "config_groups.group_0",
        ),
        (
            compressed(group(8, "int", "channel"), sparsity_config={"format": "sparse-24-bitmask"}),
            "sparse",
            "sparsity_config.format",
        ),
        (3, "not a mapping", ""),
    ],
)
def test_what_is_not_modelled_is_refused_with_its_place(q: Any, problem: str, path: str) -> None:
    with pytest.raises(ScenarioError, match=problem) as caught:
        read(q)
    assert caught.value.path == "model.quantization_config" + (f".{path}" if path else "")
