"""What rows cost: useful tokens a second, from the price of rows and from attention's smaller squares."""

from __future__ import annotations

from sim.training.packing import Masking, Packing
from sim.training.step_time import head_times
from sim.training.step_time_layer import layer_times
from sim.training.step_time_shape import StepShape


def useful_tokens_per_s(packing: Packing, shape: StepShape, masking: Masking) -> float:
    """Documents' tokens over the time of forward and backward passes on one replica.

    Linear work goes by computed tokens, attention by pairs; both priced at full rows and scaled. Not
    modelled: kernels of short rows that fill the GPU less.
    """
    layer, head = layer_times(shape), head_times(shape)
    layers, batch = shape.layers_per_stage, shape.micro_batch_size
    whole = layers * (layer.forward_s + layer.backward_s) + head.forward_s + head.backward_s
    passes = (layer.forward, layer.backward, layer.recompute)
    attention = layers * sum(one.attention_s for one in passes)
    full_rows = float(packing.row_tokens.sum()) / packing.capacity_tokens
    full_squares = packing.attention_pairs(masking) / float(packing.capacity_tokens) ** 2
    seconds = (whole - attention) / batch * full_rows + attention / batch * full_squares
    return float(packing.lengths.sum()) / seconds
