"""The mean layer of a model on one GPU, forward and backward: what serving, training and kernels all price.

The counts are ``StepCounter``'s, the kernels a ``KernelSet``'s: given the same set, an engine's prompt and
the forward pass of a training step are the same operators, and take the same time. Not modelled: overlap of
kernels, the allocator, host time between launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sim.model.matrices import layer_matrices
from sim.price.kernel_set import FLASH_BACKWARD_FLOPS, FLASH_BACKWARD_FRACTION
from sim.price.operators import Direction, StepCounter
from sim.price.roofline import Operator
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTimes:
    """Seconds of one pass through one layer on one GPU, by kind of work."""

    gemm_s: float = 0.0
    attention_s: float = 0.0
    elementwise_s: float = 0.0
    tensor_parallel_s: float = 0.0  # its collectives, not overlapped

    @property
    def total_s(self) -> float:
        """All of it, one after another."""
        return self.gemm_s + self.attention_s + self.elementwise_s + self.tensor_parallel_s


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrice:
    """The mean of a model's layers, for ``sequences`` sequences of ``queries`` tokens, nothing cached.

    ``trains_weights``: weights have a gradient of their own. ``other_bytes``: what a number format moves
    besides in each layer, by direction.
    """

    counter: StepCounter
    sequences: float
    queries: float
    trains_weights: bool = True
    other_bytes: tuple[float, float] = (0.0, 0.0)

    def times(self, which: Direction) -> PassTimes:
        """Of a pass, with the all-reduces of tensor parallelism."""
        return self._times(which, self.attention(which))

    def both(self) -> tuple[PassTimes, PassTimes]:
        """Forward and backward."""
        attention = self.attention("forward")
        return self._times("forward", attention), self._times("backward", self._backward(attention))

    def _times(self, which: Direction, attention: Sequence[Operator]) -> PassTimes:
        counter = self.counter
        many = counter.tensor_parallel_size > 1
        return PassTimes(
            gemm_s=self._mean_s(self.products(which)),
            attention_s=self._mean_s(attention),
            elementwise_s=self._mean_s([self.elementwise(which)]),
            tensor_parallel_s=self._mean_s([counter.all_reduce(self._tokens)]) if many else 0.0,
        )

    def products(self, which: Direction) -> list[Operator]:
        """Projections: one product each forward; backward two, or one where the weight is frozen."""
        if which == "forward":
            return self.counter.products(self._tokens)
        tokens = self.sequences * self.queries
        return [
            self.counter.gradients(matrix, tokens, has_own=self.trains_weights)
            for matrix in layer_matrices(self.counter.model, self.counter.tensor_parallel_size)
            if matrix.name != "lm_head"
        ]

    def attention(self, which: Direction) -> list[Operator]:
        """Between the projections."""
        queries, cached = np.array([self.queries]), np.zeros(1)
        forward = self.counter.prefill_attention(queries, cached, self.sequences)
        return forward if which == "forward" else self._backward(forward)

    def _backward(self, forward: Sequence[Operator]) -> list[Operator]:
        """FlashAttention's is its forward pass, slowed; standard attention's has passes of its own."""
        if self.counter.kernels.attention.stores_scores:
            queries, cached = np.array([self.queries]), np.zeros(1)
            return self.counter.standard_attention(queries, cached, self.sequences, "backward")
        slower = FLASH_BACKWARD_FLOPS / FLASH_BACKWARD_FRACTION
        return [replace(one, speed=one.speed / slower) for one in forward]

    def elementwise(self, which: Direction) -> Operator:
        """Everything else."""
        return self.counter.elementwise(self._tokens, which, self.other_bytes[which == "backward"])

    @property
    def _tokens(self) -> np.ndarray:
        return np.array([self.sequences * self.queries])

    def _mean_s(self, operators: Sequence[Operator]) -> float:
        return self.seconds(operators) / self.counter.model.num_hidden_layers

    def seconds(self, operators: Sequence[Operator]) -> float:
        """All launches of the operators, one after another."""
        counter = self.counter
        launch_s = counter.kernels.launch_s(counter.hardware)
        times = [one.times_s(counter.hardware, launch_s, counter.link) for one in operators]
        return float(sum(float(np.sum(one)) for one in times))
