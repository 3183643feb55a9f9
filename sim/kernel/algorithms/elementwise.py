"""Streaming kernels: copy, softmax, mask, dropout, normalisation. Each value is loaded and stored once."""

from __future__ import annotations

from collections.abc import Mapping

from sim.kernel.algorithms.problem import Copy, Norm
from sim.kernel.gpu import DTYPE_BYTES, Efficiency, Footprint, Gpu
from sim.kernel.launches import BlockSpec, Launch, LaunchSpec, build_launch

_CHUNK_BYTES = 16 * 1024  # that a block moves in one iteration
_BLOCKS_PER_SLOT = 16  # longer streams get longer blocks, not more of them


def stream(
    gpu: Gpu,
    efficiency: Efficiency,
    name: str,
    reads: Mapping[str, int],
    writes: Mapping[str, int],
    *,
    dtype: str = "float32",
    vector_ops: float = 0.0,
    exponentials: float = 0.0,
    memory_fraction: float = 1.0,
    is_warm: bool = False,
) -> Launch:
    """One streaming kernel over tensors of the given sizes (all of them once)."""
    total = sum(reads.values()) + sum(writes.values())
    chunks = max(1, total // _CHUNK_BYTES)
    slots = gpu.sm_count * _BLOCKS_PER_SLOT
    count = min(chunks, slots * _BLOCKS_PER_SLOT)
    blocks = [
        BlockSpec(
            name=name,
            count=number,
            iterations=max(1, chunks // count),
            loop={tensor: size // count + extra * (size % count) for tensor, size in reads.items()},
            loop_writes={tensor: size // count + extra * (size % count) for tensor, size in writes.items()},
            vector_ops=vector_ops / count,
            exponentials=exponentials / count,
        )
        # What does not divide goes to the first block, so that the bytes add up exactly.
        for number, extra in ((1, 1), (count - 1, 0))
    ]
    spec = LaunchSpec(
        name=name,
        blocks=blocks,
        footprint=Footprint(sram_bytes=8192, warps=8),
        dtype=dtype,
        efficiency=efficiency,
        num_stages=2,
        memory_fraction=memory_fraction,
        is_warm=is_warm,
    )
    return build_launch(gpu, spec)


def copy_launches(gpu: Gpu, efficiency: Efficiency, given: Copy) -> list[Launch]:
    """A device-to-device copy: every byte read and written."""
    size = int(given.size_bytes)
    return [stream(gpu, efficiency, "copy", {"source": size}, {"target": size})]


def norm_launches(gpu: Gpu, efficiency: Efficiency, given: Norm) -> list[Launch]:
    """RMSNorm, fused (one pass) or as the kernels that an unfused expression launches.

    Unfused: x² (read, write), mean (read, write a value per row), x · rsqrt(mean + eps) (read, write),
    times weight (read, write).
    """
    size = DTYPE_BYTES[given.dtype]
    x, weight, row = given.rows * given.columns * size, given.columns * size, given.rows * 4
    values = float(given.rows * given.columns)
    if given.is_fused:
        reads = {"x": x, "weight": weight}
        return [stream(gpu, efficiency, "rms_norm", reads, {"y": x}, vector_ops=4 * values)]
    steps: tuple[tuple[str, dict[str, int], dict[str, int]], ...] = (
        ("square", {"x": x}, {"square": x}),
        ("mean", {"square": x}, {"mean": row}),
        ("normalise", {"x": x, "mean": row}, {"normal": x}),
        ("weight", {"normal": x, "weight": weight}, {"y": x}),
    )
    return [stream(gpu, efficiency, name, reads, writes, vector_ops=values) for name, reads, writes in steps]
