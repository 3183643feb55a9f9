"""Pictures of request times and of KV memory by kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Float64
from sim.report.figures import (
    SEEN_FROM,
    Lane,
    Picture,
    Row,
    Trace,
    axis,
    bars_layout,
    cdf_sketch,
    digits,
    layout,
    log_ticks,
    percent,
    seconds,
    seconds_axis,
)
from sim.serving.record_statistics import request_times
from sim.serving.records import FINISHED, RequestColumns, RunResult
from sim.serving.usage import KV_KINDS

if TYPE_CHECKING:
    from sim.results.comparison import Comparison

# Every hundredth, and finer where the tail is; p50, p90, p95, p99 and p99.9 are among them.
SHARES = np.concatenate([np.linspace(0, 0.98, 98, endpoint=False), np.linspace(0.98, 1, 41)])


ARRIVAL_BINS = 120


SLO_SHOWN_WITHIN = 2.0  # times the slowest request


MEANINGS = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "e2e_s": "time to last token",
}


def latency_s(requests: RequestColumns, metric: str, chosen: npt.NDArray[np.bool_]) -> Float64:
    """``metric`` of the chosen requests that have it, in seconds."""
    times = request_times(requests)
    every = {"ttft_s": times.ttft, "tpot_s": times.tpot, "e2e_s": times.e2e}[metric][chosen]
    return np.asarray(every[every >= 0] / PS_PER_S, dtype=np.float64)


def counted(requests: RequestColumns) -> npt.NDArray[np.bool_]:
    """Requests that finished, outside warm-up."""
    return np.asarray(requests.is_measured & (requests.status == FINISHED))


def pooled(results: Sequence[RunResult], metric: str) -> Float64:
    """``metric`` over all seeds, sorted."""
    parts = [latency_s(run.requests, metric, counted(run.requests)) for run in results]
    return np.sort(np.concatenate(parts)) if parts else np.empty(0)


def cdf_picture(
    results: Mapping[str, Sequence[RunResult]], lanes: Sequence[Lane], metric: str, slo_s: float | None
) -> Picture | None:
    """The cumulative distribution of ``metric``, by variant; None where nobody has a value."""
    pools = {lane: pooled(results[lane.name], metric) for lane in lanes}
    samples = {lane: pool for lane, pool in pools.items() if pool.size}
    if not samples:
        return None
    shares = _shares(max(sample.size for sample in samples.values()))
    quantiles = {lane: np.quantile(sample, shares) for lane, sample in samples.items()}
    longest = max(float(values[-1]) for values in quantiles.values())
    # Far beyond the slowest request, the SLO would push the curves into a corner: it is said instead.
    is_near = slo_s is not None and slo_s <= SLO_SHOWN_WITHIN * longest
    shown = layout(
        _time_axis(
            list(quantiles.values()),
            metric,
            bulk_s=max(float(np.quantile(sample, 0.99)) for sample in samples.values()),
        ),
        axis("share of finished requests", range=[0, 1.01], tickformat=".0%"),
    )
    rows: list[Row] = [
        (float(share), *(float(values[i]) for values in quantiles.values())) for i, share in enumerate(shares)
    ]
    named = {lane.name: sample for lane, sample in samples.items()}
    return Picture(
        key=f"cdf_{metric}",
        title=f"{metric}: {MEANINGS[metric]}",
        group="latency",
        reading=_cdf_reading(named, slo_s, is_marked=is_near) + _thinned(named),
        traces=[_curve(lane, values, shares) for lane, values in quantiles.items()],
        layout=shown | (_slo_mark(slo_s) if slo_s is not None and is_near else {}),
        header=("share", *(f"{lane.name} {metric}" for lane in quantiles)),
        rows=rows,
        sketch=cdf_sketch(named, metric),
    )


_FIRST_TOKEN = ("p99_ttft_s", "p90_ttft_s", "p50_ttft_s")


def hits_picture(comparison: Comparison, lanes: Sequence[Lane]) -> Picture | None:
    """What each variant finds in its prefix cache, beside what that leaves to wait; None without hits."""
    cells = {lane.name: comparison.cells[lane.name] for lane in lanes}
    hits = [cell["prefix_hit_fraction"].mean for cell in cells.values()]
    known = [key for key in _FIRST_TOKEN if all(cell[key].mean is not None for cell in cells.values())]
    if len(lanes) < 2 or not any(hits) or not known:
        return None
    metric = comparison.kind.metrics[known[0]]
    times = [cell[metric.name].mean or 0.0 for cell in cells.values()]
    found = [hit or 0.0 for hit in hits]
    pairs = list(zip(lanes, found, times, strict=True))
    written = {"showticklabels": False, "ticks": ""}  # every bar carries its value
    shown = bars_layout(axis("prefix hits", range=[0, 1], domain=[0, 0.47], **written))
    waits = axis(metric.label, range=[0, 1.25 * max(times)], domain=[0.53, 1], anchor="y", **written)
    return Picture(
        key="hits-and-ttft",
        title=f"Prefix hits and {metric.label}",
        reading="; ".join(f"{lane.name}: {percent(hit)} cached, {seconds(time)}" for lane, hit, time in pairs)
        + ".",
        traces=[
            _bars(lanes, (found, [percent(hit) for hit in found]), "v0", "x"),
            _bars(lanes, (times, [seconds(time) for time in times]), "v1", "x2"),
        ],
        layout=shown | {"xaxis2": waits, "showlegend": False},
        header=("variant", "prefix_hit_fraction", metric.name),
        rows=[(lane.name, hit, time) for lane, hit, time in pairs],
        height_px=150 + 44 * len(lanes),
    )


def _bars(lanes: Sequence[Lane], values: tuple[Sequence[float], Sequence[str]], ink: str, axis: str) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "xaxis": axis,
        "y": [lane.label for lane in lanes],
        "x": list(values[0]),
        "text": list(values[1]),
        "textposition": "auto",
        "cliponaxis": False,
        "marker": {"color": f"@{ink}"},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }


def _thinned(samples: Mapping[str, Float64]) -> str:
    most = max(sample.size for sample in samples.values())
    return f" Of {most:,} requests {SHARES.size} quantiles are drawn." if most > SHARES.size else ""


def _curve(lane: Lane, quantiles: Float64, shares: Float64) -> Trace:
    """One variant's distribution."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": lane.label,
        "x": [round(float(x), 9) for x in quantiles],
        "y": shares.round(6).tolist(),
        "line": {"color": lane.color, "dash": lane.dash, "width": 2.5},
        "hovertemplate": "%{y:.1%} within %{x:.4g} s<extra>" + lane.label + "</extra>",
    }


def _shares(count: int) -> Float64:
    """Shares at which to draw: every request of few, ``SHARES`` of many."""
    return np.linspace(0, 1, max(count, 2)) if count <= SHARES.size else SHARES


def _time_axis(values: Sequence[Float64], title: str, *, bulk_s: float | None = None) -> dict[str, object]:
    """Seconds: logarithmic where they span more than a factor of 30.

    Also where all but a few, those up to ``bulk_s``, would be pressed into the left half.
    """
    # From the first hundredth: a few short ones would leave the left half of the picture empty.
    low = min(float(np.quantile(part, 0.01)) for part in values)
    high = max(float(part.max()) for part in values)
    has_long_tail = bulk_s is not None and high > 2 * bulk_s
    if low > 0 and (high > 30 * low or has_long_tail):
        shown = [math.log10(low / 1.1), math.log10(high * 1.1)]
        return axis(title, **log_ticks(low, high), range=shown)
    return seconds_axis(title, high)


def _slo_mark(slo_s: float) -> dict[str, object]:
    """A vertical line at the SLO; the picture's text says what it is."""
    line = {"color": "@limit", "width": 1.5, "dash": "dot"}
    return {
        "shapes": [
            {"type": "line", "x0": slo_s, "x1": slo_s, "yref": "paper", "y0": 0, "y1": 1, "line": line}
        ],
    }


def _cdf_reading(samples: Mapping[str, Float64], slo_s: float | None, *, is_marked: bool) -> str:
    """Medians, and the share within the SLO (or the 99th percentile) per variant."""
    parts = []
    for name, sample in samples.items():
        median = seconds(float(np.median(sample)))
        if slo_s is not None:
            within = float(np.searchsorted(sample, slo_s, side="right")) / sample.size
            parts.append(f"{name}: half within {median}, {digits(100 * within)} % within the SLO")
        elif sample.size >= 1000:
            parts.append(
                f"{name}: half within {median}, 99 % within {seconds(float(np.quantile(sample, 0.99)))}"
            )
        else:
            parts.append(
                f"{name}: half within {median}, 90 % within {seconds(float(np.quantile(sample, 0.9)))}"
            )
    limit = "The dotted line is the SLO" if is_marked else "Beyond the picture is the SLO"
    return "; ".join(parts) + "." + (f" {limit}, {seconds(slo_s)}." if slo_s is not None else "")


def arrival_picture(results: Mapping[str, Sequence[RunResult]], lanes: Sequence[Lane]) -> Picture | None:
    """Median TTFT against arrival time, first seed; None where it does not grow (no overload to see)."""
    curves = {lane.name: _by_arrival(results[lane.name][0].requests) for lane in lanes}
    growth = {name: _growth(curve[1]) for name, curve in curves.items() if _spreads_out(curve)}
    if not growth or max(growth.values()) < 2:
        return None
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": lane.label,
            "x": curves[lane.name][0].round(3).tolist(),
            "y": curves[lane.name][1].round(6).tolist(),
            "line": {"color": lane.color, "dash": lane.dash, "width": 2},
        }
        for lane in lanes
    ]
    worst = max(growth, key=lambda name: growth[name])
    steady = [name for name, factor in growth.items() if factor < 1.5]
    times = digits(growth[worst], 2)
    reading = f"{worst}: the median of the last quarter of arrivals is {times} times the first quarter's"
    reading += f"; {', '.join(steady)} does not grow." if steady else "."
    rows: list[Row] = [
        (name, float(time), float(value))
        for name, curve in curves.items()
        for time, value in zip(*curve, strict=True)
    ]
    positive = [curve[1] for curve in curves.values() if curve[1].size]
    return Picture(
        key="ttft_by_arrival",
        title="ttft_s by time of arrival (first seed)",
        reading=reading,
        traces=traces,
        layout=layout(
            axis("time of arrival (s)"), _time_axis([np.sort(p) for p in positive], "median ttft_s")
        ),
        header=("variant", "arrival_s", "median_ttft_s"),
        rows=rows,
    )


def _by_arrival(requests: RequestColumns) -> tuple[Float64, Float64]:
    """(mid times, median TTFT) over bins of arrival time."""
    chosen = requests.status == FINISHED
    order = np.argsort(requests.arrival_ps[chosen], kind="stable")
    arrival = (requests.arrival_ps[chosen] / PS_PER_S)[order]
    ttft = latency_s(requests, "ttft_s", chosen)[order]
    parts = [part for part in np.array_split(np.arange(arrival.size), ARRIVAL_BINS) if part.size]
    times = np.array([arrival[part].mean() for part in parts], dtype=np.float64)
    return times, np.array([np.median(ttft[part]) for part in parts], dtype=np.float64)


def _spreads_out(curve: tuple[Float64, Float64]) -> bool:
    """False where all came at once, or too few to speak of a trend."""
    return curve[0].size >= 8 and float(curve[0][-1]) > float(curve[0][0])


def _growth(medians: Float64) -> float:
    """Last quarter's median over the first quarter's."""
    quarter = max(1, medians.size // 4)
    first = float(np.median(medians[:quarter]))
    return float(np.median(medians[-quarter:])) / first if first > 0 else 1.0


KV_MEANINGS = {
    "tokens": "hold a token",
    "reserved": "not yet used, but this request will use it",
    "internal": "requested beyond the request's final length, or the rest of its last block",
    "external": "the allocator's rounding, and free memory too fragmented for the head of the queue",
    "free": "free",
}


def kv_fractions(result: RunResult) -> dict[str, float]:
    """Shares of the KV budget by kind, averaged over the window; what is left is free."""
    whole = result.window_ps[1] - result.window_ps[0]
    budget = result.kv_budget_tokens * max(1, result.scenario.replicas) * whole
    if budget <= 0:
        return dict.fromkeys(KV_KINDS, 0.0) | {"free": 1.0}
    shares = {kind: int(result.kv_time_tokens_ps.get(kind, 0)) / budget for kind in KV_KINDS}
    return shares | {"free": max(0.0, 1 - sum(shares.values()))}


def mean_kv_fractions(results: Sequence[RunResult]) -> dict[str, float]:
    """The same, averaged over seeds."""
    runs = [kv_fractions(result) for result in results]
    return {kind: sum(run[kind] for run in runs) / len(runs) for kind in KV_MEANINGS}


def kv_picture(results: Mapping[str, Sequence[RunResult]], lanes: Sequence[Lane]) -> Picture:
    """A stacked bar per variant."""
    shares = {lane.name: mean_kv_fractions(results[lane.name]) for lane in lanes}
    labels = [lane.label for lane in lanes]
    traces: list[Trace] = [
        _bar(kind, labels, [shares[lane.name][kind] for lane in lanes])
        for kind in KV_MEANINGS
        if any(share[kind] > SEEN_FROM for share in shares.values())
    ]
    shown = bars_layout(axis("share of the KV budget", range=[0, 1], tickformat=".0%", dtick=0.2))
    rows: list[Row] = [(lane.name, *(shares[lane.name][kind] for kind in KV_MEANINGS)) for lane in lanes]
    return Picture(
        key="kv_budget",
        title="Where the KV budget goes",
        reading=_reading(shares),
        traces=traces,
        layout=shown,
        header=("variant", *(f"kv_{kind}_fraction" for kind in KV_MEANINGS)),
        rows=rows,
        sketch=_sketch(shares),
        height_px=140 + 52 * len(lanes),
    )


def _bar(kind: str, labels: Sequence[str], values: Sequence[float]) -> Trace:
    """One kind's part of every bar, its share written inside where there is room."""
    return {
        "type": "bar",
        "orientation": "h",
        "name": kind,
        "y": list(labels),
        "x": [round(x, 6) for x in values],
        "marker": {"color": f"@{kind}", "line": {"color": "@paper", "width": 1}},
        "text": [percent(x) if x >= 0.06 else "" for x in values],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "hovertemplate": "%{y}: %{x:.1%} " + KV_MEANINGS[kind] + "<extra></extra>",
    }


def _reading(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Who holds how many tokens, and the largest waste of each."""
    parts = []
    for name, share in shares.items():
        waste = max(KV_KINDS[1:], key=lambda kind: share[kind])
        tail = f"largest waste: {waste}, {percent(share[waste])}" if share[waste] > 0 else "nothing wasted"
        parts.append(
            f"{name}: {percent(share['tokens'])} holds tokens ({tail}, {percent(share['free'])} free)"
        )
    kinds = "; ".join(f"{kind}: {KV_MEANINGS[kind]}" for kind in KV_KINDS)
    return "; ".join(parts) + f". Of the budget, {kinds}."


def _sketch(shares: Mapping[str, Mapping[str, float]], width: int = 50) -> str:
    """Bars of letters: T tokens, r reserved, i internal, x external, dots free."""
    letters = {"tokens": "T", "reserved": "r", "internal": "i", "external": "x"}
    margin = max(len(name) for name in shares)
    lines = []
    for name, share in shares.items():
        bar = "".join(letters[kind] * round(share[kind] * width) for kind in letters)
        lines.append(f"{name:{margin}}  |{bar[:width]:.<{width}}|")
    return "\n".join([*lines, f"{'':{margin}}   T tokens, r reserved, i internal, x external, . free"])
