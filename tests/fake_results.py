"""Run results made by hand, small enough to expect numbers in the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from plain_engine import plain_engine

from sim.arrays import PS_PER_S
from sim.hardware import CURVE_SIZE_UNITS, EfficiencyCurve, HardwareProfile
from sim.model.mixers import AttentionShape
from sim.model.shape import LayerShape, MlpShape, ModelShape
from sim.serving.records import (
    ABORTED,
    FINISHED,
    REFUSED,
    STATUS_NAMES,
    UNFINISHED,
    BlockMap,
    PreemptionColumns,
    RequestColumns,
    RunResult,
    SegmentColumns,
)
from sim.serving.scenario import Scenario, Slo, Workload
from sim.serving.workload.arrivals import Arrivals

HARDWARE = HardwareProfile(
    name="one-gpu", vendor="nobody", architecture="none", compute_capability=None, sm_count=100,
    clock_hz=1e9, sram_bytes_per_sm=2**17, max_sram_bytes_per_block=None, register_file_bytes_per_sm=None,
    sram_bytes_per_s=None, l2_bytes=None, l2_bytes_per_s=None, hbm_bytes=80 * 10**9, hbm_bytes_per_s=1e12,
    dram_bytes=None, dram_bytes_per_s=None, host_link=None, intra_node=None, inter_node=None,
    gpus_per_node=None, peak_flops_per_s={"bfloat16": 1e15}, kernel_launch_s=0.0, graph_launch_s=None,
    idle_w=100.0, tdp_w=700.0, usd_per_hour=3.6,
    efficiency={
        name: EfficiencyCurve(size_unit=unit, points=((1.0, 0.5),), source="measured")
        for name, unit in CURVE_SIZE_UNITS.items()
    },
)  # fmt: skip

MODEL = ModelShape(
    name="tiny", architecture="llama", hidden_size=64, intermediate_size=128, vocab_size=100,
    max_position_embeddings=1024, dtype="bfloat16", tie_word_embeddings=True, pattern=(0, 0),
    kinds=(LayerShape(
        mixers=(AttentionShape(num_heads=4, num_kv_heads=2, head_dim=16, v_head_dim=16),),
        mlps=(MlpShape(intermediate_size=128),),
    ),),
)  # fmt: skip


def ps(seconds: float) -> int:
    """Seconds as picoseconds; -1 stays -1 (never)."""
    return -1 if seconds == -1 else round(seconds * PS_PER_S)


def scenario(**given: Any) -> Scenario:
    """A scenario of the fake GPU; any field can be given."""
    fields: dict[str, Any] = {
        "schema_version": 1,
        "question": "Is it fast?",
        "kind": "serving",
        "hardware": HARDWARE,
        "model": MODEL,
        "workload": Workload(arrivals=Arrivals(process="poisson", requests_per_s=1.0)),
        "engine": plain_engine(),
        "slo": Slo(),
    }
    return Scenario(**{**fields, **given})


_ROW: Mapping[str, Any] = {
    "arrival": 0.0, "scheduled": 0.0, "first": -1.0, "finish": -1.0, "status": "finished",
    "prompt": 10, "output": 1, "generated": None, "cached": 0, "preemptions": 0, "recompute": 0,
    "class": 0, "replica": 0, "measured": True,
}  # fmt: skip


def request_columns(rows: Sequence[Mapping[str, Any]]) -> RequestColumns:
    """Rows with seconds (``arrival``, ``scheduled``, ``first``, ``finish``) and counts; rest by default."""
    full = [{**_ROW, **row} for row in rows]

    def column(name: str, dtype: Any = np.int64) -> Any:
        return np.array([row[name] for row in full], dtype=dtype)

    def moments(name: str) -> Any:
        return np.array([ps(row[name]) for row in full], dtype=np.int64)

    generated = [row["output"] if row["generated"] is None else row["generated"] for row in full]
    return RequestColumns(
        arrival_ps=moments("arrival"),
        first_scheduled_ps=moments("scheduled"),
        first_token_ps=moments("first"),
        finish_ps=moments("finish"),
        status=np.array([STATUS_NAMES.index(row["status"]) for row in full], dtype=np.uint8),
        prompt_tokens=column("prompt"),
        output_tokens=column("output"),
        generated_tokens=np.array(generated, dtype=np.int64),
        cached_tokens=column("cached"),
        num_preemptions=column("preemptions"),
        recompute_tokens=column("recompute"),
        class_id=column("class", np.int16),
        replica=column("replica", np.int16),
        is_measured=column("measured", np.bool_),
    )


_SEGMENT: Mapping[str, Any] = {
    "replica": 0, "start": 0.0, "steps": 1, "first": 0.1, "growth": 0.0, "decode": 0, "context": 0,
    "prefills": 0, "prefill": 0, "running": 0, "waiting": 0, "kv": (0, 0, 0, 0),
}  # fmt: skip


def segment_columns(rows: Sequence[Mapping[str, Any]]) -> SegmentColumns:
    """Rows with seconds (``start``, ``first``, ``growth``) and counts."""
    full = [{**_SEGMENT, **row} for row in rows]

    def column(name: str) -> Any:
        return np.array([row[name] for row in full], dtype=np.int64)

    def moments(name: str) -> Any:
        return np.array([ps(row[name]) for row in full], dtype=np.int64)

    kv = np.array([row["kv"] for row in full], dtype=np.int64).reshape(-1, 4)
    return SegmentColumns(
        replica=np.array([row["replica"] for row in full], dtype=np.int16),
        start_ps=moments("start"),
        num_steps=column("steps"),
        first_step_ps=moments("first"),
        step_growth_ps=moments("growth"),
        num_decode=column("decode"),
        decode_context_tokens=column("context"),
        num_prefill=column("prefills"),
        prefill_tokens=column("prefill"),
        num_running=column("running"),
        num_waiting=column("waiting"),
        kv_tokens=kv[:, 0],
        kv_reserved=kv[:, 1],
        kv_internal=kv[:, 2],
        kv_external=kv[:, 3],
    )


def preemption_columns(rows: Sequence[tuple[float, int, int, int]] = ()) -> PreemptionColumns:
    """Rows of (second, request, replica, lost tokens)."""
    table = np.array([(ps(when), *rest) for when, *rest in rows], dtype=np.int64).reshape(-1, 4)
    return PreemptionColumns(
        time_ps=table[:, 0], request=table[:, 1], replica=table[:, 2], recompute_tokens=table[:, 3]
    )


def fake_result(
    requests: Sequence[Mapping[str, Any]] | RequestColumns,
    segments: Sequence[Mapping[str, Any]] | SegmentColumns = (),
    **given: Any,
) -> RunResult:
    """A run of these requests and segments; the window is first measured arrival to last completion."""
    columns = requests if isinstance(requests, RequestColumns) else request_columns(requests)
    steps = segments if isinstance(segments, SegmentColumns) else segment_columns(segments)
    seen = columns.is_measured & (columns.arrival_ps >= 0)
    begin = int(columns.arrival_ps[seen].min()) if seen.any() else 0
    fields: dict[str, Any] = {
        "scenario": scenario(),
        "variant": "base",
        "seed": 1,
        "requests": columns,
        "class_names": (),
        "segments": steps,
        "preemptions": preemption_columns(),
        "window_ps": (begin, max(begin, int(columns.finish_ps.max(initial=0)))),
        "kv_budget_tokens": 100,
        "kv_time_tokens_ps": {},
        "operator_s": {},
        "busy_ps": int((steps.num_steps * steps.first_step_ps).sum()),
        "num_events": 0,
        "block_map": None,
        "notes": (),
        "explain": {},
    }
    named = {**fields, **given}
    return RunResult(**{"whole_ps": named["window_ps"], **named})


def three_requests(**given: Any) -> RunResult:
    """Three requests at 0, 0.1 and 0.2 s; a step lasts 0.1 s; 2, 3 and 1 tokens. See the table.

    step          0.0-0.1   0.1-0.2   0.2-0.3   0.3-0.4
    request 0     prompt    token
    request 1               prompt    token     token
    request 2                         prompt
    """
    requests = [
        {"arrival": 0.0, "scheduled": 0.0, "first": 0.1, "finish": 0.2, "output": 2},
        {"arrival": 0.1, "scheduled": 0.1, "first": 0.2, "finish": 0.4, "output": 3},
        {"arrival": 0.2, "scheduled": 0.2, "first": 0.3, "finish": 0.3, "output": 1},
    ]
    segments = [
        {"start": 0.0, "prefills": 1, "prefill": 10, "running": 1, "kv": (10, 0, 6, 0)},
        {"start": 0.1, "decode": 1, "prefills": 1, "prefill": 10, "running": 2, "kv": (21, 0, 11, 0)},
        {"start": 0.2, "decode": 1, "prefills": 1, "prefill": 10, "running": 2, "kv": (21, 0, 11, 0)},
        {"start": 0.3, "decode": 1, "running": 1, "kv": (12, 0, 4, 0)},
    ]
    fields: dict[str, Any] = {
        "kv_time_tokens_ps": {
            "tokens": ps(0.1) * 64, "reserved": 0, "internal": ps(0.1) * 32, "external": 0,
        },
    }  # fmt: skip
    return fake_result(requests, segments, **{**fields, **given})


def queue_result(
    arrival_s: Sequence[float] | np.ndarray[Any, Any],
    wait_s: Sequence[float] | np.ndarray[Any, Any],
    service_s: Sequence[float] | np.ndarray[Any, Any],
    **given: Any,
) -> RunResult:
    """A run of a queue: waits and services as given, one token per request at its end."""
    arrival = np.rint(np.asarray(arrival_s) * PS_PER_S).astype(np.int64)
    scheduled = arrival + np.rint(np.asarray(wait_s) * PS_PER_S).astype(np.int64)
    finish = scheduled + np.rint(np.asarray(service_s) * PS_PER_S).astype(np.int64)
    ones = np.ones(arrival.size, dtype=np.int64)
    columns = RequestColumns(
        arrival_ps=arrival, first_scheduled_ps=scheduled, first_token_ps=finish, finish_ps=finish,
        status=np.full(arrival.size, FINISHED, dtype=np.uint8), prompt_tokens=ones, output_tokens=ones,
        generated_tokens=ones, cached_tokens=0 * ones, num_preemptions=0 * ones, recompute_tokens=0 * ones,
        class_id=np.zeros(arrival.size, dtype=np.int16), replica=np.zeros(arrival.size, dtype=np.int16),
        is_measured=np.ones(arrival.size, dtype=np.bool_),
    )  # fmt: skip
    return fake_result(columns, **given)


def block_map(*, is_truncated: bool = False) -> BlockMap:
    """One rectangle: 16 tokens of request 0 for the first second."""
    one = np.array([0], dtype=np.int64)
    return BlockMap(
        capacity_tokens=100, block_size=16, replica=0, address_tokens=one, size_tokens=one + 16,
        start_ps=one, end_ps=one + PS_PER_S, request=one, kind=0 * one,
        is_truncated=is_truncated,
    )  # fmt: skip


__all__ = [
    "ABORTED", "FINISHED", "HARDWARE", "MODEL", "REFUSED", "UNFINISHED", "block_map", "fake_result",
    "preemption_columns", "ps", "queue_result", "replace", "request_columns", "scenario",
    "segment_columns", "three_requests",
]  # fmt: skip
