"""Batching policies: a name, a function, nothing else."""

from __future__ import annotations

from sim.serving.batching.continuous import continuous
from sim.serving.batching.plan import Policy
from sim.serving.batching.static import static

BATCHING: dict[str, Policy] = {"continuous": continuous, "static": static}
