"""The fit report: a parity plot per device and operator (HTML), and errors by size (CSV)."""

from __future__ import annotations

import csv
import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from calibrate.kernel_fits import Validation
from calibrate.kernel_timings import KernelTimings
from calibrate.validation_table import validate
from sim.hardware.laws.device import Floats

MAX_POINTS = 1500  # of a plot, drawn with a fixed seed
COLUMNS = (
    "profile",
    "operator",
    "version",
    "size",
    "from",
    "to",
    "rows",
    "median_error",
    "p90_error",
    "bias",
)


def write_report(all_timings: Iterable[KernelTimings], folder: Path) -> list[Path]:
    """``kernels.html`` and ``errors_by_size.csv``, with the profiles' constants."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [one for timings in all_timings if (one := validate(timings, use_profiles=True)) is not None]
    page, table = folder / "kernels.html", folder / "errors_by_size.csv"
    page.write_text(page_of(found), encoding="utf-8")
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in found:
            writer.writerows(errors_by_size(one))
    return [page, table]


def errors_by_size(found: Validation) -> Iterator[tuple[object, ...]]:
    """Median, p90 and signed bias in powers of four of every size that varies, and of the time."""
    timings = found.timings
    ratio = found.predicted_s / timings.measured_s
    columns = {**timings.sizes, "time_us": timings.measured_s * 1e6}
    for name, values in columns.items():
        if len(np.unique(values)) < 2:
            continue
        octave = 2 * np.floor(np.log2(np.maximum(values, 1e-3)) / 2)
        for low in np.unique(octave):
            rows = (octave == low) & timings.is_checked
            if not rows.any():
                continue
            median, p90 = np.quantile(np.abs(ratio[rows] - 1), [0.5, 0.9])
            bias = float(np.median(ratio[rows])) - 1
            key = (timings.profile, timings.operator, timings.variant, name)
            errors = (f"{median:.4f}", f"{p90:.4f}", f"{bias:.4f}")
            yield (*key, f"{2.0**low:g}", f"{2.0 ** (low + 2):g}", int(rows.sum()), *errors)


def page_of(found: list[Validation]) -> str:
    """One self-contained page."""
    import plotly.io

    parts = ["<!doctype html><meta charset='utf-8'><title>Kernel prices: parity</title>"]
    parts.append("<h1>Kernel prices against measurements</h1>")
    parts.append(
        "<p>Time by the profile's law over the measured time. Dashed: equal, and a factor of 1.3.</p>"
    )
    for index, one in enumerate(found):
        median, p90 = one.median_and_p90
        timings = one.timings
        title = f"{timings.profile}: {timings.operator} {timings.variant}".strip()
        parts.append(f"<h2>{html.escape(title)}</h2>")
        errors = f"median error {median:.1%}, p90 {p90:.1%}"
        text = f"{int(timings.is_checked.sum()):,} timings, {errors}; {timings.what}"
        parts.append(f"<p>{html.escape(text)}</p>")
        figure = parity(one)
        parts.append(plotly.io.to_html(figure, full_html=False, include_plotlyjs=index == 0))
    return "\n".join(parts)


def parity(found: Validation) -> dict[str, object]:
    """Predicted over measured microseconds, on logarithmic axes."""
    checked = np.flatnonzero(found.timings.is_checked)
    drawn = np.random.default_rng(1).permutation(checked)[:MAX_POINTS]
    x, y = found.timings.measured_s[drawn] * 1e6, found.predicted_s[drawn] * 1e6
    points = scatter(x, y, name="timings", symbol="circle", color="#0072b2")
    layout = scatter_layout(x, "measured, µs", "by the law, µs")
    return {"data": [points], "layout": {**layout, "showlegend": False}}


def scatter(x: Floats, y: Floats, *, name: str, symbol: str, color: str) -> dict[str, object]:
    """One cloud of points."""
    marker = {"size": 4, "color": color, "symbol": symbol}
    return {"x": x.tolist(), "y": y.tolist(), "mode": "markers", "name": name, "marker": marker}


def scatter_layout(x: Floats, measured: str, predicted: str) -> dict[str, object]:
    """Logarithmic axes with the dashed lines of equal times and of a factor of 1.3."""
    ends = [float(x.min()), float(x.max())]
    dashed = {"type": "line", "line": {"dash": "dash", "color": "#888", "width": 1}}
    lines = [
        {**dashed, "x0": ends[0], "x1": ends[1], "y0": ends[0] * factor, "y1": ends[1] * factor}
        for factor in (1.0, 1.3, 1 / 1.3)
    ]
    axis = {"type": "log"}
    return {
        "width": 640,
        "height": 480,
        "shapes": lines,
        "xaxis": {**axis, "title": {"text": measured}},
        "yaxis": {**axis, "title": {"text": predicted}},
    }


def write_tables(
    folder: Path, tables: Mapping[str, tuple[Sequence[str], Iterable[Sequence[object]]]]
) -> None:
    """CSV files by name: columns, then rows."""
    for name, (columns, rows) in tables.items():
        with (folder / name).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
