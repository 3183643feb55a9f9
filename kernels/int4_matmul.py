"""C[M, N] = A[M, K] · W[N, K]ᵀ with W in 4 bits, dequantised between SRAM and the tensor cores.

W = (code − 8) · scale, one scale for every GROUP = 128 values along K (symmetric, as GPTQ and AWQ store it).
A byte holds two codes of one group: of column i of the group's first half in the low bits, of column i of
its second half in the high bits. So both halves multiply a contiguous tile of A, and nothing is interleaved.

Shapes: M tokens, N output features, K input features, J packed bytes of a row (K / 2), Q groups (K / 128),
S splits of K.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernels import matmul
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

GROUP = 128


@triton.jit
def _int4_matmul(
    a_ptr, w_ptr, scale_ptr, c_ptr, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HALF: tl.constexpr, SPLIT_K: tl.constexpr,
):  # fmt: skip
    """One tile of C, or of one split of it: two products a group, low and high bits."""
    num_n = tl.cdiv(N, BLOCK_N)
    pid_m, pid_n = tl.program_id(0) // num_n, tl.program_id(0) % num_n
    split = tl.program_id(1)
    offs_m = (pid_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    offs_n = (pid_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    half = tl.arange(0, HALF)
    num_groups = K // (2 * HALF)
    per_split = tl.cdiv(num_groups, SPLIT_K)
    a_ptrs = a_ptr + (offs_m % M)[:, None] * K + half[None, :]
    w_ptrs = w_ptr + (offs_n % N)[None, :] * (K // 2) + half[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for group in range(split * per_split, tl.minimum(num_groups, (split + 1) * per_split)):
        codes = tl.load(w_ptrs + group * HALF)
        low = tl.load(a_ptrs + group * 2 * HALF)
        high = tl.load(a_ptrs + group * 2 * HALF + HALF)
        scale = tl.load(scale_ptr + (offs_n % N) * num_groups + group).to(tl.float32)
        part = tl.dot(low, ((codes & 15).to(tl.int8) - 8).to(low.dtype), input_precision="ieee")
        part = tl.dot(high, ((codes >> 4).to(tl.int8) - 8).to(low.dtype), part, input_precision="ieee")
        acc += part * scale[None, :]
    c_ptrs = c_ptr + split.to(tl.int64) * M * N + offs_m[:, None] * N + offs_n[None, :]
    tl.store(c_ptrs, acc.to(c_ptr.dtype.element_ty), mask=(offs_m[:, None] < M) & (offs_n[None, :] < N))


def tiles_for(capability: Capability, M: int) -> Tiles:
    """Small tiles: this kernel is for few tokens, where the bytes of W are the time."""
    if M <= 16:
        return Tiles(constants={"BLOCK_M": 16, "BLOCK_N": 64, "HALF": GROUP // 2}, num_warps=4, num_stages=4)
    block_n, num_warps = (128, 8) if has_wide_sram(capability) else (64, 4)
    constants = {"BLOCK_M": 64, "BLOCK_N": block_n, "HALF": GROUP // 2}
    return Tiles(constants=constants, num_warps=num_warps, num_stages=3)


def quantize(w_NK: Any) -> tuple[Any, Any]:
    """(packed codes, scales) by rounding to nearest, the largest value of a group at ±7."""
    N, K = w_NK.shape
    check_groups(K)
    groups = w_NK.float().reshape(N, K // GROUP, GROUP)
    scale = groups.abs().amax(2).clamp_min(1e-8) / 7.0
    codes = (groups / scale[..., None]).round().clamp(-8, 7).to(torch.int16) + 8
    halves = codes.reshape(N, K // GROUP, 2, GROUP // 2)
    packed = (halves[:, :, 0] | halves[:, :, 1] << 4).to(torch.uint8)
    return packed.reshape(N, K // 2).contiguous(), scale.to(w_NK.dtype)


def dequantize(w_NJ: Any, scale_NQ: Any) -> Any:
    """W in float64."""
    N, num_groups = scale_NQ.shape
    packed = w_NJ.reshape(N, num_groups, GROUP // 2)
    codes = torch.cat([packed & 15, packed >> 4], 2).double() - 8
    return (codes * scale_NQ.double()[..., None]).reshape(N, num_groups * GROUP)


def launches(
    a_MK: Any, w_NJ: Any, scale_NQ: Any, c_MN: Any, *, tiles: Tiles, split_k: int = 1, parts_SMN: Any = None
) -> list[Launch]:
    """The product, and with splits the sum over them."""
    (M, K), N = a_MK.shape, w_NJ.shape[0]
    target = c_MN if split_k == 1 else parts_SMN
    arguments = {
        "a_ptr": a_MK, "w_ptr": w_NJ, "scale_ptr": scale_NQ, "c_ptr": target, "M": M, "N": N, "K": K,
    }  # fmt: skip
    whole = tiles.with_constants(SPLIT_K=split_k)
    programs = cdiv(M, tiles.constants["BLOCK_M"]) * cdiv(N, tiles.constants["BLOCK_N"])
    product = Launch(kernel=_int4_matmul, grid=(programs, split_k), arguments=arguments, tiles=whole)
    return [product] if split_k == 1 else [product, matmul.sum_splits(parts_SMN, c_MN)]


def int4_matmul(
    a_MK: Any, w_NJ: Any, scale_NQ: Any, *, tiles: Tiles | None = None, split_k: int | None = None
) -> Any:
    """A · Wᵀ in A's type; ``quantize`` makes the other two."""
    (M, K), N = a_MK.shape, w_NJ.shape[0]
    check_groups(K)
    if w_NJ.shape != (N, K // 2) or scale_NQ.shape != (N, K // GROUP):
        raise LaunchError(
            f"int4_matmul: codes {tuple(w_NJ.shape)}, scales {tuple(scale_NQ.shape)}; "
            f"for K = {K} they must be {(N, K // 2)} and {(N, K // GROUP)}"
        )
    if not (a_MK.is_contiguous() and w_NJ.is_contiguous() and scale_NQ.is_contiguous()):
        raise LaunchError("int4_matmul: A, codes and scales must be contiguous")
    chosen = tiles or tiles_for(capability_of(a_MK), M)
    programs = cdiv(M, chosen.constants["BLOCK_M"]) * cdiv(N, chosen.constants["BLOCK_N"])
    most = min(matmul.MAX_SPLITS, K // (2 * GROUP), sm_count_of(a_MK) // programs)
    splits = split_k or max(1, most)
    c_MN = torch.empty((M, N), dtype=a_MK.dtype, device=a_MK.device)
    parts = None if splits == 1 else torch.empty((splits, M, N), dtype=torch.float32, device=a_MK.device)
    for launch in launches(a_MK, w_NJ, scale_NQ, c_MN, tiles=chosen, split_k=splits, parts_SMN=parts):
        launch.run()
    return c_MN


def check_groups(K: int) -> None:
    """Refuse rows that are no whole number of groups."""
    if K < GROUP or K % GROUP:
        raise LaunchError(f"int4_matmul: K is {K}; must be a multiple of the group of {GROUP}")


def reference(a_MK: Any, w_NJ: Any, scale_NQ: Any) -> Any:
    """The product with the dequantised weights, in float64."""
    return a_MK.double() @ dequantize(w_NJ, scale_NQ).T


def counts(M: int, N: int, K: int, element_bytes: float = 2) -> Counts:
    """2 M N K FLOPs; half a byte a weight and a scale per 128, A read and C written in 16 bits."""
    weights = N * K * (0.5 + element_bytes / GROUP)
    return Counts(flops=2.0 * M * N * K, hbm_bytes=weights + element_bytes * (M * K + M * N))


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """Normal A; codes and scales of a normal weight."""
    codes, scale = quantize(randn(dtype, device, size["N"], size["K"]))
    return {"a_MK": randn(dtype, device, size["M"], size["K"]), "w_NJ": codes, "scale_NQ": scale}


def builds(capability: Capability) -> Builds:
    """Both tilings, and four splits of K."""
    found = {}
    for M in (16, 256):
        w, scale = meta("uint8", 4096, 2048), meta("bfloat16", 4096, 32)
        a, c = meta("bfloat16", M, 4096), meta("bfloat16", M, 4096)
        found[f"bfloat16 M {M}"] = launches(a, w, scale, c, tiles=tiles_for(capability, M))
    w, scale = meta("uint8", 4096, 2048), meta("bfloat16", 4096, 32)
    a, parts, tiles = meta("bfloat16", 16, 4096), meta("float32", 4, 16, 4096), tiles_for(capability, 16)
    split = launches(a, w, scale, a, tiles=tiles, split_k=4, parts_SMN=parts)
    return {**found, "bfloat16 M 16, 4 splits": split[:1]}  # their sum is matmul's


KERNEL = KernelSpec(
    name="int4_matmul",
    launch=int4_matmul,
    reference=reference,
    counts=counts,
    inputs=inputs,
    builds=builds,
    sizes=tuple({"M": M, "N": N, "K": 4096} for M in (1, 16, 256) for N in (4096, 28672)),
    small_sizes=({"M": 5, "N": 70, "K": 384}, {"M": 17, "N": 32, "K": 128}),
    check_size={"M": 100, "N": 1536, "K": 2048},
    family="gemm",
)
