"""Fits a law's constants: the sum of absolute errors of log(time), so that odd kernels do not pull."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sim.hardware.laws.device import Device, Floats, KernelLaw, Sizes

MAX_ROUNDS = 40
NUDGE = 2e-3  # of log(constant): wide enough to feel a wave's step through many rows
SMALLEST_ERROR = 0.02


def fit_law(
    law: KernelLaw,
    sizes: Sizes,
    measured_s: Floats,
    device: Device,
    *,
    start: Mapping[str, float] | None = None,
    max_rounds: int = MAX_ROUNDS,
) -> dict[str, float]:
    """The constants, by reweighted damped Gauss-Newton steps in log(constant) with numerical slopes."""
    names = list(law.constants)
    low = np.log([law.constants[name].low for name in names])
    high = np.log([law.constants[name].high for name in names])
    given = start or {name: law.constants[name].start for name in names}
    theta = np.clip(np.log([given[name] for name in names]), low, high)
    target = np.log(measured_s)

    def log_time(at: Floats) -> Floats:
        constants = dict(zip(names, np.exp(at).tolist(), strict=True))
        return np.log(law.seconds(sizes, constants, device))

    damping, error = 1e-2, target - log_time(theta)
    loss = loss_of(error)
    for _ in range(max_rounds):
        slopes = slopes_of(log_time, theta, low, high)
        weight = 1.0 / np.maximum(np.abs(error), SMALLEST_ERROR)
        normal = slopes.T @ (slopes * weight[:, None])
        gradient = slopes.T @ (weight * error)
        gained = False
        for _ in range(6):
            ridge = damping * np.diag(np.diag(normal) + 1e-3 * len(target))
            step = np.clip(np.linalg.solve(normal + ridge, gradient), -0.5, 0.5)
            tried = np.clip(theta + step, low, high)
            new_error = target - log_time(tried)
            if loss_of(new_error) < loss * (1 - 1e-7):
                gained = loss - loss_of(new_error) > 1e-4 * loss
                theta, error, loss = tried, new_error, loss_of(new_error)
                damping = max(damping / 3, 1e-5)
                break
            damping *= 4
        if not gained:
            break
    return dict(zip(names, np.exp(theta).tolist(), strict=True))


def slopes_of(log_time: object, theta: Floats, low: Floats, high: Floats) -> Floats:
    """d log(time) / d log(constant), by differences inside the bounds."""
    assert callable(log_time)
    columns: list[npt.NDArray[np.float64]] = []
    for index in range(len(theta)):
        up, down = theta.copy(), theta.copy()
        up[index] = min(theta[index] + NUDGE, high[index])
        down[index] = max(theta[index] - NUDGE, low[index])
        columns.append((log_time(up) - log_time(down)) / max(up[index] - down[index], 1e-9))
    return np.stack(columns, axis=1)


def loss_of(error: Floats) -> float:
    """Mean absolute error of log(time), with an error above 1 counted less: outliers do not steer."""
    size = np.abs(error)
    return float(np.mean(np.where(size < 1.0, size, 1.0 + np.log(np.maximum(size, 1.0)))))
