"""``ROUTING`` names every way to choose a replica for a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Who gets a request: ``choose(loads, count)`` is the index of a replica.

    ``loads``: unfinished requests by replica; ``count``: requests routed so far. Without ``choose`` all
    replicas admit from one queue.
    """

    doc: str
    choose: Callable[[Sequence[int], int], int] | None = None


def round_robin(loads: Sequence[int], count: int) -> int:
    """One after another."""
    return count % len(loads)


def least_loaded(loads: Sequence[int], count: int) -> int:
    """The fewest unfinished requests; ties go to the first."""
    return loads.index(min(loads))


ROUTING: dict[str, Routing] = {
    "round_robin": Routing(doc="one after another", choose=round_robin),
    "least_loaded": Routing(doc="fewest unfinished requests", choose=least_loaded),
    "shared_queue": Routing(doc="one queue for all replicas"),
}
