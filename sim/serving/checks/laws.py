"""What must be true when a serving run is over; anything else is our fault and an ``InvariantError``.

Every run is held to it: all requests have ended, no memory is in use, the recorded steps go forward in time
and keep to the KV budget. Laws that are seen while a run goes on stand where they could be broken: a request
ends once (``recorder``), nobody idles with work to do (``engine``), a plan keeps to its limits and a jump to
the free memory (``policy_scheduler``), blocks free by count are those of the pool (``vllm/scheduler``), no
block is given back twice (``kv/paged``; elsewhere it shows here, as memory in use below zero).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.arrays import Int64
from sim.errors import InvariantError
from sim.serving.engine import Engine
from sim.serving.recorder import Recorder
from sim.serving.records import UNFINISHED, SegmentColumns

ROW_STATE = (
    "replica", "start_ps", "num_steps", "first_step_ps", "num_decode", "num_prefill", "prefill_tokens",
    "num_running", "num_waiting", "kv_tokens", "kv_reserved", "kv_internal", "kv_external",
)  # fmt: skip


def check_all_free(engines: Sequence[Engine]) -> None:
    """Every block is free again and nobody is left behind."""
    for engine in engines:
        scheduler = engine.scheduler
        if scheduler.num_unfinished:
            left = f"{len(scheduler.running)} running, {len(scheduler.waiting)} waiting"
            raise InvariantError(f"replica {engine.index} stopped with {left}")
        if scheduler.used_tokens():
            raise InvariantError(
                f"replica {engine.index} ended with {scheduler.used_tokens()} tokens of KV in use"
            )


def check_all_ended(recorder: Recorder) -> None:
    """Every request has ended in one way."""
    left = recorder.status.count(UNFINISHED)
    if left:
        raise InvariantError(f"{left} requests never ended, the first is {recorder.status.index(UNFINISHED)}")


def check_rows(segments: SegmentColumns, capacity_tokens: int, num_replicas: int) -> None:
    """Time goes on from step to step, and the kinds of KV use are there and fit the budget."""
    begun_ps, num_checked = dict.fromkeys(range(num_replicas), 0), 0
    for part in segments.parts():
        for replica in begun_ps:
            starts = part.start_ps[part.replica == replica] if num_replicas > 1 else part.start_ps
            begun_ps[replica] = _check_order(starts, begun_ps[replica], replica)
        _check_levels(part, capacity_tokens, num_checked)
        num_checked += part.num_rows


def _check_order(starts_ps: Int64, begun_ps: int, replica: int) -> int:
    """When the last of these steps begins, or of those before if there is none."""
    starts = np.concatenate([[begun_ps], starts_ps])
    is_early = starts[1:] < starts[:-1]
    if is_early.any():
        at = int(np.flatnonzero(is_early)[0]) + 1
        raise InvariantError(f"replica {replica}: a step begins at {starts[at]} ps after {starts[at - 1]} ps")
    return int(starts[-1])


def _check_levels(rows: SegmentColumns, capacity_tokens: int, num_before: int) -> None:
    kinds = (rows.kv_tokens, rows.kv_reserved, rows.kv_internal, rows.kv_external)
    used = kinds[0] + kinds[1] + kinds[2] + kinds[3]
    broken = (used > capacity_tokens) | (rows.duration_ps < 0)
    for kind in kinds:
        broken |= kind < 0
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        state = {name: int(getattr(rows, name)[row]) for name in ROW_STATE}
        raise InvariantError(
            f"KV levels or time break a law in row {num_before + row}: {state}, budget {capacity_tokens}"
        )
