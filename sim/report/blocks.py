"""What a report is made of, before it is HTML or Markdown; and how it names settings and devices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from sim.report.figures import Picture
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    from sim.hardware import HardwareProfile

Tone = Literal["plain", "good", "bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Terms and what they are."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Text to copy as it stands; ``summary`` folds it away under that line."""

    text: str
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A table's cell: the value, and a smaller second line whose tone says better or worse."""

    text: str
    small: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under a header; ``is_text`` for sentences rather than numbers.

    A second line in a header's text is shown small, as a cell's second line is.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    is_text: bool = False
    summary: str = ""


Block = Prose | Bullets | Facts | Code | Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, its blocks, then its pictures; ``is_folded`` shows the heading until it is opened.

    ``only_on_page``: its words explain its pictures or folded tables, and Markdown has neither.
    """

    title: str
    blocks: Sequence[Block] = ()
    pictures: Sequence[Picture] = ()
    is_folded: bool = False
    only_on_page: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One of the numbers that decide, shown large: value, plain name, key, and what it stands beside."""

    value: str
    label: str
    key: str
    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole: the question, the answer in one line, a badge per variant, large numbers, the sections.

    ``basis``: what the answer assumes and was played, in small print under its numbers.
    """

    question: str
    answer: str
    badges: tuple[Cell, ...]
    sections: Sequence[Section]
    figures: tuple[Figure, ...] = ()
    basis: str = ""


def what_decides_first(
    open_sections: Sequence[Section | None], folded: Sequence[Section | None], deciding: Sequence[str]
) -> list[Section]:
    """The open sections, the first picture of the keys ``deciding`` that there is, then the rest, folded."""
    rest = [section for section in folded if section is not None]
    by_key = {one.key: one for section in rest for one in section.pictures}
    chosen = [by_key[key] for key in deciding if key in by_key][:1]
    shown = [section for section in open_sections if section is not None]
    if chosen:
        shown.append(Section(title="The picture that decides", pictures=chosen))
    for section in rest:
        pictures = [one for one in section.pictures if one not in chosen]
        if section.blocks or pictures:
            shown.append(replace(section, pictures=pictures, is_folded=True))
    return shown


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], summary: str = "") -> Table:
    """A table of sentences; ``summary`` folds it away."""
    cells = tuple(tuple(Cell(text=text) for text in row) for row in rows)
    return Table(header=tuple(header), rows=cells, is_text=True, summary=summary)


def profile_hash(profile: HardwareProfile) -> str:
    """Twelve digits that change with any number or source of the profile."""
    from sim.scenario.file import plain

    text = json.dumps(plain(profile), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def setting_text(tree: Mapping[str, Any], prefix: str = "") -> str:
    """A tree of settings on one line: ``engine.batching: static, engine.max_num_seqs: 8``."""
    parts = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            parts.append(setting_text(value, f"{prefix}{name}."))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            parts.append(f"{prefix}{name}: {json.dumps(value, default=str)}")
        else:
            shown = str(value).lower() if isinstance(value, bool) else value
            parts.append(f"{prefix}{name}: {shown}")
    return ", ".join(part for part in parts if part)
