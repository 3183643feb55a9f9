"""Jobs made by hand, without a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sim.scenario.distribution import Distribution
from sim.training.delays import DataLoaderStall, MarkovSlow, StepVariation
from sim.training.exchange.prices import Exchange
from sim.training.schedule.job import Job
from sim.training.schedule.times import StepTimes
from sim.training.sync import SYNC

S = 10**12
FREE = Exchange()
VARIATIONS = (
    StepVariation(),
    StepVariation(distribution="exponential"),
    StepVariation(distribution="uniform", min=0.0, max=2.0),
    StepVariation(
        distribution="lognormal",
        sigma=0.5,
        markov=MarkovSlow(slowdown=3, mean_slow_steps=2, mean_fast_steps=5),
        data_loader=DataLoaderStall(
            probability=0.3, stall_s=Distribution(distribution="exponential", mean=0.5)
        ),
    ),
)


def job(num_workers: int, num_steps: int, scheme: str = "bsp", **changes: Any) -> Job:
    """A job of mean compute time 1 s; ``variation`` and the fields of ``Job`` may be given."""
    variation = changes.pop("variation", StepVariation())
    seed = changes.pop("seed", 1)
    nominal = changes.pop("nominal_s", np.ones(num_workers))
    fields: dict[str, Any] = {
        "num_workers": num_workers,
        "num_steps": num_steps,
        "scheme": SYNC[scheme],
        "staleness_bound": 0,
        "num_awaited": num_workers,
        "local_steps": 1,
        "times": StepTimes(nominal, variation, seed, Path(".")),
        "backward_share": np.full(num_workers, 2 / 3),
        "optimizer_ps": np.zeros(num_workers, dtype=np.int64),
        "exchange": FREE,
        "failures": None,
        "seed": seed,
    }
    return Job(**(fields | changes))
