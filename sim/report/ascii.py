"""Pictures made of text, which paste into a pull request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sim.arrays import Float64
from sim.report.figures import seconds

LEVELS = " ▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float] | Float64, top: float) -> str:
    """One character per value, its height the share of ``top``; anything above zero shows."""
    if top <= 0:
        return LEVELS[0] * len(values)
    steps = len(LEVELS) - 1
    return "".join(LEVELS[min(steps, math.ceil(max(0.0, value) / top * steps))] for value in values)


def cdf_sketch(samples: Mapping[str, Float64], metric: str, width: int = 60) -> str:
    """Cumulative distributions, a line per variant: the height is the share within the time above it."""
    values = [sample for sample in samples.values() if sample.size]
    if not values:
        return ""
    low = max(min(float(np.quantile(sample, 0.001)) for sample in values), 1e-6)
    high = max(max(float(sample.max()) for sample in values), low * 1.01)
    grid = np.geomspace(low, high, width)
    margin = max(len(name) for name in samples)
    left, middle, right = (seconds(float(grid[i])) for i in (0, width // 2, width - 1))
    gap = width // 2 - len(left)
    ruler = f"{left}{middle:>{gap + len(middle)}}"
    lines = [f"{'':{margin}}  {ruler}{right:>{max(1, width - len(ruler))}}   {metric}, log scale"]
    for name, sample in samples.items():
        shares = np.searchsorted(np.sort(sample), grid, side="right") / max(1, sample.size)
        lines.append(f"{name:{margin}}  {sparkline(shares, 1.0)}")
    return "\n".join(lines)
