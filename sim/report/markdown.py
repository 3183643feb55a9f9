"""The report's Markdown twin, to paste into a design document: what decides, without HTML.

What a page folds away (every metric, constants, the written-out scenario) stays there, and is pointed at.
"""

from __future__ import annotations

import re

from sim.report.blocks import Block, Bullets, Cell, Code, Facts, Figure, Prose, Report, Section, Table
from sim.report.figures import Picture


def render_markdown(report: Report, page: str = "report.html", numbers: str = "summary.json") -> str:
    """A report as Markdown: heading, answer, sections; ``page`` and ``numbers``: the files with the rest."""
    badges = "; ".join(_text(badge.text) for badge in report.badges)
    parts = [f"# {_text(report.question)}", f"**{_text(report.answer)}** {_text(report.basis)}".rstrip()]
    parts += ["\n".join(map(_figure, report.figures))] if report.figures else []
    parts += [badges] if badges else []
    parts += [told for section in report.sections if (told := _section(section))]
    parts.append(
        f"{page} has the pictures, the long tables with their sources, and every setting; "
        f"{numbers} has every number."
    )
    return "\n\n".join(parts) + "\n"


def _figure(one: Figure) -> str:
    beside = f" ({_text(one.beside)})" if one.beside else ""
    return f"- **{_text(one.value)}** {_text(one.label)} (`{one.key}`){beside}"


def _section(section: Section) -> str:
    """Nothing where only folded tables and pictures without a sketch would stand under the heading."""
    if section.only_on_page:
        return ""
    parts = [told for block in section.blocks if (told := _block(block))]
    if not section.is_folded:
        parts += [_picture(picture) for picture in section.pictures if picture.sketch]
    return "\n\n".join([f"## {_text(section.title)}", *parts]) if parts else ""


def _picture(picture: Picture) -> str:
    """Title, sketch, reading."""
    return f"### {_text(picture.title)}\n\n{fenced(picture.sketch)}\n\n{_text(picture.reading)}"


def _block(block: Block) -> str:
    match block:
        case Prose(text=text):
            return _text(text)
        case Bullets(items=items):
            return "\n".join(f"- {_text(item)}" for item in items)
        case Facts(rows=rows):
            return "\n".join(f"- **{_text(term)}:** {_text(meaning)}" for term, meaning in rows)
        case Code(text=text, summary=summary):
            return "" if summary else fenced(text)
        case Table(summary=summary):
            return "" if summary else _table(block)


def _table(table: Table) -> str:
    align = ["---", *(["---" if table.is_text else "---:"] * (len(table.header) - 1))]
    lines = [_line([_head(*name.split("\n")) for name in table.header]), _line(align)]
    lines += [_line([_cell(cell) for cell in row]) for row in table.rows]
    notes = "\n\n".join(_text(note) for note in table.notes)
    return "\n".join(lines) + (f"\n\n{notes}" if notes else "")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    """A value, and in brackets what a page shows small below it: "2.14 ×, 1.99 to 2.3, better"."""
    return _head(cell.text, re.sub(r" \(([^()]*)\)", r", \1", cell.small))


def _head(text: str, small: str = "") -> str:
    """A row's or a column's name, and beside it what is small on a page."""
    return f"{_text(text)} ({_text(small)})" if small else _text(text)


def fenced(text: str) -> str:
    """A code block; its fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def _text(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    flat = " ".join(text.split())
    escaped = re.sub(r"([\\`*\[\]|~])", r"\\\1", flat)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
