"""One serving run: builds the replicas of a scenario and runs them to the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sim.arrays import PS_PER_S
from sim.price.pipeline import cold, step_price
from sim.price.step import CompiledPrice, ServiceTimePrice
from sim.rng import stream
from sim.scenario.distribution import draw_values
from sim.serving.batching.entry import Replica
from sim.serving.batching.registry import batching_of
from sim.serving.clock import Clock
from sim.serving.drafts import Drafts
from sim.serving.engine import Engine
from sim.serving.front_end import FrontEnd
from sim.serving.in_flight import InFlight, queue_length
from sim.serving.kv.allocator import num_blocks_of
from sim.serving.recorder import Recorder
from sim.serving.records import RequestTable, RunResult
from sim.serving.result import result_of
from sim.serving.router import Router, RouterFeed
from sim.serving.scenario import Scenario
from sim.serving.scheduler import Scheduler
from sim.serving.workload.descriptions import are_alone
from sim.serving.workload.feed import TableFeed
from sim.serving.workload.sources import draw_requests


def run_serving(
    scenario: Scenario,
    table: RequestTable | None = None,
    *,
    variant: str = "base",
    seed: int = 1,
    base_dir: Path = Path("."),
    record_block_map: bool = False,
) -> RunResult:
    """Runs the replicas until nothing is left to do. ``table``: the requests, if not the scenario's own."""
    env, engine = Clock(), scenario.engine
    batching = batching_of(engine.batching, base_dir)
    if table is None:
        table = draw_requests(scenario.workload, seed, base_dir)
    table = FrontEnd.of(scenario).at_scheduler(table)
    recorder, source = Recorder(table), TableFeed(table)
    price = price_of(scenario, len(table.arrival_ps), seed, base_dir)
    router = Router(env, source, recorder, scenario.routing) if scenario.replicas > 1 else None
    engines = [
        Engine(
            env=env,
            index=replica.index,
            feed=RouterFeed(router, replica.index) if router else source,
            recorder=recorder,
            scheduler=(scheduler := batching.make(replica)),
            price=cold(price, price.cold_start_ps),
            in_flight=InFlight(queue_length(engine.async_scheduling, engine.pipeline_parallel_size)),
            schedules_ahead=engine.overheads.schedules_ahead and not engine.async_scheduling,
            returns_at_end=engine.static_returns == "at_end",
            drafts=Drafts(engine.speculative, seed) if engine.speculative else None,
            is_common=is_common(scenario, table, scheduler),
            is_only_engine=router is None,
        )
        for replica in replicas_of(scenario, table, base_dir, keeps_block_map=record_block_map)
    ]
    if router:
        router.connect(engines)
        router.schedule()
    else:
        engines[0].idle()
    env.run()
    return result_of(scenario, recorder, engines, variant=variant, seed=seed, price=price)


def replicas_of(
    scenario: Scenario, table: RequestTable, base_dir: Path, *, keeps_block_map: bool
) -> list[Replica]:
    """What each replica's scheduler is made from; the block map follows the first."""
    first = Replica(
        scenario=scenario,
        num_blocks=num_blocks_of(scenario),
        base_dir=base_dir,
        are_alone=are_alone(table),
        keeps_block_map=keeps_block_map and scenario.engine.has_kv_budget,
    )
    return [first, *(replace(first, index=i, keeps_block_map=False) for i in range(1, scenario.replicas))]


def is_common(scenario: Scenario, table: RequestTable, scheduler: Scheduler) -> bool:
    """Whether clients wait at one queue each, and steps may be skipped: what the fast paths are for."""
    engine, is_shared = scenario.engine, scenario.replicas > 1 and scenario.routing == "shared_queue"
    is_one_late = engine.overheads.schedules_ahead and not engine.async_scheduling
    is_lent = scheduler.can_lend or (scheduler.can_lend_drafts and table.timeout_ps is None)
    return not is_shared and is_lent and engine.stepping == "skip" and not is_one_late


def price_of(
    scenario: Scenario, num_requests: int, seed: int, base_dir: Path
) -> CompiledPrice | ServiceTimePrice:
    """The analytic price, measured tables, or drawn service times where a plain queue is asked for."""
    engine = scenario.engine
    if engine.service_time is not None:
        drawn = draw_values(engine.service_time, num_requests, stream(seed, "service_time"))
        return ServiceTimePrice((drawn * PS_PER_S).round().astype("int64").tolist())
    if engine.price_table:
        from sim.price.providers.table import table_price  # few runs need it

        return table_price(scenario, base_dir)
    return step_price(scenario)
