"""What of a device's figures is not its own: borrowed, assumed, or taken beyond what was measured.

A run of any kind says what it used (``Used``): efficiency curves, kernel laws with the sizes that it asked
them for, and the sentences of tables by architecture. ``weak_figures`` decides, for all three kinds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from sim.hardware import HardwareProfile
from sim.model.shape import ModelShape
from sim.price.law_times import outside
from sim.price.roofline import Operator
from sim.scenario.caution import Caution
from sim.scenario.dataclass import dataclass

Standing = Literal["borrowed", "assumed", "extrapolated"]
_SCALED = re.compile(r"fractions times ([\d.]*\d)")
_LENDER = re.compile(r"borrowed from ([\w.-]+\w)")
_GIVEN = "given in "  # the source of a number that a scenario changed in a shipped profile
# What an efficiency is a fraction of, or was measured against: changed, it is the base's at another peak.
_PEAKS = ("sm_count", "clock_hz", "l2_bytes", "l2_bytes_per_s", "hbm_bytes_per_s", "peak_flops_per_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedLaw:
    """A kernel law of the profile, and the extreme sizes that it was asked for."""

    law: str
    sizes: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a run took of a device. ``assumed``: sentences about figures that no table has for it."""

    curves: tuple[str, ...] = ()
    laws: tuple[AskedLaw, ...] = ()
    assumed: tuple[str, ...] = ()


NOTHING = Used()


def together(used: Iterable[Used]) -> Used:
    """All of it, each once."""
    every = list(used)
    return Used(
        curves=tuple(dict.fromkeys(curve for one in every for curve in one.curves)),
        laws=tuple(law for one in every for law in one.laws),
        assumed=tuple(dict.fromkeys(text for one in every for text in one.assumed if text)),
    )


def used_by_operators(operators: Iterable[Operator]) -> Used:
    """The curves of those that no law prices; laws are asked for by size, which operators do not keep."""
    curves = []
    for one in operators:
        if one.law_s is None:
            link = float(np.max(one.link_bytes))
            asked = ((one.compute_curve, one.flops), (one.memory_curve, one.hbm_bytes))
            curves += [curve for curve, size in asked if float(np.max(size))] + (["link"] if link else [])
    return together([Used(curves=tuple(curves))])


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure that a run used and that was not measured on its device. ``whence``: the lender."""

    standing: Standing
    what: str
    whence: str = ""


def weak_figures(hardware: HardwareProfile, used: Used) -> tuple[Figure, ...]:
    """What of ``used`` is borrowed, assumed or extrapolated; nothing where all of it was measured here."""
    found = [
        *(figure for curve in used.curves for figure in curve_standing(hardware, curve)),
        *(figure for asked in used.laws for figure in _law_standing(hardware, asked)),
        *(Figure(standing="assumed", what=_bare(text)) for text in used.assumed),
    ]
    if used.curves or used.laws:
        found += _changed(hardware)
    return tuple(dict.fromkeys(found))


def curve_standing(hardware: HardwareProfile, curve: str) -> Iterator[Figure]:
    """By the words of the curve's source; a profile without it reaches all of the peak."""
    if curve not in hardware.efficiency:
        yield Figure(standing="assumed", what=f"no {curve} curve, so kernels reach all of the peak")
        return
    source = hardware.efficiency[curve].source
    lender = _LENDER.search(source)
    if "borrowed" in source.lower():
        yield Figure(standing="borrowed", what=curve, whence=lender.group(1) if lender else "another device")
    elif "assumed" in source.lower():
        yield Figure(standing="assumed", what=curve)


def _law_standing(hardware: HardwareProfile, asked: AskedLaw) -> Iterator[Figure]:
    fit = hardware.kernels.get(asked.law)
    if fit is None:
        return
    if fit.borrowed_from:
        yield Figure(standing="borrowed", what=asked.law, whence=fit.borrowed_from)
    if beyond := outside(hardware, asked.law, asked.sizes):
        yield Figure(standing="extrapolated", what=beyond)


def _changed(hardware: HardwareProfile) -> list[Figure]:
    """A shipped profile with other peaks: nobody measured what its kernels reach of them."""
    changed = [
        name
        for name, source in hardware.sources.items()
        if name.partition(".")[0] in _PEAKS and source.startswith(_GIVEN)
    ]
    if not hardware.name.endswith("(modified)") or not changed:
        return []
    return [Figure(standing="extrapolated", what=f"efficiencies at another {', '.join(changed)}")]


def _bare(text: str) -> str:
    return text.removeprefix("assumed: ")


def figure_lines(figures: Sequence[Figure]) -> tuple[str, ...]:
    """What is borrowed, by lender; what is assumed; what lies beyond what was measured."""
    parts = []
    for lender in dict.fromkeys(one.whence for one in figures if one.standing == "borrowed"):
        names = [one.what for one in figures if one.standing == "borrowed" and one.whence == lender]
        parts.append(f"borrowed from {lender}: {', '.join(names)}")
    parts += [f"assumed: {one.what}" for one in figures if one.standing == "assumed"]
    beyond = [one.what for one in figures if one.standing == "extrapolated"]
    return (*parts, *([f"outside of what was measured: {', '.join(beyond)}"] if beyond else []))


def figures_caution(hardware: HardwareProfile, used: Used) -> Caution | None:
    """The warning that a run deserves which used more than was measured on its device."""
    figures = weak_figures(hardware, used)
    if not figures:
        return None
    lines = filter(None, [*figure_lines(figures), measured_words(hardware)])
    return Caution(
        kind="efficiency_not_measured",
        observation=f"{hardware.name}: {'; '.join(lines)}",
        meaning="ratios between variants on this device hold better than seconds; ratios to other devices "
        "do not",
        remedy="calibrate this profile, or compare with one that is measured",
        assumes=_assumes(hardware, used, figures),
    )


def model_caution(model: ModelShape | None) -> Caution | None:
    """The warning that a run deserves whose model was read with guesses (``ModelShape.notes``)."""
    if model is None or not model.notes:
        return None
    return Caution(
        kind="model_guessed",
        observation=f"{model.name}: {'; '.join(model.notes)}",
        meaning="parameters, memory and times are those of the shape as it was read",
        remedy="hold `gpuyard memory` against the model's card, or write the shape's keys out: "
        "model: {base: ..., ...}",
        assumes=f"the shape of {model.name}",
    )


def _assumes(hardware: HardwareProfile, used: Used, figures: Sequence[Figure]) -> str:
    """What of it may decide: not what the same chip lends with another memory or another socket, nor an
    elementwise curve where other kernels were asked for, too."""
    asked = [*used.curves, *(one.law for one in used.laws)]
    has_others = any(not name.startswith("elementwise") for name in asked)
    borrowed = [one for one in figures if one.standing == "borrowed"]
    heavy = [one for one in borrowed if not (has_others and one.what.startswith("elementwise"))]
    lenders = [
        one for one in dict.fromkeys(one.whence for one in heavy) if _chip(one) != _chip(hardware.name)
    ]
    lent = " and ".join(_lent(hardware, heavy, one) for one in lenders)
    parts = [f"{hardware.name} reaches {lent}"] if lent else []
    parts += [one.what for one in figures if one.standing == "assumed"]
    known = measured_words(hardware) if parts else ""
    return "; ".join(parts) + (f", though {known}" if known else "")


def _lent(hardware: HardwareProfile, figures: Sequence[Figure], lender: str) -> str:
    """``the efficiencies of l4 (gemm_compute: 0.6 of them)``: what is taken, and how much of it."""
    names = [one.what for one in figures if one.whence == lender and one.what in hardware.efficiency]
    scaled = {name: _SCALED.search(hardware.efficiency[name].source) for name in names}
    parts = [f"{name}: {found.group(1)} of them" for name, found in scaled.items() if found]
    return f"the efficiencies of {lender}" + (f" ({', '.join(parts)})" if parts else "")


def measured_words(hardware: HardwareProfile) -> str:
    """How far measured runs on this device are from simulated ones, where the validation board knows."""
    ratio = hardware.measured_over_simulated
    if ratio is None:
        return ""
    took = f"{ratio:.2g} ×" if ratio >= 1 else f"{100 * ratio:.2g} %"
    name = hardware.name.removesuffix(" (modified)")
    return f"measured runs on {name} took about {took} as long as simulated (validation board)"


def _chip(name: str) -> str:
    """``a100`` of ``a100-sxm-80gb``."""
    return name.partition("-")[0]
