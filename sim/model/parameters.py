"""Parameter counts, matrix by matrix, so that they equal the published checkpoints'."""

from __future__ import annotations

from sim.model.matrices import Matrix, layer_matrices
from sim.model.shape import ModelShape


def num_parameters(m: ModelShape) -> int:
    """All parameters: matrices, embeddings, learned positions, biases and norms; a tied lm_head once.

    Buffers (rotary tables, ALiBi slopes) and multi-token-prediction layers are not counted.
    """
    matrices = sum(_parameters_of(matrix) for matrix in layer_matrices(m))
    lm_head = m.vocab_size * m.hidden_size if m.tie_word_embeddings else 0
    return matrices - lm_head + embedding_parameters(m) + vector_parameters(m)


def num_active_parameters(m: ModelShape) -> int:
    """Parameters that one token uses: of the routed experts, only those that it visits.

    The whole embedding table is counted; some cards leave it out (DeepSeek-V3: 36.6B against 37.6B).
    """
    idle = sum(
        (matrix.num_experts - matrix.experts_per_token) * matrix.n * matrix.k * matrix.layers
        for matrix in layer_matrices(m)
    )
    return num_parameters(m) - idle


def embedding_parameters(m: ModelShape) -> int:
    """Token embedding and learned positions; the lm_head is a matrix."""
    return (m.vocab_size + m.learned_positions) * m.hidden_size


def vector_parameters(m: ModelShape) -> int:
    """Everything that is not a matrix: norms, biases, attention sinks, Mamba's vectors."""
    per_norm = m.hidden_size * (2 if m.norm == "layernorm" else 1)
    norms = (m.norms_per_layer * m.num_hidden_layers + 1 + m.embedding_norm) * per_norm
    return norms + _attention_vectors(m) + _mamba_vectors(m) + _mlp_vectors(m) + m.lm_head_bias * m.vocab_size


def _parameters_of(matrix: Matrix) -> int:
    return matrix.n * matrix.k * matrix.layers * matrix.num_experts


def _attention_vectors(m: ModelShape) -> int:
    heads, kv_heads = m.num_attention_heads, m.num_key_value_heads
    per_layer = m.attention_output_bias * m.hidden_size + m.attention_sinks * heads
    if m.mla is not None:
        per_layer += m.mla.kv_lora_rank + (m.mla.q_lora_rank or 0)
        return per_layer * m.num_attention_layers
    per_layer += m.attention_bias * (heads + 2 * kv_heads) * m.head_dim
    per_layer += {"none": 0, "per_head": 2, "full": heads + kv_heads}[m.qk_norm] * m.head_dim
    return per_layer * m.num_attention_layers


def _mamba_vectors(m: ModelShape) -> int:
    """Convolution, A, D, the step's bias, and Jamba's norms of dt, B and C."""
    if m.mamba is None:
        return 0
    mamba, inner = m.mamba, m.mamba.expand * m.hidden_size
    per_layer = inner * (mamba.d_conv + mamba.conv_bias + mamba.d_state + 1 + 1)
    per_layer += mamba.dt_rank + 2 * mamba.d_state + mamba.proj_bias * (2 * inner + m.hidden_size)
    return per_layer * m.layer_types.count("mamba")


def _mlp_vectors(m: ModelShape) -> int:
    ups = m.mlp_matrices - 1
    vectors = m.mlp_bias * (ups * m.intermediate_size + m.hidden_size) * m.num_dense_mlp_layers
    if m.moe is None:
        return vectors
    per_layer = m.mlp_bias * m.moe.num_experts * (ups * m.moe.moe_intermediate_size + m.hidden_size)
    per_layer += m.moe.router_bias * m.moe.num_experts + m.moe.shared_expert_gate * m.hidden_size
    return vectors + per_layer * m.num_moe_layers
