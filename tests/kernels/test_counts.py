"""The kernels' counts: what the simulator's price counts for the same work, and plain arithmetic.

Needs neither torch nor Triton; with them the references are counted too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kernels import KERNELS, flash_attention, int4_matmul, matmul, paged_decode_attention, rms_norm
from kernels import flash_attention_backward as backward
from kernels import standard_attention as standard
from kernels.launch import Counts, next_power_of_2
from sim.hardware import load_hardware
from sim.model.config import load_model
from sim.model.matrices import layer_matrices
from sim.price.kernel_set import KERNEL_SETS
from sim.price.operators import StepCounter
from sim.price.priced import Precision
from sim.price.roofline import Operator

CHECKOUT = Path(__file__).parent.parent.parent
LLAMA = load_model("llama-3.1-8b")
HEADS = {"H": LLAMA.num_attention_heads, "G": LLAMA.num_key_value_heads, "D": LLAMA.head_dim}


def counter(*, is_flash: bool = True, quantization: str = "none") -> StepCounter:
    precision = Precision(dtype="bfloat16", quantization=quantization, activation_bytes=2, kv_bytes=2)
    hardware = load_hardware("h200-sxm-141gb")
    kernels = KERNEL_SETS["vllm"].with_attention("flash" if is_flash else "standard")
    return StepCounter(
        model=LLAMA, hardware=hardware, precision=precision, tensor_parallel_size=1, kernels=kernels
    )


def counted(operator: Operator) -> Counts:
    return Counts(flops=float(operator.flops[0]), hbm_bytes=float(operator.hbm_bytes[0]))


def one(value: float) -> np.ndarray:
    return np.array([float(value)])


@pytest.mark.parametrize("tokens", [1, 16, 777, 8192])
def test_matmul_counts_are_those_of_the_step_price(tokens: int) -> None:
    matrices = {matrix.name: matrix for matrix in layer_matrices(LLAMA)}
    priced = [op for op in counter().linear(one(tokens)) if op.name in matrices]
    assert [op.name for op in priced] == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    for operator in priced:
        matrix = matrices[operator.name]
        assert matmul.counts(M=tokens, N=matrix.n, K=matrix.k) == counted(operator)


@pytest.mark.parametrize("tokens", [1, 100])
def test_int4_matmul_counts_are_those_of_the_step_price_but_for_the_zeros(tokens: int) -> None:
    """The price has the 4-bit zero of every 128 weights that AWQ stores; our codes are symmetric."""
    matrices = {matrix.name: matrix for matrix in layer_matrices(LLAMA)}
    for operator in counter(quantization="int4").linear(one(tokens)):
        if operator.name in matrices:
            N, K = matrices[operator.name].n, matrices[operator.name].k
            ours = int4_matmul.counts(M=tokens, N=N, K=K)
            zeros = N * K / 128 * 4 / 8
            assert Counts(flops=ours.flops, hbm_bytes=ours.hbm_bytes + zeros) == counted(operator)


@pytest.mark.parametrize(("queries", "cached"), [(1, 0), (512, 0), (256, 3840), (8192, 0)])
def test_flash_attention_counts_are_those_of_the_step_price(queries: int, cached: int) -> None:
    """Beyond the price: 4 bytes of log-sum-exp a row, which only the backward pass needs."""
    priced = counted(counter().prefill_attention(one(queries), one(cached))[0])
    ours = flash_attention.counts(B=1, T=queries, S=queries + cached, is_causal=True, **HEADS)
    assert ours.flops == priced.flops
    assert ours.hbm_bytes - 4 * HEADS["H"] * queries == priced.hbm_bytes


def test_standard_attention_moves_the_scores_as_the_step_price_says() -> None:
    """The kernel has no mask: without the passes over it, products and softmax move as many bytes."""
    tokens = 2048
    priced = counter(is_flash=False).prefill_attention(one(tokens), one(0))
    moved = sum(op.count * float(op.hbm_bytes[0]) for op in priced if op.name != "attention_mask")
    ours = standard.counts(B=1, T=tokens, S=tokens, **HEADS)
    assert moved / LLAMA.num_hidden_layers == ours.hbm_bytes
    products = next(op for op in priced if op.name == "attention_products")
    assert products.count * float(products.flops[0]) / LLAMA.num_hidden_layers == ours.flops


@pytest.mark.parametrize(("sequences", "context"), [(1, 100), (64, 4096)])
def test_paged_decode_counts_are_those_of_the_step_price(sequences: int, context: int) -> None:
    priced = counter().decode_attention(one(sequences), one(sequences * context))
    assert paged_decode_attention.counts(B=sequences, context=context, **HEADS) == counted(priced)


def test_norms_move_what_the_step_price_says() -> None:
    """Of the three elementwise launches of a layer, the two norms with their residuals: 2 x 4 x hidden."""
    tokens = 64
    elementwise = next(op for op in counter().linear(one(tokens)) if op.name == "norm_elementwise")
    activation = tokens * LLAMA.mlp_matrices * LLAMA.intermediate_size * 2
    per_layer = 3 * float(elementwise.hbm_bytes[0])
    norm = rms_norm.counts(M=tokens, N=LLAMA.hidden_size, has_residual=True)
    weights = 2 * LLAMA.hidden_size  # the price leaves the norm's own weights out
    assert 2 * (norm.hbm_bytes - weights) + activation == per_layer


def brute_force_pairs(T: int, S: int) -> int:
    return sum(key <= query + S - T for query in range(T) for key in range(S))


@pytest.mark.parametrize(("T", "S"), [(1, 1), (5, 5), (3, 10), (17, 31)])
def test_causal_pairs_by_counting(T: int, S: int) -> None:
    assert flash_attention.pairs(T, S, True) == brute_force_pairs(T, S)
    assert flash_attention.pairs(T, S, False) == T * S


def test_backward_is_two_and_a_half_times_forward() -> None:
    """FlashAttention's own benchmark counts it so: five products of the size of forward's two."""
    shape = {"B": 2, "T": 1024, "S": 1024, **HEADS}
    assert backward.counts(**shape).flops == 2.5 * flash_attention.counts(**shape).flops


def test_matmul_by_hand() -> None:
    assert matmul.counts(2, 3, 4) == Counts(flops=48.0, hbm_bytes=2.0 * (8 + 12 + 6))
    assert matmul.counts(2, 3, 4, element_bytes=1, out_bytes=2) == Counts(flops=48.0, hbm_bytes=8 + 12 + 12)


@pytest.mark.parametrize("name", KERNELS)
def test_every_shipped_size_has_counts(name: str) -> None:
    kernel = KERNELS[name]
    assert kernel.sizes and kernel.small_sizes
    for size in (*kernel.sizes, *kernel.small_sizes, kernel.check_size):
        counts = kernel.counts(**size)
        assert counts.hbm_bytes > 0
        assert counts.flops >= 0


@pytest.mark.parametrize(("B", "context"), [(1, 7), (2, 1), (3, 33), (64, 4096)])
def test_contexts_of_a_batch_are_spread_around_their_mean(B: int, context: int) -> None:
    contexts = paged_decode_attention.spread_contexts(B, context)
    assert len(contexts) == B and min(contexts) >= 1
    assert sum(contexts) / B == pytest.approx(context, abs=0.5)
    if context >= 32 and B > 2:
        assert max(contexts) > min(contexts)


@pytest.mark.parametrize(("n", "power"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (32_768, 32_768)])
def test_next_power_of_2(n: int, power: int) -> None:
    assert next_power_of_2(n) == power


ABSENT = """
import sys
sys.modules["torch"] = sys.modules["triton"] = None
from kernels import KERNELS
from kernels.language import IS_INSTALLED
assert not IS_INSTALLED
for kernel in KERNELS.values():
    for size in (*kernel.sizes, *kernel.small_sizes, kernel.check_size):
        kernel.counts(**size)
print(KERNELS["matmul"].counts(1, 1, 1).flops)
"""


def test_counts_import_without_torch_and_triton() -> None:
    command = [sys.executable, "-c", ABSENT]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert (done.stdout.strip(), done.stderr) == ("2.0", "")
