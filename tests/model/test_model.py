"""Model shapes against published parameter counts and KV sizes, then laws over all shapes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unshipped_models import UNSHIPPED

from sim.errors import ScenarioError
from sim.model.catalogue import model_names
from sim.model.config import load_model
from sim.model.counts import (
    check_tensor_parallel_size,
    kv_bytes_for_request,
    kv_bytes_per_token,
    num_active_parameters,
    num_parameters,
    state_bytes_per_request,
)
from sim.model.matrices import layer_matrices
from sim.model.shape import ModelShape
from sim.model.weights import weight_bytes

NAMES = model_names()
EXACT = [n for n in NAMES if (load_model(n).published_parameters or 0) % 1_000_000]
GIB = 2**30


def test_there_are_enough_shipped_shapes_of_enough_kinds() -> None:
    shapes = [load_model(name) for name in NAMES]
    assert len(shapes) >= 40
    assert len({shape.architecture for shape in shapes}) >= 15
    assert any(shape.mla for shape in shapes) and any(shape.moe for shape in shapes)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_within_one_percent_of_the_published_ones(name: str) -> None:
    shape = load_model(name)
    assert shape.source.startswith("https://") and shape.published_parameters_source
    assert num_parameters(shape) == pytest.approx(shape.published_parameters, rel=0.01)
    assert shape.notes == ()


@pytest.mark.parametrize("name", EXACT)
def test_parameters_equal_an_exactly_published_count(name: str) -> None:
    assert num_parameters(load_model(name)) == load_model(name).published_parameters


def test_most_shipped_shapes_have_an_exactly_published_count() -> None:
    assert len(EXACT) >= 30


@pytest.mark.parametrize("name", UNSHIPPED)
def test_parameters_of_architectures_that_are_not_shipped(name: str) -> None:
    config, published = UNSHIPPED[name]
    assert num_parameters(load_model(config)) == published


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("mixtral-8x7b", 12.9e9),
        ("mixtral-8x22b", 39e9),
        ("qwen3-30b-a3b", 3_353_032_704),
        ("qwen3-235b-a22b", 22e9),
        ("deepseek-v3", 37_552_282_624),
    ],
)
def test_active_parameters_are_the_published_ones(name: str, published: float) -> None:
    assert num_active_parameters(load_model(name)) == pytest.approx(published, rel=0.01)


def test_active_parameters_without_the_embedding_where_the_card_leaves_it_out() -> None:
    # arXiv:2508.10925, table 1: 5.13B and 3.61B active, "excluding embeddings".
    for name, published in (("gpt-oss-120b", 5.13e9), ("gpt-oss-20b", 3.61e9)):
        shape = load_model(name)
        active = num_active_parameters(shape) - shape.vocab_size * shape.hidden_size
        assert active == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt-oss-120b", 73_728),  # hf-mem#60: 5.38 GiB are 78,384 tokens
        ("llama-3.1-8b", 128 * 1024),
        ("llama-3.1-70b", 320 * 1024),
        ("opt-13b", 800 * 1024),  # arXiv:2309.06180, section 3: 800 KB
        ("qwen2.5-7b", 57_344),
        ("llama-2-7b", 512 * 1024),
        ("starcoder-15b", 2 * 40 * 128 * 2),  # multi-query: one KV head
        ("deepseek-v3", 61 * 576 * 2),  # arXiv:2405.04434: latent 512 + rope 64
    ],
)
def test_kv_bytes_per_token_are_the_published_ones(name: str, published: int) -> None:
    assert kv_bytes_per_token(load_model(name), 2) == published


@pytest.mark.parametrize(
    ("name", "quantization", "published_gib"),
    [
        ("llama-3.1-8b", "none", 14.96),  # vllm#10511: "model weights take 14.96GiB"
        ("gpt-oss-120b", "none", 60.8),  # arXiv:2508.10925: checkpoint size
        ("gpt-oss-20b", "none", 12.8),
    ],
)
def test_weight_bytes_are_the_published_ones(name: str, quantization: Any, published_gib: float) -> None:
    weights = weight_bytes(load_model(name), quantization=quantization)
    assert weights / GIB == pytest.approx(published_gib, rel=0.002)


def test_weights_of_two_gpus_are_what_vllm_logs() -> None:
    # vllm#10511: Meta-Llama-3-8B with tensor_parallel_size 2, "model weights take 7.48GiB".
    assert weight_bytes(load_model("llama-3-8b"), tensor_parallel_size=2) / GIB == pytest.approx(
        7.48, abs=5e-3
    )


def test_sliding_and_full_layers_alternate_as_published() -> None:
    gemma3, gemma2, oss = (load_model(n) for n in ("gemma-3-27b", "gemma-2-9b", "gpt-oss-20b"))
    assert [i for i, kind in enumerate(gemma3.layer_types) if kind == "full_attention"] == list(
        range(5, 62, 6)
    )
    assert gemma2.layer_types[:3] == ("sliding_attention", "full_attention", "sliding_attention")
    assert (oss.num_sliding_layers, oss.sliding_window) == (12, 128)
    assert load_model("mistral-7b-v0.1").num_sliding_layers == 32
    assert load_model("mixtral-8x7b").num_sliding_layers == 0


def test_kv_of_a_request_stops_at_the_window() -> None:
    # 18 full and 18 sliding layers of 2,048 B each, window 128.
    oss = load_model("gpt-oss-120b")
    assert kv_bytes_for_request(oss, 1000, 2) == 2048 * (18 * 1000 + 18 * 128)
    assert kv_bytes_for_request(oss, 100, 2) == 100 * kv_bytes_per_token(oss, 2)


def test_a_jamba_sequence_has_kv_in_four_layers_and_a_state_in_28() -> None:
    jamba = load_model(UNSHIPPED["jamba-v0.1"][0])
    assert kv_bytes_per_token(jamba, 2) == 2 * 4 * 8 * 128 * 2
    assert state_bytes_per_request(jamba) == 28 * 8192 * (16 + 3) * 2
    assert state_bytes_per_request(load_model("llama-3.1-8b")) == 0


def test_dense_layers_of_a_mixture_come_first() -> None:
    v3 = load_model("deepseek-v3")
    layers = {matrix.name: matrix.layers for matrix in layer_matrices(v3)}
    assert (layers["gate_up_proj"], layers["moe_gate_up"], layers["shared_down"]) == (3, 58, 58)


def test_matrices_of_llama_under_tensor_parallelism() -> None:
    found = {m.name: (m.n, m.k, m.layers, m.kind) for m in layer_matrices(load_model("llama-3.1-70b"), 8)}
    assert found == {
        "qkv_proj": ((8 + 2) * 128, 8192, 80, "column"),
        "o_proj": (8192, 8 * 128, 80, "row"),
        "gate_up_proj": (2 * 3584, 8192, 80, "column"),
        "down_proj": (8192, 3584, 80, "row"),
        "lm_head": (16032, 8192, 1, "column"),
    }


def test_kv_heads_are_repeated_where_there_are_more_gpus_than_heads() -> None:
    qwen = load_model("qwen2.5-7b")  # 28 heads, 4 KV heads
    assert kv_bytes_per_token(qwen, 2, 4) == kv_bytes_per_token(qwen, 2) // 4
    assert kv_bytes_per_token(load_model("llama-3.1-405b"), 2, 16) == 126 * 2 * 128 * 2


def test_a_split_that_vllm_refuses_is_refused() -> None:
    with pytest.raises(ScenarioError, match="28 attention heads") as caught:
        check_tensor_parallel_size(load_model("qwen2.5-7b"), 8)
    assert caught.value.path == "engine.tensor_parallel_size" and "1, 2, 4" in caught.value.hint
    with pytest.raises(ScenarioError, match="KV heads"):
        check_tensor_parallel_size(load_model({"base": "llama-2-13b", "num_key_value_heads": 10}), 4)


shapes = st.sampled_from(NAMES).map(load_model)
splits = st.sampled_from([1, 2, 4, 8, 16])


@given(shape=shapes, tokens=st.integers(1, 200_000), width=st.sampled_from([1, 2, 4]), tp=splits)
def test_kv_of_a_request_never_exceeds_tokens_times_bytes(
    shape: ModelShape, tokens: int, width: int, tp: int
) -> None:
    per_token = kv_bytes_per_token(shape, width, tp)
    request = kv_bytes_for_request(shape, tokens, width, tp)
    grown = kv_bytes_for_request(shape, tokens + 1, width, tp)
    assert 0 < request <= tokens * per_token and request <= grown <= request + per_token
    reaches = [kind.attention.reach for kind in shape.kinds if kind.attention and kind.attention.reach]
    if tokens <= min(reaches, default=tokens):
        assert request == tokens * per_token


@given(shape=shapes, tp=splits)
def test_a_group_holds_at_least_the_whole(shape: ModelShape, tp: int) -> None:
    assert tp * kv_bytes_per_token(shape, 2, tp) >= kv_bytes_per_token(shape, 2)
    assert tp * weight_bytes(shape, tensor_parallel_size=tp) >= weight_bytes(shape)
    for whole, part in zip(layer_matrices(shape), layer_matrices(shape, tp), strict=True):
        assert whole.n * whole.k <= part.n * part.k * (tp if part.kind != "replicated" else 1)


@given(shape=shapes.filter(lambda shape: shape.checkpoint_quantization == "none"))
def test_fewer_bits_take_fewer_bytes(shape: ModelShape) -> None:
    sizes = [weight_bytes(shape, quantization=kind) for kind in ("none", "fp8", "int4")]
    assert sizes == sorted(sizes, reverse=True)
    assert weight_bytes(shape, quantization="int8") == sizes[1]
    # 4-bit codes and, per 128, a 16-bit scale and a 4-bit zero; what is not quantised stays.
    kept = 2 * sizes[1] - sizes[0]
    assert sizes[2] - kept == pytest.approx((sizes[0] - kept) * (4 + 20 / 128) / 16, rel=1e-6)


def test_the_type_of_the_weights_follows_vllm() -> None:
    gpt2 = load_model("gpt2")  # published in float32
    assert weight_bytes(gpt2) == 2 * num_parameters(gpt2)
    assert weight_bytes(gpt2, dtype="float32") == 4 * num_parameters(gpt2)
