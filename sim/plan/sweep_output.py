"""A sweep as a table on the terminal, CSV, JSON, and a page with pictures."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from sim.plan.shown import shown
from sim.plan.sweep import Sweep, cheapest_meeting, table
from sim.plan.sweep_pictures import sweep_pictures
from sim.report.page import page, pictures_html, table_html
from sim.version import __version__


def render_table(sweep: Sweep, metrics: Sequence[str]) -> str:
    """Aligned columns; a point that meets its SLO is marked with *, the cheapest of them with **.

    A column that says the same in every row is left out here; the CSV has it.
    """
    rows = table(sweep, metrics)
    cheapest = cheapest_meeting(sweep.rows)
    names = [name for name in rows[0] if name in sweep.keys or len({row[name] for row in rows}) > 1]
    lines = [["", *(_short(name, names) for name in names)]]
    for index, row in enumerate(rows):
        mark = "**" if index == cheapest else "*" if row["meets_slo"] is True else ""
        lines.append([mark, *(shown(name, row[name]) for name in names)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _short(name: str, names: Sequence[str]) -> str:
    """The last word of a key path, or as many as keep it apart from the other columns."""
    words = name.split(".")
    for count in range(1, len(words)):
        short = ".".join(words[-count:])
        if not any(other != name and other.endswith(short) for other in names):
            return short
    return name


def render_answer(sweep: Sweep) -> str:
    """One line: how many points meet the SLO, and the cheapest of them."""
    if all(row["meets_slo"] is None for row in sweep.rows):
        return "The scenario states no SLO, so no point is marked."
    num_meeting = sum(row["meets_slo"] is True for row in sweep.rows)
    cheapest = cheapest_meeting(sweep.rows)
    if cheapest is None:
        return f"None of {len(sweep.rows)} points meets the SLO."
    point, row = sweep.points[cheapest], sweep.rows[cheapest]
    said = ", ".join(f"{key} = {value}" for key, value in point.swept.items())
    variant = f" ({point.variant})" if len({one.variant for one in sweep.points}) > 1 else ""
    price = row["usd_per_hour"]
    cost = f"{row['num_gpus']} GPU" + ("s" if row["num_gpus"] != 1 else "")
    cost += f", {float(price):.2f} USD/h" if price is not None else ", price unknown"
    return f"{num_meeting} of {len(sweep.rows)} points meet the SLO; the cheapest: {said}{variant} ({cost})."


def sweep_warnings(sweep: Sweep) -> list[str]:
    """What the points' files are warned of, each once."""
    return list(dict.fromkeys(str(caution) for point in sweep.points for caution in point.warnings))


def render_json(sweep: Sweep) -> str:
    """Every metric of every point."""
    cheapest = cheapest_meeting(sweep.rows)
    content = {
        "question": sweep.question,
        "command": sweep.command,
        "gpuyard": __version__,
        "over": list(sweep.keys),
        **({"warnings": warnings} if (warnings := sweep_warnings(sweep)) else {}),
        "points": [
            {"swept": dict(point.swept), "variant": point.variant, "seeds": list(point.scenario.seeds), **row}
            for point, row in zip(sweep.points, sweep.rows, strict=True)
        ],
        "cheapest_meeting_slo": cheapest,
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def render_page(sweep: Sweep, metrics: Sequence[str]) -> str:
    """One self-contained HTML file: the answer, a picture per metric, the table, the command."""
    rows = table(sweep, metrics)
    cells = [[shown(name, value) for name, value in row.items()] for row in rows]
    pictures = sweep_pictures(sweep, metrics)
    seeds = len(sweep.points[0].scenario.seeds)
    body = "\n".join(
        [
            f"<h1>{html.escape(sweep.question)}</h1>",
            f'<section class="answer"><p>{html.escape(render_answer(sweep))}</p></section>',
            f"<p>Means over {seeds} {'seeds' if seeds > 1 else 'seed'}. Full marks meet the SLO with every "
            "seed, hollow ones do not; a gap is a percentile that too few requests could carry.</p>",
            pictures_html(pictures),
            f"<h2>Every point</h2>{table_html(tuple(rows[0]), cells)}",
            f"<h2>Again</h2><pre>{html.escape(sweep.command)}</pre>"
            f'<p class="notes">gpuyard {__version__}</p>',
        ]
    )
    return page(title=f"Sweep: {sweep.question}", body=body, pictures=pictures)
