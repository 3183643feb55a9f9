"""Puts fitted kernel constants into the ``kernels:`` block of hardware profiles.

The block stands between two comment lines at the end of a profile, so that it can be put there again.
Whom a device borrows from stands in its profile alone (``{borrowed_from: NAME}``, first come first asked):
constants are fractions of the peaks. AMD's kernels are others' work altogether, so their profiles borrow
nothing and keep the roofline with curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.hardware import HardwareProfile, KernelFit, hardware_names, load_hardware
from sim.hardware.load import profile_folder

BEGIN = "# kernel constants: python -m calibrate fit-laws --write"
LINK_BOUND = ("all_reduce_nccl", "all_reduce_custom")


def borrowed_operators(
    borrower: HardwareProfile, lender: HardwareProfile, own: Mapping[str, KernelFit], offered: Sequence[str]
) -> list[str]:
    """What a device takes of its lender's operators: what it can run and has not measured itself."""
    peaks = borrower.peak_flops_per_s
    has_link = borrower.intra_node == lender.intra_node  # an all-reduce over another link is another one
    taken = []
    for operator in offered:
        is_runnable = operator not in ("gemm_float8", "experts_float8") or "float8" in peaks
        is_runnable &= operator != "gemm_int8" or "int8" in peaks
        is_runnable &= "bfloat16" in peaks or "kv_float8" not in operator
        if operator not in own and is_runnable and (has_link or operator not in LINK_BOUND):
            taken.append(operator)
    return taken


def yaml_block(own: Mapping[str, KernelFit], borrowed: Mapping[str, str]) -> str:
    """The ``kernels:`` block: own constants, then borrowed ones."""
    lines = [BEGIN, "kernels:"]
    for operator, fit in own.items():
        constants = ", ".join(f"{name}: {yaml_number(value)}" for name, value in fit.constants.items())
        sizes = ", ".join(
            f"{name}: [{yaml_number(low)}, {yaml_number(high)}]" for name, (low, high) in fit.sizes.items()
        )
        lines += [f"  {operator}:", f"    law: {fit.law}", f"    constants: {{{constants}}}"]
        lines += [f"    sizes: {{{sizes}}}", f'    fitted_on: "{fit.fitted_on}"']
        lines += [f"    median_error_fraction: {fit.median_error_fraction:g}"]
        lines += [f"    p90_error_fraction: {fit.p90_error_fraction:g}"]
    lines += [f"  {operator}: {{borrowed_from: {lender}}}" for operator, lender in borrowed.items()]
    return "\n".join(lines) + "\n"


def yaml_number(value: float) -> str:
    """A number that YAML reads as one: 1.0e+09, not 1e9."""
    if value == int(value) and abs(value) < 1e7:
        return str(int(value))
    text = f"{value:.4g}"
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return text
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+03d}"


def write_block(name: str, block: str) -> None:
    """Replaces the profile's ``kernels:`` block."""
    path = profile_folder() / f"{name}.yaml"
    body = path.read_text(encoding="utf-8").split(f"\n{BEGIN}")[0].rstrip("\n")
    path.write_text(f"{body}\n{block}", encoding="utf-8")


def own_fits(name: str) -> dict[str, KernelFit]:
    """What the profile has that is not borrowed, in the order of the registry."""
    kernels = load_hardware(name).kernels
    return {key: one for key, one in kernels.items() if not one.borrowed_from}


def lenders_of(name: str) -> list[str]:
    """Whom the profile borrows from, in the order of its block."""
    borrowed = (one.borrowed_from for one in load_hardware(name).kernels.values())
    return list(dict.fromkeys(lender for lender in borrowed if lender))


def write_all(fits: Mapping[str, Mapping[str, KernelFit]]) -> list[str]:
    """Writes every fitted profile and those that borrow from them; the names written.

    Operators that were not fitted now keep the constants that their profile has.
    """
    written = []
    lenders = {name: lenders_of(name) for name in hardware_names()}
    known = {name: {**own_fits(name), **fits.get(name, {})} for name in lenders}
    for name in dict.fromkeys([*fits, *(name for name, some in lenders.items() if some)]):
        own = known[name]
        taken: dict[str, str] = {}
        for lender in lenders[name]:
            offered = [operator for operator in known[lender] if operator not in taken]
            pair = load_hardware(name), load_hardware(lender)
            taken |= dict.fromkeys(borrowed_operators(*pair, own, offered), lender)
        if own or taken:
            write_block(name, yaml_block(own, taken))
            written.append(name)
    return written
