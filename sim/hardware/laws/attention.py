"""Attention kernels: blocks of query rows and KV heads over the SMs, against the bytes of the KV.

Prefill (FlashAttention 2 and later): a block is 128 query rows of one head and walks the KV up to its
diagonal; blocks run longest first, so the time is the SMs' mean load and a tail, or the longest block.
Decode: a block is one sequence and KV head (its query heads together); the KV is split over further blocks
while SMs are idle, and the parts are combined. KV that fits in L2 reads faster than HBM, where nothing
else passes through L2 in between (``copies`` 1, a hot loop; in a model the other layers do).

Not modelled: the page table, masks other than causal, sequences of unequal length in a batch (their mean).
"""

from __future__ import annotations

import numpy as np

from sim.elementary import power
from sim.hardware.laws.device import Constant, Constants, Device, Floats, KernelLaw, Sizes, soft_max

BLOCK_ROWS = 128
DECODE_ROWS = 16  # query rows that a decode block pads its group to
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
HEAD_DIMS = (64, 128, 192, 256, 512)


def by_head_dim(sizes: Sizes, constants: Constants, prefix: str) -> Floats:
    """A constant of the head size, interpolated between the sizes that were measured."""
    known = [constants[f"{prefix}_{size}"] for size in HEAD_DIMS]
    result: Floats = np.interp(sizes["head_dim"], HEAD_DIMS, known)
    return result


def prefill_s(sizes: Sizes, constants: Constants, device: Device) -> Floats:
    """``sequences`` chunks of ``queries`` tokens after ``cached`` tokens each, causal, one layer."""
    queries, cached, heads, dim = sizes["queries"], sizes["cached"], sizes["heads"], sizes["head_dim"]
    longest = cached + queries
    blocks, mean = prefill_blocks(sizes, constants)
    ideal = 4.0 * dim * BLOCK_ROWS * blocks * mean / device.flops_per_s
    slower = 1.0 + constants["throttle"] * ideal / (ideal + constants["throttle_after_s"])
    rate = device.flops_per_s * by_head_dim(sizes, constants, "efficiency") / slower
    per_sm = rate / device.sm_count
    step = 4.0 * dim * BLOCK_ROWS / per_sm  # one KV entry against a block of rows
    last = constants["block_s"] + longest * step / constants["lone_speed"]
    load = blocks / device.sm_count * (constants["block_s"] + mean * step)
    compute = soft_max(load + constants["tail"] * mean * step, last, constants["queueing"])
    kv = 2.0 * sizes["sequences"] * sizes["kv_heads"] * dim * longest * sizes["kv_bytes"]
    others = 4.0 * sizes["sequences"] * heads * dim * queries
    memory = moved_s(kv + others, 1.0, constants, device)
    return constants["start_s"] + soft_max(compute, memory, constants["overlap"])


def prefill_blocks(sizes: Sizes, constants: Constants) -> tuple[Floats, Floats]:
    """Blocks of query rows, all heads and sequences, and the KV entries that one walks in the mean."""
    queries, heads = sizes["queries"], sizes["heads"]
    group = heads / sizes["kv_heads"]
    shared = np.where(queries < BLOCK_ROWS, power(group, constants["packing"]), 1.0)  # heads in one block
    rows, lanes = queries * shared, sizes["sequences"] * heads / shared
    tiles = np.maximum(np.ceil(rows / BLOCK_ROWS), 1.0)
    return lanes * tiles, sizes["cached"] + np.minimum(queries, (queries + BLOCK_ROWS) / 2.0)


def loaded_by_prefill(sizes: Sizes, constants: Constants) -> Floats:
    """K and V that the blocks load from L2 into SRAM, and each row's query once."""
    blocks, mean = prefill_blocks(sizes, constants)
    queries = 2.0 * sizes["sequences"] * sizes["heads"] * sizes["head_dim"] * sizes["queries"]
    return blocks * mean * 2.0 * sizes["head_dim"] * sizes["kv_bytes"] + queries


def decode_s(sizes: Sizes, constants: Constants, device: Device) -> Floats:
    """``sequences`` single queries over ``context`` KV entries each, one layer."""
    sequences, context, dim = sizes["sequences"], sizes["context"], sizes["head_dim"]
    group = sizes["heads"] / sizes["kv_heads"]
    rows = DECODE_ROWS * np.ceil(group / DECODE_ROWS)
    lanes = sequences * sizes["kv_heads"]
    slow = by_head_dim(sizes, constants, "slow")
    load = constants["sm_load"] * device.hbm_bytes_per_s / device.sm_count
    rate = constants["efficiency"] * device.flops_per_s / device.sm_count
    step = slow * np.maximum(2.0 * dim * sizes["kv_bytes"] / load, 4.0 * dim * rows / rate)
    best = np.full_like(context, np.inf)
    for split in SPLITS:
        waves = np.maximum(np.ceil(lanes * split / device.sm_count), 1.0)
        time = waves * (constants["block_s"] + np.ceil(context / split) * step)
        if split > 1:
            parts = 8.0 * sequences * sizes["heads"] * dim * split / device.hbm_bytes_per_s
            time = time + constants["split_s"] + constants["combine"] * parts
        best = np.minimum(best, time)
    kv = 2.0 * lanes * dim * context * sizes["kv_bytes"] + 4.0 * sequences * sizes["heads"] * dim
    memory = power(slow, constants["slow_memory"]) * moved_s(kv, sizes["copies"], constants, device)
    filling = constants["fill_s"] * memory / (memory + constants["fill_s"])
    return constants["start_s"] + soft_max(best, memory, constants["overlap"]) + filling


def moved_s(num_bytes: Floats, copies: Floats | float, constants: Constants, device: Device) -> Floats:
    """Seconds to move what a launch reads and writes; what stays in L2 moves ``l2_speed`` times faster.

    ``copies`` times as many bytes pass through L2 until the same ones are read again.
    """
    of_room = copies * num_bytes / (constants["l2_share"] * device.l2_bytes)
    kept = 1.0 / (1.0 + of_room * of_room * of_room)
    rate = constants["hbm_efficiency"] * device.hbm_bytes_per_s
    return num_bytes * (1.0 - kept + kept / constants["l2_speed"]) / rate


PREFILL_CONSTANTS = {
    "start_s": Constant(start=8e-6, low=5e-7, high=5e-5, unit="s", meaning="start-up of a launch"),
    "block_s": Constant(start=1e-6, low=1e-8, high=2e-5, unit="s", meaning="start and end of a block"),
    "tail": Constant(start=0.5, low=1e-2, high=3.0, unit="blocks", meaning="what the last wave leaves idle"),
    "queueing": Constant(start=3.0, low=1.0, high=20.0, unit="", meaning="power: mean load, longest block"),
    "lone_speed": Constant(start=1.0, low=0.3, high=4.0, unit="", meaning="rate of a block alone on its SM"),
    "packing": Constant(
        start=0.5, low=1e-3, high=1.0, unit="", meaning="query heads of short prompts packed"
    ),
    "overlap": Constant(start=3.0, low=1.0, high=20.0, unit="", meaning="power: compute, memory"),
    "hbm_efficiency": Constant(start=0.5, low=0.1, high=1.02, unit="of peak", meaning="HBM bandwidth"),
    "l2_speed": Constant(start=2.0, low=1.0, high=10.0, unit="of HBM", meaning="L2 bandwidth"),
    "l2_share": Constant(start=0.7, low=0.05, high=2.0, unit="of L2", meaning="what stays in L2"),
    "throttle": Constant(start=0.1, low=1e-3, high=1.0, unit="", meaning="slow-down of large kernels"),
    "throttle_after_s": Constant(start=1e-3, low=1e-5, high=1.0, unit="s", meaning="half of it at this size"),
} | {
    f"efficiency_{size}": Constant(
        start=0.6, low=0.02, high=1.05, unit="of peak", meaning=f"FLOP rate, heads of {size}"
    )
    for size in HEAD_DIMS
}
DECODE_CONSTANTS = {
    "start_s": Constant(start=6e-6, low=5e-7, high=5e-5, unit="s", meaning="start-up of a launch"),
    "block_s": Constant(start=1e-6, low=1e-8, high=2e-5, unit="s", meaning="start and end of a block"),
    "sm_load": Constant(start=1.5, low=0.2, high=20.0, unit="of HBM", meaning="loads of all SMs together"),
    "efficiency": Constant(start=0.3, low=0.005, high=1.05, unit="of peak", meaning="FLOP rate"),
    "split_s": Constant(start=3e-6, low=1e-8, high=5e-5, unit="s", meaning="combining the parts of a split"),
    "combine": Constant(start=1.0, low=0.05, high=20.0, unit="passes", meaning="moves of the parts"),
    "hbm_efficiency": Constant(start=0.85, low=0.1, high=1.02, unit="of peak", meaning="HBM bandwidth"),
    "fill_s": Constant(
        start=3e-6, low=1e-8, high=3e-5, unit="s", meaning="few bytes in flight at a launch's two ends"
    ),
    "l2_speed": Constant(start=2.0, low=1.0, high=10.0, unit="of HBM", meaning="L2 bandwidth"),
    "l2_share": Constant(start=0.7, low=0.05, high=2.0, unit="of L2", meaning="what stays in L2"),
    "overlap": Constant(start=3.0, low=1.0, high=20.0, unit="", meaning="power of the soft maximum"),
    "slow_memory": Constant(
        start=0.5, low=1e-2, high=1.0, unit="", meaning="share of `slow` in the KV's moves"
    ),
} | {
    f"slow_{size}": Constant(
        start=1.0,
        low=1.0 if size == 128 else 0.5,
        high=1.0 if size == 128 else 10.0,
        unit="",
        meaning=f"time of heads of {size} over heads of 128",
    )
    for size in HEAD_DIMS
}
ATTENTION_PREFILL = KernelLaw(
    name="attention_prefill",
    sizes=("sequences", "queries", "cached", "heads", "kv_heads", "head_dim", "kv_bytes"),
    constants=PREFILL_CONSTANTS,
    seconds=prefill_s,
)
ATTENTION_DECODE = KernelLaw(
    name="attention_decode",
    sizes=("sequences", "context", "heads", "kv_heads", "head_dim", "kv_bytes", "copies"),
    constants=DECODE_CONSTANTS,
    seconds=decode_s,
)
