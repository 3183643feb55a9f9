"""Is the house in order? Modules, sizes, lone importers and circles in ``sim/``, each beside its bound.

``python -m tools.house`` prints the table and ends with 1 when a bound is missed; ``--report-only`` always
ends with 0. Nothing is imported: the sources are read, imports inside functions and under ``TYPE_CHECKING``
included.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.imports import circles, importers, read_graph, read_modules

ROOT = Path(__file__).parent.parent / "sim"
# What the rebuilt house had, and what mechanisms that it did not have may bring with them: a bound is raised
# only together with the mechanism that needs it.
MAX_MODULES = 220 + 20
MAX_MODULES += 4  # a start-up log read, beside our account, its settings, an account's page
MAX_MODULES += 4  # names and variants of shipped shapes, positions, names of modules, integer groups
MAX_MODULES += 3  # accounts as one schema and table, what options mean by engine, other engines' sizes
MAX_MODULES += 2  # sets of kernels, and the one price of a layer by them
MAX_LINES = 500
MAX_LONE = 30
MAX_AT_ROOT = 8
MAX_P90 = 22
MAX_FUNCTION = 60
# One decision is one function there, because calls were most of its time; one such function at most.
MAY_BE_LONG = "sim.serving.fast_path"
MAX_LONG = 1
MAX_ANY = 104  # what it was at aeb292e: not one more

# The engine and its schedulers are ``sim/serving`` without these parts: a file counts as one of them when
# a folder on its path, or its own name, is listed here.
OTHER_SUBJECTS = frozenset(
    [
        "kv",
        "workload",
        "routing",
        "links",
        "report",
        "records",
        "tables",
        "metrics",
        "checks",
        "scenario",
        "summary",
        "trace",
    ]
)
# Single files that belong to one of those subjects under another name. The first five stand in a folder of
# a scheduler, because they are vLLM's own allocator: blocks, their cache and who holds them. ``vllm_kv.py``
# and ``vllm_defaults.py`` are aeb292e's, for the comparison with it.
FILED_UNDER = {
    "vllm/group_kinds.py": "kv",
    "vllm/groups.py": "kv",
    "vllm/kv.py": "kv",
    "vllm/pool.py": "kv",
    "vllm/prefix_tree.py": "kv",
    "vllm_defaults.py": "scenario",
    "vllm_kv.py": "kv",
    "router.py": "routing",
    "front_end.py": "records",  # what an API server adds to the times in table and records
    "recorder.py": "records",
    "result.py": "records",
    "usage.py": "records",
    "vllm_block_map.py": "records",
    "window.py": "metrics",  # what rates are taken of
    "judgement.py": "metrics",  # does the queue grow, what a reader is warned of
    "record_statistics.py": "metrics",
}
# What ``engine_lines`` gives for sim/serving at aeb292e: ``python -m tools.house --engine-lines DIR``.
ENGINE_LINES_BEFORE = 4845
# Two thirds of them for what they did; then what they did not: asynchronous scheduling, priorities, time-outs
# and prefixes, preemption and drafts without a step for each, groups of layers over one pool, and turns of
# conversations that go on where the last one ended.
MAX_ENGINE_LINES = ENGINE_LINES_BEFORE * 2 // 3 + 960


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function, nested ones and methods included, with its length from ``def`` to its last line."""

    module: str
    name: str
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One line of the table: what was counted, its bound (None: shown only), and what to look at."""

    what: str
    found: int
    bound: int | None = None
    offenders: Sequence[str] = field(default=())

    @property
    def is_met(self) -> bool:
        return self.bound is None or self.found <= self.bound


def functions_in(tree: ast.Module, module: str) -> Iterator[Function]:
    """Every function of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(module=module, name=node.name, lines=length)


def any_in_signatures(tree: ast.Module) -> int:
    """How many parameters and results are annotated ``Any`` and nothing else."""
    notes = (note for node in ast.walk(tree) for note in _annotations(node))
    return sum(isinstance(note, ast.Name) and note.id == "Any" for note in notes)


def _annotations(node: ast.AST) -> Iterator[ast.expr]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    given = node.args
    all_given = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    yield from (one.annotation for one in all_given if one is not None and one.annotation is not None)
    if node.returns is not None:
        yield node.returns


def percentile_90(lengths: Iterable[int]) -> int:
    """The length that nine functions in ten do not exceed."""
    ordered = sorted(lengths)
    return ordered[-(-len(ordered) * 9 // 10) - 1] if ordered else 0


def subject_of(inside_serving: str) -> str | None:
    """Which other subject a file of ``sim/serving`` belongs to; None: the engine and its schedulers."""
    if inside_serving in FILED_UNDER:
        return FILED_UNDER[inside_serving]
    parts = inside_serving.removesuffix(".py").split("/")
    return next((part for part in parts if part in OTHER_SUBJECTS), None)


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def engine_lines(serving: Path) -> int:
    """Lines of the engine and its schedulers, blank lines, comments and docstrings included."""
    files = {path.relative_to(serving).as_posix(): path for path in serving.rglob("*.py")}
    return sum(num_lines(path) for name, path in files.items() if subject_of(name) is None)


def lone_modules(graph: Mapping[str, frozenset[str]], packages: frozenset[str]) -> list[str]:
    """Modules that one module imports, which stands in the same folder: they could stand in it."""

    def folder(name: str) -> str:
        return name if name in packages else name.rpartition(".")[0]

    those = importers(graph)
    return sorted(
        f"{name} (only {importer})"
        for name in graph
        if name not in packages and len(those[name]) == 1
        for importer in those[name]
        if folder(importer) == folder(name)
    )


def measure(root: Path = ROOT) -> list[Measured]:
    """Every count of the house below ``root``, in the order of the table."""
    modules = read_modules(root)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules.items()}
    functions = [found for name, tree in trees.items() for found in functions_in(tree, name)]
    return [
        *_sizes(root, modules),
        *_graph(modules),
        *_functions(functions),
        Measured(
            what="parameters and results that are `Any`",
            found=sum(map(any_in_signatures, trees.values())),
            bound=MAX_ANY,
        ),
        Measured(
            what="lines of engine and schedulers",
            found=engine_lines(root / "serving"),
            bound=MAX_ENGINE_LINES,
        ),
    ]


def _sizes(root: Path, modules: Mapping[str, Path]) -> Iterator[Measured]:
    plain = [path for path in modules.values() if path.name != "__init__.py"]
    lengths = {path.relative_to(root.parent).as_posix(): num_lines(path) for path in modules.values()}
    at_root = sorted(path.name for path in modules.values() if path.parent == root)
    too_long = [f"{name}: {lines}" for name, lines in lengths.items() if lines > MAX_LINES]
    yield Measured(what="modules (without __init__)", found=len(plain), bound=MAX_MODULES)
    yield Measured(what="modules at the root", found=len(at_root), bound=MAX_AT_ROOT, offenders=at_root)
    yield Measured(
        what="longest module, lines", found=max(lengths.values()), bound=MAX_LINES, offenders=too_long
    )


def _graph(modules: Mapping[str, Path]) -> Iterator[Measured]:
    graph = read_graph(modules)
    packages = frozenset(name for name, path in modules.items() if path.name == "__init__.py")
    lone = lone_modules(graph, packages)
    found = [" ".join(group) for group in circles(graph)]
    yield Measured(
        what="modules with one importer, of their own folder", found=len(lone), bound=MAX_LONE, offenders=lone
    )
    yield Measured(what="import circles", found=len(found), bound=0, offenders=found)


def _functions(functions: Sequence[Function]) -> Iterator[Measured]:
    long = [one for one in functions if one.lines > MAX_FUNCTION]
    allowed = [one for one in long if one.module == MAY_BE_LONG][:MAX_LONG]
    refused = [f"{one.module}.{one.name}: {one.lines}" for one in long if one not in allowed]
    yield Measured(
        what="functions, p90 of lines", found=percentile_90(one.lines for one in functions), bound=MAX_P90
    )
    yield Measured(
        what=f"functions above {MAX_FUNCTION} lines, but one of the fast path",
        found=len(refused),
        bound=0,
        offenders=refused,
    )


def table(rows: Sequence[Measured]) -> str:
    """The rows as text: found, bound, and what breaks it."""
    width = max(len(row.what) for row in rows)
    lines = [f"{'':{width}}  {'today':>6}  {'bound':>6}"]
    for row in rows:
        bound = "–" if row.bound is None else str(row.bound)
        lines.append(
            f"{row.what:{width}}  {row.found:6}  {bound:>6}  {'' if row.is_met else 'MISSED'}".rstrip()
        )
        lines.extend(f"    {one}" for one in ([] if row.is_met else row.offenders))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.house", description=__doc__)
    parser.add_argument("--report-only", action="store_true", help="end with 0 whatever is found")
    parser.add_argument("--root", type=Path, default=ROOT, help="the package to measure")
    parser.add_argument("--engine-lines", type=Path, metavar="DIR", help="count this sim/serving and stop")
    given = parser.parse_args(arguments)
    if given.engine_lines is not None:
        print(engine_lines(given.engine_lines))
        return 0
    rows = measure(given.root)
    print(table(rows))
    return 0 if given.report_only or all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
