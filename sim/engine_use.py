"""What the engines did with the measured time: steps, batches, KV, preemptions, money, power."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Int64
from sim.records import KV_KINDS, RunResult, SegmentColumns
from sim.request_times import count
from sim.token_gaps import segment_length_ps

Numbers = dict[str, float | None]


def engine_metrics(result: RunResult) -> Numbers:
    """Metrics of the replicas over the measured window. A step counts where it starts inside."""
    segments, (begin, end) = result.segments, result.window_ps
    window_s, replicas = (end - begin) / PS_PER_S, result.scenario.replicas
    inside = (segments.start_ps >= begin) & (segments.start_ps < end)
    overlap_s = _overlap_ps(
        segments.start_ps, segments.start_ps + segment_length_ps(segments), result.window_ps
    )
    running_s = float((overlap_s * segments.num_running).sum()) / PS_PER_S
    in_system_s = _time_in_system_s(result)
    num_steps = segments.num_steps[inside]
    num_decode = segments.num_decode[inside]
    return {
        "busy_fraction": _ratio(float(overlap_s.sum()) / PS_PER_S, window_s * replicas),
        "mean_num_running": _ratio(running_s, window_s),
        "mean_num_waiting": _ratio(max(0.0, in_system_s - running_s), window_s),
        "max_num_running": float(segments.num_running[inside].max()) if inside.any() else None,
        "mean_decode_batch": _ratio(
            float((num_steps * num_decode).sum()), float(num_steps[num_decode > 0].sum())
        ),
        "num_steps": float(num_steps.sum()),
        **_speculation(segments, inside),
        **_kv_fractions(result, inside),
        **_recompute(result, inside),
    }


def _speculation(segments: SegmentColumns, inside: npt.NDArray[np.bool_]) -> Numbers:
    """What drafts gave, as vLLM counts it: tokens per verification, and the share of right drafts."""
    if segments.num_draft_tokens is None or segments.num_accepted_tokens is None:
        return {"mean_acceptance_length": None, "draft_acceptance_fraction": None}
    verifies = inside & (segments.num_draft_tokens > 0)
    accepted = float(segments.num_accepted_tokens[verifies].sum())
    per_sequence = _ratio(accepted, float(segments.num_decode[verifies].sum()))
    return {
        "mean_acceptance_length": None if per_sequence is None else 1.0 + per_sequence,
        "draft_acceptance_fraction": _ratio(accepted, float(segments.num_draft_tokens[verifies].sum())),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _overlap_ps(start: Int64, end: Int64, window_ps: tuple[int, int]) -> npt.NDArray[np.float64]:
    """How much of each interval lies in the window."""
    inside: Int64 = np.minimum(end, window_ps[1]) - np.maximum(start, window_ps[0])
    return np.maximum(inside, 0).astype(np.float64)


def _time_in_system_s(result: RunResult) -> float:
    requests = result.requests
    arrived = requests.arrival_ps >= 0
    end = np.where(requests.finish_ps >= 0, requests.finish_ps, np.iinfo(np.int64).max)
    return float(_overlap_ps(requests.arrival_ps, end, result.window_ps)[arrived].sum()) / PS_PER_S


def _kv_fractions(result: RunResult, inside: npt.NDArray[np.bool_]) -> Numbers:
    """Of the budget of all replicas over the window: tokens, the three kinds of waste, their sums."""
    begin, end = result.window_ps
    whole = result.kv_budget_tokens * result.scenario.replicas * (end - begin)
    of_kind = {kind: _ratio(result.kv_time_tokens_ps.get(kind, 0), whole) for kind in KV_KINDS}
    waste = None if whole <= 0 else sum(of_kind[kind] or 0.0 for kind in KV_KINDS[1:])
    segments = result.segments
    level = segments.kv_tokens + segments.kv_reserved + segments.kv_internal + segments.kv_external
    fullest = float(level[inside].max()) if inside.any() else 0.0
    return {
        "kv_used_fraction": None if waste is None else (of_kind["tokens"] or 0.0) + waste,
        "max_kv_used_fraction": _ratio(fullest, result.kv_budget_tokens),
        **{f"kv_{kind}_fraction": value for kind, value in of_kind.items()},
        "kv_waste_fraction": waste,
    }


def _recompute(result: RunResult, inside: npt.NDArray[np.bool_]) -> Numbers:
    """Preemptions within the window, the tokens they threw away, and what these cost again.

    The time of a step is shared between its tokens, prefill and decode alike; a recomputed token
    costs the mean share of a prefill token. Tokens that a prefix cache gives back are counted too.
    """
    segments, ledger, (begin, end) = result.segments, result.preemptions, result.window_ps
    evicted = (ledger.time_ps >= begin) & (ledger.time_ps <= end)
    lost = float(ledger.recompute_tokens[evicted].sum())
    computed = segments.prefill_tokens + segments.num_decode * segments.num_steps
    if segments.num_draft_tokens is not None:
        computed = computed + segments.num_draft_tokens
    prefill = inside & (segments.prefill_tokens > 0)
    share_s = segments.prefill_tokens[prefill] / computed[prefill]
    prefill_s = float((share_s * segment_length_ps(segments)[prefill]).sum()) / PS_PER_S
    per_token = _ratio(prefill_s, float(segments.prefill_tokens[prefill].sum()))
    return {
        "num_preemptions": float(count(evicted)),
        "recompute_tokens": lost,
        "recompute_fraction": _ratio(lost, float(computed[inside].sum())),
        "recompute_s": lost * per_token if per_token is not None else (0.0 if lost == 0 else None),
    }


def money_and_power(result: RunResult, known: Mapping[str, float | None]) -> Numbers:
    """Cost and energy per output token from ``output_tokens_per_s`` and ``busy_fraction``.

    All GPUs are paid for, busy or not. Energy is a bound: a GPU draws TDP whenever a step runs,
    which memory-bound decoding does not reach; host, network and cooling are left out.
    """
    hardware = result.scenario.hardware
    num_gpus = result.scenario.replicas * result.scenario.engine.gpus_per_replica
    rate, busy = known["output_tokens_per_s"], known["busy_fraction"]
    cost: float | None = None
    energy: float | None = None
    if rate and hardware.usd_per_hour is not None:
        cost = hardware.usd_per_hour * num_gpus / 3600 / rate * 1e6
    if rate and busy is not None and hardware.idle_w is not None and hardware.tdp_w is not None:
        energy = (hardware.idle_w + (hardware.tdp_w - hardware.idle_w) * busy) * num_gpus / rate
    return {"cost_per_million_output_tokens": cost, "energy_j_per_token": energy}
