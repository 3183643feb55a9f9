"""The launches of an attention: the algorithm's kernels with its own tiles, cut down to fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from sim.errors import ScenarioError
from sim.kernel.algorithms import decode, flash, flash1
from sim.kernel.algorithms.elementwise import stream
from sim.kernel.algorithms.problem import Problem, TileSizes, flash_1_tiles, flash_tiles
from sim.kernel.algorithms.standard import StandardAttention
from sim.kernel.gpu import Footprint, Gpu, efficiency_of, fits
from sim.kernel.launches import Launch
from sim.kernel.scenario import Tile

DECODERS = ("split_kv_decode", "paged_decode")
_STEP = 16  # columns of a tensor core's product


def attention_launches(gpu: Gpu, problem: Problem, tile: Tile, *, is_backward: bool) -> list[Launch]:
    """Forward or backward launches of the chosen algorithm."""
    algorithm, direction = problem.given.algorithm, "backward" if is_backward else "forward"
    if algorithm == "standard":
        standard = StandardAttention(gpu, problem, efficiency_of("standard", gpu.profile))
        return standard.backward() if is_backward else standard.forward()
    if algorithm in DECODERS:
        if is_backward:
            raise ScenarioError(
                "decoding has no backward pass",
                path="kernel.attention.direction",
                given=problem.given.direction,
                allowed="forward",
            )
        sizes = fitting(gpu, problem, tile, is_backward=False)
        return decode.launches(gpu, problem, sizes, efficiency_of("decode", gpu.profile), tile.num_splits)
    paged = "_paged" if problem.given.layout == "paged" else ""
    efficiency = efficiency_of(algorithm + paged, gpu.profile, direction)
    sizes = fitting(gpu, problem, tile, is_backward=is_backward)
    if algorithm == "flash_attention_1":
        return flash1.launches(gpu, problem, sizes, efficiency, is_backward=is_backward)
    if is_backward:
        return flash.backward(gpu, problem, sizes, efficiency)
    written = [cache_write(gpu, problem)] if problem.given.layout == "paged" else []
    return [*written, *flash.forward(gpu, problem, sizes, efficiency)]


def cache_write(gpu: Gpu, problem: Problem) -> Launch:
    """vLLM's reshape_and_cache: the new tokens' K and V, just made by the projection, into their pages."""
    row = problem.given.head_dim * problem.element_bytes
    size = problem.kv_heads * min(problem.given.seqlen, problem.seqlen_kv) * row
    reads, writes = {"k_new": size, "v_new": size}, {"k": size, "v": size}
    return stream(gpu, efficiency_of("stream", gpu.profile), "cache write", reads, writes, is_warm=True)


def fitting(gpu: Gpu, problem: Problem, given: Tile, *, is_backward: bool) -> TileSizes:
    """The scenario's tile as it stands, or the algorithm's own: fewer columns, then rows, where it must.

    So do the published kernels where SRAM is small or values are wide; a tile that a scenario states is
    never changed, and refused with the limit that it breaks.
    """
    footprint_of: Callable[[Problem, TileSizes], Footprint]
    if problem.given.algorithm == "flash_attention_1":
        own, footprint_of = flash_1_tiles(gpu, problem, given), flash1.footprint
    else:
        own = flash_tiles(gpu, problem, given, is_backward=is_backward)
        footprint_of = flash.backward_footprint if is_backward else flash.forward_footprint
    if replace(given, num_splits=None) != Tile():
        return own
    return next((size for size in _smaller(own) if fits(gpu, footprint_of(problem, size))), own)


def _smaller(own: TileSizes) -> Iterator[TileSizes]:
    """The tile itself, then with fewer columns, then with half the rows, then with fewer stages."""
    for num_stages in range(own.num_stages, 0, -1):
        rows = own.block_m
        while rows >= min(_STEP, own.block_m):
            yield replace(own, num_stages=num_stages, block_m=rows)
            for columns in range((own.block_n - 1) // _STEP * _STEP, 0, -_STEP):
                yield replace(own, num_stages=num_stages, block_m=rows, block_n=columns)
            rows //= 2
