"""KV memory in use, by kind, integrated over time in exact integers (tokens × picoseconds).

A step says the levels in it: *tokens* (hold a token), *wanted* (paged: tokens plus what admitted prompts
have yet to fill; contiguous: final lengths), *given out* (paged: blocks in use; contiguous: tokens asked
for) and *external*. Of its first step a segment has ``kv_reserved`` = wanted − tokens and ``kv_internal`` =
given out − wanted. A jump and the single steps that it stands for have the same integrals, to the integer.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sim.arrays import Int64

if TYPE_CHECKING:
    from sim.serving.records import BlockMap, SegmentColumns
    from sim.serving.request import Request

KV_KINDS = ("tokens", "reserved", "internal", "external")
Levels = tuple[int, int, int, int]
"""(tokens, wanted, given out, external) in the first step of a row."""
LONG_JUMP_STEPS = 1024  # beyond, products of the closed form may pass 64 bits: Python's integers do those


class BlockMapSource(Protocol):
    """Records a replica's KV memory while a run goes on, up to a number of rectangles."""

    is_truncated: bool  # there were more: it follows nothing any longer

    def block_map(self, capacity_tokens: int, block_size: int, end_ps: int) -> BlockMap:
        """The rectangles; those still open end at ``end_ps``."""
        ...


class DrawnBlocks(Protocol):
    """Gives decodes of the fast path their blocks in the step that needs them, where a map shows whose.

    ``step`` is that of the decode batch, as it is at the call.
    """

    def note_plan(self, step: int, now_ps: int) -> bool:
        """A step is planned at that time; it decodes the batch's step ``step``. True: the map is full."""
        ...

    def note_steps(self, step: int, num_steps: int, started_ps: int, first_ps: int, growth_ps: int) -> None:
        """So many steps are over; the first of them took its blocks when it was planned."""
        ...

    def take(self, request: Request, num_hits: int = 0) -> None:
        """It has blocks that the map does not know; the first ``num_hits`` were found in the cache."""
        ...


def kv_usage(segments: SegmentColumns, window_ps: tuple[int, int], *, is_paged: bool) -> dict[str, int]:
    """Integrals by ``KV_KINDS`` over the part of the rows of all replicas that lies in ``window_ps``.

    A row that reaches over an edge (a replica has one at each, or as many as steps are under way together)
    counts by the part of its time that lies inside, rounded down to a whole token × picosecond: within a jump
    memory grows, so its first half holds a little less than this gives it.
    """
    total = dict.fromkeys(KV_KINDS, 0)
    for part in segments.parts():
        for kind, amount in _usage(part, window_ps, is_paged=is_paged).items():
            total[kind] += amount
    return total


def _usage(segments: SegmentColumns, window_ps: tuple[int, int], *, is_paged: bool) -> dict[str, int]:
    duration, start = segments.duration_ps, segments.start_ps
    overlap = np.minimum(start + duration, window_ps[1]) - np.maximum(start, window_ps[0])
    is_inside = overlap == duration
    total = integrate(segments, slice(None) if is_inside.all() else is_inside, is_paged=is_paged)
    for row in np.flatnonzero((overlap > 0) & ~is_inside).tolist():
        part, whole = int(overlap[row]), int(duration[row])
        for kind, amount in integrate(segments, [row], is_paged=is_paged).items():
            total[kind] += amount * part // whole
    return total


def integrate(segments: SegmentColumns, rows: Any, *, is_paged: bool) -> dict[str, int]:
    """Integrals by ``KV_KINDS`` over these rows (anything that indexes a column)."""
    steps, first, growth, decoding = (
        column[rows]
        for column in (
            segments.num_steps, segments.first_step_ps, segments.step_growth_ps, segments.num_decode
        )
    )  # fmt: skip
    ones = steps * (steps - 1) // 2
    duration = steps * first + growth * ones
    # Tokens grow by one per decoding sequence and step: Σ (first + j·growth)(tokens + j·decoding).
    long = steps > LONG_JUMP_STEPS
    squares = (steps - 1) * steps * (2 * steps - 1) // 6
    ramp = exact_dot(decoding, np.where(long, 0, first * ones + growth * squares))
    for row in np.flatnonzero(long).tolist():
        count = int(steps[row])
        ramp += int(decoding[row]) * sum_linear(int(first[row]), int(growth[row]), 0, 1, count)
    # Paged: what is wanted grows with the tokens, and what is given out in steps; else both stand at once.
    grown = 0 if segments.kv_grown_tokens_ps is None else exact_sum(segments.kv_grown_tokens_ps[rows])
    return {
        "tokens": exact_dot(segments.kv_tokens[rows], duration) + ramp,
        "reserved": exact_dot(segments.kv_reserved[rows], duration) - (0 if is_paged else ramp),
        "internal": exact_dot(segments.kv_internal[rows], duration) + grown - (ramp if is_paged else 0),
        "external": exact_dot(segments.kv_external[rows], duration),
    }


def exact_sum(values: Any) -> int:
    """Σ values, none negative, without overflow; of 64-bit integers or, in an object column, of any."""
    if values.dtype == object:
        return int(values.sum())
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def exact_dot(levels: Int64, times_ps: Int64) -> int:
    """Σ levels · times without overflow: 20-bit and 21-bit limbs, at most 2^22 rows at a time.

    Neither is negative. Limbs that no row has are left out: mostly one and two are left of three each.
    """
    total = 0
    for start in range(0, len(levels), 1 << 22):
        level, time = levels[start : start + (1 << 22)], times_ps[start : start + (1 << 22)]
        level_limbs, time_limbs = (
            -(-int(values.max(initial=0)).bit_length() // bits) for values, bits in ((level, 20), (time, 21))
        )
        for i in range(level_limbs):
            for j in range(time_limbs):
                left, right = (level >> (20 * i)) & 0xFFFFF, (time >> (21 * j)) & 0x1FFFFF
                total += int(np.dot(left, right)) << (20 * i + 21 * j)
    return total


def sum_linear(first: int, growth: int, weight: int, weight_growth: int, steps: int) -> int:
    """Exact Σ (first + j·growth)(weight + j·weight_growth) for j = 0 … steps − 1."""
    ones = steps * (steps - 1) // 2
    squares = (steps - 1) * steps * (2 * steps - 1) // 6
    return (
        first * weight * steps
        + (first * weight_growth + weight * growth) * ones
        + growth * weight_growth * squares
    )


def sum_blocks(counts: list[int], start: int, first_ps: int, growth_ps: int, steps: int) -> tuple[int, int]:
    """Blocks added inside a jump × time, and their number.

    Before step j (from 1) ``counts[(start + j) mod len]`` blocks are added. The whole periods of
    ``len(counts)`` steps are added in closed form.
    """
    period, at = len(counts), (start + 1) % len(counts)
    turn = counts[at:] + counts[:at]
    whole, left = divmod(steps - 1, period)
    total, used, time_ps = 0, 0, first_ps + whole * period * growth_ps  # time_ps: of the step before the rest
    if whole:
        per_period, once, weighted = _sums(turn)
        ones, squares = whole * (whole - 1) // 2, (whole - 1) * whole * (2 * whole - 1) // 6
        period_growth_ps = period * growth_ps
        period_ps = period * first_ps + growth_ps * (period * (period + 1) // 2)
        total = (
            whole * (first_ps * once + growth_ps * weighted)
            + ones * (per_period * period_ps + period_growth_ps * once)
            + squares * per_period * period * period_growth_ps
        )
        used = whole * per_period
    if left:
        rest, once, weighted = _sums(turn[:left])
        total += used * (left * time_ps + growth_ps * (left * (left + 1) // 2))
        total += time_ps * once + growth_ps * weighted
        used += rest
    return total, used


def _sums(needs: list[int]) -> tuple[int, int, int]:
    """Of u_j = needs_1 + ... + needs_j: the last one, Σ u_j and Σ j·u_j."""
    taken = list(accumulate(needs))
    once = sum(taken)
    return taken[-1], once, (len(taken) + 1) * once - sum(accumulate(taken))
