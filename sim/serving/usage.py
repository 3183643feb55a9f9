"""KV memory in use, by kind, integrated over time in exact integers (tokens × picoseconds).

A segment's row holds the levels in its first step: ``tokens`` (hold a token), ``wanted`` (paged: tokens plus
what admitted prompts have yet to fill; contiguous: final lengths), ``given_out`` (paged: blocks in use;
contiguous: tokens asked for) and ``external``. From these *reserved* = wanted − tokens and *internal* =
given_out − wanted. Both engines write such rows; their integrals must be the same integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from sim.arrays import Int64

if TYPE_CHECKING:
    from sim.serving.records import BlockMap

KV_KINDS = ("tokens", "reserved", "internal", "external")
Levels = tuple[int, int, int, int]
"""(tokens, wanted, given out, external) in the first step of a row."""
USAGE_COLUMNS = (
    "num_steps",
    "first_step_ps",
    "step_growth_ps",
    "num_decode",
    "tokens",
    "wanted",
    "given_out",
    "external",
)
LONG_JUMP_STEPS = 1024  # beyond, products of the closed form may pass 64 bits: Python's integers do those


class BlockMapSource(Protocol):
    """Records a replica's KV memory while a run goes on."""

    def block_map(self, capacity_tokens: int, block_size: int, end_ps: int) -> BlockMap:
        """The rectangles; those still open end at ``end_ps``."""
        ...


def integrate(columns: dict[str, Int64], *, is_paged: bool, grown_tokens_ps: int) -> dict[str, int]:
    """Integrals by ``KV_KINDS`` over one replica's rows (those of the measured window).

    ``grown_tokens_ps``: blocks that were added inside jumps, × time, which rows do not show.
    """
    steps, first, growth = columns["num_steps"], columns["first_step_ps"], columns["step_growth_ps"]
    ones = steps * (steps - 1) // 2
    duration = steps * first + growth * ones
    # Tokens grow by one per decoding sequence and step: Σ (first + j·growth)(tokens + j·decoding).
    long = steps > LONG_JUMP_STEPS
    short = ~long
    squares = (steps - 1) * steps * (2 * steps - 1) // 6
    ramp = exact_dot(
        columns["num_decode"][short], first[short] * ones[short] + growth[short] * squares[short]
    )
    for row in np.flatnonzero(long).tolist():
        count = int(steps[row])
        ramp += int(columns["num_decode"][row]) * sum_linear(int(first[row]), int(growth[row]), 0, 1, count)
    tokens = exact_dot(columns["tokens"], duration) + ramp
    wanted = exact_dot(columns["wanted"], duration) + (ramp if is_paged else 0)
    given_out = exact_dot(columns["given_out"], duration) + grown_tokens_ps
    external = exact_dot(columns["external"], duration)
    return dict(zip(KV_KINDS, (tokens, wanted - tokens, given_out - wanted, external), strict=True))


def exact_dot(levels: Int64, times_ps: Int64) -> int:
    """Σ levels · times without overflow: 20-bit and 21-bit limbs, at most 2^22 rows at a time."""
    total = 0
    for start in range(0, len(levels), 1 << 22):
        level, time = levels[start : start + (1 << 22)], times_ps[start : start + (1 << 22)]
        for i in range(3):
            for j in range(3):
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

    Before step j (from 1) ``counts[(start + j) mod len]`` blocks are added. Whole periods of ``len(counts)``
    steps are added in closed form.
    """
    period = len(counts)
    total = used = 0
    step = 1
    if steps > 3 * period:
        whole = (steps - 1) // period
        per_period = sum(counts)
        for offset in range(1, period + 1):
            used += counts[(start + offset) % period]
            total += sum_linear(used, per_period, first_ps + offset * growth_ps, period * growth_ps, whole)
        used = whole * per_period
        step += whole * period
    time_ps = first_ps + step * growth_ps
    at, left = (start + step) % period, steps - step
    turn = counts[at : at + left] if at + left <= period else (counts[at:] + counts[:at]) * 3
    for need in turn[:left]:
        used += need
        total += used * time_ps
        time_ps += growth_ps
    return total, used
