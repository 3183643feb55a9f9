"""Reports as self-contained HTML: one file that opens offline, on a phone, in the dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from sim.report.blocks import Report
from sim.report.html_blocks import report_html
from sim.report.page import page


def render_html(report: Report) -> str:
    """A report as one HTML file."""
    return page(
        title=report.question,
        body=report_html(report),
        pictures=[picture for section in report.sections for picture in section.pictures],
    )


def render_index(entries: Sequence[Mapping[str, str]]) -> str:
    """The gallery's front page. An entry: ``path`` (of its report), ``name``, ``question``, ``answer``."""
    items = "".join(
        f'<li><h3><a href="{escape(entry["path"], quote=True)}">{escape(entry["name"])}</a></h3>'
        f"<p>{escape(entry.get('question', ''))}</p>"
        f"<p><strong>{escape(entry.get('answer', ''))}</strong></p></li>"
        for entry in entries
    )
    heading = "<h1>Gpuyard: questions and their answers, each from one scenario</h1>"
    body = f'{heading}<ul class="gallery">{items}</ul>'
    return page(title="Gpuyard: the gallery", body=body)
