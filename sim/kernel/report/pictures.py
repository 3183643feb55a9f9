"""Pictures of kernel runs: roofline, HBM traffic by tensor, SRAM fill, time by launch, tiles on SMs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sim.kernel.launches import Launch
from sim.kernel.metrics import KERNEL_METRICS, bound_of
from sim.kernel.records import Tile
from sim.kernel.run import KernelResult, alone, bytes_by_tensor
from sim.report.figures import (
    Lane,
    Picture,
    Row,
    Trace,
    axis,
    bars_layout,
    digits,
    layout,
    percent,
    round_ticks,
    seconds,
    seconds_axis,
    stacked_bars,
    thinned,
)
from sim.results.metric import format_metric
from sim.units import format_count

Runs = Mapping[str, Sequence[KernelResult]]
_MOST_COLOURS = 8  # the rest together is grey
_MOST_FILLS = 16  # launches whose SRAM can be told apart in one picture
_REST = "all others"


def first_runs(runs: Runs, lanes: Sequence[Lane]) -> list[tuple[Lane, KernelResult]]:
    """Each variant's run: all seeds are the same."""
    return [(lane, runs[lane.name][0]) for lane in lanes]


def finished(runs: Runs, lanes: Sequence[Lane]) -> list[tuple[Lane, KernelResult]]:
    """Those that fit the device's memory."""
    return [(lane, run) for lane, run in first_runs(runs, lanes) if run.records]


def intensity(run: KernelResult) -> float:
    """Useful FLOPs per byte that L2 does not serve."""
    moved = sum(launch.from_hbm_bytes for launch in run.plan.launches)
    return run.plan.flops / moved if moved else 0.0


def roofline_picture(runs: Runs, lanes: Sequence[Lane]) -> Picture | None:
    """The kernels under their device's roof (Williams et al., CACM 2009)."""
    shown = [(lane, run) for lane, run in finished(runs, lanes) if run.plan.flops and run.time_ps]
    if not shown:
        return None
    roofs = {(run.scenario.hardware.name, run.plan.dtype): run for _, run in shown}
    low = min(intensity(run) for _, run in shown) / 4
    high = max(intensity(run) for _, run in shown) * 4
    traces = [_roof(run, low, high, index) for index, run in enumerate(roofs.values())]
    traces += _l2_roofs(shown, low, high)
    rows: list[Row] = []
    parts = []
    for lane, run in shown:
        reached, allowed = run.plan.flops / (run.time_ps * 1e-12), _allowed(run)
        rows.append(
            (lane.name, intensity(run), reached, allowed["compute"], allowed["memory"], bound_of(run))
        )
        traces.append(_dot(lane, intensity(run), reached))
        parts.append(
            f"{lane.name} reaches {digits(reached / 1e12)} TFLOP/s, {_of_roofs(run, reached, allowed)}"
        )
    return Picture(
        key="roofline",
        title="Roofline: what the device allows, and where the kernels stand",
        reading="; ".join(parts)
        + ". Bytes are those that L2 does not serve. The line is the device's peak and full bandwidth; what "
        "compute allows, and memory (or L2, where that is the slower part of it), is at the rates that these "
        "kernels reach.",
        traces=traces,
        layout=layout(
            axis("useful FLOPs per byte from HBM", **round_ticks(low, high)),
            axis("TFLOP/s", **round_ticks(*_ends(traces))),
        ),
        header=(
            "variant",
            "flops_per_byte",
            "achieved_flops_per_s",
            "compute_allows_flops_per_s",
            "memory_allows_flops_per_s",
            "held_back_by",
        ),
        rows=rows,
    )


_RESOURCES = ("compute", "memory")


def _allowed(run: KernelResult) -> dict[str, float]:
    """FLOP/s if the kernels had nothing but to compute, or nothing but to move their bytes."""
    roofs = alone(run.plan)
    alone_s = dict(zip(_RESOURCES, (roofs.compute_s, roofs.memory_s), strict=True))
    bound, is_mostly_l2 = bound_of(run), roofs.l2_s > roofs.memory_s / 2
    if bound == "L2" or (bound != "memory" and is_mostly_l2):  # what HBM allows is the line's then
        alone_s["L2"] = roofs.memory_s
    return {name: run.plan.flops / seconds for name, seconds in alone_s.items() if seconds}


def _of_roofs(run: KernelResult, reached: float, allowed: Mapping[str, float]) -> str:
    """Of the roof that the verdict names first; of neither where the verdict is another."""
    bound = bound_of(run)
    shares = {
        name: f"{percent(reached / rate)} of what {name} allows"
        for name, rate in allowed.items()
        if not (name == "memory" and "L2" in allowed)
    }
    order = sorted(shares, key=lambda name: name != bound)
    said = " and ".join(shares[name] for name in order)
    return said if bound in shares else f"{said} (held back by {bound})"


def _ends(traces: Sequence[Trace]) -> tuple[float, float]:
    ys = [y for trace in traces for y in trace["y"]]
    return min(ys), max(ys)


def _roof(run: KernelResult, low: float, high: float, index: int) -> Trace:
    profile = run.scenario.hardware
    peak = profile.peak_flops_per_s[run.plan.dtype]
    ridge = peak / profile.hbm_bytes_per_s
    xs = sorted({low, high, min(max(ridge, low), high)})
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{profile.name}, {run.plan.dtype}",
        "x": xs,
        "y": [min(peak, x * profile.hbm_bytes_per_s) / 1e12 for x in xs],
        "line": {"color": "@muted", "dash": ("solid", "dot", "dash", "dashdot")[index % 4]},
    }


def _l2_roofs(shown: Sequence[tuple[Lane, KernelResult]], low: float, high: float) -> list[Trace]:
    """What L2 allows the kernels that it holds back, whatever HBM would: a level line for each height."""
    levels: dict[tuple[float, str], list[Lane]] = {}
    for lane, run in shown:
        level = _allowed(run).get("L2")
        if level and bound_of(run) == "L2":
            word = "" if run.scenario.hardware.l2_bytes_per_s else " (assumed rate)"
            levels.setdefault((float(f"{level / 1e12:.3g}"), word), []).append(lane)
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"L2 allows{word}: {', '.join(lane.label for lane in of)}",
            "x": [low, high],
            "y": [level, level],
            "line": {"color": of[0].color, "dash": "dot"},
        }
        for (level, word), of in levels.items()
    ]


def _dot(lane: Lane, x: float, y: float) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": lane.label,
        "x": [x],
        "y": [y / 1e12],
        "marker": {"color": lane.color, "size": 12, "symbol": lane.index % 8},
    }


def traffic_picture(runs: Runs, lanes: Sequence[Lane]) -> Picture:
    """Bytes that kernels load and store by tensor, a bar per variant."""
    moved = {lane.name: bytes_by_tensor(run) for lane, run in first_runs(runs, lanes)}
    amounts = {name: {one: float(sum(pair)) for one, pair in found.items()} for name, found in moved.items()}
    tensors_shown = _by_share(amounts)
    families = _in_families(amounts, _tensor_family)
    traces = _stacked(_by_share(families), families, lanes, "B")
    rows: list[Row] = [
        (lane.name, tensor, *moved[lane.name][tensor])
        for lane in lanes
        for tensor in tensors_shown
        if tensor in moved[lane.name]
    ]
    sums = {name: sum(map(sum, tensors.values())) for name, tensors in moved.items()}
    metric = KERNEL_METRICS["hbm_bytes"]
    said = "; ".join(f"{name} loads and stores {format_metric(size, metric)}" for name, size in sums.items())
    behind = {
        lane.name: sum(launch.from_hbm_bytes for launch in run.plan.launches)
        for lane, run in first_runs(runs, lanes)
    }
    told = "; ".join(f"{name} {format_metric(size, metric)}" for name, size in behind.items())
    shown = bars_layout(axis("loaded and stored by kernels", tickformat="~s", ticksuffix="B"))
    return Picture(
        key="hbm_traffic",
        title="Loads and stores by tensor, before L2",
        reading=f"{said}. What L2 serves is in these; HBM itself moves: {told}.",
        traces=traces,
        layout=shown,
        header=("variant", "tensor", "read_bytes", "write_bytes"),
        rows=rows,
        height_px=180 + 48 * len(lanes),
    )


def launches_picture(runs: Runs, lanes: Sequence[Lane]) -> Picture | None:
    """Where the time goes, launch by launch."""
    shown = finished(runs, lanes)
    spent: dict[str, dict[str, float]] = {}
    for lane, run in shown:
        for launch, record in zip(run.plan.launches, run.records, strict=True):
            per = spent.setdefault(_launch_label(launch, record.name), {})
            per[lane.name] = per.get(lane.name, 0.0) + (record.end_ps - record.start_ps) * 1e-12
        if run.host_copy_ps:
            waits = spent.setdefault("host link, not hidden", {})
            waits[lane.name] = (run.time_ps - run.kernel_ps) * 1e-12
    if not shown:
        return None
    amounts = {
        lane.name: {name: per[lane.name] for name, per in spent.items() if lane.name in per}
        for lane, _ in shown
    }
    names = _by_share(amounts)
    families = _in_families(amounts, _launch_family)
    traces = _stacked(_by_share(families), families, [lane for lane, _ in shown], "s")
    longest = max(sum(parts.values()) for parts in amounts.values())
    rows: list[Row] = [
        (lane.name, name, spent[name][lane.name])
        for lane, _ in shown
        for name in names
        if lane.name in spent[name]
    ]
    parts = [f"{lane.name}: {seconds(run.time_ps * 1e-12)} in {_num_launches(run)}" for lane, run in shown]
    return Picture(
        key="launches",
        title="Time by launch",
        reading="; ".join(parts) + ".",
        traces=traces,
        layout=bars_layout(seconds_axis("time", longest)),
        header=("variant", "launch", "time_s"),
        rows=rows,
        height_px=180 + 48 * len(shown),
    )


def _num_launches(run: KernelResult) -> str:
    number = sum(launch.repeats for launch in run.plan.launches)
    return f"{format_count(number)} launch{'' if number == 1 else 'es'}"


def _by_share(amounts: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Parts by their largest share of any variant, so that a small variant's own parts have colours too."""
    shares: dict[str, float] = {}
    for parts in amounts.values():
        whole = sum(parts.values()) or 1.0
        for name, amount in parts.items():
            shares[name] = max(shares.get(name, 0.0), amount / whole)
    return sorted(shares, key=lambda name: -shares[name])


def _stacked(
    names: Sequence[str], amounts: Mapping[str, Mapping[str, float]], lanes: Sequence[Lane], unit: str
) -> list[Trace]:
    """A bar per variant: the largest parts in colours of their own, the rest together."""
    parts: list[tuple[tuple[str, ...], str, str]] = [
        ((name,), name, f"v{index}") for index, name in enumerate(names[:_MOST_COLOURS])
    ]
    if names[_MOST_COLOURS:]:
        parts.append((tuple(names[_MOST_COLOURS:]), _REST, "muted"))
    found = {
        label: (ink, [sum(amounts[lane.name].get(name, 0.0) for name in members) for lane in lanes])
        for members, label, ink in parts
    }
    return stacked_bars(found, [lane.label for lane in lanes], unit)


def _in_families(
    amounts: Mapping[str, Mapping[str, float]], family_of: Callable[[str], str]
) -> dict[str, dict[str, float]]:
    """Parts under the names that a reader knows; under their families where they are more than colours."""
    every = {name for parts in amounts.values() for name in parts}
    label_of = family_of if len(every) > _MOST_COLOURS else _label
    shown: dict[str, dict[str, float]] = {variant: {} for variant in amounts}
    for variant, parts in amounts.items():
        for name, amount in parts.items():
            label = label_of(name)
            shown[variant][label] = shown[variant].get(label, 0.0) + amount
    return shown


# Attention's tensors as its papers write them; other kernels' names stand as they are.
LABELS = {
    "q": "Q", "k": "K", "v": "V", "o": "O", "do": "dO", "dq": "dQ", "dk": "dK", "dv": "dV",
    "s": "S = QKᵀ", "s_masked": "S + mask", "p": "P = softmax(S)", "p_dropped": "P after dropout",
    "dp": "dP", "dp_kept": "dP after dropout", "ds": "dS", "dq_sum": "sums of dQ",
    "dropout_mask": "dropout's mask", "l": "row sums", "m": "row maxima", "lse": "log-sum-exp",
}  # fmt: skip
TENSOR_FAMILIES = {
    "S = QKᵀ": ("s", "s_masked"),
    "P = softmax(S)": ("p", "p_dropped"),
    "dP, dS": ("dp", "dp_kept", "ds"),
    "Q, K, V, O": ("q", "k", "v", "o"),
    "dQ, dK, dV, dO": ("dq", "dk", "dv", "do"),
    "softmax's statistics": ("l", "m", "lse", "delta"),
}
LAUNCH_FAMILIES = {
    "S = QKᵀ": ("S = QKᵀ",),
    "softmax": ("softmax", "softmax backward"),
    "dropout": ("dropout", "dropout backward"),
    "O = PV": ("O",),
    "dV, dP, dQ, dK": ("dV", "dP", "dQ", "dK"),
}


def _label(tensor: str) -> str:
    return LABELS.get(tensor, tensor)


def _tensor_family(name: str) -> str:
    found = (family for family, members in TENSOR_FAMILIES.items() if name in members)
    return next(found, _label(name))


def _launch_family(name: str) -> str:
    direction = name.rpartition(" ")[2]
    if name.startswith("flash_attention") and direction in ("forward", "backward"):
        return f"FlashAttention {direction}"
    return next((family for family, members in LAUNCH_FAMILIES.items() if name in members), name)


def _launch_label(launch: Launch, name: str) -> str:
    """A product of attention is called by what it makes, not by its tile."""
    made = [LABELS[tensor] for tensor in launch.writes if tensor in LABELS]
    return made[0] if name.startswith("gemm") and len(made) == 1 else name


def sram_picture(runs: Runs, lanes: Sequence[Lane]) -> Picture | None:
    """SRAM held by resident blocks over time, as a share of all SMs' SRAM."""
    shown = [(lane, run) for lane, run in finished(runs, lanes) if len(run.records) <= _MOST_FILLS]
    if not shown:
        return None
    traces: list[Trace] = []
    rows: list[Row] = []
    for lane, run in shown:
        xs, ys = drawn_fill(run)
        rows += [(lane.name, x, y) for x, y in zip(xs, ys, strict=True)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": lane.label,
                "x": xs,
                "y": ys,
                "line": {"color": lane.color, "dash": lane.dash, "shape": "hv"},
            }
        )
    peaks = "; ".join(
        f"{lane.name}: at most {percent(max(fill(run)[1], default=0.0))} of the SMs' SRAM"
        for lane, run in shown
    )
    return Picture(
        key="sram_fill",
        title="SRAM fill over time",
        reading=peaks + ".",
        traces=traces,
        layout=layout(
            seconds_axis("time", max(run.time_ps for _, run in shown) * 1e-12),
            axis("share of all SMs' SRAM", tickformat=".0%", rangemode="tozero"),
        ),
        header=("variant", "time_s", "sram_fraction"),
        rows=rows,
    )


def drawn_fill(run: KernelResult) -> tuple[list[float], list[float]]:
    """As many points of it as a screen can show."""
    xs, ys = (np.array(column) for column in fill(run))
    kept = thinned(xs, ys)
    return xs[kept].tolist(), ys[kept].tolist()


def fill(run: KernelResult) -> tuple[list[float], list[float]]:
    """(times in seconds, share of the SRAM in use from then on)."""
    whole = run.plan.gpu.sram_bytes * run.plan.gpu.sm_count
    times: list[float] = []
    shares: list[float] = []
    for launch, record in zip(run.plan.launches, run.records, strict=True):
        for moment, count in record.resident:
            times.append(moment * 1e-12)
            shares.append(count * launch.sram_bytes_per_block / whole)
    return times, shares


MOST_SMS = 16
MOST_TILES = 3000
_COLORS = {"load": "@v5", "loop": "@v0", "store": "@v1"}


def gantt_pictures(runs: Runs, lanes: Sequence[Lane]) -> list[Picture]:
    """One picture per traced variant: its first SMs, the resident blocks of an SM below each other."""
    return [
        _gantt(lane, [tile for record in run.records for tile in record.tiles])
        for lane, run in finished(runs, lanes)
        if any(record.tiles for record in run.records)
    ]


def _gantt(lane: Lane, tiles: Sequence[Tile]) -> Picture:
    shown = [tile for tile in tiles if tile.sm < MOST_SMS][:MOST_TILES]
    rows_of = _rows(shown)
    traces: list[Trace] = []
    for phase in dict.fromkeys(tile.phase for tile in shown):
        chosen = [tile for tile in shown if tile.phase == phase]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": phase,
                "y": [rows_of[tile.block] for tile in chosen],
                "base": [tile.start_ps * 1e-6 for tile in chosen],
                "x": [(tile.end_ps - tile.start_ps) * 1e-6 for tile in chosen],
                "marker": {"color": _COLORS.get(phase, "@v2"), "line": {"color": "@paper", "width": 1}},
            }
        )
    rows: list[Row] = [
        (tile.sm, tile.block, tile.phase, tile.index, tile.start_ps * 1e-12, tile.end_ps * 1e-12)
        for tile in shown
    ]
    last = max(tile.end_ps for tile in tiles) * 1e-12
    blocks = len({tile.block for tile in tiles})
    cut = "" if len(shown) == len(tiles) else f" Shown: the first {MOST_SMS} SMs."
    return Picture(
        key=f"tiles_{lane.index}",
        title=f"Tiles on SMs over time: {lane.label}",
        reading=f"{blocks} thread blocks in {len(tiles)} tiles end after {seconds(last)}.{cut}",
        traces=traces,
        layout=layout(
            axis("time, µs"), axis("SM / slot", autorange="reversed", type="category"), barmode="overlay"
        ),
        header=("sm", "block", "phase", "tile", "start_s", "end_s"),
        rows=rows,
        height_px=160 + 18 * len(set(rows_of.values())),
    )


def _rows(tiles: Sequence[Tile]) -> dict[int, str]:
    """A row for each block: its SM, and the first slot of it that is free when the block starts."""
    begin: dict[int, int] = {}
    end: dict[int, int] = {}
    place: dict[int, int] = {}
    for tile in tiles:
        begin[tile.block] = min(begin.get(tile.block, tile.start_ps), tile.start_ps)
        end[tile.block] = max(end.get(tile.block, 0), tile.end_ps)
        place[tile.block] = tile.sm
    slots: dict[int, list[int]] = {}
    found: dict[int, str] = {}
    for block in sorted(begin, key=lambda one: (begin[one], one)):
        free = slots.setdefault(place[block], [])
        slot = next((index for index, until in enumerate(free) if until <= begin[block]), len(free))
        if slot == len(free):
            free.append(0)
        free[slot] = end[block]
        found[block] = f"SM {place[block]:02d} / {slot}"
    return dict(sorted(found.items(), key=lambda item: item[1]))
