"""What may import what, read from the sources, and what the command costs to start."""

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
# SimPy stays at the rim: what decides, prices, allocates and counts runs without a clock or chance.
PURE = (
    "training/sync.py",
    "training/exchange/",
    "training/schedule/",
    "training/learning/",
    "training/step/",
    "training/report/",
    "training/delays.py",
    "training/metrics.py",
    "training/packing.py",
    "cost/",
    "serving/batching/",
    "serving/kv/",
    "serving/vllm/",
    "conformance/",
    "metrics.py",
    "comparison.py",
    "report/",
    "kernel/report/",
)
# Loaded only inside the functions that need them: they cost a second on a cold disk.
HEAVY = {"pandas", "plotly", "pyarrow", "scipy", "distributed"}


def top_level_names(node: ast.AST) -> Iterator[str]:
    """The packages that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module.split(".")[0]


def imported(path: Path, *, only_at_import: bool = False) -> set[str]:
    """What a module imports: anywhere, or outside functions and ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if only_at_import else ast.walk(tree)
    return {name for node in nodes for name in top_level_names(node)}


def offenders(
    forbidden: set[str], *, only_at_import: bool = False, below: tuple[str, ...] = ("",)
) -> dict[str, set[str]]:
    """Modules that import what they must not, with what."""
    found = {
        name: forbidden & imported(path, only_at_import=only_at_import)
        for name, path in SOURCES.items()
        if name.startswith(below)
    }
    return {name: bad for name, bad in found.items() if bad}


def test_the_sources_are_seen() -> None:
    assert "simpy" in set().union(*(imported(path) for path in SOURCES.values()))
    assert all(any(name.startswith(prefix) for name in SOURCES) for prefix in PURE)


def test_sim_never_imports_torch_triton_or_what_the_wheel_lacks() -> None:
    assert offenders({"torch", "triton", "kernels", "calibrate", "tools", "benchmarks", "tests"}) == {}


def test_chance_comes_only_from_named_streams() -> None:
    assert offenders({"random", "secrets", "uuid"}) == {}


def test_the_core_knows_no_clock() -> None:
    assert offenders({"simpy", "time", "datetime"}, below=PURE) == {}


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    assert offenders(HEAVY, only_at_import=True) == {}


def modules_after(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport json, sys; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("statement", ["import sim", "import sim.cli; sim.cli.build_parser('run')"])
def test_the_command_starts_without_numpy(statement: str) -> None:
    assert not (HEAVY | {"numpy", "simpy", "yaml"}) & modules_after(statement)


def test_a_run_needs_neither_pandas_nor_plotly() -> None:
    loaded = modules_after("import sim.run, sim.metrics, sim.loading, sim.comparison")
    assert "numpy" in loaded
    assert not HEAVY & loaded


def test_every_public_name_is_there() -> None:
    import sim

    assert sorted(sim.__all__) == dir(sim)
    assert all(getattr(sim, name) is not None for name in sim.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sim.nothing
