"""Activations that wait for the backward pass: bytes per transformer layer and for the head.

Itemised so that a GPT layer with dropout in 16 bits comes to s b h (34 + 5 a s / h), the formula of
Korthikanti et al. (arXiv 2205.05198, equation 1): attention 11 s b h + 5 a s^2 b, MLP 19 s b h, norms
4 s b h.
Grouped-query attention keeps fewer keys and values, a gated MLP three inner tensors in place of two,
models without dropout no masks. Not modelled: FP8's smaller copies, activations offloaded to the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.model import ModelShape
from sim.training.step_time_shape import StepShape

MASK_BYTES = 1
LOGSUMEXP_BYTES = 4  # FlashAttention keeps one fp32 statistic per head and token


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerActivations:
    """Bytes of one layer's kept activations on one GPU, for one micro-batch."""

    replicated_bytes: float  # norms, GEMM inputs, masks: whole on every GPU unless sequence parallel
    split_bytes: float  # inside attention and MLP: split over the tensor-parallel group
    scores_bytes: float  # the quadratic part of standard attention, split by heads

    @property
    def total_bytes(self) -> float:
        """All of it."""
        return self.replicated_bytes + self.split_bytes + self.scores_bytes


def layer_activations(shape: StepShape) -> LayerActivations:
    """What a layer without recomputation keeps.

    TP: s b h (10 + 24/t + 5 a s / (h t)); with sequence parallelism all of it over t (equations 2 and 4).
    """
    m, width = shape.model, shape.precision.activation_bytes
    tokens, t = shape.tokens_per_micro_batch, shape.parallelism.tensor_parallel_size
    mask = MASK_BYTES if shape.dropout else 0
    # inputs of both norms, of qkv and of the MLP; masks of both residual dropouts
    replicated: float = tokens * m.hidden_size * (4 * width + 2 * mask)
    replicated += _norm_extra(m) * tokens * m.hidden_size * width
    if shape.parallelism.sequence_parallel:
        replicated /= t
    queries, keys = m.num_attention_heads * m.head_dim, m.num_key_value_heads * m.head_dim
    inside = width * (2 * queries + 2 * keys + inner_width(m, is_fused=shape.fused_kernels))
    scores = 0.0
    if shape.attention != "standard":
        inside += LOGSUMEXP_BYTES * m.num_attention_heads
    else:
        # softmax output, its dropout mask and the dropped-out probabilities; PyTorch's own softmax keeps
        # its output in float32 besides
        per_score = 2 * width + MASK_BYTES if shape.dropout else width
        per_score += 0 if shape.fused_kernels else 4
        scores = per_score * m.num_attention_heads * shape.max_seq_len * tokens / t
    return LayerActivations(replicated_bytes=replicated, split_bytes=tokens * inside / t, scores_bytes=scores)


def inner_width(m: ModelShape, *, is_fused: bool) -> float:
    """Elements per token that the MLP keeps inside: each inner tensor once per expert that a token visits.

    Plain: before and after the activation function. Gated: gate, up and their product, as the fused kernels
    of Megatron and Liger keep them; PyTorch's own keep the activated gate too.
    """
    gated = 3 if is_fused else 4
    inner_tensors = gated if m.mlp_matrices == 3 else 2
    if m.moe is None:
        return float(inner_tensors * m.intermediate_size)
    dense = m.num_dense_mlp_layers / m.num_hidden_layers
    visited = m.moe.num_experts_per_tok * m.moe.moe_intermediate_size
    visited += m.moe.shared_expert_intermediate_size
    return inner_tensors * (dense * m.intermediate_size + (1 - dense) * visited)


def _norm_extra(m: ModelShape) -> int:
    """Norms beyond two a layer (Gemma's), each keeping its input."""
    return max(0, m.norms_per_layer - 2)


def kept_layer_bytes(shape: StepShape) -> float:
    """What one layer keeps under the shape's checkpointing, averaged over layers.

    selective: without the quadratic part, which is recomputed; full: the layer's input, 2 s b h;
    every_k: one input per k layers (Chen et al., arXiv 1604.06174).
    """
    whole = layer_activations(shape)
    if shape.activation_checkpointing == "none":
        return whole.total_bytes
    if shape.activation_checkpointing == "selective":
        return whole.replicated_bytes + whole.split_bytes
    every = shape.checkpoint_every if shape.activation_checkpointing == "every_k" else 1
    return layer_input_bytes(shape) / every


def layer_input_bytes(shape: StepShape) -> float:
    """A layer's input, 2 s b h in 16 bits; sequence parallelism splits it too."""
    t = shape.parallelism.tensor_parallel_size if shape.parallelism.sequence_parallel else 1
    return shape.tokens_per_micro_batch * shape.model.hidden_size * shape.precision.activation_bytes / t


def recomputed_layer_bytes(shape: StepShape) -> float:
    """What comes back for a moment in the backward pass: a layer's activations, k layers' under every_k."""
    whole = layer_activations(shape)
    if shape.activation_checkpointing == "none":
        return 0.0
    if shape.activation_checkpointing == "selective":
        return whole.scores_bytes
    every = shape.checkpoint_every if shape.activation_checkpointing == "every_k" else 1
    return whole.total_bytes * min(every, shape.layers_per_stage)


def micro_batches_in_flight(shape: StepShape) -> float:
    """Micro-batches whose activations the first pipeline stage holds at once, in whole-stage units.

    1F1B: p of them; interleaved with v stages per GPU, p (1 + (p - 1)/(p v)) (Korthikanti, section 4.2.3).
    """
    p, v = shape.parallelism.pipeline_parallel_size, shape.parallelism.virtual_pipeline_size
    held = p * (1 + (p - 1) / (p * v)) if v > 1 else float(p)
    return min(held, float(shape.gradient_accumulation_steps)) if p > 1 else 1.0


def head_activations(shape: StepShape) -> float:
    """Outside the layers, on one stage: final norm, lm_head input, float32 logits, embedding's dropout mask.

    4 s b h (1 + v/h) in 16 bits (Korthikanti, section 4.3), over t. In pipelines the first stage has no
    logits, and the last has fewer micro-batches.
    """
    m, width = shape.model, shape.precision.activation_bytes
    tokens, t = shape.tokens_per_micro_batch, shape.parallelism.tensor_parallel_size
    if shape.parallelism.pipeline_parallel_size > 1:
        return tokens * m.hidden_size * (MASK_BYTES if shape.dropout else 0)
    hidden = 2 * m.hidden_size * width / (t if shape.parallelism.sequence_parallel else 1)
    return tokens * (hidden + 4 * m.vocab_size / t)


def activation_bytes(shape: StepShape) -> float:
    """All kept activations of the fullest GPU (the first pipeline stage), without momentary buffers."""
    layers = kept_layer_bytes(shape) * shape.layers_per_stage * micro_batches_in_flight(shape)
    return layers + head_activations(shape)


def selective_saving(shape: StepShape) -> float:
    """Share of a layer's activations that selective recomputation saves: (5as/h) / (34 + 5as/h) for GPT."""
    whole = layer_activations(shape)
    return whole.scores_bytes / whole.total_bytes
