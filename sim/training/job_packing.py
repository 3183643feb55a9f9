"""What packing does to a step: how much of a row is computed, how much of that is padding, what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sim.rng import stream
from sim.training.packing import pack
from sim.training.packing_gain import useful_tokens_per_s
from sim.training.scenario import TrainingScenario, max_seq_len, step_shape
from sim.training.step_time import head_times
from sim.training.step_time_layer import layer_times
from sim.workload.distributions import Place, draw_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Means over the rows: computed tokens over ``max_seq_len``, padding in them, time over a full row's."""

    computed_share: float = 1.0
    padding_fraction: float = 0.0
    time_factor: float = 1.0


def packed(scenario: TrainingScenario, seed: int, base_dir: Path = Path(".")) -> Packed:
    """The scenario's documents, drawn and packed; full rows without padding where it says nothing."""
    given = scenario.packing
    if given is None:
        return Packed()
    capacity = max_seq_len(scenario)
    place = Place(path="packing.lengths", base_dir=base_dir)
    lengths = draw_tokens(given.lengths, given.num_documents, stream(seed, "document lengths"), place)
    packing = pack(lengths, capacity, given.strategy, micro_batch_size=scenario.training.micro_batch_size)
    share = float(packing.row_tokens.sum()) / (packing.num_rows * capacity)
    if scenario.model is None or scenario.compute.compute_s is not None:
        return Packed(computed_share=share, padding_fraction=packing.padding_fraction)
    shape = step_shape(scenario)
    layer, head = layer_times(shape), head_times(shape)
    row_s = shape.layers_per_stage * (layer.forward_s + layer.backward_s) + head.forward_s + head.backward_s
    spent_s = float(packing.lengths.sum()) / useful_tokens_per_s(packing, shape, given.attention)
    return Packed(
        computed_share=share,
        padding_fraction=packing.padding_fraction,
        time_factor=spent_s / packing.num_rows / (row_s / shape.micro_batch_size),
    )
