"""Models and configs that are refused or warned of rather than read as something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.errors import ScenarioError
from sim.hardware.vllm_releases import check_architecture, dropped_notes
from sim.model.catalogue import shipped_model
from sim.model.config import load_model
from sim.model.mixers import DeltaShape
from sim.model.reader import is_structural
from sim.model.shape import ModelShape

PLAIN: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
}  # fmt: skip
LINEAR_AND_FULL = {"layer_types": ["linear_attention", "full_attention"] * 2}


def read(**keys: Any) -> ModelShape:
    return load_model({**PLAIN, **keys})


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"model_type": "bert"}, "model_type"),
        ({"model_type": "xlm-roberta"}, "model_type"),
        ({"model_type": "modernbert"}, "model_type"),
        ({"model_type": "deberta-v2"}, "model_type"),
        ({"model_type": "some_encoder", "type_vocab_size": 2}, "type_vocab_size"),
        ({"model_type": "some_encoder", "architectures": ["SomeForMaskedLM"]}, "architectures"),
        ({"model_type": "gemma3_text", "head_dim": 16, "use_bidirectional_attention": True},
         "use_bidirectional_attention"),
        ({"is_causal": False}, "is_causal"),
        ({"model_type": "t5", "num_decoder_layers": 4, "d_kv": 16}, "num_decoder_layers"),
        ({"model_type": "umt5", "relative_attention_num_buckets": 32}, "relative_attention_num_buckets"),
        ({"model_type": "bart", "decoder_layers": 4, "encoder_layers": 4}, "decoder_layers"),
    ],
)  # fmt: skip
def test_encoders_are_no_decoders(keys: dict[str, Any], path: str) -> None:
    with pytest.raises(ScenarioError, match="an encoder") as caught:
        read(**keys)
    assert caught.value.path == f"model.{path}" and caught.value.hint


@pytest.mark.parametrize(
    "keys",
    [
        {"architectures": ["LlamaForSequenceClassification"]},
        {"use_bidirectional_attention": False, "is_causal": True},
        {"model_type": "modernbert-decoder"},
    ],
)
def test_decoders_are_no_encoders(keys: dict[str, Any]) -> None:
    assert read(**keys).num_attention_layers == 4


@pytest.mark.parametrize("keys", [LINEAR_AND_FULL, {"full_attention_interval": 2}])
def test_linear_attention_of_unknown_size_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match="how large the state") as caught:
        read(**keys)
    assert caught.value.path == "model.linear_num_value_heads"


def test_linear_attention_with_a_convolution_is_kda() -> None:
    # Transformers' own keys of Kimi Linear.
    sizes = {"linear_num_heads": 4, "linear_head_dim": 8, "linear_conv_kernel_dim": 4}
    state = read(**LINEAR_AND_FULL, **sizes).layers[0].state
    assert isinstance(state, DeltaShape) and state.forgets_by_entry
    assert (state.num_key_heads, state.key_head_dim, state.d_conv) == (4, 8, 4)


@pytest.mark.parametrize(
    "keys",
    [
        {"model_type": "minimax", **LINEAR_AND_FULL},
        {"attn_type_list": [0, 1, 0, 1]},
        {"layer_group_size": 2},
        {"linear_num_heads": 4, "linear_head_dim": 16, **LINEAR_AND_FULL},
    ],
)
def test_lightning_attention_has_the_heads_of_its_attention(keys: dict[str, Any]) -> None:
    shape = read(**keys)
    assert shape.layer_types == ("linear_attention", "full_attention") * 2 and shape.notes == ()


@pytest.mark.parametrize(
    ("keys", "is_said"),
    [
        ({"attention_chunk_size": 8}, True),
        ({"model_type": "foo", "attention_chunk_size": 8}, True),
        ({"attention_chunk_size": 8, "no_rope_layers": [1, 1, 1, 0]}, False),
        ({"attention_chunk_size": 8, "no_rope_layer_interval": 4}, False),
        ({"attention_chunk_size": 8, "layer_types": ["chunked_attention", "full_attention"] * 2}, False),
        ({"model_type": "llama4_text", "attention_chunk_size": 8, "num_local_experts": 2,
          "num_experts_per_tok": 1}, False),
        ({"attention_chunk_size": None}, False),
    ],
)  # fmt: skip
def test_chunks_of_which_no_key_says_where_are_said_to_be_guessed(
    keys: dict[str, Any], is_said: bool
) -> None:
    assert any("attention_chunk_size" in note for note in read(**keys).notes) == is_said


def test_mixtures_of_experts_without_their_number_are_not_dense() -> None:
    # MixtralConfig's own defaults: 8 experts, 2 of them a token.
    moe = read(model_type="mixtral").moe
    assert moe is not None and (moe.num_experts, moe.num_experts_per_tok) == (8, 2)
    with pytest.raises(ScenarioError, match="missing") as caught:
        read(model_type="qwen3_moe", num_expert=128, num_experts_per_tok=8, moe_intermediate_size=32)
    assert caught.value.path == "model.num_local_experts"
    assert read(model_type="granitemoehybrid", num_local_experts=0).moe is None
    assert read(model_type="deepseek_v3", n_routed_experts=None).moe is None
    for keys in ({"num_experts_per_tok": 2}, {"moe_intermediate_size": 32}, {"model_type": "gpt_oss"}):
        with pytest.raises(ScenarioError, match="missing"):
            read(**keys)


@pytest.mark.parametrize(
    ("keys", "problem", "path"),
    [
        ({"per_layer_config": {"999": {"head_dim": 8}}}, "not a layer", "per_layer_config.999"),
        ({"per_layer_config": {"4": {"head_dim": 8}}}, "not a layer", "per_layer_config.4"),
        ({"per_layer_config": {"x": {"head_dim": 8}}}, "not a layer", "per_layer_config.x"),
        ({"per_layer_config": {"-1": {"head_dim": 8}}}, "not a layer", "per_layer_config.-1"),
        ({"per_layer_config": {"1": {"haed_dim": 8}}}, "not modelled", "per_layer_config.1.haed_dim"),
        ({"text_config": {}}, "has no sizes", "text_config"),
        ({"text_config": {"model_type": "llama", "vocab_size": 10}}, "has no sizes", "text_config"),
    ],
)
def test_parts_of_a_config_that_would_pass_unnoticed(keys: dict[str, Any], problem: str, path: str) -> None:
    with pytest.raises(ScenarioError, match=problem) as caught:
        read(**keys)
    assert caught.value.path == f"model.{path}"


def test_a_layer_of_its_own_sizes_is_read() -> None:
    shape = read(per_layer_config={"1": {"head_dim": 8}})
    assert [layer.attention.head_dim for layer in shape.layers if layer.attention] == [16, 8, 16, 16]


@pytest.mark.parametrize(
    "key",
    ["ffn_multipliers", "ffn_dim_multiplier", "qkv_multipliers", "total_ut_steps", "mixer_types",
     "token_mixer", "d_intermediate", "num_scan_layers", "init_layers", "label_rank",
     "num_noise_experts", "token_experts",
     "rope_head_dim", "scan_state_size", "num_recurrence", "num_routed", "use_mamba", "num_branches"],
)  # fmt: skip
def test_counts_and_sizes_are_structural_whatever_else_a_key_says(key: str) -> None:
    assert is_structural(key)
    assert key in " ".join(read(**{key: 3}).notes)


@pytest.mark.parametrize(
    "keys",
    [
        # command-r7b's, ERNIE's and Ring-linear's own keys; sampling defaults of saved configs.
        {"layer_switch": 4, "use_parallel_embedding": True, "use_gated_activation": True},
        {"moe_capacity": [64, 64, 64], "moe_gate": "topk"},
        {"group_norm_size": 4},
        {"num_beams": 1, "num_beam_groups": 1, "top_k": 50, "top_p": 1.0},
        {"residual_multiplier": 0.22, "ssm_multipliers": [1, 2], "key_multiplier": 0.5},
        {"num_nextn_predict_layers": 1, "mtp_transformer_layers": 1, "num_mtp_modules": 3},
        {"time_step_rank": 256, "use_mamba_kernels": True, "num_logits_to_keep": 1, "mixer_rms_eps": 1e-6},
    ],
)
def test_keys_of_published_configs_raise_no_false_alarm(keys: dict[str, Any]) -> None:
    assert read(**keys).notes == ()


def test_command_r7bs_real_config_is_read_without_a_warning() -> None:
    keys = {
        "layer_switch": 4,
        "use_parallel_embedding": True,
        "order_of_interleaved_layers": "local_attn_first",
    }
    shape = load_model({"base": "command-r7b"} | {"sliding_window": 4096})
    assert load_model({**_shipped("command-r7b"), **keys}).notes == shape.notes == ()


def _shipped(name: str) -> dict[str, Any]:

    return {key: value for key, value in shipped_model(name).keys.items() if key != "_gpuyard"}


@pytest.mark.parametrize(
    ("architecture", "release", "is_refused"),
    [
        ("minimax_m1", "0.33.0", True),
        ("minimax_text_01", "0.33", True),
        ("bamba", "0.33.0", True),
        ("minimax_m1", "0.22.1", False),
        ("minimax_m2", "0.33.0", False),
        ("llama", "0.33.0", False),
    ],
)
def test_what_a_release_of_vllm_dropped_is_refused(architecture: str, release: str, is_refused: bool) -> None:
    if not is_refused:
        check_architecture(architecture, "a model", release)
        return
    with pytest.raises(ScenarioError, match="any more") as caught:
        check_architecture(architecture, "a model", release)
    assert caught.value.path == "engine.vllm_version"


def test_what_transformers_stands_in_for_is_said() -> None:
    assert "Transformers" in dropped_notes("dots1", "0.33.0")[0]
    assert dropped_notes("dots1", "0.22.0") == dropped_notes("llama", "0.33.0") == ()


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"head_dim": 0}, "head_dim"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"rope_scaling": 3}, "rope_scaling"),
        ({"quantization_config": {"quant_method": "awq", "group_size": 0}}, "quantization_config.group_size"),
        ({"linear_attn_config": 5}, "linear_attn_config"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"torch_dtype": 4}, "torch_dtype"),
    ],
)
def test_every_refusal_says_what_to_try(keys: dict[str, Any], path: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        read(**keys)
    assert caught.value.path == f"model.{path}" and caught.value.hint


def test_letters_are_answered_with_letters_and_words_with_words() -> None:
    with pytest.raises(ScenarioError) as caught:
        read(hybrid_override_pattern="M*X-")
    assert {"M", "*", "E", "-"} <= set(caught.value.allowed.split(", "))
    assert "full_attention" not in caught.value.allowed
    with pytest.raises(ScenarioError) as caught:
        read(layer_types=["full_attention", "foo"] * 2)
    assert "full_attention" in caught.value.allowed


@pytest.mark.parametrize(
    ("content", "word"), [("null", "null"), ("[1]", "a list"), ('"a"', "a string"), ("3", "a number")]
)
def test_jsons_own_words_name_what_is_no_object(tmp_path: Path, content: str, word: str) -> None:
    place = tmp_path / "config.json"
    place.write_text(content)
    with pytest.raises(ScenarioError) as caught:
        load_model(str(place))
    assert caught.value.given == word
