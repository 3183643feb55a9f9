"""SM × time: every tile of a traced run, as bars."""

from __future__ import annotations

from collections.abc import Sequence

from sim.kernel.record import Tile
from sim.report.figures import Lane, Picture, Row, Trace, axis, layout, seconds
from sim.report.figures_kernel import Runs, finished

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
