"""A decode step on random contexts: the shape whose price matters most, to be timed and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from calibrate.engine.llama import Batch, Layer, Llama, random_llama
from kernels import paged_decode_attention, rms_norm, rope_cache, silu_mul
from kernels.launch import cdiv
from sim.model.config import load_model
from sim.model.mixers import AttentionShape
from sim.model.shape import LayerShape, MlpShape, ModelShape

BLOCK_SIZE = 16
CHECKED_SEQUENCES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``run()`` is one decode step; ``error()`` compares its logits with float64."""

    run: Callable[[], Any]
    error: Callable[[], float]


def decode_step(
    dtype: str, device: str, *, B: int, context: int, num_layers: int = 0, width: int = 0
) -> Step:
    """B sequences of ``context`` tokens; ``num_layers`` and ``width`` cut Llama-3.1-8B down to rehearse."""
    shape = cut_down(load_model("llama-3.1-8b"), num_layers, width)
    blocks = cdiv(context, BLOCK_SIZE)
    model = random_llama(
        shape, dtype, device, num_blocks=B * blocks, block_size=BLOCK_SIZE, max_positions=context
    )
    batch = decode_batch(shape.vocab_size, B, context, device)
    return Step(run=lambda: model.forward(batch), error=lambda: relative_error(model, batch))


def cut_down(shape: ModelShape, num_layers: int, width: int) -> ModelShape:
    """The same proportions with fewer layers and a narrower hidden size: for the interpreter."""
    if not width:
        return shape
    layer = LayerShape(
        mixers=(AttentionShape(num_heads=4, num_kv_heads=2, head_dim=16, v_head_dim=16),),
        mlps=(MlpShape(intermediate_size=2 * width),),
    )
    return replace(
        shape,
        kinds=(layer,),
        pattern=(0,) * num_layers,
        hidden_size=width,
        intermediate_size=2 * width,
        vocab_size=2 * width,
    )


def decode_batch(vocab_size: int, B: int, context: int, device: str) -> Batch:
    """Every sequence at its last token; blocks in random order."""
    blocks = cdiv(context, BLOCK_SIZE)
    table = torch.randperm(B * blocks, device=device).reshape(B, blocks)
    last = context - 1
    return Batch(
        token_M=torch.randint(0, vocab_size, (B,), device=device),
        position_M=torch.full((B,), last, dtype=torch.int32, device=device),
        slot_M=table[:, last // BLOCK_SIZE] * BLOCK_SIZE + last % BLOCK_SIZE,
        table_BP=table.to(torch.int32),
        context_B=torch.full((B,), context, dtype=torch.int32, device=device),
        max_context=context,
    )


def relative_error(model: Llama, batch: Batch) -> float:
    """Of the logits of the first sequences, ‖value − truth‖ / ‖truth‖."""
    few = slice(0, CHECKED_SEQUENCES)
    values = model.forward(batch)[few].double()
    truths = reference(
        model,
        replace(
            batch,
            token_M=batch.token_M[few],
            position_M=batch.position_M[few],
            slot_M=batch.slot_M[few],
            table_BP=batch.table_BP[few],
            context_B=batch.context_B[few],
        ),
    )
    return float((values - truths).norm() / truths.norm())


def reference(model: Llama, batch: Batch) -> Any:
    """The decode step in float64, by the kernels' references."""
    residual = model.embedding[batch.token_M].double()
    for layer in model.layers:
        x = rms_norm.reference(residual, layer.input_norm)
        residual = residual + attention_reference(model, layer, x @ layer.qkv.double().t(), batch)
        x = rms_norm.reference(residual, layer.post_norm)
        x = silu_mul.reference(x @ layer.gate_up.double().t())
        residual = residual + x @ layer.down.double().t()
    return rms_norm.reference(residual, model.norm) @ model.lm_head.double().t()


def attention_reference(model: Llama, layer: Layer, qkv_MC: Any, batch: Batch) -> Any:
    """Attention of the decoding rows on copies of their own blocks, projected back."""
    B, P = batch.table_BP.shape
    own = torch.arange(B * P, device=batch.table_BP.device).reshape(B, P)
    blocks = tuple(one[batch.table_BP.long().flatten()] for one in layer.cache)
    column = own[:, (batch.max_context - 1) // BLOCK_SIZE]
    slot = column * BLOCK_SIZE + (batch.max_context - 1) % BLOCK_SIZE
    q, k, v = rope_cache.reference(qkv_MC, model.tables, batch.position_M, slot, blocks)
    o = paged_decode_attention.reference(q, (k, v), own, batch.context_B, max_context=batch.max_context)
    return o.flatten(1) @ layer.o.double().t()
