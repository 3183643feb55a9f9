"""The import graph of a package, read from its sources: also the imports inside functions.

Nothing is executed, so that a folder of made-up files can be measured as well as the package itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Graph = Mapping[str, frozenset[str]]  # module -> what it imports


def module_name(path: Path, root: Path) -> str:
    """``sim/kv/paged.py`` below ``sim/`` is ``sim.kv.paged``, and ``sim/kv/__init__.py`` is ``sim.kv``."""
    parts = (root.name, *path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_modules(root: Path) -> dict[str, Path]:
    """Every module below ``root`` by its dotted name, packages (their ``__init__.py``) included."""
    return {module_name(path, root): path for path in sorted(root.rglob("*.py"))}


def imports_of(tree: ast.Module, module: str, *, is_package: bool, known: Iterable[str]) -> set[str]:
    """The modules among ``known`` that a module imports, wherever the statement stands."""
    names = frozenset(known)
    package = module if is_package else module.rpartition(".")[0]
    found = {name for node in ast.walk(tree) for name in _targets(node, package, names)}
    return found - {module}


def _targets(node: ast.AST, package: str, names: frozenset[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in names)
    elif isinstance(node, ast.ImportFrom):
        source = _source(node, package)
        for alias in node.names:
            whole = f"{source}.{alias.name}"
            if whole in names:
                yield whole
            elif source in names:
                yield source


def _source(node: ast.ImportFrom, package: str) -> str:
    """The module after ``from``, with its dots resolved."""
    if not node.level:
        return node.module or ""
    above = package.split(".")
    base = ".".join(above[: len(above) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def read_graph(modules: Mapping[str, Path]) -> dict[str, frozenset[str]]:
    """What each module imports of the others."""
    return {
        name: frozenset(
            imports_of(
                ast.parse(path.read_text(encoding="utf-8")),
                name,
                is_package=path.name == "__init__.py",
                known=modules,
            )
        )
        for name, path in modules.items()
    }


def importers(graph: Graph) -> dict[str, frozenset[str]]:
    """The same edges the other way round: who imports each module."""
    found: dict[str, set[str]] = {name: set() for name in graph}
    for importer, imported in graph.items():
        for name in imported:
            found[name].add(importer)
    return {name: frozenset(those) for name, those in found.items()}


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import one another, directly or by way of others (Tarjan's algorithm)."""
    return [sorted(group) for group in _components(graph) if len(group) > 1]


def _components(graph: Graph) -> Iterator[list[str]]:
    """Strongly connected components; a stack of iterators stands in for recursion."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_ones: list[str] = []
    for start in graph:
        if start in order:
            continue
        path = [(start, iter(sorted(graph[start])))]
        order[start] = lowest[start] = len(order)
        open_ones.append(start)
        while path:
            name, rest = path[-1]
            following = next(rest, None)
            if following is None:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[name])
                if lowest[name] == order[name]:
                    cut = open_ones.index(name)
                    yield open_ones[cut:]
                    del open_ones[cut:]
            elif following not in order:
                order[following] = lowest[following] = len(order)
                open_ones.append(following)
                path.append((following, iter(sorted(graph[following]))))
            elif following in open_ones:
                lowest[name] = min(lowest[name], order[following])
