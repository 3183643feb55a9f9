"""The fit of one folder of measurements: constants of the laws from four fifths of the shapes, and the rest.

An operator with fewer than ``FEWEST_TRAINING`` rows keeps the base profile's constants. With less than three
rows a constant a fit starts at the base's constants only: what the rows do not decide stays where published
timings had it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calibrate.fit.constants import Constant, device_constants, elementwise_curve
from calibrate.fit.rows import Measurements, read_measurements
from calibrate.fit.timings import OWN_OPERATORS, has_peak, is_held_out, own_timings
from calibrate.kernel_fits import Validation, fit, kernel_fit, law_of, predict
from calibrate.kernel_timings import KernelTimings, Rows
from sim.hardware import EfficiencyCurve, HardwareProfile, KernelFit
from sim.hardware.laws.device import Floats
from sim.hardware.laws.registry import OPERATORS

FEWEST_TRAINING = 12
ROWS_PER_CONSTANT = 3
MOST_P90 = 1.0  # rows that a law misses by more are of another device, or no times of this kernel
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorFit:
    """One operator: its timings, which of them were held out, its constants, and both predictions."""

    timings: KernelTimings
    held_out: Rows
    fit: KernelFit
    predicted_s: Floats
    shipped_s: Floats | None  # by the base profile's constants

    def errors(self, rows: Rows, seconds: Floats) -> tuple[float, float] | None:
        """Median and p90 of the absolute relative errors of some rows; None where there is no row."""
        if not rows.any():
            return None
        median, p90 = np.quantile(np.abs(seconds[rows] / self.timings.measured_s[rows] - 1.0), [0.5, 0.9])
        return float(median), float(p90)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """Everything that one folder of measurements says about a device."""

    measured: Measurements
    base: HardwareProfile
    choice: str
    operators: tuple[OperatorFit, ...]
    constants: tuple[Constant, ...]
    elementwise: EfficiencyCurve | None
    kept: tuple[str, ...]  # what stays as the base has it, and why


def fit_device(folder: Path, base: HardwareProfile, choice: str, say: Say) -> DeviceFit:
    """Reads a folder and fits what its rows suffice for."""
    measured = read_measurements(folder)
    say(f"{len(measured.rows)} timed points, {measured.num_refused} refused ones, of {folder}")
    fits: list[OperatorFit] = []
    kept: list[str] = []
    for timings in own_timings(measured, base, choice):
        one = fit_operator(timings, base)
        if one is None:
            few = int(len(timings.measured_s) - is_held_out(timings).sum())
            kept.append(f"{timings.operator}: {few} shapes to fit to; at least {FEWEST_TRAINING} are needed")
            say(f"{kept[-1]}: stays as {base.name} has it")
            continue
        say(line_of(one))
        if one.fit.p90_error_fraction > MOST_P90:
            kept.append(
                f"{timings.operator}: the law misses these times by {one.fit.p90_error_fraction:.0%} (p90); "
                f"are they of the device {base.name}?"
            )
            say(f"{kept[-1]} stays as it has it")
            continue
        fits.append(one)
    without = [one for one in OWN_OPERATORS if not has_peak(base, one)]
    kept += [f"{one}: {base.name} has no peak of {OPERATORS[one][1]}" for one in without]
    curve = elementwise_curve(measured, base, choice)
    if curve is None:
        kept.append("elementwise_memory: too few sizes of norms and elementwise kernels")
    constants = device_constants(measured, base, choice)
    missing = {"l2_bytes_per_s", "host_link.bytes_per_s", "kernel_launch_s", "graph_launch_s"}
    kept += [f"{key}: not measured yet" for key in sorted(missing - {one.key for one in constants})]
    return DeviceFit(
        measured=measured, base=base, choice=choice, operators=tuple(fits), constants=tuple(constants),
        elementwise=curve, kept=tuple(kept),
    )  # fmt: skip


def fit_operator(timings: KernelTimings, base: HardwareProfile) -> OperatorFit | None:
    """The fit to four fifths of the shapes; None where they are too few."""
    held_out = is_held_out(timings)
    training = timings.where(~held_out)
    if len(training.measured_s) < FEWEST_TRAINING:
        return None
    shipped = base.kernels.get(timings.operator)
    is_thin = len(training.measured_s) < ROWS_PER_CONSTANT * len(law_of(timings.operator).constants)
    # A profile's 0 switches a term off; the fit works in logarithms.
    prior = {name: one for name, one in shipped.constants.items() if one > 0} if shipped else None
    constants = fit(training, prior=prior, only_prior=is_thin and prior is not None)
    found = kernel_fit(training, constants)
    one = OperatorFit(
        timings=timings, held_out=held_out, fit=found, predicted_s=predict(timings, found.constants),
        shipped_s=predict(timings, shipped.constants) if shipped else None,
    )  # fmt: skip
    return replace(one, fit=replace(found, fitted_on=fitted_on(one)))


def fitted_on(one: OperatorFit) -> str:
    """How many shapes, the error on those that were held out, and whose kernels."""
    rest = one.errors(one.held_out, one.predicted_s)
    held = int(one.held_out.sum())
    error = f"; {held} shapes held out: median {rest[0]:.1%}, p90 {rest[1]:.1%}" if rest else ""
    alone = "; activations quantised beforehand" if one.timings.operator == "gemm_float8" else ""
    return f"{int((~one.held_out).sum())} timings{error}{alone}; {one.timings.what}"


def line_of(one: OperatorFit) -> str:
    """One line of progress."""
    rest = one.errors(one.held_out, one.predicted_s)
    held = f"held out: median {rest[0]:.1%}, p90 {rest[1]:.1%}" if rest else "none held out"
    fitted = f"median {one.fit.median_error_fraction:.1%}, p90 {one.fit.p90_error_fraction:.1%}"
    return f"{one.timings.operator:20} {len(one.timings.measured_s):5} shapes: {fitted}; {held}"


def validations(found: DeviceFit) -> Iterator[tuple[str, Validation]]:
    """Held-out rows by the fitted constants, and all rows by the base profile's: (which, errors)."""
    for one in found.operators:
        if one.held_out.any():
            held = one.timings.where(one.held_out)
            yield "held out", Validation(timings=held, predicted_s=one.predicted_s[one.held_out])
        if one.shipped_s is not None:
            yield "shipped constants", Validation(timings=one.timings, predicted_s=one.shipped_s)
