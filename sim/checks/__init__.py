"""What must hold between the fields of a scenario. Each breach is a ScenarioError with both numbers."""

from __future__ import annotations

from pathlib import Path

from sim.checks.engine import check_engine, check_policies
from sim.checks.fit import check_kv_fits, check_model_and_hardware
from sim.checks.workload import check_workload
from sim.loading.place import Place
from sim.scenario import Scenario


def check_serving(scenario: Scenario, *, file: str) -> None:
    """What must hold in a serving scenario."""
    top = Place(file=file)
    base_dir = Path(file).parent
    check_workload(scenario.workload, top.child("workload"), base_dir, scenario.engine.policy)
    check_engine(scenario.engine, top.child("engine"))
    _check_routing(scenario, top)
    check_policies(scenario.engine, top.child("engine"), base_dir)
    check_model_and_hardware(scenario, top)
    check_kv_fits(scenario, top)


def _check_routing(scenario: Scenario, top: Place) -> None:
    batching = scenario.engine.batching
    if scenario.routing == "shared_queue" and scenario.replicas > 1 and batching in ("static", "vllm"):
        raise top.child("routing").error(
            f"with batching: {batching} each replica has its own queue",
            given=scenario.routing,
            allowed=f"round_robin or least_loaded with batching: {batching}",
            hint="routing: least_loaded",
        )
