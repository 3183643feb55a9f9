"""Memory passes of a GPT's training step: what each kernel between the products reads and writes.

``eager`` is Hugging Face's GPT-2 under ``torch.autocast`` (modeling_gpt2.py and activations.py of 2022):
float32 weights and residual stream, products in 16 bits, LayerNorm, softmax, ``pow`` and the loss in
float32, a kernel per operator, casts between. ``fused`` is Megatron-LM's with Apex: 16-bit weights and
activations, one kernel each for LayerNorm, bias + GELU, bias + dropout + residual, scale + mask + softmax,
cross-entropy and AdamW. Bytes are per element of what the pass goes over, read + written; where a pass
launches several kernels, ``launches`` says how many. Counted by hand from the code, none of it fitted.

The mask is the same for all heads and stays in L2.

``over``: hidden = tokens · hidden_size, inner = tokens · intermediate_size, scores = tokens · seqlen · heads,
logits = tokens · vocabulary, parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Over = Literal["hidden", "inner", "scores", "logits", "parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Kernels over one tensor. ``kept_bytes``: per element, saved from the forward for the backward pass."""

    name: str
    over: Over
    read_bytes: float
    write_bytes: float
    launches: int = 1
    kept_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPasses:
    """The passes of a layer around its products, of its standard attention, of the ends, of the optimizer."""

    layer_forward: tuple[Pass, ...]
    layer_backward: tuple[Pass, ...]
    scores_forward: tuple[Pass, ...]
    scores_backward: tuple[Pass, ...]
    head_forward: tuple[Pass, ...]
    head_backward: tuple[Pass, ...]
    optimizer: tuple[Pass, ...]
    weight_bytes: int  # of one parameter on the device, with gradient and optimizer states
    product_bytes: int  # kept per element of the hidden size: inputs of the products


_EAGER = StepPasses(
    layer_forward=(
        # Two norms (read and write float32), the cast of each to 16 bits.
        Pass(name="LayerNorm", over="hidden", read_bytes=8, write_bytes=8, launches=2, kept_bytes=8),
        Pass(name="casts", over="hidden", read_bytes=8, write_bytes=4, launches=2),
        # Q, K and V made contiguous for the batched products, the heads merged after them.
        Pass(name="copies of Q K V O", over="hidden", read_bytes=8, write_bytes=8, launches=4),
        # Dropout (value, its byte mask) and the sum with the float32 residual, twice.
        Pass(name="dropout, residual", over="hidden", read_bytes=4, write_bytes=6, launches=2, kept_bytes=2),
        Pass(name="dropout, residual", over="hidden", read_bytes=12, write_bytes=8, launches=2),
        # 0.5 x (1 + tanh(c (x + 0.044715 x³))): cast, pow, times, plus, times, tanh, plus, half, times, cast.
        Pass(name="GELU", over="inner", read_bytes=40, write_bytes=36, launches=10, kept_bytes=16),
    ),
    layer_backward=(
        # Per norm: gradient (read input and gradient, write), gamma and beta (read both); casts back.
        Pass(name="LayerNorm", over="hidden", read_bytes=32, write_bytes=8, launches=4),
        Pass(name="casts", over="hidden", read_bytes=4, write_bytes=8, launches=2),
        Pass(name="copies of Q K V O", over="hidden", read_bytes=14, write_bytes=14, launches=5),
        # Per residual: the sum of both branches in float32, the cast and dropout's gradient, the bias's sum.
        Pass(name="dropout, residual", over="hidden", read_bytes=16, write_bytes=8, launches=2),
        Pass(name="dropout, residual", over="hidden", read_bytes=14, write_bytes=8, launches=4),
        Pass(name="bias gradients", over="hidden", read_bytes=10, write_bytes=0, launches=3),
        Pass(name="bias gradients", over="inner", read_bytes=2, write_bytes=0),
        # The ten operators the other way: two products with two gradients each, tanh, pow (x², 3 x², times),
        # the scalars, three gradients of x summed, the casts.
        Pass(name="GELU", over="inner", read_bytes=70, write_bytes=48, launches=15),
    ),
    scores_forward=(
        # scores / √d, where(mask), softmax in float32 between two casts, dropout with its byte mask.
        Pass(name="scale, mask", over="scores", read_bytes=4, write_bytes=4, launches=2),
        Pass(name="softmax", over="scores", read_bytes=10, write_bytes=10, launches=3, kept_bytes=4),
        Pass(name="dropout", over="scores", read_bytes=2, write_bytes=3, kept_bytes=3),
    ),
    scores_backward=(
        # Dropout's gradient, cast, softmax' gradient (the product, then the difference), cast, where, scale.
        Pass(name="dropout", over="scores", read_bytes=3, write_bytes=2),
        Pass(name="softmax", over="scores", read_bytes=22, write_bytes=14, launches=4),
        Pass(name="scale, mask", over="scores", read_bytes=4, write_bytes=4, launches=2),
    ),
    head_forward=(
        # Two look-ups, their sum, dropout, the last norm, its cast; shifted logits, log-softmax in float32;
        # every weight cast to 16 bits.
        Pass(name="embedding", over="hidden", read_bytes=28, write_bytes=23, launches=6, kept_bytes=7),
        Pass(name="loss", over="logits", read_bytes=8, write_bytes=10, launches=4, kept_bytes=6),
        Pass(name="casts", over="parameters", read_bytes=4, write_bytes=2, kept_bytes=2),
    ),
    head_backward=(
        # Negative log-likelihood filled with zeros, log-softmax, cast, the shift's zeros and copy.
        Pass(name="loss", over="logits", read_bytes=14, write_bytes=14, launches=5),
        Pass(name="embedding", over="hidden", read_bytes=31, write_bytes=16, launches=6),
        # Weight gradients cast to float32 and added to what there is.
        Pass(name="casts", over="parameters", read_bytes=10, write_bytes=8, launches=2),
    ),
    optimizer=(
        # Unscale, norm and clip, then AdamW operator by operator: decay, two moments in two operators each,
        # root, epsilon, division and update, all float32.
        Pass(name="optimizer", over="parameters", read_bytes=64, write_bytes=44, launches=12),
    ),
    weight_bytes=16,
    product_bytes=2 * 6,  # inputs of the QKV, output and first MLP products; Q, K and V
)

_FUSED = StepPasses(
    layer_forward=(
        Pass(name="LayerNorm", over="hidden", read_bytes=4, write_bytes=4, launches=2, kept_bytes=4),
        Pass(name="dropout, residual", over="hidden", read_bytes=8, write_bytes=6, launches=2, kept_bytes=2),
        Pass(name="GELU", over="inner", read_bytes=2, write_bytes=2, kept_bytes=2),
    ),
    layer_backward=(
        Pass(name="LayerNorm", over="hidden", read_bytes=16, write_bytes=4, launches=4),
        Pass(name="dropout, residual", over="hidden", read_bytes=14, write_bytes=8, launches=4),
        Pass(name="bias gradients", over="hidden", read_bytes=10, write_bytes=0, launches=3),
        Pass(name="GELU", over="inner", read_bytes=4, write_bytes=2),
        Pass(name="bias gradients", over="inner", read_bytes=2, write_bytes=0),
    ),
    scores_forward=(
        Pass(name="softmax", over="scores", read_bytes=2, write_bytes=2, kept_bytes=2),
        Pass(name="dropout", over="scores", read_bytes=2, write_bytes=3, kept_bytes=3),
    ),
    scores_backward=(
        Pass(name="dropout", over="scores", read_bytes=3, write_bytes=2),
        Pass(name="softmax", over="scores", read_bytes=4, write_bytes=2),
    ),
    head_forward=(
        Pass(name="embedding", over="hidden", read_bytes=10, write_bytes=9, launches=4, kept_bytes=5),
        Pass(name="loss", over="logits", read_bytes=2, write_bytes=0, kept_bytes=2),
    ),
    head_backward=(
        Pass(name="loss", over="logits", read_bytes=2, write_bytes=2),
        Pass(name="embedding", over="hidden", read_bytes=17, write_bytes=6, launches=5),
        Pass(name="weight gradients", over="parameters", read_bytes=6, write_bytes=4),
    ),
    optimizer=(Pass(name="optimizer", over="parameters", read_bytes=20, write_bytes=14, launches=2),),
    weight_bytes=18,
    product_bytes=2 * 6,
)

PASSES: Mapping[str, StepPasses] = {"eager": _EAGER, "fused": _FUSED}
