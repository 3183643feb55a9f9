"""A kernel run's records as tables (launches, traffic by tensor, SRAM fill, tiles), and as a Chrome trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from sim.arrays import Column
from sim.kernel.run import KernelResult


def launch_columns(result: KernelResult) -> list[Column]:
    """One entry per launch."""
    pairs = list(zip(result.plan.launches, result.records, strict=False))
    return [
        _column("launch", "text", [launch.name for launch, _ in pairs]),
        _column("start_s", "time", [one.start_ps for _, one in pairs]),
        _column("end_s", "time", [one.end_ps for _, one in pairs]),
        _column("repeats", "count", [launch.repeats for launch, _ in pairs]),
        _column("num_blocks", "count", [launch.num_blocks for launch, _ in pairs]),
        _column("blocks_per_sm", "count", [launch.blocks_per_sm for launch, _ in pairs]),
        _column("sram_bytes_per_block", "count", [launch.sram_bytes_per_block for launch, _ in pairs]),
        _column("hbm_read_bytes", "count", [sum(launch.reads.values()) for launch, _ in pairs]),
        _column("hbm_write_bytes", "count", [sum(launch.writes.values()) for launch, _ in pairs]),
        *(
            _column(f"{bound}_bound_s", "time", [one.bound_ps[bound] for _, one in pairs])
            for bound in ("compute", "memory", "latency")
        ),
    ]


def traffic_columns(result: KernelResult) -> list[Column]:
    """One entry per launch and tensor."""
    rows = [
        (launch.name, tensor, launch.reads.get(tensor, 0), launch.writes.get(tensor, 0))
        for launch in result.plan.launches
        for tensor in {**launch.reads, **launch.writes}
    ]
    return [
        _column("launch", "text", [row[0] for row in rows]),
        _column("tensor", "text", [row[1] for row in rows]),
        _column("read_bytes", "count", [row[2] for row in rows]),
        _column("write_bytes", "count", [row[3] for row in rows]),
    ]


def sram_columns(result: KernelResult) -> list[Column]:
    """SRAM held by resident blocks, all SMs, at every change."""
    rows = [
        (time_ps, count * launch.sram_bytes_per_block)
        for launch, one in zip(result.plan.launches, result.records, strict=False)
        for time_ps, count in one.resident
    ]
    return [
        _column("time_s", "time", [row[0] for row in rows]),
        _column("sram_bytes", "count", [row[1] for row in rows]),
    ]


def tile_columns(result: KernelResult) -> list[Column]:
    """Every tile of a traced run."""
    tiles = [tile for one in result.records for tile in one.tiles]
    return [
        _column("sm", "count", [tile.sm for tile in tiles]),
        _column("block", "count", [tile.block for tile in tiles]),
        _column("phase", "text", [tile.phase for tile in tiles]),
        _column("tile", "count", [tile.index for tile in tiles]),
        _column("start_s", "time", [tile.start_ps for tile in tiles]),
        _column("end_s", "time", [tile.end_ps for tile in tiles]),
    ]


def _column(name: str, kind: Literal["time", "count", "text"], values: Sequence[str | int]) -> Column:
    dtype = np.dtype(object if kind == "text" else np.int64)
    return Column(name=name, kind=kind, values=np.array(values, dtype=dtype))


KERNEL_TABLES: Mapping[str, Callable[[KernelResult], list[Column]]] = {
    "launches": launch_columns,
    "traffic": traffic_columns,
    "sram": sram_columns,
    "tiles": tile_columns,
}


_PS_PER_US = 1_000_000


def kernel_trace_events(result: KernelResult) -> dict[str, object]:
    """A track of launches, and one per SM with its tiles where the scenario says ``trace: true``."""
    events: list[dict[str, object]] = [
        {"ph": "M", "pid": 1, "tid": 0, "name": "process_name", "args": {"name": result.variant}}
    ]
    for launch, one in zip(result.plan.launches, result.records, strict=False):
        events.append(_slice(launch.name, 0, one.start_ps, one.end_ps, {"blocks": launch.num_blocks}))
        for tile in one.tiles:
            label = f"{tile.phase} {tile.index}"
            events.append(_slice(label, tile.sm + 1, tile.start_ps, tile.end_ps, {"block": tile.block}))
    return {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": {"question": result.scenario.question, "variant": result.variant},
    }


def _slice(
    name: str, track: int, start_ps: int, end_ps: int, details: dict[str, object]
) -> dict[str, object]:
    return {
        "ph": "X",
        "pid": 1,
        "tid": track,
        "name": name,
        "ts": start_ps / _PS_PER_US,
        "dur": (end_ps - start_ps) / _PS_PER_US,
        "args": details,
    }
