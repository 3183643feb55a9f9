"""Triton kernels that calibrate the simulator: one a file, with launch, reference and analytic counts.

A new kernel is one file with a ``KERNEL`` and a line here. Counts and sizes import without torch and Triton.
"""

from __future__ import annotations

from kernels import (
    copy,
    flash_attention,
    flash_attention_backward,
    int4_matmul,
    matmul,
    paged_decode_attention,
    read,
    rms_norm,
    rope_cache,
    silu_mul,
    standard_attention,
    triad,
)
from kernels.launch import KernelSpec

KERNELS: dict[str, KernelSpec] = {
    kernel.name: kernel
    for kernel in (
        copy.KERNEL,
        triad.KERNEL,
        read.KERNEL,
        matmul.KERNEL,
        int4_matmul.KERNEL,
        rms_norm.KERNEL,
        rope_cache.KERNEL,
        silu_mul.KERNEL,
        standard_attention.KERNEL,
        flash_attention.KERNEL,
        flash_attention_backward.KERNEL,
        paged_decode_attention.KERNEL,
    )
}
