"""Writes a price table: ``price_table.yaml`` and three CSV files (see ``sim.price.providers.table``)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sim.price.providers.table import AXES, FORMAT, HEADER, PriceTable, load_price_table

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One model's kernels on one device; times in seconds."""

    device: str
    model: str
    tensor_parallel_size: int
    shape: Mapping[str, int]
    calls: Mapping[str, int]  # per layer; 0: once in a step
    source: str
    per_token: Sequence[Row]  # operator, tokens, time_s
    per_sequence: Sequence[Row]  # operator, sequences, time_s
    attention: Sequence[Row]  # prefill_tokens, prefill_context, num_decode, decode_context, time_s
    notes: str = ""


def write_table(measured: Measured, folder: Path) -> PriceTable:
    """Writes the folder and reads it back, so that what cannot be used is refused here."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "format": FORMAT,
        "device": measured.device,
        "model": measured.model,
        "tensor_parallel_size": measured.tensor_parallel_size,
        "shape": dict(measured.shape),
        "calls": dict(measured.calls),
        "source": measured.source,
        "notes": measured.notes,
    }
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=100)
    (folder / HEADER).write_text(text, encoding="utf-8")
    write_csv(folder / "per_token.csv", ("operator", "tokens", "time_s"), measured.per_token)
    write_csv(folder / "per_sequence.csv", ("operator", "sequences", "time_s"), measured.per_sequence)
    write_csv(folder / "attention.csv", (*AXES, "time_s"), measured.attention)
    return load_price_table(folder)


def write_csv(file: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """The rows, numbers to seven digits."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([f"{cell:.7g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
