"""What each architecture adds to or changes in the generic keys: one function per family.

A family is a function from a config to the fields of ``ModelShape`` that differ from the generic
ones, under its ``model_type``. Defaults are those of the architecture's Hugging Face config class,
because a published config.json leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.model.layers import alternating_layers, listed_layers, one_full_in, windowed_layers
from sim.model.reader import ConfigReader

Fields = dict[str, Any]
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
