"""Time of a matrix product, and of the grouped products of a mixture of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.elementary import power
from sim.hardware.laws.device import Constant, Constants, Device, Floats, KernelLaw, Sizes, soft_max

TILES = ((16, 64), (64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (128, 256), (256, 128))


SPLITS = (1, 2, 4, 8, 16)


THIN_ROWS = 16.0


LARGE_TILE = 128.0 * 128.0


FAR_BEYOND = 1e6  # nothing is kept, whatever the sharpness


BYTES_OF_A_SUM = 4.0  # partial sums of a split are float32


def area_name(tile: tuple[int, int]) -> str:
    """Tiles of one area share an efficiency."""
    return f"efficiency_{tile[0] * tile[1]}"


def gemm_s(sizes: Sizes, constants: Constants, device: Device) -> Floats:
    """Seconds of (m × k) · (k × n); ``weight_bits``, ``copies`` (weights in rotation), bytes per value."""
    compute = tiled_s(sizes, constants, device)
    memory = moved_s(sizes, constants, device)
    thin = np.where(sizes["m"] <= THIN_ROWS, constants["thin_start"], 1.0)
    time = constants["start_s"] * thin + soft_max(compute, memory, constants["overlap"])
    if constants.get("quantize_start_s"):
        row = constants["quantize_row_s"] + constants["quantize_bytes"] * sizes["k"] / device.hbm_bytes_per_s
        time = time + constants["quantize_start_s"] + sizes["m"] * row
    return time


def tiled_s(sizes: Sizes, constants: Constants, device: Device) -> Floats:
    """The fastest tiling's time on the SMs; ``groups`` products of that size where there are several.

    Splits of K are tried only where they could win: a split in s takes at least its share of a wave, s times
    the prologue and all of K.
    """
    shape = np.shape(sizes["m"])  # () where one product is asked for
    sizes = {name: np.atleast_1d(values) for name, values in sizes.items()}
    best = np.full_like(sizes["m"], np.inf)
    each = tiled(sizes, constants, device)
    for tiles in each:
        best = np.minimum(best, tiles.seconds(1, constants, device))
    for tiles in each:
        at_least = tiles.num_tiles / device.sm_count * (tiles.k * tiles.per_k_s + SPLITS[1] * tiles.start_s)
        may_win = np.flatnonzero(at_least <= best * (1.0 + LAST_DIGITS))
        if may_win.size:
            times = tiles.at(may_win).seconds(_LATER_SPLITS, constants, device)
            best[may_win] = np.minimum(best[may_win], times.min(axis=0))
    return best.reshape(shape)


LAST_DIGITS = 1e-9  # far more than rounding comes to
_LATER_SPLITS = np.array(SPLITS[1:], dtype=float)[:, None]


class _Tiles(NamedTuple):
    """Launches cut into tiles of one shape."""

    num_tiles: Floats
    k: Floats
    per_k_s: Floats  # a tile's time per step of K
    sum_bytes: Floats  # partial sums that one part of a split writes and reads
    start_s: float  # a tile's prologue and epilogue

    def at(self, index: npt.NDArray[np.intp]) -> _Tiles:
        """Some of the launches."""
        return _Tiles(
            self.num_tiles[index],
            self.k[index],
            self.per_k_s[index],
            self.sum_bytes[index],
            self.start_s,
        )

    def seconds(self, split: int | Floats, constants: Constants, device: Device) -> Floats:
        """Time on the SMs with K in ``split`` parts, or a row for each of several splits above 1."""
        evened = 1.0 - constants["quantisation"]
        waves = self.num_tiles * split / device.sm_count
        whole = np.ceil(waves)
        parts = np.maximum(whole + evened * (waves - whole), 1.0)
        time: Floats = parts * (self.start_s + self.k / split * self.per_k_s)
        if isinstance(split, int) and split == 1:
            return time
        l2_bytes_per_s = constants["l2_speed"] * device.hbm_bytes_per_s
        return time + constants["split_s"] + self.sum_bytes * split / l2_bytes_per_s


def tiled(sizes: Sizes, constants: Constants, device: Device) -> list[_Tiles]:
    """The launches cut into each of ``TILES``."""
    m, n, k, groups = sizes["m"], sizes["n"], sizes["k"], sizes.get("groups", 1.0)
    ideal = 2.0 * m * n * k * groups / device.flops_per_s
    slower = 1.0 + constants["throttle"] * ideal / (ideal + constants["throttle_after_s"])
    rate = device.flops_per_s / device.sm_count / slower
    load = constants["sm_load"] * device.hbm_bytes_per_s / device.sm_count
    sum_bytes = 2.0 * BYTES_OF_A_SUM * m * n * groups
    return [
        _Tiles(
            num_tiles=tile_count(sizes, tile),
            k=k,
            per_k_s=np.maximum(
                2.0 * tile[0] * tile[1] / (rate * constants[area_name(tile)]),
                operand_bytes(sizes, tile) / load,
            ),
            sum_bytes=sum_bytes,
            start_s=constants["tile_s"] + constants["tile_area_s"] * tile[0] * tile[1] / LARGE_TILE,
        )
        for tile in TILES
    ]


def tilings(
    sizes: Sizes, constants: Constants, device: Device
) -> Iterator[tuple[tuple[int, int], int, Floats]]:
    """Every tile and split of K with its time on the SMs."""
    for tile, tiles in zip(TILES, tiled(sizes, constants, device), strict=True):
        for split in SPLITS:
            yield tile, split, tiles.seconds(split, constants, device)


def tile_count(sizes: Sizes, tile: tuple[int, int]) -> Floats:
    """Output tiles of all groups."""
    rows = np.maximum(np.ceil(sizes["m"] / tile[0]), 1.0)
    count: Floats = sizes.get("groups", 1.0) * rows * np.ceil(sizes["n"] / tile[1])
    return count


def operand_bytes(sizes: Sizes, tile: tuple[int, int]) -> Floats:
    """What a tile loads per step of K: its rows of activations, its columns of weights."""
    loaded: Floats = sizes["value_bytes"] * tile[0] + sizes["weight_bits"] / 8.0 * tile[1]
    return loaded


def loaded_bytes(sizes: Sizes, constants: Constants, device: Device) -> Floats:
    """Operands that the SMs load from L2 into SRAM under the fastest tiling; edges are padded to the tile."""
    best, loaded = np.full_like(sizes["m"], np.inf), np.zeros_like(sizes["m"])
    for tile, _, time in tilings(sizes, constants, device):
        operands = tile_count(sizes, tile) * sizes["k"] * operand_bytes(sizes, tile)
        loaded = np.where(time < best, operands, loaded)
        best = np.minimum(best, time)
    return loaded


def moved_s(sizes: Sizes, constants: Constants, device: Device) -> Floats:
    """Weights, activations and output; what returns from L2 moves ``l2_speed`` times faster."""
    m, n, k, groups = sizes["m"], sizes["n"], sizes["k"], sizes.get("groups", 1.0)
    weights = groups * n * k * sizes["weight_bits"] / 8.0
    room = constants["l2_share"] * device.l2_bytes
    hot = share_kept(sizes["copies"] * weights / room, constants["l2_sharpness"])
    others = groups * (sizes["value_bytes"] * m * k + 2.0 * m * n)
    kept = share_kept(others / room, constants["l2_sharpness"])
    cold = weights * (1.0 - hot) + others * (1.0 - kept)
    warm = weights * hot + others * kept
    rate = constants["hbm_efficiency"] * device.hbm_bytes_per_s
    return (cold + warm / constants["l2_speed"]) / rate


def share_kept(of_room: Floats, sharpness: float) -> Floats:
    """How much of it returns from L2, by its size as a multiple of the room there."""
    return 1.0 / (1.0 + power(np.minimum(of_room, FAR_BEYOND), sharpness))


CONSTANTS = {
    "start_s": Constant(start=3e-6, low=5e-7, high=5e-5, unit="s", meaning="start-up of a launch"),
    "tile_s": Constant(start=1e-6, low=1e-8, high=2e-5, unit="s", meaning="prologue and epilogue of a tile"),
    "split_s": Constant(start=1e-6, low=1e-8, high=3e-5, unit="s", meaning="summing the parts of a split"),
    "quantisation": Constant(
        start=0.7, low=1e-2, high=1.0, unit="", meaning="whole waves; 0: work evened out"
    ),
    "sm_load": Constant(start=3.0, low=0.3, high=30.0, unit="of HBM", meaning="loads of all SMs from L2"),
    "l2_speed": Constant(start=2.5, low=1.0, high=10.0, unit="of HBM", meaning="L2 bandwidth"),
    "l2_share": Constant(start=0.7, low=0.05, high=2.0, unit="of L2", meaning="what stays in L2"),
    "l2_sharpness": Constant(
        start=4.0, low=2.0, high=40.0, unit="", meaning="power of the end of L2's reach", absent=4.0
    ),
    "tile_area_s": Constant(
        start=1e-7, low=1e-9, high=2e-5, unit="s", meaning="tile_s more for a tile of 128 x 128", absent=0.0
    ),
    "thin_start": Constant(
        start=0.9, low=0.05, high=1.0, unit="of start_s", meaning="up to 16 rows", absent=1.0
    ),
    "hbm_efficiency": Constant(start=0.85, low=0.2, high=1.02, unit="of peak", meaning="HBM bandwidth"),
    "overlap": Constant(start=3.0, low=1.0, high=20.0, unit="", meaning="power of the soft maximum"),
    "throttle": Constant(start=0.1, low=1e-3, high=1.0, unit="", meaning="slow-down of large GEMMs"),
    "throttle_after_s": Constant(start=1e-3, low=1e-5, high=1.0, unit="s", meaning="half of it at this size"),
} | {
    area_name(tile): Constant(start=0.7, low=0.02, high=1.05, unit="of peak", meaning="tile's FLOP rate")
    for tile in TILES
}


QUANTIZE = {
    "quantize_start_s": Constant(start=2e-6, low=1e-8, high=5e-5, unit="s", meaning="the 8-bit pass"),
    "quantize_row_s": Constant(start=5e-9, low=1e-11, high=1e-7, unit="s", meaning="per row of it"),
    "quantize_bytes": Constant(start=3.0, low=0.1, high=30.0, unit="bytes", meaning="moved per value by it"),
}


TILED_GEMM = KernelLaw(
    name="tiled_gemm",
    sizes=("m", "n", "k", "value_bytes", "weight_bits", "copies"),
    constants=CONSTANTS,
    seconds=gemm_s,
)


TILED_GEMM_QUANTIZED = KernelLaw(
    name="tiled_gemm_quantized",
    sizes=TILED_GEMM.sizes,
    constants=CONSTANTS | QUANTIZE,
    seconds=gemm_s,
)


def experts_hit(experts: Floats | float, experts_per_token: Floats | float, tokens: Floats) -> Floats:
    """Distinct experts that ``tokens`` tokens pick, in the mean: E (1 − (1 − k/E)^n).

    Every token picks k different ones of E, all equally likely and independent of the other tokens:
    an expert is missed by one token with probability 1 − k/E. Real routers are more skewed, which hits fewer.
    """
    return experts * (1.0 - power(1.0 - experts_per_token / experts, tokens))


def experts_s(sizes: Sizes, constants: Constants, device: Device) -> Floats:
    """Seconds of the fused kernel; ``inner`` is the expert's width on this GPU, ``hit`` the experts read."""
    up, down = products(sizes)
    pairs, hit = sizes["tokens"] * sizes["experts_per_token"], up["groups"]
    compute = tiled_s(up, constants, device) + tiled_s(down, constants, device)
    memory = moved_s(up, constants, device) + moved_s(down, constants, device)
    shuffled = constants["shuffle"] * pairs * sizes["hidden"] * 2.0 / device.hbm_bytes_per_s
    start = constants["start_s"] + constants["hit_s"] * hit
    if "quantize_start_s" in constants:
        row = (
            constants["quantize_row_s"]
            + constants["quantize_bytes"] * sizes["hidden"] / device.hbm_bytes_per_s
        )
        start = start + constants["quantize_start_s"] + pairs * row
    return start + soft_max(compute, memory, constants["overlap"]) + shuffled


def products(sizes: Sizes) -> tuple[Sizes, Sizes]:
    """The grouped GEMMs, gate and up in one and down: a group per expert hit."""
    pairs = sizes["tokens"] * sizes["experts_per_token"]
    hit = np.maximum(np.minimum(sizes["hit"], pairs), 1.0)
    shared = {name: sizes[name] for name in ("value_bytes", "weight_bits", "copies")}
    each = {"m": np.maximum(pairs / hit, 1.0), "groups": hit, **shared}
    up = {**each, "n": sizes["up_matrices"] * sizes["inner"], "k": sizes["hidden"]}
    return up, {**each, "n": sizes["hidden"], "k": sizes["inner"]}


def loaded_by_experts(sizes: Sizes, constants: Constants, device: Device) -> Floats:
    """Operands that the SMs load from L2 into SRAM (``sim.hardware.laws.gemm.loaded_bytes``)."""
    up, down = products(sizes)
    return loaded_bytes(up, constants, device) + loaded_bytes(down, constants, device)


SIZES = (
    "tokens", "hidden", "inner", "up_matrices", "experts_per_token", "hit",
    "value_bytes", "weight_bits", "copies",
)  # fmt: skip


SHUFFLING = {
    "hit_s": Constant(start=1e-8, low=1e-11, high=1e-6, unit="s", meaning="per expert hit"),
    "shuffle": Constant(start=2.0, low=1e-2, high=30.0, unit="of HBM", meaning="values sorted and summed"),
}


TILES_AND_BYTES = {name: one for name, one in CONSTANTS.items() if name != "thin_start"}  # one start for all


GROUPED_EXPERTS = KernelLaw(
    name="grouped_experts", sizes=SIZES, constants=TILES_AND_BYTES | SHUFFLING, seconds=experts_s
)


GROUPED_EXPERTS_QUANTIZED = KernelLaw(
    name="grouped_experts_quantized",
    sizes=SIZES,
    constants=TILES_AND_BYTES | SHUFFLING | QUANTIZE,
    seconds=experts_s,
)
