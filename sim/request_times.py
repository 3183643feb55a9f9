"""What each request waited for, and which of its bounds it met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Bools, Int64
from sim.records import FINISHED, RequestColumns, RunResult
from sim.scenario import Slo


def count(hits: Bools) -> int:
    """How many are true, as a plain int: a NumPy number would make a NumPy bool of ``>=``."""
    return int(np.count_nonzero(hits))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimes:
    """Per request, by id, picoseconds; -1 where the moment never came, NaN where ``tpot`` is absent.

    ``e2e`` is that of finished requests only. ``is_offered`` is false for a request that never
    arrived because the one that would have triggered it never ended.
    """

    queue: Int64
    ttft: Int64
    ttft_from_admission: Int64
    tpot: npt.NDArray[np.float64]
    e2e: Int64
    is_offered: Bools
    is_finished: Bools


def request_times(requests: RequestColumns) -> RequestTimes:
    """The per-request times behind ``queue_s``, ``ttft_s``, ``tpot_s`` and ``e2e_s``."""
    is_finished = requests.status == FINISHED
    gaps = np.where(is_finished & (requests.generated_tokens > 1), requests.generated_tokens - 1, 0)
    after_first = requests.finish_ps - requests.first_token_ps
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(gaps > 0, after_first / gaps, np.nan)
    return RequestTimes(
        queue=_between(requests.arrival_ps, requests.first_scheduled_ps),
        ttft=_between(requests.arrival_ps, requests.first_token_ps),
        ttft_from_admission=_between(requests.first_scheduled_ps, requests.first_token_ps),
        tpot=tpot,
        e2e=np.where(is_finished, requests.finish_ps - requests.arrival_ps, -1),
        is_offered=requests.arrival_ps >= 0,
        is_finished=is_finished,
    )


def _between(start_ps: Int64, end_ps: Int64) -> Int64:
    return np.where((start_ps >= 0) & (end_ps >= 0), end_ps - start_ps, -1)


def class_slos(result: RunResult) -> tuple[Slo, ...]:
    """The bounds that hold for each class, by class id: its own where it has them, else the scenario's."""
    classes = result.scenario.workload.classes or {}
    names = result.class_names or ("",)
    own = (classes[name].slo if name in classes else None for name in names)
    return tuple(slo if slo is not None else result.scenario.slo for slo in own)


def met_bounds(requests: RequestColumns, slos: tuple[Slo, ...]) -> Mapping[str, Bools]:
    """For each bound that some class has (``ttft``, ``tpot``, ``e2e``): which requests meet theirs.

    Only a finished request can meet a bound; one whose class has no such bound meets it by
    finishing. A one-token answer has a ``tpot`` of 0. Compared in whole picoseconds.
    """
    is_finished = requests.status == FINISHED
    since_arrival = {"ttft": requests.first_token_ps, "e2e": requests.finish_ps}
    met: dict[str, Bools] = {}
    for bound in ("ttft", "tpot", "e2e"):
        given = [getattr(slo, f"{bound}_s") for slo in slos]
        if all(limit is None for limit in given):
            continue
        limits = np.array([-1 if x is None else round(x * PS_PER_S) for x in given], dtype=np.int64)
        limit = limits[np.clip(requests.class_id, 0, len(slos) - 1)]
        if bound == "tpot":
            spent = requests.finish_ps - requests.first_token_ps
            within = spent <= limit * np.maximum(requests.generated_tokens - 1, 0)
            within |= requests.generated_tokens <= 1
        else:
            within = since_arrival[bound] - requests.arrival_ps <= limit
        met[bound] = is_finished & (within | (limit < 0))
    return met
