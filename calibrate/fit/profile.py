"""The fitted profile: a YAML file over the base profile, with error, range and source of every constant.

A scenario names it by its path (``hardware: ./fitted.yaml``); as datasheet peaks stay the base's, the
fractions in it mean the same as in every other profile.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from calibrate.fit.constants import Constant
from calibrate.fit.fitting import DeviceFit
from calibrate.profile_writing import yaml_block
from sim.errors import ScenarioError
from sim.hardware import EfficiencyCurve, load_hardware

FILE = "fitted.yaml"
UNITS = {"B/s": ("GB/s", 1e9), "s": ("us", 1e-6)}
HEADER = """\
# Written by `python -m calibrate fit --data FOLDER` from the CSV files beside it; fit again rather than edit.
# The base profile's peaks hold; what stands here was measured on this device.
"""


def write_profile(found: DeviceFit, folder: Path) -> Path:
    """Writes ``fitted.yaml`` and reads it back, so that a file that does not load is never left."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    being_written = folder / f".new-{FILE}"
    being_written.write_text(profile_text(found), encoding="utf-8")
    try:
        load_hardware(str(being_written.resolve()))
    except ScenarioError as refused:
        being_written.unlink()
        raise ScenarioError(
            f"the constants cannot be a profile: {refused.problem}", file=str(found.measured.folder),
            path=refused.path, given=refused.given, allowed=refused.allowed,
            hint="delete the rows that this constant was taken from, and measure them again",
        ) from None  # fmt: skip
    being_written.replace(file)
    return file


def profile_text(found: DeviceFit) -> str:
    """The whole file."""
    lines = [HEADER.rstrip(), f"base: {found.base.name}", f"name: {found.base.name}, measured here"]
    lines += [line for one in found.constants if "." not in one.key for line in quantity_lines(one)]
    lines += link_lines(found.constants)
    if found.elementwise is not None:
        lines += ["efficiency:", *curve_lines("elementwise_memory", found.elementwise)]
    lines += [f"# as in {found.base.name}: {reason}" for reason in found.kept]
    text = "\n".join(lines) + "\n"
    fits = {one.timings.operator: one.fit for one in found.operators}
    return text + (yaml_block(fits, {}) if fits else "")


def number(one: Constant) -> str:
    """ "43.2 GB/s"."""
    unit, scale = UNITS[one.unit]
    return f"{one.value / scale:.4g} {unit}"


def quantity_lines(one: Constant) -> Iterator[str]:
    """A field with its source; nothing for what a profile has no field for."""
    if one.key:
        yield f"{one.key}: {{value: {number(one)}, source: {quoted(source_of(one))}}}"


def link_lines(constants: tuple[Constant, ...]) -> list[str]:
    """The host link's rate and start-up in one mapping."""
    by_key = {one.key: one for one in constants if one.key.startswith("host_link.")}
    if not by_key:
        return []
    rate, start = by_key["host_link.bytes_per_s"], by_key["host_link.latency_s"]
    numbers = f"bytes_per_s: {number(rate)}, latency_s: {number(start)}"
    return [f"host_link: {{{numbers}, source: {quoted(source_of(rate))}}}"]


def source_of(one: Constant) -> str:
    """What it was taken from, and how wide that spreads."""
    return f"{one.name}, {one.spread}; {one.source}"


def curve_lines(name: str, curve: EfficiencyCurve) -> list[str]:
    """As the shipped profiles write one."""
    points = ", ".join(f"[{size:.3e}, {fraction:.4g}]" for size, fraction in curve.points)
    lines = [f"  {name}:", f"    size_unit: {curve.size_unit}", f"    points: [{points}]"]
    return [*lines, f"    source: {quoted(curve.source)}"]


def quoted(text: str) -> str:
    """A double-quoted YAML string on one line."""
    plain = " ".join(text.split()).replace("\\", "/").replace('"', "'")
    return f'"{plain}"'
