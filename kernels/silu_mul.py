"""y = silu(gate) · up, the activation between the two projections of a gated MLP (SwiGLU: arXiv:2002.05202).

Gate and up lie side by side in a row, as the fused projection writes them.

Shapes: M tokens, N intermediate_size.
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
    cdiv,
    meta,
    randn,
)

TILES = Tiles(constants={"BLOCK": 1024}, num_warps=4)


@triton.jit
def _silu_mul(x_ptr, y_ptr, N, BLOCK: tl.constexpr):
    """A stretch of one row."""
    row = tl.program_id(0).to(tl.int64)
    offs = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offs < N
    gate = tl.load(x_ptr + row * 2 * N + offs, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * N + N + offs, mask=inside, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(y_ptr + row * N + offs, y.to(y_ptr.dtype.element_ty), mask=inside)


def launches(x_M2N: Any, y_MN: Any, *, tiles: Tiles = TILES) -> list[Launch]:
    """The one kernel."""
    M, N = y_MN.shape
    arguments = {"x_ptr": x_M2N, "y_ptr": y_MN, "N": N}
    grid = (M, cdiv(N, tiles.constants["BLOCK"]))
    return [Launch(kernel=_silu_mul, grid=grid, arguments=arguments, tiles=tiles)]


def silu_mul(x_M2N: Any, *, tiles: Tiles = TILES) -> Any:
    """silu of the first half of each row times the second half."""
    if x_M2N.shape[1] % 2:
        raise LaunchError(f"silu_mul: rows of {x_M2N.shape[1]}; gate and up need an even number")
    if not x_M2N.is_contiguous():
        raise LaunchError("silu_mul: the rows must be contiguous")
    y_MN = torch.empty((x_M2N.shape[0], x_M2N.shape[1] // 2), dtype=x_M2N.dtype, device=x_M2N.device)
    for launch in launches(x_M2N, y_MN, tiles=tiles):
        launch.run()
    return y_MN


def reference(x_M2N: Any) -> Any:
    """The same in float64."""
    gate, up = x_M2N.double().chunk(2, 1)
    return torch.nn.functional.silu(gate) * up


def counts(M: int, N: int, element_bytes: float = 2) -> Counts:
    """4 FLOPs a value (exponential, addition, division, product); two reads and one write."""
    return Counts(flops=4.0 * M * N, hbm_bytes=3.0 * M * N * element_bytes)


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """Normal values."""
    return {"x_M2N": randn(dtype, device, size["M"], 2 * size["N"])}


def builds(capability: Capability) -> Builds:
    """The MLP of Llama-3.1-8B."""
    return {"bfloat16": launches(meta("bfloat16", 64, 28_672), meta("bfloat16", 64, 14_336))}


KERNEL = KernelSpec(
    name="silu_mul",
    launch=silu_mul,
    reference=reference,
    counts=counts,
    inputs=inputs,
    builds=builds,
    sizes=tuple({"M": M, "N": 14_336} for M in (1, 256, 8192)),
    small_sizes=({"M": 3, "N": 1100}, {"M": 1, "N": 1}),
    check_size={"M": 300, "N": 5000},
    family="norm",
)
