"""What a layer contract cannot say: which imports wait for a function, and what the command costs to start.

Who may import whom stands in ``[tool.importlinter]`` of pyproject.toml: ``make layers``.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
SIM = CHECKOUT / "sim"
SOURCES = {path.relative_to(SIM).as_posix(): path for path in sorted(SIM.rglob("*.py"))}
# Loaded only inside the functions that need them: they cost a second on a cold disk.
HEAVY = {"pandas", "plotly", "pyarrow", "scipy", "distributed"}


def top_level_names(node: ast.AST) -> Iterator[str]:
    """The packages that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module.split(".")[0]


def imported_at_once(path: Path) -> set[str]:
    """What a module imports outside functions and ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for node in tree.body for name in top_level_names(node)}


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    found = {name: HEAVY & imported_at_once(path) for name, path in SOURCES.items()}
    assert {name: bad for name, bad in found.items() if bad} == {}
    assert "numpy" in set().union(*map(imported_at_once, SOURCES.values()))


def modules_after(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport json, sys; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement", ["import sim", "from sim.cli.command import build_parser; build_parser('run')"]
)
def test_the_command_starts_without_numpy(statement: str) -> None:
    assert not (HEAVY | {"numpy", "simpy", "yaml"}) & modules_after(statement)


def test_the_help_loads_nothing_of_ours_but_the_list_of_verbs() -> None:
    """What an error or a dataclass needs would double the time of ``gpuyard --help``."""
    loaded = modules_after("from sim.cli.command import build_parser; build_parser(None).format_help()")
    assert not {"dataclasses", "inspect", "traceback", "difflib", "pathlib"} & loaded


def test_a_run_needs_neither_pandas_nor_plotly() -> None:
    loaded = modules_after("import sim.kinds.load, sim.kinds.run, sim.serving.summary, sim.results.answer")
    assert "numpy" in loaded
    assert not HEAVY & loaded


def test_every_public_name_is_there() -> None:
    import sim

    assert sorted(sim.__all__) == dir(sim)
    assert all(getattr(sim, name) is not None for name in sim.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sim.nothing
