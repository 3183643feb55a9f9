"""Pictures as data for the report and the terminal: axes, inks, lanes, sparklines."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.arrays import Float64, Int64
from sim.scenario.dataclass import dataclass
from sim.units import format_s

Trace = dict[str, Any]


Row = tuple[str | int | float | None, ...]


seconds = format_s


# Okabe and Ito's colour-blind safe palette, darkened on white and lightened on black until every line
# stands out (at least 3:1). Variants also differ by dash, for print.
INKS: Mapping[str, Mapping[str, str]] = {
    "light": {
        "paper": "#ffffff", "text": "#24292f", "muted": "#6a737d", "grid": "#e3e6ea",
        "v0": "#0072b2", "v1": "#d55e00", "v2": "#00875f", "v3": "#b4558f",
        "v4": "#b07800", "v5": "#3d3d99", "v6": "#1b95c9", "v7": "#7a7a7a",
        "tokens": "#0072b2", "reserved": "#7fc4ec", "internal": "#e69f00", "external": "#d55e00",
        "free": "#e9ecef", "waits": "#a9b3bd", "limit": "#9a2a2a", "shared": "#24292f", "cached": "#d9c99c",
    },
    "dark": {
        "paper": "#14181d", "text": "#dfe4ea", "muted": "#9aa5b1", "grid": "#2c343d",
        "v0": "#4aa8e0", "v1": "#f08a45", "v2": "#35c296", "v3": "#e08fc0",
        "v4": "#e6b84d", "v5": "#9d9df0", "v6": "#7fd0f0", "v7": "#a8a8a8",
        "tokens": "#2f8fcb", "reserved": "#8fd0f5", "internal": "#e6ab2e", "external": "#e8703a",
        "free": "#2a3038", "waits": "#6b7683", "limit": "#ff8f8f", "shared": "#ffffff", "cached": "#6e6244",
    },
}  # fmt: skip


MAX_TICKS = 9
MIN_TICKS = 3
SEEN_FROM = 0.004  # of the widest bar: less is no pixel, and a name in the legend that nobody finds
WRITTEN_FROM = 0.08  # of the widest bar: a narrower part has no room for its name


DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One figure of the report.

    ``reading`` says in a sentence what the numbers show; ``header`` and ``rows`` are those numbers (the
    CSV); ``sketch`` is a figure that decides, in text, for Markdown. ``frames`` are plotly's, for a slider.
    """

    key: str
    title: str
    reading: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any]
    header: tuple[str, ...]
    rows: Sequence[Row]
    sketch: str = ""
    height_px: int = 360
    group: str = ""
    frames: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How one variant looks in every figure: its place gives its colour and dash."""

    name: str
    index: int
    label: str = field(default="")

    @property
    def color(self) -> str:
        """The variant's ink."""
        return f"@v{self.index % 8}"

    @property
    def dash(self) -> str:
        """The variant's dash, so that colour is never the only sign."""
        return DASHES[self.index % len(DASHES)]


def lanes(names: Sequence[str]) -> list[Lane]:
    """A lane per variant, in the file's order."""
    return [Lane(name=name, index=index, label=plain(name)) for index, name in enumerate(names)]


def plain(text: str) -> str:
    """``text`` as plotly shows it literally: plotly reads a little HTML in its labels."""
    return html.escape(text, quote=False)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis in the house style."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": "@grid",
        "zerolinecolor": "@grid",
        "linecolor": "@muted",
        "tickcolor": "@muted",
        "automargin": True,
        "ticks": "outside",
        "ticklen": 4,
        **more,
    }


def seconds_axis(title: str, top_s: float, **more: Any) -> dict[str, Any]:
    """An axis of seconds up to ``top_s``: below a second its ticks read 2ms or 50µs."""
    short = {"tickformat": "~s", "ticksuffix": "s", "hoverformat": ".3s"} if top_s < 1 else {}
    return axis(title if short else f"{title} (s)", rangemode="tozero", **(short | more))


def round_ticks(
    low: float, high: float, named: Callable[[float], str] = lambda value: f"{value:,.12g}"
) -> dict[str, Any]:
    """A logarithmic axis with few ticks, each with its whole number: at 1, else at 1 and 3, 1, 2 and 5, ...

    Over many decades at every second or third; plotly chooses where even 1 to 9 are too few.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1, 1 + (last - first) // MAX_TICKS)
    for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        values = [step * 10.0**power for power in decades for step in steps]
        if sum(low <= value <= high for value in values) >= MIN_TICKS:
            return {"type": "log", "tickvals": values, "ticktext": [named(value) for value in values]}
    return {"type": "log"}


def layout(x: Mapping[str, Any], y: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A figure's layout: a transparent background, the legend above the plot and never over the marks."""
    return {
        "xaxis": dict(x),
        "yaxis": dict(y),
        "paper_bgcolor": "@paper",
        "plot_bgcolor": "@paper",
        "font": {"color": "@text", "size": 13, "family": "system-ui, sans-serif"},
        "margin": {"l": 48, "r": 40, "t": 34, "b": 44},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"},
        "hoverlabel": {"font": {"size": 12}, "namelength": -1},
        "uniformtext": {"minsize": 10, "mode": "hide"},  # what has no room in its bar is not written
        # The tool bar stands in the right margin, where neither marks nor legend are.
        "modebar": {"orientation": "v", "bgcolor": "@paper", "color": "@muted", "activecolor": "@text"},
        **more,
    }


def stacked_bars(
    parts: Mapping[str, tuple[str, Sequence[float]]], labels: Sequence[str], unit: str
) -> list[Trace]:
    """Horizontal bars, one per label: (ink, values) by part; what has room carries its name."""
    sums = [sum(values) for values in zip(*(values for _, values in parts.values()), strict=True)]
    widest = max(sums, default=0.0)
    return [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(part),
            "y": list(labels),
            "x": list(values),
            "marker": {"color": f"@{ink}", "line": {"color": "@paper", "width": 1}},
            "text": [plain(part) if value >= WRITTEN_FROM * widest else "" for value in values],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "textangle": 0,
            "hovertemplate": f"%{{y}}: {plain(part)} %{{x:.4~s}}{unit}<extra></extra>",
        }
        for part, (ink, values) in parts.items()
        if any(value >= SEEN_FROM * widest for value in values) and any(values)
    ]


def bars_layout(x: Mapping[str, Any]) -> dict[str, Any]:
    """The layout of ``stacked_bars``: the first label on top, the legend in the order of the parts."""
    shown = layout(x, axis("", autorange="reversed", type="category"), barmode="stack", bargap=0.35)
    shown["legend"]["traceorder"] = "normal"
    return shown


# As many points stand side by side in a figure of half a page.
SCREEN_COLUMNS = 300


def thinned(x: Float64, y: Float64, columns: int = SCREEN_COLUMNS) -> Int64:
    """The points of a line that a screen can show, as indices: the extremes of every column of pixels.

    The first and the last point stay, and so do the lowest and the highest of all. ``x`` does not fall.
    """
    if x.size <= 2 * columns + 2:
        return np.arange(x.size)
    width = (float(x[-1]) - float(x[0])) / columns or 1.0
    column = np.minimum((x - x[0]) // width, columns - 1)
    order = np.lexsort((y, column))
    ends = np.flatnonzero(np.diff(column[order], prepend=-1, append=columns))
    both_ends = np.array([0, x.size - 1])
    kept = np.concatenate([both_ends, order[ends[:-1]], order[ends[1:] - 1]])
    return np.asarray(np.unique(kept), dtype=np.int64)


def in_runs(grid: npt.NDArray[np.integer[Any]]) -> dict[str, Any]:
    """A map's cells as (value, how often) row after row: a picture of bars and bands is mostly repetition."""
    flat = grid.ravel()
    ends = np.append(np.flatnonzero(np.diff(flat)) + 1, flat.size)
    lengths = np.diff(ends, prepend=0)
    pairs = np.column_stack([flat[ends - 1], lengths])
    return {"runs": pairs.ravel().tolist(), "columns": grid.shape[1]}


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis of seconds that reads 10 ms, 1 s, 100 s."""
    return round_ticks(low, high, lambda value: _tick(value, {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}))


def byte_ticks(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis of bytes that reads 30 MB, 1 GB."""
    units = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0}
    return round_ticks(low, high, lambda value: _tick(value, units))


def _tick(value: float, units: Mapping[str, float]) -> str:
    """A round number in the largest unit of which it is one at least, "20 ms"; units fall."""
    unit, size = next((one for one in units.items() if value >= 0.999 * one[1]), list(units.items())[-1])
    return f"{value / size:,.6g} {unit}"


def digits(value: float, count: int = 3) -> str:
    """``value`` with ``count`` significant digits, thousands separated, no exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, count - 1 - math.floor(math.log10(abs(value))))
    shown = f"{value:,.{min(decimals, 9)}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def percent(fraction: float) -> str:
    """A share as a percentage: three digits at most, ``< 0.1 %`` rather than a false zero."""
    if 0 < fraction < 0.001:
        return "< 0.1 %"
    return f"{100 * fraction:.0f} %" if 0.9995 > fraction >= 0.1 else f"{digits(100 * fraction)} %"


LEVELS = " ▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float] | Float64, top: float) -> str:
    """One character per value, its height the share of ``top``; anything above zero shows."""
    if top <= 0:
        return LEVELS[0] * len(values)
    steps = len(LEVELS) - 1
    return "".join(LEVELS[min(steps, math.ceil(max(0.0, value) / top * steps))] for value in values)


def cdf_sketch(samples: Mapping[str, Float64], metric: str, width: int = 60) -> str:
    """Cumulative distributions, a line per variant: the height is the share within the time above it."""
    values = [sample for sample in samples.values() if sample.size]
    if not values:
        return ""
    low = max(min(float(np.quantile(sample, 0.001)) for sample in values), 1e-6)
    high = max(max(float(sample.max()) for sample in values), low * 1.01)
    grid = np.geomspace(low, high, width)
    margin = max(len(name) for name in samples)
    left, middle, right = (seconds(float(grid[i])) for i in (0, width // 2, width - 1))
    gap = width // 2 - len(left)
    ruler = f"{left}{middle:>{gap + len(middle)}}"
    lines = [f"{'':{margin}}  {ruler}{right:>{max(1, width - len(ruler))}}   {metric}, log scale"]
    for name, sample in samples.items():
        shares = np.searchsorted(np.sort(sample), grid, side="right") / max(1, sample.size)
        lines.append(f"{name:{margin}}  {sparkline(shares, 1.0)}")
    return "\n".join(lines)
