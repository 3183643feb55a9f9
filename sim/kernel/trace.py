"""A kernel run as a Chrome trace: a track per SM with its tiles, a track of launches."""

from __future__ import annotations

from sim.kernel.run import KernelResult

_PS_PER_US = 1_000_000


def kernel_trace_events(result: KernelResult) -> dict[str, object]:
    """Launches always; tiles where the scenario says ``trace: true``."""
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
