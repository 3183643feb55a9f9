"""Where the shipped files are: hardware profiles, scenarios and model shapes.

A wheel carries them under ``sim/_data``. A checkout (and an editable install) keeps
``hardware_profiles/`` and ``scenarios/`` at its top, where people edit them. Engine profiles and model
shapes are in the package in both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).parent.parent
Folder = Literal["engine_profiles", "hardware_profiles", "models", "scenarios"]


def data_dir(folder: Folder) -> Path:
    """The directory of the shipped ``folder``."""
    in_wheel = PACKAGE / "_data" / folder
    if in_wheel.is_dir() or folder in ("engine_profiles", "models"):
        return in_wheel
    return PACKAGE.parent / folder


def scenario_paths() -> list[Path]:
    """Every shipped scenario file, in a fixed order."""
    return sorted(data_dir("scenarios").rglob("*.yaml"))


def scenario_name(path: Path) -> str:
    """The name by which a shipped scenario is called: its path below ``scenarios/``, without ``.yaml``."""
    return path.relative_to(data_dir("scenarios")).with_suffix("").as_posix()


def find_scenario(given: str) -> Path:
    """The file that ``given`` means: a path, or the name of a shipped scenario (``serving/closed_loop``).

    A path that exists wins; what is neither comes back as given, for the loader to refuse.
    """
    path = Path(given)
    if path.exists():
        return path
    name = given.removeprefix("scenarios/").removesuffix(".yaml")
    shipped = data_dir("scenarios") / f"{name}.yaml"
    return shipped if shipped.is_file() else path
