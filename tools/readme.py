"""The parts of README.md that the program itself says: ``python -m tools.readme`` writes them anew.

A part stands between ``<!-- begin: WHAT -->`` and ``<!-- end -->``. WHAT is ``limits``, what is not
modelled, or ``$ gpuyard ...``, what that command prints. ``tests/test_readme.py`` compares.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import tempfile
from pathlib import Path

from sim.cli import main as gpuyard
from sim.report.limits import NOT_MODELLED

README = Path(__file__).parent.parent / "README.md"
PART = re.compile(r"(<!-- begin: (?P<what>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def rewritten(text: str) -> str:
    """``text`` with every part as the program says it now."""
    return PART.sub(lambda part: f"{part[1]}{said(part['what'])}\n{part[3]}", text)


def said(what: str) -> str:
    """What stands in a part."""
    if what == "limits":
        return "\n".join(f"- {line}" for line in NOT_MODELLED)
    return f"```text\n{printed(shlex.split(what.removeprefix('$ gpuyard ')))}```"


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
