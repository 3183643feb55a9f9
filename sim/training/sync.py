"""When a worker may start its next step, and which gradients an update waits for. No clock, no chance.

BSP, SSP and ASP are one gate: a worker may start step k (from 0) when k minus the number of steps that the
slowest worker has completed is at most the staleness bound (Ho et al. 2013). BSP is 0, ASP has no bound.
K-sync and K-async count gradients instead (Dutta et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sim.training.scenario import SyncConfig

UNBOUNDED = 2**62

# The staleness bound of each scheme in which a worker's step goes through the gate.
SYNC: Mapping[str, Callable[[SyncConfig], int]] = {
    "bsp": lambda sync: 0,
    "ssp": lambda sync: sync.staleness_bound or 0,
    "asp": lambda sync: UNBOUNDED,
}


def may_start(step: int, slowest_completed: int, staleness_bound: int) -> bool:
    """The gate."""
    return step - slowest_completed <= staleness_bound


def num_awaited(sync: SyncConfig, num_workers: int) -> int:
    """Gradients that one update of a synchronous scheme or of K-async waits for."""
    if sync.scheme == "k_sync":
        return num_workers - (sync.backup_workers or 0)
    if sync.scheme == "k_async":
        return sync.num_required or num_workers
    return num_workers


class Gate:
    """Who waits for whom: the number of steps that each worker has completed, and who is held back."""

    def __init__(self, num_workers: int, staleness_bound: int) -> None:
        self.staleness_bound = staleness_bound
        self.slowest_completed = 0
        self._completed = [0] * num_workers
        self._num_at = {0: num_workers}  # workers that have completed so many steps
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
