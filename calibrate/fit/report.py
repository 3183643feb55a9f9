"""The parity report of a fit: one HTML page, and its tables as CSV.

Dots are shapes that the fit has seen, diamonds those that it has not. *Calibrated is not validated*: the
errors that count are those of the diamonds, and of whole decode steps.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from calibrate.fit.checks import Check, StepParity, kernel_checks, step_checks, step_parity
from calibrate.fit.constants import Constant
from calibrate.fit.fitting import DeviceFit, OperatorFit, validations
from calibrate.fit.profile import number
from calibrate.fit_report import errors_by_size, scatter, scatter_layout, write_tables
from sim.hardware import HardwareProfile

NOTABLE = 0.10  # a constant that differs by more from the shipped one is marked
ERROR_COLUMNS = (
    "which", "profile", "operator", "version", "size", "from", "to", "rows",
    "median_error", "p90_error", "bias",
)  # fmt: skip
ROW_COLUMNS = ("operator", "sizes", "is_held_out", "measured_s", "fitted_s", "shipped_s")
CONSTANT_COLUMNS = ("constant", "field", "value", "unit", "shipped", "difference", "spread", "source")
CHECK_COLUMNS = ("check", "size", "reached", "at_least", "at_most", "met")
STEP_COLUMNS = ("num_seqs", "context_tokens", "measured_s", "priced_s", "error")


def write_parity(found: DeviceFit, fitted: HardwareProfile, folder: Path) -> list[Path]:
    """``parity.html`` and five CSV files; ``fitted`` is the profile that the fit has given."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = step_parity(found.measured, fitted)
    checks = [*kernel_checks(found.measured, fitted), *step_checks(steps)]
    tables = {
        "parity.csv": (ROW_COLUMNS, [row for one in found.operators for row in parity_rows(one)]),
        "errors_by_size.csv": (ERROR_COLUMNS, error_rows(found)),
        "constants.csv": (CONSTANT_COLUMNS, [constant_row(one) for one in found.constants]),
        "checks.csv": (CHECK_COLUMNS, [check_row(one) for one in checks]),
        "steps.csv": (STEP_COLUMNS, [step_row(one) for one in steps]),
    }
    write_tables(folder, tables)
    page = folder / "parity.html"
    page.write_text(page_of(found, checks, steps), encoding="utf-8")
    return [page, *(folder / name for name in tables)]


def parity_rows(one: OperatorFit) -> Iterable[Sequence[object]]:
    """Every shape: measured, by the fitted law, and by the base profile's constants."""
    sizes = one.timings.sizes
    for index, measured_s in enumerate(one.timings.measured_s):
        text = " ".join(f"{name}={values[index]:g}" for name, values in sizes.items())
        shipped = "" if one.shipped_s is None else f"{one.shipped_s[index]:.6g}"
        held_out = int(one.held_out[index])
        yield (
            one.timings.operator,
            text,
            held_out,
            f"{measured_s:.6g}",
            f"{one.predicted_s[index]:.6g}",
            shipped,
        )


def error_rows(found: DeviceFit) -> list[Sequence[object]]:
    """Held-out shapes by the fit, all shapes by the shipped constants; by size."""
    return [(which, *row) for which, one in validations(found) for row in errors_by_size(one)]


def constant_row(one: Constant) -> Sequence[object]:
    """One constant beside the shipped one."""
    difference = "" if one.over_shipped is None else f"{one.over_shipped:+.3f}"
    shipped = "" if one.shipped is None else f"{one.shipped:.6g}"
    return one.name, one.key, f"{one.value:.6g}", one.unit, shipped, difference, one.spread, one.source


def check_row(one: Check) -> Sequence[object]:
    """One check with its bounds."""
    is_asked = one.least is not None or one.most is not None
    met = ("yes" if one.is_met else "no") if is_asked else ""
    bounds = ["" if bound is None else f"{bound:g}" for bound in (one.least, one.most)]
    return one.name, one.size, f"{one.reached:.4f}", *bounds, met


def step_row(one: StepParity) -> Sequence[object]:
    """One decode step."""
    error = f"{one.priced_s / one.measured_s - 1.0:+.4f}"
    return one.num_seqs, one.context_tokens, f"{one.measured_s:.6g}", f"{one.priced_s:.6g}", error


STYLE = (
    "body{font:15px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}"
    "td,th{padding:.2em .7em;text-align:left;border-bottom:1px solid #ddd}"
)


def page_of(found: DeviceFit, checks: list[Check], steps: list[StepParity]) -> str:
    """One self-contained page."""
    import plotly.io

    title = f"{found.base.name}: prices fitted to measurements on this device"
    parts = [f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title>"]
    parts.append(f"<style>{STYLE}</style>")
    parts.append(f"<h1>{html.escape(title)}</h1>")
    points = f"{len(found.measured.rows)} timed points, {found.measured.num_refused} refused"
    parts.append(f"<p>{points}; kernels by: {html.escape(found.choice)}.</p>")
    parts.append("<p>Every fifth shape was held out of the fit.</p>")
    parts += [f"<p>As in the base profile: {html.escape(reason)}.</p>" for reason in found.kept]
    parts += [
        "<h2>Operators</h2>",
        html_table(OPERATOR_HEAD, [operator_cells(one) for one in found.operators]),
    ]
    parts += [
        "<h2>Constants of the device</h2>",
        html_table(CONSTANT_HEAD, list(map(constant_cells, found.constants))),
    ]
    parts.append(f"<p>*: differs from the shipped one by more than {NOTABLE:.0%}.</p>")
    if checks:
        rows = [tuple(map(str, check_row(one))) for one in checks]
        parts += ["<h2>Checks</h2>", html_table(CHECK_COLUMNS, rows)]
    figures = [(f"{one.timings.operator}: by the law over measured", parity(one)) for one in found.operators]
    figures += [("Decode steps: priced over measured", step_figure(steps))] if steps else []
    for index, (head, figure) in enumerate(figures):
        parts.append(f"<h2>{html.escape(head)}</h2>")
        parts.append(plotly.io.to_html(figure, full_html=False, include_plotlyjs=index == 0))
    return "\n".join(parts)


OPERATOR_HEAD = (
    "operator",
    "shapes",
    "fitted: median",
    "p90",
    "held out: median",
    "p90",
    "shipped: median",
    "p90",
)
CONSTANT_HEAD = ("constant", "measured", "shipped", "difference", "spread")


def operator_cells(one: OperatorFit) -> tuple[str, ...]:
    """Errors on fitted and on held-out shapes, and the shipped constants' on all."""
    all_rows = np.ones(len(one.held_out), dtype=bool)
    groups = [one.errors(~one.held_out, one.predicted_s), one.errors(one.held_out, one.predicted_s)]
    groups.append(None if one.shipped_s is None else one.errors(all_rows, one.shipped_s))
    cells = [f"{value:.1%}" if both else "none" for both in groups for value in (both or (0.0, 0.0))]
    return one.timings.operator, str(len(one.held_out)), *cells


def constant_cells(one: Constant) -> tuple[str, ...]:
    """With a star where it is far from the shipped one."""
    over = one.over_shipped
    difference = "" if over is None else f"{over:+.1%}{' *' if abs(over) > NOTABLE else ''}"
    shipped = "unknown" if one.shipped is None else f"{one.shipped:.4g} {one.unit}"
    return one.name, number(one), shipped, difference, one.spread


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table."""
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def parity(one: OperatorFit) -> dict[str, object]:
    """Fitted shapes as dots, held-out ones as diamonds."""
    x, y = one.timings.measured_s * 1e6, one.predicted_s * 1e6
    groups = (
        ("fitted", ~one.held_out, "circle", "#0072b2"),
        ("held out", one.held_out, "diamond", "#d55e00"),
    )
    traces = [
        scatter(x[rows], y[rows], name=name, symbol=symbol, color=color)
        for name, rows, symbol, color in groups
    ]
    return {"data": traces, "layout": scatter_layout(x, "measured, µs", "by the law, µs")}


def step_figure(steps: list[StepParity]) -> dict[str, object]:
    """Milliseconds of whole decode steps."""
    x = np.array([one.measured_s for one in steps]) * 1e3
    y = np.array([one.priced_s for one in steps]) * 1e3
    return {
        "data": [scatter(x, y, name="decode step", symbol="circle", color="#0072b2")],
        "layout": scatter_layout(x, "measured, ms", "priced, ms"),
    }
