"""y = x: one read and one write a value, what HBM gives a kernel that does nothing else.

A program moves BLOCK values; the accesses are 16 bytes wide where the type allows. (STREAM copy, McCalpin.)
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

BLOCK = 8192
TILES = Tiles(constants={"BLOCK": BLOCK}, num_warps=8)


@triton.jit
def _copy(x_ptr, y_ptr, num_values, BLOCK: tl.constexpr):
    """y[i] = x[i]."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offs < num_values
    tl.store(y_ptr + offs, tl.load(x_ptr + offs, mask=inside), mask=inside)


def launches(x: Any, y: Any, *, tiles: Tiles = TILES) -> list[Launch]:
    """The one kernel."""
    arguments = {"x_ptr": x, "y_ptr": y, "num_values": x.numel()}
    grid = (cdiv(x.numel(), tiles.constants["BLOCK"]),)
    return [Launch(kernel=_copy, grid=grid, arguments=arguments, tiles=tiles)]


def copy(x: Any, *, tiles: Tiles = TILES) -> Any:
    """A copy of a contiguous tensor."""
    check("copy", x)
    y = torch.empty_like(x)
    for launch in launches(x, y, tiles=tiles):
        launch.run()
    return y


def check(name: str, x: Any) -> None:
    """Refuse what is empty or not contiguous."""
    if x.numel() < 1:
        raise LaunchError(f"{name}: {x.numel()} values; at least 1 is needed")
    if not x.is_contiguous():
        raise LaunchError(f"{name}: the tensor must be contiguous; its strides are {tuple(x.stride())}")


def reference(x: Any) -> Any:
    """The same by torch."""
    return x.clone()


def counts(num_values: int, element_bytes: float = 2) -> Counts:
    """No FLOPs; every value read and written."""
    return Counts(flops=0.0, hbm_bytes=2.0 * num_values * element_bytes)


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """Normal values."""
    return {"x": randn(dtype, device, size["num_values"])}


def builds(capability: Capability) -> Builds:
    """bfloat16 and float32."""
    found = {}
    for dtype in ("bfloat16", "float32"):
        x = meta(dtype, 1 << 24)
        found[dtype] = launches(x, x)
    return found


KERNEL = KernelSpec(
    name="copy",
    launch=copy,
    reference=reference,
    counts=counts,
    inputs=inputs,
    builds=builds,
    sizes=tuple({"num_values": 1 << exponent} for exponent in (20, 24, 28)),
    small_sizes=({"num_values": 10_001}, {"num_values": 1}),
    check_size={"num_values": 1_000_003},
    family="memory",
    cpu_libraries=("torch",),
)
