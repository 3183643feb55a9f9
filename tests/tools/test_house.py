"""The counts of the house over small made-up packages, and that a missed bound is seen."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import house
from tools.imports import circles, read_graph, read_modules

Write = Callable[..., Path]


@pytest.fixture
def package(tmp_path: Path) -> Write:
    """Writes a package ``sim`` of the given files (``kv__paged`` is kv/paged.py) and returns its folder."""

    def write(**files: str) -> Path:
        root = tmp_path / "sim"
        for name, text in {"__init__": "", **files}.items():
            path = root / f"{name if name == '__init__' else name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            for folder in path.parents:
                if folder.is_relative_to(root) and not (folder / "__init__.py").exists():
                    (folder / "__init__.py").write_text("", encoding="utf-8")
        return root

    return write


def row(rows: list[house.Measured], beginning: str) -> house.Measured:
    return next(one for one in rows if one.what.startswith(beginning))


def test_imports_inside_functions_and_relative_ones_are_seen(package: Write) -> None:
    root = package(
        a="def f():\n    from sim.kv import paged\n",
        b="import sim.kv.paged as p\nfrom sim import a\n",
        kv__paged="from . import other\nfrom ..a import f\n",
        kv__other="from sim.kv.paged import Paged\n",
    )
    graph = read_graph(read_modules(root))
    assert graph["sim.a"] == {"sim.kv.paged"}
    assert graph["sim.b"] == {"sim.kv.paged", "sim.a"}
    assert graph["sim.kv.paged"] == {"sim.kv.other", "sim.a"}
    assert circles(graph) == [["sim.a", "sim.kv.other", "sim.kv.paged"]]


def test_a_line_of_imports_is_no_circle(package: Write) -> None:
    root = package(a="import sim.b", b="import sim.c", c="", d="import sim.a, sim.c")
    assert circles(read_graph(read_modules(root))) == []


def test_two_circles_are_two(package: Write) -> None:
    root = package(a="import sim.b", b="import sim.a\nimport sim.c", c="import sim.d", d="import sim.c")
    assert circles(read_graph(read_modules(root))) == [["sim.c", "sim.d"], ["sim.a", "sim.b"]]


def test_a_lone_module_has_one_importer_in_its_own_folder(package: Write) -> None:
    root = package(
        kv__paged="",  # kv/__init__.py imports it: its own folder
        kv__contiguous="",  # two importers
        kv__shared="",  # one, from elsewhere
        a="from sim.kv import contiguous, shared",
        b="from sim.kv import contiguous",
    )
    (root / "kv" / "__init__.py").write_text("from sim.kv.paged import Paged\n", encoding="utf-8")
    found = row(house.measure(root), "modules with one importer")
    assert found.offenders == ["sim.kv.paged (only sim.kv)"]
    assert found.is_met


def test_modules_and_the_root_are_counted(package: Write) -> None:
    root = package(**{name: "" for name in "abcdefgh"}, kv__paged="")
    rows = house.measure(root)
    assert row(rows, "modules (without").found == 9
    at_root = row(rows, "modules at the root")
    assert (at_root.found, at_root.is_met) == (9, False)
    (root / "h.py").unlink()
    assert row(house.measure(root), "modules at the root").is_met


def test_functions_are_measured_and_the_fast_path_has_one_exception(package: Write) -> None:
    def of_lines(count: int, name: str) -> str:
        return f"def {name}():\n" + "    pass\n" * (count - 1)

    root = package(
        a=of_lines(60, "f") + of_lines(61, "g"),
        serving__fast_path=of_lines(200, "decide") + of_lines(61, "another"),
    )
    rows = house.measure(root)
    assert row(rows, "functions above").offenders == [
        "sim.a.g: 61",
        "sim.serving.fast_path.another: 61",
    ]
    assert row(rows, "functions, p90").found == 200


@pytest.mark.parametrize(("lengths", "expected"), [([], 0), ([7], 7), (range(1, 11), 9), (range(1, 12), 10)])
def test_nine_functions_in_ten_are_not_longer(lengths: list[int], expected: int) -> None:
    assert house.percentile_90(lengths) == expected


def test_any_is_counted_where_a_parameter_or_result_is_nothing_else() -> None:
    text = "def f(a: Any, *b: Any, c: dict[str, Any], **d: int) -> Any:\n    def g(e) -> Any: ...\n"
    assert house.any_in_signatures(ast.parse(text)) == 4


def test_engine_and_schedulers_are_what_no_other_subject_has(package: Write) -> None:
    root = package(
        serving__engine="1\n2\n3\n",
        serving__vllm__scheduler="1\n2\n",
        serving__vllm__pool="1\n" * 50,
        serving__kv__paged="1\n" * 50,
        serving__router="1\n" * 50,
        serving__records="1\n" * 50,
        serving__report__figures="1\n" * 50,
        serving__workload__traces="1\n" * 50,
    )
    assert house.engine_lines(root / "serving") == 5


def test_the_command_prints_both_numbers_and_ends_with_one_when_a_bound_is_missed(
    package: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    good = package(a="import sim.b", b="")
    assert house.main(["--root", str(good)]) == 0
    assert "MISSED" not in capsys.readouterr().out
    bad = package(a="import sim.b", b="import sim.a")
    assert house.main(["--root", str(bad)]) == 1
    assert "MISSED\n    sim.a sim.b" in capsys.readouterr().out
    assert house.main(["--root", str(bad), "--report-only"]) == 0
