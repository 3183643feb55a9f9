"""The matrices that a token is multiplied with, kind of layer by kind of layer, as one GPU holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Literal

from sim.model.mixers import (
    AttentionShape,
    DeltaShape,
    IndexerShape,
    LinearAttentionShape,
    Mamba2Shape,
    MambaShape,
    MlaShape,
    StateMixer,
)
from sim.model.shape import LayerShape, MlpShape, ModelShape, MoeShape, WeightScheme
from sim.scenario.dataclass import dataclass

Split = Literal["column", "row", "replicated"]


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
    kind: Split
    num_experts: int = 1
    experts_per_token: int = 1
    parts: tuple[int, ...] = ()  # of n, where several projections are fused; empty: one
    scheme: WeightScheme | None = None  # how the checkpoint holds it; None: 16-bit


@lru_cache(maxsize=256)  # prices ask again and again
def layer_matrices(m: ModelShape, tensor_parallel_size: int = 1) -> tuple[Matrix, ...]:
    """Every matrix that a token is multiplied with, in the order of the forward pass, per GPU.

    Fused as vLLM fuses them (q, k and v in one; gate and up in one); equal ones of several kinds of layer are
    one entry. The token embedding is a lookup and not listed; lm_head is, tied or not. Splits are Megatron's
    (arXiv:1909.08053, section 3); vLLM's padding of the vocabulary to a multiple of 64 is not modelled.
    """
    tp = tensor_parallel_size
    parts: list[Matrix] = []
    for matrices_of in (_attention_parts, _state_parts, _mlp_parts, _expert_parts):
        parts += _counted(m, matrices_of, tp)
    head = _column("lm_head", share(m.vocab_size, tp), m.hidden_size)
    return (*parts, replace(head, scheme=m.lm_head_scheme))


def kind_matrices(kind: LayerShape, hidden_size: int, tensor_parallel_size: int = 1) -> tuple[Matrix, ...]:
    """The matrices of one layer of this kind."""
    every = (_attention_parts, _state_parts, _mlp_parts, _expert_parts)
    return tuple(one for of in every for one in _held(of, kind, hidden_size, tensor_parallel_size))


def share(size: int, tensor_parallel_size: int) -> int:
    """What one GPU of the group has of ``size``, rounded up."""
    return -(-size // tensor_parallel_size)


def kv_heads_of_gpu(num_kv_heads: int, tensor_parallel_size: int) -> int:
    """KV heads on one GPU: split over the group, at least one each (then they are replicated)."""
    return max(1, share(num_kv_heads, tensor_parallel_size))


def groups_of_gpu(num_groups: int, tensor_parallel_size: int) -> int:
    """Mamba-2's groups on one GPU: split where they divide, else one on each, as vLLM repeats them."""
    return num_groups // tensor_parallel_size if num_groups % tensor_parallel_size == 0 else 1


Parts = Callable[[LayerShape, int, int], Iterable[Matrix]]


def _counted(m: ModelShape, matrices_of: Parts, tp: int) -> list[Matrix]:
    """One entry for equal matrices, with the layers of all kinds that have it."""
    layers: dict[Matrix, int] = {}
    for kind, count in m.counted_kinds():
        for matrix in _held(matrices_of, kind, m.hidden_size, tp):
            layers[matrix] = layers.get(matrix, 0) + count
    return [replace(matrix, layers=count) for matrix, count in layers.items()]


def _held(matrices_of: Parts, kind: LayerShape, hidden: int, tp: int) -> Iterable[Matrix]:
    """These matrices with the checkpoint's scheme of each."""
    if not kind.schemes:
        return matrices_of(kind, hidden, tp)
    schemes = dict(kind.schemes)
    return (replace(one, scheme=schemes.get(one.name)) for one in matrices_of(kind, hidden, tp))


def _column(name: str, n: int | tuple[int, ...], k: int) -> Matrix:
    parts = n if isinstance(n, tuple) else ()
    return Matrix(
        name=name, n=sum(n) if isinstance(n, tuple) else n, k=k, layers=1, kind="column", parts=parts
    )


def _row(name: str, n: int, k: int) -> Matrix:
    return Matrix(name=name, n=n, k=k, layers=1, kind="row")


def _whole(name: str, n: int, k: int) -> Matrix:
    return Matrix(name=name, n=n, k=k, layers=1, kind="replicated")


def _attention_parts(kind: LayerShape, hidden: int, tp: int) -> Iterator[Matrix]:
    for mixer in kind.mixers:
        if isinstance(mixer, AttentionShape):
            yield from _attention(mixer, hidden, tp)
        elif isinstance(mixer, MlaShape):
            yield from _latent_attention(mixer, hidden, tp)


def _attention(a: AttentionShape, hidden: int, tp: int) -> Iterator[Matrix]:
    heads, kv_heads = share(a.num_heads, tp), kv_heads_of_gpu(a.num_kv_heads, tp)
    queries = heads * a.head_dim * (2 if a.output_gate == "per_entry" else 1)
    if a.kv_source is not None:
        yield _column("q_proj", queries, hidden)
    else:
        values = () if a.value_is_key else (kv_heads * a.v_head_dim,)
        yield _column("qkv_proj", (queries, kv_heads * a.head_dim, *values), hidden)
    if a.output_gate == "per_head":
        yield _column("head_gate_proj", heads, hidden)
    yield _row("o_proj", hidden, heads * a.v_head_dim)


def _latent_attention(mla: MlaShape, hidden: int, tp: int) -> Iterator[Matrix]:
    """DeepSeek-V2's projections (arXiv:2405.04434, section 2.1): the compressions are on every GPU."""
    heads = share(mla.num_heads, tp)
    if mla.q_lora_rank is None:
        yield _column("q_proj", heads * mla.qk_head_dim, hidden)
    else:
        yield _whole("q_a_proj", mla.q_lora_rank, hidden)
        yield _column("q_b_proj", heads * mla.qk_head_dim, mla.q_lora_rank)
    yield _whole("kv_a_proj", mla.latent_size, hidden)
    yield _column("kv_b_proj", heads * (mla.qk_nope_head_dim + mla.v_head_dim), mla.kv_lora_rank)
    yield _row("o_proj", hidden, heads * mla.v_head_dim)
    if mla.indexer is not None and mla.indexer.own:
        yield from _indexer(mla.indexer, mla.q_lora_rank or hidden, hidden)


def _indexer(one: IndexerShape, query_size: int, hidden: int) -> Iterator[Matrix]:
    """Its queries come from the compressed ones; it is whole on every GPU."""
    yield _whole("indexer_q_proj", one.num_heads * one.head_dim, query_size)
    yield _whole("indexer_k_proj", one.head_dim, hidden)
    yield _whole("indexer_weights_proj", one.num_heads, hidden)


def _state_parts(kind: LayerShape, hidden: int, tp: int) -> Iterator[Matrix]:
    for mixer in kind.mixers:
        if not isinstance(mixer, AttentionShape | MlaShape):
            yield from _state(mixer, hidden, tp)


def _state(mixer: StateMixer, hidden: int, tp: int) -> Iterator[Matrix]:
    if isinstance(mixer, MambaShape):
        inner = share(mixer.inner_size, tp)
        yield _column("in_proj", 2 * inner, hidden)
        yield _row("x_proj", mixer.dt_rank + 2 * mixer.d_state, inner)
        yield _column("dt_proj", inner, mixer.dt_rank)
        yield _row("out_proj", hidden, inner)
    elif isinstance(mixer, Mamba2Shape):
        inner, groups = share(mixer.inner_size, tp), groups_of_gpu(mixer.num_groups, tp)
        heads = share(mixer.num_heads, tp)
        yield _column("in_proj", 2 * inner + 2 * groups * mixer.d_state + heads, hidden)
        yield _row("out_proj", hidden, inner)
    elif isinstance(mixer, DeltaShape):
        yield from _delta(mixer, hidden, tp)
    elif isinstance(mixer, LinearAttentionShape):
        inner = share(mixer.num_heads, tp) * mixer.head_dim
        yield _column("in_proj", (3 + mixer.output_gate) * inner, hidden)
        yield _row("out_proj", hidden, inner)
    else:
        inner = share(mixer.inner_size, tp)
        yield _column("in_proj", 3 * inner, hidden)
        yield _row("out_proj", hidden, inner)


def _delta(one: DeltaShape, hidden: int, tp: int) -> Iterator[Matrix]:
    keys, values = share(one.key_size, tp), share(one.value_size, tp)
    heads = share(one.num_value_heads, tp)
    if one.forgets_by_entry:
        # KDA: decay and output gate are of low rank, one head's size (arXiv:2510.26692, section 4).
        rank = one.value_head_dim
        yield _column("in_proj", 2 * keys + values, hidden)
        yield _column("beta_proj", heads, hidden)
        for name, width in (("decay", keys), ("output_gate", values)):
            yield _whole(f"{name}_a_proj", rank, hidden)
            yield _column(f"{name}_b_proj", width, rank)
    else:
        yield _column("in_proj", 2 * keys + 2 * values, hidden)
        yield _column("in_proj_ba", 2 * heads, hidden)
    yield _row("out_proj", hidden, values)


def _mlp_parts(kind: LayerShape, hidden: int, tp: int) -> Iterator[Matrix]:
    for mlp in kind.mlps:
        if isinstance(mlp, MlpShape):
            inner = share(mlp.intermediate_size, tp)
            name = "gate_up_proj" if mlp.num_matrices == 3 else "up_proj"
            yield _column(name, (inner,) * (mlp.num_matrices - 1), hidden)
            yield _row("down_proj", hidden, inner)


def _expert_parts(kind: LayerShape, hidden: int, tp: int) -> Iterator[Matrix]:
    for mlp in kind.mlps:
        if isinstance(mlp, MoeShape):
            yield from _experts(mlp, hidden, tp)


def _experts(moe: MoeShape, hidden: int, tp: int) -> Iterator[Matrix]:
    """Router, routed experts and shared experts; tensor parallelism splits inside every expert."""
    ups, width = moe.num_matrices - 1, moe.latent_size or hidden
    inner, shared = share(moe.moe_intermediate_size, tp), share(moe.shared_expert_intermediate_size, tp)
    routed = partial(replace, num_experts=moe.num_experts, experts_per_token=moe.num_experts_per_tok)
    yield _whole("router", moe.num_experts, hidden)
    if moe.latent_size is not None:
        yield _whole("latent_down_proj", width, hidden)
        yield _whole("latent_up_proj", hidden, width)
    yield routed(_column("moe_gate_up", (inner,) * ups, width))
    yield routed(_row("moe_down", width, inner))
    if shared:
        yield _column("shared_gate_up", (shared,) * ups, hidden)
        yield _row("shared_down", hidden, shared)
