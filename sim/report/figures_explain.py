"""Pictures of a step taken apart: its operators under the roofline, their time, their bytes by level."""

from __future__ import annotations

from collections.abc import Sequence

from sim.cost.explain import OperatorLine
from sim.hardware import HardwareProfile
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, lanes, layout, percent

LEVELS = ("sram_bytes", "l2_bytes", "hbm_bytes", "dram_bytes", "link_bytes")
DASHES = ("solid", "dot", "dash", "dashdot")


def intensity(line: OperatorLine) -> float:
    """FLOPs per byte from and to HBM."""
    return line.flops / line.hbm_bytes if line.hbm_bytes else 0.0


def roofline_picture(hardware: HardwareProfile, lines: Sequence[OperatorLine]) -> Picture | None:
    """Every operator with FLOPs as a point under the device's roofs (Williams et al., CACM 2009)."""
    shown = [line for line in lines if line.flops and line.hbm_bytes and line.time_s]
    if not shown:
        return None
    low, high = min(map(intensity, shown)) / 3, max(map(intensity, shown)) * 3
    peaks = list(dict.fromkeys(line.peak for line in shown))
    high = max(high, 2 * max(hardware.peak_flops_per_s[peak] for peak in peaks) / hardware.hbm_bytes_per_s)
    traces = [_roof(hardware, peak, (low, high), DASHES[i % len(DASHES)]) for i, peak in enumerate(peaks)]
    rows: list[Row] = []
    for lane, line in zip(lanes([line.name for line in shown]), shown, strict=True):
        reached = line.flops / line.time_s
        roof = min(hardware.peak_flops_per_s[line.peak], intensity(line) * hardware.hbm_bytes_per_s)
        rows.append((line.name, intensity(line), reached, roof, reached / roof, line.bound))
        traces.append(_point(lane, line, reached))
    rest = [line.name for line in lines if line not in shown]
    said = "; ".join(f"{row[0]} at {percent(float(row[4] or 0))} of its roof" for row in rows) + "."
    return Picture(
        key="roofline",
        title=f"Roofline of {hardware.name}",
        reading=said + (f" Without FLOPs, so not in the picture: {', '.join(rest)}." if rest else ""),
        traces=traces,
        layout=layout(
            axis("FLOPs per byte of HBM", type="log", exponentformat="SI"),
            axis("FLOP/s", type="log", exponentformat="SI"),
        ),
        header=("operator", "flops_per_byte", "flops_per_s", "roof_flops_per_s", "roof_fraction", "bound"),
        rows=rows,
        height_px=440,
    )


def _roof(hardware: HardwareProfile, peak: str, ends: tuple[float, float], dash: str) -> Trace:
    rate, bandwidth = hardware.peak_flops_per_s[peak], hardware.hbm_bytes_per_s
    xs = sorted({ends[0], min(max(rate / bandwidth, ends[0]), ends[1]), ends[1]})
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"HBM {digits(bandwidth / 1e12)} TB/s, {peak} {digits(rate / 1e12)} TFLOP/s",
        "x": xs,
        "y": [min(rate, x * bandwidth) for x in xs],
        "line": {"color": "@muted", "dash": dash},
    }


def _point(lane: Lane, line: OperatorLine, reached: float) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": lane.label,
        "x": [intensity(line)],
        "y": [reached],
        "hovertemplate": f"{lane.label}: {line.bound}, {percent(line.share)} of the step"
        "<br>%{x:.3g} FLOPs per byte, %{y:.3s}FLOP/s<extra></extra>",
        "marker": {"color": lane.color, "size": 12, "symbol": lane.index % 8},
    }


def time_picture(lines: Sequence[OperatorLine]) -> Picture:
    """A bar per operator, coloured by what bounds it."""
    bounds = list(dict.fromkeys(line.bound for line in lines))
    traces: list[Trace] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": f"bound by {lane.label}",
            "x": [line.time_s * 1e6 for line in lines if line.bound == lane.name],
            "y": [line.name for line in lines if line.bound == lane.name],
            "marker": {"color": lane.color},
            "hovertemplate": "%{y}: %{x:,.1f} us<extra></extra>",
        }
        for lane in lanes(bounds)
    ]
    longest = sorted(lines, key=lambda line: -line.time_s)[:3]
    return Picture(
        key="time",
        title="Time by operator",
        reading=", ".join(f"{line.name} {percent(line.share)}" for line in longest) + " of the step.",
        traces=traces,
        layout=layout(
            axis("time in the step (us)"),
            axis("", autorange="reversed", type="category", categoryarray=[line.name for line in lines]),
            barmode="stack",
        ),
        header=("operator", "bound", "time_s", "share"),
        rows=[(line.name, line.bound, line.time_s, line.share) for line in lines],
        height_px=140 + 28 * len(lines),
    )


def bytes_picture(lines: Sequence[OperatorLine]) -> Picture:
    """Bytes at every level, a bar per operator and level."""
    shown = [line for line in lines if any(getattr(line, level) for level in LEVELS)]
    used = [level for level in LEVELS if any(getattr(line, level) for line in shown)]
    traces: list[Trace] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": lane.label.removesuffix("_bytes"),
            "x": [getattr(line, lane.name) or None for line in shown],
            "y": [line.name for line in shown],
            "marker": {"color": lane.color},
        }
        for lane in lanes(used)
    ]
    sums = {level: sum(getattr(line, level) for line in shown) for level in used}
    said = ", ".join(
        f"{level.removesuffix('_bytes')} {digits(size / 1e9)} GB" for level, size in sums.items()
    )
    return Picture(
        key="bytes",
        title="Bytes by level",
        reading=f"The step moves: {said}.",
        traces=traces,
        layout=layout(
            axis("bytes in the step", type="log", exponentformat="SI"),
            axis("", autorange="reversed", type="category"),
            barmode="group",
        ),
        header=("operator", *LEVELS),
        rows=[(line.name, *(float(getattr(line, level)) for level in LEVELS)) for line in shown],
        height_px=160 + 20 * len(shown) * max(1, len(used)),
    )
