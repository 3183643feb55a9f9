"""One GPU's memory through a training step: what is held when, for a picture.

Activations grow layer by layer through the forward pass and shrink through the backward pass, where
recomputed ones come back for a moment and gradients appear; the optimizer runs last. The first micro-batch
is drawn (its gradients are new); pipelines are drawn as their first stage after the warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.training.activations import (
    head_activations,
    kept_layer_bytes,
    micro_batches_in_flight,
    recomputed_layer_bytes,
)
from sim.training.memory import model_states
from sim.training.step_time import head_times, optimizer_s
from sim.training.step_time_layer import layer_times
from sim.training.step_time_shape import StepShape, check_shape

CATEGORIES = ("weights", "optimizer states", "gradients", "activations", "recomputed")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTimeline:
    """Held bytes by category (``CATEGORIES``) from each time on, in seconds from the step's start."""

    times_s: tuple[float, ...]
    phases: tuple[str, ...]  # forward, head, backward, optimizer
    held_bytes: dict[str, tuple[float, ...]]

    @property
    def totals_bytes(self) -> tuple[float, ...]:
        """All categories together."""
        return tuple(sum(column) for column in zip(*self.held_bytes.values(), strict=True))


def memory_timeline(shape: StepShape) -> MemoryTimeline:
    """The series; its highest total is the account's peak without fragmentation, buffers and CUDA context."""
    check_shape(shape)
    rows = _rows(shape)
    states = model_states(shape)
    columns = {
        "weights": tuple(states.weight_bytes for _ in rows),
        "optimizer states": tuple(states.optimizer_bytes for _ in rows),
        "gradients": tuple(row[2] * states.gradient_bytes for row in rows),
        "activations": tuple(row[3] for row in rows),
        "recomputed": tuple(row[4] for row in rows),
    }
    return MemoryTimeline(
        times_s=tuple(row[0] for row in rows), phases=tuple(row[1] for row in rows), held_bytes=columns
    )


def _rows(shape: StepShape) -> list[tuple[float, str, float, float, float]]:
    """(time, phase, share of the gradients, activations, recomputed) at each layer's start and the end."""
    layer, head = layer_times(shape), head_times(shape)
    kept, again = kept_layer_bytes(shape), recomputed_layer_bytes(shape)
    layers = max(1, round(shape.layers_per_stage))
    # Micro-batches that stay in flight on a pipeline's first stage beside the drawn one.
    others = (micro_batches_in_flight(shape) - 1) * kept * layers
    outside = head_activations(shape)
    rows, now = [], 0.0
    for done in range(layers):
        rows.append((now, "forward", 0.0, others + done * kept, 0.0))
        now += layer.forward_s
    rows.append((now, "head", 0.0, others + layers * kept + outside, 0.0))
    now += head.forward_s + head.backward_s
    for left in range(layers, 0, -1):
        # The layer's activations are all there while it goes back; its gradients are complete at its end.
        held = others + left * kept + (outside if left == layers else 0.0)
        rows.append((now, "backward", (layers - left) / layers, held, again))
        now += layer.backward_s
    rows.append((now, "optimizer", 1.0, others, 0.0))
    rows.append((now + optimizer_s(shape), "end", 0.0, others, 0.0))
    return rows
