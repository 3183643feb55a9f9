"""Mixture of experts, latent attention and Mamba mixers out of a config, by their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.model.reader import ConfigReader
from sim.model.shape import MambaShape, MlaShape, MoeShape

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
            num_dense_layers=_num_dense_layers(c, found["num_hidden_layers"]),
            router_bias=found.get("router_bias", False),
            shared_expert_gate=c.has("shared_expert_intermediate_size"),
        )
    }


def _num_dense_layers(c: ConfigReader, layers: int) -> int:
    """Layers without experts: the first ones, all but every n-th, or those listed."""
    first = c.count("first_k_dense_replace", default=0, least=0)
    if c.value("expert_layer_period") is not None:  # Jamba
        period, offset = c.count("expert_layer_period"), c.count("expert_layer_offset", default=0, least=0)
        return sum(i % period != offset for i in range(layers))
    step = c.count("decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step", default=1)
    listed = c.value("mlp_only_layers") or []
    if not isinstance(listed, list) or not all(type(i) is int and 0 <= i < layers for i in listed):
        raise c.refuse("not a list of layers", "mlp_only_layers", given=listed, allowed=f"0 to {layers - 1}")
    at = 0 if c.has("moe_layer_freq") else 1  # DeepSeek counts from layer 0, Qwen from 1
    return sum(i < first or (i + at) % step != 0 or i in listed for i in range(layers))


def latent_attention(c: ConfigReader) -> Fields:
    """The ``mla`` field, where the config has a ``kv_lora_rank``."""
    if c.value("kv_lora_rank") is None:
        return {}
    return {
        "mla": MlaShape(
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
            expand=c.count("mamba_expand", default=2, most=1_000),
            dt_rank=computed if rank in (None, "auto") else c.count("mamba_dt_rank", most=1_000_000),
            conv_bias=c.flag("mamba_conv_bias", True),
            proj_bias=c.flag("mamba_proj_bias", False),
        )
    }
