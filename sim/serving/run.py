"""One serving run: builds the replicas of a scenario, runs them to the end, hands back the columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.arrays import PS_PER_S
from sim.errors import InvariantError
from sim.price.memory import memory_plan
from sim.price.overheads import LaunchedPrice, needs_launched_price
from sim.price.pipeline import PipelinePrice, cold
from sim.price.providers.table import table_price
from sim.price.step import CompiledPrice, ServiceTimePrice
from sim.rng import stream
from sim.scenario.distribution import draw_values
from sim.serving.batching.entry import Batching, Replica
from sim.serving.batching.plan import limits_of
from sim.serving.batching.registry import batching_of
from sim.serving.clock import Clock
from sim.serving.drafts import Drafts
from sim.serving.engine import Engine, EngineSettings
from sim.serving.fast_path import FastPath
from sim.serving.front_end import FrontEnd
from sim.serving.in_flight import queue_length
from sim.serving.operator_times import split_by_operator
from sim.serving.recorder import Recorder
from sim.serving.records import FINISHED, KV_KINDS, UNFINISHED, RequestTable, RunResult, SegmentColumns
from sim.serving.router import Router, RouterFeed
from sim.serving.scenario import Scenario
from sim.serving.scheduler import Scheduler
from sim.serving.usage import USAGE_COLUMNS, integrate
from sim.serving.workload.feed import TableFeed
from sim.serving.workload.sources import draw_requests

if TYPE_CHECKING:
    from sim.serving.batching.entry import BlockMaps

UNLIMITED_BLOCKS = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What identifies a run besides the scenario."""

    variant: str
    seed: int
    base_dir: Path
    record_block_map: bool


def run_serving(
    scenario: Scenario,
    *,
    variant: str = "base",
    seed: int = 1,
    base_dir: Path = Path("."),
    record_block_map: bool = False,
) -> RunResult:
    """What the engine left behind."""
    table = draw_requests(scenario.workload, seed, base_dir)
    run = Run(variant=variant, seed=seed, base_dir=base_dir, record_block_map=record_block_map)
    return simulate(scenario, table, run)


def num_gpus(scenario: Scenario) -> int:
    """GPUs of all replicas."""
    return scenario.replicas * scenario.engine.gpus_per_replica


def simulate(scenario: Scenario, table: RequestTable, run: Run) -> RunResult:
    """Runs the scenario's replicas over the requests of ``table`` until nothing is left to do."""
    env = Clock()
    batching = batching_of(scenario.engine.batching, run.base_dir)
    table = FrontEnd.of(scenario).at_scheduler(table)
    recorder = Recorder(table)
    price = price_of(scenario, table, run)
    has_map = run.record_block_map and has_kv_budget(scenario)
    block_map = batching.block_map() if has_map else None
    source = TableFeed(table)
    router = Router(env, source, recorder, scenario.routing) if scenario.replicas > 1 else None
    engines = [
        Engine(
            env,
            replica.index,
            feed=RouterFeed(router) if router else source,
            recorder=recorder,
            scheduler=(scheduler := batching.make(replica)),
            price=cold(price, price.cold_start_ps),
            settings=settings_of(scenario, run.seed),
            fast_path=fast_path_of(scenario, scheduler, table),
        )
        for replica in replicas_of(scenario, table, run, block_map)
    ]
    if router:
        router.connect(engines)
        router.schedule()
    else:
        engines[0].start()
    env.run()
    check_all_free(engines)
    return result_of(scenario, run, recorder, engines, price=price, block_map=block_map, batching=batching)


def replicas_of(
    scenario: Scenario, table: RequestTable, run: Run, block_map: BlockMaps | None
) -> list[Replica]:
    """What each replica's scheduler is made from; the block map follows the first."""
    limits, num_blocks = limits_of(scenario), num_blocks_of(scenario)
    are_alone = table.segment_offsets is None and table.output_stream is None
    return [
        Replica(
            scenario=scenario,
            limits=limits,
            num_blocks=num_blocks,
            base_dir=run.base_dir,
            index=index,
            are_alone=are_alone,
            block_map=None if index else block_map,
        )
        for index in range(scenario.replicas)
    ]


def settings_of(scenario: Scenario, seed: int) -> EngineSettings:
    """How the engine runs its scheduler's steps."""
    engine, speculative = scenario.engine, scenario.engine.speculative
    stages = engine.pipeline_parallel_size
    length = queue_length(async_scheduling=engine.async_scheduling, pipeline_parallel_size=stages)
    return EngineSettings(
        may_skip=engine.stepping == "skip" and length == 1,
        num_in_flight=length,
        num_stages=stages,
        schedules_ahead=engine.overheads.schedules_ahead and not engine.async_scheduling,
        returns_at_end=engine.static_returns == "at_end",
        drafts=Drafts(speculative.num_speculative_tokens, speculative.acceptance_rate, seed)
        if speculative
        else None,
    )


def fast_path_of(scenario: Scenario, scheduler: Scheduler, table: RequestTable) -> FastPath | None:
    """The written-out common case, where clients wait and the scheduler lends what it needs."""
    engine = scenario.engine
    is_shared = scenario.replicas > 1 and scenario.routing == "shared_queue"
    is_common = engine.stepping == "skip" and engine.service_time is None and table.timeout_ps is None
    if not is_common or is_shared or engine.overheads.schedules_ahead:
        return None
    ground = scheduler.ground()
    return FastPath(ground, is_only_engine=scenario.replicas == 1) if ground else None


def price_of(scenario: Scenario, table: RequestTable, run: Run) -> CompiledPrice | ServiceTimePrice:
    """The analytic price, measured tables, or drawn service times where a plain queue is asked for."""
    law = scenario.engine.service_time
    if law is None and scenario.engine.price_table:
        return table_price(scenario, run.base_dir)
    if law is None and scenario.engine.pipeline_parallel_size > 1:
        return PipelinePrice(scenario)
    if law is None and needs_launched_price(scenario):
        return LaunchedPrice(scenario)
    if law is None:
        return CompiledPrice(scenario)
    drawn = draw_values(law, len(table.arrival_ps), stream(run.seed, "service_time"))
    return ServiceTimePrice((drawn * PS_PER_S).round().astype("int64").tolist())


def has_kv_budget(scenario: Scenario) -> bool:
    """Whether KV memory is limited: not for a plain queue, nor without a KV cache."""
    return scenario.engine.service_time is None and scenario.engine.use_kv_cache


def num_blocks_of(scenario: Scenario) -> int:
    """The KV budget of one replica. Without a KV cache, or as a plain queue, there is no limit."""
    if not has_kv_budget(scenario):
        return UNLIMITED_BLOCKS
    if scenario.engine.num_gpu_blocks_override is not None:
        return scenario.engine.num_gpu_blocks_override
    return memory_plan(scenario.model, scenario.hardware, scenario.engine).num_gpu_blocks


def check_all_free(engines: list[Engine]) -> None:
    """At the end every block is free again and nobody is left behind."""
    for engine in engines:
        scheduler = engine.scheduler
        if scheduler.num_unfinished:
            left = f"{scheduler.num_running} running, {scheduler.num_waiting} waiting"
            raise InvariantError(f"replica {engine.index} stopped with {left}")
        if scheduler.used_tokens():
            raise InvariantError(
                f"replica {engine.index} ended with {scheduler.used_tokens()} tokens of KV in use"
            )


def check_rows(segments: SegmentColumns, capacity_tokens: int, num_replicas: int) -> None:
    """The laws of every step: time goes on, and the kinds of KV use are there and fit the budget."""
    kinds = (segments.kv_tokens, segments.kv_reserved, segments.kv_internal, segments.kv_external)
    used = kinds[0] + kinds[1] + kinds[2] + kinds[3]
    steps, growth = segments.num_steps, segments.step_growth_ps
    end_ps = segments.start_ps + steps * segments.first_step_ps + growth * (steps * (steps - 1) // 2)
    broken = (used > capacity_tokens) | (end_ps < segments.start_ps)
    for kind in kinds:
        broken |= kind < 0
    for replica in range(num_replicas):
        (rows,) = np.nonzero(segments.replica == replica) if num_replicas > 1 else (slice(None),)
        starts = segments.start_ps[rows]
        is_early = starts[1:] < starts[:-1]
        if is_early.any():
            at = int(np.flatnonzero(is_early)[0]) + 1
            raise InvariantError(
                f"replica {replica}: a step begins at {starts[at]} ps after {starts[at - 1]} ps"
            )
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        state = {name: int(getattr(segments, name)[row]) for name in ROW_STATE}
        raise InvariantError(f"KV levels or time break a law in row {row}: {state}, budget {capacity_tokens}")


ROW_STATE = (
    "replica", "start_ps", "num_steps", "first_step_ps", "num_decode", "num_prefill", "prefill_tokens",
    "num_running", "num_waiting", "kv_tokens", "kv_reserved", "kv_internal", "kv_external",
)  # fmt: skip


def check_all_ended(recorder: Recorder) -> None:
    """Every request has ended in one way."""
    left = recorder.status.count(UNFINISHED)
    if left:
        raise InvariantError(f"{left} requests never ended, the first is {recorder.status.index(UNFINISHED)}")


def result_of(
    scenario: Scenario,
    run: Run,
    recorder: Recorder,
    engines: list[Engine],
    *,
    price: CompiledPrice | ServiceTimePrice,
    block_map: BlockMaps | None,
    batching: Batching,
) -> RunResult:
    """Columns and totals of a finished run."""
    check_all_ended(recorder)
    requests = FrontEnd.of(scenario).at_client(recorder.request_columns())
    segments = recorder.segment_columns()
    measured = requests.is_measured & (requests.arrival_ps >= 0)
    finished = requests.status == FINISHED
    start = int(requests.arrival_ps[measured].min()) if measured.any() else 0
    end = int(requests.finish_ps[finished].max()) if finished.any() else start
    capacity = engines[0].scheduler.capacity_tokens
    check_rows(segments, capacity, len(engines))
    integrals = [usage_of(engine) for engine in engines]
    return RunResult(
        scenario=scenario,
        variant=run.variant,
        seed=run.seed,
        requests=requests,
        class_names=recorder.table.class_names or ("all",),
        segments=segments,
        preemptions=recorder.preemption_columns(),
        window_ps=(start, max(start, end)),
        kv_budget_tokens=capacity if has_kv_budget(scenario) else 0,
        kv_time_tokens_ps={kind: sum(integral[kind] for integral in integrals) for kind in KV_KINDS},
        operator_s=split_by_operator(price, segments, sum(engine.stages_ps for engine in engines)),
        busy_ps=busy_ps(segments),
        num_events=engines[0].env.num_events,
        block_map=block_map.block_map(capacity, scenario.engine.block_size, max(end, engines[0].env.now_ps))
        if block_map
        else None,
        notes=(*notes_of(scenario, recorder, batching, engines), *price.warnings),
        explain=explain_of(scenario),
    )


def usage_of(engine: Engine) -> dict[str, int]:
    """KV tokens × time by kind since the measured window began, of one replica."""
    rows = engine.recorder.rows()
    chosen = (rows["replica"] == engine.index) & (rows["start_ps"] >= engine.window_from_ps)
    own = {name: rows[name] if chosen.all() else rows[name][chosen] for name in USAGE_COLUMNS}
    return integrate(own, is_paged=engine.scheduler.is_paged, grown_tokens_ps=engine.grown_tokens_ps)


def busy_ps(segments: SegmentColumns) -> int:
    """Time in steps, all replicas."""
    steps, growth = segments.num_steps, segments.step_growth_ps
    return int(np.sum(steps * segments.first_step_ps + growth * (steps * (steps - 1) // 2)))


def notes_of(
    scenario: Scenario, recorder: Recorder, batching: Batching, engines: list[Engine]
) -> tuple[str, ...]:
    """What a reader should know: refusals with their reason, a fallback to single steps."""
    notes = list(recorder.table.notes)
    notes += [f"{count} requests refused: {reason}" for reason, count in sorted(recorder.refusals.items())]
    why = batching.why_stepwise(scenario.engine) or engines[0].scheduler.why_stepwise()
    if why and scenario.engine.stepping == "skip":
        notes.append(f"every step was simulated by itself: steps cannot be skipped {why}")
    return tuple(notes)


def explain_of(scenario: Scenario) -> Mapping[str, Any]:
    """Where the memory went."""
    if not has_kv_budget(scenario):
        return {}
    return {"memory": memory_plan(scenario.model, scenario.hardware, scenario.engine).to_dict()}
