"""What is known exactly of SGD under a fixed delay: x ← x - η h x(τ updates ago), one curvature at a time."""

from __future__ import annotations

import numpy as np


def convergence_factor(rate: float, delay: int) -> float:
    """The modulus of the largest root of z^(τ+1) - z^τ + rate: what the error shrinks by per update."""
    coefficients = np.zeros(delay + 2)
    coefficients[0], coefficients[1] = 1.0, -1.0
    coefficients[-1] += rate
    return float(np.abs(np.roots(coefficients)).max())


def stationary_variance(learning_rate: float, curvature: float, noise: float) -> float:
    """Where noisy SGD without delay ends: E x² = η σ² / (h (2 - η h))."""
    return learning_rate * noise**2 / (curvature * (2 - learning_rate * curvature))
