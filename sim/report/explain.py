"""The report of ``gpuyard explain``: operators, bounds, roofline, constants with their sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sim.hardware import HardwareProfile
from sim.price.explain import ConstantLine, OperatorLine
from sim.price.kernel_set import engine_kernels, kernel_words
from sim.price.priced import Priced
from sim.report.blocks import Block, Bullets, Cell, Code, Prose, Report, Section, Table
from sim.report.figures import (
    Lane,
    Picture,
    Row,
    Trace,
    axis,
    byte_ticks,
    digits,
    lanes,
    layout,
    percent,
    round_ticks,
    seconds_axis,
)
from sim.report.html import page, report_html
from sim.scenario.dataclass import dataclass
from sim.version import __version__

LEVEL_BYTES = ("sram_bytes", "l2_bytes", "hbm_bytes", "dram_bytes", "link_bytes")


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
    ys = [y for trace in traces for y in trace["y"]]
    said = "; ".join(f"{row[0]} at {percent(float(row[4] or 0))} of its roof" for row in rows) + "."
    return Picture(
        key="roofline",
        title=f"Roofline of {hardware.name}",
        reading=said + (f" Without FLOPs, so not in the picture: {', '.join(rest)}." if rest else ""),
        traces=traces,
        layout=layout(
            axis("FLOPs per byte of HBM", **round_ticks(low, high)),
            axis("TFLOP/s", **round_ticks(min(ys), max(ys), lambda value: f"{value / 1e12:,.6g}")),
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
            "x": [line.time_s for line in lines if line.bound == lane.name],
            "y": [line.name for line in lines if line.bound == lane.name],
            "marker": {"color": lane.color},
            "hovertemplate": "%{y}: %{x:.4~s}s<extra></extra>",
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
            seconds_axis("time in the step", longest[0].time_s),
            axis("", autorange="reversed", type="category", categoryarray=[line.name for line in lines]),
            barmode="stack",
        ),
        header=("operator", "bound", "time_s", "share"),
        rows=[(line.name, line.bound, line.time_s, line.share) for line in lines],
        height_px=140 + 28 * len(lines),
    )


def bytes_picture(lines: Sequence[OperatorLine]) -> Picture:
    """Bytes at every level, a bar per operator and level."""
    shown = [line for line in lines if any(getattr(line, level) for level in LEVEL_BYTES)]
    used = [level for level in LEVEL_BYTES if any(getattr(line, level) for line in shown)]
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
    sizes = [float(size) for trace in traces for size in trace["x"] if size]
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
            axis("moved in the step", **byte_ticks(min(sizes), max(sizes))),
            axis("", autorange="reversed", type="category"),
            barmode="group",
        ),
        header=("operator", *LEVEL_BYTES),
        rows=[(line.name, *(float(getattr(line, level)) for level in LEVEL_BYTES)) for line in shown],
        height_px=160 + 20 * len(shown) * max(1, len(used)),
    )


LEVELS = ("sram", "l2", "hbm", "dram", "link")


READ = (
    "of peak: the bound's time at full peak or bandwidth over the price",
    "SRAM: operands of the tiles, written once and read once; L2: what the SMs load and store",
    "DRAM: host memory, where nothing of a serving step lies",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What ``gpuyard explain`` found out, and the command that found it."""

    scenario: Priced
    sizes: Mapping[str, int]
    lines: Sequence[OperatorLine]
    constants: Sequence[ConstantLine]
    warnings: Sequence[str]
    command: str

    @property
    def time_s(self) -> float:
        """The whole step."""
        return sum(line.time_s for line in self.lines)

    @property
    def kernels(self) -> str:
        """The kernels that were priced, in words."""
        return f"kernels priced: {kernel_words(engine_kernels(self.scenario.engine))}"

    @property
    def title(self) -> str:
        """Which step on what."""
        engine = self.scenario.engine
        held = ", ".join(f"{name} {size:,}" for name, size in self.sizes.items() if size)
        split = [f"{name} {getattr(engine, name)}" for name in SPLITS if getattr(engine, name) > 1]
        where = ", ".join([f"{self.scenario.model.name} on {self.scenario.hardware.name}", *split])
        return f"One step of {where}: {held}"


SPLITS = ("tensor_parallel_size", "pipeline_parallel_size")


def operator_rows(found: Explained) -> list[dict[str, Any]]:
    """A row per operator in base units, for CSV and JSON."""
    return [asdict(line) for line in found.lines]


def as_json(found: Explained) -> dict[str, Any]:
    """Everything, in base units."""
    return {
        "step": dict(found.sizes),
        "model": found.scenario.model.name,
        "hardware": found.scenario.hardware.name,
        **{name: getattr(found.scenario.engine, name) for name in SPLITS},
        "time_s": found.time_s,
        "operators": operator_rows(found),
        "constants": [asdict(one) for one in found.constants],
        "warnings": list(found.warnings),
    }


def as_text(found: Explained, *, has_constants: bool = False) -> str:
    """The operators as a table; with ``has_constants`` every constant after it."""
    head = f"  {'operator':<18}{'launches':>9}{'GFLOP':>12}"
    head += "".join(f"{level.upper() if level != 'link' else level:>13}" for level in LEVELS)
    head += f"  {'bound':<8}{'of peak':>8}{'time us':>11}{'share':>8}  constants"
    rows = [_text_row(line) for line in found.lines]
    sums = f"  {'step':<18}{sum(x.launches for x in found.lines):>9,}"
    sums += f"{sum(x.flops for x in found.lines) / 1e9:>12,.2f}"
    sums += "".join(
        f"{_megabytes(sum(getattr(x, f'{one}_bytes') for x in found.lines)):>13}" for one in LEVELS
    )
    sums += f"  {'':<8}{'':>8}{found.time_s * 1e6:>11,.1f}{1:>8.1%}"
    read = (*READ, "bytes in MB, on one GPU of each stage", found.kernels)
    notes = [*(f"  {note}" for note in read), *_sources(found)]
    if has_constants:
        notes += ["", *(_constant_row(one) for one in found.constants)]
    warned = [f"  warning: {warning}" for warning in found.warnings]
    return "\n".join([found.title, "", head, *rows, sums, "", *notes, *warned])


def _text_row(line: OperatorLine) -> str:
    levels = "".join(f"{_megabytes(getattr(line, f'{level}_bytes')):>13}" for level in LEVELS)
    return (
        f"  {line.name:<18}{line.launches:>9,}{line.flops / 1e9:>12,.2f}{levels}  {line.bound:<8}"
        f"{line.efficiency:>8.0%}{line.time_s * 1e6:>11,.1f}{line.share:>8.1%}  {line.source}"
    )


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.1f}" if num_bytes else "-"


def _sources(found: Explained) -> list[str]:
    """Once per law: to what its constants were fitted, and how well."""
    fitted: dict[str, str] = {}
    for one in found.constants:
        law = one.name.split(".")[0]
        if one.source.startswith(("fitted to", "borrowed from")):
            fitted.setdefault(law, one.source)
    return [f"  {law}: {source}" for law, source in fitted.items()]


def _constant_row(one: ConstantLine) -> str:
    return f"  {one.name} = {one.value:.4g} {one.unit}".rstrip() + f" ({one.used_by}): {one.source}"


def render_explain_page(found: Explained) -> str:
    """The whole file."""
    report = explain_report(found)
    pictures = [picture for section in report.sections for picture in section.pictures]
    return page(title=found.title, body=report_html(report), pictures=pictures)


def explain_report(found: Explained) -> Report:
    """Answer, roofline, time and bytes, the table, every constant."""
    longest = max(found.lines, key=lambda line: line.time_s)
    answer = (
        f"The step takes {found.time_s * 1e3:,.3g} ms; {longest.name} takes {longest.share:.0%} of it, "
        f"{_why(longest)}."
    )
    pictures = [roofline_picture(found.scenario.hardware, found.lines), time_picture(found.lines)]
    pictures.append(bytes_picture(found.lines))
    sections = [
        Section(
            title="Where the time goes", blocks=[], pictures=[one for one in pictures if one is not None]
        ),
        Section(title="Operators", blocks=_operator_blocks(found)),
        Section(title="Constants and their sources", blocks=[_constants_table(found.constants)]),
    ]
    if found.warnings:
        warned = Section(title="Warnings", blocks=[Bullets(items=tuple(found.warnings))])
        sections.insert(1, warned)
    again: list[Block] = [Code(text=found.command), Prose(text=f"gpuyard {__version__}")]
    return Report(
        question=found.title,
        answer=answer,
        badges=(),
        sections=[*sections, Section(title="Again", blocks=again)],
    )


def _operator_blocks(found: Explained) -> list[Block]:
    return [_operators_table(found), *(Prose(text=f"{one}.") for one in READ)]


def _why(line: OperatorLine) -> str:
    if line.bound == "host":
        return "host time that no kernel hides"
    return f"bound by {line.bound} at {line.efficiency:.0%} of that peak"


def _operators_table(found: Explained) -> Table:
    """What a reader asks first stands first: on a phone the rest is scrolled to."""
    levels = tuple(f"{level} MB" for level in LEVELS)
    return Table(
        header=("operator", "time (us)", "share", "bound", "of peak", "launches", "GFLOP", *levels, "price"),
        rows=tuple(
            tuple(
                Cell(text=text)
                for text in (
                    line.name,
                    f"{line.time_s * 1e6:,.1f}",
                    f"{line.share:.1%}",
                    line.bound,
                    f"{line.efficiency:.0%}",
                    f"{line.launches:,}",
                    f"{line.flops / 1e9:,.2f}" if line.flops else "-",
                    *(_megabytes(getattr(line, f"{level}_bytes")) for level in LEVELS),
                    line.source,
                )
            )
            for line in found.lines
        ),
    )


def _constants_table(constants: Sequence[ConstantLine]) -> Table:
    rows = tuple(
        tuple(Cell(text=text) for text in (one.name, f"{one.value:.4g} {one.unit}", one.used_by, one.source))
        for one in constants
    )
    return Table(
        header=("constant", "value", "used by", "source"),
        rows=rows,
        is_text=True,
        summary=f"All {len(rows)} constants",
    )
