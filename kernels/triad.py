"""y = a + scale · b: two reads and one write a value (STREAM triad, McCalpin)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernels.copy import TILES, check
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


@triton.jit
def _triad(a_ptr, b_ptr, y_ptr, scale, num_values, BLOCK: tl.constexpr):
    """y[i] = a[i] + scale · b[i], in float32."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offs < num_values
    a = tl.load(a_ptr + offs, mask=inside).to(tl.float32)
    b = tl.load(b_ptr + offs, mask=inside).to(tl.float32)
    tl.store(y_ptr + offs, (a + scale * b).to(y_ptr.dtype.element_ty), mask=inside)


def launches(a: Any, b: Any, y: Any, *, scale: float, tiles: Tiles = TILES) -> list[Launch]:
    """The one kernel."""
    arguments = {"a_ptr": a, "b_ptr": b, "y_ptr": y, "scale": scale, "num_values": a.numel()}
    grid = (cdiv(a.numel(), tiles.constants["BLOCK"]),)
    return [Launch(kernel=_triad, grid=grid, arguments=arguments, tiles=tiles)]


def triad(a: Any, b: Any, *, scale: float = 3.0, tiles: Tiles = TILES) -> Any:
    """a + scale · b of two contiguous tensors of one shape."""
    check("triad", a)
    check("triad", b)
    if a.shape != b.shape or a.dtype != b.dtype:
        raise LaunchError(
            f"triad: {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}; must be the same"
        )
    y = torch.empty_like(a)
    for launch in launches(a, b, y, scale=scale, tiles=tiles):
        launch.run()
    return y


def reference(a: Any, b: Any, *, scale: float = 3.0) -> Any:
    """The same in float64."""
    return a.double() + scale * b.double()


def counts(num_values: int, element_bytes: float = 2) -> Counts:
    """One multiply-add a value; two reads and one write."""
    return Counts(flops=2.0 * num_values, hbm_bytes=3.0 * num_values * element_bytes)


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """Normal values."""
    return {name: randn(dtype, device, size["num_values"]) for name in ("a", "b")}


def builds(capability: Capability) -> Builds:
    """bfloat16 and float32."""
    found = {}
    for dtype in ("bfloat16", "float32"):
        x = meta(dtype, 1 << 24)
        found[dtype] = launches(x, x, x, scale=3.0)
    return found


KERNEL = KernelSpec(
    name="triad",
    launch=triad,
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
