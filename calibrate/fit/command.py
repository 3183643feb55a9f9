"""``python -m calibrate fit`` on a folder that ``calibrate measure`` wrote."""

from __future__ import annotations

import sys
from pathlib import Path

from calibrate.fit.fitting import fit_device
from calibrate.fit.profile import write_profile
from calibrate.fit.report import write_parity
from sim.errors import ScenarioError
from sim.hardware import hardware_names, load_hardware


def base_of(folder: Path, asked: str) -> str:
    """The profile that a folder's measurements belong to: asked for, or the folder's name."""
    name = asked or folder.resolve().name
    if name not in hardware_names():
        raise ScenarioError(
            "no shipped profile of this name", path="--profile", given=name,
            allowed=", ".join(hardware_names()), hint="--profile NAME: whose peaks the fractions are of",
        )  # fmt: skip
    return name


def fit_folder(folder: Path, *, profile: str = "", choice: str = "fastest", out: Path | None = None) -> int:
    """Fits, writes the profile and the parity report beside the measurements or to ``out``."""
    base = load_hardware(base_of(folder, profile))
    found = fit_device(folder, base, choice, say)
    target = out or folder
    file = write_profile(found, target)
    print(f"written: {file}; name it in a scenario: hardware: {file}")
    for one in write_parity(found, load_hardware(str(file.resolve())), target / "parity"):
        print(f"written: {one}")
    return 0


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)
