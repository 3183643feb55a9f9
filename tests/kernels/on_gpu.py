"""Every kernel in bfloat16 against its float64 reference, and the timer. Run by test_kernels.py."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from calibrate.measure.correctness import MAX_RELATIVE_ERROR, relative_error
from kernels import KERNELS
from kernels.launch import KernelSpec

# Small enough for a float64 reference.
SIZES: Mapping[str, Mapping[str, int]] = {
    "matmul": {"M": 1000, "N": 1536, "K": 2048},
    "int4_matmul": {"M": 100, "N": 1536, "K": 2048},
    "rms_norm": {"M": 300, "N": 5000, "has_residual": True},
    "standard_attention": {"B": 1, "H": 8, "G": 2, "T": 1000, "S": 1000, "D": 128, "is_causal": True},
    "flash_attention": {"B": 1, "H": 8, "G": 2, "T": 1000, "S": 1500, "D": 128, "is_causal": True},
    "flash_attention_backward": {"B": 1, "H": 8, "G": 2, "T": 1000, "S": 1000, "D": 64, "is_causal": True},
    "paged_decode_attention": {"B": 7, "H": 32, "G": 8, "D": 128, "context": 3000, "block_size": 16},
    "rope_cache": {"M": 300, "H": 32, "G": 8, "D": 128, "block_size": 16},
    "silu_mul": {"M": 300, "N": 5000},
    "copy": {"num_values": 1_000_003},
    "triad": {"num_values": 1_000_003},
    "read": {"P": 132, "C": 16_384, "num_repeats": 3},
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_bfloat16_against_float64(kernel: KernelSpec) -> None:
    torch.manual_seed(0)
    assert relative_error(kernel, kernel.inputs(SIZES[kernel.name], "bfloat16", "cuda")) < MAX_RELATIVE_ERROR


def test_fp8_against_float64() -> None:
    torch.manual_seed(0)
    kernel = KERNELS["matmul"]
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("8-bit floats need compute capability 8.9")
    inputs = kernel.inputs(SIZES["matmul"], "float8_e4m3fn", "cuda")
    assert relative_error(kernel, inputs) < MAX_RELATIVE_ERROR


def test_a_copy_cannot_beat_the_memory() -> None:
    """A large copy takes at least its bytes over 10 TB/s and at most over 100 GB/s: the timer measures."""
    from calibrate.measure.timing import time_call

    kernel = KERNELS["copy"]
    num_values = 1 << 28
    given = kernel.inputs({"num_values": num_values}, "bfloat16", "cuda")
    rate = kernel.counts(num_values).hbm_bytes / time_call(lambda: kernel.launch(**given)).p50_s
    assert 100e9 < rate < 10e12
