"""Launches on one stream, one after another."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from simpy import Environment, Event

from sim.kernel.device import GroupedDevice
from sim.kernel.every_block import BlockByBlockDevice
from sim.kernel.rates import PS_PER_S
from sim.kernel.record import LaunchRecord
from sim.kernel.work import Launch


def run_launches(
    launches: Sequence[Launch], sm_count: int, *, trace: bool = False, spans: bool = False
) -> list[LaunchRecord]:
    """The record of every launch. ``trace`` keeps every tile, ``spans`` every block's start and end.

    A launch that repeats runs once: each time is like the first, since a launch starts on an idle device.
    """
    env = Environment(initial_time=0)
    records: list[LaunchRecord] = []

    def stream() -> Generator[Event, object, None]:
        for launch in launches:
            yield env.timeout(round(launch.start_s * PS_PER_S) * launch.repeats)
            if trace:
                records.append((yield from BlockByBlockDevice(env, launch, sm_count).run()))
                continue
            device = GroupedDevice(env, launch, sm_count)
            device.keeps_spans = spans
            record = yield from device.run()
            if launch.repeats > 1:
                yield env.timeout((launch.repeats - 1) * (record.end_ps - record.start_ps))
            records.append(record.stretched(launch.repeats))

    env.process(stream())
    env.run()
    return records
