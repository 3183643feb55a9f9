"""Puts fitted kernel constants into the ``kernels:`` block of hardware profiles.

The block stands between two comment lines at the end of a profile, so that it can be put there again.
Devices without measurements borrow from the nearest architecture; constants are fractions of the peaks.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.hardware import KernelFit, load_hardware
from sim.hardware_loading import profile_folder

BEGIN = "# kernel constants: python -m calibrate fit --write"
# AMD's kernels are others' work altogether: no borrowing, their profiles keep the roofline with curves.
LENDERS: Mapping[str, tuple[str, ...]] = {
    "a100-sxm-40gb": ("a100-sxm-80gb",), "a100-pcie-40gb": ("a100-sxm-80gb",),
    "a100-pcie-80gb": ("a100-sxm-80gb",), "v100-sxm2-16gb": ("a100-sxm-80gb",),
    "v100-sxm2-32gb": ("a100-sxm-80gb",), "t4": ("a100-sxm-80gb",), "a10": ("a100-sxm-80gb",),
    "rtx-3090": ("a100-sxm-80gb",), "l4": ("l40s",), "rtx-pro-6000": ("l40s",), "rtx-4090": ("l40s",),
    "h100-sxm-80gb": ("h200-sxm-141gb",), "h100-pcie-80gb": ("h100-sxm-80gb", "h200-sxm-141gb"),
    "b200-sxm-180gb": ("h200-sxm-141gb",), "gb200": ("b200-sxm-180gb", "h200-sxm-141gb"),
}  # fmt: skip
LINK_BOUND = ("all_reduce_nccl", "all_reduce_custom")


def borrowed_operators(name: str, own: Mapping[str, KernelFit], lender: Mapping[str, KernelFit]) -> list[str]:
    """What ``name`` takes from its lender: what it can run and has not measured itself."""
    peaks = load_hardware(name).peak_flops_per_s
    has_link = name.startswith(("a100-sxm", "gb200"))  # the others' links are PCIe or another NVLink
    taken = []
    for operator in lender:
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


def write_all(fits: Mapping[str, Mapping[str, KernelFit]]) -> list[str]:
    """Writes every fitted profile and those that borrow from them; the names written.

    Operators that were not fitted now keep the constants that their profile has.
    """
    written = []
    names = dict.fromkeys([*fits, *LENDERS])
    lenders = dict.fromkeys(one for some in LENDERS.values() for one in some)
    known = {name: {**own_fits(name), **fits.get(name, {})} for name in {**names, **lenders}}
    for name in names:
        own = known[name]
        taken: dict[str, str] = {}
        for lender in LENDERS.get(name, ()):
            offered = {key: one for key, one in known[lender].items() if key not in taken}
            taken |= dict.fromkeys(borrowed_operators(name, own, offered), lender)
        if own or taken:
            write_block(name, yaml_block(own, taken))
            written.append(name)
    return written
