"""Laws that every run must keep, as relative gaps: 0.0 where two independent records agree exactly."""

from __future__ import annotations

import numpy as np

from sim.errors import InvariantError
from sim.results.statistics import exact_dot, exact_sum
from sim.serving.front_end import FrontEnd
from sim.serving.records import RunResult


def littles_law_gap(result: RunResult) -> float:
    """(integral of the number in system - sum of the times in system) / the latter; 0.0 when exact.

    The left side walks over arrivals and departures in order of time, the right side adds each
    request's own stay; a request that never ended stays until the run's last moment. A departure
    before its arrival makes the number in system negative and raises InvariantError.
    """
    requests = result.requests
    arrived = requests.arrival_ps >= 0
    arrival, finish = requests.arrival_ps[arrived], requests.finish_ps[arrived]
    if arrival.size == 0:
        return 0.0
    last_ps = max(int(arrival.max()), int(finish.max()), result.window_ps[1])
    leave = np.where(finish >= 0, finish, last_ps)
    times = np.concatenate([arrival, leave])
    change = np.repeat(np.array([1, -1], dtype=np.int64), arrival.size)
    order = np.lexsort((-change, times))  # arrivals first within an instant
    number = np.cumsum(change[order])
    if number.min() < 0:
        when = int(times[order][int(number.argmin())])
        raise InvariantError(f"more requests left than had arrived at {when} ps")
    integral = exact_dot(number[:-1], np.diff(times[order]))
    stays = exact_sum(leave - arrival)
    return (integral - stays) / stays if stays else float(integral)


def running_time_gap(result: RunResult) -> float:
    """(time in steps x sequences running - time from first scheduled to end) / the latter.

    The left side comes from the engine's segments, the right side from the requests: two records
    written independently. Exactly 0.0 where every running sequence is in every step: no
    preemptions, no aborts, nothing unfinished, and a replica that does not pause while it serves.
    """
    requests, segments = FrontEnd.of(result.scenario).at_engine(result.requests), result.segments
    served = (requests.first_scheduled_ps >= 0) & (requests.finish_ps >= 0)
    stays = exact_sum((requests.finish_ps - requests.first_scheduled_ps)[served])
    in_steps = exact_dot(segments.num_running, segments.duration_ps)
    return (in_steps - stays) / stays if stays else float(in_steps)
