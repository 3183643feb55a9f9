"""One serving run: builds the replicas of a scenario, runs them to the end, hands back the columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.cost.cold_start import cold
from sim.cost.launch import LaunchedPrice, needs_launched_price
from sim.cost.memory import memory_plan
from sim.cost.pipeline import PipelinePrice
from sim.cost.split import split_by_operator
from sim.cost.step import CompiledPrice, ServiceTimePrice
from sim.cost.table_price import table_price
from sim.errors import InvariantError
from sim.records import FINISHED, KV_KINDS, PS_PER_S, BlockMap, RequestTable, RunResult, SegmentColumns
from sim.rng import stream
from sim.scenario import Scenario
from sim.serving.batching import BATCHING
from sim.serving.clock import Clock
from sim.serving.engine import EngineBase
from sim.serving.front_end import FrontEnd
from sim.serving.hot_path import HotPathEngine
from sim.serving.kv.contiguous import ContiguousKV
from sim.serving.kv.paged import PagedKV
from sim.serving.limits import Limits, limits_of
from sim.serving.own_policy import load_policy
from sim.serving.recorder import BlockMapRecorder, Recorder
from sim.serving.router import Router, RouterFeed
from sim.serving.sequence import Source
from sim.serving.skipping import SkippingEngine
from sim.serving.stepped import SteppedEngine
from sim.serving.usage import USAGE_COLUMNS, integrate
from sim.serving.vllm_block_map import VllmBlockMapRecorder
from sim.serving.vllm_build import vllm_engine, vllm_kv, why_vllm_stepwise
from sim.serving.vllm_kv import VllmKV
from sim.workload.distributions import draw_values

UNLIMITED_BLOCKS = 1 << 40
BLOCK_MAP_RECTANGLES = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What identifies a run besides the scenario."""

    variant: str
    seed: int
    base_dir: Path
    record_block_map: bool


def simulate(scenario: Scenario, table: RequestTable, run: Run) -> RunResult:
    """Runs the scenario's replicas over the requests of ``table`` until nothing is left to do."""
    env = Clock()
    table = FrontEnd.of(scenario).at_scheduler(table)
    recorder = Recorder(table)
    source = Source(table)
    price = price_of(scenario, table, run)
    limits = limits_of(scenario)
    blocks = block_map_recorder(scenario) if run.record_block_map else None
    pools = [
        kv_of(scenario, limits, run.base_dir, None if index else blocks) for index in range(scenario.replicas)
    ]
    router = Router(env, source, recorder, scenario.routing) if scenario.replicas > 1 else None
    engines: list[EngineBase] = [
        engine_class(scenario, table, run)(
            env,
            index,
            feed=RouterFeed(router) if router else source,
            recorder=recorder,
            kv=kv,
            price=cold(price, price.cold_start_ps),
            limits=limits,
        )
        for index, kv in enumerate(pools)
    ]
    if router:
        router.connect(engines)
        router.schedule()
    else:
        engines[0].start()
    env.run()
    check_all_free(engines)
    capacity = pools[0].capacity_tokens
    block_map = blocks.block_map(capacity, scenario.engine.block_size, env.now_ps) if blocks else None
    return result_of(scenario, run, recorder, engines, price=price, block_map=block_map)


def block_map_recorder(scenario: Scenario) -> BlockMapRecorder | VllmBlockMapRecorder:
    """For the first replica; only vLLM's pool has shared and cached blocks."""
    if scenario.engine.batching == "vllm":
        return VllmBlockMapRecorder(0, BLOCK_MAP_RECTANGLES)
    return BlockMapRecorder(0, BLOCK_MAP_RECTANGLES)


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


def kv_of(
    scenario: Scenario,
    limits: Limits,
    base_dir: Path,
    block_map: BlockMapRecorder | VllmBlockMapRecorder | None,
) -> PagedKV | ContiguousKV | VllmKV:
    """The KV memory of one replica. Without a KV cache, or as a plain queue, there is no limit."""
    engine = scenario.engine
    if not has_kv_budget(scenario):
        return PagedKV(UNLIMITED_BLOCKS, engine.block_size)
    blocks = engine.num_gpu_blocks_override
    if blocks is None:
        blocks = memory_plan(scenario.model, scenario.hardware, engine).num_gpu_blocks
    if not isinstance(block_map, BlockMapRecorder):
        if engine.batching == "vllm":
            return vllm_kv(scenario, blocks, limits, base_dir, block_map)
        block_map = None
    if engine.kv_allocator == "contiguous":
        return ContiguousKV(
            blocks * engine.block_size, engine.kv_reservation, limits.max_model_len, block_map
        )
    return PagedKV(blocks, engine.block_size, int(engine.watermark * blocks), block_map)


def engine_class(scenario: Scenario, table: RequestTable, run: Run) -> type[EngineBase]:
    """Skipping where the policy is known and a KV cache is there; otherwise step by step."""
    engine = scenario.engine
    if engine.batching == "vllm":
        return vllm_engine(scenario, run.seed, is_alone=is_alone(scenario, table, run))
    known = BATCHING.get(engine.batching)
    if known and engine.stepping == "skip" and engine.use_kv_cache:
        return HotPathEngine if is_common_case(scenario, table, run) else SkippingEngine
    policy = known or load_policy(engine.batching, run.base_dir)
    return type("Engine", (SteppedEngine,), {"policy": staticmethod(policy), "policy_name": engine.batching})


def is_common_case(scenario: Scenario, table: RequestTable, run: Run) -> bool:
    """What ``HotPathEngine`` is written for."""
    engine = scenario.engine
    is_plain = engine.batching == "continuous" and engine.schedule_order == "decode_first"
    is_plain = is_plain and engine.kv_allocator == "paged" and engine.service_time is None
    return is_plain and is_alone(scenario, table, run)


def is_alone(scenario: Scenario, table: RequestTable, run: Run) -> bool:
    """One replica whose clients wait, with no block map to keep."""
    return scenario.replicas == 1 and table.timeout_ps is None and not run.record_block_map


def check_all_free(engines: list[EngineBase]) -> None:
    """At the end every block is free again and nobody is left behind."""
    for engine in engines:
        if len(engine.running) or len(engine.waiting):
            left = f"{len(engine.running)} running, {len(engine.waiting)} waiting"
            raise InvariantError(f"replica {engine.index} stopped with {left}")
        in_use = engine.kv.give_out_tokens()
        if in_use:
            raise InvariantError(f"replica {engine.index} ended with {in_use} tokens of KV in use")


def result_of(
    scenario: Scenario,
    run: Run,
    recorder: Recorder,
    engines: list[EngineBase],
    *,
    price: CompiledPrice | ServiceTimePrice,
    block_map: BlockMap | None,
) -> RunResult:
    """Columns and totals of a finished run."""
    requests = FrontEnd.of(scenario).at_client(recorder.request_columns())
    segments = recorder.segment_columns()
    measured = requests.is_measured & (requests.arrival_ps >= 0)
    finished = requests.status == FINISHED
    start = int(requests.arrival_ps[measured].min()) if measured.any() else 0
    end = int(requests.finish_ps[finished].max()) if finished.any() else start
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
        kv_budget_tokens=engines[0].kv.capacity_tokens if has_kv_budget(scenario) else 0,
        kv_time_tokens_ps={kind: sum(integral[kind] for integral in integrals) for kind in KV_KINDS},
        operator_s=split_by_operator(price, segments, sum(engine.stages_ps for engine in engines)),
        busy_ps=busy_ps(segments),
        num_events=sum(engine.num_events for engine in engines),
        block_map=block_map,
        notes=(*notes_of(scenario, recorder, engines), *price.warnings),
        explain=explain_of(scenario),
    )


def usage_of(engine: EngineBase) -> dict[str, int]:
    """KV tokens × time by kind since the measured window began, of one replica."""
    rows = engine.recorder.rows()
    chosen = (rows["replica"] == engine.index) & (rows["start_ps"] >= engine.window_from_ps)
    own = {name: rows[name] if chosen.all() else rows[name][chosen] for name in USAGE_COLUMNS}
    return integrate(own, is_paged=engine.kv.is_paged, grown_tokens_ps=engine.grown_tokens_ps)


def busy_ps(segments: SegmentColumns) -> int:
    """Time in steps, all replicas."""
    steps, growth = segments.num_steps, segments.step_growth_ps
    return int(np.sum(steps * segments.first_step_ps + growth * (steps * (steps - 1) // 2)))


def notes_of(scenario: Scenario, recorder: Recorder, engines: list[EngineBase]) -> tuple[str, ...]:
    """What a reader should know: refusals with their reason, a fallback to single steps."""
    notes = list(recorder.table.notes)
    notes += [f"{count} requests refused: {reason}" for reason, count in sorted(recorder.refusals.items())]
    why = why_stepwise(scenario)
    if why and scenario.engine.stepping == "skip":
        notes.append(f"every step was simulated by itself: steps cannot be skipped {why}")
    return tuple(notes)


def why_stepwise(scenario: Scenario) -> str:
    """What keeps steps from being skipped, or nothing."""
    engine = scenario.engine
    if not engine.use_kv_cache:
        return "without a KV cache"
    if engine.batching == "vllm":
        return why_vllm_stepwise(engine)
    return "" if engine.batching in BATCHING else "with a policy of one's own"


def explain_of(scenario: Scenario) -> Mapping[str, Any]:
    """Where the memory went."""
    if not has_kv_budget(scenario):
        return {}
    return {"memory": memory_plan(scenario.model, scenario.hardware, scenario.engine).to_dict()}
