"""One self-contained HTML page: its head, its style, its pictures. No request ever leaves it."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
from collections.abc import Sequence
from importlib import resources
from urllib.parse import quote

from sim.report.figures import INKS, Picture, Row, digits

ROWS_SHOWN = 40
LEGEND_LINE_PX = 18  # on a phone the legend stands line by line, and the plot keeps its height
COLUMNS = ("", "one", "two", "three")


def page(*, title: str, body: str, pictures: Sequence[Picture] = ()) -> str:
    """The whole file. ``body`` is HTML already; plotly is inlined once, and only where there is a picture."""
    scripts = [_plotly(), _shipped("page.js")] if pictures else []
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
        f'<div class="plot" id="plot-{picture.key}" role="img" aria-label="{title}" '
        f'style="--height:{picture.height_px}px;--legend:{LEGEND_LINE_PX * len(picture.traces)}px"></div>'
        f"<figcaption>{html.escape(picture.reading)}</figcaption>"
        f'<details><summary>The numbers (<a download="{name}" href="{csv_uri(picture)}">CSV</a>)</summary>'
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
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
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
    """The numbers as CSV, in full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def csv_uri(picture: Picture) -> str:
    """The CSV file inside the page."""
    return "data:text/csv;charset=utf-8," + quote(csv_text(picture.header, picture.rows), safe=",.-_ :/")


def _json(pictures: Sequence[Picture]) -> str:
    """What the page's script reads. ``<`` is written as an escape, so that no text can end the script."""
    shown = [
        {"key": one.key, "traces": one.traces, "layout": one.layout, "frames": one.frames} for one in pictures
    ]
    text = json.dumps({"inks": INKS, "pictures": shown}, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


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
    return resources.files("sim.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    """plotly.js, as the plotly package ships it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
