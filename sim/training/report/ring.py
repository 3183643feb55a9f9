"""A ring all-reduce to step through: which chunk of the gradient is where, and whose sum it is by then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim.arrays import PS_PER_S
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, layout, percent, seconds
from sim.training.exchange.algorithms import EXCHANGES
from sim.training.exchange.ring import RingFrame, num_ring_steps, ring_frames
from sim.training.records import RingSendColumns, TrainingResult

Runs = Mapping[str, Sequence[TrainingResult]]
Frame = dict[str, Any]
# A larger ring is drawn as one of this many ranks.
MAX_RANKS = 8
# Up to here a cell has room for the names of the ranks in its sum.
NAMED_RANKS = 4
WHOLE = "sum"
# Arrows of the step from the last rank to the first leave and enter at the picture's edges.
EDGE = 0.5


def ring_picture(runs: Runs, lanes: Sequence[Lane]) -> Picture | None:
    """The first variant that exchanges over a ring; None without one."""
    for lane in lanes:
        run = runs[lane.name][0]
        if EXCHANGES[run.explain["exchange"]["algorithm"]].chunk_ps is not None:
            return _picture(run, lane)
    return None


def _picture(run: TrainingResult, lane: Lane) -> Picture:
    ranks = run.scenario.training.num_workers
    n = min(ranks, MAX_RANKS)
    comm_s = float(run.explain["exchange"]["comm_s"])
    frames = ring_frames(n)
    titles = [_title(frame, n, comm_s) for frame in frames]
    plain_axis = {"dtick": 1, "fixedrange": True, "showgrid": False, "zeroline": False}
    shown = layout(
        axis("chunk of the gradient", range=[-0.6, n - 0.4], **plain_axis),
        axis("GPU", range=[n - 0.4, -0.6], **plain_axis),
        showlegend=False,
        sliders=[_slider(frames)],
        title={"text": titles[0], "x": 0, "xref": "paper", "font": {"size": 14}},
    )
    shown["margin"] |= {"t": 56}
    rows: list[Row] = [
        (frame.step, frame.phase, rank, chunk, " ".join(map(str, summed)))
        for frame in frames
        for rank, chunks in enumerate(frame.summed)
        for chunk, summed in enumerate(chunks)
    ]
    return Picture(
        key="ring",
        title="A ring all-reduce, step by step",
        reading=_reading(run, lane, n),
        traces=_traces(frames[0], n),
        layout=shown,
        header=("step", "phase", "gpu", "chunk", "sum_of_gpus"),
        rows=rows,
        height_px=230 + 42 * n,
        frames=[_frame(frame, title, n) for frame, title in zip(frames, titles, strict=True)],
    )


def _frame(frame: RingFrame, title: str, n: int) -> Frame:
    return {
        "name": str(frame.step),
        "data": _traces(frame, n),
        "traces": [0, 1, 2],
        "layout": {"title": {"text": title}},
    }


def _title(frame: RingFrame, n: int, comm_s: float) -> str:
    steps = num_ring_steps(n)
    if frame.step == 0:
        return f"Start: every GPU has its own gradient,<br>in {n} chunks"
    done = f"{seconds(comm_s * frame.step / steps)} of {seconds(comm_s)}"
    return f"{frame.phase.capitalize()}, step {frame.step} of {steps}<br>{done}"


def _slider(frames: Sequence[RingFrame]) -> Frame:
    how = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    return {
        "active": 0,
        "len": 1.0,
        "x": 0,
        "pad": {"t": 52, "b": 4},
        "currentvalue": {"prefix": "after step ", "xanchor": "left", "font": {"color": "@muted", "size": 13}},
        "font": {"color": "@muted", "size": 11},
        "bgcolor": "@grid",
        "activebgcolor": "@v0",
        "bordercolor": "@muted",
        "tickcolor": "@muted",
        "steps": [
            {"label": str(frame.step), "method": "animate", "args": [[str(frame.step)], how]}
            for frame in frames
        ],
    }


def _traces(frame: RingFrame, n: int) -> list[Trace]:
    """The cells by how many gradients they sum, their labels, and what the step sent.

    A whole sum counts double, so that partial ones keep to colours on which letters can be read.
    """
    places = [(rank, chunk) for rank in range(n) for chunk in range(n)]
    whole = [len(frame.summed[rank][chunk]) == n for rank, chunk in places]
    return [
        {
            "type": "heatmap",
            "z": [[len(summed) * (1 + (len(summed) == n)) for summed in chunks] for chunks in frame.summed],
            "text": [
                [_said(rank, chunk, summed, n) for chunk, summed in enumerate(chunks)]
                for rank, chunks in enumerate(frame.summed)
            ],
            "zmin": 1,
            "zmax": 2 * n,
            "colorscale": [[0, "@free"], [0.98, "@v0"], [0.981, "@v2"], [1, "@v2"]],
            "showscale": False,
            "xgap": 2,
            "ygap": 2,
            "hoverinfo": "text",
        },
        {
            "type": "scatter",
            "mode": "text",
            "x": [chunk for _, chunk in places],
            "y": [rank for rank, _ in places],
            "text": [_label(frame.summed[rank][chunk], chunk, n) for rank, chunk in places],
            "textfont": {"size": 13, "color": ["@paper" if is_whole else "@text" for is_whole in whole]},
            "hoverinfo": "skip",
        },
        _arrows(frame, n),
    ]


def _arrows(frame: RingFrame, n: int) -> Trace:
    """From the sender's cell to the right neighbour's, along the chunk's column."""
    x: list[float | None] = []
    y: list[float | None] = []
    for sender, receiver, chunk in frame.sends:
        pieces = [(sender + 0.22, receiver - 0.22)]
        if receiver < sender:
            pieces = [(sender + 0.22, n - 1 + EDGE), (-EDGE, receiver - 0.22)]
        for start, end in pieces:
            x += [chunk + 0.32, chunk + 0.32, None]
            y += [start, end, None]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": x,
        "y": y,
        "line": {"color": "@v1", "width": 2.5},
        "marker": {
            "symbol": "arrow",
            "angleref": "previous",
            "size": [0 if index % 3 != 1 else 11 for index in range(len(x))],
            "color": "@v1",
            "opacity": 1,
            "line": {"width": 0},
        },
        "hoverinfo": "skip",
    }


def _ring_order(summed: Sequence[int], chunk: int, n: int) -> list[int]:
    """The ranks in the order in which they added to the chunk: its own first."""
    return sorted(summed, key=lambda rank: (rank - chunk) % n)


def _label(summed: Sequence[int], chunk: int, n: int) -> str:
    if len(summed) == n:
        return WHOLE
    if n <= NAMED_RANKS:
        return "+".join(map(str, _ring_order(summed, chunk, n)))
    return str(len(summed))


def _said(rank: int, chunk: int, summed: Sequence[int], n: int) -> str:
    if len(summed) == 1:
        return f"GPU {rank}, chunk {chunk}: the gradient of GPU {summed[0]}"
    who = "all GPUs" if len(summed) == n else ", ".join(map(str, _ring_order(summed, chunk, n)))
    return f"GPU {rank}, chunk {chunk}: the sum of {who}"


def _reading(run: TrainingResult, lane: Lane, n: int) -> str:
    exchange, ranks = run.explain["exchange"], run.scenario.training.num_workers
    size_mib = exchange["gradient_bytes"] / 2**20
    labels = "names whose gradients are in it" if n <= NAMED_RANKS else "says how many gradients are in it"
    drawn = f" Drawn with {n} of the {ranks} GPUs: more only make it longer." if ranks > n else ""
    share = 2 * (ranks - 1) / ranks
    return (
        f"Move the slider. In each step every GPU sends one chunk to its right neighbour (arrows); a cell "
        f"{labels}. After {ranks - 1} steps of reduce-scatter each GPU has one chunk's whole sum, after as "
        f"many of all-gather everyone has all. {lane.name}: each GPU sends 2(n-1)/n = {digits(share)} times "
        f"{digits(size_mib)} MiB, {seconds(float(exchange['comm_s']))} if all are ready at once.{drawn}"
    )


# When each chunk of a ring was on each link, in the first step of a run that timed every chunk.

MAX_LINKED_RANKS = 16
MAX_BARS = 1200
MAX_PICTURES = 4


def link_pictures(runs: Runs, lanes: Sequence[Lane]) -> list[Picture]:
    """One per variant that was simulated chunk by chunk, first seed."""
    drawn = []
    for lane in lanes:
        sends = runs[lane.name][0].outcome.ring_sends
        if sends is not None and int(sends.rank.max()) < MAX_LINKED_RANKS:
            drawn.append(_link_picture(sends, runs[lane.name][0].scenario.training.num_workers, lane))
    return drawn[:MAX_PICTURES]


def _link_picture(sends: RingSendColumns, n: int, lane: Lane) -> Picture:
    kept = _last_buckets(sends, n)
    begin_ms, end_ms = (column[kept] / PS_PER_S * 1e3 for column in (sends.begin_ps, sends.end_ps))
    first, last = float(begin_ms.min()), float(end_ms.max())
    margin = 0.02 * (last - first)
    labels = [f"GPU {rank} → {(rank + 1) % n}" for rank in range(n)]
    busy = float((end_ms - begin_ms).sum()) / (last - first) / n
    rows: list[Row] = [
        (int(b), int(k), int(r), int(c), float(x), float(y))
        for b, k, r, c, x, y in zip(
            sends.bucket[kept],
            sends.step[kept],
            sends.rank[kept],
            sends.chunk[kept],
            begin_ms,
            end_ms,
            strict=True,
        )
    ]
    return Picture(
        key=f"ring-links-{lane.index}",
        title=f"The ring's links in the first step of {lane.name}",
        reading=_links_told(rows, n, busy, lane),
        traces=[_bars(rows, chunk, labels) for chunk in range(n)],
        layout=layout(
            axis("ms since the step began", range=[first - margin, last + margin]),
            axis("", autorange="reversed", type="category", categoryorder="array", categoryarray=labels),
            barmode="overlay",
            bargap=0.25,
        ),
        header=("bucket", "ring_step", "from_gpu", "chunk", "from_ms", "to_ms"),
        rows=rows,
        height_px=170 + 26 * n,
        group="ring-links",
    )


def _last_buckets(sends: RingSendColumns, n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The last buckets, as many as can be drawn: what no backward pass hides."""
    per_bucket = 2 * (n - 1) * n
    first = int(sends.bucket.max()) + 1 - max(1, MAX_BARS // per_bucket)
    return np.asarray(sends.bucket >= first)


def _bars(rows: Sequence[Row], chunk: int, labels: Sequence[str]) -> Trace:
    sent = [row for row in rows if row[3] == chunk]
    n = len(labels)
    phases = ["reduce-scatter" if int(row[1] or 0) < n - 1 else "all-gather" for row in sent]
    return {
        "type": "bar",
        "orientation": "h",
        "name": f"chunk {chunk}",
        "y": [labels[int(row[2] or 0)] for row in sent],
        "base": [round(float(row[4] or 0), 7) for row in sent],
        "x": [round(float(row[5] or 0) - float(row[4] or 0), 7) for row in sent],
        "marker": {
            "color": f"@v{chunk % 8}",
            "opacity": [1.0 if phase == "reduce-scatter" else 0.6 for phase in phases],
            "line": {"color": "@paper", "width": 0.5},
        },
        "hovertext": [
            f"chunk {chunk} of bucket {row[0]}, {phase}, step {int(row[1] or 0) + 1}"
            for row, phase in zip(sent, phases, strict=True)
        ],
        "hoverinfo": "text",
    }


def _links_told(rows: Sequence[Row], n: int, busy: float, lane: Lane) -> str:
    begins = {int(row[2] or 0): float(row[4] or 0) for row in reversed(rows)}
    early, late = min(begins.values()), max(begins.values())
    whole = max(float(row[5] or 0) for row in rows) - early
    last = max(begins, key=lambda rank: begins[rank])
    told = f"all start within {seconds((late - early) / 1e3)}"
    if late - early > 0.05 * whole:
        told = (
            f"GPU {last} starts {seconds((late - early) / 1e3)} after the first, and the others wait for it"
        )
    return (
        f"{lane.name}: {told}; from the first chunk to the last {digits(whole)} ms, of which a link is busy "
        f"{percent(busy)}. A colour is a chunk: full while it is summed (reduce-scatter), faint while the "
        "sum is handed on (all-gather)."
    )
