"""One field of a hardware profile: a number checked against its unit and range, its source kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from sim.hardware.profile import CURVE_SIZE_UNITS, DTYPES, EfficiencyCurve, Link
from sim.loading.place import Place
from sim.suggest import did_you_mean
from sim.units import QuantityError, parse_quantity

UNKNOWN = "unknown"


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
    for name in given:
        if name not in allowed:
            problem = f"unknown field{did_you_mean(name, allowed)}"
            raise place.child(str(name)).error(problem, allowed=", ".join(allowed))
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
                raise place.error("this field cannot be unknown", hint="the simulator needs a number here")
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
