"""When a worker may start its next step, and which gradients an update waits for. No clock, no chance.

``SYNC`` is the only place that names a scheme: loader, schema, checks, both simulations, learning and
reports ask its entry. SSP and ASP bound staleness: a worker may start step k (from 0) when k minus the number
of steps that the slowest worker has completed is at most the bound (Ho et al. 2013); ASP has none. BSP has
bound 0 and is run as a synchronous schedule. K-sync and K-async count gradients instead
(Dutta et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable

from sim.scenario.dataclass import dataclass
from sim.scenario.fields import key

UNBOUNDED = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncConfig:
    """When a worker may start its next step. One rule: step - steps of the slowest <= staleness bound."""

    scheme: str = key("what lets a worker go on", default="bsp", choices=lambda: SYNC)
    staleness_bound: int | None = key("ssp: steps ahead of the slowest", default=None, ge=0, le=1_000_000)
    backup_workers: int | None = key("k_sync: gradients not waited for", default=None, ge=0, le=65_536)
    num_required: int | None = key("k_async: gradients per update", default=None, ge=1, le=65_536)
    local_steps: int | None = key(
        "local_sgd: steps between two averages (H)", default=None, ge=1, le=1_000_000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """A synchronisation scheme: everything that anybody asks about it.

    Workers of a synchronous scheme all begin anew at an update. Those of an asynchronous one go on by
    themselves, at most ``staleness_bound`` steps ahead of the slowest, and each gradient is an update. With
    ``waits_for_update`` they wait for the update of ``num_awaited`` gradients that has theirs.
    """

    meaning: str
    keys: tuple[str, ...] = ()  # of ``sync``: needed by it, refused where no such scheme is chosen
    is_asynchronous: bool = False
    staleness_bound: Callable[[SyncConfig], int] = lambda sync: 0
    num_awaited: Callable[[SyncConfig, int], int] = lambda sync, num_workers: num_workers  # per update
    local_steps: Callable[[SyncConfig], int] = lambda sync: 1  # between two exchanges
    waits_for_update: bool = False
    drops_gradients: bool = False  # a synchronous update cancels the steps that it does not wait for
    averages_weights: bool = False  # in place of gradients

    @property
    def takes_all(self) -> bool:
        """Whether every worker brings its share of every exchange, as a collective needs."""
        return not self.is_asynchronous and not self.drops_gradients

    @property
    def is_plain(self) -> bool:
        """Whether every step is one synchronous update by all workers: BSP."""
        return self.takes_all and not self.averages_weights

    @property
    def changes_learning(self) -> bool:
        """Whether updates use other gradients than BSP's, so that a step is worth more or less."""
        return self.is_asynchronous or self.averages_weights


SYNC: dict[str, Scheme] = {
    "bsp": Scheme(meaning="bound 0"),
    "ssp": Scheme(
        meaning="bound staleness_bound",
        keys=("staleness_bound",),
        is_asynchronous=True,
        staleness_bound=lambda sync: sync.staleness_bound or 0,
    ),
    "asp": Scheme(meaning="no bound", is_asynchronous=True, staleness_bound=lambda sync: UNBOUNDED),
    "k_sync": Scheme(
        meaning="the first num_workers - backup_workers gradients, the rest is cancelled",
        keys=("backup_workers",),
        num_awaited=lambda sync, num_workers: num_workers - (sync.backup_workers or 0),
        drops_gradients=True,
    ),
    "k_async": Scheme(
        meaning="an update per num_required gradients, the rest goes on",
        keys=("num_required",),
        is_asynchronous=True,
        num_awaited=lambda sync, num_workers: sync.num_required or num_workers,
        waits_for_update=True,
    ),
    "local_sgd": Scheme(
        meaning="weights are averaged every local_steps",
        keys=("local_steps",),
        local_steps=lambda sync: sync.local_steps or 1,
        averages_weights=True,
    ),
}


def schemes_with(key: str) -> str:
    """The names of the schemes that need this key of ``sync``."""
    return schemes_where(lambda scheme: key in scheme.keys)


def schemes_where(holds: Callable[[Scheme], bool]) -> str:
    """The names of these schemes, for an error's "allowed"."""
    return ", ".join(name for name, scheme in SYNC.items() if holds(scheme))


class StalenessBarrier:
    """Holds back workers that are too far ahead, by the number of steps that each has completed."""

    def __init__(self, num_workers: int, staleness_bound: int) -> None:
        self.staleness_bound = staleness_bound
        self.slowest_completed = 0
        self._completed = [0] * num_workers
        self._num_at = {0: num_workers}  # workers by number of completed steps
        self._held: dict[int, list[int]] = {}  # by the step that they want to start

    def complete(self, worker: int) -> list[int]:
        """``worker`` has completed a step: the workers that may start their next one now, in order.

        The worker itself is among them, or is held back.
        """
        before = self._completed[worker]
        after = before + 1
        self._completed[worker] = after
        num_at = self._num_at
        num_at[after] = num_at.get(after, 0) + 1
        left = num_at[before] - 1
        num_at[before] = left
        if left == 0 and before == self.slowest_completed:
            return self._advance(worker, after)
        if after - self.slowest_completed <= self.staleness_bound:
            return [worker]
        self._held.setdefault(after, []).append(worker)
        return []

    def _advance(self, worker: int, step: int) -> list[int]:
        del self._num_at[self.slowest_completed]
        self.slowest_completed = slowest = self.slowest_completed + 1
        released = self._held.pop(slowest + self.staleness_bound, [])
        if step - slowest <= self.staleness_bound:
            return sorted([*released, worker])
        self._held.setdefault(step, []).append(worker)
        return sorted(released)
