"""What a simulated worker needs of a step: when each layer's gradients are ready, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass

from sim.model import num_parameters
from sim.training.step_time import (
    bubble_fraction,
    head_times,
    optimizer_s,
    pipeline_send_s,
    trained_parameters,
)
from sim.training.step_time_layer import layer_times
from sim.training.step_time_shape import StepShape, check_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStep:
    """One replica's step on one GPU of it. Tuples go by parts in forward order: embedding, layers, head.

    A step is ``before_s`` (micro-batches whose gradients stay local under no_sync, pipeline bubble and
    sends), the last micro-batch's forward and backward pass, the exchange, ``optimizer_s``.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    gradient_bytes: tuple[int, ...]  # on the wire
    before_s: float
    optimizer_s: float

    @property
    def compute_s(self) -> float:
        """Everything but exchange and update."""
        return self.before_s + sum(self.forward_s) + sum(self.backward_s)

    @property
    def total_gradient_bytes(self) -> int:
        """What a replica's GPU exchanges."""
        return sum(self.gradient_bytes)


def worker_step(shape: StepShape) -> WorkerStep:
    """The step's parts. The embedding's own times are left out; a tied lm_head's gradient comes with it."""
    check_shape(shape)
    layer, head = layer_times(shape), head_times(shape)
    layers = max(1, round(shape.layers_per_stage))
    forward = (0.0, *(layer.forward_s,) * layers, head.forward_s)
    backward = (0.0, *(layer.backward_s,) * layers, head.backward_s)
    once = sum(forward) + sum(backward)
    m = shape.gradient_accumulation_steps
    before = (m - 1) * once + bubble_fraction(shape) * m * once + pipeline_send_s(shape)
    return WorkerStep(
        forward_s=forward,
        backward_s=backward,
        gradient_bytes=_gradient_bytes(shape, layers),
        before_s=before,
        optimizer_s=optimizer_s(shape),
    )


def _gradient_bytes(shape: StepShape, layers: int) -> tuple[int, ...]:
    """Embedding, layers and head; the parts add up to the trained parameters x bytes on the wire."""
    total = trained_parameters(shape) * shape.precision.reduce_bytes
    model = shape.model
    if shape.adapter is not None:
        return (0, *_split(round(total), layers), 0)
    table = model.vocab_size * model.hidden_size / num_parameters(model) * total
    ends = round(table), 0 if model.tie_word_embeddings else round(table)
    return (ends[0], *_split(round(total) - sum(ends), layers), ends[1])


def _split(total: int, parts: int) -> tuple[int, ...]:
    """``total`` in nearly equal whole parts."""
    return tuple(total * (i + 1) // parts - total * i // parts for i in range(parts))
