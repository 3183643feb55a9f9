"""How a scenario says that step times differ, and that workers fail."""

from __future__ import annotations

from dataclasses import dataclass

from sim.scenario import Distribution, key
from sim.training.delays import DELAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkovSlow:
    """A worker is fast or slow; both states last a geometric number of steps."""

    slowdown: float = key("compute time in the slow state, times this", ge=1, le=1e6)
    mean_slow_steps: float = key("mean length of a slow spell, in steps", ge=1, le=1e9)
    mean_fast_steps: float = key("mean length of a fast spell, in steps", ge=1, le=1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowWorker:
    """One worker that is slow all the time."""

    worker: int = key("which one, from 0", ge=0, le=65_535)
    slowdown: float = key("its compute time, times this", gt=0, le=1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowLink:
    """One worker whose link to the others is slow all the time: a flapping NIC, a wrong cable or slot."""

    worker: int = key("which one, from 0", ge=0, le=65_535)
    slowdown: float = key("what its link takes per byte, times this", ge=1, le=1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLoaderStall:
    """Steps that wait for their batch before they can begin."""

    probability: float = key("of a stall, per worker and step", gt=0, le=1)
    stall_s: Distribution = key("how long it lasts")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTimes:
    """Measured compute times, a row per step; worker w uses column w modulo the columns, over and over."""

    path: str = key("a CSV file (optionally .gz) of seconds, relative to the scenario file")
    columns: tuple[str, ...] = key("its columns, one per recorded worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVariation:
    """Factors on a step's compute time, per worker and step; their mean is 1 except for ``uniform``."""

    law: str = key("which delay model", default="none", choices=lambda: DELAYS)
    random_fraction: float = key(
        "shifted_exponential: share of the mean that is exponential", default=0.1, gt=0, le=1
    )
    sigma: float | None = key("lognormal: standard deviation of the logarithm", default=None, gt=0, le=10)
    alpha: float | None = key("pareto: tail index; the mean exists above 1", default=None, gt=1, le=1e6)
    min: float | None = key("uniform: smallest factor", default=None, ge=0, le=1e6)
    max: float | None = key("uniform: largest factor", default=None, gt=0, le=1e6)
    markov: MarkovSlow | None = key("slow and fast spells", default=None)
    slow_workers: tuple[SlowWorker, ...] = key("persistent stragglers", default=())
    data_loader: DataLoaderStall | None = key("batches that come late", default=None)
    recorded: RecordedTimes | None = key("measured times in place of compute_s", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Workers die at random. A collective job goes back to its last checkpoint, all of it."""

    mtbf_s: float = key("mean time between failures of one worker", gt=0)
    restart_s: float = key("from a failure until training goes on", default=0.0, ge=0)
    checkpoint_s: float = key("writing a checkpoint; training stands still", default=0.0, ge=0)
    interval_s: float | None = key(
        "training time between two checkpoints; default: Young's sqrt(2 checkpoint_s mtbf_s / num_workers)",
        default=None,
        gt=0,
    )
