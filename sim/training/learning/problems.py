"""Small problems that a schedule's gradients are really computed on: loss, stochastic gradient, start.

They show what staleness and batch size do to convergence in principle. They do not say how a large language
model behaves: its curvature, noise, optimizer (Adam, warm-up, clipping) and tolerance of staleness are
different.

Only operations whose results IEEE 754 fixes, in an order of our own: SGD repeats a last digit's difference
until it shows, and a BLAS, a SIMD level or a libm would each bring its own last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field
from functools import cache
from math import pi, sqrt
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sim.elementary import exp_of, log_of, sin, sin_cos, tanh_of
from sim.rng import stream
from sim.scenario.dataclass import dataclass

Vector = npt.NDArray[np.float64]
Drawn = npt.NDArray[Any]  # normal noise, or the numbers of examples: each problem knows its own

CHUNK = 256  # examples whose products stay in the caches
MOST_AHEAD = 64  # gradients of a worker that a generator is asked for at once


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

    def draws(self, rng: np.random.Generator) -> Iterator[Drawn]:
        """What chance gives to each gradient of a worker, one after the other and without end."""
        ...

    def gradients(self, weights: Vector, drawn: Drawn) -> Vector:
        """Unbiased estimates of the loss' gradient: row i at row i of ``weights``, with row i of ``drawn``.

        Each row must be what it would be without the others: how many come together means nothing.
        """
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

    def draws(self, rng: np.random.Generator) -> Iterator[Drawn]:
        """Normal noise of every coordinate; none where there is no noise."""
        size = len(self.curvatures) if self.noise else 0
        while True:
            yield from rng.standard_normal((MOST_AHEAD, size))

    def gradients(self, weights: Vector, drawn: Drawn) -> Vector:
        """h x, with independent normal noise."""
        exact: Vector = np.asarray(self.curvatures) * weights
        return exact + self.noise * drawn if self.noise else exact


def largest_stable_rate(delay: float) -> float:
    """The η·h below which a fixed delay of ``delay`` updates converges: 2 sin(π / (2 (2τ + 1))).

    From the roots of z^(τ+1) - z^τ + η h on the unit circle; without delay it is gradient descent's 2.
    """
    return 2 * sin(pi / (2 * (2 * delay + 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Generated examples: inputs of unit variance, a row per feature, and a class for each example.

    Mini-batches of several gradients have an axis more: feature x gradient x example.
    """

    inputs: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    def draws(self, size: int, rng: np.random.Generator) -> Iterator[Drawn]:
        """Which ``size`` examples are the next mini-batch, drawn with replacement."""
        ahead = max(1, min(MOST_AHEAD, CHUNK // size))  # one call for several: the same numbers
        while True:
            yield from rng.integers(len(self.labels), size=(ahead, size))

    def chosen(self, which: Drawn) -> Examples:
        """The examples with these numbers."""
        return Examples(inputs=self.inputs.take(which, axis=1), labels=self.labels.take(which))


def folded(terms: Vector) -> Vector:
    """The sum over the first axis, its upper half added to its lower one until one is left."""
    count = len(terms)
    if count == 1:
        total: Vector = terms[0]
        return total
    half = count // 2
    sums = terms[:half] + terms[half : 2 * half]
    if count % 2:
        sums[0] += terms[-1]
    while half > 1:  # in place, as long as they are in the caches
        count, half = half, half // 2
        sums[:half] += sums[half : 2 * half]
        if count % 2:
            sums[0] += sums[count - 1]
    total = sums[0]
    return total


def product(weights: Vector, inputs: Vector) -> Vector:
    """The weights (input x unit, or input x unit x gradient) transposed times the inputs of each example."""
    return folded(weights[..., None] * inputs[:, None])


@cache
def two_classes(num_examples: int, num_features: int, seed: int) -> Examples:
    """Labels drawn from a logistic model with random weights: no weights separate them perfectly."""
    rng = stream(seed, "learning.logistic")
    inputs = np.ascontiguousarray(rng.standard_normal((num_examples, num_features)).T)
    truth = rng.standard_normal(num_features) * 2 / sqrt(num_features)
    labels = rng.random(num_examples) < 1 / (1 + exp_of(-folded(truth[:, None] * inputs)))
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
    sine, cosine = zip(*map(sin_cos, angle.tolist()), strict=True)
    inputs = radius * np.array([cosine, sine])
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
        signed = (2 * self.examples.labels - 1) * folded(weights[:, None] * self.examples.inputs)
        losses = np.maximum(0.0, -signed) + log_of(1 + exp_of(-np.abs(signed)))
        decay = 0.5 * self.weight_decay * folded(weights * weights)
        return float(folded(losses) / len(losses) + decay)

    def draws(self, rng: np.random.Generator) -> Iterator[Drawn]:
        """Mini-batches."""
        return self.examples.draws(self.batch_size, rng)

    def gradients(self, weights: Vector, drawn: Drawn) -> Vector:
        """Of mini-batches."""
        batch = self.examples.chosen(drawn)
        off = 1 / (1 + exp_of(-folded(weights.T[..., None] * batch.inputs))) - batch.labels
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

    def draws(self, rng: np.random.Generator) -> Iterator[Drawn]:
        """Mini-batches."""
        return self.examples.draws(self.batch_size, rng)

    def gradients(self, weights: Vector, drawn: Drawn) -> Vector:
        """Of mini-batches, by back-propagation."""
        return self.gradients_of(weights, self.examples.chosen(drawn))

    def gradients_of(self, weights: Vector, batch: Examples) -> Vector:
        """The exact gradient of the mean loss over ``batch``; over each batch, where it has several."""
        columns = np.ascontiguousarray(weights.T)
        hidden, scores = self._scores(columns, batch.inputs)
        size = batch.labels.shape[-1]
        delta = exp_of(scores)
        delta /= folded(delta)
        delta[(batch.labels, *np.indices(batch.labels.shape, sparse=True))] -= 1
        delta /= size
        back = product(self._parts(columns)[2].swapaxes(0, 1), delta)
        slope = hidden * hidden
        np.subtract(1, slope, out=slope)
        back *= slope
        terms = np.empty((len(columns), *batch.labels.shape))  # of each example, in the order of the weights
        first, bias, second, offset = self._parts(terms)
        np.multiply(batch.inputs[:, None], back, out=first)
        bias[:] = back
        np.multiply(hidden[:, None], delta, out=second)
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
        hidden += bias[..., None]
        hidden = tanh_of(hidden)
        scores = product(second, hidden)
        scores += offset[..., None]
        scores -= scores.max(axis=0)
        return hidden, scores


# The only place that names a problem. From the examples per gradient; more of them mean less noise.
PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "logistic_regression": lambda batch_size: LogisticRegression(batch_size=batch_size),
    "mlp": lambda batch_size: Mlp(batch_size=batch_size),
    "noisy_quadratic": lambda batch_size: NoisyQuadratic(noise=1 / sqrt(batch_size)),
}
