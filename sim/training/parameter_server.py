"""A parameter server's NICs: k shards that each hold 1/k of the model behind a full-duplex link.

A push carries S/k bytes into every shard, a pull as many out of it. Each direction of each NIC carries one
worker's message at a time, in the order of asking. Every worker talks to all shards alike, so that all NICs
have the same queue: one of them is simulated and stands for all. A worker's own NIC bounds a message at S/B
where there are more shards than one. After n workers at once: 2 n S / (k B).
Not modelled: the server's arithmetic (it hides behind its NIC), and messages cut into pieces that interleave.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from simpy import Environment, Event, Resource

from sim.hardware import Link


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimes:
    """One worker's message in one direction, in seconds: what it occupies a NIC for, and its whole way."""

    occupies_s: float
    takes_s: float  # at least occupies_s: the worker's own link, and the latency


def server_times(num_bytes: float, num_servers: int, link: Link) -> ServerTimes:
    """A message of ``num_bytes`` spread over the shards."""
    shard_s = num_bytes / num_servers / link.bytes_per_s
    return ServerTimes(
        occupies_s=shard_s, takes_s=(link.latency_s or 0.0) + max(shard_s, num_bytes / link.bytes_per_s)
    )


class ServerNic:
    """Both directions of the NIC, as SimPy resources."""

    def __init__(self, env: Environment, occupies_ps: int, takes_ps: int) -> None:
        self._env = env
        self._occupies_ps, self._takes_ps = occupies_ps, takes_ps
        self._inbound, self._outbound = Resource(env, 1), Resource(env, 1)

    def push(self) -> Generator[Event, object, None]:
        """A gradient's way into the server, queueing included."""
        yield from self._carry(self._inbound)

    def pull(self) -> Generator[Event, object, None]:
        """The weights' way back."""
        yield from self._carry(self._outbound)

    def _carry(self, direction: Resource) -> Generator[Event, object, None]:
        with direction.request() as turn:
            yield turn
            yield self._env.timeout(self._occupies_ps)
        yield self._env.timeout(self._takes_ps - self._occupies_ps)
