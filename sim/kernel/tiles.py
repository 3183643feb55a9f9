"""Tile sizes: each kernel generation's own choice, unless the scenario says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from sim.kernel.gpu import Gpu
from sim.kernel.problem import Problem
from sim.kernel.scenario import Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSizes:
    """Rows and columns of a tile, tiles in flight, warps of a block."""

    block_m: int
    block_n: int
    num_stages: int
    num_warps: int


_LARGE_SRAM = 140 * 1024  # A100 and later data-centre devices; Ada and the smaller Ampere have 99 KiB

# (block_m, block_n, num_stages, num_warps) by the largest head_dim they serve: the published kernels' sizes
# (flash-attention 2.7 flash_fwd_launch_template.h and flash_bwd_launch_template.h, hopper/tile_size.h).
_FLASH_2_FORWARD = {64: (128, 128, 1, 4), 128: (128, 64, 1, 4), 256: (64, 64, 1, 4), 1024: (64, 32, 1, 8)}
_FLASH_2_BACKWARD = {64: (128, 128, 1, 8), 128: (64, 128, 1, 8), 256: (64, 64, 1, 8), 1024: (32, 32, 1, 8)}
_FLASH_3_FORWARD = {
    64: (192, 128, 2, 16),
    128: (128, 128, 2, 12),
    192: (128, 96, 2, 12),
    256: (128, 80, 2, 12),
}
_FLASH_3_BACKWARD = {64: (128, 128, 2, 12), 128: (64, 128, 2, 12), 256: (64, 80, 1, 12)}
_ADA_FORWARD = {64: (128, 128, 1, 4), 128: (128, 32, 1, 4), 256: (64, 32, 1, 4), 1024: (32, 32, 1, 4)}
_DECODE_SMALL = {64: (16, 128, 2, 4), 128: (16, 64, 2, 4), 256: (16, 32, 2, 4), 1024: (16, 16, 2, 4)}
_DECODE = {64: (16, 128, 2, 4), 128: (16, 128, 2, 4), 256: (16, 64, 2, 4), 1024: (16, 32, 2, 4)}


def flash_1_tiles(gpu: Gpu, problem: Problem, given: Tile) -> TileSizes:
    """⌈M / 4d⌉ columns and min(⌈M / 4d⌉, d) rows, M an SM's SRAM in elements (2205.14135, Algorithm 1)."""
    elements = gpu.profile.sram_bytes_per_sm // problem.element_bytes
    columns = ceil(elements / (4 * problem.given.head_dim))
    rows = min(columns, problem.given.head_dim)
    return _overridden((rows, columns, 1, 8), given)


def flash_tiles(gpu: Gpu, problem: Problem, given: Tile, *, is_backward: bool) -> TileSizes:
    """The tiles of FlashAttention 2, 3 or decoding for this head size."""
    algorithm = problem.given.algorithm
    if algorithm in ("flash_attention_3", "flash_trtllm"):
        table = _FLASH_3_BACKWARD if is_backward else _FLASH_3_FORWARD
    elif algorithm in ("split_kv_decode", "paged_decode"):
        table = _DECODE if gpu.sram_bytes_per_block >= _LARGE_SRAM else _DECODE_SMALL
    elif not is_backward and gpu.sram_bytes_per_block < _LARGE_SRAM:
        table = _ADA_FORWARD
    else:
        table = _FLASH_2_BACKWARD if is_backward else _FLASH_2_FORWARD
    return _overridden(_for_head(table, problem.given.head_dim), given)


def _for_head(table: dict[int, tuple[int, int, int, int]], head_dim: int) -> tuple[int, int, int, int]:
    return next((sizes for most, sizes in table.items() if head_dim <= most), list(table.values())[-1])


def _overridden(own: tuple[int, int, int, int], given: Tile) -> TileSizes:
    return TileSizes(
        block_m=given.block_m or own[0],
        block_n=given.block_n or own[1],
        num_stages=given.num_stages or own[2],
        num_warps=given.num_warps or own[3],
    )
