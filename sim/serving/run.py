"""One serving run: builds the replicas of a scenario and runs them to the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sim.arrays import PS_PER_S
from sim.price.memory import memory_plan
from sim.price.overheads import LaunchedPrice, needs_launched_price
from sim.price.pipeline import PipelinePrice, cold
from sim.price.providers.table import table_price
from sim.price.step import CompiledPrice, ServiceTimePrice
from sim.rng import stream
from sim.scenario.distribution import draw_values
from sim.serving.batching.entry import Replica
from sim.serving.batching.registry import batching_of
from sim.serving.clock import Clock
from sim.serving.drafts import Drafts
from sim.serving.engine import Engine
from sim.serving.front_end import FrontEnd
from sim.serving.in_flight import queue_length
from sim.serving.recorder import Recorder
from sim.serving.records import RequestTable, RunResult
from sim.serving.result import result_of
from sim.serving.router import Router, RouterFeed
from sim.serving.scenario import Scenario
from sim.serving.scheduler import Scheduler
from sim.serving.workload.feed import TableFeed
from sim.serving.workload.sources import draw_requests

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


def simulate(scenario: Scenario, table: RequestTable, run: Run) -> RunResult:
    """Runs the scenario's replicas over the requests of ``table`` until nothing is left to do."""
    env, engine = Clock(), scenario.engine
    batching = batching_of(engine.batching, run.base_dir)
    table = FrontEnd.of(scenario).at_scheduler(table)
    recorder = Recorder(table)
    price = price_of(scenario, table, run)
    source = TableFeed(table)
    router = Router(env, source, recorder, scenario.routing) if scenario.replicas > 1 else None
    engines = [
        Engine(
            env=env,
            index=replica.index,
            feed=RouterFeed(router) if router else source,
            recorder=recorder,
            scheduler=(scheduler := batching.make(replica)),
            price=cold(price, price.cold_start_ps),
            num_in_flight=queue_length(
                async_scheduling=engine.async_scheduling, pipeline_parallel_size=engine.pipeline_parallel_size
            ),
            schedules_ahead=engine.overheads.schedules_ahead and not engine.async_scheduling,
            returns_at_end=engine.static_returns == "at_end",
            drafts=Drafts(engine.speculative, run.seed) if engine.speculative else None,
            is_common=is_common(scenario, scheduler, table),
            is_only_engine=router is None,
        )
        for replica in replicas_of(scenario, table, run)
    ]
    if router:
        router.connect(engines)
        router.schedule()
    else:
        engines[0].start()
    env.run()
    return result_of(scenario, recorder, engines, variant=run.variant, seed=run.seed, price=price)


def replicas_of(scenario: Scenario, table: RequestTable, run: Run) -> list[Replica]:
    """What each replica's scheduler is made from; the block map follows the first."""
    num_blocks, has_map = num_blocks_of(scenario), run.record_block_map and scenario.engine.has_kv_budget
    are_alone = table.segment_offsets is None and table.output_stream is None
    return [
        Replica(
            scenario=scenario,
            num_blocks=num_blocks,
            base_dir=run.base_dir,
            index=index,
            are_alone=are_alone,
            keeps_block_map=has_map and index == 0,
        )
        for index in range(scenario.replicas)
    ]


def is_common(scenario: Scenario, scheduler: Scheduler, table: RequestTable) -> bool:
    """Whether clients wait and the scheduler lends what the fast path needs."""
    engine = scenario.engine
    is_shared = scenario.replicas > 1 and scenario.routing == "shared_queue"
    is_plain = engine.service_time is None and table.timeout_ps is None and not is_shared
    is_skipping = engine.stepping == "skip" and not engine.overheads.schedules_ahead
    return is_plain and is_skipping and scheduler.can_lend


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


def num_blocks_of(scenario: Scenario) -> int:
    """The KV budget of one replica. Without a KV cache, or as a plain queue, there is no limit."""
    if not scenario.engine.has_kv_budget:
        return UNLIMITED_BLOCKS
    if scenario.engine.num_gpu_blocks_override is not None:
        return scenario.engine.num_gpu_blocks_override
    return memory_plan(scenario.model, scenario.hardware, scenario.engine).num_gpu_blocks
