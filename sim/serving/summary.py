"""The summary of a serving run: every metric's value from its records, verdict and warnings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.arrays import PS_PER_S, Bools
from sim.results.statistics import Spread, is_thin, samples_needed, spread, spread_of_runs
from sim.results.summary import ClassSummary, LimitedTime, OpenTime, SloLine, Summary
from sim.serving.judgement import judge, run_cautions
from sim.serving.metrics import METRICS, REQUEST_TIMES, ServingMetric
from sim.serving.record_statistics import (
    RequestTimes,
    class_slos,
    count,
    engine_metrics,
    met_bounds,
    money_and_power,
    request_times,
    token_gaps,
)
from sim.serving.records import ABORTED, FINISHED, REFUSED, UNFINISHED, RunResult
from sim.serving.scenario import Scenario, Slo
from sim.serving.window import inside, served_inside, tokens_inside
from sim.serving.workload.sources import arrivals_label

_STATUS = {
    "num_finished": FINISHED,
    "num_refused": REFUSED,
    "num_aborted": ABORTED,
    "num_unfinished": UNFINISHED,
}


def summarize(result: RunResult, *, keep_thin_percentiles: bool = False) -> Summary:
    """The statistics of a run, its verdict and its warnings.

    A percentile with fewer than ten samples beyond it is None, its reason in ``refused``;
    ``keep_thin_percentiles`` gives it all the same, with a warning.
    """
    met = met_bounds(result.requests, class_slos(result))
    spreads = time_spreads(result)
    numbers = _numbers(result, met)
    thin = _fill_times(numbers, spreads, keep_thin_percentiles)
    metrics = {name: numbers.get(name) for name in METRICS}
    verdict = judge(result)
    by_class = _class_summaries(result, met, keep_thin_percentiles)
    return Summary(
        question=result.scenario.question,
        variant=result.variant,
        seed=result.seed,
        hardware=result.scenario.hardware.name,
        model=result.scenario.model.name,
        allocator=_allocator(result),
        arrivals=arrivals_label(result.scenario.workload),
        metrics=metrics,
        refused=_reasons(result, metrics, thin),
        meets_slo=_all_meet_slo(result, metrics, by_class),
        slo=_slo_lines(result.scenario.slo, metrics),
        limited_times=_limited_times(result, metrics, by_class),
        open_times=_open_times(result, metrics, by_class),
        verdict=verdict,
        warnings=run_cautions(
            result, metrics=metrics, verdict=verdict, thin=tuple(thin), are_thin_given=keep_thin_percentiles
        ),
        by_class=by_class,
        whole_run=_whole_run(result),
        window_s=(result.window_ps[0] / PS_PER_S, result.window_ps[1] / PS_PER_S),
        offered_per_s=_offered_per_s(result),
        window=result.window_said,
        notes=result.notes,
        headline=result.scenario.answer_by or "",
    )


def _offered_per_s(result: RunResult) -> float | None:
    """How many requests came a second: as stated, or in the window; None where clients wait for answers."""
    workload, requests = result.scenario.workload, result.requests
    arrivals = workload.arrivals
    if not result.has_window or (arrivals is not None and not arrivals.is_drawn):
        return None
    has_sessions = workload.sessions or any(one.sessions for one in (workload.classes or {}).values())
    if arrivals is not None and not has_sessions and arrivals.stated_mean_per_s is not None:
        return arrivals.stated_mean_per_s
    begin, end = result.window_ps
    return per(count(inside(requests.arrival_ps, result.window_ps)), (end - begin) / PS_PER_S)


def _numbers(result: RunResult, met: Mapping[str, Bools]) -> dict[str, float | None]:
    """Every metric that is not a statistic of a request's times."""
    numbers: dict[str, float | None] = {
        **_counts_and_rates(result, np.ones_like(result.requests.is_measured), met),
        **_spans(result),
        **engine_metrics(result),
        "prefix_hit_fraction": _prefix_hits(result, result.requests.is_measured),
    }
    alone = {name: one.number(result) for name, one in METRICS.items() if isinstance(one, ServingMetric)}
    return {**numbers, **money_and_power(result, numbers), **alone}


def _time_spreads(times: RequestTimes, chosen: Bools) -> dict[str, Spread | None]:
    kept = chosen & times.is_finished
    return {
        "queue_s": spread(times.queue[kept]),
        "ttft_s": spread(times.ttft[kept]),
        "ttft_from_admission_s": spread(times.ttft_from_admission[kept]),
        "tpot_s": spread(times.tpot[kept & ~np.isnan(times.tpot)]),
        "e2e_s": spread(times.e2e[kept]),
    }


def time_spreads(result: RunResult) -> dict[str, Spread | None]:
    """The spread of every time of ``REQUEST_TIMES`` over the measured requests."""
    itl = None if returned_at_once(result) else spread_of_runs(token_gaps(result))
    times = _time_spreads(request_times(result.requests), result.requests.is_measured)
    return {name: itl if name == "itl_s" else times[name] for name in REQUEST_TIMES}


def returned_at_once(result: RunResult) -> bool:
    """True where a client sees all tokens of an answer together: there are no gaps to measure."""
    engine = result.scenario.engine
    return engine.service_time is not None or engine.static_returns == "at_end"


def _fill_times(
    numbers: dict[str, float | None], spreads: Mapping[str, Spread | None], keep_thin: bool
) -> dict[str, str]:
    """Put the statistics of every time into ``numbers``; return the thin percentiles, each with its reason.

    A thin percentile is left out of ``numbers``, or with ``keep_thin`` put in all the same.
    """
    thin: dict[str, str] = {}
    for name, sample in spreads.items():
        if sample is None:
            continue
        numbers.update({f"mean_{name}": sample.mean, f"max_{name}": sample.max, f"std_{name}": sample.std})
        for percent, value in sample.percentiles.items():
            if is_thin(sample.num_samples, percent):
                needed = samples_needed(percent)
                thin[f"p{percent}_{name}"] = f"{sample.num_samples} samples; p{percent} needs {needed}"
            if keep_thin or not is_thin(sample.num_samples, percent):
                numbers[f"p{percent}_{name}"] = value
    return thin


def _counts_and_rates(
    result: RunResult, of_class: Bools, met: Mapping[str, Bools]
) -> dict[str, float | None]:
    """Counts and shares of the requests of a class that were offered, and rates inside the window."""
    chosen = of_class & result.requests.is_measured
    requests, window = result.requests, result.window_ps
    offered = chosen & (requests.arrival_ps >= 0)
    finished = chosen & (requests.status == FINISHED)
    num_offered, num_finished = count(offered), count(finished)
    output = int(requests.generated_tokens[finished].sum())
    good: Bools | None = np.logical_and.reduce([*met.values()]) & chosen if met else None
    num_good = None if good is None else count(good)
    attained = {
        f"{bound}_attainment_fraction": count(hits & chosen) / num_offered
        for bound, hits in met.items()
        if num_offered
    }
    window_s, makespan_s = ((end - begin) / PS_PER_S for begin, end in (window, result.whole_ps))
    return {
        "num_offered": float(num_offered),
        **{name: float(count(offered & (requests.status == s))) for name, s in _STATUS.items()},
        "prompt_tokens": float(requests.prompt_tokens[finished].sum()),
        "output_tokens": float(output),
        **_rates(result, of_class, window_s),
        "whole_run_requests_per_s": per(num_finished, makespan_s),
        "whole_run_output_tokens_per_s": per(output, makespan_s),
        "goodput_requests_per_s": None if num_good is None else per(num_good, window_s),
        "goodput_fraction": None if num_good is None or not num_offered else num_good / num_offered,
        **attained,
    }


def _spans(result: RunResult) -> dict[str, float | None]:
    arrived = result.requests.arrival_ps[result.requests.arrival_ps >= 0]
    first_ps = int(arrived.min()) if arrived.size else 0
    begin, end = result.window_ps
    return {
        "warmup_s": max(0, begin - first_ps) / PS_PER_S,
        "window_s": (end - begin) / PS_PER_S,
        "makespan_s": (result.whole_ps[1] - result.whole_ps[0]) / PS_PER_S,
    }


def _rates(result: RunResult, of_class: Bools, window_s: float) -> dict[str, float | None]:
    """What happened inside the window, whoever it happened to; of the whole run: to the measured requests."""
    requests, window = result.requests, result.window_ps
    done = of_class & (requests.status == FINISHED)
    if result.has_window:
        num_done = served_inside(requests, done, window)
        output = int(tokens_inside(requests, window)[done].sum())
        prompts = done & inside(requests.first_token_ps, window)
    else:
        prompts = done & requests.is_measured
        num_done, output = float(count(prompts)), int(requests.generated_tokens[prompts].sum())
    prompt = int(requests.prompt_tokens[prompts].sum())
    return {
        "requests_per_s": per(num_done, window_s),
        "output_tokens_per_s": per(output, window_s),
        "total_tokens_per_s": per(prompt + output, window_s),
    }


def per(amount: float, seconds: float) -> float | None:
    """A rate; None over no time."""
    return amount / seconds if seconds > 0 else None


def _slo_lines(slo: Slo, numbers: Mapping[str, float | None]) -> tuple[SloLine, ...]:
    """Both views: the statistics that are stated, and the share of requests that meet every bound.

    The share decides where no statistic is stated. One that is refused, as too few samples lie beyond it,
    leaves the verdict open.
    """
    lines = [
        SloLine(metric=metric, limit=limit, value=numbers.get(metric), is_most=True, decides=True)
        for metric, limit in slo.limits.items()
    ]
    if slo.bounds:
        share = numbers.get("goodput_fraction")
        wanted, alone = slo.attainment_fraction, not slo.limits
        of = ", ".join(f"{bound}_s" for bound in slo.bounds)
        line = SloLine(
            metric="goodput_fraction", limit=wanted, value=share, is_most=False, decides=alone, of=of
        )
        lines.append(line)
    return tuple(lines)


def _prefix_hits(result: RunResult, chosen: Bools) -> float | None:
    admitted = chosen & (result.requests.first_scheduled_ps >= 0)
    prompt = int(result.requests.prompt_tokens[admitted].sum())
    return int(result.requests.cached_tokens[admitted].sum()) / prompt if prompt else None


def _reasons(
    result: RunResult, metrics: Mapping[str, float | None], thin: Mapping[str, str]
) -> dict[str, str]:
    """Why each metric that is None is None."""
    return {
        name: thin.get(name) or METRICS[name].absent or _reason(name, result)
        for name, value in metrics.items()
        if value is None
    }


def _reason(name: str, result: RunResult) -> str:
    time = next((time for time in REQUEST_TIMES if name.endswith(f"_{time}")), None)
    if time == "itl_s" and returned_at_once(result):
        return "tokens are returned all at once"
    if time is not None:
        return "no finished request has one"
    if not count(result.requests.is_measured & (result.requests.status == FINISHED)):
        refused = next((note for note in result.notes if " requests refused: " in note), "")
        return f"no measured request finished{refused and f' ({refused})'}"
    if "attainment" in name or "goodput" in name:
        return "no such bound in the SLO"
    if name.startswith(("kv_", "max_kv_")) and result.kv_budget_tokens <= 0:
        return "there is no KV budget"
    if name in ("cost_per_million_output_tokens", "energy_j_per_token"):
        return _why_no_price(result.scenario, name)
    return "nothing of the kind happened in the measured time"


def _why_no_price(scenario: Scenario, name: str) -> str:
    if scenario.engine.service_time is not None:
        return "a drawn service time has no tokens to price"
    hardware = scenario.hardware
    if name == "energy_j_per_token" and None in (hardware.idle_w, hardware.tdp_w):
        return "the profile lacks idle_w or tdp_w"
    if name == "cost_per_million_output_tokens" and hardware.usd_per_hour is None:
        return "the profile has no price"
    return "nothing of the kind happened in the measured time"


def _class_summaries(result: RunResult, met: Mapping[str, Bools], keep_thin: bool) -> dict[str, ClassSummary]:
    slos, times = class_slos(result), request_times(result.requests)
    found: dict[str, ClassSummary] = {}
    for index, name in enumerate(result.class_names):
        of_class = result.requests.class_id == index
        chosen = result.requests.is_measured & of_class
        slo = slos[index]
        stated = {bound: hits for bound, hits in met.items() if bound in slo.bounds}
        numbers = {
            **_counts_and_rates(result, of_class, stated),
            "prefix_hit_fraction": _prefix_hits(result, chosen),
        }
        thin = _fill_times(numbers, _time_spreads(times, chosen), keep_thin)
        found[name] = ClassSummary(
            metrics={metric: numbers.get(metric) for metric in METRICS if metric in numbers},
            refused={} if keep_thin else {metric: thin[metric] for metric in METRICS if metric in thin},
            meets_slo=_meets_slo(slo, numbers),
            slo=_slo_lines(slo, numbers),
        )
    return found


def _meets_slo(slo: Slo, numbers: Mapping[str, float | None]) -> bool | None:
    decided = [line.is_met for line in _slo_lines(slo, numbers) if line.decides]
    if False in decided:
        return False
    return None if None in decided or not decided else True


def _all_meet_slo(
    result: RunResult, metrics: Mapping[str, float | None], by_class: Mapping[str, ClassSummary]
) -> bool | None:
    """The whole run's verdict and that of every class with an SLO of its own, where either is stated."""
    classes = result.scenario.workload.classes or {}
    whole = _meets_slo(result.scenario.slo, metrics)
    found = [
        by_class[name].meets_slo for name in by_class if name in classes and classes[name].slo is not None
    ]
    if _slo_lines(result.scenario.slo, metrics):
        found.append(whole)
    if not found:
        return None
    return False if False in found else None if None in found else True


def _limited_times(
    result: RunResult, metrics: Mapping[str, float | None], by_class: Mapping[str, ClassSummary]
) -> tuple[LimitedTime, ...]:
    """Every limited time that has a value: of all requests, and of each class with an SLO of its own."""
    found = _limits_of(result.scenario.slo, metrics)
    for name, one in (result.scenario.workload.classes or {}).items():
        if one.slo is not None and name in by_class:
            found += _limits_of(one.slo, by_class[name].metrics, name)
    return tuple(found)


def _limits_of(slo: Slo, numbers: Mapping[str, float | None], of: str = "") -> list[LimitedTime]:
    return [
        LimitedTime(metric=metric, value=value, limit=limit, of=of)
        for metric, limit in slo.known_limits(numbers).items()
        if (value := numbers[metric]) is not None
    ]


def _open_times(
    result: RunResult, metrics: Mapping[str, float | None], by_class: Mapping[str, ClassSummary]
) -> tuple[OpenTime, ...]:
    """Every percentile of a request's time that an SLO asks and that too few requests carry."""
    asked = [(result.scenario.slo, metrics, "")]
    classes = result.scenario.workload.classes or {}
    asked += [
        (one.slo, by_class[name].metrics, name)
        for name, one in classes.items()
        if one.slo is not None and name in by_class
    ]
    found = []
    for slo, numbers, of in asked:
        num = int(numbers["num_finished"] or 0)
        for metric in slo.time_limits:
            statistic, _, time = metric.partition("_")
            is_of_requests = statistic != "mean" and time != "itl_s"  # gaps between tokens are many more
            if numbers.get(metric) is None and is_of_requests and num and is_thin(num, int(statistic[1:])):
                needed = samples_needed(int(statistic[1:]))
                found.append(OpenTime(metric=metric, num_finished=num, num_needed=needed, of=of))
    return tuple(found)


def _whole_run(result: RunResult) -> dict[str, int]:
    requests = result.requests
    offered = requests.arrival_ps >= 0
    return {
        "num_requests": int(requests.arrival_ps.size),
        "num_offered": count(offered),
        **{name: count(offered & (requests.status == s)) for name, s in _STATUS.items()},
        "num_preemptions": int(result.preemptions.time_ps.size),
        "num_steps": int(result.segments.num_steps.sum()),
    }


def _allocator(result: RunResult) -> str:
    engine = result.scenario.engine
    detail = engine.kv_reservation if engine.kv_allocator == "contiguous" else str(engine.block_size)
    return f"{engine.kv_allocator}/{detail}"
