"""From a Hugging Face ``config.json``, shipped or the user's own, to a ``ModelShape``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sim.errors import ScenarioError, some_of
from sim.model.families import FAMILIES, LARGEST, ConfigReader, listed_layers, num_layers
from sim.model.mixers import AttentionShape, MambaShape, Mixer, MlaShape
from sim.model.shape import LayerShape, MlpShape, ModelShape, MoeShape, kinds_of
from sim.scenario.not_modelled import not_modelled
from sim.scenario.shipped import data_dir

Fields = dict[str, Any]


def mixture_of_experts(c: ConfigReader, found: Mapping[str, Any]) -> Fields:
    """The ``moe`` field, where the config has more than one expert."""
    experts = c.optional_count(
        "num_local_experts", "num_experts", "n_routed_experts", least=0, most=1_000_000
    )
    if experts is None or experts < 2:
        return {}
    per_token = c.count("num_experts_per_tok", "num_experts_per_token", "experts_per_token")
    if per_token > experts:
        raise c.refuse(
            "more than there are experts", "num_experts_per_tok", given=per_token, allowed=f"1 to {experts}"
        )
    inner = c.count("moe_intermediate_size", default=found["intermediate_size"], most=100_000_000)
    shared = c.count("n_shared_experts", "num_shared_experts", default=0, least=0, most=1_000_000)
    width = c.count(
        "shared_expert_intermediate_size", "shared_intermediate_size", default=shared * inner, least=0
    )
    return {
        "moe": MoeShape(
            num_experts=experts,
            num_experts_per_tok=per_token,
            moe_intermediate_size=inner,
            num_shared_experts=shared or int(width > 0),
            shared_expert_intermediate_size=width,
            router_bias=found.get("router_bias", False),
            shared_expert_gate=c.has("shared_expert_intermediate_size"),
            num_matrices=found["mlp_matrices"],
            bias=found.get("mlp_bias", False),
        ),
        "dense_layers": _dense_layers(c, found["num_hidden_layers"]),
    }


def _dense_layers(c: ConfigReader, layers: int) -> frozenset[int]:
    """Layers without experts: the first ones, all but every n-th, or those listed."""
    first = c.count("first_k_dense_replace", default=0, least=0)
    if c.value("expert_layer_period") is not None:  # Jamba
        period, offset = c.count("expert_layer_period"), c.count("expert_layer_offset", default=0, least=0)
        return frozenset(i for i in range(layers) if i % period != offset)
    step = c.count("decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step", default=1)
    listed = c.value("mlp_only_layers") or []
    if not isinstance(listed, list) or not all(type(i) is int and 0 <= i < layers for i in listed):
        raise c.refuse("not a list of layers", "mlp_only_layers", given=listed, allowed=f"0 to {layers - 1}")
    at = 0 if c.has("moe_layer_freq") else 1  # DeepSeek counts from layer 0, Qwen from 1
    return frozenset(i for i in range(layers) if i < first or (i + at) % step != 0 or i in listed)


def latent_attention(c: ConfigReader, found: Mapping[str, Any]) -> Fields:
    """The ``mla`` field, where the config has a ``kv_lora_rank``."""
    if c.value("kv_lora_rank") is None:
        return {}
    return {
        "mla": MlaShape(
            num_heads=found["num_attention_heads"],
            output_bias=found.get("attention_output_bias", False),
            kv_lora_rank=c.count("kv_lora_rank", most=10_000_000),
            qk_rope_head_dim=c.count("qk_rope_head_dim", most=1_000_000),
            qk_nope_head_dim=c.count("qk_nope_head_dim", most=1_000_000),
            v_head_dim=c.count("v_head_dim", most=1_000_000),
            q_lora_rank=c.optional_count("q_lora_rank", most=10_000_000),
        )
    }


def mamba_mixer(c: ConfigReader, found: Mapping[str, Any]) -> Fields:
    """The ``mamba`` field, where some layers are Mamba layers (Jamba's keys and defaults)."""
    if "mamba" not in found["layer_types"]:
        return {}
    rank = c.value("mamba_dt_rank")
    computed = -(-found["hidden_size"] // 16)
    return {
        "mamba": MambaShape(
            d_state=c.count("mamba_d_state", default=16, most=1_000_000),
            d_conv=c.count("mamba_d_conv", default=4, most=1_000_000),
            inner_size=c.count("mamba_expand", default=2, most=1_000) * found["hidden_size"],
            norms=True,
            dt_rank=computed if rank in (None, "auto") else c.count("mamba_dt_rank", most=1_000_000),
            conv_bias=c.flag("mamba_conv_bias", True),
            proj_bias=c.flag("mamba_proj_bias", False),
        )
    }


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

    ``must_use``: keys that must have an effect, because a user wrote them. ``about``: what a shipped shape
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
    found |= mixture_of_experts(c, found) | latent_attention(c, found) | mamba_mixer(c, found)
    _check(c, found)
    _refuse_unused(c, must_use)
    kinds, pattern = kinds_of(_layers(found))
    found |= {"kinds": kinds, "pattern": pattern}
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


def _layers(found: Mapping[str, Any]) -> Iterable[LayerShape]:
    moe, dense = found.get("moe"), found.get("dense_layers", ())
    mlp = MlpShape(
        intermediate_size=found["intermediate_size"],
        num_matrices=found["mlp_matrices"],
        bias=found.get("mlp_bias", False),
    )
    for index, kind in enumerate(found["layer_types"]):
        mixer = _mixer(found, kind)
        mlps = (mlp,) if moe is None or index in dense else (moe,)
        yield LayerShape(mixers=(mixer,), mlps=mlps, norms=found.get("norms_per_layer", 2))


def _mixer(found: Mapping[str, Any], kind: str) -> Mixer:
    if kind == "mamba":
        mamba: MambaShape = found["mamba"]
        return mamba
    if "mla" in found:
        mla: MlaShape = found["mla"]
        return mla
    return AttentionShape(
        num_heads=found["num_attention_heads"],
        num_kv_heads=found["num_key_value_heads"],
        head_dim=found["head_dim"],
        v_head_dim=found["head_dim"],
        window=found["sliding_window"] if kind == "sliding_attention" else None,
        bias=found["attention_bias"],
        output_bias=found.get("attention_output_bias", False),
        sinks=found.get("attention_sinks", False),
        qk_norm=found.get("qk_norm", "none"),
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


LARGEST_CONFIG_BYTES = 10_000_000


def model_names() -> list[str]:
    """The shipped shapes, in alphabetical order."""
    return sorted(path.stem for path in data_dir("models").glob("*.json"))


def load_model(given: str | Mapping[str, Any], *, file: str = "", path: str = "model") -> ModelShape:
    """The shape of a shipped name, of a Hugging Face config.json, or of differences from either.

    ``given`` is a name, a path to a config.json or to the directory that holds one (relative to
    ``file``, the scenario, or to the current directory), or a mapping: ``{base: NAME, ...}`` with
    differences in Hugging Face's words, or a whole config.
    """
    if isinstance(given, str):
        name, keys, where = _read(given, file, path)
        return shape_from_config(keys, name=name, file=where, about=_about(given, keys))
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
    base_name, keys, _ = _read(base, file, f"{path}.base")
    changed = dict(keys)
    if isinstance(keys.get("text_config"), Mapping):
        changed["text_config"] = {**keys["text_config"], **differences}
    else:
        changed.update(differences)
    return shape_from_config(
        changed, name=str(name or f"{base_name} (changed)"), file=file, path=path, must_use=differences
    )


def _read(given: str, file: str, path: str) -> tuple[str, Mapping[str, Any], str]:
    """(name, keys, the file to blame) of a shipped name or of a path."""
    if given in model_names():
        text = (data_dir("models") / f"{given}.json").read_text(encoding="utf-8")
        return given, json.loads(text), f"{given}.json"
    found = _find(given, file, path)
    # A config.json is called as its folder is; of any other file the name says which model it is.
    name = found.parent.resolve().name if found.stem == "config" else found.stem
    return name or found.stem, _read_config(found), str(found)


def _about(given: str, keys: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a shipped shape says of itself; a changed shape is no longer the published one."""
    return keys["_gpuyard"] if given in model_names() else None


def _find(given: str, file: str, path: str) -> Path:
    for folder in (Path(file).parent, Path()):
        try:
            place = folder / given
            if place.is_dir():
                place = place / "config.json"
            if place.is_file():
                return place
        except (OSError, ValueError):
            continue
    import difflib

    is_folder = (Path(file).parent / given).is_dir() or Path(given).is_dir()
    last = given.replace("\\", "/").rsplit("/", 1)[-1].lower()
    close = difflib.get_close_matches(last, model_names(), n=3, cutoff=0.6)
    raise ScenarioError(
        "a folder without config.json" if is_folder else "neither a shipped model nor a file",
        file=file,
        path=path,
        given=given,
        allowed="a name that `gpuyard list` prints, a path to a config.json, or {base: name, ...}",
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
        raise refuse("not a JSON object", type(keys).__name__)
    return keys
