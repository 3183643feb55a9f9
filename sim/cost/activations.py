"""The activation peak of vLLM's profile run: the largest step that the limits allow, nothing cached.

Two moments compete. In the layers, ``max_num_batched_tokens`` tokens pass through the widest part of
a layer. After them, ``max_num_seqs`` sequences are sampled over the whole vocabulary while the hidden
states are still there. The larger one is the peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.model import DTYPE_BYTES, ModelShape, layer_matrices, served_dtype

if TYPE_CHECKING:
    from sim.cost.priced import PricedEngine

# Per sequence and vocabulary entry while PyTorch sorts the logits for top-k and top-p, beside the
# logits in the model's type: float32 logits 4, sorted values 4, their int64 indices 8, the sort's
# int64 input indices 8, and its scratch for keys and values 4 + 8. With two bytes for bfloat16 logits
# that is 38. Logs say, peak over max_num_seqs x vocab_size: Llama-3-8B 41 (vllm#10511), Qwen2.5-7B 39
# (vllm#13882), gemma-3-4b-it with 1,024 sequences 40 (vllm#21489, vision encoder included).
# Not modelled: FlashInfer's and Triton's samplers, which do without the sort and take less.
SAMPLER_BYTES_PER_LOGIT = 4 + 4 + 8 + 8 + (4 + 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationPeak:
    """Bytes on one GPU, and the formula with its numbers."""

    num_bytes: int
    formula: str


def activation_peak(model: ModelShape, engine: PricedEngine, *, samples: bool = True) -> ActivationPeak:
    """The larger of the layers' and the sampler's moment (see the module); without ``samples`` the former.

    Not modelled: attention workspaces, buffers of the custom all-reduce, vision encoders, and the
    allocator's rounding.
    """
    tokens, seqs = engine.max_num_batched_tokens, min(engine.max_num_seqs, engine.max_num_batched_tokens)
    width = DTYPE_BYTES[served_dtype(model, engine.dtype)]
    hidden = tokens * model.hidden_size * width
    per_token = widest_part(model, engine.tensor_parallel_size)
    # Two of hidden_size: the hidden states and the residual.
    layers = tokens * per_token * width + 2 * hidden
    per_logit = width + SAMPLER_BYTES_PER_LOGIT
    sampler = seqs * model.vocab_size * per_logit + hidden
    if layers >= sampler or not samples:
        return ActivationPeak(
            num_bytes=layers,
            formula=f"layers: max_num_batched_tokens {tokens:,} x (2 x hidden_size {model.hidden_size:,} + "
            f"widest part {per_token:,}) x {width} B",
        )
    return ActivationPeak(
        num_bytes=sampler,
        formula=f"sampler: max_num_seqs {seqs:,} x vocab_size {model.vocab_size:,} x {per_logit} B + "
        f"max_num_batched_tokens {tokens:,} x hidden_size {model.hidden_size:,} x {width} B",
    )


def widest_part(model: ModelShape, tensor_parallel_size: int) -> int:
    """Entries per token that live at once in the widest part of a layer, beside the residual stream.

    q, k, v and the attention's output; or gate, up and their product; with experts, the latter for
    each visited expert, its output sharing the memory of gate and up.
    """
    by_name = {matrix.name: matrix for matrix in layer_matrices(model, tensor_parallel_size)}
    widths = [0]
    attention = sum(
        by_name[name].n for name in ("qkv_proj", "q_proj", "q_b_proj", "kv_b_proj") if name in by_name
    )
    if "o_proj" in by_name:
        widths.append(attention + by_name["o_proj"].k)
    for up, down in (("gate_up_proj", "down_proj"), ("up_proj", "down_proj")):
        if up in by_name:
            widths.append(by_name[up].n + by_name[down].k)
    if "moe_gate_up" in by_name:
        up_n, down_k = by_name["moe_gate_up"].n, by_name["moe_down"].k
        visited = by_name["moe_gate_up"].experts_per_token
        widths.append(visited * (max(up_n, model.hidden_size) + down_k))
    return max(widths)
