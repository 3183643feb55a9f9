"""How a scenario asks for a scaling curve."""

from __future__ import annotations

from dataclasses import dataclass

from sim.scenario import key

POWERS_OF_TWO = tuple(2**power for power in range(11))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingConfig:
    """The same job with other numbers of workers; each keeps its micro-batch (weak scaling)."""

    num_workers: tuple[int, ...] = key("how many, rising", default=POWERS_OF_TWO, ge=1, le=65_536)
    num_steps: int = key("steps that each of them does", default=20, ge=1, le=1_000_000)
    min_efficiency: float = key(
        "efficient_workers: how much of the smallest job's rate per worker is enough",
        default=0.8,
        gt=0,
        le=1,
    )
