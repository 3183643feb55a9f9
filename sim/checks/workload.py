"""Checks between the fields of a workload."""

from __future__ import annotations

from pathlib import Path

from sim.checks.distributions import check_arrivals, check_distribution
from sim.loading.place import Place
from sim.scenario import (
    DEFAULT_HASH_BLOCK_TOKENS,
    Distribution,
    RequestClass,
    Sessions,
    SharedPrefix,
    Trace,
    Workload,
)
from sim.workload.files import check_file
from sim.workload.sources import SOURCES
from sim.workload.trace_formats import AUTO, TRACE_FORMATS

_LENGTHS = ("prompt_tokens", "output_tokens")


def check_workload(workload: Workload, place: Place, base_dir: Path, policy: str = "fcfs") -> None:
    """Exactly one of drawn lengths, classes and trace, with what each needs; ``policy``: the engine's."""
    _check_one_source(workload, place)
    if workload.arrivals is not None:
        check_arrivals(workload.arrivals, place.child("arrivals"), base_dir)
    if workload.trace is not None:
        _check_trace(workload, workload.trace, place, base_dir)
    else:
        _check_drawn(workload, place)
    for name, one in (workload.classes or {}).items():
        there = place.child("classes").child(name)
        _check_class(one, there, base_dir)
        _check_priority(one.priority, there, policy)
    for name in ("prompt_tokens", "output_tokens"):
        _check_tokens(getattr(workload, name), place.child(name), base_dir)
    _check_sharing(workload.shared_prefix, workload.sessions, place, base_dir)
    _check_warmup(workload, place)


def _allowed_sources() -> str:
    *others, last = (name for name in SOURCES if name not in _LENGTHS)
    return ", ".join(["prompt_tokens with output_tokens", *others, f"or {last}"])


def _check_one_source(workload: Workload, place: Place) -> None:
    given = [name for name in dict.fromkeys((*_LENGTHS, *SOURCES)) if getattr(workload, name)]
    if workload.classes is not None and not workload.classes:
        raise place.child("classes").error(
            "no class in the mixture",
            given={},
            allowed="at least one class",
            hint="classes: {chat: {share: 1, prompt_tokens: 512, output_tokens: 256}}",
        )
    if not given:
        raise place.error(
            "says not how long requests are",
            allowed=_allowed_sources(),
            hint="prompt_tokens: 512 and output_tokens: 256",
        )
    if len(given) > 1 and set(given) != set(_LENGTHS):
        raise place.error(
            f"{' and '.join(given)} both say what requests are",
            given=given,
            allowed=f"one of {_allowed_sources()}",
            hint=f"keep {given[-1]} alone",
        )
    for name, other in (_LENGTHS, _LENGTHS[::-1]):
        if given == [other]:
            raise place.child(name).error(
                f"missing: {other} is given alone", allowed=_allowed_sources(), hint=f"{name}: 256"
            )
    if "classes" in given:
        _refuse_beside(workload, place, "classes", "inside each class")
    if "trace" in given:
        _refuse_beside(workload, place, "trace", "in a workload without a trace")


def _refuse_beside(workload: Workload, place: Place, kind: str, where: str) -> None:
    for name in ("shared_prefix", "sessions"):
        if getattr(workload, name) is not None:
            raise place.child(name).error(
                f"has no effect beside {kind}", allowed=f"{name} {where}", hint=f"move {name}, or remove it"
            )


def _check_drawn(workload: Workload, place: Place) -> None:
    arrivals = workload.arrivals
    if arrivals is None:
        raise place.child("arrivals").error(
            "missing: only a trace has its own arrival times",
            allowed="{process: ..., ...}",
            hint="arrivals: {process: poisson, requests_per_s: 8}",
        )
    if not arrivals.is_drawn:
        if workload.num_requests is None:
            raise place.child("num_requests").error(
                f"missing: {arrivals.process} has no end without it",
                allowed="a whole number, at least 1",
                hint="num_requests: 2000",
            )
        if workload.duration_s is not None:
            raise place.child("duration_s").error(
                f"has no effect with process: {arrivals.process}, which ends by num_requests",
                given=workload.duration_s,
                allowed="num_requests",
                hint="remove duration_s",
            )
    elif workload.num_requests is None and workload.duration_s is None:
        raise place.error(
            "nothing says when the requests end",
            allowed="num_requests, duration_s, or both",
            hint="num_requests: 2000, or duration_s: 10 min",
        )


def _check_trace(workload: Workload, trace: Trace, place: Place, base_dir: Path) -> None:
    there = place.child("trace")
    check_file(trace.path, there.child("path"), base_dir)
    if trace.format == AUTO:
        return
    known = TRACE_FORMATS[trace.format]
    if trace.columns is not None and not known.takes_columns:
        takers = [name for name, one in TRACE_FORMATS.items() if one.takes_columns]
        raise there.child("columns").error(
            f"has no effect with format: {trace.format}, whose columns are known",
            given=dict(trace.columns),
            allowed=f"columns with format {' or '.join(takers)}",
            hint=f"remove columns, or format: {takers[0]}",
        )
    if trace.hash_block_tokens != DEFAULT_HASH_BLOCK_TOKENS and not known.takes_block_tokens:
        takers = [name for name, one in TRACE_FORMATS.items() if one.takes_block_tokens]
        raise there.child("hash_block_tokens").error(
            f"has no effect with format: {trace.format}",
            given=trace.hash_block_tokens,
            allowed=f"hash_block_tokens with format {' or '.join(takers)}",
            hint=f"remove it, or format: {takers[0]}",
        )


def _check_class(one: RequestClass, place: Place, base_dir: Path) -> None:
    _check_tokens(one.prompt_tokens, place.child("prompt_tokens"), base_dir)
    _check_tokens(one.output_tokens, place.child("output_tokens"), base_dir)
    _check_sharing(one.shared_prefix, one.sessions, place, base_dir)


def _check_priority(priority: int, place: Place, policy: str) -> None:
    if priority != 0 and policy == "fcfs":
        raise place.child("priority").error(
            "has no effect under policy: fcfs",
            given=priority,
            allowed="0 under fcfs",
            hint="engine.policy: priority (with batching: vllm), or remove it",
        )


def _check_tokens(given: Distribution | None, place: Place, base_dir: Path) -> None:
    if given is not None:
        check_distribution(given, place, base_dir, least=1)


def _check_sharing(
    prefix: SharedPrefix | None, sessions: Sessions | None, place: Place, base_dir: Path
) -> None:
    if prefix is not None:
        _check_tokens(prefix.prefix_tokens, place.child("shared_prefix").child("prefix_tokens"), base_dir)
    if sessions is not None:
        there = place.child("sessions")
        _check_tokens(sessions.turns, there.child("turns"), base_dir)
        check_distribution(sessions.think_time_s, there.child("think_time_s"), base_dir)


def _check_warmup(workload: Workload, place: Place) -> None:
    total, warmup = workload.num_requests, workload.warmup_requests
    if total is not None and warmup >= total:
        raise place.child("warmup_requests").error(
            f"warmup_requests {warmup:,} leaves nothing to measure of num_requests {total:,}",
            given=warmup,
            allowed=f"below num_requests ({total:,})",
            hint=f"warmup_requests: {total // 10}",
        )
    end = workload.duration_s
    if end is not None and workload.warmup_s >= end:
        raise place.child("warmup_s").error(
            f"warmup_s {workload.warmup_s:g} leaves nothing to measure of duration_s {end:g}",
            given=workload.warmup_s,
            allowed=f"below duration_s ({end:g})",
            hint=f"warmup_s: {end / 10:g}",
        )
