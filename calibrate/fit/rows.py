"""The rows that ``calibrate/measure`` wrote, read back and checked: file, line and column of what is wrong.

Every family's file may be absent or half full: a fit takes what is there. Refused points are counted and left
out. Not checked: whether a time is plausible for its size; the fit's errors show that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from calibrate.measure.points import Point, all_points, kernel_counts
from calibrate.measure.rows import COLUMNS, KEY
from kernels import KERNELS
from sim.errors import ScenarioError
from sim.price.providers.table import csv_lines

NEEDED = (*KEY, "p50_s", "p20_s", "p80_s", "refused", "gpu")
MAX_SECONDS = 3600.0
MAX_LENGTH = 2**40
AGAIN = "delete this line: `python -m calibrate measure` then measures the point again"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One timed point. ``versions`` is what measured it: GPU, driver, CUDA, torch and Triton."""

    point: Point
    p50_s: float
    p20_s: float
    p80_s: float
    flops: float
    hbm_bytes: float
    gpu: str
    versions: str
    measured_at: str

    @property
    def size(self) -> dict[str, int]:
        """Lengths by axis."""
        return dict(self.point.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """All timed points of one folder, that is of one device, in the order of their points."""

    folder: Path
    rows: tuple[MeasuredRow, ...]
    num_refused: int

    def of(self, kernel: str, *, dtype: str = "", providers: tuple[str, ...] = ()) -> list[MeasuredRow]:
        """The rows of a kernel."""
        return [
            row
            for row in self.rows
            if row.point.kernel == kernel
            and dtype in ("", row.point.dtype)
            and (not providers or row.point.provider in providers)
        ]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file, by column name."""

    file: Path
    number: int
    cells: Mapping[str, str]

    def error(self, problem: str, column: str = "", *, allowed: str = "", hint: str = "") -> ScenarioError:
        """A complaint that names file, line and column."""
        given = self.cells.get(column) if column else None
        where = f"{self.file}:{self.number}"
        return ScenarioError(problem, file=where, path=column, given=given, allowed=allowed, hint=hint)


def families() -> tuple[str, ...]:
    """Families of the plan: each is a file of that name."""
    return tuple(dict.fromkeys(point.family for point in all_points()))


def is_measured_folder(folder: Path) -> bool:
    """Is this a folder that ``measure`` has written to?"""
    return any((folder / f"{family}.csv").is_file() for family in families())


def read_measurements(folder: Path) -> Measurements:
    """Every row of every family's file; a ScenarioError for the first that cannot be meant."""
    lines = [line for family in families() for line in lines_of(folder / f"{family}.csv", family)]
    if not lines:
        allowed = ", ".join(f"{family}.csv" for family in families())
        raise ScenarioError("no measurements here", file=str(folder), allowed=allowed)
    first: dict[tuple[str, ...], Line] = {}
    for line in lines:
        key = tuple(line.cells[name] for name in KEY)
        if key in first:
            raise line.error(f"the same point as line {first[key].number}", "size", hint="delete one of them")
        first[key] = line
    found = sorted(
        (row_of(line) for line in lines if not line.cells["refused"]), key=lambda row: row.point.key
    )  # whatever the order of measuring was, the fit is the same to the last bit
    one_device(lines)
    return Measurements(folder=folder, rows=tuple(found), num_refused=len(lines) - len(found))


def lines_of(file: Path, family: str) -> Iterator[Line]:
    """The lines of a file, cut into cells; nothing where there is no file."""
    if not file.is_file():
        return
    records = list(csv_lines(file, AGAIN))
    header = records[0][1] if records else []
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise ScenarioError(
            f"wrong header: {', '.join(missing)} missing", file=f"{file}:1", given=",".join(header),
            allowed=",".join(COLUMNS),
        )  # fmt: skip
    for number, cells in records[1:]:
        line = Line(file, number, dict(zip(header, cells, strict=False)) | {"family": family})
        if len(cells) != len(header):
            problem = f"{len(cells)} columns where the header has {len(header)}: is the line cut off?"
            raise line.error(problem, allowed=f"{len(header)} columns", hint=AGAIN)
        yield line


def known_kernels() -> Mapping[str, tuple[str, tuple[str, ...], frozenset[str], frozenset[str]]]:
    """Family, axes, providers and dtypes by kernel, as the plan has them; made anew for other ``KERNELS``."""
    return _kernels_of(tuple(KERNELS))


@cache
def _kernels_of(
    names: tuple[str, ...],
) -> Mapping[str, tuple[str, tuple[str, ...], frozenset[str], frozenset[str]]]:
    found: dict[str, tuple[str, tuple[str, ...], frozenset[str], frozenset[str]]] = {}
    for kernel in dict.fromkeys(point.kernel for point in all_points()):
        points = [point for point in all_points() if point.kernel == kernel]
        axes = tuple(axis for axis, _ in points[0].size)
        providers = frozenset(point.provider for point in points)
        found[kernel] = points[0].family, axes, providers, frozenset(point.dtype for point in points)
    return found


def row_of(line: Line) -> MeasuredRow:
    """A timed row from its line."""
    point = point_of(line)
    p20_s, p50_s, p80_s = (seconds(line, name) for name in ("p20_s", "p50_s", "p80_s"))
    if not p20_s <= p50_s <= p80_s:
        raise line.error("the percentiles do not ascend", "p50_s", allowed=f"{p20_s:g} to {p80_s:g}")
    flops, hbm_bytes = kernel_counts(point)
    names = ("driver", "cuda", "torch", "triton")
    stated = [f"{name} {line.cells[name]}" for name in names if line.cells.get(name)]
    return MeasuredRow(
        point=point, p50_s=p50_s, p20_s=p20_s, p80_s=p80_s, flops=flops, hbm_bytes=hbm_bytes,
        gpu=line.cells["gpu"], versions=", ".join([line.cells["gpu"], *stated]),
        measured_at=line.cells.get("measured_at", ""),
    )  # fmt: skip


def point_of(line: Line) -> Point:
    """Kernel, provider, dtype and size, each one that the plan could have."""
    kernels, cells = known_kernels(), line.cells
    if cells["kernel"] not in kernels:
        raise line.error("no such kernel", "kernel", allowed=", ".join(kernels))
    family, axes, providers, dtypes = kernels[cells["kernel"]]
    if family != cells["family"]:
        raise line.error("a kernel of another file", "kernel", allowed=f"in {family}.csv")
    for column, allowed in (("provider", providers), ("dtype", dtypes)):
        if cells[column] not in allowed:
            raise line.error(f"no such {column} of this kernel", column, allowed=", ".join(sorted(allowed)))
    return Point(
        family=family, kernel=cells["kernel"], provider=cells["provider"], dtype=cells["dtype"],
        size=size_of(line, axes),
    )  # fmt: skip


def size_of(line: Line, axes: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """ "M=1 N=2 K=3" as lengths by axis."""
    allowed = " ".join(f"{axis}=NUMBER" for axis in axes)
    pairs = [word.partition("=") for word in line.cells["size"].split()]
    if tuple(axis for axis, _, _ in pairs) != axes or not all(text.isdecimal() for _, _, text in pairs):
        raise line.error("not a size of this kernel", "size", allowed=allowed)
    lengths = tuple((axis, int(text)) for axis, _, text in pairs)
    if any(length < 1 and not axis.startswith(("is_", "has_")) for axis, length in lengths):
        raise line.error("a length of 0", "size", allowed="whole numbers of at least 1")
    if any(length > MAX_LENGTH for _, length in lengths):
        raise line.error("a length beyond any device", "size", allowed=f"at most {MAX_LENGTH:,}")
    return lengths


def seconds(line: Line, column: str) -> float:
    """A positive, finite time."""
    allowed = f"seconds above 0 and at most {MAX_SECONDS:g}, or a reason in the column `refused`"
    try:
        value = float(line.cells[column])
    except ValueError:
        raise line.error("expected a time in seconds", column, allowed=allowed, hint=AGAIN) from None
    if not (math.isfinite(value) and 0.0 < value <= MAX_SECONDS):
        raise line.error("not a time", column, allowed=allowed, hint=AGAIN)
    return value


def one_device(lines: list[Line]) -> None:
    """Rows of two GPUs in one folder cannot be one profile."""
    for line in lines:
        if line.cells["gpu"] != lines[0].cells["gpu"]:
            raise line.error(
                "measured on another GPU than the first row", "gpu", allowed=lines[0].cells["gpu"],
                hint="one folder a device: --data FOLDER",
            )  # fmt: skip
