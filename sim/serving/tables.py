"""The record tables of a serving run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.arrays import Column
from sim.serving.record_statistics import class_slos, met_bounds, request_times
from sim.serving.records import STATUS_NAMES, RunResult


def request_record_columns(result: RunResult) -> list[Column]:
    """One entry per request, by id. ``output_tokens`` were asked for, ``generated_tokens`` delivered."""
    requests, times = result.requests, request_times(result.requests)
    tpot_missing = np.isnan(times.tpot)
    met = met_bounds(requests, class_slos(result))
    classes = np.array([*result.class_names, ""], dtype=object)
    index = np.clip(requests.class_id, 0, len(classes) - 1)
    columns = [
        _count("request", np.arange(requests.arrival_ps.size)),
        Column(name="class", kind="text", values=classes[index]),
        _count("replica", requests.replica, may_miss=True),
        Column(name="status", kind="text", values=np.array(STATUS_NAMES, dtype=object)[requests.status]),
        Column(name="is_measured", kind="flag", values=requests.is_measured),
        _time("arrival_s", requests.arrival_ps),
        _time("queue_s", times.queue),
        _time("ttft_s", times.ttft),
        _time("ttft_from_admission_s", times.ttft_from_admission),
        Column(
            name="tpot_s",
            kind="time",
            values=np.rint(np.where(tpot_missing, 0.0, times.tpot)).astype(np.int64),
            is_missing=tpot_missing,
        ),
        _time("e2e_s", times.e2e),
    ]
    counts = ("prompt_tokens", "output_tokens", "generated_tokens", "cached_tokens")
    columns += [_count(name, getattr(requests, name)) for name in counts]
    columns += [_count(name, getattr(requests, name)) for name in ("num_preemptions", "recompute_tokens")]
    if met:
        columns.append(Column(name="meets_slo", kind="flag", values=np.logical_and.reduce([*met.values()])))
    return columns


def segment_record_columns(result: RunResult) -> list[Column]:
    """One entry per engine jump; step j lasts ``first_step_s + j * step_growth_s``."""
    segments = result.segments
    counts = (
        "num_decode", "decode_context_tokens", "num_prefill", "prefill_tokens", "num_running", "num_waiting",
        "kv_tokens", "kv_reserved", "kv_internal", "kv_external",
    )  # fmt: skip
    return [
        _count("replica", segments.replica),
        _time("start_s", segments.start_ps),
        _time("end_s", segments.end_ps),
        _count("num_steps", segments.num_steps),
        _time("first_step_s", segments.first_step_ps),
        Column(name="step_growth_s", kind="time", values=segments.step_growth_ps),
        *(_count(name, getattr(segments, name)) for name in counts),
    ]


def preemption_record_columns(result: RunResult) -> list[Column]:
    """The ledger: one entry per eviction."""
    ledger = result.preemptions
    return [
        _time("time_s", ledger.time_ps),
        _count("request", ledger.request),
        _count("replica", ledger.replica),
        _count("recompute_tokens", ledger.recompute_tokens),
    ]


RECORD_TABLES: Mapping[str, Callable[[RunResult], list[Column]]] = {
    "requests": request_record_columns,
    "segments": segment_record_columns,
    "preemptions": preemption_record_columns,
}


def _time(name: str, values: npt.NDArray[np.int64]) -> Column:
    return Column(name=name, kind="time", values=values, is_missing=values < 0)


def _count(name: str, values: npt.NDArray[Any], *, may_miss: bool = False) -> Column:
    return Column(name=name, kind="count", values=values, is_missing=values < 0 if may_miss else None)
