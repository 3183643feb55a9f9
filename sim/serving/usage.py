"""KV memory in use, by kind, integrated over time in exact integers (tokens × picoseconds).

A segment's row holds the levels in its first step: ``tokens`` (hold a token), ``wanted`` (paged: tokens plus
what admitted prompts have yet to fill; contiguous: final lengths), ``given_out`` (paged: blocks in use;
contiguous: tokens asked for) and ``external``. From these *reserved* = wanted − tokens and *internal* =
given_out − wanted. Both engines write such rows; their integrals must be the same integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sim.arrays import Bools, Int64
from sim.errors import InvariantError

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


def integrate_within(
    columns: dict[str, Int64], window_ps: tuple[int, int], *, is_paged: bool, grown_tokens_ps: Sequence[int]
) -> dict[str, int]:
    """Integrals by ``KV_KINDS`` over the part of one replica's rows that lies in ``window_ps``.

    A row that reaches over an edge (a replica has one at each, or as many as steps are under way together)
    counts by the part of its time that lies inside, rounded down to a whole token × picosecond: within a jump
    memory grows, so its first half holds a little less than this gives it. ``grown_tokens_ps`` has an entry
    per jump, a row of several steps.
    """
    steps, start = columns["num_steps"], columns["start_ps"]
    duration = steps * columns["first_step_ps"] + columns["step_growth_ps"] * (steps * (steps - 1) // 2)
    overlap = np.minimum(start + duration, window_ps[1]) - np.maximum(start, window_ps[0])
    is_inside = overlap == duration
    jumps = np.flatnonzero(steps > 1)
    if len(jumps) != len(grown_tokens_ps):
        raise InvariantError(f"{len(jumps)} jumps, and what KV grew in {len(grown_tokens_ps)} of them")

    def of_rows(rows: Bools | list[int], grown_ps: int) -> dict[str, int]:
        chosen = {name: columns[name][rows] for name in USAGE_COLUMNS}
        return integrate(chosen, is_paged=is_paged, grown_tokens_ps=grown_ps)

    total = of_rows(is_inside, sum(compress(grown_tokens_ps, is_inside[jumps].tolist())))
    for row in np.flatnonzero((overlap > 0) & ~is_inside).tolist():
        part, whole = int(overlap[row]), int(duration[row])
        grown_ps = grown_tokens_ps[int(np.searchsorted(jumps, row))] if steps[row] > 1 else 0
        for kind, amount in of_rows([row], grown_ps).items():
            total[kind] += amount * part // whole
    return total


def integrate(columns: dict[str, Int64], *, is_paged: bool, grown_tokens_ps: int) -> dict[str, int]:
    """Integrals by ``KV_KINDS`` over rows of one replica.

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
