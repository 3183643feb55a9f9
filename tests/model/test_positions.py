"""How long a context a config is for, by vLLM's own rule, and how much of a head is rotary."""

from __future__ import annotations

from typing import Any

import pytest

from sim.errors import ScenarioError
from sim.model.catalogue import hugging_face_names, model_names, shipped_model
from sim.model.config import load_model
from sim.model.counts import num_parameters
from sim.model.shape import ModelShape
from sim.model.weights import weight_bytes

PLAIN: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "rms_norm_eps": 1e-6,
}  # fmt: skip


def read(**keys: Any) -> ModelShape:
    return load_model({**PLAIN, **keys})


@pytest.mark.parametrize(
    ("keys", "longest"),
    [
        ({"max_position_embeddings": 512}, 512),
        # Qwen-7B: seq_length 8,192 beside 32,768 positions.
        ({"max_position_embeddings": 32_768, "seq_length": 8192}, 8192),
        ({"max_seq_len": 700, "n_positions": 600, "max_sequence_length": 900}, 600),
        ({"seq_len": 300}, 300),
        # command-r-v01: model_max_length replaces the others, larger or smaller.
        ({"max_position_embeddings": 8192, "model_max_length": 131_072}, 131_072),
        ({"max_position_embeddings": 8192, "model_max_length": 4096}, 4096),
        ({"n_ctx": 1024}, 1024),
        ({"max_position_embeddings": 8192, "n_ctx": 1024}, 8192),
    ],
)
def test_the_longest_context_is_the_smallest_that_a_key_names(keys: dict[str, Any], longest: int) -> None:
    shape = read(**keys)
    assert (shape.max_position_embeddings, shape.notes) == (longest, ())


def test_a_config_that_names_none_is_said_to() -> None:
    shape = read()
    assert shape.max_position_embeddings == 2048
    assert "no key says how many tokens" in shape.notes[0] and "2,048" in shape.notes[0]


@pytest.mark.parametrize(
    ("scaling", "problem"),
    [
        (4, "not a mapping"),
        ([{"type": "yarn"}], "not a mapping"),
        ("yarn", "not a mapping"),
        ({"type": "yran", "factor": 4.0}, "vLLM does not know"),
        ({"rope_type": 3}, "vLLM does not know"),
        ({"full_attention": {"rope_type": "cubic"}}, "vLLM does not know"),
        ({"type": "yarn", "factor": -1}, "not a factor"),
        ({"type": "yarn", "facter": 4.0}, "missing"),
        ({"rope_type": "linear"}, "missing"),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rope_scaling_that_says_nothing_known_is_refused(key: str, scaling: object, problem: str) -> None:
    with pytest.raises(ScenarioError, match=problem) as caught:
        read(max_position_embeddings=512, **{key: scaling})
    assert caught.value.path.startswith("model.rope_")


MPT = {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 512}
MAMBA = {"mamba_d_state": 16, "attn_layer_period": 2, "attn_layer_offset": 1}


@pytest.mark.parametrize(
    ("keys", "entries"),
    [
        ({}, 16),
        ({"partial_rotary_factor": 0.5}, 8),
        ({"rotary_pct": 0.25}, 4),
        ({"rotary_dim": 12}, 12),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, 8),
        ({"model_type": "bloom"}, 0),
        ({"model_type": "mpt", **MPT, "attn_config": {"alibi": True}}, 0),
        ({"model_type": "mpt", **MPT, "attn_config": {"alibi": False, "rope": True}}, 16),
        ({"model_type": "falcon", "alibi": True}, 0),
        ({"model_type": "falcon", "alibi": False}, 16),
        ({"model_type": "baichuan"}, 16),
        ({"model_type": "baichuan", "hidden_size": 5120, "num_attention_heads": 40,
          "num_key_value_heads": 40}, 0),
        ({"model_type": "jamba", **MAMBA}, 0),
        ({"model_type": "granitemoehybrid", "num_local_experts": 0,
          "position_embedding_type": "nope"}, 0),
        ({"model_type": "granitemoehybrid", "num_local_experts": 0,
          "position_embedding_type": "rope"}, 16),
        ({"model_type": "cohere2", "position_embedding_type": "rope_gptj"}, 16),
        ({"no_rope_layers": [0, 0]}, 0),
        ({"no_rope_layers": [1, 0]}, 16),
        ({"model_type": "gpt2", "n_positions": 512}, 0),
    ],
)  # fmt: skip
def test_the_part_of_a_head_that_is_rotary(keys: dict[str, Any], entries: int) -> None:
    assert read(**{"max_position_embeddings": 512, **keys}).rotary_dim == entries


@pytest.mark.parametrize("name", ["jamba-1.5-mini", "nemotron-h-56b", "kimi-linear-48b-a3b", "starcoder-15b"])
def test_shipped_shapes_without_rotary_embeddings(name: str) -> None:
    assert load_model(name).rotary_dim == 0


def test_kimi_linear_has_none_in_transformers_own_keys_either() -> None:
    keys = {key: value for key, value in shipped_model("kimi-linear-48b-a3b").keys.items()}
    assert keys.pop("mla_use_nope") is True and load_model(keys).rotary_dim == 0


@pytest.mark.parametrize(
    ("name", "entries"), [("pythia-6.9b", 32), ("minimax-m2", 64), ("glm-4.5", 64), ("qwen3-8b", 128)]
)
def test_shipped_shapes_whose_heads_turn_in_part(name: str, entries: int) -> None:
    assert load_model(name).rotary_dim == entries


# Longest contexts of published configs: instruct models are made for less than their bases.
@pytest.mark.parametrize(
    ("name", "longest"),
    [
        ("Qwen/Qwen2.5-7B", 131_072), ("Qwen/Qwen2.5-7B-Instruct", 32_768),
        ("Qwen/Qwen2.5-72B-Instruct", 32_768), ("Qwen/Qwen2.5-1.5B-Instruct", 32_768),
        ("Qwen/Qwen2.5-Coder-32B-Instruct", 32_768), ("Qwen/QwQ-32B", 40_960),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 128_000), ("Qwen/Qwen3-30B-A3B", 40_960),
        ("qwen/qwen3-30b-a3b-instruct-2507", 262_144), ("Qwen/Qwen3-1.7B", 40_960),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 131_072), ("HuggingFaceTB/SmolLM3-3B", 65_536),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", 131_072), ("microsoft/Phi-4-mini-instruct", 131_072),
        ("zai-org/GLM-4.6", 202_752), ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", 131_072),
        ("meta-llama/Llama-4-Scout-17B-16E", 262_144),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 10_485_760),
        ("moonshotai/Kimi-K2-Instruct", 131_072), ("moonshotai/Kimi-K2-Instruct-0905", 262_144),
    ],
)  # fmt: skip
def test_a_name_on_hugging_face_has_its_own_longest_context(name: str, longest: int) -> None:
    shape = load_model(name)
    assert (shape.max_position_embeddings, shape.notes) == (longest, ())


def test_a_variant_goes_by_its_own_name_and_page() -> None:
    instruct, base = load_model("Qwen/Qwen2.5-7B-Instruct"), load_model("Qwen/Qwen2.5-7B")
    assert instruct.name == "qwen2.5-7b-instruct" and "Qwen2.5-7B-Instruct" in instruct.source
    assert instruct.kinds == base.kinds and num_parameters(instruct) == num_parameters(base)
    assert load_model("qwen2.5-7b-instruct") == load_model("Qwen2.5-7B-Instruct") == instruct
    untied = load_model("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    assert num_parameters(untied) - num_parameters(load_model("qwen2.5-1.5b")) == 151_936 * 1536
    names = hugging_face_names()
    assert names["Qwen/Qwen2.5-7B-Instruct"] == "qwen2.5-7b" and set(names.values()) == set(model_names())


@pytest.mark.parametrize(
    ("name", "experts", "dense_gib"),
    # 1 B a weight and a float32 for 128 x 128; embeddings, lm_head, router and norms 2 B.
    [("kimi-k2", 384, 959.3), ("minimax-m2", 256, 214.3), ("deepseek-v3", 256, 627.0)],
)
def test_published_fp8_checkpoints_are_counted_so(name: str, experts: int, dense_gib: float) -> None:
    shape = load_model(name)
    assert shape.checkpoint_quantization == "fp8" and shape.moe and shape.moe.num_experts == experts
    assert weight_bytes(shape) / 2**30 == pytest.approx(dense_gib, rel=0.005)
