"""Does the queue grow? And the warnings that a serving run deserves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Int64
from sim.price.capacity import MeanRequest, Places, requests_per_s, waiting_elasticity
from sim.price.figures import Used, figures_caution, model_caution
from sim.price.memory_words import start_caution
from sim.price.pipeline import step_price
from sim.price.providers.analytic import AnalyticTimes
from sim.results.statistics import student_t_quantile
from sim.results.verdict import Verdict, Word
from sim.scenario.caution import Caution
from sim.serving.record_statistics import num_waiting_at_arrival
from sim.serving.records import ABORTED, UNFINISHED, RequestColumns, RunResult
from sim.serving.scenario import Scenario
from sim.serving.window import num_in_system

_NUM_BATCHES = 8


_LEAST_PER_BATCH = 10


_ALPHA = 0.005


_LONG_WAIT = 0.1  # of the time from the first arrival to the last


_MANY = 0.05  # of the requests: so many clients that give up keep a queue short


_STAYED = "stayed waiting"  # how a verdict tells a trend


_FAR_ABOVE = 10  # times the SLO's limit of the first token, spent waiting


_LEAST_GROWTH = 0.02  # requests that stay waiting per request that arrives


def judge(result: RunResult) -> Verdict:
    """The verdict on a run's queue.

    Each measured request notes how many wait before it when it arrives. In order of arrival these
    counts are cut into eight batches of equal size, and a straight line is fitted through the batch
    means, so that the autocorrelation of neighbours does not pass for a trend. The queue *grows*
    where its slope is significant (one-sided t test, 6 degrees of freedom, level 0.005), at least 0.02
    requests per arrival (about 2 % more come than are served), and over all n arrivals more than
    2 sqrt(n) requests: what chance alone piles up at a load equal to capacity (arrivals and services
    each as variable as Poisson's).
    BACKLOGGED: it grew, and every request had ended within one arrival span after the last arrival;
    OVERLOADED: it grew, and not. UNTESTED: fewer than 80 arrivals, or too short to tell: what is in the
    system (running requests too) still grows by the same test, or half of the requests wait for more than a
    tenth of the time in which they come.
    BACKLOGGED or OVERLOADED too: the load is at or above the capacity that is computed, and on average more
    than 2 sqrt(n) requests wait; UNTESTED: so few wait at such a load that the run does not show it.
    QUEUES_IN_BURSTS: it does not grow, and one in a hundred requests waits for more than ten
    times what the SLO gives the first token: no burst of drawn arrivals that an SLO allows for.
    ABANDONED: it did not grow, and at least one in twenty clients gave up: that may be what keeps it short.
    ALL_AT_ONCE: the requests came together, so that a queue there is whatever serves them.

    Not seen: overload below 2 %, a queue that grew and shrank again while requests still came, and a load
    within a few percent of capacity in a short run. Under a closed loop no queue can grow.
    """
    workload, requests = result.scenario.workload, result.requests
    ids = np.flatnonzero(requests.is_measured & (requests.arrival_ps >= 0))
    left = _abandoned(requests, ids)
    if workload.arrivals is not None and workload.arrivals.is_closed_loop:
        stable = Verdict(word="STABLE", reason="closed loop: clients wait for answers, so no queue can grow")
        return left or stable
    if ids.size == 0:
        return Verdict(word="UNTESTED", reason="no request arrived in the measured time")
    ids = ids[np.argsort(requests.arrival_ps[ids], kind="stable")]
    span_ps = int(requests.arrival_ps[ids[-1]] - requests.arrival_ps[ids[0]])
    if span_ps == 0 and ids.size > 1:
        reason = "there is a queue whatever serves them"
        return left or Verdict(word="ALL_AT_ONCE", reason=reason)
    if ids.size < _NUM_BATCHES * _LEAST_PER_BATCH:
        needed = _NUM_BATCHES * _LEAST_PER_BATCH
        return Verdict(word="UNTESTED", reason=f"{ids.size} arrivals: a trend needs {needed}")
    return _of_the_queue(result, ids, span_ps, left)


def _of_the_queue(result: RunResult, ids: Int64, span_ps: int, left: Verdict | None) -> Verdict:
    """The verdict where there are enough arrivals, in their order, to look for a trend."""
    requests = result.requests
    waiting = num_waiting_at_arrival(requests, ids)
    growth, t_statistic = trend(waiting)
    seen = growth, _finite(t_statistic), _drain_spans(requests, ids, span_ps)
    if is_growing(growth, t_statistic, ids.size):
        return _word_for(f"of 100 requests that came {growth * 100:.2g} {_STAYED}", *seen)
    if left is not None:
        return left
    load = load_of_capacity(result) or 0.0
    served = f"the load is about {100 * load:.0f} % of what the engines can serve"
    if load >= 1 and waiting.mean() > 2 * math.sqrt(ids.size):
        return _word_for(served, *seen)
    few = f"{served}, though few requests wait yet" if load >= 1 else ""
    if too_short := _why_too_short(requests, ids, span_ps) or few:
        return Verdict(word="UNTESTED", reason=too_short)
    word, reason = _steady(result, ids)
    return Verdict(word=word, reason=reason, growth=growth, t_statistic=seen[1])


def _steady(result: RunResult, ids: Int64) -> tuple[Word, str]:
    """The word, and why, of a queue without a trend that is not too long for its load."""
    requests, limit = result.requests, result.scenario.slo.bounds.get("ttft", math.inf)
    begun = ids[requests.first_scheduled_ps[ids] >= 0]
    waits_ps = (requests.first_scheduled_ps - requests.arrival_ps)[begun]
    long_s = float(np.percentile(waits_ps, 99)) / PS_PER_S if begun.size else 0.0
    reason = "the queue does not grow while requests come"
    if long_s <= _FAR_ABOVE * limit:
        return "STABLE", reason
    return "QUEUES_IN_BURSTS", f"{reason}, but one request in 100 waits for {long_s:,.3g} s or more"


def _abandoned(requests: RequestColumns, ids: Int64) -> Verdict | None:
    """Where many clients left: a queue that they keep short by leaving is not one that keeps up."""
    share = float((requests.status[ids] == ABORTED).mean()) if ids.size else 0.0
    if share < _MANY:
        return None
    return Verdict(word="ABANDONED", reason=f"{100 * share:.2g} % of the clients gave up before their answer")


def _why_too_short(requests: RequestColumns, ids: Int64, span_ps: int) -> str:
    """Why a queue without a trend says nothing yet, or nothing.

    Above capacity the requests that run grow in number first, and the queue only when all places are taken.
    And where requests wait for a good part of the time in which they come, the queue is that of its start.
    """
    growth, t_statistic = trend(num_in_system(requests, requests.arrival_ps[ids]))
    if is_growing(growth, t_statistic, ids.size):
        stayed = f"of 100 requests that came {growth * 100:.2g} stayed in the system"
        return f"{stayed}, so the offered load may be above capacity"
    waits = (requests.first_scheduled_ps - requests.arrival_ps)[ids][requests.first_scheduled_ps[ids] >= 0]
    if waits.size and np.median(waits) > _LONG_WAIT * span_ps:
        share = float(np.median(waits)) / span_ps
        return f"half of the requests waited for more than {share:.0%} of the time in which they came"
    return ""


def trend(series: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> tuple[float, float]:
    """(slope per entry, its t statistic) of the line through eight batch means."""
    x = np.array([batch.mean() for batch in np.array_split(np.arange(series.size), _NUM_BATCHES)])
    y = np.array([batch.mean() for batch in np.array_split(series, _NUM_BATCHES)])
    centred = x - x.mean()
    square = float((centred**2).sum())
    slope = float((centred * y).sum()) / square
    residual = y - y.mean() - slope * centred
    error = float(np.sqrt((residual**2).sum() / (_NUM_BATCHES - 2) / square))
    return slope, slope / error if error > 0 else float(np.sign(slope)) * np.inf


def is_growing(growth: float, t_statistic: float, num_arrivals: int) -> bool:
    """The test of ``judge``: significant, steep enough to matter, and more than chance piles up."""
    least = max(_LEAST_GROWTH, 2 / math.sqrt(num_arrivals))
    return growth >= least and t_statistic > student_t_quantile(1 - _ALPHA, _NUM_BATCHES - 2)


def _finite(t_statistic: float) -> float | None:
    return t_statistic if np.isfinite(t_statistic) else None


def _word_for(why: str, growth: float, t_statistic: float | None, drain_spans: float | None) -> Verdict:
    """BACKLOGGED or OVERLOADED, for a queue that grew, or a load above capacity that keeps many waiting."""
    word: Word = "BACKLOGGED" if drain_spans is not None and drain_spans <= 1 else "OVERLOADED"
    after = "working off the queue took longer than they took to come"
    if drain_spans is None:
        after = "some requests never ended"
    elif drain_spans <= 1:
        after = f"working off the queue took {drain_spans:.2g} of the time in which they came"
    return Verdict(word=word, reason=f"{why}; {after}", growth=growth, t_statistic=t_statistic)


def _drain_spans(requests: RequestColumns, ids: Int64, span_ps: int) -> float | None:
    """Time from the last arrival to the last end, as a share of the time in which requests came.

    None if something never ended.
    """
    if (requests.status[ids] == UNFINISHED).any():
        return None
    return int(requests.finish_ps[ids].max() - requests.arrival_ps[ids].max()) / span_ps


_LEAST_FINISHED = 100


_LONG_DRAIN = 0.15


def run_cautions(
    result: RunResult,
    *,
    metrics: Mapping[str, float | None],
    verdict: Verdict,
    thin: Sequence[str],
    are_thin_given: bool,
) -> tuple[Caution, ...]:
    """The warnings that one run deserves, in the order of the list; ``thin`` names thin percentiles."""
    found = (
        _too_few(metrics),
        _queue(verdict),
        _drain(result, verdict),
        _no_slo(metrics),
        _lost(metrics),
        _thin(thin) if are_thin_given else _refused(thin),
        _block_map(result),
        model_caution(result.scenario.model),
        start_caution(result.explain.get("memory", {}).get("start_warnings", ())),
        _efficiency(result),
        _profile(result.scenario),
        _no_host_time(result.scenario),
        _acceptance(result.scenario),
        _near_capacity(result, verdict),
    )
    return tuple(caution for caution in found if caution is not None)


def _too_few(metrics: Mapping[str, float | None]) -> Caution | None:
    finished = int(metrics["num_finished"] or 0)
    if finished >= _LEAST_FINISHED:
        return None
    return Caution(
        kind="too_few_requests",
        observation=f"{finished} requests finished after warm-up",
        meaning="the means depend on which requests these happened to be",
        remedy="raise workload.num_requests, or lower the warm-up",
    )


def _queue(verdict: Verdict) -> Caution | None:
    if verdict.word in (
        "STABLE",
        "QUEUES_IN_BURSTS",
        "ABANDONED",
    ):  # clients that give up have a warning of their own
        return None
    if verdict.word == "UNTESTED":
        return Caution(
            kind="queue_untested",
            observation=f"the queue's trend was not tested ({verdict.reason})",
            meaning="the load may be above capacity without anyone noticing",
            remedy="raise workload.num_requests",
        )
    if verdict.word == "ALL_AT_ONCE":
        return Caution(
            kind="queue_grows",
            observation="all requests came at once",
            meaning="queue_s, ttft_s and e2e_s say how far back a request stood, and grow with their number",
            remedy="compare requests_per_s and output_tokens_per_s only, or give arrivals a rate",
        )
    return Caution(
        kind="queue_grows",
        observation=f"{'the queue grew' if _STAYED in verdict.reason else 'many waited'} while requests came",
        meaning="load above capacity: queue_s, ttft_s and e2e_s grow with the length of the run",
        remedy="lower arrivals.requests_per_s or add replicas; at this load compare requests_per_s only",
    )


def _drain(result: RunResult, verdict: Verdict) -> Caution | None:
    """Where there is no window, rates are finished requests over the time until the last answer."""
    requests, (begin, end) = result.requests, result.whole_ps
    came_ps = requests.arrival_ps[requests.is_measured & (requests.arrival_ps >= 0)]
    arrivals = result.scenario.workload.arrivals
    follows_answers = arrivals is not None and not arrivals.is_drawn
    if result.has_window or follows_answers or not came_ps.size or end <= begin:
        return None
    if verdict.word not in ("STABLE", "QUEUES_IN_BURSTS"):
        return None
    share = (end - int(came_ps.max())) / (end - begin)
    if share < _LONG_DRAIN:
        return None
    return Caution(
        kind="long_drain",
        observation=f"{share:.0%} of the measured time came after the last arrival",
        meaning="requests_per_s, and cost and energy with it, are below what was offered: the run is short",
        remedy="raise workload.num_requests",
    )


def _no_slo(metrics: Mapping[str, float | None]) -> Caution | None:
    if metrics["goodput_fraction"] is not None or not metrics["num_offered"]:
        return None
    return Caution(
        kind="no_slo",
        observation="no SLO is given",
        meaning="nothing says which answers came in time, so there is no goodput",
        remedy="add slo: {ttft_s: ..., tpot_s: ...}",
    )


def _lost(metrics: Mapping[str, float | None]) -> Caution | None:
    kinds = ("refused", "aborted", "unfinished")
    lost = {kind: int(metrics[f"num_{kind}"] or 0) for kind in kinds if metrics[f"num_{kind}"]}
    if not lost:
        return None
    seen = ", ".join(f"{number} {kind}" for kind, number in lost.items())
    return Caution(
        kind="requests_lost",
        observation=f"of {int(metrics['num_offered'] or 0)} requests: {seen}",
        meaning="percentiles cover finished requests only and look better than what clients saw",
        remedy="read goodput_fraction, which counts these as missed",
    )


def _refused(names: Sequence[str]) -> Caution | None:
    if not names:
        return None
    return Caution(
        kind="percentile_refused",
        observation=f"not given: {_grouped(names)}",
        meaning="fewer than ten samples lie beyond these percentiles",
        remedy="raise workload.num_requests (p99 needs 1,000), or ask for thin percentiles",
    )


def _thin(names: Sequence[str]) -> Caution | None:
    if not names:
        return None
    return Caution(
        kind="thin_percentile",
        observation=f"given on demand: {_grouped(names)}",
        meaning="fewer than ten samples lie beyond these percentiles; another seed may say otherwise",
        remedy="do not compare them; raise workload.num_requests",
    )


def _grouped(names: Sequence[str]) -> str:
    """p99_ttft_s, p99_e2e_s, p95_e2e_s -> "p99 of ttft_s, e2e_s; p95 of e2e_s"."""
    by_percentile: dict[str, list[str]] = {}
    for name in names:
        percentile, _, time = name.partition("_")
        by_percentile.setdefault(percentile, []).append(time)
    groups = sorted(by_percentile.items(), reverse=True)
    return "; ".join(f"{percentile} of {', '.join(times)}" for percentile, times in groups)


def _block_map(result: RunResult) -> Caution | None:
    if result.block_map is None or not result.block_map.is_truncated:
        return None
    return Caution(
        kind="block_map_truncated",
        observation="the picture of who holds which KV memory covers only the first part of the run",
        meaning="it does not show how memory looked later; metrics cover the whole run",
        remedy="lower workload.num_requests to see all of it",
    )


def _efficiency(result: RunResult) -> Caution | None:
    """Of what the run asked of its device: its largest step, its longest request."""
    scenario, segments, requests = result.scenario, result.segments, result.requests
    if scenario.engine.service_time is not None:
        return None
    tokens = segments.num_decode + segments.prefill_tokens
    if segments.num_draft_tokens is not None:
        tokens = tokens + segments.num_draft_tokens
    longest = int((requests.prompt_tokens + requests.output_tokens).max(initial=1))
    limit = scenario.engine.max_model_len or longest
    used = AnalyticTimes(scenario).used(int(tokens.max(initial=1)), min(longest, limit))
    if scenario.engine.price_table is not None:  # measured, but for all-reduces
        used = Used(laws=tuple(one for one in used.laws if one.law.startswith("all_reduce")))
    return figures_caution(scenario.hardware, used)


def _profile(scenario: Scenario) -> Caution | None:
    """Host times of another device's server: another CPU, and launches of other kernels."""
    overheads, name = scenario.engine.overheads, scenario.hardware.name.removesuffix(" (modified)")
    if not overheads.measured_on or name in overheads.measured_on or scenario.engine.service_time is not None:
        return None
    where = ", ".join(overheads.measured_on)
    whose = f"engine profile {scenario.engine.profile}" if scenario.engine.profile else "engine.overheads"
    return Caution(
        kind="engine_profile_elsewhere",
        observation=f"{whose} was measured on {where}, and runs here on {scenario.hardware.name}",
        meaning="host times are those of another server, with another CPU: times per step may be off",
        remedy="measure them on this one (engine.overheads), or take a profile of its own",
    )


def _no_host_time(scenario: Scenario) -> Caution | None:
    """Where an SLO asks what is fast enough, and the CPU is taken to be infinitely fast."""
    engine, classes = scenario.engine, scenario.workload.classes or {}
    stated = [scenario.slo, *(one.slo for one in classes.values() if one.slo is not None)]
    asks = any(slo.limits or slo.bounds for slo in stated)
    if not asks or engine.service_time is not None or not engine.overheads.are_zero:
        return None
    return Caution(
        kind="no_host_time",
        observation="no CPU time between steps is counted (engine.overheads are 0)",
        meaning="a real engine's scheduling, sampling and HTTP add to every step: times are lower bounds",
        remedy="take a measured engine's (engine.profile)",
        assumes="no CPU time between steps",
    )


def _acceptance(scenario: Scenario) -> Caution | None:
    """How many drafts are right is given, and decides what they gain."""
    drafts = scenario.engine.speculative
    if drafts is None:
        return None
    rate = f"{100 * drafts.acceptance_rate:.3g} %"
    return Caution(
        kind="acceptance_assumed",
        observation=f"{rate} of the {drafts.method} drafts are right because the scenario says so",
        meaning="what speculation gains depends on it, and on the text; drafting itself takes no time",
        remedy="measure it (engines print their acceptance rate) and set acceptance_rate",
        assumes=f"{rate} of {drafts.method} drafts right, and drafting free",
    )


_STEEP = 0.85  # of capacity: here waiting grows 8 % and more for every percent of a step


def _near_capacity(result: RunResult, verdict: Verdict) -> Caution | None:
    """How much an error of the step's price is worth here; where the queue grew, that is said instead."""
    load = load_of_capacity(result)
    if load is None or load < _STEEP or verdict.word in ("OVERLOADED", "BACKLOGGED"):
        return None
    if verdict.word == "ABANDONED" and load >= 1:
        steep = "only clients that give up keep the queue from growing"
    elif load >= 1:
        steep = "there is no steady state above it: a longer run would have longer latencies"
    else:
        percent = waiting_elasticity(load)
        steep = (
            f"waiting is steep: a step 1 % longer makes it about {percent:.0f} % longer, and one "
            f"{1 / load - 1:.0%} longer is overload"
        )
    return Caution(
        kind="near_capacity",
        observation=f"the load is about {load:.0%} of what the engines can serve (estimated)",
        meaning=steep,
        remedy=f"do not trust queue_s and ttft_s to a few percent here; plan for at most {_STEEP:.0%}",
    )


def load_of_capacity(result: RunResult) -> float | None:
    """Requests that came a second over those that all replicas can serve (``sim.price.capacity``).

    None where clients wait for each other's answers, and for engines that the estimate does not cover.
    """
    scenario, requests, engine = result.scenario, result.requests, result.scenario.engine
    came = np.sort(requests.arrival_ps[requests.arrival_ps >= 0])
    arrivals = scenario.workload.arrivals
    is_open = arrivals is None or arrivals.is_drawn
    span_ps = int(came[-1] - came[0]) if came.size >= _LEAST_FINISHED else 0
    if not is_open or not span_ps:
        return None
    offered_per_s = (came.size - 1) / span_ps * PS_PER_S
    if engine.service_time is not None:
        return offered_per_s * result.busy_ps / PS_PER_S / came.size / scenario.replicas
    # At a high load an engine is always busy: where it is not, the estimate is not needed.
    if not is_estimated(scenario) or result.busy_ps < _STEEP * scenario.replicas * span_ps:
        return None
    output = np.maximum(requests.output_tokens, 1)
    held = output * (requests.prompt_tokens + output / 2)
    mean = MeanRequest(
        prompt_tokens=float(requests.prompt_tokens.mean()),
        computed_tokens=float((requests.prompt_tokens - requests.cached_tokens).mean()),
        output_tokens=float(output.mean()),
        held_tokens=float(held.sum() / output.sum()),
    )
    places = Places(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        kv_tokens=float(result.kv_budget_tokens),
    )
    price = step_price(scenario)
    return offered_per_s / requests_per_s(price, mean, places) / scenario.replicas


def is_estimated(scenario: Scenario) -> bool:
    """Continuous batching over paged memory, by the analytic price, one stage, without drafts."""
    engine = scenario.engine
    is_plain = engine.batching in ("vllm", "continuous") and engine.kv_allocator == "paged"
    is_plain &= engine.price_table is None and engine.has_kv_budget
    return is_plain and engine.pipeline_parallel_size == 1 and engine.speculative is None
