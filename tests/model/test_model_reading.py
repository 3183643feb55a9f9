"""Hugging Face configs read, and refused where they are broken: an error with its place, never a crash."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unshipped_models import UNSHIPPED

from sim.errors import ScenarioError
from sim.model.catalogue import hugging_face_names, model_names
from sim.model.config import load_model
from sim.model.counts import kv_bytes_per_token, num_parameters
from sim.model.weights import weight_bytes


def shipped(name: str) -> dict[str, Any]:
    text = (files("sim._data") / "models" / f"{name}.json").read_text(encoding="utf-8")
    return {key: value for key, value in json.loads(text).items() if key != "_gpuyard"}


def written(folder: Path, config: object, name: str = "config.json") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(config))
    return str(folder / name)


def test_a_config_is_found_by_path_by_directory_and_beside_the_scenario(tmp_path: Path) -> None:
    place = written(tmp_path / "mine", shipped("qwen2.5-7b"))
    scenario = str(tmp_path / "scenario.yaml")
    found = [load_model(place), load_model(str(tmp_path / "mine")), load_model("mine", file=scenario)]
    assert {num_parameters(shape) for shape in found} == {7_615_616_512}
    assert {shape.name for shape in found} == {"mine"}


def test_a_multimodal_config_gives_its_language_model(tmp_path: Path) -> None:
    # gemma-3-27b-it's text_config leaves out what Gemma3TextConfig has as defaults.
    left_out = (
        "vocab_size",
        "max_position_embeddings",
        "sliding_window_pattern",
        "model_type",
        "torch_dtype",
    )
    inner = {key: value for key, value in shipped("gemma-3-27b").items() if key not in left_out}
    config = {"model_type": "gemma3", "torch_dtype": "bfloat16", "text_config": inner, "vision_config": {}}
    found, expected = load_model(config), load_model("gemma-3-27b")
    assert num_parameters(found) == num_parameters(expected)
    assert (found.layer_types, found.dtype) == (expected.layer_types, expected.dtype)


def test_differences_from_a_base_in_hugging_faces_words() -> None:
    mqa = load_model({"base": "llama-3.1-8b", "num_key_value_heads": 1, "name": "mqa"})
    assert (mqa.name, kv_bytes_per_token(mqa, 2)) == ("mqa", 128 * 1024 // 8)
    assert mqa.published_parameters is None
    assert num_parameters(load_model({"base": "llama-3.1-8b", "tie_word_embeddings": True})) == (
        8_030_261_248 - 128_256 * 4096
    )


def test_an_unknown_architecture_is_read_from_generic_keys_with_a_note() -> None:
    config = {**shipped("llama-3.1-8b"), "model_type": "brand_new", "rms_norm_eps": 1e-5}
    shape = load_model(config)
    assert num_parameters(shape) == 8_030_261_248 and "brand_new" in shape.notes[0]
    plain = load_model({"n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": 3072, "vocab_size": 50257})
    assert (plain.mlp_matrices, plain.norm) == (2, "layernorm")


def test_a_quantised_checkpoint_is_held_as_published() -> None:
    awq = {**shipped("llama-3.1-8b"), "quantization_config": {"quant_method": "awq", "bits": 4}}
    assert weight_bytes(load_model(awq)) == weight_bytes(load_model("llama-3.1-8b"), quantization="int4")


@pytest.mark.parametrize(
    ("stated", "problem", "path"),
    [
        ("llama-3.1-8", "neither a shipped model nor a file", "model"),
        ("meta-llama/Llama-3.1-8Bee", "neither", "model"),
        ("no\0such", "neither", "model"),
        (None, "not a model", "model"),
        (["llama-3.1-8b"], "not a model", "model"),
        ({"base": 3}, "not a name", "model.base"),
        ({"base": "nothing-of-the-kind"}, "neither", "model.base"),
        ({"base": "llama-3.1-8b", "num_kv_heads": 1}, "not a key that this model uses", "model.num_kv_heads"),
        ({"base": "llama-3.1-8b", "hiden_size": 1}, "not a key that this model uses", "model.hiden_size"),
        ({"base": "llama-3.1-8b", "num_key_value_heads": 5}, "must divide", "model.num_key_value_heads"),
        ({"base": "llama-3.1-8b", "num_attention_heads": 7}, "does not divide", "model.num_attention_heads"),
        ({"base": "llama-3.1-8b", "vocab_size": -1}, "out of range", "model.vocab_size"),
        ({"base": "llama-3.1-8b", "vocab_size": "many"}, "not a whole number", "model.vocab_size"),
        ({"base": "llama-3.1-8b", "vocab_size": True}, "not a whole number", "model.vocab_size"),
        ({"base": "llama-3.1-8b", "num_hidden_layers": 10**9}, "out of range", "model.num_hidden_layers"),
        ({"base": "llama-3.1-8b", "tie_word_embeddings": "no"}, "not a switch", "model.tie_word_embeddings"),
        ({"base": "llama-3.1-8b", "torch_dtype": "int3"}, "unknown type", "model.torch_dtype"),
        ({"base": "gpt-oss-20b", "num_hidden_layers": 3}, "not one entry per layer", "model.layer_types"),
        ({"base": "mixtral-8x7b", "num_experts_per_tok": 9}, "more than", "model.num_experts_per_tok"),
        ({"hidden_size": 4096}, "missing", "model.num_hidden_layers"),
        ({"is_encoder_decoder": True}, "encoder-decoder", "model.is_encoder_decoder"),
        ({"text_config": 3}, "not a mapping", "model.text_config"),
        ({"base": "gpt2", "layer_types": ["mamba"] * 12}, "missing", "model.ssm_state_size"),
    ],
)  # fmt: skip
def test_wrong_models_are_refused_with_their_place(stated: Any, problem: str, path: str) -> None:
    with pytest.raises(ScenarioError, match=problem) as caught:
        load_model(stated)
    assert caught.value.path == path


def test_a_misspelt_name_or_key_gets_a_suggestion() -> None:
    with pytest.raises(ScenarioError) as caught:
        load_model("lama-3.1-8b")
    assert "llama-3.1-8b" in caught.value.hint
    with pytest.raises(ScenarioError) as caught:
        load_model({"base": "llama-3.1-8b", "num_key_value_head": 1})
    assert "num_key_value_heads" in caught.value.hint


def test_a_shape_is_found_by_its_name_on_hugging_face(tmp_path: Path) -> None:
    names = hugging_face_names()
    assert len(model_names()) >= 90 and len(set(names.values())) == len(model_names())
    for name in ("meta-llama/Llama-3.1-8B", "meta-llama/llama-3.1-8b-instruct"):
        assert load_model(name) == load_model("llama-3.1-8b")
    assert load_model({"base": "Qwen/Qwen3-8B", "num_hidden_layers": 2}).num_hidden_layers == 2
    # A folder of that name is the user's own.
    written(tmp_path / "Qwen", {})
    written(tmp_path / "Qwen" / "Qwen3-8B", shipped("gpt2"))
    assert load_model("Qwen/Qwen3-8B", file=str(tmp_path / "a.yaml")).architecture == "gpt2"
    with pytest.raises(ScenarioError) as caught:
        load_model("Qwen/Qwen3-8C")
    assert "Qwen/Qwen3-8B" in caught.value.hint


@pytest.mark.parametrize(
    "difference",
    [
        {"base": "qwen3-8b", "sliding_window": 4096},  # use_sliding_window is false
        {"base": "deepseek-v3", "num_key_value_heads": 8},
        {"base": "llama-3.1-8b", "use_parallel_block": True},
        {"base": "llama-3.1-8b", "mamba_d_state": 128, "layer_types": ["full_attention"] * 32},
    ],
)
def test_a_difference_that_changes_nothing_is_refused(difference: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match="not a key that this model uses"):
        load_model(difference)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\xfe\x80", b"{", b'{"hidden_size": 1,}', b"[1, 2]", b"3", b"[" * 100_000, b"{} trailing"],
)
def test_a_broken_file_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "config.json"
    place.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        load_model(str(place))
    assert caught.value.file == str(place)


def test_a_truncated_config_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    place, whole = tmp_path / "config.json", json.dumps(shipped("gpt2"))
    for end in range(0, len(whole), 7):
        place.write_text(whole[:end])
        with pytest.raises(ScenarioError):
            load_model(str(place))


@settings(max_examples=300)
@given(
    name=st.sampled_from(model_names()),
    choice=st.randoms(use_true_random=False),
    wrong=st.sampled_from(
        [None, -1, 0, 1, 2, 3, 10**20, 1.5, float("nan"), "", "8", True, [], {}, [1], {"a": 1}, "mamba"]
    ),
    drop=st.booleans(),
)
@example(name="jamba", choice=None, wrong=None, drop=False)
def test_a_mutated_config_is_read_or_refused_but_never_crashes(
    name: str, choice: Any, wrong: object, drop: bool
) -> None:
    config = dict(UNSHIPPED["jamba-v0.1"][0]) if name == "jamba" else shipped(name)
    key = choice.choice(sorted(config)) if choice else "attn_layer_offset"
    if drop:
        del config[key]
    else:
        config[key] = 99 if name == "jamba" else wrong
    try:
        shape = load_model(config)
    except ScenarioError as error:
        assert error.path.startswith("model.")
        return
    assert num_parameters(shape) > 0 and kv_bytes_per_token(shape, 2) > 0
