"""What a device can do: one YAML file in ``hardware_profiles/``, one frozen ``HardwareProfile``.

``profile`` has the dataclasses and the efficiency curves, ``reading`` one field of a file, ``load`` a whole
file, its base and its kernel constants, ``architecture`` what depends on the architecture alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.hardware.profile import (
    CURVE_SIZE_UNITS,
    DTYPES,
    EfficiencyCurve,
    HardwareProfile,
    KernelFit,
    Link,
    curve_fraction,
    curve_fractions,
)

__all__ = [
    "CURVE_SIZE_UNITS",
    "DTYPES",
    "EfficiencyCurve",
    "HardwareProfile",
    "KernelFit",
    "Link",
    "curve_fraction",
    "curve_fractions",
    "hardware_names",
    "load_hardware",
]


def load_hardware(
    given: str | Mapping[str, object], *, file: str = "", path: str = "hardware"
) -> HardwareProfile:
    """The profile of a shipped name, of a YAML file, or of a mapping (written out, or over a ``base``).

    ``file`` and ``path`` say where ``given`` stands, for error messages and relative paths.
    """
    # Imported here, so that who needs only the dataclasses does not load YAML.
    from sim.hardware.load import find_profile, read_mapping
    from sim.scenario.place import Place

    place = Place(file=file, path=path)
    if isinstance(given, str):
        return find_profile(given, place)
    if isinstance(given, Mapping):
        return read_mapping(given, place)
    raise place.error("expected a hardware profile", given=given, allowed="a name, a path, or a mapping")


def hardware_names() -> list[str]:
    """The names of the shipped profiles, sorted."""
    from sim.hardware.load import shipped_names

    return shipped_names()
