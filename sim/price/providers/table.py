"""The price from measured tables: reading them, and interpolating between measurements."""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sim.arrays import to_ps
from sim.errors import ScenarioError, did_you_mean
from sim.model.shape import ModelShape
from sim.price.overheads import LaunchedPrice, needs_launched_price
from sim.price.priced import Priced
from sim.price.providers.analytic import AnalyticTimes
from sim.price.roofline import Floats
from sim.price.step import Chunks, CompiledPrice
from sim.scenario.dataclass import dataclass
from sim.scenario.place import Place
from sim.scenario.strict_yaml import load_yaml


def csv_lines(file: Path, hint: str = "") -> Iterator[tuple[int, list[str]]]:
    """(line number, cells), the header's included; a spreadsheet's byte order mark is no part of it."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ScenarioError("not UTF-8 text", file=f"{file}:{line}", allowed="UTF-8", hint=hint) from None
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise ScenarioError(
            f"not a line of CSV: {error}", file=f"{file}:{reader.line_num}",
            allowed="no quote, or one at both ends of a cell", hint=hint,
        ) from None  # fmt: skip


AXES = ("prefill_tokens", "prefill_context", "num_decode", "decode_context")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGrid:
    """Seconds of one layer's attention at every point of the grid; linear between the points.

    Where no time was measured (a chunk with more decodes than memory holds) the grid has the sum of the two
    alone, less one launch.
    """

    points: tuple[tuple[float, ...], ...]  # ascending, by axis; 0 means none
    times_s: list[float]  # flat, last axis fastest
    floor_s: float  # the least time measured: what one launch takes

    def at(self, sizes: tuple[float, float, float, float]) -> float:
        """Seconds at one point; beyond the last point of an axis its slope goes on."""
        total = 0.0
        for offset, weight in self.corners(sizes):
            total += weight * self.times_s[offset]
        return max(total, 0.0)

    def corners(self, sizes: tuple[float, float, float, float]) -> list[tuple[int, float]]:
        """(offset in ``times_s``, weight) of the grid points around ``sizes``."""
        found = [(0, 1.0)]
        for axis, size in enumerate(sizes):
            points = self.points[axis]
            if size == points[0] or len(points) == 1:
                found = [(offset * len(points), weight) for offset, weight in found]
                continue
            low = min(bisect_right(points, size) - 1, len(points) - 2)
            if low < 0:
                low, share = 0, 0.0
            else:
                share = (size - points[low]) / (points[low + 1] - points[low])
            found = [
                (offset * len(points) + low + step, weight * part)
                for offset, weight in found
                for step, part in ((0, 1.0 - share), (1, share))
                if part
            ]
        return found


def attention_grid(rows: Mapping[str, Floats]) -> AttentionGrid:
    """The grid of measured rows, its gaps filled."""
    points = [np.unique(np.concatenate([[0.0], rows[name]])) for name in AXES]
    times = np.full([len(one) for one in points], np.nan)
    where = tuple(np.searchsorted(one, rows[name]) for one, name in zip(points, AXES, strict=True))
    times[where] = rows["time_s"]
    has_decode, has_prompt = len(points[2]) > 1, len(points[0]) > 1
    if not has_decode and not has_prompt:
        raise ScenarioError("no attention was measured", path="attention.csv")
    floor = float(np.nanmin(times))
    prompts = alone(times[:, :, 0, 0], points[0], points[1], floor)
    decodes = alone(times[0, 0], points[2], points[3], floor)
    both = prompts[:, :, None, None] + decodes[None, None] - floor
    filled = np.where(np.isnan(times), np.maximum(both, floor), times)
    filled[:, :, 0, :] = prompts[:, :, None]
    filled[:, :, :, 0] = filled[:, :, :, 0] if not has_decode else prompts[:, :, None]
    filled[0] = decodes[None]
    filled[0, :, 0, :] = floor
    filled[0, :, :, 0] = floor
    axes = tuple(tuple(one.tolist()) for one in points)
    return AttentionGrid(points=axes, times_s=filled.ravel().tolist(), floor_s=floor)


def alone(times: Floats, counts: Floats, contexts: Floats, floor: float) -> Floats:
    """Times by (how many, context) with every gap filled: one launch at 0, slopes going on beyond the end.

    ``times`` is NaN where nothing was measured.
    """
    filled = times.copy()
    for row in range(1, len(counts)):
        known = np.flatnonzero(~np.isnan(filled[row]))
        if len(known):
            filled[row] = carried_on(contexts, contexts[known], filled[row, known])
    whole = [row for row in range(1, len(counts)) if not np.isnan(filled[row]).any()]
    if not whole:
        return np.full_like(times, floor)
    for column in range(len(contexts)):
        filled[:, column] = carried_on(counts, counts[whole], filled[whole, column])
    filled[0] = floor
    return np.maximum(filled, floor)


def carried_on(at: Floats, sizes: Floats, values: Floats) -> Floats:
    """Linear between ``sizes``, the first value before them, the last slope (never falling) after them."""
    inside = np.interp(at, sizes, values)
    if len(sizes) > 1:
        rise = max(float((values[-1] - values[-2]) / (sizes[-1] - sizes[-2])), 0.0)
        inside = inside + np.maximum(at - sizes[-1], 0.0) * rise
    return inside


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
        given = getattr(model, name)
        if given != size:
            raise ScenarioError(
                f"the table is of {table.model} ({name} {size}), the scenario's model has {name} {given}",
                path=path,
            )
    if table.tensor_parallel_size != tensor_parallel_size:
        raise ScenarioError(
            f"the table was measured with tensor_parallel_size {table.tensor_parallel_size}",
            path=path,
            given=tensor_parallel_size,
        )


ALL_REDUCE = "all_reduce"


class TableTimes:
    """Kernel times of one model on one device, as they were measured."""

    def __init__(self, table: PriceTable, scenario: Priced) -> None:
        self.table = table
        self.num_layers = scenario.model.num_hidden_layers
        is_split = scenario.engine.tensor_parallel_size > 1
        self._exchange = AnalyticTimes(scenario) if is_split and ALL_REDUCE not in table.per_token else None

    def linear_s(self, tokens: Floats) -> dict[str, Floats]:
        """By operator of ``per_token.csv``: calls in a layer times layers, or once in a step."""
        layers = self.num_layers
        times = {
            name: curve.at(tokens) * ((self.table.calls[name] * layers) or 1)
            for name, curve in self.table.per_token.items()
        }
        if self._exchange is not None:
            times[ALL_REDUCE] = self._exchange.all_reduce_s(tokens)
        return times

    def head_s(self, sequences: Floats) -> dict[str, Floats]:
        """By operator of ``per_sequence.csv``, once in a step."""
        return {name: curve.at(sequences) for name, curve in self.table.per_sequence.items()}

    def chunk_s(self, queries: Floats, cached: Floats) -> Floats:
        """Attention of one prompt chunk, all layers."""
        grid = self.table.attention
        times = [
            grid.at((q, c, 0.0, 0.0)) if q else 0.0
            for q, c in zip(queries.tolist(), cached.tolist(), strict=True)
        ]
        return self.num_layers * np.array(times)

    def decode_s(self, sequences: Floats, context_tokens: Floats) -> Floats:
        """Attention of decoding sequences, all layers."""
        grid = self.table.attention
        times = [
            grid.at((0.0, 0.0, n, total / n)) if n else 0.0
            for n, total in zip(sequences.tolist(), context_tokens.tolist(), strict=True)
        ]
        return self.num_layers * np.array(times)

    def together_s(self, chunks: Chunks, num_decode: int, context_tokens: int) -> float:
        """Attention of a step that has prompts and decodes, all layers."""
        grid = self.table.attention
        largest = max(range(len(chunks)), key=lambda i: chunks[i][0] * (chunks[i][1] + chunks[i][0]))
        queries, cached = chunks[largest][0], chunks[largest][1]
        time = grid.at((queries, cached, num_decode, context_tokens / num_decode))
        for index, chunk in enumerate(chunks):
            if index != largest:
                time += max(grid.at((chunk[0], chunk[1], 0.0, 0.0)) - grid.floor_s, 0.0)
        return self.num_layers * time

    def warnings(self) -> tuple[str, ...]:
        """What the times are of."""
        whose = f"{self.table.model} on {self.table.device}"
        law = "; all-reduces, which it has not, from the profile" if self._exchange is not None else ""
        return (f"priced from measured tables of {whose}{law}",)


class TablePrice(CompiledPrice):
    """Measured kernel times as tables; mixed steps are looked up as they are."""

    def __init__(self, scenario: Priced, table: PriceTable) -> None:
        check_model(table, scenario.model, scenario.engine.tensor_parallel_size)
        self.measured = TableTimes(table, scenario)
        super().__init__(scenario, self.measured)

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> int:
        """One step; see ``StepPrice``."""
        if not num_decode or not chunks or drafts:
            return super().step_ps(num_decode, context_tokens, chunks, drafts)
        tokens = num_decode + sum(chunk[0] for chunk in chunks)
        sampling = num_decode + sum(chunk[2] for chunk in chunks)
        attention = to_ps(self.measured.together_s(chunks, num_decode, context_tokens))
        host_step, host_sequence = self.overheads_ps
        host = host_step + host_sequence * (num_decode + len(chunks))
        return self.linear_ps(tokens) + self.head_ps(sampling) + attention + host


class LaunchedTablePrice(LaunchedPrice, TablePrice):
    """The same under the host's time."""


def table_price(scenario: Priced, base_dir: Path) -> TablePrice:
    """The price that ``engine.price_table`` names, relative to the scenario file."""
    table = load_price_table(base_dir / (scenario.engine.price_table or ""))
    return (LaunchedTablePrice if needs_launched_price(scenario) else TablePrice)(scenario, table)
