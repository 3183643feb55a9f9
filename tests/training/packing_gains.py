"""What packing gains: useful tokens a second, from the price of rows and from attention's smaller squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.errors import ScenarioError
from sim.training.packing import Masking, Packing, Strategy, pack, useful_tokens_per_s
from sim.training.step.shape import StepShape


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingGain:
    """One way of filling rows, priced."""

    strategy: Strategy
    masking: Masking
    num_rows: int
    padding_fraction: float
    attention_share_of_crossing: float  # attention FLOPs over those of the same rows unmasked
    useful_tokens_per_s: float  # per replica, exchange and optimizer left out
    speedup: float  # of useful tokens a second, over the reference


def packing_gains(
    lengths: Sequence[int],
    shape: StepShape,
    strategies: Sequence[Strategy],
    *,
    masking: Masking = "block_diagonal",
    reference: Strategy = "maximum",
) -> tuple[PackingGain, ...]:
    """Every strategy on the same documents; ``speedup`` is over ``reference``."""
    if shape.attention == "standard" and masking == "block_diagonal":
        raise ScenarioError(
            "standard attention computes the whole square, masked or not",
            path="packing.attention",
            given=masking,
            allowed="crossing",
            hint="attention: flash",
        )
    base = _pack(lengths, shape, reference)
    base_rate = useful_tokens_per_s(base, shape, masking)
    packings = [_pack(lengths, shape, strategy) for strategy in strategies]
    return tuple(_gain(packing, shape, masking, base_rate) for packing in packings)


def _pack(lengths: Sequence[int], shape: StepShape, strategy: Strategy) -> Packing:
    return pack(lengths, shape.max_seq_len, strategy, micro_batch_size=shape.micro_batch_size)


def _gain(packing: Packing, shape: StepShape, masking: Masking, base_rate: float) -> PackingGain:
    rate = useful_tokens_per_s(packing, shape, masking)
    return PackingGain(
        strategy=packing.strategy,
        masking=masking,
        num_rows=packing.num_rows,
        padding_fraction=packing.padding_fraction,
        attention_share_of_crossing=packing.attention_pairs(masking) / packing.attention_pairs("crossing"),
        useful_tokens_per_s=rate,
        speedup=rate / base_rate,
    )
