"""The sizes of a decoder-only model, in Hugging Face's words. Derived numbers are functions beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LayerType = Literal["full_attention", "sliding_attention", "linear_attention", "mamba"]
Dtype = Literal["bfloat16", "float16", "float32"]
DtypeChoice = Dtype | Literal["auto"]
Quantization = Literal["none", "fp8", "int8", "int4", "mxfp4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeShape:
    """Mixture of experts."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    num_shared_experts: int = 0
    shared_expert_intermediate_size: int = 0  # all shared experts together
    num_dense_layers: int = 0  # layers with a plain MLP (first_k_dense_replace and its like)
    router_bias: bool = False
    shared_expert_gate: bool = False  # Qwen2-MoE: one more vector of hidden_size per layer


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaShape:
    """Multi-head latent attention: K and V are rebuilt from one compressed vector."""

    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MambaShape:
    """A Mamba-1 mixer (Jamba): a state of fixed size per sequence in place of KV."""

    d_state: int
    d_conv: int
    expand: int
    dt_rank: int
    conv_bias: bool = True
    proj_bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that decide cost and memory."""

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
    dtype: Dtype
    tie_word_embeddings: bool
    mlp_matrices: int  # 3 for gated (SwiGLU), 2 for plain
    attention_bias: bool  # of q, k and v
    mlp_bias: bool
    layer_types: tuple[LayerType, ...]  # one per layer
    sliding_window: int | None
    learned_positions: int  # rows of a learned position table; 0 with rotary or ALiBi
    norm: Literal["rmsnorm", "layernorm"]
    attention_output_bias: bool = False
    attention_sinks: bool = False  # gpt-oss: one learned logit per head and layer
    qk_norm: Literal["none", "per_head", "full"] = "none"  # per_head: head_dim weights; full: all heads
    norms_per_layer: int = 2
    embedding_norm: bool = False
    lm_head_bias: bool = False
    moe: MoeShape | None = None
    mla: MlaShape | None = None
    mamba: MambaShape | None = None
    checkpoint_quantization: Quantization = "none"  # the published weights' own (quantization_config)
    notes: tuple[str, ...] = ()  # what was assumed, for the reader
    source: str = ""
    published_parameters: int | None = None
    published_parameters_source: str = ""

    @property
    def num_attention_layers(self) -> int:
        """Layers that keep K and V, full or sliding."""
        return sum(kind in ("full_attention", "sliding_attention") for kind in self.layer_types)

    @property
    def num_sliding_layers(self) -> int:
        """Layers whose KV ends at the sliding window."""
        return self.layer_types.count("sliding_attention")

    @property
    def num_moe_layers(self) -> int:
        """Layers with experts."""
        return self.num_hidden_layers - self.moe.num_dense_layers if self.moe else 0

    @property
    def num_dense_mlp_layers(self) -> int:
        """Layers with a plain MLP."""
        return self.num_hidden_layers - self.num_moe_layers
