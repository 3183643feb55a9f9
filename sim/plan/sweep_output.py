"""A sweep as a table on the terminal, CSV, JSON, and a page with pictures."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from sim import __version__
from sim.plan.evaluate import Value
from sim.plan.sweep import Sweep, cheapest_meeting, table
from sim.plan.sweep_pictures import sweep_pictures
from sim.report.figures import digits, percent
from sim.report.page import page, pictures_html, table_html
from sim.units import format_s

MEETS = {True: "yes", False: "no", None: "-"}


def shown(name: str, value: Value) -> str:
    """A cell as a person reads it; the CSV keeps full precision."""
    if value is None:
        return "-" if name in ("meets_slo", "usd_per_hour") else "refused"
    if isinstance(value, bool):
        return MEETS[value]
    if isinstance(value, str):
        return value
    if name.endswith("_fraction"):
        return percent(value)
    if name.endswith("_s") and not name.endswith("_per_s"):
        return format_s(value)
    return digits(value)


def render_table(sweep: Sweep, metrics: Sequence[str]) -> str:
    """Aligned columns; a point that meets its SLO is marked with *, the cheapest of them with **."""
    rows = table(sweep, metrics)
    cheapest = cheapest_meeting(sweep.rows)
    lines = [["", *rows[0]]]
    for index, row in enumerate(rows):
        mark = "**" if index == cheapest else "*" if row["meets_slo"] is True else ""
        lines.append([mark, *(shown(name, value) for name, value in row.items())])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


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


def render_json(sweep: Sweep) -> str:
    """Every metric of every point."""
    cheapest = cheapest_meeting(sweep.rows)
    content = {
        "question": sweep.question,
        "command": sweep.command,
        "gpuyard": __version__,
        "over": list(sweep.keys),
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
