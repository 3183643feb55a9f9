"""How many requests a second an engine can serve at most, estimated from the price of its fullest step.

In a steady state at capacity as many sequences decode as memory and ``max_num_seqs`` allow, and each step
also computes the prompts of those that take the places of the ones that end: B decodes and B / output new
prompts a step. An estimate: every request has the mean lengths, and nothing is preempted. The rate that is
simulated under overload lies within about 10 % of it (tests/price/test_capacity.py).
"""

from __future__ import annotations

from sim.arrays import PS_PER_S
from sim.price.step import StepPrice
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRequest:
    """Mean tokens of a request: its prompt, what of it is computed (the rest is cached), its answer.

    ``held_tokens``: KV entries of a decoding sequence at a random moment; long answers are met more often.
    """

    prompt_tokens: float
    computed_tokens: float
    output_tokens: float
    held_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What bounds a step: sequences, tokens, and the KV entries of all sequences together."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_tokens: float


def requests_per_s(price: StepPrice, mean: MeanRequest, places: Places) -> float:
    """Of one replica."""
    # The step that ends a prompt yields its first token: a request decodes in those after it.
    decode_steps = max(mean.output_tokens - 1, 0.0)
    decodes = max(1, int(min(places.max_num_seqs, places.kv_tokens / max(mean.held_tokens, 1.0))))
    computed = max(mean.computed_tokens, 1.0)
    room = max(places.max_num_batched_tokens - (decodes if decode_steps else 0), 1)
    prompts = min(decodes / max(decode_steps, 1.0), room / computed)
    decoding = min(decodes, round(prompts * decode_steps))
    shape = decoding, round(decoding * mean.held_tokens)
    return prompts / _mean_step_ps(price, shape, mean, prompts, room) * PS_PER_S


def _mean_step_ps(
    price: StepPrice, decoding: tuple[int, int], mean: MeanRequest, prompts: float, room: int
) -> float:
    """A step with those decodes (number, their context) and ``prompts`` new prompts on average."""
    computed, cached = max(round(mean.computed_tokens), 1), round(mean.prompt_tokens - mean.computed_tokens)

    def step_ps(chunks: list[tuple[int, int, bool, object]]) -> int:
        return price.step_ps(*decoding, chunks) if chunks or decoding[0] else 0

    if computed > room:  # a prompt comes in pieces, a step each
        starts = range(0, computed, room)
        pieces = [(min(room, computed - at), cached + at, at + room >= computed, None) for at in starts]
        added_ps = sum(step_ps([piece]) - step_ps([]) for piece in pieces)
        return step_ps([]) + prompts * added_ps
    whole = int(prompts)
    chunk = (computed, max(cached, 0), True, None)
    few_ps, more_ps = step_ps([chunk] * whole), step_ps([chunk] * (whole + 1))
    return few_ps + (prompts - whole) * (more_ps - few_ps)


def waiting_elasticity(load: float) -> float:
    """Percent that waiting grows when every step takes 1 % longer, at that share of capacity.

    Of an M/M/1 queue, λ s² / (1 - λ s): 1 + 1 / (1 - load).
    """
    return 1 + 1 / (1 - load)
