"""The block map: which request holds which KV address, over time; which are shared, cached and evicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, in_runs, layout, percent
from sim.scenario.dataclass import dataclass
from sim.serving.records import CACHED, EVICTED, OWNED, SHARED, BlockMap, RunResult

GRID_ROWS, GRID_COLUMNS = 200, 300
MAX_ROWS = 300
MAX_MAPS = 6
LIFETIMES_SHOWN = 6
CROPPED_BELOW = 0.75
FREE = -1
NUM_COLORS = 8
MARK_COLUMNS = 3  # an eviction is a moment; so wide it can be seen
STATES = ("owned", "shared", "cached", "evicted")  # by a rectangle's kind
KEY = (
    ("shared by several requests", "shared"),
    ("cached, no owner", "cached"),
    ("evicted here", "limit"),
)
Grid = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The part of the map that is drawn: a stretch of time, and a range of addresses."""

    start_ps: int
    end_ps: int
    top_tokens: int
    bottom_tokens: int = 0


def view_of(block_map: BlockMap) -> View:
    """A few lifetimes around the middle, so that rectangles can be seen; no empty part above or below."""
    first, last = int(block_map.start_ps.min(initial=0)), int(block_map.end_ps.max(initial=1))
    lifetimes = (block_map.end_ps - block_map.start_ps)[block_map.kind <= SHARED]
    typical = int(np.median(lifetimes)) if lifetimes.size else last - first
    length = min(last - first, max(1, LIFETIMES_SHOWN * typical))
    start = max(first, (first + last - length) // 2)
    end = start + max(1, length)
    inside = _inside(block_map, start, end)
    capacity = block_map.capacity_tokens
    lowest = int(block_map.address_tokens[inside].min(initial=capacity))
    highest = int((block_map.address_tokens + block_map.size_tokens)[inside].max(initial=0))
    top, bottom = capacity, 0
    if 0 < highest - lowest < CROPPED_BELOW * capacity:
        margin = (highest - lowest) // 10
        top, bottom = min(capacity, highest + margin), max(0, lowest - margin)
    return View(start_ps=start, end_ps=end, top_tokens=top, bottom_tokens=bottom)


def _inside(block_map: BlockMap, start_ps: int, end_ps: int) -> npt.NDArray[np.bool_]:
    """Rectangles that reach into the stretch."""
    return np.asarray((block_map.start_ps < end_ps) & (block_map.end_ps > start_ps))


def raster(block_map: BlockMap, view: View, shape: tuple[int, int] = (GRID_ROWS, GRID_COLUMNS)) -> Grid:
    """Who holds the address in each row's middle at each column's middle; -1 where nobody does.

    A cached block is held by the request whose content it keeps.
    """
    grid: Grid = np.full(shape, FREE, dtype=np.int32)
    for i, rows, columns in _cells(block_map, view, shape):
        grid[rows, columns] = block_map.request[i]
    return grid


def states(block_map: BlockMap, view: View, shape: tuple[int, int] = (GRID_ROWS, GRID_COLUMNS)) -> Grid:
    """Of the same cells, the kind of rectangle; the last ones before an eviction say ``EVICTED``."""
    grid: Grid = np.full(shape, FREE, dtype=np.int32)
    for i, rows, columns in _cells(block_map, view, shape):
        kind = int(block_map.kind[i])
        grid[rows, columns] = CACHED if kind == EVICTED else kind
        if kind == EVICTED and block_map.end_ps[i] < view.end_ps:
            grid[rows, max(columns.start, columns.stop - MARK_COLUMNS) : columns.stop] = EVICTED
    return grid


def _cells(block_map: BlockMap, view: View, shape: tuple[int, int]) -> Iterator[tuple[int, slice, slice]]:
    """The cells of each rectangle that covers some cell's middle."""
    rows, columns = shape
    row_step = (view.top_tokens - view.bottom_tokens) / rows
    column_step = (view.end_ps - view.start_ps) / columns

    def cells(values: Ints, origin: int, step: float, count: int) -> Ints:
        return np.clip(np.ceil((values - origin) / step - 0.5), 0, count).astype(np.int64)

    top = cells(block_map.address_tokens, view.bottom_tokens, row_step, rows)
    bottom = cells(block_map.address_tokens + block_map.size_tokens, view.bottom_tokens, row_step, rows)
    left = cells(block_map.start_ps, view.start_ps, column_step, columns)
    right = cells(block_map.end_ps, view.start_ps, column_step, columns)
    for i in np.flatnonzero((bottom > top) & (right > left)).tolist():
        yield i, slice(int(top[i]), int(bottom[i])), slice(int(left[i]), int(right[i]))


def held_fraction(block_map: BlockMap, view: View, kinds: tuple[int, ...] = (OWNED, SHARED)) -> float:
    """Share of all addresses that somebody owns (or that are of these kinds), averaged over the stretch."""
    lasts = np.minimum(block_map.end_ps, view.end_ps) - np.maximum(block_map.start_ps, view.start_ps)
    sizes = np.where(np.isin(block_map.kind, kinds), block_map.size_tokens, 0).astype(np.float64)
    area = float((np.maximum(lasts, 0) * sizes).sum())
    return area / (view.end_ps - view.start_ps) / block_map.capacity_tokens


def block_map_picture(result: RunResult, lane: Lane) -> Picture | None:
    """Address against time, coloured by request; None where the run kept no map."""
    block_map = result.block_map
    if block_map is None or not block_map.request.size:
        return None
    view = view_of(block_map)
    grid, drawn = raster(block_map, view), states(block_map, view)
    replica = f", replica {block_map.replica}" if result.scenario.replicas > 1 else ""
    return Picture(
        key=f"block_map_{lane.index}",
        group="block_map",
        title=f"Block map: {lane.name} (seed {result.seed}{replica})",
        reading=_reading(block_map, lane.name, view),
        traces=[_image(grid, drawn, view), *_key(drawn)],
        layout=layout(axis("time (s)"), axis("KV address (tokens)")),
        header=("address_tokens", "size_tokens", "start_s", "end_s", "request", "state"),
        rows=_rows(block_map, view),
        height_px=440,
    )


def _image(grid: Grid, kinds: Grid, view: View) -> Trace:
    """One heat map: a request's number picks one of a few colours, free memory the background.

    Shared, cached and evicted cells have colours of their own, above those of the requests.
    """
    # A multiplicative hash: neighbours in the queue get different colours, the same ones on every run.
    hashed = (grid.astype(np.uint32) * np.uint32(2654435761)) >> np.uint32(16)
    picked = np.where(grid == FREE, 0, 1 + hashed % NUM_COLORS)
    picked = np.where(kinds >= SHARED, NUM_COLORS + kinds, picked).astype(np.uint8)
    inks = ["@free", *(f"@v{i}" for i in range(NUM_COLORS)), *(f"@{ink}" for _, ink in KEY)]
    stops: list[list[float | str]] = []
    for index, ink in enumerate(inks):
        stops += [[index / len(inks), ink], [(index + 1) / len(inks), ink]]
    column_s = (view.end_ps - view.start_ps) / grid.shape[1] / PS_PER_S
    row_tokens = (view.top_tokens - view.bottom_tokens) / grid.shape[0]
    return {
        "type": "heatmap",
        "z": in_runs(picked),
        "zmin": -0.5,
        "zmax": len(inks) - 0.5,
        "colorscale": stops,
        "customdata": in_runs(grid),
        "x0": view.start_ps / PS_PER_S + column_s / 2,
        "dx": column_s,
        "y0": view.bottom_tokens + row_tokens / 2,
        "dy": row_tokens,
        "showscale": False,
        "zsmooth": False,
        "hovertemplate": "address %{y:.0f}, %{x:.3f} s: request %{customdata}<extra></extra>",
    }


def _key(drawn: Grid) -> list[Trace]:
    """The meaning of the colours that stand for no request, of those that are drawn."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [None],
            "y": [None],
            "name": name,
            "marker": {"symbol": "square", "size": 11, "color": f"@{ink}"},
        }
        for kind, (name, ink) in enumerate(KEY, start=SHARED)
        if (drawn == kind).any()
    ]


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
            STATES[int(block_map.kind[i])],
        )
        for i in inside
    ]


def _reading(block_map: BlockMap, name: str, view: View) -> str:
    """How much is held, by how many, in pieces of what size."""
    inside = _inside(block_map, view.start_ps, view.end_ps)
    held_now = inside & (block_map.kind <= SHARED)
    sizes = block_map.size_tokens[held_now]
    piece = f"pieces of {digits(float(np.median(sizes)))} tokens" if sizes.size else "no pieces"
    requests = np.unique(block_map.request[held_now]).size
    held = percent(held_fraction(block_map, view))
    cropped = ""
    if view.top_tokens - view.bottom_tokens < block_map.capacity_tokens:
        cropped = (
            f" Of {block_map.capacity_tokens:,} addresses, those outside the picture are free all along."
        )
    part = " Only the first part of the run was kept." if block_map.is_truncated else ""
    if inside.sum() > MAX_ROWS:
        part += f" The numbers below are the first {MAX_ROWS} of {inside.sum():,} pieces."
    return (
        f"{name}: {requests:,} requests hold {held} of the addresses in this stretch, in {piece}. "
        f"Each colour is a request (colours repeat), the background is free.{_caching(block_map, view)}"
        f"{cropped}{part}"
    )


def _caching(block_map: BlockMap, view: View) -> str:
    """How much is shared, how much is cached without an owner, and how much is evicted."""
    if not (block_map.kind >= SHARED).any():
        return ""
    shared = percent(held_fraction(block_map, view, (SHARED,)))
    cached = percent(held_fraction(block_map, view, (CACHED, EVICTED)))
    ends_here = (block_map.end_ps > view.start_ps) & (block_map.end_ps <= view.end_ps)
    lost = int(block_map.size_tokens[(block_map.kind == EVICTED) & ends_here].sum()) // block_map.block_size
    return (
        f" Several requests share {shared} of the addresses; {cached} are free with cached content that a "
        f"request may still hit; {lost:,} such blocks were evicted, taken for other content."
    )


def block_map_pictures(results: Mapping[str, Sequence[RunResult]], lanes: Sequence[Lane]) -> list[Picture]:
    """One per variant that kept a map, of the first ``MAX_MAPS``: its first such run."""
    shown = []
    for lane in lanes:
        run = next((one for one in results[lane.name] if one.block_map is not None), None)
        picture = block_map_picture(run, lane) if run is not None else None
        shown += [picture] if picture is not None else []
    return shown[:MAX_MAPS]
