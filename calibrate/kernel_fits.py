"""Fits of kernel laws, and cross-validation with whole groups held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrate.fitting import fit_law, loss_of
from calibrate.kernel_timings import KernelTimings
from sim.hardware import KernelFit
from sim.hardware.laws.attention import HEAD_DIMS
from sim.hardware.laws.device import Floats, KernelLaw
from sim.hardware.laws.registry import LAWS, OPERATORS

MAX_ROWS = 2000  # per fit: drawn with a fixed seed
FOLDS = 4
SMALL_L2 = {"tile_s": 4e-6, "l2_speed": 4.0, "l2_share": 0.3}
SHARP_L2 = {"tile_s": 1e-6, "tile_area_s": 3e-6, "l2_sharpness": 12.0, "l2_speed": 4.0, "l2_share": 0.3}
# Where a fit starts besides the law's own start: a law of maxima has local minima.
OTHER_STARTS: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "tiled_gemm": (SMALL_L2, SHARP_L2),
    "tiled_gemm_quantized": (
        SMALL_L2,
        SHARP_L2,
        {"start_s": 5e-6, "tile_s": 3e-7, "sm_load": 8.0},
    ),
    "grouped_experts": ({"start_s": 2e-5, "tile_s": 4e-6, "l2_speed": 4.0},),
    "grouped_experts_quantized": (
        {"start_s": 2e-5, "tile_s": 4e-6, "l2_speed": 4.0},
        {"start_s": 5e-6, "tile_s": 3e-7, "sm_load": 8.0},
    ),
    "attention_prefill": ({"start_s": 2e-6, "block_s": 4e-6},),
    "attention_decode": ({"start_s": 2e-6, "block_s": 4e-6},),
}
# What the issue asks of each operator: median and p90 of the absolute relative error, cross-validated.
TARGETS = {
    "gemm_bfloat16": (0.10, 0.30),
    "gemm_float8": (0.15, 0.40),
    "attention_prefill": (0.12, 0.35),
    "attention_decode": (0.12, 0.35),
    "all_reduce_nccl": (0.15, 0.35),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Errors of one operator on one device, every row predicted by a fit that has not seen its group."""

    timings: KernelTimings
    predicted_s: Floats

    @property
    def errors(self) -> Floats:
        """Absolute relative errors of the rows that the checks look at."""
        checked = self.timings.is_checked
        return np.abs(self.predicted_s[checked] / self.timings.measured_s[checked] - 1.0)

    @property
    def median_and_p90(self) -> tuple[float, float]:
        """Of the absolute relative errors."""
        median, p90 = np.quantile(self.errors, [0.5, 0.9])
        return float(median), float(p90)


def law_of(operator: str) -> KernelLaw:
    """The law of an operator."""
    return LAWS[OPERATORS[operator][0]]


def fit(
    timings: KernelTimings,
    *,
    seed: int = 1,
    prior: Mapping[str, float] | None = None,
    only_prior: bool = False,
) -> dict[str, float]:
    """The best constants from a few starts; ``prior`` is one more of them, or the only one."""
    law = law_of(timings.operator)
    rng = np.random.default_rng(seed)
    count = len(timings.measured_s)
    chosen = np.zeros(count, dtype=bool)
    chosen[rng.permutation(count)[:MAX_ROWS]] = True
    few = timings.where(chosen)
    start = {name: constant.start for name, constant in law.constants.items()}
    best: tuple[float, dict[str, float]] | None = None
    others = () if only_prior else ({}, *OTHER_STARTS.get(law.name, ()))
    for other in (*others, *([prior] if prior else [])):
        constants = fit_law(law, few.sizes, few.measured_s, few.device, start={**start, **other})
        error = np.log(law.seconds(few.sizes, constants, few.device) / few.measured_s)
        loss = loss_of(error)
        if best is None or loss < best[0]:
            best = (loss, constants)
    assert best is not None
    return settled(best[1], few)


def settled(constants: dict[str, float], timings: KernelTimings) -> dict[str, float]:
    """Head sizes that were not measured take the constant of the nearest one that was."""
    if "head_dim" not in timings.sizes:
        return constants
    measured = sorted(set(timings.sizes["head_dim"].tolist()) & set(map(float, HEAD_DIMS)))
    for prefix in ("efficiency", "slow"):
        for size in HEAD_DIMS:
            if f"{prefix}_{size}" in constants and size not in measured:
                nearest = min(measured, key=lambda one: abs(np.log(one / size)))
                constants[f"{prefix}_{size}"] = constants[f"{prefix}_{nearest:.0f}"]
    return constants


def predict(timings: KernelTimings, constants: Mapping[str, float]) -> Floats:
    """Seconds by the law."""
    return law_of(timings.operator).seconds(timings.sizes, constants, timings.device)


def folds_of(timings: KernelTimings) -> Iterator[npt.NDArray[np.bool_]]:
    """Masks of rows to hold out together: groups dealt to folds, or each band by itself."""
    groups = np.unique(timings.group)
    is_banded = len(groups) <= 2 * FOLDS + 2
    dealt = np.arange(len(groups)) if is_banded else np.random.default_rng(7).permutation(len(groups)) % FOLDS
    fold = dealt[np.searchsorted(groups, timings.group)]
    for one in np.unique(dealt):
        yield fold == one


def cross_validate(timings: KernelTimings) -> Validation:
    """Every group predicted by a fit to the others."""
    predicted = np.full(len(timings.measured_s), np.nan)
    for held_out in folds_of(timings):
        constants = fit(timings.where(~held_out))
        predicted[held_out] = predict(timings.where(held_out), constants)
    return Validation(timings=timings, predicted_s=predicted)


def kernel_fit(timings: KernelTimings, constants: Mapping[str, float]) -> KernelFit:
    """What a profile keeps: four significant digits of each constant."""
    law = law_of(timings.operator)
    rounded = {name: float(f"{value:.4g}") for name, value in constants.items()}
    shown = Validation(timings=timings, predicted_s=predict(timings, rounded))
    median, p90 = shown.median_and_p90
    return KernelFit(
        law=law.name,
        constants=rounded,
        sizes={name: (float(one.min()), float(one.max())) for name, one in timings.sizes.items()},
        fitted_on=f"{len(timings.measured_s):,} timings; {timings.what}",
        median_error_fraction=round(median, 4),
        p90_error_fraction=round(p90, 4),
    )
