"""One serving run: the workload is drawn, the engine answers it."""

from __future__ import annotations

from pathlib import Path

from sim.serving.records import RunResult
from sim.serving.scenario import Scenario
from sim.serving.simulate import Run, simulate
from sim.serving.workload.sources import draw_requests


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
