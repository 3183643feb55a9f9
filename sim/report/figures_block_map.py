"""The block map: which request holds which KV address, over time."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.records import PS_PER_S, BlockMap, RunResult
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, layout, percent

GRID_ROWS, GRID_COLUMNS = 300, 400
MAX_ROWS = 4000
LIFETIMES_SHOWN = 12
CROPPED_BELOW = 0.75
FREE = -1
NUM_COLORS = 8
Grid = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The part of the map that is drawn: a stretch of time, and the addresses below ``top_tokens``."""

    start_ps: int
    end_ps: int
    top_tokens: int


def view_of(block_map: BlockMap) -> View:
    """About a dozen lifetimes around the middle, so that rectangles can be seen; no empty upper part."""
    first, last = int(block_map.start_ps.min(initial=0)), int(block_map.end_ps.max(initial=1))
    lifetimes = block_map.end_ps - block_map.start_ps
    typical = int(np.median(lifetimes)) if lifetimes.size else last - first
    length = min(last - first, max(1, LIFETIMES_SHOWN * typical))
    start = max(first, (first + last - length) // 2)
    end = start + max(1, length)
    inside = _inside(block_map, start, end)
    highest = int((block_map.address_tokens + block_map.size_tokens)[inside].max(initial=0))
    capacity = block_map.capacity_tokens
    is_cropped = 0 < highest < CROPPED_BELOW * capacity
    return View(start_ps=start, end_ps=end, top_tokens=highest * 11 // 10 if is_cropped else capacity)


def _inside(block_map: BlockMap, start_ps: int, end_ps: int) -> npt.NDArray[np.bool_]:
    """Rectangles that reach into the stretch."""
    return np.asarray((block_map.start_ps < end_ps) & (block_map.end_ps > start_ps))


def raster(block_map: BlockMap, view: View, shape: tuple[int, int] = (GRID_ROWS, GRID_COLUMNS)) -> Grid:
    """Who holds the address in each row's middle at each column's middle; -1 where nobody does."""
    rows, columns = shape
    grid: Grid = np.full(shape, FREE, dtype=np.int32)
    row_step = view.top_tokens / rows
    column_step = (view.end_ps - view.start_ps) / columns

    def cells(values: npt.NDArray[np.int64], origin: int, step: float, count: int) -> npt.NDArray[np.int64]:
        return np.clip(np.ceil((values - origin) / step - 0.5), 0, count).astype(np.int64)

    top = cells(block_map.address_tokens, 0, row_step, rows)
    bottom = cells(block_map.address_tokens + block_map.size_tokens, 0, row_step, rows)
    left = cells(block_map.start_ps, view.start_ps, column_step, columns)
    right = cells(block_map.end_ps, view.start_ps, column_step, columns)
    for i in np.flatnonzero((bottom > top) & (right > left)):
        grid[top[i] : bottom[i], left[i] : right[i]] = block_map.request[i]
    return grid


def held_fraction(block_map: BlockMap, view: View) -> float:
    """Share of all addresses that somebody holds, averaged over the stretch."""
    lasts = np.minimum(block_map.end_ps, view.end_ps) - np.maximum(block_map.start_ps, view.start_ps)
    area = float((np.maximum(lasts, 0) * block_map.size_tokens.astype(np.float64)).sum())
    return area / (view.end_ps - view.start_ps) / block_map.capacity_tokens


def block_map_picture(result: RunResult, lane: Lane) -> Picture | None:
    """Address against time, coloured by request; None where the run kept no map."""
    block_map = result.block_map
    if block_map is None or not block_map.request.size:
        return None
    view = view_of(block_map)
    grid = raster(block_map, view)
    replica = f", replica {block_map.replica}" if result.scenario.replicas > 1 else ""
    return Picture(
        key=f"block_map_{lane.index}",
        group="block_map",
        title=f"Block map: {lane.name} (seed {result.seed}{replica})",
        reading=_reading(block_map, lane.name, view),
        traces=[_image(grid, view)],
        layout=layout(axis("time (s)"), axis("KV address (tokens)", rangemode="tozero")),
        header=("address_tokens", "size_tokens", "start_s", "end_s", "request"),
        rows=_rows(block_map, view),
        sketch=_sketch(grid),
        height_px=440,
    )


def _image(grid: Grid, view: View) -> Trace:
    """One heat map: a request's number picks one of a few colours, free memory the background."""
    # A multiplicative hash: neighbours in the queue get different colours, the same ones on every run.
    hashed = (grid.astype(np.uint32) * np.uint32(2654435761)) >> np.uint32(16)
    picked = np.where(grid == FREE, 0, 1 + hashed % NUM_COLORS).astype(np.uint8)
    stops: list[list[float | str]] = []
    for index, ink in enumerate(["@free", *(f"@v{i}" for i in range(NUM_COLORS))]):
        stops += [[index / (NUM_COLORS + 1), ink], [(index + 1) / (NUM_COLORS + 1), ink]]
    column_s = (view.end_ps - view.start_ps) / grid.shape[1] / PS_PER_S
    row_tokens = view.top_tokens / grid.shape[0]
    return {
        "type": "heatmap",
        "z": packed(picked),
        "zmin": -0.5,
        "zmax": NUM_COLORS + 0.5,
        "colorscale": stops,
        "customdata": packed(grid.astype(np.int16) if int(grid.max()) < 32768 else grid),
        "x0": view.start_ps / PS_PER_S + column_s / 2,
        "dx": column_s,
        "y0": row_tokens / 2,
        "dy": row_tokens,
        "showscale": False,
        "zsmooth": False,
        "hovertemplate": "address %{y:.0f}, %{x:.3f} s: request %{customdata}<extra></extra>",
    }


def packed(values: npt.NDArray[np.generic]) -> dict[str, str]:
    """A two-dimensional array in plotly's binary form."""
    little = values.astype(values.dtype.newbyteorder("<"))
    kinds = {"uint8": "u1", "int16": "i2", "int32": "i4"}
    return {
        "dtype": kinds[values.dtype.name],
        "bdata": base64.b64encode(little.tobytes()).decode(),
        "shape": ",".join(map(str, values.shape)),
    }


def _rows(block_map: BlockMap, view: View) -> list[Row]:
    """The rectangles inside the stretch, the first few thousand of them."""
    inside = np.flatnonzero(_inside(block_map, view.start_ps, view.end_ps))[:MAX_ROWS]
    return [
        (
            int(block_map.address_tokens[i]),
            int(block_map.size_tokens[i]),
            float(block_map.start_ps[i] / PS_PER_S),
            float(block_map.end_ps[i] / PS_PER_S),
            int(block_map.request[i]),
        )
        for i in inside
    ]


def _reading(block_map: BlockMap, name: str, view: View) -> str:
    """How much is held, by how many, in pieces of what size."""
    inside = _inside(block_map, view.start_ps, view.end_ps)
    sizes = block_map.size_tokens[inside]
    piece = f"pieces of {digits(float(np.median(sizes)))} tokens" if sizes.size else "no pieces"
    requests = np.unique(block_map.request[inside]).size
    held = percent(held_fraction(block_map, view))
    cropped = ""
    if view.top_tokens < block_map.capacity_tokens:
        cropped = f" Of {block_map.capacity_tokens:,} addresses, those above the picture are free all along."
    part = " Only the first part of the run was kept." if block_map.is_truncated else ""
    return (
        f"{name}: {requests:,} requests hold {held} of the addresses in this stretch, in {piece}. "
        f"Each colour is a request (colours repeat), the background is free.{cropped}{part}"
    )


def _sketch(grid: Grid, rows: int = 12, columns: int = 60) -> str:
    """The map in letters: one per request, a dot where free, the highest address on top."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    picked_rows = np.linspace(grid.shape[0] - 1, 0, rows).astype(int)
    picked_columns = np.linspace(0, grid.shape[1] - 1, columns).astype(int)
    small = grid[np.ix_(picked_rows, picked_columns)]
    return "\n".join(
        "".join("." if cell == FREE else letters[int(cell) % 52] for cell in row) for row in small
    )


def block_map_pictures(results: Mapping[str, Sequence[RunResult]], lanes: Sequence[Lane]) -> list[Picture]:
    """One per variant that kept a map: its first such run."""
    shown = []
    for lane in lanes:
        run = next((one for one in results[lane.name] if one.block_map is not None), None)
        picture = block_map_picture(run, lane) if run is not None else None
        shown += [picture] if picture is not None else []
    return shown
