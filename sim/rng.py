"""Named random streams: adding a draw to one leaves the others alone."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of ``name`` under ``seed``.

    The same seed and name give the same draws in every variant: common random numbers. Uniform and whole
    numbers are the same everywhere. NumPy computes the tails of normal and exponential numbers (3 and 5 draws
    in 10,000) with libm's log1p, whose last digit may differ: two of 60 million exponential draws did between
    a glibc with and without FMA, no normal one. Gamma numbers of a shape below 1 do often;
    ``sim.serving.workload`` has its own.
    """
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
