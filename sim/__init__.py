"""Gpuyard: a discrete-event simulator of GPU memory and scheduling.

For notebooks and scripts::

    import sim

    file = sim.load_scenario("serving/static_vs_continuous", overrides=["seeds=[1, 2]"])
    answer = sim.run_scenario(file, jobs=2)
    answer.comparison.cells["continuous"]["requests_per_s"].ratio
    answer.summaries["continuous"][0].metrics["p99_ttft_s"]
    sim.requests_dataframe(answer.results["continuous"][0])

The names in ``__all__`` are the public interface; each is imported when it is first used, so that
``import sim`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sim.version import __version__

if TYPE_CHECKING:
    from sim.errors import InvariantError, ScenarioError
    from sim.export.files import preemptions_dataframe, requests_dataframe, segments_dataframe
    from sim.hardware import load_hardware
    from sim.kinds.load import load_scenario
    from sim.kinds.run import compare, run_one, run_scenario
    from sim.model.config import load_model
    from sim.price.memory import memory_plan
    from sim.results.answer import Answer
    from sim.results.summary import Summary
    from sim.serving.summary import summarize

_HOMES = {
    "Answer": "sim.results.answer",
    "InvariantError": "sim.errors",
    "ScenarioError": "sim.errors",
    "Summary": "sim.results.summary",
    "compare": "sim.kinds.run",
    "load_hardware": "sim.hardware",
    "load_model": "sim.model.config",
    "load_scenario": "sim.kinds.load",
    "memory_plan": "sim.price.memory",
    "preemptions_dataframe": "sim.export.files",
    "requests_dataframe": "sim.export.files",
    "run_one": "sim.kinds.run",
    "run_scenario": "sim.kinds.run",
    "segments_dataframe": "sim.export.files",
    "summarize": "sim.serving.summary",
}

__all__ = [
    "Answer",
    "InvariantError",
    "ScenarioError",
    "Summary",
    "__version__",
    "compare",
    "load_hardware",
    "load_model",
    "load_scenario",
    "memory_plan",
    "preemptions_dataframe",
    "requests_dataframe",
    "run_one",
    "run_scenario",
    "segments_dataframe",
    "summarize",
]


def __getattr__(name: str) -> Any:
    """The public object of that name, from the module that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
