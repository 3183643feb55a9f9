"""Attention times on a grid of (prompt chunk, its context, decoding sequences, context of each)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sim.cost.roofline import Floats
from sim.errors import ScenarioError

AXES = ("prefill_tokens", "prefill_context", "num_decode", "decode_context")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGrid:
    """Seconds of one layer's attention at every point of the grid; linear between the points.

    Where no time was measured (a chunk with more decodes than memory holds) the grid has the sum of the two
    alone, less one launch.
    """

    points: tuple[tuple[float, ...], ...]  # ascending, by axis; 0 means none
    times_s: list[float]  # flat, last axis fastest
    floor_s: float  # the least time measured: what one launch takes

    def at(self, sizes: tuple[float, float, float, float]) -> float:
        """Seconds at one point; beyond the last point of an axis its slope goes on."""
        total = 0.0
        for offset, weight in self.corners(sizes):
            total += weight * self.times_s[offset]
        return max(total, 0.0)

    def corners(self, sizes: tuple[float, float, float, float]) -> list[tuple[int, float]]:
        """(offset in ``times_s``, weight) of the grid points around ``sizes``."""
        found = [(0, 1.0)]
        for axis, size in enumerate(sizes):
            points = self.points[axis]
            if size == points[0] or len(points) == 1:
                found = [(offset * len(points), weight) for offset, weight in found]
                continue
            low = min(bisect_right(points, size) - 1, len(points) - 2)
            if low < 0:
                low, share = 0, 0.0
            else:
                share = (size - points[low]) / (points[low + 1] - points[low])
            found = [
                (offset * len(points) + low + step, weight * part)
                for offset, weight in found
                for step, part in ((0, 1.0 - share), (1, share))
                if part
            ]
        return found


def attention_grid(rows: Mapping[str, Floats]) -> AttentionGrid:
    """The grid of measured rows, its gaps filled."""
    points = [np.unique(np.concatenate([[0.0], rows[name]])) for name in AXES]
    times = np.full([len(one) for one in points], np.nan)
    where = tuple(np.searchsorted(one, rows[name]) for one, name in zip(points, AXES, strict=True))
    times[where] = rows["time_s"]
    has_decode, has_prompt = len(points[2]) > 1, len(points[0]) > 1
    if not has_decode and not has_prompt:
        raise ScenarioError("no attention was measured", path="attention.csv")
    floor = float(np.nanmin(times))
    prompts = alone(times[:, :, 0, 0], points[0], points[1], floor)
    decodes = alone(times[0, 0], points[2], points[3], floor)
    both = prompts[:, :, None, None] + decodes[None, None] - floor
    filled = np.where(np.isnan(times), np.maximum(both, floor), times)
    filled[:, :, 0, :] = prompts[:, :, None]
    filled[:, :, :, 0] = filled[:, :, :, 0] if not has_decode else prompts[:, :, None]
    filled[0] = decodes[None]
    filled[0, :, 0, :] = floor
    filled[0, :, :, 0] = floor
    axes = tuple(tuple(one.tolist()) for one in points)
    return AttentionGrid(points=axes, times_s=filled.ravel().tolist(), floor_s=floor)


def alone(times: Floats, counts: Floats, contexts: Floats, floor: float) -> Floats:
    """Times by (how many, context) with every gap filled: one launch at 0, slopes going on beyond the end.

    ``times`` is NaN where nothing was measured.
    """
    filled = times.copy()
    for row in range(1, len(counts)):
        known = np.flatnonzero(~np.isnan(filled[row]))
        if len(known):
            filled[row] = carried_on(contexts, contexts[known], filled[row, known])
    whole = [row for row in range(1, len(counts)) if not np.isnan(filled[row]).any()]
    if not whole:
        return np.full_like(times, floor)
    for column in range(len(contexts)):
        filled[:, column] = carried_on(counts, counts[whole], filled[whole, column])
    filled[0] = floor
    return np.maximum(filled, floor)


def carried_on(at: Floats, sizes: Floats, values: Floats) -> Floats:
    """Linear between ``sizes``, the first value before them, the last slope (never falling) after them."""
    inside = np.interp(at, sizes, values)
    if len(sizes) > 1:
        rise = max(float((values[-1] - values[-2]) / (sizes[-1] - sizes[-2])), 0.0)
        inside = inside + np.maximum(at - sizes[-1], 0.0) * rise
    return inside
