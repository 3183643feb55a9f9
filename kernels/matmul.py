"""C[M, N] = A[M, K] · B[K, N], fp32 accumulation; split-K where the output has too few tiles.

Programs walk the output in groups of GROUP_M rows of tiles, so that the tiles of B that a group shares are
still in L2 when its next row asks for them (Triton tutorial 03). With SPLIT_K > 1 each program sums its
share of K into a float32 slice of its own, and ``_sum_splits`` adds the slices: the same bits every time,
which atomic additions would not give.

Shapes: M tokens, N output features, K input features, S splits of K.
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
    capability_of,
    cdiv,
    has_wide_sram,
    meta,
    randn,
    sm_count_of,
)

DTYPES = ("bfloat16", "float16", "float8_e4m3fn")
MAX_SPLITS = 8


@triton.jit
def _tile_of(pid, num_m, num_n, GROUP_M: tl.constexpr):
    """Row and column of a program's tile, in grouped order."""
    width = GROUP_M * num_n
    first_m = (pid // width) * GROUP_M
    rows = min(num_m - first_m, GROUP_M)
    return first_m + (pid % width) % rows, (pid % width) // rows


@triton.jit
def _matmul(
    a_ptr, b_ptr, c_ptr, M, N, K, a_row_stride, a_col_stride, b_row_stride, b_col_stride,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
):  # fmt: skip
    """One tile of C, or of one split of it: acc += A[tile, k] · B[k, tile] over the tiles of K."""
    pid_m, pid_n = _tile_of(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    split = tl.program_id(1)
    offs_m = (pid_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    offs_n = (pid_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    k_tiles = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT_K)
    offs_k = split * k_tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    # Rows past the edge wrap to the first: reading them needs no mask, and they are not stored.
    a_ptrs = a_ptr + (offs_m % M)[:, None] * a_row_stride + offs_k[None, :] * a_col_stride
    b_ptrs = b_ptr + offs_k[:, None] * b_row_stride + (offs_n % N)[None, :] * b_col_stride
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, k_tiles):
        left = K - (split * k_tiles + k) * BLOCK_K
        a = tl.load(a_ptrs, mask=tl.arange(0, BLOCK_K)[None, :] < left, other=0.0)
        b = tl.load(b_ptrs, mask=tl.arange(0, BLOCK_K)[:, None] < left, other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
        a_ptrs += BLOCK_K * a_col_stride
        b_ptrs += BLOCK_K * b_row_stride
    c_ptrs = c_ptr + split.to(tl.int64) * M * N + offs_m[:, None] * N + offs_n[None, :]
    tl.store(c_ptrs, acc.to(c_ptr.dtype.element_ty), mask=(offs_m[:, None] < M) & (offs_n[None, :] < N))


@triton.jit
def _sum_splits(parts_ptr, c_ptr, num_values, SPLIT_K: tl.constexpr, BLOCK: tl.constexpr):
    """C = sum over s of parts[s]."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offs < num_values
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    for split in range(SPLIT_K):
        acc += tl.load(parts_ptr + split * num_values + offs, mask=inside, other=0.0)
    tl.store(c_ptr + offs, acc.to(c_ptr.dtype.element_ty), mask=inside)


def tiles_for(capability: Capability, M: int, element_size: int) -> Tiles:
    """Tiles that fit the SRAM and registers of the device: found by compiling, see tests/kernels."""
    wide_k = 64 * 2 // element_size if element_size < 4 else 32
    if M <= 16:
        # On Blackwell four warps spill when the sum of a split is kept in float32.
        return _tiles(16, 64, 2 * wide_k, num_warps=8 if capability >= (10, 0) else 4, num_stages=4)
    if M <= 64:
        return _tiles(64, 64, wide_k, num_warps=4, num_stages=4)
    if M <= 128 or element_size == 4:
        return _tiles(64, 128, wide_k, num_warps=4, num_stages=3)
    if not has_wide_sram(capability):
        return _tiles(128, 128, wide_k // 2, num_warps=4, num_stages=4)
    return _tiles(128, 256, wide_k, num_warps=8, num_stages=3)


def _tiles(block_m: int, block_n: int, block_k: int, **launch: int) -> Tiles:
    constants = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8}
    return Tiles(constants=constants, **launch)


def split_count(M: int, N: int, K: int, tiles: Tiles, sm_count: int) -> int:
    """Splits of K that give every SM a program, each with at least four tiles of K to sum."""
    block = tiles.constants
    programs = cdiv(M, block["BLOCK_M"]) * cdiv(N, block["BLOCK_N"])
    most = max(1, min(MAX_SPLITS, K // (4 * block["BLOCK_K"])))
    return max(1, min(most, sm_count // programs))


def launches(
    a_MK: Any, b_KN: Any, c_MN: Any, *, tiles: Tiles, split_k: int = 1, parts_SMN: Any = None
) -> list[Launch]:
    """The product, and with splits the sum over them."""
    (M, K), N = a_MK.shape, b_KN.shape[1]
    target = c_MN if split_k == 1 else parts_SMN
    arguments = {
        "a_ptr": a_MK, "b_ptr": b_KN, "c_ptr": target, "M": M, "N": N, "K": K,
        "a_row_stride": a_MK.stride(0), "a_col_stride": a_MK.stride(1),
        "b_row_stride": b_KN.stride(0), "b_col_stride": b_KN.stride(1),
    }  # fmt: skip
    programs = cdiv(M, tiles.constants["BLOCK_M"]) * cdiv(N, tiles.constants["BLOCK_N"])
    product = Launch(
        kernel=_matmul,
        grid=(programs, split_k),
        arguments=arguments,
        tiles=tiles.with_constants(SPLIT_K=split_k),
    )
    return [product] if split_k == 1 else [product, sum_splits(parts_SMN, c_MN)]


def sum_splits(parts_SMN: Any, c_MN: Any) -> Launch:
    """The sum over the splits of K."""
    arguments = {"parts_ptr": parts_SMN, "c_ptr": c_MN, "num_values": c_MN.numel()}
    tiles = Tiles(constants={"SPLIT_K": parts_SMN.shape[0], "BLOCK": 1024})
    return Launch(kernel=_sum_splits, grid=(cdiv(c_MN.numel(), 1024),), arguments=arguments, tiles=tiles)


def matmul(a_MK: Any, b_KN: Any, *, tiles: Tiles | None = None, split_k: int | None = None) -> Any:
    """A · B in A's dtype (fp8 operands give bfloat16)."""
    check(a_MK, b_KN)
    (M, K), N = a_MK.shape, b_KN.shape[1]
    chosen = tiles or tiles_for(capability_of(a_MK), M, a_MK.element_size())
    splits = split_k or split_count(M, N, K, chosen, sm_count_of(a_MK))
    dtype = torch.bfloat16 if a_MK.element_size() == 1 else a_MK.dtype
    c_MN = torch.empty((M, N), dtype=dtype, device=a_MK.device)
    parts = None if splits == 1 else torch.empty((splits, M, N), dtype=torch.float32, device=a_MK.device)
    for launch in launches(a_MK, b_KN, c_MN, tiles=chosen, split_k=splits, parts_SMN=parts):
        launch.run()
    return c_MN


def check(a_MK: Any, b_KN: Any) -> None:
    """Refuse shapes that do not fit each other and types that the device cannot multiply."""
    if a_MK.shape[1] != b_KN.shape[0]:
        raise LaunchError(f"matmul: A has {a_MK.shape[1]} columns; B has {b_KN.shape[0]} rows")
    if min(*a_MK.shape, *b_KN.shape) < 1:
        raise LaunchError(f"matmul: {tuple(a_MK.shape)} x {tuple(b_KN.shape)}; every size must be at least 1")
    if a_MK.dtype != b_KN.dtype:
        raise LaunchError(f"matmul: A is {a_MK.dtype} and B {b_KN.dtype}; they must be the same")
    if a_MK.element_size() == 1 and capability_of(a_MK) < (8, 9):
        major, minor = capability_of(a_MK)
        raise LaunchError(f"matmul: 8-bit floats need compute capability 8.9; this is {major}.{minor}")


def reference(a_MK: Any, b_KN: Any) -> Any:
    """The same in float64."""
    return a_MK.double() @ b_KN.double()


def counts(M: int, N: int, K: int, element_bytes: float = 2, out_bytes: float | None = None) -> Counts:
    """2 M N K FLOPs; A and B are read once and C is written once (what ``sim.price.operators`` prices)."""
    out = element_bytes if out_bytes is None else out_bytes
    return Counts(flops=2.0 * M * N * K, hbm_bytes=element_bytes * (M * K + K * N) + out * M * N)


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """A and a weight [N, K] seen as B, as linear layers have it."""
    M, N, K = size["M"], size["N"], size["K"]
    return {"a_MK": randn(dtype, device, M, K), "b_KN": randn(dtype, device, N, K).t()}


def builds(capability: Capability) -> Builds:
    """Every tiling that ``tiles_for`` gives on this device; float16; four splits of K and their sum."""
    found = {}
    for dtype, element_size in (("bfloat16", 2), ("float8_e4m3fn", 1)):
        if element_size == 1 and capability < (8, 9):
            continue
        for M in (16, 64, 128, 4096):
            tiles, out = tiles_for(capability, M, element_size), meta("bfloat16", M, 4096)
            a, b = meta(dtype, M, 4096), meta(dtype, 4096, 4096).t()
            found[f"{dtype} M {M}"] = launches(a, b, out, tiles=tiles)
    a, b = meta("float16", 4096, 4096), meta("float16", 4096, 4096).t()
    found["float16 M 4096"] = launches(a, b, a, tiles=tiles_for(capability, 4096, 2))
    a, b = meta("bfloat16", 16, 4096), meta("bfloat16", 4096, 4096).t()
    parts, tiles = meta("float32", 4, 16, 4096), tiles_for(capability, 16, 2)
    found["bfloat16 M 16, 4 splits"] = launches(a, b, a, tiles=tiles, split_k=4, parts_SMN=parts)
    return found


KERNEL = KernelSpec(
    name="matmul",
    launch=matmul,
    reference=reference,
    counts=counts,
    inputs=inputs,
    builds=builds,
    sizes=tuple({"M": M, "N": N, "K": K} for M in (1, 128, 4096) for N, K in ((4096, 4096), (28672, 4096))),
    small_sizes=({"M": 45, "N": 51, "K": 70}, {"M": 1, "N": 33, "K": 128}, {"M": 64, "N": 64, "K": 64}),
    tile_choices=(
        _tiles(16, 32, 16, num_warps=4, num_stages=1),
        _tiles(32, 16, 32, num_warps=4, num_stages=1),
    ),
    check_size={"M": 1000, "N": 1536, "K": 2048},
    family="gemm",
    cpu_libraries=("torch",),
)
