"""One HTML page with nothing to load: blocks, tables, pictures, and the gallery's index."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sim.report.blocks import Block, Bullets, Cell, Code, Facts, Prose, Report, Section, Table
from sim.report.figures import INKS, Picture, Row, digits

ROWS_SHOWN = 40


SHOWN_DIGITS = 6  # of a figure's numbers: finer than a screen, also where a part of it is enlarged


PLOTLY = "cartesian-3.7.0"  # of npm's plotly.js-cartesian-dist-min, byte for byte


LEGEND_LINE_PX = 18  # on a phone the legend stands line by line, and the plot keeps its height


COLUMNS = ("", "one", "two", "three")


def page(*, title: str, body: str, pictures: Sequence[Picture] = ()) -> str:
    """The whole file. ``body`` is HTML already; plotly is inlined once, and only where there is a picture."""
    scripts = [plotly_js(), _shipped("page.js")] if pictures else []
    data = f'<script type="application/json" id="pictures">{_json(pictures)}</script>' if pictures else ""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{_shipped('page.css')}</style>",
            "</head>",
            f"<body><main>\n{body}\n</main>",
            data,
            *([_plotly_licence()] if pictures else []),
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>\n",
        ]
    )


def picture_html(picture: Picture) -> str:
    """One figure: plot, reading, and its numbers as a table and a CSV file."""
    shown = table_html(picture.header, [[cell(value) for value in row] for row in picture.rows[:ROWS_SHOWN]])
    more = len(picture.rows) - ROWS_SHOWN
    rest = f"<p>{more:,} more rows are in the CSV file.</p>" if more > 0 else ""
    name = f"{picture.key}.csv"
    title = html.escape(picture.title)
    return (
        f"<figure><h3>{title}</h3>"
        f'<div class="plot" id="plot-{picture.key}" role="group" aria-label="{title}" '
        f'style="--height:{picture.height_px}px;--legend:{LEGEND_LINE_PX * len(picture.traces)}px"></div>'
        f"<figcaption>{html.escape(picture.reading)}</figcaption>"
        "<details><summary>The numbers</summary>"
        f'<p><a download="{name}" href="{csv_uri(picture)}">{name}</a></p>'
        f"{shown}{rest}</details></figure>"
    )


def pictures_html(pictures: Sequence[Picture]) -> str:
    """Figures in order; neighbours of one group share a row where the screen is wide enough."""
    parts: list[str] = []
    position = 0
    while position < len(pictures):
        group = pictures[position].group
        size = 1
        while group and position + size < len(pictures) and pictures[position + size].group == group:
            size += 1
        row = pictures[position : position + size]
        columns = 3 if size in (3, 5, 6) else min(size, 2)
        inner = "".join(picture_html(picture) for picture in row)
        parts.append(f'<div class="pictures {COLUMNS[columns]}">{inner}</div>')
        position += size
    return "\n".join(parts)


def table_html(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A plain table in a box that scrolls by itself. Cells are text, escaped here."""
    head = _header_row(header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="box" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def cell(value: str | int | float | None) -> str:
    """A value of a figure's table."""
    if value is None:
        return ""
    if isinstance(value, float):
        return digits(value, 4)
    return str(value)


def csv_text(header: Sequence[str], rows: Sequence[Row]) -> str:
    """The numbers as CSV, to ``SHOWN_DIGITS``; the records beside the report have every digit."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_short(list(row)) for row in rows])
    return file.getvalue()


def csv_uri(picture: Picture) -> str:
    """The CSV file inside the page."""
    return "data:text/csv;charset=utf-8," + quote(csv_text(picture.header, picture.rows), safe=",.-_ :/")


def _json(pictures: Sequence[Picture]) -> str:
    """What the page's script reads. ``<`` is written as an escape, so that no text can end the script."""
    shown = [
        {"key": one.key, "traces": one.traces, "layout": one.layout, "frames": one.frames} for one in pictures
    ]
    text = json.dumps({"inks": INKS, "pictures": _short(shown)}, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _short(value: Any) -> Any:
    """``value`` with every float in it to ``SHOWN_DIGITS``."""
    if isinstance(value, float):
        return float(f"{value:.{SHOWN_DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _short(part) for name, part in value.items()}
    return [_short(part) for part in value] if isinstance(value, (list, tuple)) else value


def _policy(scripts: Sequence[str]) -> str:
    """Nothing may be fetched, and only our own scripts may run: named by hash, so none can be slipped in.

    Plotly writes style attributes and exports PNG through a blob.
    """
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    ]
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(hashes) or repr('none')}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _shipped(name: str) -> str:
    """A file beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def plotly_js() -> str:
    """plotly.js: the bundle that its makers publish for two axes, a third of the whole library."""
    return _shipped(f"plotly-{PLOTLY}.min.js")


def _plotly_licence() -> str:
    """What every copy of plotly.js must carry, as a comment of the page."""
    return f"<!-- plotly.js in this file:\n{_shipped('plotly-LICENSE.txt')}-->"


def report_html(report: Report) -> str:
    """The body: the question, the answer, the sections."""
    badges = "".join(f'<li class="{badge.tone}">{escape(badge.text)}</li>' for badge in report.badges)
    basis = f'<p class="basis">{escape(report.basis)}</p>' if report.basis else ""
    return "\n".join(
        [
            f"<h1>{escape(report.question)}</h1>",
            f'<section class="answer"><p>{escape(report.answer)}</p>',
            f"{_figures(report)}<ul>{badges}</ul>{basis}</section>",
            *(section_html(section) for section in report.sections),
        ]
    )


def _figures(report: Report) -> str:
    """The numbers that decide: the value large, its plain name, its key small."""
    shown = [
        f"<div><dt>{escape(one.label)} <small>{escape(one.key)}</small></dt><dd>{escape(one.value)}"
        + (f"<small>{escape(one.beside)}</small>" if one.beside else "")
        + "</dd></div>"
        for one in report.figures
    ]
    return f'<dl class="figures">{"".join(shown)}</dl>' if shown else ""


def section_html(section: Section) -> str:
    """A heading and what stands under it."""
    blocks = "\n".join(block_html(block) for block in section.blocks)
    inner = f"{blocks}\n{pictures_html(section.pictures)}"
    heading = f"<h2>{escape(section.title)}</h2>"
    if section.is_folded:
        # A browser's search looks into a closed <details> and opens it; page.js does so before printing.
        count = len(section.pictures)
        hint = f"<span>{count} picture{'s' if count > 1 else ''}</span>" if count else ""
        return f"<section><details><summary>{heading}{hint}</summary>\n{inner}</details></section>"
    return f"<section>{heading}\n{inner}</section>"


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
    head = _header_row(table.header)
    body = "".join(
        "<tr>" + _head_cell(row[0]) + "".join(_cell(cell) for cell in row[1:]) + "</tr>" for row in table.rows
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    kind = ' class="text"' if table.is_text else ""
    return (
        f'<div class="box" tabindex="0"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>" + (f'<div class="notes">{notes}</div>' if notes else "")
    )


def _header_row(names: Sequence[str]) -> str:
    """The names of the columns; a column without one has no heading rather than an empty one."""
    return "".join(f'<th scope="col">{_two_lines(name)}</th>' if name else "<td></td>" for name in names)


def _two_lines(text: str) -> str:
    first, _, second = text.partition("\n")
    small = escape(second).replace("_", "_<wbr>")
    return f"{escape(first)}<small>{small}</small>" if second else escape(first)


def _head_cell(cell: Cell) -> str:
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    # A metric's name may break after its underscores: on a phone the numbers need the room.
    name = escape(cell.text).replace("_", "_<wbr>")
    return f'<th scope="row">{name}{small}</th>'


def _cell(cell: Cell) -> str:
    if cell.small:
        return f'<td>{escape(cell.text)}<small class="{cell.tone}">{escape(cell.small)}</small></td>'
    return f'<td class="{cell.tone}">{escape(cell.text)}</td>'


def render_html(report: Report) -> str:
    """A report as one HTML file."""
    return page(
        title=report.question,
        body=report_html(report),
        pictures=[picture for section in report.sections for picture in section.pictures],
    )


def render_index(entries: Sequence[Mapping[str, str]]) -> str:
    """The gallery's front page, by kind.

    An entry: ``path`` (of its report), ``name`` (kind and stem), ``question``, ``answer``, and where there is
    one ``picture``, an address that holds the image itself.
    """
    kinds = dict.fromkeys(entry["name"].partition("/")[0] for entry in entries)
    parts = ["<h1>Gpuyard: questions and their answers, each from one scenario</h1>"]
    for kind in kinds:
        cards = "".join(_card(entry) for entry in entries if entry["name"].partition("/")[0] == kind)
        parts.append(
            f'<section><h2>{escape(kind.capitalize())}</h2><ul class="gallery">{cards}</ul></section>'
        )
    return page(title="Gpuyard: the gallery", body="\n".join(parts))


def _card(entry: Mapping[str, str]) -> str:
    """A scenario of the gallery; picture and name lead to its report."""
    picture = entry.get("picture")
    image = f'<img alt="" loading="lazy" src="{escape(picture, quote=True)}">' if picture else ""
    return (
        f'<li><a href="{escape(entry["path"], quote=True)}">{image}<h3>{escape(entry["name"])}</h3></a>'
        f"<p>{escape(entry.get('question', ''))}</p>"
        f"<p><strong>{escape(entry.get('answer', ''))}</strong></p></li>"
    )
