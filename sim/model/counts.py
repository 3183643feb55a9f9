"""What follows from a shape: weight matrices, parameters, bytes of weights and of KV."""

from __future__ import annotations

from typing import Literal

from sim.errors import ScenarioError
from sim.model.shape import Dtype, DtypeChoice, MlaShape, ModelShape, Quantization, Stage
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One projection y[n] = W[n, k] x[k], the same in ``layers`` layers; n and k are per GPU.

    ``kind``: column splits n, row splits k and ends in an all-reduce, replicated is whole on every
    GPU. With experts, each of ``num_experts`` has its own W and a token visits ``experts_per_token``.
    """

    name: str
    n: int
    k: int
    layers: int
    kind: Literal["column", "row", "replicated"]
    num_experts: int = 1
    experts_per_token: int = 1


def check_tensor_parallel_size(m: ModelShape, tensor_parallel_size: int) -> None:
    """Refuse a split that vLLM refuses: attention heads must divide, KV heads divide or be replicated."""
    tp = tensor_parallel_size
    if m.num_attention_heads % tp:
        fitting = [n for n in (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64) if m.num_attention_heads % n == 0]
        raise ScenarioError(
            f"{m.num_attention_heads} attention heads of {m.name} cannot be split over {tp} GPUs",
            path="engine.tensor_parallel_size",
            given=tp,
            allowed="a divisor of num_attention_heads",
            hint=", ".join(map(str, fitting)),
        )
    kv = m.num_key_value_heads
    if m.mla is None and kv % tp and tp % kv:
        raise ScenarioError(
            f"{kv} KV heads of {m.name} cannot be split over, nor repeated on, {tp} GPUs",
            path="engine.tensor_parallel_size",
            given=tp,
            allowed="a divisor or a multiple of num_key_value_heads",
        )


def kv_heads_per_gpu(m: ModelShape, tensor_parallel_size: int) -> int:
    """KV heads on one GPU: split over the group, at least one each (then they are replicated)."""
    return max(1, _share(m.num_key_value_heads, tensor_parallel_size))


def layer_matrices(m: ModelShape, tensor_parallel_size: int = 1) -> tuple[Matrix, ...]:
    """Every matrix that a token is multiplied with, in the order of the forward pass, per GPU.

    Fused as vLLM fuses them (q, k and v in one; gate and up in one). The token embedding is a
    lookup and not listed; lm_head is, tied or not. Splits are Megatron's (arXiv:1909.08053, section 3);
    vLLM's padding of the vocabulary to a multiple of 64 is not modelled.
    """
    tp = tensor_parallel_size
    lm_head = Matrix(name="lm_head", n=_share(m.vocab_size, tp), k=m.hidden_size, layers=1, kind="column")
    mixers = (*_attention_matrices(m, tp), *_mamba_matrices(m, tp))
    return (*mixers, *_mlp_matrices(m, tp), *_expert_matrices(m, tp), lm_head)


def _share(size: int, tensor_parallel_size: int) -> int:
    return -(-size // tensor_parallel_size)


def _attention_matrices(m: ModelShape, tp: int) -> tuple[Matrix, ...]:
    layers = m.num_attention_layers
    if layers == 0:
        return ()
    if m.mla is not None:
        return _latent_attention_matrices(m, m.mla, tp)
    heads = _share(m.num_attention_heads, tp)
    qkv = (heads + 2 * kv_heads_per_gpu(m, tp)) * m.head_dim
    return (
        Matrix(name="qkv_proj", n=qkv, k=m.hidden_size, layers=layers, kind="column"),
        Matrix(name="o_proj", n=m.hidden_size, k=heads * m.head_dim, layers=layers, kind="row"),
    )


def _latent_attention_matrices(m: ModelShape, mla: MlaShape, tp: int) -> tuple[Matrix, ...]:
    """DeepSeek-V2's projections (arXiv:2405.04434, section 2.1): the compressions are on every GPU."""
    layers, heads = m.num_attention_layers, _share(m.num_attention_heads, tp)
    q = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    kv_a = mla.kv_lora_rank + mla.qk_rope_head_dim
    kv_b = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    queries: tuple[Matrix, ...]
    if mla.q_lora_rank is None:
        queries = (Matrix(name="q_proj", n=q, k=m.hidden_size, layers=layers, kind="column"),)
    else:
        rank = mla.q_lora_rank
        queries = (
            Matrix(name="q_a_proj", n=rank, k=m.hidden_size, layers=layers, kind="replicated"),
            Matrix(name="q_b_proj", n=q, k=rank, layers=layers, kind="column"),
        )
    return (
        *queries,
        Matrix(name="kv_a_proj", n=kv_a, k=m.hidden_size, layers=layers, kind="replicated"),
        Matrix(name="kv_b_proj", n=kv_b, k=mla.kv_lora_rank, layers=layers, kind="column"),
        Matrix(name="o_proj", n=m.hidden_size, k=heads * mla.v_head_dim, layers=layers, kind="row"),
    )


def _mamba_matrices(m: ModelShape, tp: int) -> tuple[Matrix, ...]:
    layers = m.layer_types.count("mamba")
    if m.mamba is None or layers == 0:
        return ()
    inner, states = _share(m.mamba.expand * m.hidden_size, tp), m.mamba.dt_rank + 2 * m.mamba.d_state
    return (
        Matrix(name="in_proj", n=2 * inner, k=m.hidden_size, layers=layers, kind="column"),
        Matrix(name="x_proj", n=states, k=inner, layers=layers, kind="row"),
        Matrix(name="dt_proj", n=inner, k=m.mamba.dt_rank, layers=layers, kind="column"),
        Matrix(name="out_proj", n=m.hidden_size, k=inner, layers=layers, kind="row"),
    )


def _mlp_matrices(m: ModelShape, tp: int) -> tuple[Matrix, ...]:
    layers = m.num_dense_mlp_layers
    if layers == 0:
        return ()
    inner = _share(m.intermediate_size, tp)
    name = "gate_up_proj" if m.mlp_matrices == 3 else "up_proj"
    return (
        Matrix(name=name, n=(m.mlp_matrices - 1) * inner, k=m.hidden_size, layers=layers, kind="column"),
        Matrix(name="down_proj", n=m.hidden_size, k=inner, layers=layers, kind="row"),
    )


def _expert_matrices(m: ModelShape, tp: int) -> tuple[Matrix, ...]:
    """Router, routed experts and shared experts; tensor parallelism splits inside every expert."""
    if m.moe is None or m.num_moe_layers == 0:
        return ()
    layers, moe, hidden, ups = m.num_moe_layers, m.moe, m.hidden_size, m.mlp_matrices - 1
    inner, shared = _share(moe.moe_intermediate_size, tp), _share(moe.shared_expert_intermediate_size, tp)
    routed = {"layers": layers, "num_experts": moe.num_experts, "experts_per_token": moe.num_experts_per_tok}
    matrices = (
        Matrix(name="router", n=moe.num_experts, k=hidden, layers=layers, kind="replicated"),
        Matrix(name="moe_gate_up", n=ups * inner, k=hidden, kind="column", **routed),
        Matrix(name="moe_down", n=hidden, k=inner, kind="row", **routed),
    )
    if shared == 0:
        return matrices
    return (
        *matrices,
        Matrix(name="shared_gate_up", n=ups * shared, k=hidden, layers=layers, kind="column"),
        Matrix(name="shared_down", n=hidden, k=shared, layers=layers, kind="row"),
    )


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
