"""Llama's forward pass over a paged KV cache, with random weights and the kernels of ``kernels/``.

A batch is the shape of an engine step: prompt chunks and decoding sequences side by side. The linear layers
see all tokens at once, each chunk attends by itself, all decoding sequences together.

Shapes: M tokens of the step, C hidden_size, H query heads, G key/value heads, D head_dim, B decoding
sequences, P blocks of the longest of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from kernels.flash_attention import flash_attention
from kernels.launch import cdiv
from kernels.matmul import matmul
from kernels.paged_decode_attention import paged_decode_attention
from kernels.rms_norm import rms_norm
from kernels.rope_cache import cos_sin, rope_cache
from kernels.silu_mul import silu_mul
from sim.model.shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Tokens of one prompt: rows ``start`` to ``stop`` of the step, the last of ``context`` tokens so far."""

    start: int
    stop: int
    context: int
    blocks: Any  # int64, of the sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One step. Decoding sequences are its first rows, prompt chunks follow."""

    token_M: Any  # int64
    position_M: Any  # int32
    slot_M: Any  # int64: where in the pool each token's key and value go
    table_BP: Any  # int32, of the decoding sequences
    context_B: Any  # int32, their new token included
    max_context: int = 0
    chunks: tuple[Chunk, ...] = ()
    sampled: Any = None  # rows whose logits are wanted; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Weights [out, in] of one layer, and its part of the cache [blocks, block_size, G, D]."""

    input_norm: Any
    qkv: Any
    o: Any
    post_norm: Any
    gate_up: Any
    down: Any
    cache: tuple[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama:
    """Weights, cache and tables of one model on one device."""

    shape: ModelShape
    embedding: Any
    layers: list[Layer] = field(default_factory=list)
    norm: Any
    lm_head: Any
    tables: tuple[Any, Any]

    def forward(self, batch: Batch) -> Any:
        """Logits of the sampled rows; keys and values of every row are in the cache afterwards."""
        residual = self.embedding[batch.token_M]
        x = rms_norm(residual, self.layers[0].input_norm)
        for index, layer in enumerate(self.layers):
            x = linear(self.attend(layer, linear(x, layer.qkv), batch), layer.o)
            x = rms_norm(x, layer.post_norm, residual_MN=residual)
            x = linear(silu_mul(linear(x, layer.gate_up)), layer.down)
            last = index + 1 == len(self.layers)
            x = rms_norm(x, self.norm if last else self.layers[index + 1].input_norm, residual_MN=residual)
        wanted = x if batch.sampled is None else x[batch.sampled]
        if not len(wanted):  # a step of unfinished prompts
            return wanted.new_empty((0, self.shape.vocab_size))
        return linear(wanted, self.lm_head)

    def attend(self, layer: Layer, qkv_MC: Any, batch: Batch) -> Any:
        """Attention of every row over its own sequence."""
        q_MHD, _, _ = rope_cache(qkv_MC, self.tables, batch.position_M, batch.slot_M, layer.cache)
        B = batch.context_B.shape[0]
        parts = []
        if B:
            parts.append(
                paged_decode_attention(
                    q_MHD[:B], layer.cache, batch.table_BP, batch.context_B, max_context=batch.max_context
                )
            )
        parts += [self.attend_chunk(layer, q_MHD[chunk.start : chunk.stop], chunk) for chunk in batch.chunks]
        o_MHD = parts[0] if len(parts) == 1 else torch.cat(parts)
        return o_MHD.reshape(o_MHD.shape[0], -1)

    def attend_chunk(self, layer: Layer, q_THD: Any, chunk: Chunk) -> Any:
        """A chunk over its sequence so far, whose keys and values are gathered from their blocks first."""
        block_size = layer.cache[0].shape[1]
        blocks = chunk.blocks[: cdiv(chunk.context, block_size)]
        k, v = (gathered(one, blocks, chunk.context) for one in layer.cache)
        q = q_THD.transpose(0, 1)[None].contiguous()
        o_BHTD, _ = flash_attention(q, k, v, is_causal=True)
        return o_BHTD[0].transpose(0, 1)


def gathered(pool: Any, blocks: Any, context: int) -> Any:
    """The first ``context`` tokens of these blocks, [1, G, tokens, D]."""
    return pool[blocks].flatten(0, 1)[:context].transpose(0, 1)[None].contiguous()


def linear(x_MK: Any, weight_NK: Any) -> Any:
    """x · Wᵀ."""
    return matmul(x_MK, weight_NK.t())


def random_llama(
    shape: ModelShape,
    dtype: str,
    device: str,
    *,
    num_blocks: int,
    block_size: int = 16,
    max_positions: int = 16_384,
) -> Llama:
    """Normal weights of variance 1 / inputs, which keeps activations near 1 from layer to layer."""
    kind = getattr(torch, dtype)
    C, D, G = shape.hidden_size, shape.head_dim, shape.num_key_value_heads

    def weight(n: int, k: int) -> Any:
        return torch.randn((n, k), dtype=kind, device=device).mul_(k**-0.5)

    def ones() -> Any:
        return torch.ones(C, dtype=kind, device=device)

    def pool() -> Any:
        return torch.randn((num_blocks, block_size, G, D), dtype=kind, device=device)

    layers = [
        Layer(
            input_norm=ones(),
            qkv=weight((shape.num_attention_heads + 2 * G) * D, C),
            o=weight(C, shape.num_attention_heads * D),
            post_norm=ones(),
            gate_up=weight(2 * shape.intermediate_size, C),
            down=weight(C, shape.intermediate_size),
            cache=(pool(), pool()),
        )
        for _ in range(shape.num_hidden_layers)
    ]
    return Llama(
        shape=shape,
        embedding=torch.randn((shape.vocab_size, C), dtype=kind, device=device),
        layers=layers,
        norm=ones(),
        lm_head=weight(shape.vocab_size, C),
        tables=cos_sin(max_positions, D, device),
    )
