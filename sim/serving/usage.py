"""KV memory in use, by kind, integrated over time in exact integers (tokens × picoseconds)."""

from __future__ import annotations

from collections.abc import Sequence

from sim.records import KV_KINDS
from sim.serving.kv.contiguous import ContiguousKV
from sim.serving.kv.paged import PagedKV


class KVUsage:
    """Levels now, and their integrals since the measured window began."""

    __slots__ = ("external", "given_out", "reserved", "tokens", "wanted")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The measured window begins."""
        self.tokens = 0  # hold a token
        self.given_out = 0  # paged: block_size × blocks in use; contiguous: tokens asked for
        self.wanted = 0  # paged: tokens + not yet prefilled; contiguous: final lengths
        self.external = 0

    def add_constant(self, levels: tuple[int, int, int, int], time_ps: int) -> None:
        """(tokens, wanted, given out, external) stood for ``time_ps``."""
        self.tokens += levels[0] * time_ps
        self.wanted += levels[1] * time_ps
        self.given_out += levels[2] * time_ps
        self.external += levels[3] * time_ps

    def by_kind(self) -> dict[str, int]:
        """Integrals by ``KV_KINDS``."""
        return dict(zip(KV_KINDS, kinds((self.tokens, self.wanted, self.given_out, self.external)), strict=True))


def kinds(levels: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(tokens, reserved, internal, external) from (tokens, wanted, given out, external)."""
    tokens, wanted, given_out, external = levels
    return tokens, wanted - tokens, given_out - wanted, external


def levels_of(
    kv: PagedKV | ContiguousKV, held_tokens: int, unfilled_tokens: int, is_blocked: bool
) -> tuple[int, int, int, int]:
    """(tokens, wanted, given out, external) at this moment.

    Paged: *reserved* is what an admitted prompt has yet to fill, *internal* the empty rest of last blocks.
    Contiguous: *reserved* is what the request will still use, *internal* what was asked for beyond that,
    *external* the buddy's rounding, and all free memory while the head of the queue finds no stretch.
    """
    if isinstance(kv, ContiguousKV):
        external = kv.give_out_tokens() - kv.requested_tokens + (kv.buddy.free if is_blocked else 0)
        return held_tokens, kv.final_tokens, kv.requested_tokens, external
    return held_tokens, held_tokens + unfilled_tokens, kv.give_out_tokens(), 0


def sum_linear(first: int, growth: int, weight: int, weight_growth: int, steps: int) -> int:
    """Exact Σ (first + j·growth)(weight + j·weight_growth) for j = 0 … steps − 1."""
    if steps == 1:
        return first * weight
    ones = steps * (steps - 1) // 2
    squares = (steps - 1) * steps * (2 * steps - 1) // 6
    return first * weight * steps + (first * weight_growth + weight * growth) * ones + growth * weight_growth * squares


def sum_blocks(counts: Sequence[int], start: int, used: int, first_ps: int, growth_ps: int, steps: int) -> tuple[int, int]:
    """Blocks × time over ``steps`` decode steps, and the blocks in use in the last one.

    ``used`` holds in the first step; before step j (from 1) ``counts[(start + j) mod len]`` blocks are
    added. Whole periods of ``len(counts)`` steps are added in closed form.
    """
    period = len(counts)
    total = 0
    if steps > 3 * period:
        whole = (steps - 1) // period
        per_period = sum(counts)
        level = used
        for offset in range(period):
            if offset:
                level += counts[(start + offset) % period]
            total += sum_linear(level, per_period, first_ps + offset * growth_ps, period * growth_ps, whole)
        done = whole * period
        used = level + (whole - 1) * per_period + counts[start % period]
    else:
        done = 1
        total = used * first_ps
        if steps == 1:
            return total, used
        used += counts[(start + 1) % period]
    time_ps = first_ps + done * growth_ps
    for step in range(done, steps):
        if step > done:
            used += counts[(start + step) % period]
        total += used * time_ps
        time_ps += growth_ps
    return total, used
