"""Warnings of a run: a closed list, each with what was seen, what it means and what to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sim.records import RunResult
from sim.verdict import Verdict

Kind = Literal[
    "too_few_requests",
    "queue_grows",
    "queue_untested",
    "long_drain",
    "no_slo",
    "requests_lost",
    "percentile_refused",
    "thin_percentile",
    "kv_never_full",
    "block_map_truncated",
    "efficiency_not_measured",
    "one_seed",
    "too_few_steps",
    "loss_not_falling",
    "target_not_reached",
    "renamed",
]

_LEAST_FINISHED = 100
_FULL = 0.95
_LONG_DRAIN = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """One warning: the observation, its meaning, the remedy."""

    kind: Kind
    observation: str
    meaning: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.observation}: {self.meaning}; {self.remedy}"


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
        _efficiency(result),
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
    if verdict.word == "STABLE":
        return None
    if verdict.word == "UNTESTED":
        return Caution(
            kind="queue_untested",
            observation=f"the queue's trend was not tested ({verdict.reason})",
            meaning="the load may be above capacity without anyone noticing",
            remedy="raise workload.num_requests",
        )
    return Caution(
        kind="queue_grows",
        observation=f"the queue grew ({verdict.word})",
        meaning="load above capacity: queue_s, ttft_s and e2e_s grow with the length of the run",
        remedy="lower arrivals.requests_per_s or add replicas; at this load compare requests_per_s only",
    )


def _drain(result: RunResult, verdict: Verdict) -> Caution | None:
    """Rates are finished requests over the time from the first arrival to the last answer."""
    requests, (begin, end) = result.requests, result.window_ps
    came_ps = requests.arrival_ps[requests.is_measured & (requests.arrival_ps >= 0)]
    arrivals = result.scenario.workload.arrivals
    follows_answers = arrivals is not None and not arrivals.is_drawn
    if verdict.word != "STABLE" or follows_answers or not came_ps.size or end <= begin:
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
        observation="the block map covers only the first part of the run",
        meaning="the picture does not show how memory looked later; metrics cover the whole run",
        remedy="lower workload.num_requests for a complete picture",
    )


def _efficiency(result: RunResult) -> Caution | None:
    if result.scenario.engine.service_time is not None:
        return None
    curves = result.scenario.hardware.efficiency
    words = ("assumed", "borrowed")
    weak = [name for name, curve in curves.items() if any(word in curve.source.lower() for word in words)]
    if curves and not weak:
        return None
    which = (
        f"efficiency of {', '.join(sorted(weak))} is borrowed or assumed"
        if weak
        else "no efficiency curve, so kernels are assumed to reach the peaks"
    )
    return Caution(
        kind="efficiency_not_measured",
        observation=f"{result.scenario.hardware.name}: {which}",
        meaning="ratios between variants hold better than seconds",
        remedy="calibrate this profile, or compare with one that is measured",
    )


def kv_never_full(allocators: Mapping[str, str], fullest: Mapping[str, float | None]) -> Caution | None:
    """For a comparison of KV allocators (by variant) in which no variant's memory was ever full."""
    levels = [level for level in fullest.values() if level is not None]
    if len(set(allocators.values())) < 2 or not levels or max(levels) >= _FULL:
        return None
    return Caution(
        kind="kv_never_full",
        observation=f"KV memory was at most {max(levels):.0%} full in every variant",
        meaning="allocators differ only where memory is short: this comparison says nothing about them",
        remedy="raise the load or max_num_seqs, or lower gpu_memory_utilization",
    )


def one_seed() -> Caution:
    """For a comparison over a single seed."""
    return Caution(
        kind="one_seed",
        observation="one seed",
        meaning="numbers and ratios have no interval: they may be luck",
        remedy="give seeds: [1, 2, 3, 4, 5]",
    )
