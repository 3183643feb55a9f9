"""The parts of README.md that the program itself says: ``python -m tools.readme`` writes them anew.

A part stands between ``<!-- begin: WHAT -->`` and ``<!-- end -->``. WHAT is ``limits``, what is not
modelled, ``board``, the scores of the measured cases in ``tests/validation``, or ``$ gpuyard ...``, what
that command prints. ``tests/tools/test_readme.py`` compares.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import tempfile
from pathlib import Path

from sim.cli.command import main as gpuyard
from sim.kinds.executors import open_executor
from sim.serving.report.content import NOT_MODELLED
from sim.trust.board import load_board, make_board
from sim.trust.board_report import groups_markdown
from sim.trust.cases import load_folder, run_cases

README = Path(__file__).parent.parent / "README.md"
CASES = README.parent / "tests" / "validation"
PART = re.compile(r"(<!-- begin: (?P<what>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def rewritten(text: str) -> str:
    """``text`` with every part as the program says it now."""
    return PART.sub(lambda part: f"{part[1]}{said(part['what'])}\n{part[3]}", text)


def said(what: str) -> str:
    """What stands in a part."""
    if what == "limits":
        return "\n".join(f"- {line}" for line in NOT_MODELLED)
    if what == "board":
        return measured_board()
    return f"```text\n{printed(shlex.split(what.removeprefix('$ gpuyard ')))}```"


def measured_board() -> str:
    """The groups of the measured cases, as a table. A missed bound does not stop it: it stands there."""
    with open_executor(os.cpu_count() or 1) as executor:
        rows = run_cases(load_folder(CASES), executor, in_flight=os.cpu_count() or 1)
    board = make_board(load_board(CASES), rows, "")
    return f"{board.answer[0].upper()}{board.answer[1:]}.\n\n{groups_markdown(board.groups)}"


def printed(arguments: list[str]) -> str:
    """What the command prints, run in an empty folder."""
    text, before = io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(text):
        os.chdir(folder)
        try:
            code = gpuyard(arguments)
        finally:
            os.chdir(before)
    if code != 0:
        raise SystemExit(f"gpuyard {shlex.join(arguments)}: exit code {code}")
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
