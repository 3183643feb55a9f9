"""``gpuyard check PATH...``: scenarios with the traces that they name, hardware profiles and model configs.

Nothing is run.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.exits import FINE, WRONG_INPUT
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.scenario.caution import Caution


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
    """The files to check: those that are named, and what is ours below a folder that is."""
    from sim.scenario.shipped import find_scenario

    files: list[Path] = []
    for path in map(Path, given):
        if not path.is_dir():
            files.append(path if path.exists() else find_scenario(str(path)))
            continue
        found = [file for file in _below(path) if file.suffix in (".yaml", ".yml", ".json")]
        ours = [file for file in found if _is_ours(file)]
        if not ours:
            raise ScenarioError(
                "no scenario, profile or model in this folder",
                file=str(path),
                given=f"{len(found):,} YAML and JSON files" if found else "no YAML or JSON file",
                hint="name a file to have it checked whatever it looks like",
            )
        if len(ours) < len(found):
            print(
                f"passed over {len(found) - len(ours):,} YAML and JSON files below {path} that are no "
                "scenario, profile or model",
                file=sys.stderr,
            )
        files += ours
    return files


def _below(folder: Path) -> list[Path]:
    """Every file below a folder, but for what is hidden, installed or made: .git, .venv, node_modules."""
    files: list[Path] = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in ("__pycache__", "node_modules", "site-packages")
            and not (here / name / "pyvenv.cfg").exists()
        ]
        files += [here / name for name in names]
    return sorted(files)


# Keys at the top of a file by which it is known for ours, and how many of them it takes.
_SCENARIO = {"schema_version", "question", "kind", "seeds", "hardware", "model", "workload", "engine", "slo",
             "training", "kernel", "compare", "thresholds", "measured"}  # fmt: skip
_HARDWARE = {"hbm_bytes", "hbm_bytes_per_s", "sm_count", "peak_flops_per_s", "sram_bytes_per_sm", "l2_bytes",
             "kernel_launch_s", "intra_node", "inter_node", "host_link", "clock_hz"}  # fmt: skip
_MODEL = {"model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "n_layer",
          "n_embd", "n_head", "d_model", "vocab_size", "text_config", "intermediate_size"}  # fmt: skip
_AT_A_LINE = re.compile(r"""^["']?([A-Za-z_]\w*)["']?\ *:(?=\s)""", re.MULTILINE)
_IN_BRACES = re.compile(r"""[{,]\s*["']?([A-Za-z_]\w*)["']?\ *:(?=\s)""")
_LARGEST_BYTES = 2_000_000


def _is_ours(path: Path) -> bool:
    """Whether a file means to be a scenario, a profile or a model, right or wrong: by its keys."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return False
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return False
    if path.suffix == ".json":
        return len(_MODEL & _json_keys(text)) >= 2
    keys = set((_IN_BRACES if text.lstrip().startswith("{") else _AT_A_LINE).findall(text))
    is_board = path.name == "board.yaml" and "groups" in keys
    is_profile = bool(_HARDWARE & keys) or "overheads" in keys
    return is_board or is_profile or len(_SCENARIO & keys) >= 3


def _json_keys(text: str) -> set[str]:
    """The keys at the top of a JSON object; of a broken one those that stand anywhere in it."""
    import json

    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return set(re.findall(r'"(\w+)"\s*:', text))
    return set(whole) if isinstance(whole, dict) else set()


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
    for note in model.notes:
        print(f"warning {path}: {note}", file=sys.stderr)
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
    from sim.kinds.registry import kind_of
    from sim.price.figures import model_caution

    file = load_measured_tree(content, str(path))
    try:
        kind_of(file.base).read_files([variant.scenario for variant in file.variants], path.parent)
    except ScenarioError as error:
        error.problem = f"{error.problem} (named by {path})"
        raise
    models = (getattr(variant.scenario, "model", None) for variant in file.variants)
    guessed = dict.fromkeys(filter(None, map(model_caution, models)))
    starts = dict.fromkeys(filter(None, (_start_caution(variant.scenario) for variant in file.variants)))
    for caution in (*file.warnings, *guessed, *starts):
        print(f"warning {path}: {caution}", file=sys.stderr)
    names = ", ".join(variant.name for variant in file.variants)
    refused = "".join(f"; {one.name} cannot run: {one.refusal}" for one in file.refused)
    return f"scenario, {len(file.base.seeds)} seeds x {len(file.variants)} variants ({names}){refused}"


def _start_caution(scenario: object) -> Caution | None:
    """Of a serving scenario whose engine may run out of memory while it starts."""
    from sim.price.memory import memory_plan
    from sim.price.memory_words import start_caution
    from sim.serving.scenario import Scenario

    if not isinstance(scenario, Scenario) or not scenario.engine.has_kv_budget:
        return None
    return start_caution(memory_plan(scenario.model, scenario.hardware, scenario.engine).warnings)
