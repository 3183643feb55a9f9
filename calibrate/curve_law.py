"""Laws of achieved fraction by size, fitted robustly, and the few points that a profile keeps.

All fits minimise the sum of absolute errors in log(time): a median fit, so that a few odd kernels do not
pull it. ``ideal_s`` is size / peak: the time at a fraction of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MAX_FRACTION = 1.05


def fit_startup(ideal_s: Floats, measured_s: Floats) -> tuple[float, float]:
    """(start-up s, fraction at large sizes) of the law time = startup + ideal / fraction."""

    def log_time(theta: Floats) -> Floats:
        return np.asarray(np.log(np.exp(theta[0]) + ideal_s * np.exp(theta[1])))

    large = ideal_s >= np.quantile(ideal_s, 0.9)
    start = np.log([np.min(measured_s), np.median(measured_s[large] / ideal_s[large])])
    theta = median_fit(log_time, np.log(measured_s), start)
    return float(np.exp(theta[0])), float(min(np.exp(-theta[1]), MAX_FRACTION))


def startup_fractions(sizes: Floats, peak: float, startup_s: float, fraction: float) -> Floats:
    """Achieved fraction of the peak at each size, under the start-up law."""
    ideal_s = sizes / peak
    return ideal_s / (startup_s + ideal_s / fraction)


def fit_knots(sizes: Floats, fractions: Floats, knots: Sequence[float]) -> Floats:
    """Fractions at ``knots`` whose interpolation (linear in log size) is nearest to the data."""
    weights = hat_weights(np.log(sizes), np.log(np.asarray(knots)))

    def log_fraction(theta: Floats) -> Floats:
        return np.log(weights @ np.exp(theta))

    start = np.log(np.maximum([local_median(sizes, fractions, knot) for knot in knots], 1e-6))
    theta = median_fit(log_fraction, np.log(fractions), start)
    return np.clip(np.exp(theta), 1e-6, MAX_FRACTION)


def hat_weights(x: Floats, knots: Floats) -> Floats:
    """Row i: the weights of the knots in the linear interpolation at x[i], constant beyond the ends."""
    return np.stack([np.interp(x, knots, one) for one in np.eye(len(knots))], axis=1)


def local_median(sizes: Floats, fractions: Floats, knot: float) -> float:
    """Median fraction of the measurements nearest in size: where the fit starts."""
    distance = np.abs(np.log(sizes / knot))
    return float(np.median(fractions[np.argsort(distance)[: max(5, len(sizes) // 50)]]))


def median_fit(model: Callable[[Floats], Floats], target: Floats, start: Floats) -> Floats:
    """Least absolute deviations by reweighted, damped Gauss-Newton steps with numerical slopes."""
    theta = np.array(start, dtype=np.float64)
    for _ in range(40):
        residual = target - model(theta)
        nudges = 1e-4 * np.eye(len(theta))
        slopes = np.stack([(model(theta + nudge) - model(theta - nudge)) / 2e-4 for nudge in nudges], axis=1)
        weight = 1.0 / np.maximum(np.abs(residual), 0.01)
        normal = slopes.T @ (slopes * weight[:, None]) + 1e-6 * len(target) * np.eye(len(theta))
        step = np.linalg.solve(normal, slopes.T @ (weight * residual))
        theta += np.clip(step, -0.5, 0.5)
        if float(np.max(np.abs(step))) < 1e-5:
            break
    return theta


def error_text(predicted_s: Floats, measured_s: Floats) -> str:
    """ "median error 6 %, p90 21 % over 8,412 timings"."""
    error = np.abs(predicted_s / measured_s - 1.0)
    median, p90 = np.quantile(error, [0.5, 0.9])
    return f"median error {median:.0%}, p90 {p90:.0%} over {len(error):,} timings"
