"""What a kernel law sees: the device's limits, the sizes of a launch, the law's fitted constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from sim.elementary import power
from sim.scenario.dataclass import dataclass

Floats = npt.NDArray[np.float64]
Sizes = Mapping[str, Floats]
Constants = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The peaks that a law's constants are fractions of."""

    sm_count: int
    flops_per_s: float  # dense peak of the operator's type
    hbm_bytes_per_s: float
    l2_bytes: float
    link_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A law's constant: where its fit starts, between which bounds, and what it is.

    ``absent`` is its value in profiles fitted before the law had it: the law as it was.
    """

    start: float
    low: float
    high: float
    unit: str
    meaning: str
    absent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLaw:
    """Seconds of one launch from its sizes: a formula with few constants, all positive."""

    name: str
    sizes: tuple[str, ...]
    constants: Mapping[str, Constant]
    seconds: Callable[[Sizes, Constants, Device], Floats]


def soft_max(first: Floats, second: Floats, sharpness: float) -> Floats:
    """Between the larger of two times (sharpness → ∞: full overlap) and their sum (sharpness 1: none)."""
    larger: Floats = np.maximum(first, second)
    share = np.minimum(first, second) / np.maximum(larger, 1e-30)
    return larger * power(1.0 + power(share, sharpness), 1.0 / sharpness)
