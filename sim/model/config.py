"""From a Hugging Face ``config.json``, shipped or the user's own, to a ``ModelShape``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sim.errors import ScenarioError, some_of
from sim.model.catalogue import (
    Shipped,
    by_hugging_face_name,
    model_names,
    names_close_to,
    shipped_model,
    with_differences,
)
from sim.model.encoders import NOT_COUNTED, encoder_of
from sim.model.families import HIDDEN, SIZES_OF_PARTS, Traits, hidden_size, traits_of
from sim.model.layers import LayerReader, num_layers
from sim.model.mlp_rules import WIDTH
from sim.model.positions import longest_context, rotary_fraction, rotary_rows
from sim.model.quantization import checkpoint_of, held_layers, main_kind
from sim.model.reader import ConfigReader
from sim.model.shape import ModelShape, kinds_of
from sim.scenario.not_modelled import not_modelled

_DTYPES = {
    "bfloat16": "bfloat16",
    "float16": "float16",
    "half": "float16",
    "float32": "float32",
    "float": "float32",
}


_UNKNOWN_ARCHITECTURE = (
    "{} is not one that Gpuyard knows: its sizes are read from the generic keys, and what it "
    "does differently (biases, norms, gates) is not modelled"
)


_UNREAD = "{} of the config may change the shape and {} not understood: parameters, KV and times may be wrong"


# Where the language model of a multimodal config stands.
TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "text_model_config")


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

    ``must_use``: keys that must have an effect, because a user wrote them. ``about``: what a shipped shape
    says of its source. Keys that could change the shape and that no rule reads are named in its ``notes``.
    """
    c = _text_part(ConfigReader(keys, file=file, path=path))
    architecture = c.text("model_type", default="unknown")
    _refuse_encoders(c, architecture)
    known = traits_of(architecture)
    traits = known or _generic(c)
    sizes = SIZES_OF_PARTS.get(architecture, {}) if c.keys is not keys else {}
    c.defaults = {**sizes, **traits.defaults}
    found = _found(c, traits)
    layers = num_layers(c)
    shapes, checkpoint = LayerReader(c, found, layers).shapes(), checkpoint_of(c)
    if checkpoint is not None:
        shapes = held_layers(shapes, found["hidden_size"], checkpoint)
    kinds, pattern = kinds_of(shapes)
    if not any(kind.mixers for kind in kinds):
        raise c.refuse("no layer mixes tokens", "layer_types", allowed="a decoder with attention or a state")
    rest = _rest(c, found, traits, layers)
    head_dim = next((kind.attention.head_dim for kind in kinds if kind.attention), 0)
    rotary = rotary_fraction(c, traits, found, head_dim)
    rows = rotary_rows(c, traits, rest["max_position_embeddings"])
    _refuse_unused(c, must_use)
    about = about or {}
    named = f"architecture {architecture}" if c.keys.get("model_type") else "an architecture without a name"
    encoder = encoder_of(_holder_of_text(keys), found["hidden_size"])
    unread = _unread(c)
    notes = [] if known else [_UNKNOWN_ARCHITECTURE.format(named)]
    notes += [NOT_COUNTED.format(encoder.uncounted)] if encoder.uncounted else []
    return ModelShape(
        name=name,
        architecture=architecture,
        kinds=kinds,
        pattern=pattern,
        checkpoint_quantization=main_kind(kinds, pattern, found["hidden_size"]) if checkpoint else "none",
        lm_head_scheme=checkpoint.lm_head if checkpoint and not rest["tie_word_embeddings"] else None,
        checkpoint_kv_dtype=checkpoint.kv_dtype if checkpoint else "auto",
        rotary_fraction=rotary,
        rotary_rows=rows,
        encoder_parameters=encoder.num_parameters,
        uncounted=encoder.uncounted,
        is_guessed=not known or bool(unread),
        notes=(*notes, *c.notes, *unread, *(checkpoint.notes if checkpoint else _unsaid_format(name))),
        source=about.get("source", file),
        published_parameters=about.get("published_parameters"),
        published_parameters_source=about.get("published_parameters_source", ""),
        **rest,
    )


# Keys that T5, BART and their like have for their second stack, whether or not a switch says so.
_TWO_STACKS = (
    "num_decoder_layers", "decoder_layers", "encoder_layers", "num_encoder_layers",
    "relative_attention_num_buckets",
)  # fmt: skip
_POOLING = "vLLM serves it for embeddings, without a KV cache; that is not modelled"


def _refuse_encoders(c: ConfigReader, architecture: str) -> None:
    """Not modelled: encoders, which write no tokens and keep no KV, and models with an encoder beside."""
    if c.flag("is_encoder_decoder", default=False):
        raise c.refuse(
            "an encoder-decoder model", "is_encoder_decoder", given=True, allowed=_DECODERS, hint=_STACKS
        )
    stack = next((one for one in _TWO_STACKS if c.keys.get(one) is not None), None)
    if stack is not None:
        raise c.refuse(
            "an encoder-decoder model", stack, given=c.keys[stack], allowed=_DECODERS, hint=_STACKS
        )
    names = c.keys.get("architectures")
    masked = isinstance(names, list) and any(str(one).endswith("ForMaskedLM") for one in names)
    is_bert = "bert" in architecture.lower() and "decoder" not in architecture.lower()
    has_types = c.keys.get("type_vocab_size") is not None
    if (is_bert or has_types or masked) and c.keys.get("is_decoder") is not True:
        key = "model_type" if is_bert else "type_vocab_size" if has_types else "architectures"
        raise c.refuse("an encoder", key, given=c.keys[key], allowed=_DECODERS, hint=_POOLING)
    for key, encodes in (("use_bidirectional_attention", True), ("is_causal", False)):
        if c.keys.get(key) is encodes:
            raise c.refuse(
                "an encoder: tokens see those after them",
                key,
                given=encodes,
                allowed=_DECODERS,
                hint=_POOLING,
            )


_DECODERS = "decoder-only models"
_STACKS = "a decoder-only model: an encoder beside the decoder, and attention to it, are not modelled"


_FORMAT_IN_NAME = re.compile(
    r"(?:^|[-_.])((?:nv|mx)?fp[48]|awq|gptq|int[48]|w[48]a(?:4|8|16)|bnb|[48]bit)(?=$|[-_.])", re.IGNORECASE
)


def _unsaid_format(name: str) -> tuple[str, ...]:
    """A name that promises quantised weights where no file says which modules are."""
    found = _FORMAT_IN_NAME.search(name)
    if found is None:
        return ()
    return (
        f"the name says {found[1]}, but neither quantization_config nor an hf_quant_config.json beside the "
        "config says which modules are quantised: all weights, and the KV cache, are counted in 16 bits",
    )


def _unread(c: ConfigReader) -> tuple[str, ...]:
    keys = c.unread()
    if not keys:
        return ()
    named = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
    return (_UNREAD.format(named, "are" if len(keys) > 1 else "is"),)


def _text_part(c: ConfigReader) -> ConfigReader:
    """The language model of a multimodal config, else the config itself."""
    key = next((one for one in TEXT_PARTS if c.keys.get(one) is not None), None)
    inner = c.value(*TEXT_PARTS)
    if inner is None or key is None:
        return c
    if not isinstance(inner, Mapping):
        raise c.refuse("not a mapping", key, given=inner)
    if not any(inner.get(one) is not None for one in HIDDEN) and any(c.keys.get(one) for one in HIDDEN):
        raise c.refuse(
            "has no sizes, but the config around it does",
            key,
            given=inner,
            allowed="the language model's config",
            hint=f"take {key} out, or move the sizes into it",
        )
    shared = ("torch_dtype", "dtype", "tie_word_embeddings", "quantization_config")
    outer = {one: c.keys[one] for one in shared if one in c.keys}
    keys: dict[str, Any] = {"model_type": c.text("model_type"), **outer, **inner}
    return _text_part(ConfigReader(keys, file=c.file, path=f"{c.path}.{key}" if c.path else key))


def _holder_of_text(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping that has the language model's beside the encoders'."""
    parts = (keys[name] for name in TEXT_PARTS if isinstance(keys.get(name), Mapping))
    inner: Mapping[str, Any] = next(parts, {})
    has_more = any(isinstance(inner.get(name), Mapping) for name in TEXT_PARTS)
    return _holder_of_text(inner) if has_more else keys


def _generic(c: ConfigReader) -> Traits:
    """An unknown architecture: gated and RMSNorm like Llama, unless it has no ``rms_norm_eps``."""
    modern = c.value("rms_norm_eps", "norm_eps") is not None or c.flag("rmsnorm", default=False)
    if modern:
        is_plain = c.value("hidden_act", "hidden_activation") in ("relu2", "relu_squared", "xielu")
        return Traits(mlp_matrices=2 if is_plain else 3)
    return Traits(norm="layernorm", mlp_matrices=2, qkv_bias=True, mlp_bias=True)


def _found(c: ConfigReader, traits: Traits) -> dict[str, Any]:
    """What holds for all layers: norms, biases and gates, by the config's switches or the architecture."""
    architecture = c.text("model_type")
    qkv_bias = c.flag(*_BIASES, default=traits.qkv_bias)
    output_bias = c.flag(
        "attention_out_bias",
        "attention_output_bias",
        default=qkv_bias if traits.output_bias is None else traits.output_bias,
    )
    found = {
        "hidden_size": hidden_size(c),
        "norm": traits.norm,
        "norms": traits.norms,
        "mlp_matrices": traits.mlp_matrices,
        "qkv_bias": qkv_bias,
        "output_bias": output_bias,
        "mlp_bias": c.flag("mlp_bias", default=traits.mlp_bias),
        "sinks": traits.sinks,
        "router_bias": traits.router_bias,
        "qk_norm": _qk_norm(c, traits),
        "output_gate": _output_gate(c),
        "value_is_key": c.flag("attention_k_eq_v", default=False),
        "v_head_dim": _value_size(c),
        "window_reaches_more": traits.window_reaches_more,
        "state_dtype": traits.state_dtype,
        "sublayers": traits.sublayers,
        "lightning": traits.lightning,
        "needs_experts": traits.mixture or ("moe" in architecture and traits_of(architecture) is not None),
    }
    c.ignore(*_UNDERSTOOD)
    return found | (dict(traits.special(c)) if traits.special else {}) | _extra_vectors(c, found)


def _value_size(c: ConfigReader) -> int | None:
    """Entries of a value, where they are not a key's; 0 means that they are (DeepSeek-VL2)."""
    if c.value("kv_lora_rank"):
        return None
    c.ignore("qk_nope_head_dim", "qk_rope_head_dim", "use_mla")
    return c.optional_count("v_head_dim", least=0, most=1_000_000) or None


_BIASES = (
    "attention_bias", "qkv_bias", "use_qkv_bias", "add_qkv_bias", "attn_bias", "bias", "use_bias",
    "enable_bias",
)  # fmt: skip


# Understood, and without effect on sizes: which norm comes first, whether blocks are parallel, positions.
_UNDERSTOOD = (
    "use_parallel_block", "use_parallel_residual", "parallel_attn", "use_gated_activation", "norm_type",
    "use_embedding_sharing", "order_of_interleaved_layers", "alibi", "mlp_type", "do_layer_norm_before",
    "mla_use_nope", "use_grouped_topk", "normalization", "post_norm", "use_post_norm", "use_rmsnorm",
    "add_swa_attention_sink_bias", "add_full_attention_sink_bias", "projectors_bias", "add_bias_linear",
    "moe_router_enable_expert_bias", "use_expert_bias", "moe_gate_bias", "use_routing_bias", "mask_type",
    "shared_moe_mode", "moe_router_use_sigmoid", "query_pre_attn_scalar", "use_sandwich_norm",
    "order_of_layers", "mamba_use_mlp", "mamba_inner_layernorms", "normalization_function",
    "org_vocab_size", "use_mixed_mlp_moe", "qk_norm_type", "mlp_intermediate_size", "d_inner",
    "pad_vocab_size_multiple", "rms_norm", "use_moe", "postnorm", "multi_query_attention",
    "apply_query_key_layer_scaling", "post_layer_norm", "original_rope", "norm_head", "lm_head",
    "rmsnorm", "embd_layer", "full_attn_mod", "attention_method", "zero_expert_type", "max_attn_value",
    "attn_type", "num_ln_in_parallel_attn", "learned_pos_emb", "attn_layer_norm",
)  # fmt: skip


def _qk_norm(c: ConfigReader, traits: Traits) -> str:
    """Norms of queries and keys; where no architecture says so, a switch does."""
    switches = ("use_qk_norm", "qk_norm", "qk_layernorm")
    if traits.qk_norm_key:
        return traits.qk_norm if c.flag(traits.qk_norm_key, default=False) else "none"
    if traits.qk_norm == "none" and traits_of(c.text("model_type")) is None:
        return "per_head" if c.flag(*switches, default=False) else "none"
    c.ignore(*switches)
    return traits.qk_norm


def _output_gate(c: ConfigReader) -> str:
    """A gate on the attention's output: as wide as the output, or one number per head."""
    if c.flag("attn_output_gate", default=False):
        return "per_entry"
    by_head = c.flag("use_head_wise_attn_gate", "use_attention_gate", "gating", default=False)
    return "per_head" if by_head else "none"


def _extra_vectors(c: ConfigReader, found: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 3n's and 4's embeddings for each layer, and what feeds them in."""
    hidden, width = found["hidden_size"], c.count("hidden_size_per_layer_input", default=0, least=0)
    rank = c.count("laurel_rank", default=0, least=0, most=10_000_000)
    streams = c.count("altup_num_inputs", default=1, most=1_000)
    c.ignore("altup_active_idx", "altup_correct_scale")
    entries = 2 * hidden * width + hidden if width else 0
    entries += 2 * hidden * rank + hidden if rank else 0
    if streams > 1:
        entries += streams * streams * (streams + 1) + streams * hidden + 2 * hidden
    return {"layer_vectors": entries, "per_layer_width": width, "streams": streams}


def _rest(c: ConfigReader, found: Mapping[str, Any], traits: Traits, layers: int) -> dict[str, Any]:
    """Fields of the whole model."""
    vocab = c.count("vocab_size", "padded_vocab_size", most=100_000_000)
    hidden, width, streams = found["hidden_size"], found["per_layer_width"], found["streams"]
    tables = 2 * (streams - 1) * hidden * hidden
    c.ignore("vocab_size_per_layer_input")
    if width:
        rows = c.count("vocab_size_per_layer_input", default=vocab, most=100_000_000)
        tables += layers * width * (rows + hidden) + width
    width_of_mlps = found.get("intermediate_size") or c.value(*WIDTH)
    return {
        "hidden_size": hidden,
        "intermediate_size": width_of_mlps if type(width_of_mlps) is int else 0,
        "vocab_size": vocab,
        "max_position_embeddings": longest_context(c, traits),
        "dtype": _dtype(c, traits),
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=traits.tie_word_embeddings),
        "learned_positions": found.get("learned_positions", 0),
        "norm": traits.norm,
        "embedding_norm": traits.embedding_norm,
        "other_embedding_parameters": tables,
        "lm_head_bias": c.flag("lm_head_bias", default=traits.lm_head_bias),
    }


def _dtype(c: ConfigReader, traits: Traits) -> str:
    """The published weights' type; where no key says it, that of the architecture's years."""
    usual = "bfloat16" if traits.norm == "rmsnorm" else "float32"
    given = c.text("torch_dtype", "dtype", default=usual).removeprefix("torch.")
    if given not in _DTYPES:
        raise c.refuse("unknown type", "torch_dtype", given=given, allowed=", ".join(_DTYPES))
    return _DTYPES[given]


def _refuse_unused(c: ConfigReader, must_use: Iterable[str]) -> None:
    for key in must_use:
        if key not in c.used:
            import difflib

            close = difflib.get_close_matches(key, sorted(c.used), n=1)
            asked = not_modelled(key)
            raise ScenarioError(
                str(asked) if asked else "not a key that this model uses",
                file=c.file,
                path=f"{c.path}.{key}",
                allowed=some_of(
                    key, sorted(c.used - {"text_config", "model_type"}), "a shipped model has all"
                ),
                hint=f"did you mean {close[0]}?" if close and not asked else "",
            )


_JSON_WORDS = {type(None): "null", list: "a list", str: "a string", bool: "true or false"}
LARGEST_CONFIG_BYTES = 10_000_000


def load_model(given: str | Mapping[str, Any], *, file: str = "", path: str = "model") -> ModelShape:
    """The shape of a shipped name, of a Hugging Face config.json, or of differences from either.

    ``given`` is a name (``llama-3.1-8b``, or ``meta-llama/Llama-3.1-8B``), a path to a config.json or to
    the directory that holds one (relative to ``file``, the scenario, or to the current directory), or a
    mapping: ``{base: NAME, ...}`` with differences in Hugging Face's words, or a whole config.
    """
    if isinstance(given, str):
        found = _read(given, file, path)
        return shape_from_config(found.keys, name=found.name, file=found.file, about=found.about)
    if not isinstance(given, Mapping):
        raise ScenarioError(
            "not a model",
            file=file,
            path=path,
            given=given,
            allowed="a shipped name, a path to a config.json, or {base: name, ...}",
            hint="llama-3.1-8b; gpuyard list names them all",
        )
    return _from_mapping(given, file, path)


def _from_mapping(given: Mapping[str, Any], file: str, path: str) -> ModelShape:
    differences = {str(key): value for key, value in given.items() if key not in ("base", "name")}
    base, name = given.get("base"), given.get("name")
    if base is None:
        return shape_from_config(differences, name=str(name or "custom"), file=file, path=path)
    if not isinstance(base, str):
        raise ScenarioError(
            "not a name", file=file, path=f"{path}.base", given=base, allowed="a shipped model"
        )
    found = _read(base, file, f"{path}.base")
    base_name, keys = found.name, found.keys
    changed = with_differences(keys, differences)
    return shape_from_config(
        changed, name=str(name or f"{base_name} (changed)"), file=file, path=path, must_use=differences
    )


def _read(given: str, file: str, path: str) -> Shipped:
    """What a shipped name, a path, or a name on Hugging Face says."""
    if given in model_names():
        return shipped_model(given)
    place = _find(given, file)
    shipped = None if place else by_hugging_face_name(given)
    if shipped is not None:
        return shipped
    if place is None:
        raise _unknown_model(given, file, path)
    keys = _with_quantization(_read_config(place), place)
    # A config.json is called as its folder is; of any other file the name says which model it is.
    name = place.parent.resolve().name if place.stem == "config" else place.stem
    return Shipped(name=name or place.stem, file=str(place), keys=keys, about={})


def _with_quantization(keys: Mapping[str, Any], place: Path) -> Mapping[str, Any]:
    """The config with NVIDIA's ``hf_quant_config.json`` beside it, where it says nothing itself."""
    name = "hf_quant_config.json" if place.stem == "config" else f"{place.stem}.hf_quant_config.json"
    beside = place.with_name(name)
    if keys.get("quantization_config") is not None or not beside.is_file():
        return keys
    return {**keys, "quantization_config": {"quant_method": "modelopt", **_read_config(beside)}}


def _find(given: str, file: str) -> Path | None:
    for folder in (Path(file).parent, Path()):
        try:
            place = folder / given
            if place.is_dir():
                place = place / "config.json"
            if place.is_file():
                return place
        except (OSError, ValueError):
            continue
    return None


def _unknown_model(given: str, file: str, path: str) -> ScenarioError:
    is_folder = (Path(file).parent / given).is_dir() or Path(given).is_dir()
    close = names_close_to(given)
    return ScenarioError(
        "a folder without config.json" if is_folder else "neither a shipped model nor a file",
        file=file,
        path=path,
        given=given,
        allowed="a name that `gpuyard list` prints, its name on Hugging Face, a path to a config.json, "
        "or {base: name, ...}",
        hint="did you mean " + ", ".join(close) + "?"
        if close
        else "nothing is downloaded: save the model's config.json and give its path",
    )


def _read_config(place: Path) -> Mapping[str, Any]:
    """The JSON object in a file; anything else is refused."""

    def refuse(problem: str, given: object = None) -> ScenarioError:
        return ScenarioError(
            problem,
            file=str(place),
            given=given,
            allowed="a Hugging Face config.json",
            hint="download config.json from the model's page again",
        )

    try:
        if place.stat().st_size > LARGEST_CONFIG_BYTES:
            raise refuse("too large for a config.json", f"{place.stat().st_size} bytes")
        text = place.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise refuse("not text: it holds bytes that are not UTF-8") from error
    try:
        keys = json.loads(text)
    except RecursionError as error:
        raise refuse("not a config.json: nested too deeply") from error
    except ValueError as error:
        raise refuse(f"not JSON: {error}") from error
    if not isinstance(keys, dict):
        raise refuse("not a JSON object", _JSON_WORDS.get(type(keys), "a number"))
    return keys
