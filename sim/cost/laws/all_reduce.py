"""All-reduce inside a node: the cheapest of three regimes, each a latency and a bandwidth.

    time = min over regimes of latency + 2 (n - 1) / n · bytes / (fraction · link bandwidth)

The regimes stand for protocols and algorithms (low latency, pipelined, whole bandwidth or in-switch
reduction). Latencies and fractions are fitted for 2, 4 and 8 GPUs; between them they are interpolated in
log(n), beyond them the nearest. Not modelled: other traffic on the links, several nodes.
"""

from __future__ import annotations

import numpy as np

from sim.cost.laws.device import Constant, Constants, Device, Floats, KernelLaw, Sizes
from sim.elementary import exp_of, log_of

REGIMES = ("low_latency", "pipelined", "bandwidth")
GPU_COUNTS = (2, 4, 8)
STARTS = {"low_latency": (10e-6, 0.2), "pipelined": (25e-6, 0.5), "bandwidth": (60e-6, 0.8)}


def seconds(sizes: Sizes, constants: Constants, device: Device) -> Floats:
    """Seconds of an all-reduce of ``bytes`` over ``gpus``."""
    gpus, message = sizes["gpus"], sizes["bytes"]
    moved = 2.0 * (gpus - 1.0) / gpus * message
    best = np.full_like(message, np.inf)
    for regime in REGIMES:
        latency = by_count(gpus, constants, f"{regime}_s")
        fraction = by_count(gpus, constants, f"{regime}_fraction")
        best = np.minimum(best, latency + moved / (fraction * device.link_bytes_per_s))
    return best


def by_count(gpus: Floats, constants: Constants, name: str) -> Floats:
    """A constant by GPU count, linear in log(n) of its logarithm."""
    known = log_of(np.array([constants[f"{name}_{count}"] for count in GPU_COUNTS]))
    return exp_of(np.interp(log_of(gpus), log_of(np.array(GPU_COUNTS, dtype=np.float64)), known))


CONSTANTS = {
    f"{regime}_s_{count}": Constant(
        start=STARTS[regime][0], low=1e-6, high=1e-2, unit="s", meaning=f"latency over {count} GPUs"
    )
    for regime in REGIMES
    for count in GPU_COUNTS
} | {
    f"{regime}_fraction_{count}": Constant(
        start=STARTS[regime][1], low=1e-4, high=2.0, unit="of link", meaning=f"bandwidth over {count} GPUs"
    )
    for regime in REGIMES
    for count in GPU_COUNTS
}
ALL_REDUCE = KernelLaw(
    name="all_reduce_regimes", sizes=("gpus", "bytes"), constants=CONSTANTS, seconds=seconds
)
