"""From a profile's YAML to a ``HardwareProfile``: every number checked, its source kept.

A profile stands alone (``hardware_profiles/*.yaml``: a source beside every number) or says how it
differs from a ``base``; differences may be bare numbers, whose source is then where they were given.
Its ``kernels:`` block has a kernel law's constants per operator:

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
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from sim.hardware.profile import HardwareProfile, KernelFit
from sim.hardware.reading import QUANTITIES, UNKNOWN, Reader, check_keys, is_number, read_source
from sim.loading.place import Place
from sim.loading.strict_yaml import load_yaml
from sim.suggest import did_you_mean

LINKS = ("host_link", "intra_node", "inter_node")
TEXTS = ("name", "vendor", "architecture")
FIT_KEYS = ("law", "constants", "sizes", "fitted_on", "median_error_fraction", "p90_error_fraction")
Lender = Callable[[str, Place], Mapping[str, KernelFit]]
KNOWN_KEYS = ("base", *(one.name for one in fields(HardwareProfile) if one.name != "sources"))


def read_profile(given: Mapping[str, object], place: Place, base: HardwareProfile | None) -> HardwareProfile:
    """A profile from its YAML mapping, laid over ``base`` where there is one."""
    check_keys(given, KNOWN_KEYS, place, what="a hardware profile")
    values: dict[str, Any] = {"notes": "", "efficiency": {}, "kernels": {}}
    reader = Reader(bare_source=None, sources={})
    if base is not None:
        values = {one.name: getattr(base, one.name) for one in fields(base)}
        values["name"] = f"{base.name} (modified)"
        reader = Reader(bare_source=given_where(place), sources=dict(base.sources))
    for key, value in given.items():
        if key != "base":
            values[key] = read_field(reader, key, value, base, place.child(key))
    check_all_there(values, place)
    values["sources"] = reader.sources
    profile = HardwareProfile(**values)
    check_profile(profile, place)
    return profile


def given_where(place: Place) -> str:
    """The source of a bare number among differences."""
    where = place.file or "the call"
    return f"given in {where}, {place.path}" if place.path else f"given in {where}"


def read_field(reader: Reader, key: str, value: object, base: HardwareProfile | None, place: Place) -> object:
    """One top-level field of a profile."""
    if key in QUANTITIES:
        return reader.sourced(value, QUANTITIES[key], place, key)
    if key in LINKS:
        return reader.link(value, getattr(base, key, None), place, key)
    if key == "peak_flops_per_s":
        return reader.peaks(value, base.peak_flops_per_s if base else {}, place)
    if key == "efficiency":
        return reader.curves(value, base.efficiency if base else {}, place)
    if key == "kernels":
        kernels = read_kernels(value, base.kernels if base else {}, place, lender_kernels)
        reader.sources.update({f"kernels.{name}": one.fitted_on for name, one in kernels.items()})
        return kernels
    if key == "compute_capability" and value == UNKNOWN:
        return None
    if not isinstance(value, str) or (key in TEXTS and not value.strip()):
        hint = 'write it in quotes: "9.0"' if key == "compute_capability" else ""
        raise place.error("expected a text", given=value, hint=hint)
    return value.strip()


def check_all_there(values: Mapping[str, object], place: Place) -> None:
    """Every field must be there; what nobody knows says ``unknown``."""
    absent = [one.name for one in fields(HardwareProfile) if one.name not in values and one.name != "sources"]
    if absent:
        raise place.error(
            f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing",
            hint="write `unknown` where the number is not known, or start from base: NAME",
        )


def check_profile(profile: HardwareProfile, place: Place) -> None:
    """What must hold between fields."""
    block, sram = profile.max_sram_bytes_per_block, profile.sram_bytes_per_sm
    if block is not None and block > sram:
        problem = f"a block has more SRAM ({block}) than an SM ({sram})"
        raise place.child("max_sram_bytes_per_block").error(problem)
    if profile.l2_bytes is not None and profile.l2_bytes >= profile.hbm_bytes:
        raise place.child("l2_bytes").error("the L2 is not smaller than the HBM", given=profile.l2_bytes)
    if profile.idle_w is not None and profile.tdp_w is not None and profile.idle_w > profile.tdp_w:
        raise place.child("idle_w").error(f"idles above its TDP of {profile.tdp_w:g} W", given=profile.idle_w)
    graph = profile.graph_launch_s
    if graph is not None and graph > profile.kernel_launch_s:
        raise place.child("graph_launch_s").error(
            f"a launch in a graph costs more than a plain one ({profile.kernel_launch_s:g} s)", given=graph
        )


def profile_folder() -> Path:
    """The folder of the shipped profiles: in a wheel inside the package, else in the checkout."""
    from sim.data import data_dir

    return Path(str(data_dir("hardware_profiles")))


def read_file(file: Path, *, above: tuple[Path, ...] = ()) -> HardwareProfile:
    """The profile in a YAML file; ``above`` are the files that name it as their base."""
    place = Place(file=str(file))
    if file.resolve() in above:
        raise place.child("base").error("a profile cannot be its own base", given=above[-1].name)
    return read_mapping(load_yaml(file), place, above=(*above, file.resolve()))


def read_mapping(
    given: Mapping[str, object], place: Place, *, above: tuple[Path, ...] = ()
) -> HardwareProfile:
    """A profile written out, or the differences from its ``base``."""
    if "base" not in given:
        return read_profile(given, place, None)
    base = given["base"]
    if not isinstance(base, str):
        raise place.child("base").error("expected a profile's name or path", given=base)
    return read_profile(given, place, find_profile(base, place.child("base"), above=above))


@lru_cache(maxsize=64)
def shipped_profile(name: str) -> HardwareProfile:
    """A shipped profile; the files do not change while the program runs."""
    return read_file(profile_folder() / f"{name}.yaml")


def lender_kernels(name: str, place: Place) -> Mapping[str, KernelFit]:
    """The kernel constants of a shipped profile that others borrow from."""
    if name not in shipped_names():
        raise place.error("no such shipped profile", given=name, allowed=", ".join(shipped_names()))
    return shipped_profile(name).kernels


def shipped_names() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(one.stem for one in profile_folder().glob("*.yaml"))


def find_profile(given: str, place: Place, *, above: tuple[Path, ...] = ()) -> HardwareProfile:
    """The shipped profile of that name, or the one in that file (beside the scenario, or from here)."""
    names = shipped_names()
    if given in names:
        return shipped_profile(given)
    if given.endswith((".yaml", ".yml")):
        beside = Path(place.file).parent if place.file else Path()
        for folder in (beside, Path()):
            if (folder / given).is_file():
                return read_file(folder / given, above=above)
        raise place.error("no such file", given=given, hint=f"looked in {beside} and in the current folder")
    if Path(given).is_dir():
        raise place.error(
            "this is a folder", given=given, allowed="a shipped name, or a path to a .yaml file"
        )
    raise place.error(
        f"no such hardware profile{did_you_mean(given, names)}",
        given=given,
        allowed=", ".join(names) + ", or a path to a .yaml file",
    )


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

    parts = check_keys(given, (*FIT_KEYS, "borrowed_from"), place, what="a kernel law and its constants")
    if "borrowed_from" in parts:
        return borrowed(operator, parts, place, lender)
    absent = [key for key in FIT_KEYS if key not in parts]
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


def borrowed(operator: str, parts: Mapping[str, object], place: Place, lender: Lender) -> KernelFit:
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
    found = {name: one.absent for name, one in bounds.items() if one.absent is not None}
    for name, value in table.items():
        one = bounds[name]
        if is_number(value) and (one.low * 0.999 <= value <= one.high * 1.001 or value == one.absent):
            found[name] = float(value)
        else:
            allowed = f"{one.low:g} to {one.high:g} {one.unit} ({one.meaning})".replace("  ", " ")
            raise place.child(name).error("not a plausible constant", given=value, allowed=allowed)
    return {name: found[name] for name in bounds}


def read_sizes(law: str, given: object, place: Place) -> Mapping[str, tuple[float, float]]:
    """The smallest and largest of every size that was fitted to."""
    from sim.cost.laws.registry import LAWS

    table = check_keys(given, LAWS[law].sizes, place, what=f"sizes of {law}")
    sizes: dict[str, tuple[float, float]] = {}
    for name, pair in table.items():
        numbers = [one for one in pair if is_number(one)] if isinstance(pair, list) else []
        is_pair = isinstance(pair, list) and len(pair) == len(numbers) == 2
        if not is_pair or not 0 <= numbers[0] <= numbers[1]:
            raise place.child(name).error("expected [smallest, largest]", given=pair)
        sizes[name] = (float(numbers[0]), float(numbers[1]))
    return sizes


def read_error(parts: Mapping[str, object], key: str, place: Place) -> float:
    """A relative error, 0.06 for 6 %."""
    value = parts[key]
    if not is_number(value) or not 0 <= value < 10:
        raise place.child(key).error("expected a fraction", given=value, allowed="0.06 for 6 %")
    return float(value)
