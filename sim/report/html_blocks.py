"""Blocks as HTML. All text is escaped here, once."""

from __future__ import annotations

from html import escape

from sim.report.blocks import Block, Bullets, Cell, Code, Facts, Prose, Report, Section, Table
from sim.report.page import pictures_html


def report_html(report: Report) -> str:
    """The body: the question, the answer, the sections."""
    badges = "".join(f'<li class="{badge.tone}">{escape(badge.text)}</li>' for badge in report.badges)
    return "\n".join(
        [
            f"<h1>{escape(report.question)}</h1>",
            f'<section class="answer"><p>{escape(report.answer)}</p><ul>{badges}</ul></section>',
            *(section_html(section) for section in report.sections),
        ]
    )


def section_html(section: Section) -> str:
    """A heading and what stands under it."""
    blocks = "\n".join(block_html(block) for block in section.blocks)
    return f"<section><h2>{escape(section.title)}</h2>\n{blocks}\n{pictures_html(section.pictures)}</section>"


def block_html(block: Block) -> str:
    """One block."""
    match block:
        case Prose(text=text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items=items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Facts(rows=rows):
            return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in rows) + "</dl>"
        case Code(text=text, summary=summary):
            return _folded(f"<pre>{escape(text)}</pre>", summary)
        case Table(summary=summary):
            return _folded(_table(block), summary)


def _folded(inner: str, summary: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>" if summary else inner


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    body = "".join(
        "<tr>" + _head_cell(row[0]) + "".join(_cell(cell) for cell in row[1:]) + "</tr>" for row in table.rows
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    kind = ' class="text"' if table.is_text else ""
    return (
        f'<div class="box" tabindex="0"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>" + (f'<div class="notes">{notes}</div>' if notes else "")
    )


def _head_cell(cell: Cell) -> str:
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    # A metric's name may break after its underscores: on a phone the numbers need the room.
    name = escape(cell.text).replace("_", "_<wbr>")
    return f'<th scope="row">{name}{small}</th>'


def _cell(cell: Cell) -> str:
    if cell.small:
        return f'<td>{escape(cell.text)}<small class="{cell.tone}">{escape(cell.small)}</small></td>'
    return f'<td class="{cell.tone}">{escape(cell.text)}</td>'
