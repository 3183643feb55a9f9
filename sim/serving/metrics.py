"""Every metric of a serving run: name, unit, meaning, and which of them answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from sim.results.metric import PERCENTILES, Better, Metric, Swept
from sim.scenario.dataclass import dataclass
from sim.serving.scenario import METRIC_NAMES
from sim.serving.workload.arrivals import ARRIVAL_PROCESSES

if TYPE_CHECKING:
    from sim.results.comparison import ChosenLength, Comparison
    from sim.serving.records import RunResult
    from sim.serving.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMetric(Metric):
    """A metric of a serving run. Those of this module are made together (``sim.serving.summary``)."""

    absent: str = ""  # why there is no number, where there is none
    is_in_table: bool = False  # a row of the decision table, after those of ``SERVING_TABLE``


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingMetric(RunMetric):
    """One that is an entry of its own. Without its ``number`` it cannot be made, so it is never just null."""

    number: Callable[[RunResult], float | None]
    absent: str = "this run has none"


REQUEST_TIMES: Mapping[str, str] = {
    "queue_s": "first scheduled - arrival",
    "ttft_s": "first output token - arrival",
    "ttft_from_admission_s": "first output token - first scheduled",
    "tpot_s": "(e2e_s - ttft_s) / (output tokens - 1); absent for one-token answers",
    "itl_s": "gap between consecutive tokens; a gap across a preemption counts in e2e_s only",
    "e2e_s": "last output token - arrival",
}


_STATISTICS: Mapping[str, str] = {
    "mean": "mean",
    **{f"p{percent}": f"{percent}th percentile, linear interpolation" for percent in PERCENTILES},
    "max": "largest value",
    "std": "standard deviation (population, as NumPy)",
}


_Rows = tuple[tuple[str, str, Better, str], ...]


_COUNTS: _Rows = (
    ("num_offered", "requests", "neither", "requests that arrived, warm-up left out"),
    ("num_finished", "requests", "higher", "of these, answered in full"),
    ("num_refused", "requests", "lower", "of these, refused: they can never fit"),
    ("num_aborted", "requests", "lower", "of these, given up by their client"),
    ("num_unfinished", "requests", "lower", "of these, still there at the end of the run"),
    ("prompt_tokens", "tokens", "neither", "prompt tokens of finished requests"),
    ("output_tokens", "tokens", "neither", "output tokens of finished requests"),
    ("warmup_s", "s", "neither", "from the first arrival until the window begins: what is not measured"),
    ("window_s", "s", "neither", "the window: from the end of the warm-up to the last arrival"),
    ("makespan_s", "s", "neither", "first measured arrival to last completion, the ramp-down included"),
)


_RATES: _Rows = (
    (
        "requests_per_s",
        "requests/s",
        "higher",
        "finished requests served inside the window / window_s; one served partly inside counts by that part",
    ),
    (
        "output_tokens_per_s",
        "tokens/s",
        "higher",
        "output tokens of finished requests that come inside the window / window_s",
    ),
    (
        "total_tokens_per_s",
        "tokens/s",
        "higher",
        "the same with the prompt tokens of those whose first it has",
    ),
    (
        "whole_run_requests_per_s",
        "requests/s",
        "higher",
        "finished requests / makespan_s, as vLLM, GuideLLM and TensorRT-LLM print it",
    ),
    (
        "whole_run_output_tokens_per_s",
        "tokens/s",
        "higher",
        "output tokens of finished requests / makespan_s, as they print it",
    ),
    (
        "goodput_requests_per_s",
        "requests/s",
        "higher",
        "requests that come inside the window and meet every SLO / window_s",
    ),
    ("goodput_fraction", "fraction", "higher", "requests that meet every SLO / offered requests"),
    ("ttft_attainment_fraction", "fraction", "higher", "offered requests whose ttft_s is within the SLO"),
    ("tpot_attainment_fraction", "fraction", "higher", "offered requests whose tpot_s is within the SLO"),
    ("e2e_attainment_fraction", "fraction", "higher", "offered requests whose e2e_s is within the SLO"),
)


_ENGINE: _Rows = (
    (
        "prefix_hit_fraction",
        "fraction",
        "higher",
        "cached prompt tokens / prompt tokens, of admitted requests",
    ),
    ("num_preemptions", "preemptions", "lower", "preemptions in the window"),
    ("recompute_tokens", "tokens", "lower", "KV entries thrown away by these preemptions"),
    (
        "recompute_fraction",
        "fraction",
        "lower",
        "recompute tax: recompute_tokens / tokens computed in the window",
    ),
    (
        "recompute_s",
        "s",
        "lower",
        "seconds re-spent, estimated: recompute_tokens at the mean time per prefill token (a mixed step's "
        "time is shared out by tokens, which gives decode too little: an upper estimate)",
    ),
    (
        "kv_used_fraction",
        "fraction",
        "neither",
        "KV budget that no new request could use, averaged over the window: tokens and three kinds of waste",
    ),
    (
        "max_kv_used_fraction",
        "fraction",
        "neither",
        "its largest value at the start of a step, in the fullest replica",
    ),
    ("kv_tokens_fraction", "fraction", "neither", "KV budget that holds a token"),
    ("kv_reserved_fraction", "fraction", "lower", "KV budget not yet used, but this request will use it"),
    ("kv_internal_fraction", "fraction", "lower", "KV budget beyond the request's final length"),
    (
        "kv_external_fraction",
        "fraction",
        "lower",
        "KV budget lost to the allocator's rounding, or free in pieces too small for the queue's head",
    ),
    ("kv_waste_fraction", "fraction", "lower", "reserved + internal + external"),
    ("busy_fraction", "fraction", "neither", "window spent in steps, mean over replicas"),
    (
        "mean_num_running",
        "sequences",
        "neither",
        "sequences in a step, averaged over the window (idle: 0), all replicas",
    ),
    ("mean_num_waiting", "requests", "lower", "requests there but not running, averaged over the window"),
    ("max_num_running", "sequences", "neither", "most sequences in one step of one replica"),
    ("mean_decode_batch", "sequences", "neither", "decoding sequences per step that decodes"),
    (
        "mean_acceptance_length",
        "tokens/step",
        "higher",
        "with drafts: tokens per sequence and step, 1 + accepted",
    ),
    ("draft_acceptance_fraction", "fraction", "higher", "draft tokens that became output / draft tokens"),
    ("num_steps", "steps", "neither", "engine steps in the window, all replicas"),
)


_MONEY: _Rows = (
    (
        "cost_per_million_output_tokens",
        "usd",
        "lower",
        "price of all GPUs / output tokens of finished requests",
    ),
    (
        "energy_j_per_token",
        "J",
        "lower",
        "upper bound per output token: idle power, and full TDP whenever a step runs",
    ),
)


def _all_metrics() -> dict[str, RunMetric]:
    times: list[tuple[str, str, Better, str]] = [
        (f"{statistic}_{name}", "s", "neither" if statistic == "std" else "lower", f"{said}: {meaning}")
        for name, meaning in REQUEST_TIMES.items()
        for statistic, said in _STATISTICS.items()
    ]
    rows = (*_COUNTS, *_RATES, *times, *_ENGINE, *_MONEY)
    return {
        name: RunMetric(name=name, unit=unit, meaning=meaning, better=better)
        for name, unit, better, meaning in rows
    }


METRICS: dict[str, RunMetric] = {
    **_all_metrics(),
    # A ``ServingMetric`` is a line here.
}


METRIC_NAMES.are(METRICS, keys_of=lambda name: frozenset())


SERVING_TABLE = (
    "goodput_requests_per_s",
    "goodput_fraction",
    "requests_per_s",
    "output_tokens_per_s",
    "mean_ttft_s",
    "p50_ttft_s",
    "p99_ttft_s",
    "mean_tpot_s",
    "p99_tpot_s",
    "p99_itl_s",
    "p99_e2e_s",
    "mean_queue_s",
    "kv_tokens_fraction",
    "kv_waste_fraction",
    "num_preemptions",
    "recompute_fraction",
    "prefix_hit_fraction",
    "busy_fraction",
    "mean_decode_batch",
    "mean_acceptance_length",
    "cost_per_million_output_tokens",
    "energy_j_per_token",
)
"""The decision table, after the headline."""


def serving_table() -> tuple[str, ...]:
    """The same, with the metrics that ask for a row."""
    return (*SERVING_TABLE, *(name for name, metric in METRICS.items() if metric.is_in_table))


SWEPT = Swept(
    columns=(
        "p99_ttft_s",
        "p99_tpot_s",
        "goodput_fraction",
        "cost_per_million_output_tokens",
        "requests_per_s",
        "goodput_requests_per_s",
        "p50_ttft_s",
        "kv_used_fraction",
        "num_preemptions",
    ),
    goals=("cost_per_million_output_tokens", "output_tokens_per_s"),
    against=("p99_ttft_s", "p50_ttft_s", "mean_ttft_s", "requests_per_s"),
    load_keys=(
        "seeds",
        "model",
        "workload",
        "slo",
        "engine.service_time",
        "engine.overheads",
        "engine.speculative.acceptance_rate",
    ),
    compares_alike=True,
    compared_keys=("model", "workload", "slo"),
    competing_keys=("model.num_key_value_heads", "workload.timeout_s"),
    is_told_apart_only=True,
)
"""How a sweep is read."""


SERVING_DECIDERS = (
    ("p99_ttft_s", "p90_ttft_s", "p50_ttft_s", "mean_ttft_s"),
    ("goodput_requests_per_s", "requests_per_s"),
    ("cost_per_million_output_tokens",),
    ("p99_tpot_s", "mean_tpot_s"),
)
"""What decides beside the headline: of each group the first that has a number."""


_HEADLINE_TIMES = ("p99_ttft_s", "p90_ttft_s", "p50_ttft_s", "mean_ttft_s", "mean_e2e_s")


_NOT_KEPT_UP = ("BACKLOGGED", "OVERLOADED", "ABANDONED", "ALL_AT_ONCE")


def serving_headline(comparison: Comparison) -> str:
    """The metric that answers a serving question: what the scenario names in ``answer_by``.

    Without it, with an SLO that not every run meets, and some request does: ``goodput_requests_per_s``. Else,
    where the SLO is missed, the load is not kept up with in some run, or follows the answers (closed loop,
    all at once): ``requests_per_s``.
    Else a time to the first token: p99, or the highest percentile that no run refuses.
    """
    runs = [summary for found in comparison.summaries.values() for summary in found]
    if runs[0].headline:
        return runs[0].headline
    misses = any(summary.meets_slo is False for summary in runs)
    if misses and any(summary.metrics["goodput_requests_per_s"] != 0 for summary in runs):
        return "goodput_requests_per_s"
    saturated = misses or any(summary.verdict.word in _NOT_KEPT_UP for summary in runs)
    if saturated or any(_follows_answers(summary.arrivals) for summary in runs):
        return "requests_per_s"
    known = (name for name in _HEADLINE_TIMES if all(summary.metrics[name] is not None for summary in runs))
    return next(known, "requests_per_s")


def chosen_length(scenario: Scenario) -> ChosenLength | None:
    """How ``precision`` chooses the length of a serving run; None where its length is given."""
    if scenario.precision is None:
        return None
    from sim.results.comparison import ChosenLength
    from sim.serving.workload.sources import why_no_precision

    workload = scenario.workload
    return ChosenLength(
        precision=scenario.precision,
        why_not=why_no_precision(workload),
        sought=sought,
        lengthened=lambda factor: replace(scenario, workload=workload.lengthened(factor)),
        said=lambda factor: workload.lengthened(factor).length_said,
    )


def sought(comparison: Comparison, variant: str) -> tuple[str, ...]:
    """What ``precision`` is asked of: rate, mean time and what answers.

    The times of a queue that grows belong to the length of the run: there it is the rate alone.
    """
    words = {summary.verdict.word for summary in comparison.summaries[variant]}
    if words & set(_NOT_KEPT_UP):
        return ("requests_per_s",)
    return tuple(dict.fromkeys(("requests_per_s", "mean_e2e_s", serving_headline(comparison))))


def _follows_answers(arrivals: str) -> bool:
    """Whether the load has no rate of its own; ``arrivals`` as a summary names them, "trace" too."""
    return arrivals in ARRIVAL_PROCESSES and ARRIVAL_PROCESSES[arrivals].draw is None
