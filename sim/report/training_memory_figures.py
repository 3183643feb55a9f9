"""Memory of the fullest GPU through one training step, stacked by what holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.report.ascii import sparkline
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, layout, percent, seconds
from sim.training.memory import training_memory
from sim.training.memory_timeline import MemoryTimeline, memory_timeline
from sim.training.records import TrainingResult
from sim.training.scenario import step_shape
from sim.training.step_time_shape import StepShape
from sim.units import format_gb

Runs = Mapping[str, Sequence[TrainingResult]]
MAX_PICTURES = 6
# What stays has quiet colours, what comes and goes bright ones.
INKS = {
    "CUDA context": "muted",
    "fragmentation": "free",
    "weights": "v0",
    "optimizer states": "v6",
    "gradients": "v1",
    "gradient buffers": "internal",
    "activations": "v2",
    "head and logits": "v3",
    "recomputed": "v5",
    "gathered layers": "v7",
    "gradient buckets": "v7",
}
# The device's size is drawn where the step fills at least this share of it.
SHOW_LIMIT_FROM = 0.4
SKETCH_COLUMNS = 60
EXPLAINED = (
    "The fullest GPU through one micro-batch, the step's last, and the optimizer: forward layer by layer, "
    "then backward from the last layer to the first. The peak is the account's below, to the byte, and "
    "shares its simplifications: gradient buffers are allocated before they are written, the logits stay "
    "until the last layer is back, and the margin for fragmentation is there all along. All pictures have "
    "one scale."
)


def memory_pictures(runs: Runs, lanes: Sequence[Lane]) -> list[Picture]:
    """One picture per different step, on one scale; none where times are given without a model."""
    drawn: list[tuple[StepShape, MemoryTimeline, list[str]]] = []
    for lane in lanes:
        scenario = runs[lane.name][0].scenario
        if scenario.model is None:
            continue
        shape = step_shape(scenario)
        timeline = memory_timeline(shape)
        same = next((names for _, other, names in drawn if other == timeline), None)
        if same is None:
            drawn.append((shape, timeline, [lane.name]))
        else:
            same.append(lane.name)
    top = max((max(timeline.totals_bytes) for _, timeline, _ in drawn), default=0)
    return [_picture(one, index, top) for index, one in enumerate(drawn[:MAX_PICTURES])]


def _picture(drawn: tuple[StepShape, MemoryTimeline, Sequence[str]], index: int, top_bytes: int) -> Picture:
    shape, timeline, names = drawn
    hbm_bytes = shape.hardware.hbm_bytes
    has_limit = top_bytes > SHOW_LIMIT_FROM * hbm_bytes
    top_gb = max(top_bytes, hbm_bytes if has_limit else 0) * 1.04 / 1e9
    line = {"color": "@limit", "width": 1.5, "dash": "dot"}
    limit = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": hbm_bytes / 1e9, "y1": hbm_bytes / 1e9}
    header, rows = _rows(timeline)
    return Picture(
        key=f"memory-{index}",
        title=f"Memory through one micro-batch: {', '.join(names)}",
        reading=_reading(shape, timeline, has_limit=has_limit),
        traces=[_band(name, timeline) for name in timeline.held_bytes],
        layout=layout(
            axis("s since the micro-batch began", rangemode="tozero"),
            axis("GB held", range=[0, top_gb]),
            hovermode="x unified",
            shapes=[limit | {"line": line}] if has_limit else [],
        ),
        header=header,
        rows=rows,
        sketch=_sketch(timeline, top_bytes),
        height_px=430,
        # Two side by side: a legend of ten bands needs the width.
        group=f"memory-{index // 2}",
    )


def _band(name: str, timeline: MemoryTimeline) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "stackgroup": "held",
        "name": name,
        "x": [float(f"{time:.7g}") for time in timeline.times_s],
        "y": [size / 1e9 for size in timeline.held_bytes[name]],
        "line": {"width": 0.5, "color": "@paper"},
        "fillcolor": f"@{INKS[name]}",
        "hovertemplate": "%{y:.3g} GB",
    }


def _rows(timeline: MemoryTimeline) -> tuple[tuple[str, ...], list[Row]]:
    """The series as it is, in bytes: what ends at each time."""
    names = [f"{name.replace(' ', '_')}_bytes" for name in timeline.held_bytes]
    columns = (timeline.times_s, timeline.phases, timeline.layers)
    rows: list[Row] = list(zip(*columns, *timeline.held_bytes.values(), timeline.totals_bytes, strict=True))
    return ("time_s", "ends", "layer", *names, "total_bytes"), rows


def _reading(shape: StepShape, timeline: MemoryTimeline, *, has_limit: bool) -> str:
    totals = timeline.totals_bytes
    at = totals.index(max(totals))
    memory = training_memory(shape)
    most = sorted(timeline.held_bytes, key=lambda name: -timeline.held_bytes[name][at])[:3]
    parts = ", ".join(f"{format_gb(timeline.held_bytes[name][at])} {name}" for name in most)
    share = percent(memory.peak_memory_bytes / memory.hbm_bytes)
    dotted = f" The dotted line is what {shape.hardware.name} has." if has_limit else ""
    return (
        f"From {format_gb(totals[0])} at the start to {format_gb(totals[at])} at "
        f"{seconds(timeline.times_s[at])}, when the last layer goes back: {share} of the device, most of it "
        f"{parts}.{dotted}"
    )


def _sketch(timeline: MemoryTimeline, top_bytes: int) -> str:
    """The total as a line of blocks, evenly spread over time."""
    import numpy as np

    times = np.linspace(0, timeline.times_s[-1], SKETCH_COLUMNS)
    totals = np.interp(times, timeline.times_s, timeline.totals_bytes)
    peak = max(timeline.totals_bytes)
    end = seconds(timeline.times_s[-1])
    bars = sparkline(totals.tolist(), float(top_bytes))
    return f"{bars}  peak {digits(peak / 1e9)} GB, {end} from left to right"
