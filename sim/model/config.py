"""One Hugging Face config, whatever its family, to a ``ModelShape``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from sim.errors import ScenarioError
from sim.model.families import FAMILIES
from sim.model.layers import listed_layers, num_layers
from sim.model.moe import latent_attention, mamba_mixer, mixture_of_experts
from sim.model.reader import LARGEST, ConfigReader
from sim.model.shape import ModelShape

_DTYPES = {
    "bfloat16": "bfloat16",
    "float16": "float16",
    "half": "float16",
    "float32": "float32",
    "float": "float32",
}
_UNKNOWN_ARCHITECTURE = (
    "architecture {} is not one that Gpuyard knows: its sizes are read from the generic keys, and what it "
    "does differently (biases, norms, kinds of layer) is not modelled"
)
_INNER = {"gemma3": "gemma3_text"}


def shape_from_config(
    keys: Mapping[str, Any],
    *,
    name: str,
    file: str = "",
    path: str = "",
    must_use: Iterable[str] = (),
    about: Mapping[str, Any] | None = None,
) -> ModelShape:
    """The shape that a config states.

    ``must_use``: keys that have to matter, because a user wrote them. ``about``: what a shipped shape
    says of its source.
    """
    c = _text_part(ConfigReader(keys, file=file, path=path))
    architecture = c.text("model_type", default="unknown")
    if c.flag("is_encoder_decoder", False):
        raise c.refuse(
            "an encoder-decoder model", "is_encoder_decoder", given=True, allowed="decoder-only models"
        )
    family = FAMILIES.get(architecture)
    found: dict[str, Any] = family(c) if family else _generic(c)
    found = _common(c, found) | found
    found |= mixture_of_experts(c, found) | latent_attention(c) | mamba_mixer(c, found)
    _check(c, found)
    _refuse_unused(c, must_use)
    known = {field.name for field in fields(ModelShape)}
    found = {key: value for key, value in found.items() if key in known}
    about = about or {}
    return ModelShape(
        name=name,
        architecture=architecture,
        notes=() if family else (_UNKNOWN_ARCHITECTURE.format(architecture),),
        source=about.get("source", file),
        published_parameters=about.get("published_parameters"),
        published_parameters_source=about.get("published_parameters_source", ""),
        **found,
    )


def _text_part(c: ConfigReader) -> ConfigReader:
    """The language model of a multimodal config (``text_config``), else the config itself."""
    inner = c.value("text_config")
    if inner is None:
        return c
    if not isinstance(inner, Mapping):
        raise c.refuse("not a mapping", "text_config", given=inner)
    shared = ("torch_dtype", "dtype", "tie_word_embeddings", "quantization_config")
    outer = {key: c.keys[key] for key in shared if key in c.keys}
    outer_type = c.text("model_type")
    keys: dict[str, Any] = {"model_type": _INNER.get(outer_type, outer_type), **outer, **inner}
    return ConfigReader(keys, file=c.file, path=f"{c.path}.text_config" if c.path else "text_config")


def _generic(c: ConfigReader) -> dict[str, Any]:
    """An unknown architecture: gated and RMSNorm like Llama, unless it has no ``rms_norm_eps``."""
    modern = c.value("rms_norm_eps") is not None
    bias = c.flag("attention_bias", not modern)
    window = c.optional_count("sliding_window")
    return {
        "norm": "rmsnorm" if modern else "layernorm",
        "mlp_matrices": 3 if modern else 2,
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": c.flag("mlp_bias", not modern),
        "tie_word_embeddings": c.flag("tie_word_embeddings", False),
    } | listed_layers(c, window)


def _common(c: ConfigReader, found: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that every architecture has, under whichever of their names."""
    layers = num_layers(c)
    vocab = ("vocab_size", "padded_vocab_size")
    inner = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
    positions = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
    return _heads(c, found) | {
        "num_hidden_layers": layers,
        "intermediate_size": _count(c, found, *inner, most=100_000_000),
        "vocab_size": _count(c, found, *vocab, most=100_000_000),
        "max_position_embeddings": _count(c, found, *positions, default=2048),
        "layer_types": ("full_attention",) * layers,
        "sliding_window": None,
        "learned_positions": 0,
        "norm": "rmsnorm",
        "mlp_matrices": 3,
        "dtype": _dtype(c),
        "checkpoint_quantization": _checkpoint_quantization(c),
    }


def _heads(c: ConfigReader, found: Mapping[str, Any]) -> dict[str, Any]:
    """Width, heads and the size of a head, which must fit each other."""
    hidden = c.count("hidden_size", "n_embd", "n_embed", "d_model", most=10_000_000)
    heads = _count(c, found, "num_attention_heads", "n_head", "n_heads", "num_heads", most=1_000_000)
    kv_names = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
    if "head_dim" not in found and c.value("head_dim") is None and hidden % heads:
        raise c.refuse(
            "does not divide hidden_size, and there is no head_dim",
            "num_attention_heads",
            given=heads,
            allowed=f"a divisor of {hidden}",
            hint="write head_dim",
        )
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": _count(c, found, *kv_names, default=heads, most=1_000_000),
        "head_dim": _count(c, found, "head_dim", default=hidden // heads, most=1_000_000),
    }


def _count(
    c: ConfigReader, found: Mapping[str, Any], *names: str, default: int | None = None, most: int = LARGEST
) -> int:
    """What the family found, else the key under one of its names; the first name is the field's."""
    return int(found[names[0]]) if names[0] in found else c.count(*names, default=default, most=most)


def _dtype(c: ConfigReader) -> str:
    given = c.text("torch_dtype", "dtype", default="float32").removeprefix("torch.")
    if given not in _DTYPES:
        raise c.refuse("unknown type", "torch_dtype", given=given, allowed=", ".join(_DTYPES))
    return _DTYPES[given]


def _checkpoint_quantization(c: ConfigReader) -> str:
    """How the published weights are held: from ``quantization_config``, where its method is known."""
    stated = c.value("quantization_config")
    if stated is None:
        return "none"
    if not isinstance(stated, Mapping):
        raise c.refuse("not a mapping", "quantization_config", given=stated)
    method, bits = stated.get("quant_method"), stated.get("bits", 4)
    if method in ("fp8", "mxfp4"):
        return str(method)
    if method in ("gptq", "awq") and bits in (4, 8):
        return f"int{bits}"
    raise c.refuse(
        "a quantization that is not modelled",
        "quantization_config.quant_method",
        given=method,
        allowed="fp8, mxfp4, gptq, awq (4 or 8 bits)",
        hint="the unquantised model, with engine.quantization",
    )


def _check(c: ConfigReader, found: Mapping[str, Any]) -> None:
    heads, kv_heads = found["num_attention_heads"], found["num_key_value_heads"]
    if heads % kv_heads:
        raise c.refuse(
            "KV heads must divide the attention heads",
            "num_key_value_heads",
            given=kv_heads,
            allowed=f"a divisor of num_attention_heads, {heads}",
        )
    if not any(kind.endswith("attention") for kind in found["layer_types"]):
        raise c.refuse(
            "no layer with attention, so no KV cache", "layer_types", allowed="a decoder with attention"
        )
    if "sliding_attention" in found["layer_types"] and found["sliding_window"] is None:
        raise c.refuse("missing, but some layers are sliding_attention", "sliding_window", allowed="tokens")


def _refuse_unused(c: ConfigReader, must_use: Iterable[str]) -> None:
    for key in must_use:
        if key not in c.used:
            close = difflib.get_close_matches(key, sorted(c.used), n=1)
            raise ScenarioError(
                "not a key that this model uses",
                file=c.file,
                path=f"{c.path}.{key}",
                allowed=", ".join(sorted(c.used - {"text_config", "model_type"})),
                hint=f"did you mean {close[0]}?" if close else "",
            )
