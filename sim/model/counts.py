"""What follows from a shape: weight matrices, parameters, bytes of weights and of KV."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from sim.errors import ScenarioError
from sim.model.matrices import Matrix, groups_of_gpu, kv_heads_of_gpu, layer_matrices, share
from sim.model.mixers import (
    AttentionShape,
    DeltaShape,
    LinearAttentionShape,
    Mamba2Shape,
    MambaShape,
    Mixer,
    MlaShape,
    ShortConvShape,
    StateMixer,
)
from sim.model.shape import (
    Dtype,
    DtypeChoice,
    LayerShape,
    Mlp,
    MlpShape,
    ModelShape,
    MoeShape,
)


def check_tensor_parallel_size(m: ModelShape, tensor_parallel_size: int) -> None:
    """Refuse a split that vLLM refuses, in any layer: heads must divide, KV heads divide or be replicated.

    Recurrent mixers are split by heads too (a gated delta net by its key heads); groups of Mamba-2 are not
    in the way, because they are repeated.
    """
    for kind in m.kinds:
        for mixer in kind.mixers:
            _check_heads(m, mixer, tensor_parallel_size)


def _check_heads(m: ModelShape, mixer: Mixer, tp: int) -> None:
    heads, what, key = _split_heads(mixer)
    kv = mixer.num_kv_heads if isinstance(mixer, AttentionShape) else 0
    sizes = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 64)
    fitting = [n for n in sizes if heads % n == 0 and _splits_or_repeats(kv, n)]
    if heads % tp:
        raise ScenarioError(
            f"{heads:,} {what} of {m.name} cannot be split over {tp} GPUs",
            path="engine.tensor_parallel_size",
            given=tp,
            allowed=f"a divisor of {key}",
            hint=", ".join(map(str, fitting)),
        )
    if not _splits_or_repeats(kv, tp):
        raise ScenarioError(
            f"{kv} KV heads of {m.name} cannot be split over, nor repeated on, {tp} GPUs",
            path="engine.tensor_parallel_size",
            given=tp,
            allowed="a divisor or a multiple of num_key_value_heads",
            hint=", ".join(map(str, fitting)),
        )


def _splits_or_repeats(kv_heads: int, tp: int) -> bool:
    """Each GPU has whole KV heads, its own or a copy; 0: none are split."""
    return kv_heads == 0 or kv_heads % tp == 0 or tp % kv_heads == 0


def _split_heads(mixer: Mixer) -> tuple[int, str, str]:
    """What must divide by the GPUs: how many, in words, and the config's name."""
    if isinstance(mixer, AttentionShape | MlaShape):
        return mixer.num_heads, "attention heads", "num_attention_heads"
    if isinstance(mixer, DeltaShape):
        return mixer.num_key_heads, "key heads of linear attention", "linear_num_key_heads"
    if isinstance(mixer, Mamba2Shape | LinearAttentionShape):
        return mixer.num_heads, "heads of recurrent layers", "the heads of recurrent layers"
    return mixer.inner_size, "channels of recurrent layers", "the channels of recurrent layers"


def kv_heads_per_gpu(m: ModelShape, tensor_parallel_size: int) -> int:
    """KV heads on one GPU of the model's (first full) attention."""
    return kv_heads_of_gpu(m.num_key_value_heads, tensor_parallel_size)


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
    biases = sum(
        count * (moe.num_experts - moe.num_experts_per_tok) * _expert_biases(moe, m.hidden_size)
        for kind, count in m.counted_kinds()
        if (moe := kind.moe) is not None
    )
    return num_parameters(m) - idle - biases


def embedding_parameters(m: ModelShape) -> int:
    """Token embedding, learned positions and other tables; the lm_head is a matrix."""
    return (m.vocab_size + m.learned_positions) * m.hidden_size + m.other_embedding_parameters


def vector_parameters(m: ModelShape) -> int:
    """Everything that is not a matrix: norms, biases, attention sinks, convolutions, recurrent vectors."""
    per_norm = m.hidden_size * {"layernorm": 2, "none": 0}.get(m.norm, 1)
    total = (1 + m.embedding_norm) * per_norm + m.lm_head_bias * m.vocab_size
    for kind, count in m.counted_kinds():
        per_layer = kind.norms * per_norm + kind.vectors
        per_layer += sum(_mixer_vectors(mixer, m.hidden_size) for mixer in kind.mixers)
        per_layer += sum(_mlp_vectors(mlp, m.hidden_size) for mlp in kind.mlps)
        total += count * per_layer
    return total


def _parameters_of(matrix: Matrix) -> int:
    return matrix.n * matrix.k * matrix.layers * matrix.num_experts


def _mixer_vectors(mixer: Mixer, hidden: int) -> int:
    if isinstance(mixer, AttentionShape):
        return _attention_vectors(mixer, hidden)
    if isinstance(mixer, MlaShape):
        indexer = 2 * mixer.indexer.head_dim if mixer.indexer and mixer.indexer.own else 0
        return mixer.kv_lora_rank + (mixer.q_lora_rank or 0) + mixer.output_bias * hidden + indexer
    if isinstance(mixer, MambaShape):
        inner = mixer.inner_size
        # Convolution, A, D and the step's bias.
        entries = inner * (mixer.d_conv + mixer.conv_bias + mixer.d_state + 1 + 1)
        entries += mixer.norms * (mixer.dt_rank + 2 * mixer.d_state)
        return entries + mixer.proj_bias * (2 * inner + hidden)
    if isinstance(mixer, Mamba2Shape):
        convolved = mixer.inner_size + 2 * mixer.num_groups * mixer.d_state
        entries = convolved * (mixer.d_conv + mixer.conv_bias) + 3 * mixer.num_heads
        entries += mixer.gated_norm * mixer.inner_size
        return entries + mixer.proj_bias * (mixer.inner_size + convolved + mixer.num_heads + hidden)
    if isinstance(mixer, DeltaShape):
        steps = mixer.key_size if mixer.forgets_by_entry else mixer.num_value_heads
        entries = (2 * mixer.key_size + mixer.value_size) * mixer.d_conv
        return entries + steps + mixer.num_value_heads + mixer.value_head_dim
    if isinstance(mixer, LinearAttentionShape):
        norms = mixer.output_norm * mixer.num_heads * mixer.head_dim
        return norms + mixer.qk_norm * 2 * mixer.head_dim
    return mixer.inner_size * mixer.d_conv + mixer.bias * (4 * mixer.inner_size + hidden)


def _attention_vectors(a: AttentionShape, hidden: int) -> int:
    has_kv = a.kv_source is None
    kv_heads = a.num_kv_heads if has_kv else 0
    biased = a.num_heads * a.head_dim + kv_heads * (a.head_dim + (0 if a.value_is_key else a.v_head_dim))
    normed = {"none": 0, "per_head": 1 + has_kv, "full": a.num_heads + kv_heads}[a.qk_norm] * a.head_dim
    return a.output_bias * hidden + a.sinks * a.num_heads + a.bias * biased + normed


def _mlp_vectors(mlp: Mlp, hidden: int) -> int:
    ups = mlp.num_matrices - 1
    if isinstance(mlp, MlpShape):
        return mlp.bias * (ups * mlp.intermediate_size + hidden)
    biases = mlp.num_experts * _expert_biases(mlp, hidden)
    return biases + mlp.router_bias * mlp.num_experts + mlp.shared_expert_gate * hidden


def _expert_biases(moe: MoeShape, hidden: int) -> int:
    """Of one expert."""
    return moe.bias * ((moe.num_matrices - 1) * moe.moe_intermediate_size + hidden)


DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}


def served_dtype(m: ModelShape, dtype: DtypeChoice = "auto") -> Dtype:
    """The type of weights and activations: vLLM's ``auto`` serves a float32 checkpoint in float16."""
    if dtype == "auto":
        return "float16" if m.dtype == "float32" else m.dtype
    return dtype


def kv_dtype_bytes(m: ModelShape, kv_cache_dtype: str = "auto", dtype: DtypeChoice = "auto") -> int:
    """Bytes of one KV entry: ``auto`` is the type that the checkpoint names, else the activations'."""
    named = m.checkpoint_kv_dtype if kv_cache_dtype == "auto" else kv_cache_dtype
    return DTYPE_BYTES[served_dtype(m, dtype) if named == "auto" else named]


def kv_bytes_per_token(m: ModelShape, dtype_bytes: int, tensor_parallel_size: int = 1) -> int:
    """KV bytes that one more token takes on one GPU, before any window is full.

    Attention layers x (K and V) x KV heads x head_dim x bytes; with latent attention (MLA), layers x
    (kv_lora_rank + qk_rope_head_dim) x bytes, whole on every GPU, and the keys of a sparse indexer. KV heads
    are split over the tensor parallel group and repeated where there are more GPUs than heads.
    """
    tp = tensor_parallel_size
    return sum(count * layer_kv_bytes(kind, dtype_bytes, tp) for kind, count in m.counted_kinds())


def kv_bytes_read_per_token(m: ModelShape, dtype_bytes: int, tensor_parallel_size: int = 1) -> int:
    """KV bytes of one token that all layers read on one GPU: K and V in common once for each reader."""
    shared = sum(
        count * _mixer_kv_bytes(replace(mixer, kv_source=None), dtype_bytes, tensor_parallel_size)
        for kind, count in m.counted_kinds()
        for mixer in kind.mixers
        if isinstance(mixer, AttentionShape) and mixer.kv_source is not None
    )
    return kv_bytes_per_token(m, dtype_bytes, tensor_parallel_size) + shared


def kv_bytes_for_request(
    m: ModelShape, num_tokens: int, dtype_bytes: int, tensor_parallel_size: int = 1
) -> int:
    """KV bytes of a sequence of ``num_tokens`` on one GPU: windows and chunks keep no more than their size.

    Recurrent states (``state_bytes_per_request``) are not KV and not in it.
    """
    total = 0
    for kind, count in m.counted_kinds():
        reach = kind.attention.reach if kind.attention is not None else None
        kept = num_tokens if reach is None else min(num_tokens, reach)
        total += count * layer_kv_bytes(kind, dtype_bytes, tensor_parallel_size) * kept
    return total


# One key of DeepSeek's sparse indexer, as vLLM holds it: an FP8 byte an entry and a float32 scale.
INDEXER_SCALE_BYTES = 4


def layer_kv_bytes(kind: LayerShape, dtype_bytes: int, tensor_parallel_size: int = 1) -> int:
    """KV bytes of one token in one layer on one GPU; 0 where it keeps none of its own."""
    return sum(_mixer_kv_bytes(mixer, dtype_bytes, tensor_parallel_size) for mixer in kind.mixers)


def _mixer_kv_bytes(mixer: Mixer, dtype_bytes: int, tp: int) -> int:
    if isinstance(mixer, AttentionShape) and mixer.kv_source is None:
        return kv_heads_of_gpu(mixer.num_kv_heads, tp) * (mixer.head_dim + mixer.v_head_dim) * dtype_bytes
    if isinstance(mixer, MlaShape):
        has_index = mixer.indexer is not None and mixer.indexer.own
        index = mixer.indexer.head_dim + INDEXER_SCALE_BYTES if has_index and mixer.indexer else 0
        return mixer.latent_size * dtype_bytes + index
    return 0


def state_bytes_per_request(m: ModelShape, dtype: DtypeChoice = "auto", tensor_parallel_size: int = 1) -> int:
    """Bytes of a sequence's recurrent states on one GPU, all layers, whatever its length; without padding."""
    tp = tensor_parallel_size
    return sum(
        count * layer_state_bytes(kind.state, served_dtype(m, dtype), tp)
        for kind, count in m.counted_kinds()
        if kind.state is not None
    )


def layer_state_bytes(mixer: StateMixer, dtype: Dtype, tensor_parallel_size: int = 1) -> int:
    """Bytes of one layer's state of one sequence on one GPU, as vLLM shapes it (``state_shapes``)."""
    return sum(
        prod(shape) * DTYPE_BYTES[kind] for shape, kind in state_shapes(mixer, dtype, tensor_parallel_size)
    )


def state_shapes(
    mixer: StateMixer, dtype: Dtype, tensor_parallel_size: int = 1
) -> tuple[tuple[tuple[int, ...], Dtype], ...]:
    """Each tensor that one layer keeps for a sequence on one GPU, with its type: convolution, then state.

    The last inputs of a convolution stay in the model's type, the recurrent state in its own
    (``mamba_ssm_cache_dtype`` and its like). Shapes are vLLM 0.33's.
    """
    tp, kept = tensor_parallel_size, dtype if mixer.state_dtype == "auto" else mixer.state_dtype
    if isinstance(mixer, LinearAttentionShape):
        return (((share(mixer.num_heads, tp), mixer.head_dim, mixer.head_dim), kept),)
    if isinstance(mixer, ShortConvShape):
        return (((mixer.d_conv - 1, share(mixer.inner_size, tp)), dtype),)
    if isinstance(mixer, MambaShape):
        inner = share(mixer.inner_size, tp)
        return ((mixer.d_conv - 1, inner), dtype), ((inner, mixer.d_state), kept)
    if isinstance(mixer, Mamba2Shape):
        # Groups that do not divide are repeated until each GPU has one.
        groups = groups_of_gpu(mixer.num_groups, tp)
        convolved = share(mixer.inner_size, tp) + 2 * groups * mixer.d_state
        state = (share(mixer.num_heads, tp), mixer.head_dim, mixer.d_state)
        return ((mixer.d_conv - 1, convolved), dtype), (state, kept)
    convolved = share(2 * mixer.key_size + mixer.value_size, tp)
    state = (share(mixer.num_value_heads, tp), mixer.value_head_dim, mixer.key_head_dim)
    return ((mixer.d_conv - 1, convolved), dtype), (state, kept)
