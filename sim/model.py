"""Model shapes: from a Hugging Face ``config.json`` or a shipped shape, in Hugging Face's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LayerType = Literal["full_attention", "sliding_attention", "linear_attention", "mamba"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeShape:
    """Mixture of experts."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    num_shared_experts: int = 0
    shared_expert_intermediate_size: int = 0  # all shared experts together
    num_dense_layers: int = 0  # first layers with a plain MLP (first_k_dense_replace)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaShape:
    """Multi-head latent attention: K and V are rebuilt from one compressed vector."""

    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that decide cost and memory. Derived numbers are functions in this module."""

    name: str
    architecture: str  # model_type of the config
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    dtype: Literal["bfloat16", "float16", "float32"]
    tie_word_embeddings: bool
    mlp_matrices: int  # 3 for gated (SwiGLU), 2 for plain
    attention_bias: bool
    mlp_bias: bool
    layer_types: tuple[LayerType, ...]  # one per layer
    sliding_window: int | None
    learned_positions: int  # rows of a learned position table; 0 with rotary or ALiBi
    norm: Literal["rmsnorm", "layernorm"]
    moe: MoeShape | None = None
    mla: MlaShape | None = None
    source: str = ""
    published_parameters: int | None = None
