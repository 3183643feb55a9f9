"""Pictures of a run over time: load, batch, KV memory, and where step time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Float64
from sim.report.figures import (
    MAX_TICKS,
    SCREEN_COLUMNS,
    SEEN_FROM,
    Lane,
    Picture,
    Row,
    Trace,
    axis,
    bars_layout,
    digits,
    layout,
    percent,
    seconds,
    seconds_axis,
    stacked_bars,
)
from sim.scenario.dataclass import dataclass
from sim.serving.records import RunResult, SegmentColumns


def has_kv(result: RunResult) -> bool:
    """False where there is no KV memory to look at: a drawn service time, no KV cache, no budget."""
    return result.scenario.engine.has_kv_budget and result.kv_budget_tokens > 0


MAX_BINS = SCREEN_COLUMNS
PAGE_BINS = 4 * MAX_BINS  # of all pictures together: many variants share a row of the page


WAITS_FROM = 0.5  # requests in the queue, on average over a bin


SMALL_PART = 0.5  # what fills less of a picture gets a scale of its own


KINDS = ("tokens", "reserved", "internal", "external")


LEVELS = ("running", "waiting", *KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Averages over time bins, all replicas together; KV in tokens."""

    time_s: Float64  # middle of each bin
    width_s: float
    levels: Mapping[str, Float64]
    capacity_tokens: int

    @property
    def shown_tokens(self) -> float:
        """Up to where KV is drawn: its capacity, or what is held at most where that is a small part."""
        held = sum((self.levels[kind] for kind in KINDS), np.zeros(1))
        peak = float(held.max())
        return peak if 0 < peak < SMALL_PART * self.capacity_tokens else float(self.capacity_tokens)


def load_over_time(result: RunResult, bins: int = MAX_BINS) -> Load:
    """Time-weighted averages in ``bins`` equal bins from the start to the last step's end.

    Within a segment tokens grow evenly, taken from what was reserved where something was; other levels are at
    their mean. Between segments (an idle engine) every level is zero.
    """
    segments = result.segments
    ends = segments.end_ps
    last = int(ends.max(initial=1))
    edges = np.linspace(0, last, bins + 1)
    replicas = np.unique(segments.replica)
    levels = {}
    values = _mean_levels(segments)
    slopes = {"tokens": segments.num_decode * segments.num_steps / 2.0}
    for name in LEVELS:
        total = np.zeros(bins)
        for replica in replicas:
            mine = segments.replica == replica
            rise = slopes[name][mine] if name in slopes else np.zeros(int(mine.sum()))
            total += _binned(segments.start_ps[mine], ends[mine], values[name][mine], rise, edges)
        levels[name] = total
    middle = (edges[:-1] + edges[1:]) / 2 / PS_PER_S
    capacity = result.kv_budget_tokens * max(1, result.scenario.replicas) if has_kv(result) else 0
    return Load(time_s=middle, width_s=last / bins / PS_PER_S, levels=levels, capacity_tokens=capacity)


def _mean_levels(segments: SegmentColumns) -> dict[str, Float64]:
    """Each level's mean over its segment. New tokens fill what was reserved, or the rest of the blocks."""
    grown = segments.num_decode * (segments.num_steps - 1) / 2
    from_reserved = np.minimum(grown, segments.kv_reserved)
    internal = segments.kv_internal - (grown - from_reserved)
    if segments.kv_grown_tokens_ps is not None:  # blocks that were added × time
        internal = internal + np.asarray(
            segments.kv_grown_tokens_ps / np.maximum(segments.duration_ps, 1), float
        )
    return {
        "running": segments.num_running.astype(np.float64),
        "waiting": segments.num_waiting.astype(np.float64),
        "tokens": np.asarray(segments.kv_tokens + grown, dtype=np.float64),
        "reserved": np.asarray(segments.kv_reserved - from_reserved, dtype=np.float64),
        "internal": np.asarray(internal, dtype=np.float64),
        "external": segments.kv_external.astype(np.float64),
    }


def _binned(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], means: Float64, rises: Float64, edges: Float64
) -> Float64:
    """The mean over each bin of a level that goes from mean - rise to mean + rise in [start, end).

    Zero between. Such a line meets the stairs of equal steps at both ends of each step.
    """
    order = np.argsort(starts, kind="stable")
    starts, lengths, rises = starts[order], (ends - starts)[order], rises[order]
    times = np.column_stack([starts, ends[order]]).ravel().astype(np.float64)
    areas = np.column_stack([np.zeros(order.size), means[order] * lengths]).ravel()
    integral = np.interp(edges, times, np.cumsum(areas))
    at = np.maximum(np.searchsorted(starts, edges, side="right") - 1, 0)
    done = np.clip((edges - starts[at]) / np.maximum(lengths[at], 1), 0, 1)
    integral -= rises[at] * lengths[at] * done * (1 - done)
    return np.asarray(np.diff(integral) / np.diff(edges))


def _load_picture(load: Load, lane: Lane, seed: int, tops: tuple[float, float]) -> Picture:
    """Running and waiting over KV by kind, for one variant; ``tops``: of the sequences, of the time."""
    rows: list[Row] = [
        (float(load.time_s[i]), *(float(load.levels[name][i]) for name in LEVELS))
        for i in range(load.time_s.size)
    ]
    return Picture(
        key=f"load_{lane.index}",
        title=f"Load over time: {lane.name} (seed {seed})",
        group="load",
        reading=_reading(load, lane.name),
        traces=_lines(load) + _stack(load),
        layout=_layout(load, tops),
        header=("time_s", "num_running", "num_waiting", *(f"kv_{kind}_tokens" for kind in KINDS)),
        rows=rows,
        height_px=460 if load.capacity_tokens > 0 else 280,
    )


def _layout(load: Load, tops: tuple[float, float]) -> dict[str, Any]:
    """Two panels over one time axis; one where there is no KV budget."""
    counted = {"range": [0, tops[0]], "rangemode": "tozero", **({"dtick": 1} if tops[0] < MAX_TICKS else {})}
    if load.capacity_tokens <= 0:
        return layout(axis("time (s)", range=[0, tops[1]]), axis("sequences", **counted))
    top = load.shown_tokens
    shown = layout(
        axis("time (s)", anchor="y2", range=[0, tops[1]]),
        axis("sequences", domain=[0.6, 1], **counted),
        yaxis2=axis("KV tokens", domain=[0, 0.5], range=[0, top * 1.06], tickformat="~s"),
        shapes=[_capacity(load.capacity_tokens)] if top == load.capacity_tokens else [],
    )
    shown["legend"]["traceorder"] = "normal"
    return shown


def _lines(load: Load) -> list[Trace]:
    """Running, and waiting where anyone does."""
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            **_times(load),
            "y": load.levels[name].round(2).tolist(),
            "line": {"color": color, "width": 1.6, "dash": dash},
        }
        for name, color, dash in (("running", "@v2", "solid"), ("waiting", "@v3", "dot"))
        if name == "running" or load.levels[name].max() >= WAITS_FROM
    ]


def _stack(load: Load) -> list[Trace]:
    """KV by kind, stacked."""
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"KV {kind}",
            **_times(load),
            "yaxis": "y2",
            "y": load.levels[kind].round(1).tolist(),
            "stackgroup": "kv",
            "line": {"width": 0, "color": f"@{kind}"},
            "fillcolor": f"@{kind}",
        }
        for kind in KINDS
        if load.capacity_tokens > 0 and load.levels[kind].max() > SEEN_FROM * load.shown_tokens
    ]


def _times(load: Load) -> Trace:
    """The bins' middles, which are evenly spread."""
    return {"x0": load.width_s / 2, "dx": load.width_s}


def _capacity(tokens: int) -> Trace:
    """The budget, as a line."""
    line = {"color": "@limit", "width": 1.5, "dash": "dot"}
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": "y2",
        "y0": tokens,
        "y1": tokens,
        "line": line,
    }


def _reading(load: Load, name: str) -> str:
    """Means while something runs, and the peak of the queue."""
    busy = load.levels["running"] > 0
    if not busy.any():
        return f"{name}: nothing ran."
    running = float(load.levels["running"][busy].mean())
    peak = int(np.argmax(load.levels["waiting"]))
    deepest = float(load.levels["waiting"][peak])
    queue = f"at most {digits(deepest)} wait (at {digits(float(load.time_s[peak]))} s)"
    if deepest < WAITS_FROM:
        queue = "hardly anyone waits"
    said = f"{name}: {digits(running)} sequences run on average while busy, {queue}"
    point = f" A point is the mean of {seconds(load.width_s)}."
    if load.capacity_tokens <= 0:
        return f"{said}.{point}"
    where = "dotted line" if load.shown_tokens == load.capacity_tokens else "far above the picture"
    held = float(load.levels["tokens"][busy].mean()) / load.capacity_tokens
    waste = sum(float(load.levels[kind][busy].mean()) for kind in KINDS[1:]) / load.capacity_tokens
    return (
        f"{said}; {percent(held)} of the KV budget ({where}: {load.capacity_tokens:,} tokens) "
        f"holds tokens, {percent(waste)} is allocated or blocked without one.{point}"
    )


def load_pictures(results: Mapping[str, Sequence[RunResult]], lanes: Sequence[Lane]) -> list[Picture]:
    """One per variant, first seed; time and sequences on one scale, but where that left half of it empty."""
    firsts = [(lane, results[lane.name][0]) for lane in lanes]
    bins = min(MAX_BINS, max(60, PAGE_BINS // len(firsts)))
    loads = [
        (lane, run.seed, load_over_time(run, bins)) for lane, run in firsts if run.segments.start_ps.size
    ]
    if not loads:
        return []
    peaks = [max(1.0, *(float(load.levels[name].max()) for name in LEVELS[:2])) for _, _, load in loads]
    longest = max(float(load.time_s[-1] + load.width_s / 2) for _, _, load in loads)
    ends = [float(load.time_s[-1] + load.width_s / 2) for _, _, load in loads]
    tops = [
        (1.05 * _scale(peak, max(peaks)), _scale(end, longest)) for peak, end in zip(peaks, ends, strict=True)
    ]
    return [_load_picture(load, lane, seed, top) for (lane, seed, load), top in zip(loads, tops, strict=True)]


def _scale(own: float, common: float) -> float:
    return common if own > SMALL_PART * common else own


MAX_OPERATORS = 7


OTHER = "other operators"


def operator_s_per_1000_tokens(results: Sequence[RunResult]) -> dict[str, float]:
    """Busy seconds by operator per 1,000 generated tokens, over all seeds."""
    tokens = sum(int(np.sum(result.requests.generated_tokens)) for result in results)
    names = dict.fromkeys(name for result in results for name in result.operator_s)
    totals = {name: sum(result.operator_s.get(name, 0.0) for result in results) for name in names}
    return {name: 1000 * total / max(1, tokens) for name, total in totals.items()}


def operator_picture(results: Mapping[str, Sequence[RunResult]], lanes: Sequence[Lane]) -> Picture | None:
    """Stacked bars: seconds of GPU time per 1,000 output tokens, by operator; None where there is one."""
    every = {lane.name: operator_s_per_1000_tokens(results[lane.name]) for lane in lanes}
    names = _largest(every)
    if len(names) < 2:
        return None
    spent = {name: _folded(operators, names) for name, operators in every.items()}
    order = [*names, OTHER]
    inks = {operator: f"v{index}" for index, operator in enumerate(names)} | {OTHER: "muted"}
    parts = {one: (inks[one], [spent[lane.name].get(one, 0.0) for lane in lanes]) for one in order}
    longest = max(sum(one.values()) for one in spent.values())
    operators = list(dict.fromkeys(name for one in every.values() for name in one))
    rows: list[Row] = [(op, *(every[lane.name].get(op, 0.0) for lane in lanes)) for op in operators]
    return Picture(
        key="operators",
        title="What the GPU's time is spent on (whole run)",
        reading=_steps_reading(every),
        traces=stacked_bars(parts, [lane.label for lane in lanes], "s"),
        layout=bars_layout(seconds_axis("per 1,000 output tokens", longest)),
        header=("operator", *(f"{lane.name} s per 1000 output tokens" for lane in lanes)),
        rows=rows,
        height_px=170 + 52 * len(lanes),
    )


def _largest(every: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The operators worth a colour of their own, largest first."""
    peak: dict[str, float] = {}
    for operators in every.values():
        for name, spent in operators.items():
            peak[name] = max(peak.get(name, 0.0), spent)
    return sorted((name for name in peak if peak[name] > 0), key=lambda name: -peak[name])[:MAX_OPERATORS]


def _folded(operators: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The named operators, and the sum of the rest."""
    kept = {name: operators.get(name, 0.0) for name in names}
    return kept | {OTHER: sum(spent for name, spent in operators.items() if name not in kept)}


def _steps_reading(every: Mapping[str, Mapping[str, float]]) -> str:
    """The total per variant, and its two largest operators."""
    parts = []
    for name, operators in every.items():
        total = sum(operators.values())
        if total <= 0:
            parts.append(f"{name}: no time")
            continue
        first = sorted(operators, key=lambda op: -operators[op])[:2]
        shares = ", ".join(f"{percent(operators[op] / total)} {op}" for op in first)
        parts.append(f"{name}: {seconds(total)} per 1,000 output tokens ({shares})")
    return "; ".join(parts) + "."
