"""README.md and the pages under docs/: the parts that the program itself says, and the code that is shown.

A part stands between ``<!-- begin: WHAT -->`` and ``<!-- end -->``, and ``python -m tools.docs`` writes all
of them anew. WHAT is

- ``$ gpuyard ...``: what that command prints;
- ``first lines of $ gpuyard ...``: the same as far as the first empty line;
- ``shipped NAME``: a shipped scenario's file;
- ``limits KIND``: what is not modelled;
- ``board`` and ``trust``: the scores of the measured cases in ``tests/validation``, by group and in a line.

Every other block of code has a comment right above it that says what becomes of it:

- ``<!-- run -->``: run, the blocks of a page one after another in one folder;
- ``<!-- run with: ARGUMENTS -->``: run with these after every command, the same question asked of less;
- ``<!-- file: NAME -->``: what the page's commands find under that name; a scenario must load;
- ``<!-- not run: WHY -->``: no command, or one that needs what is not here.

``tests/tools/test_docs.py`` compares the parts, runs the code, and finds the block that says nothing.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markdown_it import MarkdownIt

from sim.cli.command import main as gpuyard
from sim.kernel.report import page as kernel
from sim.kinds.executors import open_executor
from sim.scenario.shipped import scenario_name, scenario_paths
from sim.serving.report import content as serving
from sim.training.report import page as training
from sim.trust.board import Board, load_board, make_board
from sim.trust.board_report import groups_markdown
from sim.trust.cases import load_folder, run_cases

CHECKOUT = Path(__file__).parent.parent
CASES = CHECKOUT / "tests" / "validation"
LIMITS = {"serving": serving.NOT_MODELLED, "kernel": kernel.NOT_MODELLED, "training": training.NOT_MODELLED}
PART = re.compile(r"(<!-- begin: (?P<what>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_MARK = re.compile(r"<!-- (?P<word>run with|run|file|not run|begin)(: (?P<rest>.+?))? -->\s*\Z")


def pages() -> list[Path]:
    """Every page whose code and links are held to the program."""
    named = [CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md")]
    return named + sorted((CHECKOUT / "docs").rglob("*.md"))


# --- parts ---------------------------------------------------------------------------------------


def parts(text: str) -> list[str]:
    """What the parts of a page are."""
    return [part["what"] for part in PART.finditer(text)]


def rewritten(text: str) -> str:
    """``text`` with every part as the program says it now."""
    return PART.sub(lambda part: f"{part[1]}{said(part['what'])}\n{part[3]}", text)


@functools.cache
def said(what: str) -> str:
    """What stands in a part."""
    word, _, rest = what.partition(" ")
    if word == "limits":
        return "\n".join(f"- {line}" for line in LIMITS[rest])
    if word == "shipped":
        (path,) = [path for path in scenario_paths() if scenario_name(path) == rest]
        return f"```yaml\n{path.read_text(encoding='utf-8')}```"
    if what == "board":
        return f"{_capital(board().answer)}.\n\n{groups_markdown(board().groups)}"
    if what == "trust":
        return trust_line(board())
    command = what.removeprefix("first lines of ")
    text = printed(command.removeprefix("$ gpuyard "))
    if command != what:
        text = text.partition("\n\n")[0] + "\n"
    return f"```text\n{text}```"


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


@functools.cache
def board() -> Board:
    """The measured cases, run. A missed bound does not stop it: it stands there."""
    num_processes = os.cpu_count() or 1
    with open_executor(num_processes) as executor:
        rows = run_cases(load_folder(CASES), executor, in_flight=num_processes)
    return make_board(load_board(CASES), rows, "")


def trust_line(scored: Board) -> str:
    """How far off the values are that no fit has seen."""
    unseen = [row.error for row in scored.rows if not row.measured.seen_by_fit and row.error is not None]
    middle, ninth = np.percentile(np.abs(unseen), [50, 90])
    return (
        f"Of {len(scored.rows)} measured values, {len(unseen)} were never seen by a fit: half of those are "
        f"predicted within {middle:.1%}, nine tenths within {ninth:.0%}; {scored.answer.partition(';')[0]}."
    ).replace("%", " %")


@functools.cache
def printed(arguments: str) -> str:
    """What ``gpuyard`` with these arguments prints, run in an empty folder."""
    text = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(text):
        code = gpuyard(shlex.split(arguments))
    if code != 0:
        raise SystemExit(f"gpuyard {arguments}: exit code {code}")
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


# --- code ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code, and what the comment above it says: ``word`` is empty where there is none."""

    line: int
    language: str
    code: str
    word: str
    rest: str


def blocks(text: str) -> Iterator[Block]:
    """The blocks of code of a page, fenced and indented ones."""
    lines = text.splitlines()
    for token in MarkdownIt().parse(text):
        if token.type in ("fence", "code_block") and token.map:
            mark = _MARK.search("\n".join(lines[: token.map[0]]))
            word, rest = (mark["word"], mark["rest"] or "") if mark else ("", "")
            yield Block(token.map[0] + 1, token.info.strip(), token.content, word, rest)


if __name__ == "__main__":
    for file in pages():
        before = file.read_text(encoding="utf-8")
        file.write_text(rewritten(before), encoding="utf-8")
