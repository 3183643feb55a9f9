"""Memory of the fullest GPU through one training step, stacked by what holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.report.figures import (
    Lane,
    Picture,
    Row,
    Trace,
    axis,
    layout,
    percent,
    seconds,
    seconds_axis,
)
from sim.scenario.dataclass import dataclass
from sim.training.records import TrainingResult
from sim.training.scenario import step_shape
from sim.training.step.layer import LayerTimes, layer_times
from sim.training.step.memory import (
    activation_bytes,
    head_activations,
    kept_layer_bytes,
    training_memory,
)
from sim.training.step.shape import StepShape, check_shape
from sim.training.step.time import head_times, optimizer_s
from sim.units import format_gb

# One GPU's memory through a training step: what is held when, for a picture.
#
# Activations grow layer by layer through the forward pass and shrink through the backward pass, where
# recomputed ones come back for a moment; the optimizer runs last. One micro-batch is drawn, the last of the
# step; pipelines as their first stage after the warm-up, when it holds the most.
#
# Every band at the peak is the line of that name in ``memory.training_memory``, to the byte. Two
# simplifications of the account are therefore in the picture too: gradient buffers stay allocated between
# steps (DDP's buckets, Megatron's and ZeRO's flat buffers do; PyTorch alone frees them by ``set_to_none``),
# and the logits are still there while the last layer goes back.

CATEGORIES = (
    "CUDA context",
    "fragmentation",
    "weights",
    "optimizer states",
    "gradients",
    "gradient buffers",
    "activations",
    "head and logits",
    "recomputed",
    "gathered layers",
    "gradient buckets",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTimeline:
    """Held bytes by category (``CATEGORIES``) at each time from the step's start; linear in between."""

    times_s: tuple[float, ...]
    phases: tuple[str, ...]  # what ends then: forward, head, recompute, backward, exchange, optimizer
    layers: tuple[int, ...]  # of which layer; -1 outside the layers
    held_bytes: dict[str, tuple[int, ...]]

    @property
    def totals_bytes(self) -> tuple[int, ...]:
        """All categories together."""
        return tuple(sum(column) for column in zip(*self.held_bytes.values(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """A moment of the step: how much is there of what comes and goes."""

    time_s: float
    phase: str
    layer: int = -1
    num_kept: int = 0  # layers of this micro-batch whose activations are held
    has_head: bool = False
    recomputed: float = 0.0  # share of what recomputation brings back at most
    written: float = 0.0  # share of the gradients
    has_gathered: bool = True  # ZeRO-3's layers, in forward and backward pass
    has_buckets: bool = False  # gradients under way, in the backward pass


def memory_timeline(shape: StepShape) -> MemoryTimeline:
    """The series; its highest total is ``training_memory``'s peak, in every checkpointing mode."""
    check_shape(shape)
    moments = _moments(shape)
    columns = {name: [0] * len(moments) for name in CATEGORIES}
    lines = {line.label: line.num_bytes for line in training_memory(shape).lines}
    for at, moment in enumerate(moments):
        for name, held in _held(shape, lines, moment).items():
            columns[name][at] = held
    return MemoryTimeline(
        times_s=tuple(moment.time_s for moment in moments),
        phases=tuple(moment.phase for moment in moments),
        layers=tuple(moment.layer for moment in moments),
        held_bytes={name: tuple(column) for name, column in columns.items() if any(column)},
    )


def num_layers(shape: StepShape) -> int:
    """Layers that are drawn: those of one GPU, as a whole number."""
    return max(1, round(shape.layers_per_stage))


def _held(shape: StepShape, lines: dict[str, int], moment: _Moment) -> dict[str, int]:
    """Bytes by category: the account's lines less what is not there yet, or no longer."""
    layers = num_layers(shape)
    missing = kept_layer_bytes(shape) * shape.layers_per_stage / layers * (layers - moment.num_kept)
    head = int(head_activations(shape))
    written = int(lines["gradients"] * moment.written)
    return {
        "CUDA context": next(size for label, size in lines.items() if label.startswith("CUDA context")),
        "fragmentation": lines["fragmentation"],
        "weights": lines["weights"],
        "optimizer states": lines["optimizer states"],
        "gradients": written,
        "gradient buffers": lines["gradients"] - written,
        "activations": max(0, int(activation_bytes(shape) - missing) - head),
        "head and logits": head * moment.has_head,
        "recomputed": int(lines.get("recomputed", 0) * moment.recomputed),
        "gathered layers": lines.get("gathered layers", 0) * moment.has_gathered,
        "gradient buckets": lines.get("gradient buckets", 0) * moment.has_buckets,
    }


def _moments(shape: StepShape) -> list[_Moment]:
    layer, layers = layer_times(shape), num_layers(shape)
    before = 1.0 if shape.gradient_accumulation_steps > 1 else 0.0
    found = [_Moment(time_s=0.0, phase="start", written=before)]
    now = 0.0
    for index in range(layers):
        now += layer.forward_s
        found.append(_Moment(time_s=now, phase="forward", layer=index, num_kept=index + 1, written=before))
    if shape.parallelism.pipeline_parallel_size == 1:
        head = head_times(shape)
        now += head.forward_s + head.backward_s
    found.append(
        _Moment(time_s=now, phase="head", num_kept=layers, has_head=True, written=before, has_buckets=True)
    )
    found += _backward(shape, layer, now, before)
    now = found[-1].time_s
    for phase in ("exchange", "optimizer"):
        now += optimizer_s(shape) if phase == "optimizer" else 0.0
        found.append(_Moment(time_s=now, phase=phase, written=1.0, has_gathered=False))
    return found


def _backward(shape: StepShape, layer: LayerTimes, now: float, before: float) -> list[_Moment]:
    """From the last layer to the first: a segment's layers are recomputed together, then each goes back."""
    layers, kind = num_layers(shape), shape.activation_checkpointing
    size = min(shape.checkpoint_every, layers) if kind == "every_k" else 1
    found: list[_Moment] = []
    for gone in range(layers):
        left = min(size, layers - gone // size * size) - gone % size  # of the segment, this one included
        share = left / size if kind != "none" else 0.0
        if gone % size == 0 and share:
            now += left * layer.recompute.total_s
            found.append(
                _Moment(
                    time_s=now,
                    phase="recompute",
                    layer=layers - 1 - gone,
                    num_kept=layers - gone,
                    has_head=gone == 0,
                    recomputed=share,
                    written=max(before, gone / layers),
                    has_buckets=True,
                )
            )
        now += layer.backward.total_s
        found.append(
            _Moment(
                time_s=now,
                phase="backward",
                layer=layers - 1 - gone,
                num_kept=layers - gone - 1,
                recomputed=(left - 1) / size if share else 0.0,
                written=max(before, (gone + 1) / layers),
                has_buckets=True,
            )
        )
    return found


Runs = Mapping[str, Sequence[TrainingResult]]
MAX_PICTURES = 6
# What stays has quiet colours, what comes and goes bright ones.
INKS = {
    "less than 1 % each": "shared",
    "CUDA context": "muted",
    "fragmentation": "waits",
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
LITTLE = "less than 1 % each"
SEEN_FROM = 0.01
OWN_SCALE_BELOW = 0.5
# The device's size is drawn where the step fills at least this share of it.
SHOW_LIMIT_FROM = 0.4
EXPLAINED = (
    "The fullest GPU through one micro-batch, the step's last, and the optimizer: forward layer by layer, "
    "then backward from the last layer to the first. The peak is the account's below, to the byte, and "
    "shares its simplifications: gradient buffers are allocated before they are written, the logits stay "
    "until the last layer is back, and the margin for fragmentation is there all along. All pictures have "
    "one scale, but for those that it would leave half empty."
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
    return [_picture(one, index, _scale(one[1], top)) for index, one in enumerate(drawn[:MAX_PICTURES])]


def _scale(timeline: MemoryTimeline, top_bytes: int) -> int:
    """What the picture's axis reaches: the same in all, but where most of it would stay empty."""
    own = max(timeline.totals_bytes)
    return top_bytes if own > OWN_SCALE_BELOW * top_bytes else own


def _picture(drawn: tuple[StepShape, MemoryTimeline, Sequence[str]], index: int, top_bytes: int) -> Picture:
    shape, timeline, names = drawn
    hbm_bytes = shape.hardware.hbm_bytes
    has_limit = hbm_bytes > top_bytes > SHOW_LIMIT_FROM * hbm_bytes
    top_gb = max(top_bytes, hbm_bytes if has_limit else 0) * 1.04 / 1e9
    line = {"color": "@limit", "width": 1.5, "dash": "dot"}
    limit = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": hbm_bytes / 1e9, "y1": hbm_bytes / 1e9}
    header, rows = _rows(timeline)
    return Picture(
        key=f"memory-{index}",
        title=f"Memory through one micro-batch: {', '.join(names)}",
        reading=_reading(shape, timeline, has_limit=has_limit),
        traces=[_band(name, timeline.times_s, held) for name, held in _bands(timeline).items()],
        layout=layout(
            seconds_axis("since the micro-batch began", timeline.times_s[-1]),
            axis("GB held", range=[0, top_gb]),
            hovermode="x unified",
            shapes=[limit | {"line": line}] if has_limit else [],
        ),
        header=header,
        rows=rows,
        height_px=430,
        # Two side by side: a legend of ten bands needs the width.
        group=f"memory-{index // 2}",
    )


def _bands(timeline: MemoryTimeline) -> dict[str, Sequence[int]]:
    """Held bytes by category; what never shows, together."""
    least = SEEN_FROM * max(timeline.totals_bytes)
    hidden = [name for name, held in timeline.held_bytes.items() if max(held) < least]
    if len(hidden) < 2:
        return dict(timeline.held_bytes)
    seen: dict[str, Sequence[int]] = {
        name: held for name, held in timeline.held_bytes.items() if name not in hidden
    }
    sums = [sum(column) for column in zip(*(timeline.held_bytes[name] for name in hidden), strict=True)]
    return {LITTLE: sums, **seen}


def _band(name: str, times_s: Sequence[float], held: Sequence[int]) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "stackgroup": "held",
        "name": name,
        "x": list(times_s),
        "y": [size / 1e9 for size in held],
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
