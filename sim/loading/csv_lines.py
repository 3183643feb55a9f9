"""The lines of a small CSV file as cells; what is no text or no CSV is named with its line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from sim.errors import ScenarioError


def csv_lines(file: Path, hint: str = "") -> Iterator[tuple[int, list[str]]]:
    """(line number, cells), the header's included; a spreadsheet's byte order mark is no part of it."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ScenarioError("not UTF-8 text", file=f"{file}:{line}", allowed="UTF-8", hint=hint) from None
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise ScenarioError(
            f"not a line of CSV: {error}", file=f"{file}:{reader.line_num}",
            allowed="no quote, or one at both ends of a cell", hint=hint,
        ) from None  # fmt: skip
