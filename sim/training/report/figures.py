"""Where a training step goes, and the workers' first steps as a timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sim.records import PS_PER_S
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, layout, percent, seconds
from sim.training.records import TrainingResult

# (worker, what, from, to) in seconds
Span = tuple[int, str, float, float]

PARTS = (
    ("compute", "compute_ps"),
    ("data loader", "data_stall_ps"),
    ("waits for others", "wait_ps"),
    ("exposed exchange", "exchange_ps"),
    ("optimizer", "optimizer_ps"),
    ("lost", "lost_ps"),
)
MAX_TIMELINE_WORKERS = 16
MAX_TIMELINE_STEPS = 12
KINDS = (("compute", "v0"), ("data loader or pull", "v4"), ("exchange", "v1"), ("waits", "free"))


def split_picture(results: Mapping[str, Sequence[TrainingResult]], lanes: Sequence[Lane]) -> Picture:
    """Stacked bars: seconds of one worker's step, by what it does, mean over workers, steps and seeds."""
    spent = {lane.name: _split(results[lane.name]) for lane in lanes}
    traces: list[Trace] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "y": [lane.label for lane in lanes],
            "x": [round(spent[lane.name][part], 9) for lane in lanes],
            "marker": {"color": f"@v{index}", "line": {"color": "@paper", "width": 1}},
        }
        for index, (part, _) in enumerate(PARTS)
    ]
    shown = layout(
        axis("s per step", rangemode="tozero"),
        axis("", autorange="reversed", type="category"),
        barmode="stack",
        bargap=0.35,
    )
    shown["legend"]["traceorder"] = "normal"
    rows: list[Row] = [(part, *(spent[lane.name][part] for lane in lanes)) for part, _ in PARTS]
    return Picture(
        key="step-split",
        title="Where a worker's step goes",
        reading="; ".join(_reading(name, parts) for name, parts in spent.items()) + ".",
        traces=[bar for bar in traces if any(bar["x"])],
        layout=shown,
        header=("part", *(f"{lane.name} s per step" for lane in lanes)),
        rows=rows,
        sketch="\n".join(
            f"{part:18} " + "  ".join(f"{digits(v[part]):>10}" for v in spent.values()) for part, _ in PARTS
        ),
        height_px=170 + 52 * len(lanes),
    )


def _split(runs: Sequence[TrainingResult]) -> dict[str, float]:
    steps = sum(float(run.outcome.workers.num_steps.sum()) for run in runs) or 1.0
    return {
        part: sum(float(getattr(run.outcome.workers, name).sum(dtype=np.float64)) for run in runs)
        / steps
        / PS_PER_S
        for part, name in PARTS
    }


def _reading(name: str, parts: Mapping[str, float]) -> str:
    whole = sum(parts.values()) or 1.0
    largest = sorted(parts, key=lambda part: -parts[part])[:3]
    shares = ", ".join(f"{percent(parts[part] / whole)} {part}" for part in largest if parts[part] > 0)
    return f"{name}: {seconds(whole)} a step ({shares})"


def timeline_pictures(
    results: Mapping[str, Sequence[TrainingResult]], lanes: Sequence[Lane]
) -> list[Picture]:
    """One timeline per variant: the first steps of the first workers, first seed."""
    return [_timeline(results[lane.name][0], lane) for lane in lanes[:6]]


def _timeline(run: TrainingResult, lane: Lane) -> Picture:
    spans = until_the_first_is_done(worker_spans(run))
    traces: list[Trace] = []
    for kind, ink in KINDS:
        own = [span for span in spans if span[1] == kind]
        if own:
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": kind,
                    "y": [f"worker {worker}" for worker, _, _, _ in own],
                    "base": [begin for _, _, begin, _ in own],
                    "x": [end - begin for _, _, begin, end in own],
                    "marker": {"color": f"@{ink}", "line": {"color": "@paper", "width": 0.5}},
                }
            )
    workers = sorted({span[0] for span in spans})
    shown = layout(
        axis("s since the start", rangemode="tozero"),
        axis("", autorange="reversed", type="category"),
        barmode="overlay",
        bargap=0.2,
    )
    rows: list[Row] = [(worker, kind, begin, end) for worker, kind, begin, end in spans]
    busy = sum(end - begin for _, kind, begin, end in spans if kind == "compute")
    length = max((end for _, _, _, end in spans), default=0.0) * max(1, len(workers))
    share = percent(busy / length) if length else "0 %"
    return Picture(
        key=f"timeline-{lane.index}",
        title=f"The first steps of {lane.name}",
        reading=f"Until the first is done the {len(workers)} workers shown compute {share} of the time.",
        traces=traces,
        layout=shown,
        header=("worker", "what", "from s", "to s"),
        rows=rows,
        sketch="",
        height_px=140 + 22 * len(workers),
        group="timelines",
    )


def shown_workers(run: TrainingResult) -> list[int]:
    """The first workers; of many the one that slows the job most in place of the last."""
    slowdown = run.outcome.slowdown_by_worker
    first = list(range(min(len(slowdown), MAX_TIMELINE_WORKERS)))
    worst = max(range(len(slowdown)), key=lambda worker: slowdown[worker])
    return first if worst in first else [*first[:-1], worst]


def until_the_first_is_done(spans: Sequence[Span]) -> list[Span]:
    """The spans, cut where the first worker has done its steps: beyond, faster ones would seem to stand."""
    ends = {worker: end for worker, _, _, end in spans}
    steps = {worker: sum(one[0] == worker and one[1] == "compute" for one in spans) for worker in ends}
    most = max(steps.values(), default=0)
    cut = min((end for worker, end in ends.items() if steps[worker] == most), default=0.0)
    return [(worker, what, begin, min(end, cut)) for worker, what, begin, end in spans if begin < cut]


def worker_spans(run: TrainingResult) -> list[Span]:
    """(worker, what, from, to) in seconds, of the first steps of the workers shown."""
    rows = run.timeline
    spans: list[Span] = []
    is_shown = np.isin(rows.worker, shown_workers(run)) & (rows.step < MAX_TIMELINE_STEPS)
    chosen = np.flatnonzero(is_shown)
    until: dict[int, float] = {}
    for row in chosen.tolist():
        worker = int(rows.worker[row])
        moments = (
            rows.release_ps[row],
            rows.compute_start_ps[row],
            rows.compute_end_ps[row],
            rows.done_ps[row],
        )
        release, start, end, done = (float(moment) / PS_PER_S for moment in moments)
        pieces = (
            ("waits", until.get(worker, release), release),
            ("data loader or pull", release, start),
            ("compute", start, end),
            ("exchange", end, done),
        )
        spans += [(worker, what, a, b) for what, a, b in pieces if b > a]
        until[worker] = done
    return spans
