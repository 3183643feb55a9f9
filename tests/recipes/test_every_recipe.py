"""The table of recipes in CONTRIBUTING.md: every row has a test that follows it, and says nothing untrue."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
HEAD = ["add", "write", "register", "proof"]
QUOTED = re.compile(r"`([^`]+)`")
REGISTERED = re.compile(r"`(\w+)` in `([\w/]+\.py)`")
MAX_FILES = 2  # written by hand


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One row."""

    add: str
    write: str
    register: str
    proof: str

    @property
    def tests(self) -> list[str]:
        return QUOTED.findall(self.proof)

    @property
    def files(self) -> set[str]:
        """The paths that the row writes to."""
        quoted = QUOTED.findall(f"{self.write} {self.register}")
        return {one for one in quoted if re.fullmatch(r"[\w./]+\.\w+", one) and "/" in one}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def read_table(text: str) -> list[Recipe]:
    """The rows of the table whose head is add, write, register, proof."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|") and cells(line) == HEAD)
    found = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        add, write, register, proof = cells(line)
        found.append(Recipe(add=add, write=write, register=register, proof=proof))
    return found


def proofs_in(folder: Path) -> set[str]:
    """The names of all tests of a folder that are not marked to be skipped or to fail."""
    return {
        node.name
        for path in folder.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not re.search(r"mark\.(skip|xfail)", " ".join(map(ast.unparse, node.decorator_list)))
    }


def missing(recipes: list[Recipe], known: set[str]) -> list[str]:
    """What is wrong with the rows' proofs."""
    without = [f"{one.add}: no test" for one in recipes if not one.tests]
    return without + [f"{one.add}: {name}" for one in recipes for name in one.tests if name not in known]


RECIPES = read_table((CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def test_every_row_has_a_test_that_follows_it() -> None:
    assert missing(RECIPES, proofs_in(Path(__file__).parent)) == []


def test_a_row_without_a_test_is_found() -> None:
    row = "| a thing | a file | nothing | {} |"
    head = "| add | write | register | proof |\n| --- | --- | --- | --- |\n"
    known = {"test_a_thing"}
    for proof, wrong in (
        ("`test_a_thing`", []),
        ("`test_another`", ["a thing: test_another"]),
        ("`test_a_thing`, `test_no`", ["a thing: test_no"]),
        ("see below", ["a thing: no test"]),
    ):
        assert missing(read_table(head + row.format(proof) + "\n\ntext\n"), known) == wrong


def test_tests_that_are_skipped_prove_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "@pytest.mark.skip\ndef test_a(): ...\n@pytest.mark.xfail(reason='x')\ndef test_b(): ...\n"
        "@pytest.mark.parametrize('x', [1])\ndef test_c(x): ...\n",
        encoding="utf-8",
    )
    assert proofs_in(tmp_path) == {"test_c"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one.add)
def test_a_row_names_places_that_are_there(recipe: Recipe) -> None:
    for name, path in REGISTERED.findall(recipe.register):
        tree = ast.parse((CHECKOUT / path).read_text(encoding="utf-8"))
        targets = [
            target
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        ]
        assert name in [target.id for target in targets if isinstance(target, ast.Name)], recipe
    for path in recipe.files:
        assert (CHECKOUT / path.replace("KIND", "serving")).parent.is_dir(), path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one.add)
def test_a_row_takes_at_most_two_files(recipe: Recipe) -> None:
    assert len(recipe.files) <= MAX_FILES
    assert REGISTERED.search(recipe.register) or "found by" in recipe.register
