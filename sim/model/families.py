"""What an architecture is by its code, not its config: norms, biases, gates, and the defaults of its class.

Sizes and kinds of layers are read by rules from the keys, whatever the architecture (``layers.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Literal

from sim.model.reader import ConfigReader
from sim.scenario.dataclass import dataclass

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """One architecture. Biases are what holds where no key of the config says otherwise.

    ``defaults``: what its config class has where a key is left out. ``special``: fields found by a rule of
    its own, which replace these.
    """

    norm: Literal["rmsnorm", "layernorm", "bias_free_layernorm", "none"] = "rmsnorm"
    norms: int = 2
    mlp_matrices: int = 3
    qkv_bias: bool = False
    output_bias: bool | None = None  # None: as q, k and v
    mlp_bias: bool = False
    qk_norm: Literal["none", "per_head", "full"] = "none"
    qk_norm_key: str = ""  # the switch that turns it on, where there is one
    tie_word_embeddings: bool = False
    sinks: bool = False
    router_bias: bool = False
    lm_head_bias: bool = False
    embedding_norm: bool = False
    window_reaches_more: int = 0  # tokens that a window spans beyond the config's number
    state_dtype: str = "auto"
    scaled_positions: bool = False  # its positions have the rope scaling in them already
    rotary: bool = True  # False: ALiBi, or no positions at all beside a recurrent state
    mixture: bool = False  # always of experts, although its name does not say so
    lightning: bool = False  # its linear attention has the heads of its full attention
    sublayers: int = 1  # LongCat: two attentions and two MLPs in each layer
    defaults: Mapping[str, Any] = field(default_factory=dict)
    special: Callable[[ConfigReader], Fields] | None = None


HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model", "dim", "model_dim")


def hidden_size(c: ConfigReader) -> int:
    """Width of the residual stream."""
    return c.count(*HIDDEN, most=10_000_000)


def _inner(c: ConfigReader) -> Fields:
    """An MLP of four times the width, where the config does not say."""
    wide = 4 * hidden_size(c)
    return {"intermediate_size": c.count("intermediate_size", "n_inner", "ffn_hidden_size", default=wide)}


def _gpt2(c: ConfigReader) -> Fields:
    positions = c.count("n_positions", "max_position_embeddings", default=1024)
    return {**_inner(c), "learned_positions": positions}


def _gpt_bigcode(c: ConfigReader) -> Fields:
    return {**_gpt2(c), **({"num_key_value_heads": 1} if c.flag("multi_query", default=True) else {})}


def _opt(c: ConfigReader) -> Fields:
    width = c.count("word_embed_proj_dim", default=hidden_size(c))
    if width != hidden_size(c):
        raise c.refuse(
            "an embedding narrower than the model is not modelled",
            "word_embed_proj_dim",
            given=width,
            allowed=f"hidden_size, {hidden_size(c)}",
            hint="another OPT size; only opt-350m has this",
        )
    bias = c.flag("enable_bias", default=True)
    # OPT's table has two rows more than positions (OPTLearnedPositionalEmbedding's offset).
    learned = c.count("max_position_embeddings", default=2048) + 2
    return {"mlp_bias": bias, "intermediate_size": c.count("ffn_dim"), "learned_positions": learned}


def _bloom(c: ConfigReader) -> Fields:
    return {"intermediate_size": 4 * hidden_size(c)}


def _baichuan(c: ConfigReader) -> Fields:
    # No key says it: the 13B, wider than the 7B, has ALiBi (vLLM's classes go by the width too).
    return {"rotary": hidden_size(c) <= 4096}


def _starcoder2(c: ConfigReader) -> Fields:
    return {**_inner(c), "mlp_bias": c.flag("use_bias", default=True)}


def _mpt(c: ConfigReader) -> Fields:
    biased, attention = not c.flag("no_bias", default=True), c.inner("attn_config")
    found = {"intermediate_size": c.count("expansion_ratio", default=4) * hidden_size(c)}
    kv_heads = attention.optional_count("kv_n_heads") if attention is not None else None
    found["rotary"] = attention is not None and attention.flag("rope", default=False)
    found |= {"qkv_bias": biased, "output_bias": biased, "mlp_bias": biased}
    return found | ({"num_key_value_heads": kv_heads} if kv_heads is not None else {})


def _falcon(c: ConfigReader) -> Fields:
    bias, new = c.flag("bias", default=False), c.flag("new_decoder_architecture", default=False)
    parallel = c.flag("parallel_attn", default=True)
    heads = c.count("num_attention_heads", "n_head")
    if new:
        c.ignore("multi_query")
        kv_heads = c.count("num_kv_heads", "n_head_kv", default=heads)
    else:
        c.ignore("num_kv_heads", "n_head_kv")
        kv_heads = 1 if c.flag("multi_query", default=True) else heads
    one_norm = c.count("num_ln_in_parallel_attn", default=2) == 1 if new else parallel
    return {
        **_inner(c),
        "mlp_bias": bias,
        "num_key_value_heads": kv_heads,
        "norms": 1 if one_norm else 2,
    }


def _deepseek(c: ConfigReader) -> Fields:
    # DeepSeek-V3 corrects each expert's score by a learned bias (arXiv:2412.19437, section 2.1.2).
    return {"router_bias": c.text("topk_method") == "noaux_tc"}


def _block_widths(c: ConfigReader) -> Fields:
    """LFM2 narrows the MLP to two thirds, then rounds it up."""
    wide = c.count("intermediate_size", "block_ff_dim")
    c.ignore("block_ff_dim", "block_dim", "block_ffn_dim_multiplier", "block_mlp_init_scale", "conv_dim_out")
    c.ignore("block_use_swiglu", "block_norm_eps", "block_use_xavier_init", "block_out_init_scale")
    if not c.flag("block_auto_adjust_ff_dim", default=True):
        return {"intermediate_size": wide}
    width, step = int(2 * wide / 3), c.count("block_multiple_of", default=256)
    multiplier = c.keys.get("block_ffn_dim_multiplier") or 1.0
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 < multiplier < 1000:
        raise c.refuse("not a factor", "block_ffn_dim_multiplier", given=multiplier)
    return {"intermediate_size": -(-int(multiplier * width) // step) * step}


# Biases everywhere, LayerNorm, a plain MLP and a tied head: what GPT-2 has.
def _biased(**changes: Any) -> Traits:
    common: dict[str, Any] = {
        "norm": "layernorm",
        "mlp_matrices": 2,
        "qkv_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "special": _inner,
    }
    return Traits(**(common | changes))


_LLAMA = Traits()
_LIGHTNING = Traits(lightning=True)
_MISTRAL = Traits(defaults={"sliding_window": 4096})
_QWEN2 = Traits(qkv_bias=True, output_bias=False, defaults={"use_sliding_window": False})
_QWEN3 = Traits(qk_norm="per_head", defaults={"use_sliding_window": False, "head_dim": 128})
_QWEN3_NEXT = Traits(
    qk_norm="per_head",
    defaults={
        "full_attention_interval": 4,
        "attn_output_gate": True,
        "head_dim": 256,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
    },
)
_QWEN3_MOE = Traits(qk_norm="per_head", defaults={"use_sliding_window": False})
_GEMMA = Traits(tie_word_embeddings=True, defaults={"head_dim": 256})
_GEMMA2 = Traits(
    tie_word_embeddings=True,
    norms=4,
    defaults={"head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2},
)
# Gemma3TextConfig's defaults: the published configs leave these keys out.
_GEMMA3 = Traits(
    tie_word_embeddings=True,
    scaled_positions=True,
    norms=4,
    qk_norm="per_head",
    defaults={
        "head_dim": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
    },
)
_GEMMA3N = Traits(
    tie_word_embeddings=True,
    norms=4,
    qk_norm="per_head",
    defaults={
        "head_dim": 256,
        "sliding_window": 512,
        "sliding_window_pattern": 5,
        "num_kv_shared_layers": 15,
        "vocab_size_per_layer_input": 262_144,
        "hidden_size_per_layer_input": 256,
        "laurel_rank": 64,
        "altup_num_inputs": 4,
    },
)
_GEMMA4 = Traits(
    tie_word_embeddings=True,
    norms=4,
    qk_norm="per_head",
    defaults={"head_dim": 256, "global_head_dim": 512, "sliding_window": 512, "sliding_window_pattern": 6},
)
_DEEPSEEK = Traits(special=_deepseek, mixture=True)
_OLMO2 = Traits(qk_norm="full", defaults={"sliding_window_pattern": 4})
_GLM = Traits(qkv_bias=True, output_bias=False, defaults={"head_dim": 128})
_GLM4_MOE = Traits(qk_norm="per_head", qk_norm_key="use_qk_norm", output_bias=False)
_COHERE = Traits(
    norm="bias_free_layernorm",
    norms=1,
    tie_word_embeddings=True,
    qk_norm="full",
    qk_norm_key="use_qk_norm",
    window_reaches_more=1,  # the token itself is not among the config's
)
_COHERE2 = Traits(
    norm="bias_free_layernorm",
    norms=1,
    tie_word_embeddings=True,
    window_reaches_more=1,
    defaults={"sliding_window": 4096, "sliding_window_pattern": 4},
)
_EXAONE4 = Traits(qk_norm="per_head", defaults={"sliding_window_pattern": 4})
_NEMOTRON_H = Traits(norms=1, mlp_matrices=2, state_dtype="float32", rotary=False)
_FALCON = _biased(qkv_bias=False, mlp_bias=False, special=_falcon, defaults={"max_position_embeddings": 2048})
_LLAMA4 = Traits(
    mixture=True,
    defaults={
        "num_shared_experts": 1,
        "attention_chunk_size": 8192,
        "no_rope_layer_interval": 4,
        "intermediate_size_mlp": 16_384,
        "interleave_moe_layer_step": 1,
        "head_dim": 128,
    },
)
_BAMBA = Traits(defaults={"mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4})
_JAMBA = Traits(
    rotary=False,
    defaults={
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
    },
)
_MAMBA = Traits(
    norms=1,
    tie_word_embeddings=True,
    defaults={"state_size": 16, "conv_kernel": 4, "expand": 2, "use_conv_bias": True},
)


FAMILIES: dict[str, Traits] = {
    "afmoe": Traits(norms=4, qk_norm="per_head", defaults={"attn_output_gate": True, "num_dense_layers": 1}),
    "apertus": Traits(mlp_matrices=2, qk_norm="per_head"),
    "apertus1p5": Traits(mlp_matrices=2, qk_norm="per_head"),
    "arcee": Traits(mlp_matrices=2),
    "aria_text": _LLAMA,
    "axk1": Traits(norms=3, router_bias=True),
    "beam": Traits(norms=4, qk_norm="per_head", defaults={"attn_output_gate": True}),
    "bitnet": _LLAMA,
    "aquila": _LLAMA,
    "baichuan": Traits(special=_baichuan),
    "bailing_moe": _LLAMA,
    "bailing_moe_linear": Traits(qk_norm="per_head", lightning=True),
    "bailing_moe_v2": Traits(qk_norm="per_head", router_bias=True),
    "bailing_moe_v2_5": Traits(qk_norm="per_head", router_bias=True, lightning=True),
    "chatglm": Traits(qkv_bias=True, output_bias=False),
    "internlm": _LLAMA,
    "orion": Traits(norm="layernorm"),
    "telechat": _LLAMA,
    "xverse": _LLAMA,
    "bailing_hybrid": Traits(lightning=True, defaults={"layer_group_size": 6}),
    "bamba": _BAMBA,
    "bloom": _biased(embedding_norm=True, rotary=False, special=_bloom),
    "codegen": _biased(
        qkv_bias=False, output_bias=False, norms=1, lm_head_bias=True, tie_word_embeddings=False
    ),
    "cohere": _COHERE,
    "cohere2": _COHERE2,
    "cohere2_moe": _COHERE2,
    "cwm": _LLAMA,
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": _DEEPSEEK,
    "diffllama": _LLAMA,
    "dots1": Traits(qk_norm="per_head", mixture=True),
    "ernie4_5": Traits(tie_word_embeddings=True),
    "ernie4_5_moe": Traits(
        tie_word_embeddings=True, router_bias=True, defaults={"moe_layer_interval": 1, "moe_k": 6}
    ),
    "exaone": _LLAMA,
    "exaone4": _EXAONE4,
    "exaone_moe": _EXAONE4,
    "falcon": _FALCON,
    "RefinedWeb": _FALCON,
    "RefinedWebModel": _FALCON,
    "falcon_h1": _LLAMA,
    "falcon_mamba": _MAMBA,
    "flex_olmo": Traits(qk_norm="full"),
    "flint": Traits(qk_norm="per_head", sinks=True),
    "fuyu": _biased(tie_word_embeddings=False),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3,
    "gemma3n": _GEMMA3N,
    "gemma4": _GEMMA4,
    "gemma4_unified": _GEMMA4,
    "glm": _GLM,
    "glm4": Traits(qkv_bias=True, output_bias=False, norms=4, defaults={"head_dim": 128}),
    "glm4_moe": _GLM4_MOE,
    "glm4v_moe": _GLM4_MOE,
    "glm4v": Traits(qkv_bias=True, output_bias=False, norms=4),
    "glm4_moe_lite": Traits(router_bias=True),
    "glm_moe_dsa": Traits(router_bias=True),
    "gpt2": _biased(special=_gpt2, defaults={"n_positions": 1024}),
    "gpt_bigcode": _biased(special=_gpt_bigcode, defaults={"n_positions": 1024}),
    "gpt_neo": _biased(
        qkv_bias=False, output_bias=True, special=_gpt2, defaults={"max_position_embeddings": 2048}
    ),
    "gpt_neox": _biased(tie_word_embeddings=False),
    "gpt_oss": Traits(
        qkv_bias=True,
        mlp_bias=True,
        sinks=True,
        router_bias=True,
        mixture=True,
        defaults={"head_dim": 64, "sliding_window": 128, "sliding_window_pattern": 2},
    ),
    "gptj": _biased(qkv_bias=False, norms=1, lm_head_bias=True, tie_word_embeddings=False),
    "granite": _LLAMA,
    "granite_swa": Traits(sinks=True),
    "granitemoe": _LLAMA,
    "granitemoe_swa": Traits(sinks=True),
    "granitemoeshared": _LLAMA,
    "granitemoehybrid": _BAMBA,
    "helium": _LLAMA,
    "hunyuan_v1_dense": Traits(qk_norm="per_head", qk_norm_key="use_qk_norm"),
    "hunyuan_v1_moe": Traits(qk_norm="per_head", qk_norm_key="use_qk_norm"),
    "hy_v3": Traits(qk_norm="per_head", router_bias=True, defaults={"first_k_dense_replace": 1}),
    "hyperclovax": Traits(norms=4),
    "internlm2": _LLAMA,
    "internlm3": _LLAMA,
    "jais2": Traits(norm="layernorm", mlp_matrices=2, qkv_bias=True, mlp_bias=True),
    "jamba": _JAMBA,
    "kimi_k2": _DEEPSEEK,
    "kimi_linear": Traits(router_bias=True, state_dtype="float32", rotary=False),
    "kolibri1": Traits(norms=4, qk_norm="per_head"),
    "laguna": Traits(qk_norm="per_head", defaults={"use_head_wise_attn_gate": True}),
    "lara_mini": Traits(qk_norm="per_head", tie_word_embeddings=True),
    "lfm2": Traits(tie_word_embeddings=True, qk_norm="per_head", special=_block_widths),
    "lfm2_moe": Traits(tie_word_embeddings=True, qk_norm="per_head"),
    "llama": _LLAMA,
    "llama4": _LLAMA4,
    "longcat_flash": Traits(sublayers=2, norms=4, router_bias=True, mixture=True),
    "mamba": _MAMBA,
    "mamba2": Traits(norms=1, defaults={"expand": 2, "conv_kernel": 4, "n_groups": 8}),
    "mellum": Traits(qk_norm="per_head"),
    "mimo": _QWEN2,
    "mimo_v2_flash": _LLAMA,
    "minicpm": _LLAMA,
    "minicpm3": Traits(tie_word_embeddings=True),
    "minimax": _LIGHTNING,
    "minimax_text_01": _LIGHTNING,
    "minimax_m1": _LIGHTNING,
    "minimax_m2": Traits(qk_norm="full", router_bias=True, mixture=True),
    "ministral": _MISTRAL,
    "ministral3": _LLAMA,
    "mistral": _MISTRAL,
    "mistral3": _MISTRAL,
    "mixtral": Traits(defaults={"num_local_experts": 8, "num_experts_per_tok": 2}),
    "mpt": _biased(qkv_bias=False, mlp_bias=False, norm="bias_free_layernorm", special=_mpt),
    "nanochat": Traits(norm="none", mlp_matrices=2),
    "nemotron": Traits(norm="layernorm", mlp_matrices=2),
    "nemotron-nas": _LLAMA,
    "deci": _LLAMA,
    "nemotron_h": _NEMOTRON_H,
    "olmo": Traits(norm="none"),
    "olmo2": Traits(qk_norm="full"),
    "olmo3": _OLMO2,
    "olmo_hybrid": Traits(qk_norm="full", defaults={"full_attention_interval": 4}),
    "olmoe": Traits(qk_norm="full"),
    "opt": _biased(special=_opt, defaults={"max_position_embeddings": 2048}),
    "persimmon": _biased(tie_word_embeddings=False),
    "phi": _biased(norms=1, lm_head_bias=True, tie_word_embeddings=False),
    "phi3": _LLAMA,
    "phi4_multimodal": _LLAMA,
    "phi4mm": _LLAMA,
    "phimoe": Traits(norm="layernorm"),
    "qwen2": _QWEN2,
    "qwen2_moe": _QWEN2,
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen2_5_omni": _QWEN2,
    "qwen3_omni_moe": _QWEN3_MOE,
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3_MOE,
    "qwen3_next": _QWEN3_NEXT,
    "qwen3_5": _QWEN3_NEXT,
    "qwen3_5_moe": _QWEN3_NEXT,
    "seed_oss": Traits(qkv_bias=True, output_bias=False),
    "smollm3": Traits(tie_word_embeddings=True, defaults={"use_sliding_window": False}),
    "solar_open": _LLAMA,
    "stablelm": Traits(norm="layernorm"),
    "step3p5": Traits(qk_norm="per_head"),
    "vaultgemma": Traits(tie_word_embeddings=True, defaults={"head_dim": 256, "sliding_window_pattern": 2}),
    "youtu": Traits(tie_word_embeddings=True),
    "starcoder2": _biased(special=_starcoder2),
}


# What the config class has where the text part of a multimodal config leaves its sizes out, as LLaVA's do.
SIZES_OF_PARTS: dict[str, Fields] = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32_000,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32_000,
        "max_position_embeddings": 131_072,
    },
}


def traits_of(model_type: str) -> Traits | None:
    """The traits of an architecture; a text part goes by its name with or without the suffix."""
    names = (
        model_type,
        model_type.removesuffix("_text"),
        model_type.removesuffix("_text").removesuffix("_vl"),
    )
    return next((FAMILIES[name] for name in names if name in FAMILIES), None)
