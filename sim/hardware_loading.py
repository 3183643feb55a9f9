"""From a profile's YAML to a ``HardwareProfile``: every number checked, its source kept.

A profile stands alone (``hardware_profiles/*.yaml``: a source beside every number) or says how it
differs from a ``base``; differences may be bare numbers, whose source is then where they were given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from sim.hardware import HardwareProfile, KernelFit
from sim.hardware_kernels import read_kernels
from sim.hardware_reading import QUANTITIES, UNKNOWN, Reader, check_keys
from sim.loading.place import Place
from sim.loading.strict_yaml import load_yaml
from sim.suggest import did_you_mean

LINKS = ("host_link", "intra_node", "inter_node")
TEXTS = ("name", "vendor", "architecture")
KNOWN_KEYS = ("base", *(one.name for one in fields(HardwareProfile) if one.name != "sources"))


def read_profile(given: Mapping[str, Any], place: Place, base: HardwareProfile | None) -> HardwareProfile:
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
            values[key] = read_field(reader, key, value, values.get(key), place.child(key))
    check_all_there(values, place)
    values["sources"] = reader.sources
    profile = HardwareProfile(**values)
    check_profile(profile, place)
    return profile


def given_where(place: Place) -> str:
    """The source of a bare number among differences."""
    where = place.file or "the call"
    return f"given in {where}, {place.path}" if place.path else f"given in {where}"


def read_field(reader: Reader, key: str, value: object, base: Any, place: Place) -> object:
    """One top-level field of a profile."""
    if key in QUANTITIES:
        return reader.sourced(value, QUANTITIES[key], place, key)
    if key in LINKS:
        return reader.link(value, base, place, key)
    if key == "peak_flops_per_s":
        return reader.peaks(value, base or {}, place)
    if key == "efficiency":
        return reader.curves(value, base or {}, place)
    if key == "kernels":
        kernels = read_kernels(value, base or {}, place, lender_kernels)
        reader.sources.update({f"kernels.{name}": one.fitted_on for name, one in kernels.items()})
        return kernels
    if key == "compute_capability" and value == UNKNOWN:
        return None
    if not isinstance(value, str) or (key in TEXTS and not value.strip()):
        hint = 'write it in quotes: "9.0"' if key == "compute_capability" else ""
        raise place.error("expected a text", given=value, hint=hint)
    return value.strip()


def check_all_there(values: dict[str, Any], place: Place) -> None:
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


def read_mapping(given: Mapping[str, Any], place: Place, *, above: tuple[Path, ...] = ()) -> HardwareProfile:
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
