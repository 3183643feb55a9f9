"""A mixture of experts' MLP as one fused kernel: a GEMM per expert that any token picks, and the shuffling.

Tokens are sorted by expert, each expert that is hit multiplies its rows with its own weights (gate and up,
then down), and the results are summed per token. Of ``experts`` those are read that are hit:

    rows of one expert = tokens · experts per token / experts hit
    time = start-up + soft maximum of (tiles of both GEMMs over the SMs, bytes that must move) + shuffling

Tiles and bytes are ``sim.cost.laws.gemm``'s, with as many groups as experts hit. Not modelled: experts that
get more rows than the mean (the tables that this is fitted to deal them out evenly), shared experts
(matrices of their own), the exchange of expert parallelism.
"""

from __future__ import annotations

import numpy as np

from sim.cost.laws.device import Constant, Constants, Device, Floats, KernelLaw, Sizes, soft_max
from sim.cost.laws.gemm import CONSTANTS, QUANTIZE, loaded_bytes, moved_s, tiled_s
from sim.elementary import power


def experts_hit(experts: Floats | float, experts_per_token: Floats | float, tokens: Floats) -> Floats:
    """Distinct experts that ``tokens`` tokens pick, in the mean: E (1 − (1 − k/E)^n).

    Every token picks k different ones of E, all equally likely and independent of the other tokens:
    an expert is missed by one token with probability 1 − k/E. Real routers are more skewed, which hits fewer.
    """
    return experts * (1.0 - power(1.0 - experts_per_token / experts, tokens))


def seconds(sizes: Sizes, constants: Constants, device: Device) -> Floats:
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
    """Operands that the SMs load from L2 into SRAM (``sim.cost.laws.gemm.loaded_bytes``)."""
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
    name="grouped_experts", sizes=SIZES, constants=TILES_AND_BYTES | SHUFFLING, seconds=seconds
)
GROUPED_EXPERTS_QUANTIZED = KernelLaw(
    name="grouped_experts_quantized",
    sizes=SIZES,
    constants=TILES_AND_BYTES | SHUFFLING | QUANTIZE,
    seconds=seconds,
)
