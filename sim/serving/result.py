"""The result of a serving run that is over, made from its recorder and its replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sim.price.memory import memory_plan
from sim.price.operator_times import split_by_operator
from sim.price.step import CompiledPrice, ServiceTimePrice
from sim.scenario.not_modelled import not_modelled
from sim.serving.checks.laws import check_all_ended, check_all_free, check_rows
from sim.serving.engine import Engine
from sim.serving.front_end import FrontEnd
from sim.serving.recorder import Recorder
from sim.serving.records import FINISHED, RequestColumns, RunResult
from sim.serving.scenario import Scenario
from sim.serving.usage import kv_usage
from sim.serving.vllm.versions import recorded_release
from sim.serving.window import window_of


def result_of(
    scenario: Scenario,
    recorder: Recorder,
    engines: Sequence[Engine],
    *,
    variant: str,
    seed: int,
    price: CompiledPrice | ServiceTimePrice,
) -> RunResult:
    """Columns and totals, once the run's laws have been found to hold."""
    check_all_free(engines)
    check_all_ended(recorder)
    requests = FrontEnd.of(scenario).at_client(recorder.request_columns())
    segments = recorder.segments.columns()
    capacity, block_map = engines[0].scheduler.capacity_tokens, engines[0].scheduler.block_map
    check_rows(segments, capacity, len(engines))
    whole = whole_of(requests)
    last_step_ps = max(int((one.start_ps + one.duration_ps).max(initial=0)) for one in segments.parts())
    window = window_of(requests, scenario.workload)
    if not window.is_whole:
        came_late = requests.arrival_ps >= window.begin_ps
        requests = replace(requests, is_measured=requests.is_measured & came_late)
    return RunResult(
        scenario=scenario,
        variant=variant,
        seed=seed,
        requests=requests,
        class_names=recorder.table.class_names or ("all",),
        segments=segments,
        preemptions=recorder.preemption_columns(),
        whole_ps=whole,
        window_ps=window.bounds_ps,
        has_window=not window.is_whole,
        window_said=window.said(first_arrival_of(requests)),
        kv_budget_tokens=capacity if scenario.engine.has_kv_budget else 0,
        kv_time_tokens_ps=kv_usage(segments, window.bounds_ps, is_paged=engines[0].scheduler.is_paged),
        operator_s=split_by_operator(
            price, segments, sum(sum(engine.stations.busy_ps) for engine in engines if engine.stations)
        ),
        busy_ps=sum(int(part.duration_ps.sum()) for part in segments.parts()),
        num_events=engines[0].env.num_events,
        block_map=block_map.block_map(
            capacity, scenario.engine.block_size, max(whole[1], engines[0].env.now_ps, last_step_ps)
        )
        if block_map
        else None,
        notes=(window.note, *notes_of(scenario, recorder, engines), *price.warnings),
        explain=explain_of(scenario),
    )


def first_arrival_of(requests: RequestColumns) -> int:
    """When the first request came, measured or not."""
    arrived = requests.arrival_ps[requests.arrival_ps >= 0]
    return int(arrived.min()) if arrived.size else 0


def whole_of(requests: RequestColumns) -> tuple[int, int]:
    """The first measured arrival, and the last completion (or the same, where nobody finished)."""
    measured = requests.is_measured & (requests.arrival_ps >= 0)
    finished = requests.status == FINISHED
    start = int(requests.arrival_ps[measured].min()) if measured.any() else 0
    return start, max(start, int(requests.finish_ps[finished].max())) if finished.any() else start


def notes_of(scenario: Scenario, recorder: Recorder, engines: Sequence[Engine]) -> tuple[str, ...]:
    """What a reader should know: refusals with their reason, a fallback to single steps."""
    notes = [*recorder.table.notes, *engines[0].scheduler.notes]
    notes += [f"{count} requests refused: {reason}" for reason, count in sorted(recorder.refusals.items())]
    first = engines[0]
    skips = first.is_common and (first.in_flight.length > 1 or first.other_loop)  # while a fast path has it
    why = "" if skips else first.scheduler.why_stepwise()
    if scenario.engine.stepping == "every_step":
        notes.append(
            f"every step is simulated by itself, as engine.stepping asks: {_SLOWER}; skip skips them"
        )
    elif why:
        notes.append(f"{why} {_STEPS}: {_SLOWER}; {first.scheduler.what_skips()}")
    version = scenario.engine.vllm_version
    if scenario.engine.batching == "vllm" and (recorded := recorded_release(version)) != version:
        notes.append(f"vLLM {version} was not recorded: scheduled as {recorded} decides")
    if scenario.model.moe and scenario.engine.tensor_parallel_size > 1:
        notes.append(f"{scenario.model.name} is a mixture of experts; {not_modelled('expert_parallel')}")
    return tuple(notes)


_STEPS = "every step is simulated by itself"
_SLOWER = "that takes longer and changes no result"


def explain_of(scenario: Scenario) -> Mapping[str, Any]:
    """Where the memory went."""
    if not scenario.engine.has_kv_budget:
        return {}
    return {"memory": memory_plan(scenario.model, scenario.hardware, scenario.engine).to_dict()}
