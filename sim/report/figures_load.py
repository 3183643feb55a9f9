"""Load over time: sequences running and waiting, and the KV budget by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Float64
from sim.records import RunResult, SegmentColumns
from sim.report.ascii import sparkline
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, has_kv, layout, percent

MAX_BINS = 600
SHARED_WITHIN = 8
KINDS = ("tokens", "reserved", "internal", "external")
LEVELS = ("running", "waiting", *KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Averages over time bins, all replicas together; KV in tokens."""

    time_s: Float64  # middle of each bin
    width_s: float
    levels: Mapping[str, Float64]
    capacity_tokens: int


def segment_ends_ps(segments: SegmentColumns) -> npt.NDArray[np.int64]:
    """When each segment ends: n steps, each longer by the growth."""
    steps = segments.num_steps
    growth = segments.step_growth_ps * (steps * (steps - 1) // 2)
    return np.asarray(segments.start_ps + steps * segments.first_step_ps + growth)


def load_over_time(result: RunResult, bins: int = MAX_BINS) -> Load:
    """Time-weighted averages in ``bins`` equal bins from the start to the last step's end.

    Within a segment, each decoding sequence's new tokens are counted at their mean, taken from what was
    reserved; between segments (an idle engine) every level is zero.
    """
    segments = result.segments
    ends = segment_ends_ps(segments)
    last = int(ends.max(initial=1))
    edges = np.linspace(0, last, bins + 1)
    replicas = np.unique(segments.replica)
    levels = {}
    values = _mean_levels(segments)
    for name in LEVELS:
        total = np.zeros(bins)
        for replica in replicas:
            mine = segments.replica == replica
            total += _binned(segments.start_ps[mine], ends[mine], values[name][mine], edges)
        levels[name] = total
    middle = (edges[:-1] + edges[1:]) / 2 / PS_PER_S
    capacity = result.kv_budget_tokens * max(1, result.scenario.replicas) if has_kv(result) else 0
    return Load(time_s=middle, width_s=last / bins / PS_PER_S, levels=levels, capacity_tokens=capacity)


def _mean_levels(segments: SegmentColumns) -> dict[str, Float64]:
    """Each level's mean over its segment."""
    grown = segments.num_decode * (segments.num_steps - 1) / 2
    from_reserved = np.minimum(grown, segments.kv_reserved)
    return {
        "running": segments.num_running.astype(np.float64),
        "waiting": segments.num_waiting.astype(np.float64),
        "tokens": np.asarray(segments.kv_tokens + grown, dtype=np.float64),
        "reserved": np.asarray(segments.kv_reserved - from_reserved, dtype=np.float64),
        "internal": segments.kv_internal.astype(np.float64),
        "external": segments.kv_external.astype(np.float64),
    }


def _binned(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], values: Float64, edges: Float64
) -> Float64:
    """The mean over each bin of a level that is ``values`` in [start, end) and zero between."""
    order = np.argsort(starts, kind="stable")
    times = np.column_stack([starts[order], ends[order]]).ravel().astype(np.float64)
    areas = np.column_stack([np.zeros(order.size), values[order] * (ends - starts)[order]]).ravel()
    integral = np.interp(edges, times, np.cumsum(areas))
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
        sketch=_sketch(load, tops[0]),
        height_px=460 if load.capacity_tokens > 0 else 280,
    )


def _layout(load: Load, tops: tuple[float, float]) -> dict[str, Any]:
    """Two panels over one time axis; one where there is no KV budget."""
    if load.capacity_tokens <= 0:
        return layout(axis("time (s)", range=[0, tops[1]]), axis("sequences", range=[0, tops[0]]))
    shown = layout(
        axis("time (s)", anchor="y2", range=[0, tops[1]]),
        axis("sequences", domain=[0.6, 1], range=[0, tops[0]]),
        yaxis2=axis("KV tokens", domain=[0, 0.5], range=[0, load.capacity_tokens * 1.06]),
        shapes=[_capacity(load.capacity_tokens)],
    )
    shown["legend"]["traceorder"] = "normal"
    return shown


def _lines(load: Load) -> list[Trace]:
    """Running and waiting."""
    times = load.time_s.round(4).tolist()
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": times,
            "y": load.levels[name].round(2).tolist(),
            "line": {"color": color, "width": 1.6, "dash": dash},
        }
        for name, color, dash in (("running", "@v2", "solid"), ("waiting", "@v3", "dot"))
    ]


def _stack(load: Load) -> list[Trace]:
    """KV by kind, stacked."""
    times = load.time_s.round(4).tolist()
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"KV {kind}",
            "x": times,
            "yaxis": "y2",
            "y": load.levels[kind].round(1).tolist(),
            "stackgroup": "kv",
            "line": {"width": 0, "color": f"@{kind}"},
            "fillcolor": f"@{kind}",
        }
        for kind in KINDS
        if load.capacity_tokens > 0 and load.levels[kind].any()
    ]


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
    if deepest < 0.5:
        queue = "hardly anyone waits"
    said = f"{name}: {digits(running)} sequences run on average while busy, {queue}"
    if load.capacity_tokens <= 0:
        return f"{said}."
    held = float(load.levels["tokens"][busy].mean()) / load.capacity_tokens
    waste = sum(float(load.levels[kind][busy].mean()) for kind in KINDS[1:]) / load.capacity_tokens
    return (
        f"{said}; {percent(held)} of the KV budget (dotted line: {load.capacity_tokens:,} tokens) "
        f"holds tokens, {percent(waste)} is allocated or blocked without one."
    )


def _sketch(load: Load, top: float) -> str:
    """Running, waiting and KV in use as sparklines."""

    def coarse(values: Float64) -> Float64:
        return np.array([part.mean() for part in np.array_split(values, 60)])

    used = sum((load.levels[kind] for kind in KINDS), np.zeros(load.time_s.size))
    lines = [
        f"running  {sparkline(coarse(load.levels['running']), top)}  of {digits(top)}",
        f"waiting  {sparkline(coarse(load.levels['waiting']), top)}  of {digits(top)}",
    ]
    if load.capacity_tokens > 0:
        line = sparkline(coarse(used), load.capacity_tokens)
        lines.append(f"KV used  {line}  of {load.capacity_tokens:,} tokens")
    return "\n".join(lines)


def load_pictures(results: Mapping[str, Sequence[RunResult]], lanes: Sequence[Lane]) -> list[Picture]:
    """One per variant, first seed, over the same time and the same KV tokens.

    Sequences share their scale too, unless one queue would flatten the others to nothing.
    """
    firsts = [(lane, results[lane.name][0]) for lane in lanes]
    loads = [(lane, run.seed, load_over_time(run)) for lane, run in firsts if run.segments.start_ps.size]
    if not loads:
        return []
    own = [max(1.0, *(float(load.levels[name].max()) for name in LEVELS[:2])) for _, _, load in loads]
    is_shared = max(own) <= SHARED_WITHIN * min(own)
    longest = max(float(load.time_s[-1] + load.width_s / 2) for _, _, load in loads)
    return [
        _load_picture(load, lane, seed, (1.05 * (max(own) if is_shared else top), longest))
        for (lane, seed, load), top in zip(loads, own, strict=True)
    ]
