"""The table of the kernel checks: errors per device and operator, beside what is asked."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from calibrate.kernel_fits import TARGETS, Validation, cross_validate, law_of, predict
from calibrate.kernel_timings import KernelTimings
from sim.hardware import load_hardware


def validate(timings: KernelTimings, *, use_profiles: bool) -> Validation | None:
    """Cross-validated, or with the profile's constants; None where the profile has none."""
    if not use_profiles:
        return cross_validate(timings)
    fit = load_hardware(timings.profile).kernels.get(timings.operator)
    if fit is None:
        return None
    return Validation(timings=timings, predicted_s=predict(timings, fit.constants))


def print_table(all_timings: Iterable[KernelTimings], *, use_profiles: bool) -> int:
    """Prints a line per device, operator and version; 1 where a target is missed."""
    how = "constants of the profiles" if use_profiles else "whole groups held out"
    print(f"absolute relative error of kernel times, {how}")
    head = f"{'device':16} {'operator':28} {'version':24} {'constants':>9} {'rows':>7}"
    print(f"{head} {'median':>7} {'p90':>7}  asked")
    missed = 0
    for timings in all_timings:
        print(f"... {timings.profile} {timings.operator}", end="\r", file=sys.stderr, flush=True)
        found = validate(timings, use_profiles=use_profiles)
        if found is None or not timings.is_checked.any():
            continue
        median, p90 = found.median_and_p90
        target = TARGETS.get(timings.operator)
        is_missed = target is not None and (median > target[0] or p90 > target[1])
        missed += is_missed
        asked = f"{target[0]:.0%} / {target[1]:.0%} {'MISSED' if is_missed else 'met'}" if target else "-"
        print(
            f"{timings.profile:16} {timings.operator:28} {timings.variant:24} "
            f"{len(law_of(timings.operator).constants):9} {int(timings.is_checked.sum()):7} "
            f"{median:7.1%} {p90:7.1%}  {asked}",
            flush=True,
        )
    return 1 if missed else 0
