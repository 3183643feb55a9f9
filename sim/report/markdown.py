"""The report's Markdown twin: the same content, its pictures in text, to paste into a pull request."""

from __future__ import annotations

import re

from sim.report.blocks import Block, Bullets, Cell, Code, Facts, Figure, Prose, Report, Section, Table
from sim.report.figures import Picture


def render_markdown(report: Report, page: str = "report.html") -> str:
    """A report as Markdown: heading, answer, sections; ``page``: the file that has the pictures."""
    badges = ", ".join(_text(badge.text) for badge in report.badges)
    parts = [f"# {_text(report.question)}", f"**{_text(report.answer)}**"]
    parts += ["\n".join(map(_figure, report.figures))] if report.figures else []
    parts += [badges] if badges else []
    if any(section.pictures for section in report.sections):
        parts.append(f"The pictures are in {page}; here each is a sketch and its reading.")
    for section in report.sections:
        parts.append(_section(section))
    return "\n\n".join(parts) + "\n"


def _figure(one: Figure) -> str:
    beside = f" ({_text(one.beside)})" if one.beside else ""
    return f"- **{_text(one.value)}** {_text(one.label)} (`{one.key}`){beside}"


def _section(section: Section) -> str:
    blocks = [_block(block) for block in section.blocks]
    pictures = [_picture(picture) for picture in section.pictures]
    return "\n\n".join([f"## {_text(section.title)}", *blocks, *pictures])


def _picture(picture: Picture) -> str:
    """Title, sketch, reading."""
    sketch = f"{fenced(picture.sketch)}\n\n" if picture.sketch else ""
    return f"### {_text(picture.title)}\n\n{sketch}{_text(picture.reading)}"


def _block(block: Block) -> str:
    match block:
        case Prose(text=text):
            return _text(text)
        case Bullets(items=items):
            return "\n".join(f"- {_text(item)}" for item in items)
        case Facts(rows=rows):
            return "\n".join(f"- **{_text(term)}:** {_text(meaning)}" for term, meaning in rows)
        case Code(text=text, summary=summary):
            return _folded(fenced(text), summary)
        case Table(summary=summary):
            return _folded(_table(block), summary)


def _folded(inner: str, summary: str) -> str:
    if not summary:
        return inner
    return f"<details><summary>{_text(summary)}</summary>\n\n{inner}\n\n</details>"


def _table(table: Table) -> str:
    align = ["---", *(["---" if table.is_text else "---:"] * (len(table.header) - 1))]
    lines = [_line([_head(*name.split("\n")) for name in table.header]), _line(align)]
    lines += [_line([_cell(cell, is_head=not i) for i, cell in enumerate(row)]) for row in table.rows]
    notes = "\n\n".join(_text(note) for note in table.notes)
    return "\n".join(lines) + (f"\n\n{notes}" if notes else "")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell, *, is_head: bool) -> str:
    if is_head or not cell.small:
        return _head(cell.text, cell.small)
    return f"{_text(cell.text)}<br>{_text(cell.small)}"


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
