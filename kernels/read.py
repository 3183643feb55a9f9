"""Sums a working set again and again: the bandwidth of the level of memory that it fits into.

Each program walks its own slice ``num_repeats`` times. A slice that fits the SM's L1 (the same SRAM as shared
memory) is read from there after the first pass, a working set below the L2's size from L2, a larger one from
HBM. The sum keeps the loads alive; the start of each pass depends on the pass, so that none is hoisted.

Shapes: P programs, C values of a slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernels.copy import check
from kernels.language import tl, torch, triton
from kernels.launch import Builds, Capability, Counts, KernelSpec, Launch, LaunchError, Tiles, meta, randn

TILES = Tiles(constants={"BLOCK": 4096}, num_warps=16)


@triton.jit
def _read(x_ptr, sum_ptr, num_chunks, num_repeats, BLOCK: tl.constexpr):
    """sum[p] = num_repeats · Σ x[p, :]; every pass starts one chunk further and wraps."""
    program = tl.program_id(0)
    slice_ptr = x_ptr + program.to(tl.int64) * num_chunks * BLOCK
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    for repeat in range(num_repeats):
        for chunk in range(num_chunks):
            start = (chunk + repeat) % num_chunks * BLOCK
            acc += tl.load(slice_ptr + start + tl.arange(0, BLOCK)).to(tl.float32)
    tl.store(sum_ptr + program, tl.sum(acc, 0))


def launches(x_PC: Any, sum_P: Any, *, num_repeats: int, tiles: Tiles = TILES) -> list[Launch]:
    """The one kernel, one program a slice."""
    num_chunks = x_PC.shape[1] // tiles.constants["BLOCK"]
    arguments = {"x_ptr": x_PC, "sum_ptr": sum_P, "num_chunks": num_chunks, "num_repeats": num_repeats}
    return [Launch(kernel=_read, grid=(x_PC.shape[0],), arguments=arguments, tiles=tiles)]


def read(x_PC: Any, *, num_repeats: int = 1, tiles: Tiles = TILES) -> Any:
    """Row sums times ``num_repeats``, float32."""
    check("read", x_PC)
    block = tiles.constants["BLOCK"]
    if x_PC.shape[1] % block:
        raise LaunchError(f"read: slices of {x_PC.shape[1]} values; must be a multiple of {block}")
    if num_repeats < 1:
        raise LaunchError(f"read: num_repeats is {num_repeats}; must be at least 1")
    sum_P = torch.empty(x_PC.shape[0], dtype=torch.float32, device=x_PC.device)
    for launch in launches(x_PC, sum_P, num_repeats=num_repeats, tiles=tiles):
        launch.run()
    return sum_P


def reference(x_PC: Any, *, num_repeats: int = 1) -> Any:
    """The same in float64."""
    return x_PC.double().sum(1) * num_repeats


def counts(P: int, C: int, num_repeats: int = 1, element_bytes: float = 4) -> Counts:
    """One addition a value read; ``hbm_bytes`` are the bytes read, from whatever level holds them."""
    values = float(P) * C * num_repeats
    return Counts(flops=values, hbm_bytes=values * element_bytes)


def inputs(size: Mapping[str, int], dtype: str, device: str) -> dict[str, Any]:
    """Normal slices."""
    return {"x_PC": randn(dtype, device, size["P"], size["C"]), "num_repeats": size["num_repeats"]}


def builds(capability: Capability) -> Builds:
    """float32."""
    return {"float32": launches(meta("float32", 132, 16_384), meta("float32", 132), num_repeats=100)}


KERNEL = KernelSpec(
    name="read",
    launch=read,
    reference=reference,
    counts=counts,
    inputs=inputs,
    builds=builds,
    sizes=tuple({"P": 132, "C": C, "num_repeats": 64} for C in (16_384, 65_536, 1 << 22)),
    small_sizes=({"P": 3, "C": 8192, "num_repeats": 3}, {"P": 1, "C": 4096, "num_repeats": 1}),
    check_size={"P": 132, "C": 16_384, "num_repeats": 3},
    family="memory",
)
