"""When each chunk of a ring was on each link, in the first step of a run that timed every chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sim.records import PS_PER_S
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, layout, percent, seconds
from sim.training.records import RingSendColumns, TrainingResult

Runs = Mapping[str, Sequence[TrainingResult]]
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
    own = [row for row in rows if row[3] == chunk]
    n = len(labels)
    phases = ["reduce-scatter" if int(row[1] or 0) < n - 1 else "all-gather" for row in own]
    return {
        "type": "bar",
        "orientation": "h",
        "name": f"chunk {chunk}",
        "y": [labels[int(row[2] or 0)] for row in own],
        "base": [round(float(row[4] or 0), 7) for row in own],
        "x": [round(float(row[5] or 0) - float(row[4] or 0), 7) for row in own],
        "marker": {
            "color": f"@v{chunk % 8}",
            "opacity": [1.0 if phase == "reduce-scatter" else 0.6 for phase in phases],
            "line": {"color": "@paper", "width": 0.5},
        },
        "hovertext": [
            f"chunk {chunk} of bucket {row[0]}, {phase}, step {int(row[1] or 0) + 1}"
            for row, phase in zip(own, phases, strict=True)
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
