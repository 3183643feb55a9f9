"""Reading a hardware profile: numbers with their units and sources, links, curves, kernel fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from sim.errors import ScenarioError, some_of, told_together
from sim.hardware.profile import (
    CURVE_SIZE_UNITS,
    DTYPES,
    EfficiencyCurve,
    HardwareProfile,
    KernelFit,
    Link,
    cards_meant,
)
from sim.scenario.build import UnknownKeys, keeping
from sim.scenario.dataclass import dataclass
from sim.scenario.not_modelled import unknown_word
from sim.scenario.place import Place
from sim.scenario.strict_yaml import load_yaml
from sim.units import QuantityError, parse_quantity

UNKNOWN = "unknown"
_NAMES, _KEYS = "`gpuyard list` prints all", "`gpuyard show NAME` prints a profile's"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What a number may be: its unit, and the range outside which it is a slip, not a device."""

    unit: str
    low: float
    high: float
    optional: bool = True
    whole: bool = False


# The ranges are wide: they catch a forgotten unit (hbm_bytes: 80) and a slipped exponent, no more.
QUANTITIES: Mapping[str, Quantity] = {
    "sm_count": Quantity(unit="count", low=1, high=1e5, optional=False, whole=True),
    "clock_hz": Quantity(unit="hz", low=1e7, high=2e10),
    "sram_bytes_per_sm": Quantity(unit="bytes", low=1024, high=1e9, optional=False, whole=True),
    "max_sram_bytes_per_block": Quantity(unit="bytes", low=1024, high=1e9, whole=True),
    "register_file_bytes_per_sm": Quantity(unit="bytes", low=1024, high=1e9, whole=True),
    "sram_bytes_per_s": Quantity(unit="bytes_per_s", low=1e9, high=1e17),
    "l2_bytes": Quantity(unit="bytes", low=1024, high=1e12, whole=True),
    "l2_bytes_per_s": Quantity(unit="bytes_per_s", low=1e9, high=1e17),
    "hbm_bytes": Quantity(unit="bytes", low=1e8, high=1e15, optional=False, whole=True),
    "hbm_bytes_per_s": Quantity(unit="bytes_per_s", low=1e9, high=1e16, optional=False),
    "dram_bytes": Quantity(unit="bytes", low=1e8, high=1e16, whole=True),
    "dram_bytes_per_s": Quantity(unit="bytes_per_s", low=1e8, high=1e16),
    "gpus_per_node": Quantity(unit="count", low=1, high=1e4, whole=True),
    "kernel_launch_s": Quantity(unit="s", low=0, high=1, optional=False),
    "graph_launch_s": Quantity(unit="s", low=0, high=1),
    "idle_w": Quantity(unit="w", low=0, high=1e5),
    "tdp_w": Quantity(unit="w", low=1, high=1e5),
    "usd_per_hour": Quantity(unit="usd", low=0, high=1e5),
    "measured_over_simulated": Quantity(unit="fraction", low=0.01, high=100),
}

PEAK = Quantity(unit="flops_per_s", low=1e9, high=1e19)
LINK_RATE = Quantity(unit="bytes_per_s", low=1e6, high=1e15, optional=False)
LINK_LATENCY = Quantity(unit="s", low=0, high=10)


def read_number(given: object, quantity: Quantity, place: Place) -> float | int:
    """``given`` in base units, checked against its unit and range."""
    if quantity.unit == "count":
        if not isinstance(given, int) or isinstance(given, bool):
            raise place.error("expected a whole number", given=given, allowed="a whole number without unit")
        number = float(min(given, 10**18))
    else:
        try:
            number = parse_quantity(given, quantity.unit)
        except QuantityError as why:
            raise place.error(why.problem, given=given, allowed=why.allowed, hint=why.hint) from None
        except OverflowError:
            raise place.error("too large a number", given=given, hint="check the unit") from None
    if not math.isfinite(number) or not quantity.low <= number <= quantity.high:
        allowed = f"{quantity.low:g} to {quantity.high:g} ({quantity.unit})"
        raise place.error("this is no plausible device", given=given, allowed=allowed, hint="check the unit")
    return round(number) if quantity.whole else number


def read_source(given: object, place: Place) -> str:
    """A source text: one line that says where a number comes from."""
    if not isinstance(given, str) or not given.strip():
        raise place.error("a source is a text", given=given, allowed="where the number comes from")
    return " ".join(given.split())


def check_keys(given: object, allowed: tuple[str, ...], place: Place, *, what: str) -> Mapping[str, object]:
    """``given`` as a mapping that has only ``allowed`` keys."""
    if not isinstance(given, Mapping):
        raise place.error(f"expected {what}", given=given, allowed=f"a mapping of {', '.join(allowed)}")
    unknown = [
        place.child(str(key)).error(unknown_word("field", key, allowed), allowed=some_of(key, allowed, _KEYS))
        for key in given
        if key not in allowed
    ]
    if unknown:
        raise told_together(unknown, UnknownKeys)
    return given


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one profile's fields; ``bare_source`` is the source of a bare number, or none is allowed."""

    bare_source: str | None
    sources: dict[str, str]

    def sourced(self, given: object, quantity: Quantity, place: Place, field: str) -> float | int | None:
        """``{value, source}``, or ``unknown``, or (among differences) a bare number."""
        if given == UNKNOWN:
            if not quantity.optional:
                raise place.error("this field cannot be unknown", hint="a number, or base: NAME for its own")
            self.sources.pop(field, None)
            return None
        if isinstance(given, Mapping):
            both = check_keys(given, ("value", "source"), place, what="a number and its source")
            if "value" not in both:
                raise place.error("value is missing", given=dict(given), allowed="{value: ..., source: ...}")
            if both["value"] == UNKNOWN:
                raise place.error("an unknown number has no source", hint="write: unknown")
            number = read_number(both["value"], quantity, place.child("value"))
            self.sources[field] = self.source_of(both, place)
            return number
        number = read_number(given, quantity, place)
        self.sources[field] = self.source_of({}, place)
        return number

    def source_of(self, given: Mapping[str, object], place: Place) -> str:
        """The source beside a number; among differences it may be left out."""
        if "source" in given:
            return read_source(given["source"], place.child("source"))
        if self.bare_source is None:
            raise place.error(
                "a number without its source",
                hint="write {value: ..., source: where it comes from}, or start from base: NAME",
            )
        return self.bare_source

    def link(self, given: object, base: Link | None, place: Place, field: str) -> Link | None:
        """``{bytes_per_s, latency_s, source}``, or ``unknown``; what is left out is the base's."""
        if given == UNKNOWN:
            self.sources.pop(field, None)
            return None
        parts = check_keys(given, ("bytes_per_s", "latency_s", "source"), place, what="a link")
        rate, latency = (base.bytes_per_s, base.latency_s) if base else (None, None)
        if "bytes_per_s" in parts:
            rate = read_number(parts["bytes_per_s"], LINK_RATE, place.child("bytes_per_s"))
        if rate is None:
            raise place.error("bytes_per_s is missing", allowed="bytes_per_s, per GPU and per direction")
        if "latency_s" in parts:
            latency = None
            if parts["latency_s"] != UNKNOWN:
                latency = read_number(parts["latency_s"], LINK_LATENCY, place.child("latency_s"))
        self.sources[field] = self.source_of(parts, place)
        return Link(bytes_per_s=float(rate), latency_s=latency)

    def peaks(self, given: object, base: Mapping[str, float], place: Place) -> Mapping[str, float]:
        """Dense peak rates by dtype, laid over the base's."""
        table = check_keys(given, DTYPES, place, what="dense peak rates by dtype")
        peaks = dict(base)
        for dtype, rate in table.items():
            number = self.sourced(rate, PEAK, place.child(dtype), f"peak_flops_per_s.{dtype}")
            peaks.pop(dtype, None)
            if number is not None:
                peaks[dtype] = float(number)
        if not peaks:
            raise place.error("no peak rate is known", allowed=", ".join(DTYPES))
        return {dtype: peaks[dtype] for dtype in DTYPES if dtype in peaks}

    def curves(
        self, given: object, base: Mapping[str, EfficiencyCurve], place: Place
    ) -> Mapping[str, EfficiencyCurve]:
        """Efficiency curves by name, laid over the base's."""
        table = check_keys(given, tuple(CURVE_SIZE_UNITS), place, what="efficiency curves by name")
        curves = dict(base)
        for name, curve in table.items():
            curves[name] = self.curve(curve, CURVE_SIZE_UNITS[name], place.child(name))
            self.sources[f"efficiency.{name}"] = curves[name].source
        return curves

    def curve(self, given: object, size_unit: str, place: Place) -> EfficiencyCurve:
        """``{size_unit, points, source}``, or among differences one fraction for every size."""
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            points = read_points([[1, given]], place)
            return EfficiencyCurve(size_unit=size_unit, points=points, source=self.source_of({}, place))
        parts = check_keys(given, ("size_unit", "points", "source"), place, what="an efficiency curve")
        if parts.get("size_unit", size_unit) != size_unit:
            raise place.child("size_unit").error("wrong size", given=parts["size_unit"], allowed=size_unit)
        if "points" not in parts:
            raise place.error("points are missing", allowed="points: [[size, fraction], ...]")
        points = read_points(parts["points"], place.child("points"))
        return EfficiencyCurve(size_unit=size_unit, points=points, source=self.source_of(parts, place))


MAX_FRACTION = 1.05  # above 1 is L2 or in-switch reduction, and a little noise; more is a mistake


MAX_POINTS = 8


def read_points(given: object, place: Place) -> tuple[tuple[float, float], ...]:
    """(size, fraction) pairs: sizes ascend, fractions in (0, 1.05]."""
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_POINTS:
        allowed = f"1 to {MAX_POINTS} pairs [size, fraction]"
        raise place.error("expected a list of pairs", given=given, allowed=allowed)
    points: list[tuple[float, float]] = []
    for index, pair in enumerate(given):
        here = place.item(index)
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(is_number, pair)):
            hint = "write 1.0e+9: YAML reads 1e9 as text"
            raise here.error("expected [size, fraction]", given=pair, hint=hint)
        size, fraction = float(pair[0]), float(pair[1])
        if not 0 < size < 1e30:
            raise here.error("a size is above 0", given=pair)
        if not 0 < fraction <= MAX_FRACTION:
            allowed = f"above 0, at most {MAX_FRACTION}"
            raise here.error("not a fraction of a peak", given=pair, allowed=allowed)
        if points and size <= points[-1][0]:
            raise here.error("sizes must ascend", given=pair)
        points.append((size, fraction))
    return tuple(points)


def is_number(given: object) -> TypeGuard[float]:
    """A finite int or float; YAML's ``true`` is neither."""
    return isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)


LINKS = ("host_link", "intra_node", "inter_node")


TEXTS = ("name", "vendor", "architecture")


FIT_KEYS = ("law", "constants", "sizes", "fitted_on", "median_error_fraction", "p90_error_fraction")


Lender = Callable[[str, Place], Mapping[str, KernelFit]]


KNOWN_KEYS = ("base", *(one.name for one in fields(HardwareProfile) if one.name != "sources"))


def read_profile(given: Mapping[str, object], place: Place, base: HardwareProfile | None) -> HardwareProfile:
    """A profile from its YAML mapping, laid over ``base`` where there is one."""
    unknown: list[ScenarioError] = []
    with keeping(unknown):
        check_keys(given, KNOWN_KEYS, place, what="a hardware profile")
    values: dict[str, Any] = {"notes": "", "efficiency": {}, "kernels": {}, "measured_over_simulated": None}
    reader = Reader(bare_source=None, sources={})
    if base is not None:
        values = {one.name: getattr(base, one.name) for one in fields(base)}
        values["name"] = f"{base.name} (modified)"
        reader = Reader(bare_source=given_where(place), sources=dict(base.sources))
    for key, value in given.items():
        if key != "base" and key in KNOWN_KEYS:
            with keeping(unknown):
                values[key] = read_field(reader, key, value, base, place.child(key))
    if unknown:
        raise told_together(unknown, UnknownKeys)
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
    """Every field must be there; ``unknown`` where no value is known."""
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
    from sim.scenario.shipped import data_dir

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
    names = shipped_names()
    if name not in names:
        raise place.error("no such shipped profile", given=name, allowed=some_of(name, names, _NAMES))
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
    near = cards_meant(given, names)
    raise place.error(
        "no such hardware profile" + (f"; did you mean {' or '.join(near)}?" if near else ""),
        given=given,
        allowed=some_of(given, names, _NAMES) + ", or a path to a .yaml file",
        hint=near[0] if near else "a card without a profile: {base: NAME, ...} with its own numbers",
    )


def read_kernels(
    given: object, base: Mapping[str, KernelFit], place: Place, lender: Lender
) -> Mapping[str, KernelFit]:
    """Every operator's constants, laid over the base's."""
    from sim.hardware.laws.registry import OPERATORS

    table = check_keys(given, tuple(OPERATORS), place, what="kernel constants by operator")
    kernels = dict(base)
    unknown: list[ScenarioError] = []
    for operator, one in table.items():
        with keeping(unknown):
            kernels[operator] = read_fit(operator, one, place.child(operator), lender)
    if unknown:
        raise told_together(unknown, UnknownKeys)
    return kernels


def read_fit(operator: str, given: object, place: Place, lender: Lender) -> KernelFit:
    """One operator's constants, its own or borrowed."""
    from sim.hardware.laws.registry import OPERATORS

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
    from sim.hardware.laws.registry import LAWS

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
    from sim.hardware.laws.registry import LAWS

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
