"""Small problems that a schedule's gradients are really computed on: loss, stochastic gradient, start.

They show what staleness and batch size do to convergence in principle. They do not say how a large language
model behaves: its curvature, noise, optimizer (Adam, warm-up, clipping) and tolerance of staleness are
different.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim.rng import stream

Vector = npt.NDArray[np.float64]


class Problem(Protocol):
    """What SGD asks of a problem."""

    def start(self) -> Vector:
        """The initial weights."""
        ...

    def loss(self, weights: Vector) -> float:
        """The full loss, without noise."""
        ...

    def gradient(self, weights: Vector, rng: np.random.Generator) -> Vector:
        """An unbiased estimate of the loss' gradient, from one worker's mini-batch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyQuadratic:
    """Loss ½ Σ h x², gradients h x + N(0, noise²): the case whose behaviour under delay is known exactly."""

    curvatures: tuple[float, ...] = (1.0, 0.3, 0.1)
    noise: float = 0.0
    start_value: float = 1.0

    def start(self) -> Vector:
        """Every coordinate at ``start_value``."""
        return np.full(len(self.curvatures), self.start_value)

    def loss(self, weights: Vector) -> float:
        """½ Σ h x²."""
        return float(0.5 * np.dot(self.curvatures, weights**2))

    def gradient(self, weights: Vector, rng: np.random.Generator) -> Vector:
        """h x, with independent normal noise."""
        exact: Vector = np.asarray(self.curvatures) * weights
        return exact + self.noise * rng.standard_normal(len(weights)) if self.noise else exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Generated examples: inputs of unit variance and a class for each."""

    inputs: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    def batch(self, size: int, rng: np.random.Generator) -> Examples:
        """``size`` of them, drawn with replacement."""
        chosen = rng.integers(len(self.labels), size=size)
        return Examples(inputs=self.inputs[chosen], labels=self.labels[chosen])


def two_classes(num_examples: int, num_features: int, seed: int) -> Examples:
    """Labels drawn from a logistic model with random weights: no weights separate them perfectly."""
    rng = stream(seed, "learning.logistic")
    inputs = rng.standard_normal((num_examples, num_features))
    truth = rng.standard_normal(num_features) * 2 / np.sqrt(num_features)
    labels = rng.random(num_examples) < 1 / (1 + np.exp(-inputs @ truth))
    return Examples(inputs=inputs, labels=labels.astype(np.int64))


def rings(num_examples: int, num_classes: int, seed: int) -> Examples:
    """Noisy concentric rings in two dimensions: no linear model tells them apart."""
    rng = stream(seed, "learning.rings")
    labels = rng.integers(num_classes, size=num_examples)
    angle, radius = (
        rng.random(num_examples) * 2 * np.pi,
        labels + 0.5 + 0.15 * rng.standard_normal(num_examples),
    )
    inputs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return Examples(inputs=inputs / inputs.std(), labels=labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticRegression:
    """Two classes, cross-entropy with a little weight decay, from zero weights."""

    examples: Examples = field(default_factory=lambda: two_classes(2000, 20, 1))
    batch_size: int = 16
    weight_decay: float = 1e-3

    def start(self) -> Vector:
        """Zeros."""
        return np.zeros(self.examples.inputs.shape[1])

    def loss(self, weights: Vector) -> float:
        """Mean cross-entropy over all examples, in nats, and the decay."""
        signed = (2 * self.examples.labels - 1) * (self.examples.inputs @ weights)
        return float(np.logaddexp(0, -signed).mean() + 0.5 * self.weight_decay * weights @ weights)

    def gradient(self, weights: Vector, rng: np.random.Generator) -> Vector:
        """Of a mini-batch."""
        batch = self.examples.batch(self.batch_size, rng)
        off = 1 / (1 + np.exp(-batch.inputs @ weights)) - batch.labels
        mean: Vector = batch.inputs.T @ off / self.batch_size + self.weight_decay * weights
        return mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """One hidden layer of tanh units and softmax cross-entropy, on rings."""

    examples: Examples = field(default_factory=lambda: rings(1500, 3, 1))
    hidden_size: int = 24
    num_classes: int = 3
    batch_size: int = 16
    seed: int = 1

    def start(self) -> Vector:
        """Normal weights scaled by fan-in, zero biases."""
        rng, width = stream(self.seed, "learning.mlp"), self.examples.inputs.shape[1]
        first = rng.standard_normal((width, self.hidden_size)) / np.sqrt(width)
        second = rng.standard_normal((self.hidden_size, self.num_classes)) / np.sqrt(self.hidden_size)
        zeros = np.zeros(self.hidden_size), np.zeros(self.num_classes)
        return np.concatenate([first.ravel(), zeros[0], second.ravel(), zeros[1]])

    def loss(self, weights: Vector) -> float:
        """Mean cross-entropy over all examples, in nats."""
        _, log_p = self._forward(weights, self.examples)
        return float(-log_p[np.arange(len(log_p)), self.examples.labels].mean())

    def gradient(self, weights: Vector, rng: np.random.Generator) -> Vector:
        """Of a mini-batch, by back-propagation."""
        return self.gradient_of(weights, self.examples.batch(self.batch_size, rng))

    def gradient_of(self, weights: Vector, batch: Examples) -> Vector:
        """The exact gradient of the mean loss over ``batch``."""
        hidden, log_p = self._forward(weights, batch)
        delta = np.exp(log_p)
        delta[np.arange(len(delta)), batch.labels] -= 1
        delta /= len(delta)
        second = self._parts(weights)[2]
        back = delta @ second.T * (1 - hidden**2)
        parts = [batch.inputs.T @ back, back.sum(0), hidden.T @ delta, delta.sum(0)]
        return np.concatenate([part.ravel() for part in parts])

    def _parts(self, weights: Vector) -> tuple[Vector, Vector, Vector, Vector]:
        width, inner, classes = self.examples.inputs.shape[1], self.hidden_size, self.num_classes
        a = width * inner
        b, c = a + inner, a + inner + inner * classes
        first, second = weights[:a].reshape(width, inner), weights[b:c].reshape(inner, classes)
        return first, weights[a:b], second, weights[c:]

    def _forward(self, weights: Vector, batch: Examples) -> tuple[Vector, Vector]:
        first, bias, second, offset = self._parts(weights)
        hidden = np.tanh(batch.inputs @ first + bias)
        scores = hidden @ second + offset
        scores = scores - scores.max(axis=1, keepdims=True)
        return hidden, scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


# By name, from the examples per gradient; more of them mean less noise.
PROBLEMS: Mapping[str, Callable[[int], Problem]] = {
    "logistic_regression": lambda batch_size: LogisticRegression(batch_size=batch_size),
    "mlp": lambda batch_size: Mlp(batch_size=batch_size),
    "noisy_quadratic": lambda batch_size: NoisyQuadratic(noise=1 / sqrt(batch_size)),
}
