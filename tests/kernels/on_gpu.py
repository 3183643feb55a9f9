"""Every kernel in bfloat16 against its float64 reference, and the timer. Run by test_kernels.py."""

from __future__ import annotations

import pytest
import torch

from calibrate.measure.correctness import MAX_RELATIVE_ERROR, relative_error
from kernels import KERNELS
from kernels.launch import KernelSpec


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_bfloat16_against_float64(kernel: KernelSpec) -> None:
    torch.manual_seed(0)
    assert relative_error(kernel, kernel.inputs(kernel.check_size, "bfloat16", "cuda")) < MAX_RELATIVE_ERROR


def test_fp8_against_float64() -> None:
    torch.manual_seed(0)
    kernel = KERNELS["matmul"]
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("8-bit floats need compute capability 8.9")
    inputs = kernel.inputs(kernel.check_size, "float8_e4m3fn", "cuda")
    assert relative_error(kernel, inputs) < MAX_RELATIVE_ERROR


def test_a_copy_cannot_beat_the_memory() -> None:
    """A large copy takes at least its bytes over 10 TB/s and at most over 100 GB/s: the timer measures."""
    from calibrate.measure.timing import time_call

    kernel = KERNELS["copy"]
    num_values = 1 << 28
    given = kernel.inputs({"num_values": num_values}, "bfloat16", "cuda")
    rate = kernel.counts(num_values).hbm_bytes / time_call(lambda: kernel.launch(**given)).p50_s
    assert 100e9 < rate < 10e12
