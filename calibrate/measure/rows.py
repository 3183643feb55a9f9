"""The measurements as CSV: one file a family, one row a point, appended as soon as it is known."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from calibrate.measure.points import Point, kernel_counts, size_text

COLUMNS = (
    "kernel", "provider", "dtype", "size", "p50_s", "p20_s", "p80_s", "num_repeats", "flops", "hbm_bytes",
    "relative_error", "refused", "sm_clock_hz", "memory_clock_hz", "temperature_c", "power_w", "gpu",
    "driver", "cuda", "torch", "triton", "commit", "measured_at", "slot",
)  # fmt: skip
KEY = COLUMNS[:4]


def row_of(point: Point, found: Mapping[str, object]) -> dict[str, str]:
    """A row by column names; what is not known stays empty."""
    flops, hbm_bytes = kernel_counts(point)
    row: dict[str, object] = {
        "kernel": point.kernel, "provider": point.provider, "dtype": point.dtype,
        "size": size_text(dict(point.size)), "flops": f"{flops:.10g}", "hbm_bytes": f"{hbm_bytes:.10g}",
        **found,
    }  # fmt: skip
    return {name: "" if row.get(name) is None else str(row[name]) for name in COLUMNS}


def append(folder: Path, family: str, row: Mapping[str, str]) -> None:
    """Writes one row, closed again: what was measured survives whatever comes next."""
    file = folder / f"{family}.csv"
    is_new = not file.exists() or not file.stat().st_size
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def drop_cut_off_lines(folder: Path) -> list[Path]:
    """Takes the end of a file away that a killed run left without its newline: the point is measured again.

    Left alone, the next row would be written onto the same line. The files that were mended.
    """
    mended = []
    for file in sorted(folder.glob("*.csv")):
        written = file.read_bytes()
        if written and not written.endswith(b"\n"):
            file.write_bytes(written[: written.rfind(b"\n") + 1])
            mended.append(file)
    return mended


def known_keys(folder: Path) -> set[tuple[str, ...]]:
    """Points that have a row already."""
    known: set[tuple[str, ...]] = set()
    for file in sorted(folder.glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if reader.fieldnames and set(KEY) <= set(reader.fieldnames):
                known |= {tuple(row[name] for name in KEY) for row in reader}
    return known
