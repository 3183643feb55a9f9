"""The keys of a Hugging Face ``config.json`` by model family, and the groups of layers that they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sim.errors import ScenarioError

LARGEST = 2**31 - 1


class ConfigReader:
    """The keys of one config, checked as they are read.

    ``read`` remembers which keys were asked for, ``used`` which of them answered.
    """

    def __init__(self, keys: Mapping[str, Any], *, file: str, path: str) -> None:
        self.keys, self.file, self.path = keys, file, path
        self.read: set[str] = set()
        self.used: set[str] = set()

    def refuse(
        self, problem: str, key: str, *, given: object = None, allowed: str = "", hint: str = ""
    ) -> ScenarioError:
        """The error to raise about ``key``."""
        path = f"{self.path}.{key}" if self.path else key
        return ScenarioError(problem, file=self.file, path=path, given=given, allowed=allowed, hint=hint)

    def value(self, *names: str) -> Any:
        """The first of these keys that is there and not null, else None."""
        self.read.update(names)
        name = next((name for name in names if self.keys.get(name) is not None), None)
        # A key written as null is an answer too: it asks for the default.
        self.used.update({name} if name else {name for name in names if name in self.keys})
        return self.keys[name] if name else None

    def has(self, name: str) -> bool:
        """Whether the key is written, even as null."""
        self.read.add(name)
        self.used.update({name} & self.keys.keys())
        return name in self.keys

    def count(self, *names: str, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        """A whole number under one of these names; required unless there is a default."""
        given = self.value(*names)
        if given is None and default is not None:
            return default
        if given is None:
            others = f" (also read: {', '.join(names[1:])})" if names[1:] else ""
            raise self.refuse(
                f"missing{others}",
                names[0],
                allowed=f"a whole number, {least} to {most}",
                hint="a decoder-only model's config.json has it; or start from a shipped shape: "
                "{base: llama-3.1-8b, ...}; gpuyard list names them",
            )
        name = next(name for name in names if self.keys.get(name) is not None)
        if isinstance(given, bool) or not isinstance(given, int):
            raise self.refuse("not a whole number", name, given=given, allowed=f"{least} to {most}")
        if not least <= given <= most:
            raise self.refuse("out of range", name, given=given, allowed=f"{least} to {most}")
        return given

    def optional_count(self, *names: str, least: int = 1, most: int = LARGEST) -> int | None:
        """A whole number, or None where the key is absent or null."""
        return None if self.value(*names) is None else self.count(*names, least=least, most=most)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        given = self.value(name)
        if given is None:
            return default
        if not isinstance(given, bool):
            raise self.refuse("not a switch", name, given=given, allowed="true or false")
        return given

    def text(self, *names: str, default: str = "") -> str:
        """A string."""
        given = self.value(*names)
        if given is None:
            return default
        if not isinstance(given, str):
            raise self.refuse("not a string", names[0], given=given)
        return given


MOST_LAYERS = 10_000


_KINDS = {
    "full_attention": "full_attention",
    "attention": "full_attention",
    "sliding_attention": "sliding_attention",
    "mamba": "mamba",
}


Fields = dict[str, Any]


def num_layers(c: ConfigReader) -> int:
    """Decoder layers."""
    return c.count("num_hidden_layers", "n_layer", "n_layers", "num_layers", most=MOST_LAYERS)


def listed_layers(c: ConfigReader, window: int | None) -> Fields:
    """The kinds that the config lists itself (``layer_types``); empty where it does not."""
    listed = c.value("layer_types")
    if listed is None:
        return {}
    layers = num_layers(c)
    if not isinstance(listed, list) or len(listed) != layers:
        raise c.refuse(
            "not one entry per layer",
            "layer_types",
            given=listed,
            allowed=f"{layers} kinds, one per layer",
            hint="write layer_types together with num_hidden_layers",
        )
    unknown = [kind for kind in listed if not isinstance(kind, str) or kind not in _KINDS]
    if unknown:
        raise c.refuse(
            "a kind of layer that is not modelled",
            "layer_types",
            given=unknown[0],
            allowed=", ".join(_KINDS),
            hint="a model of attention layers only",
        )
    return {"layer_types": tuple(_KINDS[kind] for kind in listed), "sliding_window": window}


def windowed_layers(c: ConfigReader, window: int | None, *, after: int = 0) -> Fields:
    """Every layer from ``after`` on has the window (none: all are full)."""
    if window is None:
        return {}
    return _by_index(c, window, lambda i: i < after)


def alternating_layers(c: ConfigReader, window: int) -> Fields:
    """Sliding first, then full, and so on (Gemma 2, gpt-oss)."""
    return one_full_in(c, window, 2)


def one_full_in(c: ConfigReader, window: int, pattern: int) -> Fields:
    """Every ``pattern``-th layer is full (Gemma 3: one in six)."""
    return _by_index(c, window, lambda i: (i + 1) % pattern == 0)


def _by_index(c: ConfigReader, window: int, is_full: Any) -> Fields:
    kinds = ("full_attention" if is_full(i) else "sliding_attention" for i in range(num_layers(c)))
    return {"layer_types": tuple(kinds), "sliding_window": window}


Family = Callable[[ConfigReader], Fields]


def _llama(c: ConfigReader) -> Fields:
    bias = c.flag("attention_bias", False)
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": c.flag("mlp_bias", False),
        "tie_word_embeddings": c.flag("tie_word_embeddings", False),
    }


def _mistral(c: ConfigReader) -> Fields:
    # MistralConfig's default window is 4096; later releases write null for none.
    window = c.optional_count("sliding_window") if c.has("sliding_window") else 4096
    return _llama(c) | windowed_layers(c, window)


def _mixtral(c: ConfigReader) -> Fields:
    return _llama(c) | windowed_layers(c, c.optional_count("sliding_window"))


def _qwen2(c: ConfigReader) -> Fields:
    fields = _llama(c) | {"attention_bias": c.flag("qkv_bias", True), "attention_output_bias": False}
    if not c.flag("use_sliding_window", False):
        c.read.update({"sliding_window", "max_window_layers"})
        return fields
    return fields | windowed_layers(
        c, c.count("sliding_window", default=4096), after=c.count("max_window_layers", default=28, least=0)
    )


def _qwen3(c: ConfigReader) -> Fields:
    bias = c.flag("attention_bias", False)
    return _qwen2(c) | {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "qk_norm": "per_head",
        "head_dim": c.count("head_dim", default=128),
    }


def _gemma(c: ConfigReader) -> Fields:
    return _llama(c) | {
        "head_dim": c.count("head_dim", default=256),
        "tie_word_embeddings": c.flag("tie_word_embeddings", True),
    }


def _gemma2(c: ConfigReader) -> Fields:
    window = c.count("sliding_window", default=4096)
    return _gemma(c) | {"norms_per_layer": 4} | (listed_layers(c, window) or alternating_layers(c, window))


def _gemma3(c: ConfigReader) -> Fields:
    # Gemma3TextConfig's defaults: the published configs leave these keys out.
    window, pattern = c.count("sliding_window", default=4096), c.count("sliding_window_pattern", default=6)
    return (
        _gemma(c)
        | {
            "norms_per_layer": 4,
            "qk_norm": "per_head",
            "vocab_size": c.count("vocab_size", default=262_208),
            "num_attention_heads": c.count("num_attention_heads", default=8),
            "num_key_value_heads": c.count("num_key_value_heads", default=4),
            "max_position_embeddings": c.count("max_position_embeddings", default=131_072),
        }
        | (listed_layers(c, window) or one_full_in(c, window, pattern))
    )


def _phi3(c: ConfigReader) -> Fields:
    return _llama(c) | windowed_layers(c, c.optional_count("sliding_window"))


def _gpt_oss(c: ConfigReader) -> Fields:
    window = c.count("sliding_window", default=128)
    bias = c.flag("attention_bias", True)
    return (
        _llama(c)
        | {
            "attention_bias": bias,
            "attention_output_bias": bias,
            "attention_sinks": True,
            "mlp_bias": True,
            "head_dim": c.count("head_dim", default=64),
            "router_bias": True,
        }
        | (listed_layers(c, window) or alternating_layers(c, window))
    )


def _olmo2(c: ConfigReader) -> Fields:
    return _llama(c) | {"qk_norm": "full"}


def _deepseek(c: ConfigReader) -> Fields:
    bias = c.flag("attention_bias", False)
    return {
        "attention_bias": False,
        "attention_output_bias": bias,
        "mlp_bias": False,
        "tie_word_embeddings": c.flag("tie_word_embeddings", False),
        # DeepSeek-V3 corrects each expert's score by a learned bias (arXiv:2412.19437, section 2.1.2).
        "router_bias": c.text("topk_method") == "noaux_tc",
    }


def _biased(c: ConfigReader) -> Fields:
    """LayerNorm, a plain MLP and biases everywhere, as GPT-2 has them."""
    return {
        "norm": "layernorm",
        "mlp_matrices": 2,
        "attention_bias": True,
        "attention_output_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": c.flag("tie_word_embeddings", True),
        "intermediate_size": c.count(
            "intermediate_size", "n_inner", "ffn_hidden_size", default=4 * _hidden(c)
        ),
    }


def _gpt2(c: ConfigReader) -> Fields:
    return _biased(c) | {"learned_positions": c.count("n_positions", "max_position_embeddings", default=1024)}


def _gpt_bigcode(c: ConfigReader) -> Fields:
    return _gpt2(c) | ({"num_key_value_heads": 1} if c.flag("multi_query", True) else {})


def _starcoder2(c: ConfigReader) -> Fields:
    bias = c.flag("use_bias", True)
    return (
        _biased(c)
        | {"attention_bias": bias, "attention_output_bias": bias, "mlp_bias": bias}
        | (windowed_layers(c, c.optional_count("sliding_window")))
    )


def _opt(c: ConfigReader) -> Fields:
    bias = c.flag("enable_bias", True)
    width = c.count("word_embed_proj_dim", default=_hidden(c))
    if width != _hidden(c):
        raise c.refuse(
            "an embedding narrower than the model is not modelled",
            "word_embed_proj_dim",
            given=width,
            allowed=f"hidden_size, {_hidden(c)}",
            hint="another OPT size; only opt-350m has this",
        )
    return _biased(c) | {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": bias,
        "intermediate_size": c.count("ffn_dim"),
        # OPT's table has two rows more than positions (OPTLearnedPositionalEmbedding's offset).
        "learned_positions": c.count("max_position_embeddings", default=2048) + 2,
    }


def _gpt_neox(c: ConfigReader) -> Fields:
    bias = c.flag("attention_bias", True)
    return _biased(c) | {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "tie_word_embeddings": c.flag("tie_word_embeddings", False),
    }


def _gptj(c: ConfigReader) -> Fields:
    return _biased(c) | {
        "attention_bias": False,
        "attention_output_bias": False,
        "norms_per_layer": 1,
        "lm_head_bias": True,
        "tie_word_embeddings": c.flag("tie_word_embeddings", False),
    }


def _bloom(c: ConfigReader) -> Fields:
    return _biased(c) | {
        "embedding_norm": True,
        "intermediate_size": 4 * _hidden(c),
        "max_position_embeddings": c.count("seq_length", default=2048),
    }


def _falcon(c: ConfigReader) -> Fields:
    bias, new = c.flag("bias", False), c.flag("new_decoder_architecture", False)
    parallel = c.flag("parallel_attn", True)
    heads = c.count("num_attention_heads", "n_head")
    if new:
        kv_heads = c.count("num_kv_heads", "n_head_kv", default=heads)
    else:
        kv_heads = 1 if c.flag("multi_query", True) else heads
    one_norm = c.count("num_ln_in_parallel_attn", default=2) == 1 if new else parallel
    return _biased(c) | {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": bias,
        "num_key_value_heads": kv_heads,
        "norms_per_layer": 1 if one_norm else 2,
        "max_position_embeddings": c.count("max_position_embeddings", "seq_length", default=2048),
    }


def _phi(c: ConfigReader) -> Fields:
    return _biased(c) | {
        "norms_per_layer": 1,
        "lm_head_bias": True,
        "tie_word_embeddings": c.flag("tie_word_embeddings", False),
    }


def _jamba(c: ConfigReader) -> Fields:
    period, offset = c.count("attn_layer_period", default=8), c.count("attn_layer_offset", default=4, least=0)
    layers = c.count("num_hidden_layers")
    kinds = tuple("full_attention" if i % period == offset else "mamba" for i in range(layers))
    return _llama(c) | {"layer_types": kinds}


def _hidden(c: ConfigReader) -> int:
    return c.count("hidden_size", "n_embd", "n_embed", "d_model")


FAMILIES: dict[str, Family] = {
    "bloom": _bloom,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "falcon": _falcon,
    "RefinedWeb": _falcon,
    "RefinedWebModel": _falcon,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "gpt_bigcode": _gpt_bigcode,
    "gpt_neox": _gpt_neox,
    "gpt_oss": _gpt_oss,
    "gptj": _gptj,
    "granite": _llama,
    "jamba": _jamba,
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "olmo2": _olmo2,
    "opt": _opt,
    "phi": _phi,
    "phi3": _phi3,
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3,
    "starcoder2": _starcoder2,
}
