"""A folder of measured times: kernels of one model on one device, and how to read between them.

    price_table.yaml    what was measured (``PriceTable`` names every key)
    per_token.csv       operator,tokens,time_s              one call, by tokens in the step
    per_sequence.csv    operator,sequences,time_s           one call, by sequences that sample
    attention.csv       prefill_tokens,prefill_context,num_decode,decode_context,time_s
                        one layer: a chunk of prefill_tokens after prefill_context tokens, together with
                        num_decode sequences of decode_context tokens each; 0 where there is none

Between measurements times are linear in every size; beyond the last one they go on with its slope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.cost.attention_grid import AXES, AttentionGrid, attention_grid
from sim.cost.roofline import Floats
from sim.errors import ScenarioError
from sim.loading.csv_lines import csv_lines
from sim.loading.place import Place
from sim.loading.strict_yaml import load_yaml
from sim.model import ModelShape
from sim.suggest import did_you_mean

HEADER = "price_table.yaml"
FORMAT = 1
SHAPE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
KEYS = ("format", "device", "model", "tensor_parallel_size", "shape", "calls", "source", "notes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Seconds of one call by size, ascending."""

    sizes: Floats
    seconds: Floats

    def at(self, sizes: Floats) -> Floats:
        """Linear between the measurements, with the last slope beyond them, at least 0."""
        inside = np.interp(sizes, self.sizes, self.seconds)
        if len(self.sizes) > 1:
            rise = (self.seconds[-1] - self.seconds[-2]) / (self.sizes[-1] - self.sizes[-2])
            inside = inside + np.maximum(sizes - self.sizes[-1], 0.0) * max(float(rise), 0.0)
        result: Floats = np.where(sizes > 0, inside, 0.0)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """Measured times of one model on one device."""

    device: str
    model: str
    tensor_parallel_size: int
    shape: Mapping[str, int]  # what the model must have for these times to be its own
    calls: Mapping[str, int]  # calls per layer of each operator of per_token.csv; 0: once in a step
    source: str
    per_token: Mapping[str, Curve]
    per_sequence: Mapping[str, Curve]
    attention: AttentionGrid


def load_price_table(path: Path) -> PriceTable:
    """The table in a folder (or named by its ``price_table.yaml``)."""
    folder = path.parent if path.name == HEADER else path
    file = folder / HEADER
    if not file.is_file():
        raise ScenarioError(
            "no such price table",
            path="engine.price_table",
            given=str(path),
            hint=f"a folder with {HEADER}; `python -m calibrate import` makes one",
        )
    place = Place(file=str(file))
    given = load_yaml(file)
    if not isinstance(given, Mapping):
        raise place.error("expected a mapping", allowed=", ".join(KEYS))
    header = read_header(given, place)
    per_token = read_curves(folder / "per_token.csv", "tokens")
    per_sequence = read_curves(folder / "per_sequence.csv", "sequences")
    absent = sorted(set(per_token) - set(header["calls"]))
    if absent:
        raise place.child("calls").error(f"does not say how often {', '.join(absent)} is called in a layer")
    return PriceTable(
        **header,
        per_token=per_token,
        per_sequence=per_sequence,
        attention=attention_grid(read_rows(folder / "attention.csv", (*AXES, "time_s"))),
    )


def read_header(given: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The header's fields, checked."""
    for name in given:
        if name not in KEYS:
            problem = f"unknown field{did_you_mean(str(name), KEYS)}"
            raise place.child(str(name)).error(problem, allowed=", ".join(KEYS))
    absent = [name for name in KEYS if name not in given and name != "notes"]
    if absent:
        raise place.error(f"missing: {', '.join(absent)}")
    if given["format"] != FORMAT:
        raise place.child("format").error("not a format that is known", given=given["format"], allowed="1")
    for name in ("device", "model", "source"):
        if not isinstance(given[name], str) or not given[name].strip():
            raise place.child(name).error("expected a text", given=given[name])
    return {
        "device": given["device"],
        "model": given["model"],
        "source": given["source"],
        "tensor_parallel_size": whole(
            given["tensor_parallel_size"], place.child("tensor_parallel_size"), low=1
        ),
        "shape": wholes(given["shape"], place.child("shape"), allowed=SHAPE_KEYS, low=1),
        "calls": wholes(given["calls"], place.child("calls"), allowed=None, low=0),
    }


def wholes(given: object, place: Place, *, allowed: tuple[str, ...] | None, low: int) -> dict[str, int]:
    """A mapping of names to whole numbers."""
    if not isinstance(given, Mapping):
        raise place.error("expected a mapping of names to whole numbers", given=given)
    for name in given:
        if allowed is not None and name not in allowed:
            raise place.child(str(name)).error("unknown field", allowed=", ".join(allowed))
    return {str(name): whole(one, place.child(str(name)), low=low) for name, one in given.items()}


def whole(given: object, place: Place, *, low: int) -> int:
    """A whole number of at least ``low``."""
    if not isinstance(given, int) or isinstance(given, bool) or given < low:
        raise place.error("expected a whole number", given=given, allowed=f"{low} or more")
    return given


def read_rows(file: Path, columns: tuple[str, ...]) -> dict[str, Floats]:
    """A CSV's columns as numbers; ``operator`` is left to ``read_curves``."""
    _, rows = read_csv(file, columns)
    return {name: np.array([row[i] for row in rows]) for i, name in enumerate(columns)}


def read_curves(file: Path, size: str) -> dict[str, Curve]:
    """Every operator's curve of a CSV."""
    operators, rows = read_csv(file, ("operator", size, "time_s"))
    curves: dict[str, Curve] = {}
    for operator in sorted(set(operators)):
        points = sorted(
            (row[0], row[1]) for name, row in zip(operators, rows, strict=True) if name == operator
        )
        sizes = np.array([point[0] for point in points])
        if len(set(sizes.tolist())) != len(sizes):
            raise ScenarioError(f"{operator} has two times at one size", file=str(file), path=size)
        curves[operator] = Curve(sizes=sizes, seconds=np.array([point[1] for point in points]))
    return curves


def read_csv(file: Path, columns: tuple[str, ...]) -> tuple[list[str], list[list[float]]]:
    """(operators, numbers) of a CSV that has exactly ``columns``."""
    if not file.is_file():
        raise ScenarioError("the price table lacks a file", file=str(file), allowed=",".join(columns))
    operators: list[str] = []
    rows: list[list[float]] = []
    for line, cells in csv_lines(file):
        where = f"{file}:{line}"
        if line == 1:
            if tuple(cells) != columns:
                raise ScenarioError("wrong header line", file=where, allowed=",".join(columns))
            continue
        if len(cells) != len(columns):
            problem = f"wrong number of columns: {len(cells)}, not {len(columns)}"
            raise ScenarioError(problem, file=where, given=cells, allowed=",".join(columns))
        named = dict(zip(columns, cells, strict=True))
        if columns[0] == "operator":
            operators.append(named.pop("operator"))
        rows.append([number(cell, where, name) for name, cell in named.items()])
    if not rows:
        raise ScenarioError("no rows", file=str(file), allowed=",".join(columns))
    return operators, rows


def number(cell: str, where: str, column: str) -> float:
    """A finite number, 0 or more."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ScenarioError(
            "expected a number", file=where, path=column, given=cell, allowed="a finite number, 0 or more"
        )
    return value


def check_model(table: PriceTable, model: ModelShape, tensor_parallel_size: int) -> None:
    """The scenario's model must have the table's shape; its number of layers is free."""
    path = "engine.price_table"
    for name, size in table.shape.items():
        own = getattr(model, name)
        if own != size:
            raise ScenarioError(
                f"the table is of {table.model} ({name} {size}), the scenario's model has {name} {own}",
                path=path,
            )
    if table.tensor_parallel_size != tensor_parallel_size:
        raise ScenarioError(
            f"the table was measured with tensor_parallel_size {table.tensor_parallel_size}",
            path=path,
            given=tensor_parallel_size,
        )
