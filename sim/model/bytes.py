"""Bytes of KV per token and of weights per GPU."""

from __future__ import annotations

from sim.model.matrices import Matrix, kv_heads_per_gpu, layer_matrices
from sim.model.parameters import embedding_parameters, vector_parameters
from sim.model.shape import Dtype, DtypeChoice, ModelShape, Quantization
from sim.model.stages import Stage

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}

# Bits per weight of a quantised linear layer, scales included.
# int4: groups of 128 share a float16 scale and a 4-bit zero (AWQ, GPTQ): 4 + (16 + 4)/128.
# mxfp4: blocks of 32 share an 8-bit exponent (OCP MX specification 1.0): 4 + 8/32.
# fp8, int8: one scale per output channel at most; less than 0.1 % and left out.
BITS_PER_WEIGHT = {"fp8": 8.0, "int8": 8.0, "int4": 4 + (16 + 4) / 128, "mxfp4": 4 + 8 / 32}


def served_dtype(m: ModelShape, dtype: DtypeChoice = "auto") -> Dtype:
    """The type of weights and activations: vLLM's ``auto`` serves a float32 checkpoint in float16."""
    if dtype == "auto":
        return "float16" if m.dtype == "float32" else m.dtype
    return dtype


def served_quantization(m: ModelShape, quantization: Quantization = "none") -> Quantization:
    """How the weights are held: as asked, else as the checkpoint has them (gpt-oss: mxfp4 experts)."""
    return m.checkpoint_quantization if quantization == "none" else quantization


def kv_dtype_bytes(m: ModelShape, kv_cache_dtype: str = "auto", dtype: DtypeChoice = "auto") -> int:
    """Bytes of one KV entry: vLLM's ``auto`` keeps KV in the activations' type."""
    return DTYPE_BYTES[served_dtype(m, dtype) if kv_cache_dtype == "auto" else kv_cache_dtype]


def kv_bytes_per_token(m: ModelShape, dtype_bytes: int, tensor_parallel_size: int = 1) -> int:
    """KV bytes that one more token takes on one GPU, before any sliding window is full.

    Attention layers x (K and V) x KV heads x head_dim x bytes; with latent attention (MLA), layers x
    (kv_lora_rank + qk_rope_head_dim) x bytes, whole on every GPU. KV heads are split over the tensor
    parallel group and repeated where there are more GPUs than heads.
    """
    return m.num_attention_layers * _kv_bytes_per_layer(m, dtype_bytes, tensor_parallel_size)


def kv_bytes_for_request(
    m: ModelShape, num_tokens: int, dtype_bytes: int, tensor_parallel_size: int = 1
) -> int:
    """KV bytes of a sequence of ``num_tokens`` on one GPU: sliding layers stop at their window.

    Recurrent states (``state_bytes_per_request``) are not KV and not in it.
    """
    per_layer = _kv_bytes_per_layer(m, dtype_bytes, tensor_parallel_size)
    sliding = m.num_sliding_layers
    kept = num_tokens if m.sliding_window is None else min(num_tokens, m.sliding_window)
    return per_layer * ((m.num_attention_layers - sliding) * num_tokens + sliding * kept)


def state_bytes_per_request(m: ModelShape, dtype_bytes: int, tensor_parallel_size: int = 1) -> int:
    """Bytes of the recurrent state of a sequence's Mamba layers on one GPU, whatever its length."""
    if m.mamba is None:
        return 0
    inner = -(-m.mamba.expand * m.hidden_size // tensor_parallel_size)
    entries = inner * (m.mamba.d_state + m.mamba.d_conv - 1)
    return m.layer_types.count("mamba") * entries * dtype_bytes


def weight_bytes(
    m: ModelShape,
    *,
    quantization: Quantization = "none",
    dtype: DtypeChoice = "auto",
    tensor_parallel_size: int = 1,
    stage: Stage | None = None,
) -> int:
    """Bytes of the weights on one GPU: of the whole model, or of one pipeline stage (``m`` is its shape).

    The linear layers are quantised, scales included (``BITS_PER_WEIGHT``); embeddings, lm_head, the
    router, biases and norms stay in ``dtype``. mxfp4 quantises the routed experts only. Vectors are
    counted whole on every GPU (their split saves less than 0.1 %), the final norm in every stage.
    """
    embeds, samples = stage is None or stage.is_first, stage is None or stage.is_last
    tp, width = tensor_parallel_size, DTYPE_BYTES[served_dtype(m, dtype)]
    held = served_quantization(m, quantization)
    total = vector_parameters(m) * width
    if embeds:
        total += (embedding_parameters(m) - m.vocab_size * m.hidden_size) * width
        total += -(-m.vocab_size // tp) * m.hidden_size * width
    for matrix in layer_matrices(m, tp):
        if matrix.name == "lm_head" and (not samples or (m.tie_word_embeddings and embeds)):
            continue
        weights = matrix.n * matrix.k * matrix.layers * matrix.num_experts
        total += round(weights * bits_per_weight(matrix, held, width) / 8)
    return total


def bits_per_weight(matrix: Matrix, quantization: Quantization, dtype_bytes: int) -> float:
    """Bits that one weight takes: lm_head and router are never quantised, mxfp4 only experts."""
    whole = matrix.name in ("lm_head", "router") or (quantization == "mxfp4" and matrix.num_experts == 1)
    return 8.0 * dtype_bytes if quantization == "none" or whole else BITS_PER_WEIGHT[quantization]


def _kv_bytes_per_layer(m: ModelShape, dtype_bytes: int, tensor_parallel_size: int) -> int:
    if m.mla is not None:
        return (m.mla.kv_lora_rank + m.mla.qk_rope_head_dim) * dtype_bytes
    return 2 * kv_heads_per_gpu(m, tensor_parallel_size) * m.head_dim * dtype_bytes
