"""Statistics of a run's records: request times, token gaps, use of the engine and of its KV memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Bools, Int64
from sim.price.pipeline import step_price
from sim.price.step import StepPrice
from sim.results.statistics import ArithmeticRuns
from sim.scenario.dataclass import dataclass
from sim.serving.front_end import FrontEnd
from sim.serving.records import FINISHED, RequestColumns, RunResult, SegmentColumns
from sim.serving.scenario import Slo, num_gpus
from sim.serving.usage import KV_KINDS


def count(hits: Bools) -> int:
    """How many are true, as a plain int: a NumPy number would make a NumPy bool of ``>=``."""
    return int(np.count_nonzero(hits))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimes:
    """Per request, by id, picoseconds; -1 where the moment never came, NaN where ``tpot`` is absent.

    ``e2e`` is that of finished requests only. ``is_offered`` is false for a request that never
    arrived because the one that would have triggered it never ended.
    """

    queue: Int64
    ttft: Int64
    ttft_from_admission: Int64
    tpot: npt.NDArray[np.float64]
    e2e: Int64
    is_offered: Bools
    is_finished: Bools


def request_times(requests: RequestColumns) -> RequestTimes:
    """The per-request times behind ``queue_s``, ``ttft_s``, ``tpot_s`` and ``e2e_s``."""
    is_finished = requests.status == FINISHED
    gaps = np.where(is_finished & (requests.generated_tokens > 1), requests.generated_tokens - 1, 0)
    after_first = requests.finish_ps - requests.first_token_ps
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(gaps > 0, after_first / gaps, np.nan)
    return RequestTimes(
        queue=_between(requests.arrival_ps, requests.first_scheduled_ps),
        ttft=_between(requests.arrival_ps, requests.first_token_ps),
        ttft_from_admission=_between(requests.first_scheduled_ps, requests.first_token_ps),
        tpot=tpot,
        e2e=np.where(is_finished, requests.finish_ps - requests.arrival_ps, -1),
        is_offered=requests.arrival_ps >= 0,
        is_finished=is_finished,
    )


def _between(start_ps: Int64, end_ps: Int64) -> Int64:
    return np.where((start_ps >= 0) & (end_ps >= 0), end_ps - start_ps, -1)


def class_slos(result: RunResult) -> tuple[Slo, ...]:
    """The bounds that hold for each class, by class id: its own where it has them, else the scenario's."""
    classes = result.scenario.workload.classes or {}
    names = result.class_names or ("",)
    stated = (classes[name].slo if name in classes else None for name in names)
    return tuple(slo if slo is not None else result.scenario.slo for slo in stated)


def met_bounds(requests: RequestColumns, slos: tuple[Slo, ...]) -> Mapping[str, Bools]:
    """For each bound that some class has (``ttft``, ``tpot``, ``e2e``): which requests meet theirs.

    Only a finished request can meet a bound; one whose class has no such bound meets it by
    finishing. A one-token answer has a ``tpot`` of 0. Compared in whole picoseconds.
    """
    is_finished = requests.status == FINISHED
    since_arrival = {"ttft": requests.first_token_ps, "e2e": requests.finish_ps}
    met: dict[str, Bools] = {}
    for bound in ("ttft", "tpot", "e2e"):
        given = [slo.bounds.get(bound) for slo in slos]
        if all(limit is None for limit in given):
            continue
        limits = np.array([-1 if x is None else round(x * PS_PER_S) for x in given], dtype=np.int64)
        limit = limits[np.clip(requests.class_id, 0, len(slos) - 1)]
        if bound == "tpot":
            spent = requests.finish_ps - requests.first_token_ps
            within = spent <= limit * np.maximum(requests.generated_tokens - 1, 0)
            within |= requests.generated_tokens <= 1
        else:
            within = since_arrival[bound] - requests.arrival_ps <= limit
        met[bound] = is_finished & (within | (limit < 0))
    return met


def num_waiting_at_arrival(requests: RequestColumns, ids: Int64) -> Int64:
    """How many requests wait when each of ``ids`` (in order of arrival) comes; warm-up ones count too.

    A request waits until it is first scheduled, or leaves unserved; one preempted later does not count.
    """
    arrived = np.sort(requests.arrival_ps[requests.arrival_ps >= 0])
    scheduled, finish = requests.first_scheduled_ps, requests.finish_ps
    left = np.where(scheduled >= 0, scheduled, finish)
    left = np.sort(left[(left >= 0) & (requests.arrival_ps >= 0)])
    moments = requests.arrival_ps[ids]
    waiting: Int64 = np.searchsorted(arrived, moments) - np.searchsorted(left, moments)
    return waiting


def token_gaps(result: RunResult) -> ArithmeticRuns:
    """Every gap between consecutive tokens, as a weighted sample, without a list of tokens.

    A step gives one gap of its length to each decoding sequence. Where steps without decoding (only
    prompts) came in between, the gap reaches back to the sequence's last token: its first one, for
    a sequence whose prompt was among them, else the last decoding step. Taken are the gaps of
    segments that start inside the measured window, warm-up requests' tokens among them. The gap
    across a preemption is not here: it counts in ``e2e_s`` and ``tpot_s``. Accepted drafts arrive together
    with their step's token: gaps of zero.
    """
    requests = FrontEnd.of(result.scenario).at_engine(result.requests)
    parts = [
        _replica_gaps(result.segments, requests, int(replica), measured_ps(result))
        for replica in np.unique(result.segments.replica)
    ]
    return ArithmeticRuns(
        **{
            name: np.concatenate([np.empty(0, np.int64), *(getattr(part, name) for part in parts)])
            for name in ("first", "growth", "num", "weight")
        }
    )


def _replica_gaps(
    segments: SegmentColumns, requests: RequestColumns, replica: int, window_ps: tuple[int, int]
) -> ArithmeticRuns:
    chosen = np.flatnonzero((segments.replica == replica) & (segments.num_decode > 0))
    chosen = chosen[np.argsort(segments.start_ps[chosen], kind="stable")]
    start, first = segments.start_ps[chosen], segments.first_step_ps[chosen]
    end = segments.end_ps[chosen]
    reach = np.empty_like(start)  # where the decoding step before this one ended
    reach[:1], reach[1:] = start[:1], end[:-1]
    measured = (start >= window_ps[0]) & (start < window_ps[1])
    new_gaps, owner = _gaps_after_first_token(requests, replica, (start, first, reach))
    num_new = np.bincount(owner, minlength=start.size)
    num_old = np.maximum(segments.num_decode[chosen] - num_new, 0)
    growth, num_steps = segments.step_growth_ps[chosen], segments.num_steps[chosen]
    one, none = np.ones_like(start), np.zeros_like(start)
    kept_new = measured[owner]
    new = new_gaps[kept_new]
    accepted = np.zeros(0, dtype=np.int64)
    if segments.num_accepted_tokens is not None:
        accepted = segments.num_accepted_tokens[chosen][measured]
    together = np.zeros_like(accepted)
    ones = np.ones(len(new) + len(accepted), dtype=np.int64)
    return ArithmeticRuns(
        first=np.concatenate([(first + start - reach)[measured], (first + growth)[measured], new, together]),
        growth=np.concatenate([none[measured], growth[measured], np.zeros_like(ones)]),
        num=np.concatenate([one[measured], num_steps[measured] - 1, ones]),
        weight=np.concatenate(
            [num_old[measured], segments.num_decode[chosen][measured], np.ones_like(new), accepted]
        ),
    )


def _gaps_after_first_token(
    requests: RequestColumns, replica: int, decoding: tuple[Int64, Int64, Int64]
) -> tuple[Int64, Int64]:
    """Second tokens of prompts that finished in a step without decoding: (gap, index of its segment)."""
    start, first, reach = decoding
    ids = np.flatnonzero((requests.replica == replica) & (requests.first_token_ps >= 0))
    token = requests.first_token_ps[ids]
    at = np.searchsorted(start, token, side="left")
    inside = at < start.size
    ids, token, at = ids[inside], token[inside], at[inside]
    step_end = start[at] + first[at]
    after_stall = (token > reach[at]) | ((at == 0) & (token < start[at]))
    decodes = (requests.generated_tokens[ids] > 1) & (
        (requests.finish_ps[ids] < 0) | (requests.finish_ps[ids] >= step_end)
    )
    new = after_stall & decodes
    return (step_end - token)[new], at[new]


def decode_step_ends(segments: SegmentColumns, replica: int) -> tuple[Int64, Int64]:
    """(when each decoding step of a replica ends, how many sequences decode in it), by time."""
    chosen = np.flatnonzero((segments.replica == replica) & (segments.num_decode > 0))
    chosen = chosen[np.argsort(segments.start_ps[chosen], kind="stable")]
    num = segments.num_steps[chosen]
    step = np.arange(int(num.sum())) - np.repeat(np.cumsum(num) - num, num)
    first, growth = (
        np.repeat(segments.first_step_ps[chosen], num),
        np.repeat(segments.step_growth_ps[chosen], num),
    )
    ends = np.repeat(segments.start_ps[chosen], num) + (step + 1) * first + growth * (step * (step + 1) // 2)
    return ends, np.repeat(segments.num_decode[chosen], num)


Numbers = dict[str, float | None]


def measured_ps(result: RunResult) -> tuple[int, int]:
    """From the end of the warm-up until the last request that came in the window has ended."""
    return result.window_ps[0], result.whole_ps[1]


def engine_metrics(result: RunResult) -> Numbers:
    """Metrics of the replicas inside the window. A step counts where it starts inside."""
    segments, (begin, end) = result.segments, result.window_ps
    window_s, replicas = (end - begin) / PS_PER_S, result.scenario.replicas
    inside = (segments.start_ps >= begin) & (segments.start_ps < end)
    overlap_s = _overlap_ps(segments.start_ps, segments.end_ps, result.window_ps)
    running_s = float((overlap_s * segments.num_running).sum()) / PS_PER_S
    in_system_s = _time_in_system_s(result)
    num_steps = steps_inside(segments, result.window_ps)
    return {
        "busy_fraction": _ratio(float(overlap_s.sum()) / PS_PER_S, window_s * replicas),
        "mean_num_running": _ratio(running_s, window_s),
        "mean_num_waiting": _ratio(max(0.0, in_system_s - running_s), window_s),
        "max_num_running": float(segments.num_running[inside].max()) if inside.any() else None,
        "mean_decode_batch": _ratio(
            float((num_steps * segments.num_decode).sum()), float(num_steps[segments.num_decode > 0].sum())
        ),
        "num_steps": float(num_steps.sum()),
        **_speculation(segments, inside),
        **_kv_fractions(result, inside),
        **_recompute(result, inside, num_steps),
    }


def steps_inside(segments: SegmentColumns, window_ps: tuple[int, int]) -> Int64:
    """How many steps of each segment begin in the window; a jump may reach over its edges."""
    begin, end = window_ps
    steps = np.where((segments.start_ps >= begin) & (segments.start_ps < end), segments.num_steps, 0)
    reaches_in = (segments.start_ps < begin) & (segments.end_ps > begin)
    reaches_out = (segments.start_ps < end) & (segments.end_ps > end)
    for row in np.flatnonzero((reaches_in | reaches_out) & (segments.num_steps > 1)).tolist():
        step = np.arange(int(segments.num_steps[row]))
        growth = int(segments.step_growth_ps[row]) * (step * (step - 1) // 2)
        starts = segments.start_ps[row] + step * segments.first_step_ps[row] + growth
        steps[row] = count((starts >= begin) & (starts < end))
    return steps


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


def _recompute(result: RunResult, inside: npt.NDArray[np.bool_], num_steps: Int64) -> Numbers:
    """Preemptions within the window, the tokens they threw away, and what these cost again.

    The time of a step is shared between its tokens, prefill and decode alike; a recomputed token
    costs the mean share of a prefill token. Tokens that a prefix cache gives back are counted too.
    """
    segments, ledger, (begin, end) = result.segments, result.preemptions, result.window_ps
    evicted = (ledger.time_ps >= begin) & (ledger.time_ps <= end)
    lost = float(ledger.recompute_tokens[evicted].sum())
    computed = segments.prefill_tokens * inside + segments.num_decode * num_steps
    if segments.num_draft_tokens is not None:
        computed = computed + segments.num_draft_tokens * inside
    prefill = inside & (segments.prefill_tokens > 0)
    share_s = segments.prefill_tokens[prefill] / computed[prefill]
    prefill_s = float((share_s * segments.duration_ps[prefill]).sum()) / PS_PER_S
    per_token = _ratio(prefill_s, float(segments.prefill_tokens[prefill].sum()))
    return {
        "num_preemptions": float(count(evicted)),
        "recompute_tokens": lost,
        "recompute_fraction": _ratio(lost, float(computed.sum())),
        "recompute_s": lost * per_token if per_token is not None else (0.0 if lost == 0 else None),
    }


def money_and_power(result: RunResult, known: Mapping[str, float | None]) -> Numbers:
    """Cost and energy per output token from ``output_tokens_per_s`` and ``busy_fraction``.

    All GPUs are paid for, busy or not. Energy is a bound: a GPU draws TDP whenever a step runs,
    which memory-bound decoding does not reach; host, network and cooling are left out. A plain queue
    (``service_time``) has no tokens whose price would mean something.
    """
    if result.scenario.engine.service_time is not None:
        return {"cost_per_million_output_tokens": None, "energy_j_per_token": None}
    hardware = result.scenario.hardware
    gpus = num_gpus(result.scenario)
    rate, busy = known["output_tokens_per_s"], known["busy_fraction"]
    cost: float | None = None
    energy: float | None = None
    if rate and hardware.usd_per_hour is not None:
        cost = hardware.usd_per_hour * gpus / 3600 / rate * 1e6
    if rate and busy is not None and hardware.idle_w is not None and hardware.tdp_w is not None:
        energy = (hardware.idle_w + (hardware.tdp_w - hardware.idle_w) * busy) * gpus / rate
    return {"cost_per_million_output_tokens": cost, "energy_j_per_token": energy}


def alone_ratios(result: RunResult, limits: Mapping[str, float]) -> dict[str, float]:
    """What the requests would take one by one on an idle engine, by the same statistics, over ``limits``.

    With others there none of them is faster, so that no number of engines helps where this is above 1. Only
    kernels and host times per step are counted, and every token at the context of the first: what is found
    lies above. Not known for a plain queue, measured tables, several stages and drafts.
    """
    scenario, requests = result.scenario, result.requests
    engine = scenario.engine
    is_priced = engine.service_time is None and engine.price_table is None
    chosen = requests.is_measured & (requests.status == FINISHED)
    is_plain = is_priced and engine.pipeline_parallel_size == 1 and engine.speculative is None
    if not is_plain or not limits or not chosen.any():
        return {}
    price = step_price(scenario)
    prompts, tokens = requests.prompt_tokens[chosen], requests.generated_tokens[chosen]
    computed = np.maximum(prompts - requests.cached_tokens[chosen], 1)
    first = _by_length(computed, lambda length: _alone_ps(price, length, engine.max_num_batched_tokens))
    each = _by_length(prompts, lambda length: price.step_ps(1, length, []))
    alone = {"ttft_s": first, "tpot_s": each[tokens > 1], "e2e_s": first + (tokens - 1) * each}
    found = {}
    for metric, limit in limits.items():
        statistic, _, time = metric.partition("_")
        if time in alone and alone[time].size:
            values = alone[time]
            value = values.mean() if statistic == "mean" else np.percentile(values, int(statistic[1:]))
            found[metric] = float(value) / PS_PER_S / limit
    return found


def _by_length(lengths: Int64, price_ps: Callable[[int], int]) -> Int64:
    """The price of each request by its length, asked once a length."""
    kinds, which = np.unique(lengths, return_inverse=True)
    prices: Int64 = np.array([price_ps(int(length)) for length in kinds], dtype=np.int64)[which]
    return prices


def _alone_ps(price: StepPrice, tokens: int, budget: int) -> int:
    """The first token of a prompt that has the engine to itself, in pieces where the budget asks for them."""
    starts = range(0, tokens, budget)
    return sum(
        price.step_ps(0, 0, [(min(budget, tokens - at), at, at + budget >= tokens, None)]) for at in starts
    )
