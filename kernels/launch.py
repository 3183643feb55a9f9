"""What a kernel launch is: run it, or compile the very same one for a device that is not there."""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernels.language import torch, triton

Capability = tuple[int, int]  # (9, 0) is sm_90

# Dynamic shared memory that one block may ask for, bytes (CUDA C++ programming guide, table of technical
# specifications per compute capability: 163, 99, 227 KB). Compiling does not check it; a launch fails.
MAX_SRAM_BYTES_PER_BLOCK: Mapping[Capability, int] = {
    (7, 5): 64 * 1024, (8, 0): 163 * 1024, (8, 6): 99 * 1024, (8, 9): 99 * 1024,
    (9, 0): 227 * 1024, (10, 0): 227 * 1024, (12, 0): 99 * 1024,
}  # fmt: skip
MAX_GRID_AXIS = 65_535  # blocks along the second and third axis of a grid
WARP_LANES = 32
TRITON_TYPES = {
    "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8e4nv",
    "int32": "i32", "int64": "i64", "uint8": "u8", "int8": "i8",
}  # fmt: skip


class LaunchError(ValueError):
    """The kernel cannot run at this size: the message has the number and the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Work of one call: FLOPs (a multiply-add is 2) and bytes that must cross HBM (each operand once)."""

    flops: float
    hbm_bytes: float

    def __add__(self, other: Counts) -> Counts:
        return Counts(flops=self.flops + other.flops, hbm_bytes=self.hbm_bytes + other.hbm_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Block sizes of a kernel, warps of a block, and depth of the load pipeline."""

    constants: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 3

    def with_constants(self, **constants: int) -> Tiles:
        """The same with more constants."""
        return replace(self, constants={**self.constants, **constants})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one block of a compiled kernel takes; ``stack_bytes`` above 0 are registers spilled to HBM."""

    sram_bytes: int
    registers_per_thread: int
    stack_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A kernel with its grid, arguments and tiles."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    tiles: Tiles

    def run(self) -> None:
        """Run it on the device of its tensors."""
        self.kernel[self.grid](
            **self.arguments,
            **self.tiles.constants,
            num_warps=self.tiles.num_warps,
            num_stages=self.tiles.num_stages,
        )

    def resources(self, capability: Capability) -> Resources:
        """Compiled ahead of time for ``capability``, specialised as a run would be: needs no GPU."""
        compiled = triton.compile(
            self._source(),
            target=_target(capability),
            options={"num_warps": self.tiles.num_warps, "num_stages": self.tiles.num_stages},
        )
        registers, stack_bytes = _cubin_usage(compiled.asm["cubin"])
        return Resources(
            sram_bytes=compiled.metadata.shared, registers_per_thread=registers, stack_bytes=stack_bytes
        )

    def _source(self) -> Any:
        """Types of the arguments; what is 1 is a constant, and what 16 divides is said to be so."""
        from triton.compiler import ASTSource

        signature: dict[str, str] = {}
        constants: dict[str, Any] = dict(self.tiles.constants)
        attributes: dict[tuple[int, ...], list[list[object]]] = {}
        for position, name in enumerate(self.kernel.arg_names):
            value = self.arguments.get(name, constants.get(name))
            if name in constants or value is None or (type(value) is int and value == 1):
                signature[name], constants[name] = "constexpr", value
                continue
            signature[name] = triton_type(value)
            if isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0):
                attributes[(position,)] = [["tt.divisibility", 16]]
        return ASTSource(self.kernel, signature=signature, constexprs=constants, attrs=attributes)


Builds = Mapping[str, Sequence[Launch]]  # label -> what the launcher would run


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """A kernel as tests and measurements see it.

    ``inputs(size, dtype, device)`` makes random arguments for ``launch`` and ``reference`` alike;
    ``counts(**size)`` is the work; it takes ``element_bytes`` besides (``out_bytes`` where that differs).
    ``builds(capability)`` are the launches of ``sizes`` on tensors without memory, to be compiled for a
    device that is not there. A kernel that ``calibrate.measure.points`` has no
    sizes for is measured at ``sizes``. Tests and measurements go through ``kernels.KERNELS`` and know nothing
    of a kernel that does not stand here.
    """

    name: str
    launch: Callable[..., Any]
    reference: Callable[..., Any]
    counts: Callable[..., Counts]
    inputs: Callable[[Mapping[str, int], str, str], dict[str, Any]]
    builds: Callable[[Capability], Builds]
    sizes: tuple[Mapping[str, int], ...]  # typical of models, on a GPU
    small_sizes: tuple[Mapping[str, int], ...]  # odd ones that the interpreter can take
    check_size: Mapping[str, int]  # on a GPU against the reference: larger, and still quick in float64
    family: str = "other"  # the file of measurements that its rows stand in
    cpu_libraries: tuple[str, ...] = ()  # that run the same call, also without a GPU
    tile_choices: tuple[Any, ...] = (None,)  # for ``small_sizes``; None is the launcher's own choice


def triton_type(value: object) -> str:
    """ "*bf16" of a tensor, "i32" or "fp32" of a number."""
    if isinstance(value, torch.Tensor):
        return "*" + TRITON_TYPES[str(value.dtype).removeprefix("torch.")]
    if isinstance(value, int):
        return "i32" if abs(value) < 2**31 else "i64"
    return "fp32"


def check_resources(name: str, resources: Resources, capability: Capability) -> None:
    """Refuse what would not launch, or would spill."""
    limit = MAX_SRAM_BYTES_PER_BLOCK.get(capability)
    if limit is None:
        known = ", ".join(f"sm_{major}{minor}" for major, minor in MAX_SRAM_BYTES_PER_BLOCK)
        raise LaunchError(
            f"{name}: how much SRAM a block may have on sm_{capability[0]}{capability[1]} is not known; "
            f"known are {known}"
        )
    if resources.sram_bytes > limit:
        raise LaunchError(
            f"{name}: {resources.sram_bytes:,} bytes of SRAM a block; sm_{capability[0]}{capability[1]} "
            f"allows {limit:,}"
        )
    if resources.stack_bytes:
        raise LaunchError(f"{name}: registers spill, {resources.stack_bytes} bytes a thread; the limit is 0")


def capability_of(tensor: Any) -> Capability:
    """The compute capability that tiles are chosen for; off the GPU that of an A100."""
    return torch.cuda.get_device_capability(tensor.device) if tensor.is_cuda else (8, 0)


def has_wide_sram(capability: Capability) -> bool:
    """Hopper and datacenter Blackwell: 227 KB a block, and tensor cores that read their tiles from SRAM.

    An unknown device gets the smaller tiles, which run on all of them.
    """
    return capability[0] in (9, 10)


def sm_count_of(tensor: Any) -> int:
    """SMs of the tensor's device; off the GPU one, so that tests stay small."""
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 1


def meta(dtype: str, *shape: int) -> Any:
    """A tensor with a shape and a type but no memory: enough to compile for."""
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def randn(dtype: str, device: str, *shape: int) -> Any:
    """Normal values; drawn in float32, as 8-bit floats cannot be drawn."""
    values = torch.randn(shape, dtype=torch.float32, device=device)
    return values.to(getattr(torch, dtype))


def cdiv(a: int, b: int) -> int:
    """Blocks of ``b`` that cover ``a``."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << max(0, math.ceil(math.log2(n))) if n > 1 else 1


def check_head_dim(name: str, head_dim: int, allowed: tuple[int, ...] = (16, 32, 64, 128, 256)) -> None:
    """Refuse head sizes whose tile would have no power-of-two side."""
    if head_dim not in allowed:
        shown = ", ".join(map(str, allowed))
        raise LaunchError(f"{name}: head_dim is {head_dim}; allowed are {shown}")


def check_grid(name: str, **axes: int) -> None:
    """Refuse grids longer than CUDA's limit along the second and third axis."""
    for axis, length in axes.items():
        if length > MAX_GRID_AXIS:
            raise LaunchError(f"{name}: {axis} is {length:,}; a grid's axis holds {MAX_GRID_AXIS:,}")


def _target(capability: Capability) -> Any:
    from triton.backends.compiler import GPUTarget

    return GPUTarget("cuda", 10 * capability[0] + capability[1], WARP_LANES)


def _cubin_usage(cubin: bytes) -> tuple[int, int]:
    """(registers, stack bytes) of a thread, read by the cuobjdump that comes with Triton."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(tools / "cuobjdump"), "-res-usage", str(file)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise LaunchError(f"cuobjdump names no registers: {text[:200]!r}")
    return int(found[1]), int(found[2])
