"""y = x / sqrt(mean(x²) + eps) · w, with the residual addition in front of it where one is given.

With a residual: r ← r + x is written back and normalised, as the fused kernel of vLLM does. One program a
row, the row in registers; sums in float32. (RMSNorm: arXiv:1910.07467.)

Shapes: M tokens, N hidden_size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernels.language import tl, torch, triton
from kernels.launch import (
    Builds,
    Capability,
    Counts,
    KernelSpec,
    Launch,
    LaunchError,
    Tiles,
    meta,
    next_power_of_2,
    randn,
)

MAX_HIDDEN_SIZE = 32_768  # a row of float32 in the registers of 32 warps: 32 a thread
EPS = 1e-5


@triton.jit
def _rms_norm(
    x_ptr, w_ptr, residual_ptr, y_ptr, eps, N, HAS_RESIDUAL: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """One row."""
    row = tl.program_id(0).to(tl.int64) * N
    offs = tl.arange(0, BLOCK_N)
    inside = offs < N
    x = tl.load(x_ptr + row + offs, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + row + offs, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual_ptr + row + offs, x.to(residual_ptr.dtype.element_ty), mask=inside)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / N + eps)
    w = tl.load(w_ptr + offs, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + row + offs, (x * scale * w).to(y_ptr.dtype.element_ty), mask=inside)


def tiles_for(hidden_size: int) -> Tiles:
    """A row a program, some 16 values a thread."""
    block = next_power_of_2(hidden_size)
    return Tiles(constants={"BLOCK_N": block}, num_warps=min(32, max(1, block // 512)), num_stages=1)


def launches(x_MN: Any, w_N: Any, y_MN: Any, *, residual_MN: Any = None, eps: float = EPS) -> list[Launch]:
    """The one kernel."""
    M, N = x_MN.shape
    pointers = {"x_ptr": x_MN, "w_ptr": w_N, "residual_ptr": x_MN if residual_MN is None else residual_MN}
    chosen = tiles_for(N)
    whole = chosen.with_constants(HAS_RESIDUAL=residual_MN is not None)
    arguments = {**pointers, "y_ptr": y_MN, "eps": eps, "N": N}
    return [Launch(kernel=_rms_norm, grid=(M,), arguments=arguments, tiles=whole)]


def rms_norm(x_MN: Any, w_N: Any, *, residual_MN: Any = None, eps: float = EPS) -> Any:
    """The normalised rows; ``residual_MN`` is updated in place."""
    M, N = x_MN.shape
    if not 1 <= N <= MAX_HIDDEN_SIZE:
        raise LaunchError(
            f"rms_norm: hidden_size is {N:,}; a row in registers holds 1 to {MAX_HIDDEN_SIZE:,}"
        )
    if w_N.shape != (N,) or (residual_MN is not None and residual_MN.shape != (M, N)):
        raise LaunchError(f"rms_norm: x is {(M, N)}; w must be {(N,)} and the residual {(M, N)}")
    if not x_MN.is_contiguous() or (residual_MN is not None and not residual_MN.is_contiguous()):
        raise LaunchError("rms_norm: x and the residual must be contiguous")
    y_MN = torch.empty_like(x_MN)
    for launch in launches(x_MN, w_N, y_MN, residual_MN=residual_MN, eps=eps):
        launch.run()
    return y_MN


def reference(x_MN: Any, w_N: Any, *, residual_MN: Any = None, eps: float = EPS) -> Any:
    """The same in float64; the residual is not updated."""
    x = x_MN.double() if residual_MN is None else x_MN.double() + residual_MN.double()
    return x / torch.sqrt(x.square().mean(1, keepdim=True) + eps) * w_N.double()


def counts(M: int, N: int, *, has_residual: bool = False, element_bytes: float = 2) -> Counts:
    """4 FLOPs a value (square, add, two products); x read, y written, the residual read and written."""
    passes = 4 if has_residual else 2
    flops = (5.0 if has_residual else 4.0) * M * N
    return Counts(flops=flops, hbm_bytes=element_bytes * (passes * M * N + N))


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """Normal rows, weights around 1."""
    M, N = size["M"], size["N"]
    given = {"x_MN": randn(dtype, device, M, N), "w_N": 1 + 0.1 * randn(dtype, device, N)}
    return {**given, "residual_MN": randn(dtype, device, M, N)} if size.get("has_residual") else given


def builds(capability: Capability) -> Builds:
    """Hidden sizes 4096 and 8192, with and without a residual."""
    found = {}
    for N in (4096, 8192):
        x, w = meta("bfloat16", 512, N), meta("bfloat16", N)
        found[f"bfloat16 N {N}"] = launches(x, w, x)
        found[f"bfloat16 N {N} residual"] = launches(x, w, x, residual_MN=x)
    return found


KERNEL = KernelSpec(
    name="rms_norm",
    launch=rms_norm,
    reference=reference,
    counts=counts,
    inputs=inputs,
    builds=builds,
    sizes=tuple({"M": M, "N": N, "has_residual": True} for M in (1, 256, 8192) for N in (4096, 8192)),
    small_sizes=({"M": 5, "N": 100}, {"M": 3, "N": 64, "has_residual": True}, {"M": 1, "N": 1}),
    check_size={"M": 300, "N": 5000, "has_residual": True},
    family="norm",
    cpu_libraries=("torch",),
)
