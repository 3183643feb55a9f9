"""The weight matrices of a model, as one GPU of a tensor-parallel group holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.errors import ScenarioError
from sim.model.shape import MlaShape, ModelShape


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
