"""What must hold between the fields of a scenario. Each breach is a ScenarioError with both numbers."""

from __future__ import annotations

from pathlib import Path

from sim.checks.engine import check_engine, check_policies
from sim.checks.fit import check_kv_fits, check_model_and_hardware
from sim.checks.workload import check_workload
from sim.loading.place import Place
from sim.scenario import Scenario
from sim.serving.batching.registry import known_batching
from sim.serving.router import ROUTING


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
    batching, routing = scenario.engine.batching, ROUTING[scenario.routing]
    if routing.choose is None and scenario.replicas > 1 and not known_batching(batching).shares_queue:
        others = " or ".join(name for name, one in ROUTING.items() if one.choose is not None)
        raise top.child("routing").error(
            f"with batching: {batching} each replica has its own queue",
            given=scenario.routing,
            allowed=f"{others} with batching: {batching}",
            hint="routing: least_loaded",
        )
