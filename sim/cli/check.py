"""``gpuyard check PATH...``: scenarios, hardware profiles and model configs, without running them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.cli.exits import FINE, WRONG_INPUT
from sim.errors import ScenarioError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Paths."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a YAML or JSON file, or a folder of them")


def run(arguments: argparse.Namespace) -> int:
    """Print a line per file: what it is, or its error."""
    num_wrong = 0
    for path in _files(arguments.paths):
        try:
            print(f"ok     {path}: {_check(path)}")
        except ScenarioError as error:
            num_wrong += 1
            sys.stdout.flush()
            print(f"error  {error}", file=sys.stderr)
    if num_wrong:
        print(f"{num_wrong} with errors", file=sys.stderr)
    return WRONG_INPUT if num_wrong else FINE


def _files(given: list[str]) -> list[Path]:
    """The files to check; a folder means the YAML files and model configs below it."""
    from sim.scenario.shipped import find_scenario

    files: list[Path] = []
    for path in map(Path, given):
        if not path.is_dir():
            files.append(path if path.exists() else find_scenario(str(path)))
            continue
        below = sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml", ".json"))
        if not below:
            raise ScenarioError("no YAML or JSON file in this folder", file=str(path))
        files += below
    return files


def _check(path: Path) -> str:
    """What the file holds, in a few words. Raises ScenarioError where something is wrong with it."""
    if path.suffix == ".json":
        return _check_model(path)
    from sim.scenario.strict_yaml import load_yaml

    if path.name == "board.yaml":
        return _check_board(path)
    content = load_yaml(path)
    is_profile = isinstance(content, Mapping) and "kind" not in content and "question" not in content
    is_engine = isinstance(content, Mapping) and "overheads" in content
    return _check_profile(path, is_engine=is_engine) if is_profile else _check_scenario(content, path)


def _check_model(path: Path) -> str:
    from sim.model.config import load_model
    from sim.model.counts import num_parameters

    model = load_model(str(path))
    return f"model, {num_parameters(model) / 1e9:.2f} billion parameters"


def _check_profile(path: Path, *, is_engine: bool) -> str:
    from sim.hardware import load_hardware
    from sim.hardware.engine_profile import load_engine_profile

    if is_engine:
        engine = load_engine_profile(str(path), path="")
        return f"engine profile of {engine.engine} {engine.version}"
    profile = load_hardware(str(path))
    return f"hardware profile of {profile.vendor} {profile.name}"


def _check_board(path: Path) -> str:
    from sim.trust.board import read_board

    return f"board of measured cases, {len(read_board(path).groups)} groups with bounds"


def _check_scenario(content: dict[str, Any], path: Path) -> str:
    from sim.kinds.load import load_measured_tree

    file = load_measured_tree(content, str(path))
    for caution in file.warnings:
        print(f"warning {path}: {caution}", file=sys.stderr)
    names = ", ".join(variant.name for variant in file.variants)
    return f"scenario, {len(file.base.seeds)} seeds x {len(file.variants)} variants ({names})"
