"""Small problems that a schedule's gradients are really computed on: loss, stochastic gradient, start.

They show what staleness and batch size do to convergence in principle. They do not say how a large language
model behaves: its curvature, noise, optimizer (Adam, warm-up, clipping) and tolerance of staleness are
different.

Only operations whose results IEEE 754 fixes, in an order of our own: SGD repeats a last digit's difference
until it shows, and a BLAS, a SIMD level or a libm would each bring its own last digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from math import pi, sqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim.elementary import cos, exp_of, log_of, sin, tanh_of
from sim.rng import stream

Vector = npt.NDArray[np.float64]

CHUNK = 512  # examples whose products stay in the caches


class Problem(Protocol):
    """What SGD asks of a problem."""

    @property
    def batch_size(self) -> int:
        """Examples that a gradient is computed from; 0 where its noise is drawn without any."""
        ...

    @property
    def largest_curvature(self) -> float | None:
        """The curvature that bounds the learning rate under delay, where it is known exactly."""
        ...

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
    batch_size: int = 0

    @property
    def largest_curvature(self) -> float | None:
        """h of the steepest coordinate."""
        return max(self.curvatures)

    def start(self) -> Vector:
        """Every coordinate at ``start_value``."""
        return np.full(len(self.curvatures), self.start_value)

    def loss(self, weights: Vector) -> float:
        """½ Σ h x²."""
        return float(0.5 * folded(np.asarray(self.curvatures) * (weights * weights)))

    def gradient(self, weights: Vector, rng: np.random.Generator) -> Vector:
        """h x, with independent normal noise."""
        exact: Vector = np.asarray(self.curvatures) * weights
        return exact + self.noise * rng.standard_normal(len(weights)) if self.noise else exact


def largest_stable_rate(delay: int) -> float:
    """The η·h below which a fixed delay of ``delay`` updates converges: 2 sin(π / (2 (2τ + 1))).

    From the roots of z^(τ+1) - z^τ + η h on the unit circle; without delay it is gradient descent's 2.
    """
    return 2 * sin(pi / (2 * (2 * delay + 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Generated examples: inputs of unit variance, a row per feature, and a class for each example."""

    inputs: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    def batch(self, size: int, rng: np.random.Generator) -> Examples:
        """``size`` of them, drawn with replacement."""
        return self.chosen(rng.integers(len(self.labels), size=size))

    def chosen(self, which: npt.NDArray[np.int64]) -> Examples:
        """The examples with these numbers."""
        return Examples(inputs=self.inputs.take(which, axis=1), labels=self.labels.take(which))


def folded(terms: Vector) -> Vector:
    """The sum over the first axis, its upper half added to its lower one until one is left."""
    while (count := len(terms)) > 1:
        half = count // 2
        lower = terms[:half] + terms[half : 2 * half]
        if count % 2:
            lower[0] += terms[-1]
        terms = lower
    total: Vector = terms[0]
    return total


def product(left: Vector, right: Vector) -> Vector:
    """The transpose of ``left`` (k x m) times ``right`` (k x n), or times k numbers."""
    return folded(left * right[:, None] if right.ndim == 1 else left[:, :, None] * right[:, None, :])


@cache
def two_classes(num_examples: int, num_features: int, seed: int) -> Examples:
    """Labels drawn from a logistic model with random weights: no weights separate them perfectly."""
    rng = stream(seed, "learning.logistic")
    inputs = np.ascontiguousarray(rng.standard_normal((num_examples, num_features)).T)
    truth = rng.standard_normal(num_features) * 2 / sqrt(num_features)
    labels = rng.random(num_examples) < 1 / (1 + exp_of(-product(inputs, truth)))
    return Examples(inputs=inputs, labels=labels.astype(np.int64))


@cache
def rings(num_examples: int, num_classes: int, seed: int) -> Examples:
    """Noisy concentric rings in two dimensions: no linear model tells them apart."""
    rng = stream(seed, "learning.rings")
    labels = rng.integers(num_classes, size=num_examples)
    angle, radius = (
        rng.random(num_examples) * 2 * pi,
        labels + 0.5 + 0.15 * rng.standard_normal(num_examples),
    )
    inputs = radius * np.array([[function(one) for one in angle.tolist()] for function in (cos, sin)])
    off = inputs - folded(inputs.ravel()) / inputs.size
    return Examples(inputs=inputs / np.sqrt(folded((off * off).ravel()) / inputs.size), labels=labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticRegression:
    """Two classes, cross-entropy with a little weight decay, from zero weights."""

    examples: Examples = field(default_factory=lambda: two_classes(2000, 20, 1))
    batch_size: int = 16
    weight_decay: float = 1e-3
    largest_curvature: float | None = None

    def start(self) -> Vector:
        """Zeros."""
        return np.zeros(len(self.examples.inputs))

    def loss(self, weights: Vector) -> float:
        """Mean cross-entropy over all examples, in nats, and the decay."""
        signed = (2 * self.examples.labels - 1) * product(self.examples.inputs, weights)
        losses = np.maximum(0.0, -signed) + log_of(1 + exp_of(-np.abs(signed)))
        decay = 0.5 * self.weight_decay * folded(weights * weights)
        return float(folded(losses) / len(losses) + decay)

    def gradient(self, weights: Vector, rng: np.random.Generator) -> Vector:
        """Of a mini-batch."""
        batch = self.examples.batch(self.batch_size, rng)
        off = 1 / (1 + exp_of(-product(batch.inputs, weights))) - batch.labels
        return folded((batch.inputs * off).T) / self.batch_size + self.weight_decay * weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """One hidden layer of tanh units and softmax cross-entropy, on rings."""

    examples: Examples = field(default_factory=lambda: rings(1500, 3, 1))
    hidden_size: int = 24
    num_classes: int = 3
    batch_size: int = 16
    seed: int = 1
    largest_curvature: float | None = None

    def start(self) -> Vector:
        """Normal weights scaled by fan-in, zero biases."""
        rng, width = stream(self.seed, "learning.mlp"), len(self.examples.inputs)
        first = rng.standard_normal((width, self.hidden_size)) / sqrt(width)
        second = rng.standard_normal((self.hidden_size, self.num_classes)) / sqrt(self.hidden_size)
        zeros = np.zeros(self.hidden_size), np.zeros(self.num_classes)
        return np.concatenate([first.ravel(), zeros[0], second.ravel(), zeros[1]])

    def loss(self, weights: Vector) -> float:
        """Mean cross-entropy over all examples, in nats."""
        labels, inputs = self.examples.labels, self.examples.inputs
        chunks = [inputs[:, at : at + CHUNK] for at in range(0, len(labels), CHUNK)]
        scores = np.concatenate([self._scores(weights, chunk)[1] for chunk in chunks], axis=1)
        losses = log_of(folded(exp_of(scores))) - scores[labels, np.arange(len(labels))]
        return float(folded(losses) / len(labels))

    def gradient(self, weights: Vector, rng: np.random.Generator) -> Vector:
        """Of a mini-batch, by back-propagation."""
        return self.gradient_of(weights, self.examples.batch(self.batch_size, rng))

    def gradient_of(self, weights: Vector, batch: Examples) -> Vector:
        """The exact gradient of the mean loss over ``batch``."""
        hidden, scores = self._scores(weights, batch.inputs)
        count = len(batch.labels)
        delta = exp_of(scores)
        delta /= folded(delta)
        delta[batch.labels, np.arange(count)] -= 1
        delta /= count
        back = product(self._parts(weights)[2].T, delta) * (1 - hidden * hidden)
        terms = np.empty((len(weights), count))  # of each example, in the order of the weights
        first, bias, second, offset = self._parts(terms)
        np.multiply(batch.inputs[:, None, :], back, out=first)
        bias[:] = back
        np.multiply(hidden[:, None, :], delta, out=second)
        offset[:] = delta
        return folded(np.ascontiguousarray(terms.T))

    def _parts(self, weights: Vector) -> tuple[Vector, Vector, Vector, Vector]:
        """Views: weights and biases of the first layer, of the second; further axes stay."""
        width, inner, classes = len(self.examples.inputs), self.hidden_size, self.num_classes
        a = width * inner
        b, c = a + inner, a + inner + inner * classes
        more = weights.shape[1:]
        first = weights[:a].reshape(width, inner, *more)
        return first, weights[a:b], weights[b:c].reshape(inner, classes, *more), weights[c:]

    def _scores(self, weights: Vector, inputs: Vector) -> tuple[Vector, Vector]:
        """Hidden units, and the classes' scores less the largest: a row per unit, a column per example."""
        first, bias, second, offset = self._parts(weights)
        hidden = product(first, inputs)
        hidden += bias[:, None]
        hidden = tanh_of(hidden)
        scores = product(second, hidden)
        scores += offset[:, None]
        scores -= scores.max(axis=0)
        return hidden, scores


# The only place that names a problem. From the examples per gradient; more of them mean less noise.
PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "logistic_regression": lambda batch_size: LogisticRegression(batch_size=batch_size),
    "mlp": lambda batch_size: Mlp(batch_size=batch_size),
    "noisy_quadratic": lambda batch_size: NoisyQuadratic(noise=1 / sqrt(batch_size)),
}
