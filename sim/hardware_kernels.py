"""The ``kernels:`` block of a hardware profile: a kernel law's constants per operator.

kernels:
  gemm_bfloat16:
    law: tiled_gemm                # the formula: sim/cost/laws
    constants: {start_s: 1.9e-06, ...}
    sizes: {m: [1, 32768], n: [32, 65536], k: [32, 65536]}
    fitted_on: "what was measured, by whom"
    median_error_fraction: 0.06
    p90_error_fraction: 0.19
  gemm_float8: {borrowed_from: l40s}    # another device's constants, over this one's peaks
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sim.hardware import KernelFit
from sim.hardware_reading import check_keys, is_number, read_source
from sim.loading.place import Place

KEYS = ("law", "constants", "sizes", "fitted_on", "median_error_fraction", "p90_error_fraction")
Lender = Callable[[str, Place], Mapping[str, KernelFit]]


def read_kernels(
    given: object, base: Mapping[str, KernelFit], place: Place, lender: Lender
) -> Mapping[str, KernelFit]:
    """Every operator's constants, laid over the base's."""
    from sim.cost.laws.registry import OPERATORS

    table = check_keys(given, tuple(OPERATORS), place, what="kernel constants by operator")
    kernels = dict(base)
    for operator, one in table.items():
        kernels[operator] = read_fit(operator, one, place.child(operator), lender)
    return kernels


def read_fit(operator: str, given: object, place: Place, lender: Lender) -> KernelFit:
    """One operator's constants, its own or borrowed."""
    from sim.cost.laws.registry import OPERATORS

    parts = check_keys(given, (*KEYS, "borrowed_from"), place, what="a kernel law and its constants")
    if "borrowed_from" in parts:
        return borrowed(operator, parts, place, lender)
    absent = [key for key in KEYS if key not in parts]
    if absent:
        raise place.error(f"missing: {', '.join(absent)}")
    law = OPERATORS[operator][0]
    if parts["law"] != law:
        raise place.child("law").error("not the law of this operator", given=parts["law"], allowed=law)
    return KernelFit(
        law=law,
        constants=read_constants(law, parts["constants"], place.child("constants")),
        sizes=read_sizes(law, parts["sizes"], place.child("sizes")),
        fitted_on=read_source(parts["fitted_on"], place.child("fitted_on")),
        median_error_fraction=read_error(parts, "median_error_fraction", place),
        p90_error_fraction=read_error(parts, "p90_error_fraction", place),
    )


def borrowed(operator: str, parts: Mapping[str, Any], place: Place, lender: Lender) -> KernelFit:
    """Another device's constants."""
    if len(parts) > 1:
        raise place.error(
            "borrowed constants stand alone", given=dict(parts), allowed="{borrowed_from: NAME}"
        )
    name = parts["borrowed_from"]
    if not isinstance(name, str):
        raise place.child("borrowed_from").error("expected a profile's name", given=name)
    theirs = lender(name, place.child("borrowed_from")).get(operator)
    if theirs is None or theirs.borrowed_from:
        raise place.child("borrowed_from").error(f"{name} has no {operator} of its own", given=name)
    return replace(theirs, borrowed_from=name)


def read_constants(law: str, given: object, place: Place) -> Mapping[str, float]:
    """Every constant of the law, within its bounds."""
    from sim.cost.laws.registry import LAWS

    bounds = LAWS[law].constants
    table = check_keys(given, tuple(bounds), place, what=f"the constants of {law}")
    absent = [name for name, one in bounds.items() if name not in table and one.absent is None]
    if absent:
        raise place.error(f"missing: {', '.join(absent)}")
    for name, value in table.items():
        one = bounds[name]
        is_within = is_number(value) and one.low * 0.999 <= value <= one.high * 1.001
        if not is_within and value != one.absent:
            allowed = f"{one.low:g} to {one.high:g} {one.unit} ({one.meaning})".replace("  ", " ")
            raise place.child(name).error("not a plausible constant", given=value, allowed=allowed)
    return {name: float(table.get(name, one.absent)) for name, one in bounds.items()}


def read_sizes(law: str, given: object, place: Place) -> Mapping[str, tuple[float, float]]:
    """The smallest and largest of every size that was fitted to."""
    from sim.cost.laws.registry import LAWS

    table = check_keys(given, LAWS[law].sizes, place, what=f"sizes of {law}")
    sizes: dict[str, tuple[float, float]] = {}
    for name, pair in table.items():
        is_pair = isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair))
        if not is_pair or not 0 <= pair[0] <= pair[1]:
            raise place.child(name).error("expected [smallest, largest]", given=pair)
        sizes[name] = (float(pair[0]), float(pair[1]))
    return sizes


def read_error(parts: Mapping[str, Any], key: str, place: Place) -> float:
    """A relative error, 0.06 for 6 %."""
    value = parts[key]
    if not is_number(value) or not 0 <= value < 10:
        raise place.child(key).error("expected a fraction", given=value, allowed="0.06 for 6 %")
    return float(value)
