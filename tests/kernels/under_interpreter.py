"""Every kernel against its reference, block by block in Triton's interpreter. Run by test_kernels.py.

float32 and float16 only: the interpreter gets bfloat16 products wrong. Sizes are odd and small.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kernels import KERNELS, copy, flash_attention, int4_matmul, matmul, paged_decode_attention, read
from kernels.launch import KernelSpec, LaunchError

# Relative error in the Euclidean norm: some roundings of the type (2^-24, 2^-11) and no more.
TOLERANCE = {"float32": 1e-6, "float16": 1e-3}
CASES = [
    pytest.param(kernel, size, tiles, dtype, id=f"{kernel.name} {size} {i} {dtype}")
    for kernel in KERNELS.values()
    for size in kernel.small_sizes
    for i, tiles in enumerate(kernel.tile_choices)
    for dtype in TOLERANCE
]


def outputs(given: Any) -> tuple[Any, ...]:
    return given if isinstance(given, tuple) else (given,)


def relative_error(value: Any, truth: Any) -> float:
    return float((value.double() - truth.double()).norm() / truth.double().norm())


@pytest.mark.parametrize(("kernel", "size", "tiles", "dtype"), CASES)
def test_equals_the_float64_reference(kernel: KernelSpec, size: Any, tiles: Any, dtype: str) -> None:
    torch.manual_seed(0)
    arguments = kernel.inputs(size, dtype, "cpu")
    truths = outputs(kernel.reference(**arguments))
    values = outputs(kernel.launch(**arguments, **({} if tiles is None else {"tiles": tiles})))
    assert len(values) == len(truths)
    for value, truth in zip(values, truths, strict=True):
        assert value.shape == truth.shape
        assert relative_error(value, truth) < TOLERANCE[dtype]


@pytest.mark.parametrize("split_k", [2, 3, 8])
def test_splits_of_k_add_up_to_the_product(split_k: int) -> None:
    torch.manual_seed(0)
    given = matmul.inputs({"M": 20, "N": 40, "K": 150}, "float32", "cpu")
    tiles = matmul.KERNEL.tile_choices[0]
    product = matmul.matmul(**given, tiles=tiles, split_k=split_k)
    assert relative_error(product, matmul.reference(**given)) < TOLERANCE["float32"]


@pytest.mark.parametrize("num_splits", [1, 2, 5])
def test_splits_of_a_context_combine_to_the_same(num_splits: int) -> None:
    """Five splits leave some empty: the shortest context has one tile of keys."""
    torch.manual_seed(0)
    given = paged_decode_attention.inputs(
        paged_decode_attention.paged_size(3, 4, 2, 16, 60), "float32", "cpu"
    )
    given["context_B"][0] = 5
    tiles = paged_decode_attention.KERNEL.tile_choices[0]
    o = paged_decode_attention.paged_decode_attention(**given, num_splits=num_splits, tiles=tiles)
    assert relative_error(o, paged_decode_attention.reference(**given)) < TOLERANCE["float32"]


def test_scores_far_from_zero_do_not_overflow() -> None:
    """exp of the scores themselves would: they reach some thousands."""
    torch.manual_seed(0)
    size = flash_attention.attention_size("1 1 1 32 32 16", True)
    given = flash_attention.inputs(size, "float32", "cpu")
    given["q_BHTD"] *= 1000
    o, _ = flash_attention.flash_attention(**given, tiles=flash_attention.SMALL_TILES[0])
    assert relative_error(o, flash_attention.reference(**given)[0]) < 1e-4  # rounding of the scores


def test_four_bits_keep_every_code() -> None:
    """Codes from -7 to 7 in the low and in the high half of a byte, at a scale of 1, come back."""
    codes = torch.arange(-7, 8, dtype=torch.float32).repeat(18)[:256].reshape(1, 256)
    codes[0, 0] = codes[0, 128] = 7
    packed, scale = int4_matmul.quantize(codes)
    assert torch.equal(int4_matmul.dequantize(packed, scale), codes.double())


def refusals() -> Iterator[Any]:
    zeros = torch.zeros
    yield "K is 100; must be a multiple of the group of 128", lambda: int4_matmul.quantize(zeros(4, 100))
    yield "A has 3 columns; B has 4 rows", lambda: matmul.matmul(zeros(2, 3), zeros(4, 5))
    fp8 = zeros(16, 16).to(torch.float8_e4m3fn)
    yield "need compute capability 8.9; this is 8.0", lambda: matmul.matmul(fp8, fp8)
    q, k, wide = zeros(1, 2, 9, 16), zeros(1, 2, 8, 16), zeros(1, 1, 4, 48)
    yield "9 queries but 8 keys", lambda: flash_attention.flash_attention(q, k, k)
    yield "head_dim is 48; allowed are 16, 32", lambda: flash_attention.flash_attention(wide, wide, wide)
    three = zeros(1, 3, 9, 16)
    yield "3 query heads; must be a multiple of the 2", lambda: flash_attention.flash_attention(three, k, k)
    yield "slices of 100 values; must be a multiple of 4096", lambda: read.read(zeros(2, 100))
    yield "0 values; at least 1", lambda: copy.copy(zeros(0))
    row = zeros(2, 40_000)
    yield (
        "hidden_size is 40,000; a row in registers holds 1 to 32,768",
        lambda: KERNELS["rms_norm"].launch(row, row[0]),
    )
    keys = zeros(1, 1, 32_769, 16)
    yield (
        "32,769 keys; a row of scores in registers holds 32,768",
        lambda: KERNELS["standard_attention"].launch(keys[:, :, :1], keys, keys),
    )
    cache = (zeros(4, 16, 1, 16), zeros(4, 16, 1, 16))
    table, context = zeros(1, 2, dtype=torch.int32), torch.tensor([40], dtype=torch.int32)
    yield (
        "a context of 40 tokens; 2 blocks of 16 hold 1 to 32",
        lambda: KERNELS["paged_decode_attention"].launch(
            zeros(1, 1, 16), cache, table, context, max_context=40
        ),
    )


@pytest.mark.parametrize(("sentence", "call"), [pytest.param(*one, id=one[0]) for one in refusals()])
def test_impossible_sizes_are_refused_with_number_and_limit(sentence: str, call: Any) -> None:
    with pytest.raises(LaunchError) as refused:
        call()
    assert sentence in str(refused.value)
