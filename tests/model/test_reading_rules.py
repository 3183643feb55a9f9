"""Rules by which configs are read: each on a small config, then on published shapes of many families."""

from __future__ import annotations

from typing import Any

import pytest
from published_families import FAMILIES

from sim.errors import ScenarioError
from sim.model.config import load_model
from sim.model.counts import (
    check_tensor_parallel_size,
    kv_bytes_for_request,
    kv_bytes_per_token,
    num_parameters,
    state_bytes_per_request,
    state_shapes,
)
from sim.model.mixers import DeltaShape, LinearAttentionShape, Mamba2Shape, MambaShape, ShortConvShape
from sim.model.shape import ModelShape, stages_of

PLAIN: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
}  # fmt: skip
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_d_conv": 4}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
}  # fmt: skip


def read(**keys: Any) -> ModelShape:
    return load_model({**PLAIN, **keys})


@pytest.mark.parametrize("name", FAMILIES)
def test_published_shapes_of_many_families(name: str) -> None:
    family = FAMILIES[name]
    shape = load_model({"torch_dtype": "bfloat16", "rms_norm_eps": 1e-6, **family.config})
    assert shape.notes == ()
    assert num_parameters(shape) == pytest.approx(family.parameters, rel=5e-4)
    assert kv_bytes_per_token(shape, 2) == family.kv_bytes_per_token
    assert state_bytes_per_request(shape) == family.state_bytes
    assert set(shape.layer_types) == family.layer_types


@pytest.mark.parametrize(
    ("keys", "types"),
    [
        ({}, "ffff"),
        ({"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}, "sfsf"),
        ({"sliding_window": 8}, "ssss"),
        ({"sliding_window": 8, "use_sliding_window": False}, "ffff"),
        ({"sliding_window": 8, "sliding_window_pattern": 2}, "sfsf"),
        ({"sliding_window": 8, "sliding_window_pattern": "LLG"}, "ssfs"),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}, "fffs"),
        ({"sliding_window": 8, "hybrid_layer_pattern": [0, 1, 1, 0]}, "fssf"),
        ({"window_size": 8, "attention_types": [[["global", "local"], 2]]}, "fsfs"),
        ({"attention_chunk_size": 8, "no_rope_layers": [1, 0, 1, 0]}, "cfcf"),
        ({"attention_chunk_size": 8, "no_rope_layers": []}, "cccf"),
        ({"attn_layer_period": 2, "attn_layer_offset": 1, **MAMBA2}, "mfmf"),
        ({"attn_layer_indices": [2], **MAMBA2}, "mmfm"),
        ({"full_attn_idxs": [0], "conv_L_cache": 3}, "fkkk"),
        ({"hybrid_override_pattern": "M*M*", **MAMBA2}, "mfmf"),
        ({"hybrid_override_pattern": "M*-E", **MAMBA2, **EXPERTS}, "mf--"),
        ({"layers_block_type": ["mamba", "attention", "mlp", "attention"], **MAMBA2}, "mf-f"),
        ({"attn_type_list": [0, 0, 0, 1]}, "lllf"),
        ({"full_attention_interval": 4, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
          "linear_key_head_dim": 8, "linear_value_head_dim": 8}, "lllf"),
        ({"linear_attn_config": {"full_attn_layers": [4], "kda_layers": [1, 2, 3], "num_heads": 4,
                                 "head_dim": 8, "short_conv_kernel_size": 4}}, "lllf"),
        (MAMBA2, "pppp"),
    ],
)  # fmt: skip
def test_which_mixer_each_layer_has(keys: dict[str, Any], types: str) -> None:
    words = {
        "f": "full_attention", "s": "sliding_attention", "c": "chunked_attention", "m": "mamba", "k": "conv",
        "l": "linear_attention", "p": "full_attention+mamba", "-": "none",
    }  # fmt: skip
    shape = read(**keys)
    assert shape.layer_types == tuple(words[letter] for letter in types)
    assert shape.notes == ()


@pytest.mark.parametrize(
    ("keys", "sparse"),
    [
        ({}, "1111"),
        ({"first_k_dense_replace": 2}, "0011"),
        ({"num_dense_layers": 1}, "0111"),
        ({"decoder_sparse_step": 2}, "0101"),
        ({"interleave_moe_layer_step": 2}, "0101"),
        ({"moe_layer_freq": 2}, "1010"),
        ({"moe_layer_freq": [0, 1, 1, 0]}, "0110"),
        ({"mlp_only_layers": [0, 3]}, "0110"),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "dense"]}, "0110"),
        ({"moe_layers": [1]}, "0100"),
        ({"moe_layers_enum": "2,3"}, "0011"),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": 2, "moe_layer_interval": 1}, "0110"),
        ({"expert_layer_period": 2, "expert_layer_offset": 1}, "0101"),
    ],
)
def test_which_layers_have_experts(keys: dict[str, Any], sparse: str) -> None:
    shape = read(**EXPERTS, **keys)
    assert "".join("1" if layer.moe else "0" for layer in shape.layers) == sparse
    assert all((layer.mlp is None) == (layer.moe is not None) for layer in shape.layers)
    assert shape.notes == ()


@pytest.mark.parametrize(
    "names",
    [
        ("num_experts", "num_experts_per_tok", "n_shared_experts"),
        ("num_local_experts", "experts_per_token", "num_shared_experts"),
        ("n_routed_experts", "num_experts_per_token", "num_shared_expert"),
        ("moe_num_experts", "moe_k", "moe_num_shared_experts"),
        ("moe_num_experts", "moe_topk", "moe_num_shared_experts"),
    ],
)
def test_experts_by_any_of_their_names(names: tuple[str, str, str]) -> None:
    shape = read(moe_intermediate_size=32, **dict(zip(names, (8, 2, 1), strict=True)))
    moe = shape.moe
    assert moe is not None
    assert (moe.num_experts, moe.num_experts_per_tok, moe.shared_expert_intermediate_size) == (8, 2, 32)
    plain = num_parameters(read(**EXPERTS))
    assert num_parameters(shape) - plain == 4 * 3 * 64 * 32


def test_experts_in_a_latent_space_are_narrower() -> None:
    wide, narrow = read(**EXPERTS), read(**EXPERTS, moe_latent_size=16)
    in_latent_space = 8 * 3 * 32 * (64 - 16) - 2 * 64 * 16
    assert num_parameters(wide) - num_parameters(narrow) == 4 * in_latent_space


def test_heads_of_full_and_sliding_layers_may_differ() -> None:
    types = ["sliding_attention"] * 3 + ["full_attention"]
    shape = read(
        layer_types=types, sliding_window=8, head_dim=16, global_head_dim=32, num_global_key_value_heads=1
    )
    sliding, full = shape.layers[0].attention, shape.layers[3].attention
    assert sliding is not None and full is not None
    assert (sliding.head_dim, sliding.num_kv_heads) == (16, 2)
    assert (full.head_dim, full.num_kv_heads) == (32, 1)
    assert kv_bytes_per_token(shape, 2) == 3 * 2 * 2 * 16 * 2 + 2 * 1 * 32 * 2
    other = {"num_attention_heads": 8, "num_attention_groups": 4, "head_dim": 8}
    swa = read(layer_types=types, sliding_window=8, attention_other_setting=other)
    assert swa.layers[0].attention is not None and swa.layers[0].attention.num_heads == 8
    assert swa.num_attention_heads == 4


def test_values_narrower_than_keys() -> None:
    shape = read(head_dim=16, v_head_dim=8)
    assert kv_bytes_per_token(shape, 2) == 4 * 2 * (16 + 8) * 2


def test_layers_that_read_anothers_kv_keep_none() -> None:
    types = ["sliding_attention", "full_attention"] * 2
    shape = read(layer_types=types, sliding_window=8, num_kv_shared_layers=2)
    sources = [layer.attention.kv_source if layer.attention else None for layer in shape.layers]
    assert sources == [None, None, 0, 1]
    assert shape.num_attention_layers == 2
    assert kv_bytes_per_token(shape, 2) == kv_bytes_per_token(read(), 2) // 2
    assert num_parameters(read()) - num_parameters(shape) == 2 * 2 * (2 * 16) * 64


def test_a_chunk_keeps_no_more_than_its_size() -> None:
    shape = read(attention_chunk_size=8, no_rope_layers=[1, 1, 1, 0])
    per_layer = 2 * 2 * 16 * 2
    assert kv_bytes_for_request(shape, 100, 2) == per_layer * (3 * 8 + 100)


def test_a_window_of_cohere_spans_the_token_itself_too() -> None:
    shape = read(model_type="cohere2", sliding_window=8)
    assert shape.sliding_window == 9 and shape.layer_types.count("full_attention") == 1


def test_latent_attention_with_an_indexer_keeps_its_keys_in_fp8() -> None:
    plain, sparse = read(**LATENT), read(**LATENT, index_topk=8, index_n_heads=2, index_head_dim=12)
    assert kv_bytes_per_token(plain, 2) == 4 * (16 + 4) * 2
    assert kv_bytes_per_token(sparse, 2) - kv_bytes_per_token(plain, 2) == 4 * (12 + 4)
    half = read(
        **LATENT, index_topk=8, index_n_heads=2, index_head_dim=12, indexer_types=["full", "shared"] * 2
    )
    assert kv_bytes_per_token(half, 2) - kv_bytes_per_token(plain, 2) == 2 * (12 + 4)


@pytest.mark.parametrize(
    ("keys", "mixer", "shapes"),
    [
        (MAMBA2, Mamba2Shape(num_heads=8, head_dim=16, num_groups=1, d_state=16, d_conv=4),
         ((3, 64 + 2 * 16), (4, 16, 16))),
        ({"mamba_d_state": 16, "mamba_expand": 2, "mamba_dt_rank": "auto", "attn_layer_period": 4},
         MambaShape(inner_size=128, d_state=16, d_conv=4, dt_rank=4, norms=True), ((3, 64), (64, 16))),
        ({"full_attention_interval": 4, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
          "linear_key_head_dim": 8, "linear_value_head_dim": 16},
         DeltaShape(num_key_heads=2, key_head_dim=8, num_value_heads=4, value_head_dim=16, d_conv=4),
         ((3, (2 * 16 + 64) // 2), (2, 16, 8))),
        ({"attn_type_list": [0, 0, 0, 1]}, LinearAttentionShape(num_heads=4, head_dim=16), ((2, 16, 16),)),
        ({"full_attn_idxs": [1], "conv_L_cache": 3}, ShortConvShape(inner_size=64, d_conv=3), ((2, 32),)),
    ],
)  # fmt: skip
def test_recurrent_mixers_are_told_by_their_sizes(keys: dict[str, Any], mixer: Any, shapes: Any) -> None:
    shape = read(**keys)
    states = [layer.state for layer in shape.layers if layer.state is not None]
    assert states[0] == mixer
    assert tuple(size for size, _ in state_shapes(mixer, "bfloat16", 2)) == shapes


def test_the_type_of_a_state_is_the_configs_own() -> None:
    in_16 = read(**MAMBA2)
    in_32 = read(**MAMBA2, mamba_ssm_cache_dtype="float32")
    # The convolution's inputs stay in 16 bits.
    assert state_bytes_per_request(in_32) - state_bytes_per_request(in_16) == 4 * 8 * 16 * 16 * 2


def test_attention_blocks_of_a_pruned_model_differ_block_by_block() -> None:
    def block(group: int, mult: float, no_op: bool = False) -> dict[str, Any]:
        return {"attention": {"n_heads_in_group": group, "no_op": no_op}, "ffn": {"ffn_mult": mult}}

    blocks = [block(2, 1.0), block(4, 2.0), block(2, 1.0, no_op=True), block(2, 0.5)]
    shape = read(
        model_type="nemotron-nas", block_configs=blocks, num_key_value_heads=None, intermediate_size=None
    )
    assert [layer.attention.num_kv_heads if layer.attention else None for layer in shape.layers] == [
        2,
        1,
        None,
        2,
    ]
    assert all(layer.mlp is not None and layer.mlp.intermediate_size == 256 for layer in shape.layers)
    with pytest.raises(ScenarioError, match="not modelled"):
        read(block_configs=[{"attention": {"replace_with_linear": True}, "ffn": {}}] * 4)


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        (None, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"type": "yarn", "factor": 2.0}, 1024),
        ({"rope_type": "linear", "factor": 8.0}, 4096),
        ({"rope_type": "dynamic", "factor": 2.0}, 1024),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}, 512),
        ({"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}, 512),
        ({"rope_type": "default", "mrope_section": [1, 2, 3]}, 512),
    ],
)
def test_rope_scaling_counts_in_the_longest_context(scaling: Any, longest: int) -> None:
    assert read(rope_scaling=scaling).max_position_embeddings == longest


def test_a_text_part_may_leave_out_the_sizes_of_its_class() -> None:
    # LLaVA 1.5: Vicuna's config names only what Llama's own class has otherwise.
    part = {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32_064}
    shape = load_model({"model_type": "llava", "text_config": part, "torch_dtype": "float16"})
    assert num_parameters(shape) == 6_738_415_616 + 2 * 64 * 4096
    with pytest.raises(ScenarioError, match="missing"):
        load_model(part)


@pytest.mark.parametrize("key", ["text_config", "llm_config", "language_config"])
def test_the_language_model_is_found_in_a_multimodal_config(key: str) -> None:
    shape = load_model({"model_type": "any_vl", key: PLAIN, "vision_config": {"hidden_size": 8}})
    assert shape.kinds == read().kinds
    nested = load_model({"model_type": "omni", "thinker_config": {"model_type": "any", key: PLAIN}})
    assert nested.kinds == read().kinds


def test_a_type_that_no_key_names_is_that_of_the_architectures_years() -> None:
    without = {key: value for key, value in PLAIN.items() if key != "torch_dtype"}
    assert load_model(without).dtype == "bfloat16"
    assert load_model({**without, "model_type": "gpt_neox"}).dtype == "float32"


def test_gemma_3_has_the_scaling_in_its_positions_already() -> None:
    keys = {"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    assert read(**keys, head_dim=16).max_position_embeddings == 512


def test_keys_that_nobody_read_are_named() -> None:
    shape = read(model_type="llama", compressed_block_size=4, swizzle_window=9, num_meta_layers=2)
    assert "compressed_block_size, num_meta_layers, swizzle_window" in shape.notes[0]


@pytest.mark.parametrize(
    "harmless",
    [
        {"hidden_dropout": 0.1}, {"initializer_range": 0.02}, {"layer_norm_eps": 1e-5},
        {"router_aux_loss_coef": 0.1}, {"pad_token_id": 3},
        {"image_token_index": 5}, {"rope_theta": 1e6}, {"residual_multiplier": 0.2},
        {"num_nextn_predict_layers": 1}, {"mtp_layers_block_type": ["attention"]}, {"n_group": 8},
        {"attn_logit_softcapping": 50.0}, {"use_cache": True}, {"chunk_size": 128},
        {"kv_heads_to_come": None}, {"mlp_gap": False}, {"window_list": []}, {"quant_layers": 3},
    ],
)  # fmt: skip
def test_keys_that_change_no_shape_are_not(harmless: dict[str, Any]) -> None:
    assert read(**harmless).notes == ()


@pytest.mark.parametrize(
    ("keys", "problem", "path"),
    [
        ({"layer_types": ["compressed_sparse_attention"] * 4}, "not modelled", "model.layer_types"),
        ({"layers_block_type": ["hybrid"] * 4}, "not modelled", "model.layers_block_type"),
        ({"hybrid_override_pattern": "M*X*", **MAMBA2}, "not modelled", "model.hybrid_override_pattern"),
        ({"hybrid_override_pattern": "M*", **MAMBA2}, "not one letter", "model.hybrid_override_pattern"),
        ({"layer_types": ["sliding_attention"] * 4}, "missing", "model.sliding_window"),
        ({"layer_types": ["mamba"] * 4}, "missing", "model.ssm_state_size"),
        ({"linear_attn_config": {}}, "missing", "model.linear_attn_config.full_attn_layers"),
        ({"attn_layer_period": 2, "attn_layer_offset": 2}, "out of range", "model.attn_layer_offset"),
        ({**LATENT, "sliding_window": 8, "sliding_window_pattern": 2}, "latent", "model.kv_lora_rank"),
        ({**EXPERTS, "mlp_layer_types": ["hash_moe"] * 4}, "not modelled", "model.mlp_layer_types"),
        ({"rope_scaling": {"type": "yarn", "factor": -1}}, "not a factor", "model.rope_scaling.factor"),
        ({"mamba_ssm_cache_dtype": "int3", **MAMBA2}, "unknown type", "model.mamba_ssm_cache_dtype"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_place(keys: dict[str, Any], problem: str, path: str) -> None:
    with pytest.raises(ScenarioError, match=problem) as caught:
        read(**keys)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("keys", "owners"),
    [
        # GLM-5.2's first layers, whose own indexer_types say the same.
        ({"index_topk_freq": 4, "index_skip_topk_offset": 3}, [0, 1, 2, 6]),
        ({"index_topk_freq": 2}, [0, 1, 3, 5, 7]),
        ({"index_topk_pattern": "FSSSFSSS"}, [0, 4]),
        ({"index_topk_freq": 2, "indexer_types": ["full"] + ["shared"] * 7}, [0]),
        ({}, list(range(8))),
    ],
)
def test_layers_that_take_the_choice_of_a_layer_before_them(keys: dict[str, Any], owners: list[int]) -> None:
    sizes = {"index_topk": 8, "index_n_heads": 2, "index_head_dim": 12, "num_hidden_layers": 8}
    shape = read(**LATENT, **sizes, **keys)
    found = [layer.mla.indexer.own for layer in shape.layers if layer.mla and layer.mla.indexer]
    assert [i for i, own in enumerate(found) if own] == owners and shape.notes == ()


def test_stages_keep_the_layers_in_their_order() -> None:
    shape = read(hybrid_override_pattern="M*-E", **MAMBA2, **EXPERTS)
    stages = stages_of(shape, 2)
    assert [stage.shape.layer_types for stage in stages] == [("mamba", "full_attention"), ("none", "none")]
    assert sum(stage.shape.num_moe_layers for stage in stages) == 1


def test_recurrent_heads_must_divide_too() -> None:
    shape = read(**MAMBA2 | {"mamba_n_heads": 6, "mamba_d_head": 32})
    with pytest.raises(ScenarioError, match="6 heads of recurrent layers"):
        check_tensor_parallel_size(shape, 4)
