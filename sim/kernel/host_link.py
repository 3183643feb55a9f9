"""Host DRAM ↔ HBM over the host link: copies alone, and in chunks that overlap with a kernel."""

from __future__ import annotations

from collections.abc import Generator

from simpy import Environment, Event, Resource

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile
from sim.kernel.rates import PS_PER_S

NUM_CHUNKS = 8


def copy_ps(profile: HardwareProfile, size_bytes: float) -> int:
    """One pinned copy over the host link. Not modelled: pageable memory, which is slower."""
    link = profile.host_link
    if link is None:
        raise ScenarioError(
            f"{profile.name} has no known host link",
            path="hardware.host_link",
            allowed="{bytes_per_s: 63 GB/s, latency_s: 10 us}",
        )
    return round(((link.latency_s or 0.0) + size_bytes / link.bytes_per_s) * PS_PER_S)


def overlapped_ps(copy: int, kernel: int, num_chunks: int = NUM_CHUNKS) -> int:
    """Copy and kernel in ``num_chunks`` equal parts, a part computed once it has come."""
    env = Environment(initial_time=0)
    link, device = Resource(env, capacity=1), Resource(env, capacity=1)

    def part(copying: int, computing: int) -> Generator[Event, object, None]:
        with link.request() as turn:
            yield turn
            yield env.timeout(copying)
        with device.request() as turn:
            yield turn
            yield env.timeout(computing)

    for index in range(num_chunks):
        env.process(part(_share(copy, index, num_chunks), _share(kernel, index, num_chunks)))
    env.run()
    return int(env.now)


def _share(whole: int, index: int, parts: int) -> int:
    """Whole picoseconds that add up."""
    return whole * (index + 1) // parts - whole * index // parts
