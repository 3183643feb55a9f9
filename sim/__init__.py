"""Gpuyard: a discrete-event simulator of GPU memory and scheduling.

For notebooks and scripts::

    import sim

    file = sim.load_scenario("scenarios/serving/static_vs_continuous.yaml", overrides=["seeds=[1, 2]"])
    answer = sim.run_scenario(file)
    answer.summaries["continuous"][0].metrics["p99_ttft_s"]
    sim.requests_frame(answer.results["continuous"][0])

The names below are the public interface; each is imported when it is first used, so that
``import sim`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.errors import InvariantError, ScenarioError
    from sim.loading import load_scenario
    from sim.metrics import Summary, summarize
    from sim.run import run_one, run_scenario

__version__ = "0.1.0"

__all__ = [
    "InvariantError",
    "ScenarioError",
    "Summary",
    "__version__",
    "load_scenario",
    "run_one",
    "run_scenario",
    "summarize",
]

_HOMES = {
    "InvariantError": "sim.errors",
    "ScenarioError": "sim.errors",
    "Summary": "sim.metrics",
    "load_scenario": "sim.loading",
    "run_one": "sim.run",
    "run_scenario": "sim.run",
    "summarize": "sim.metrics",
}


def __getattr__(name: str) -> Any:
    """The public object of that name, from the module that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
