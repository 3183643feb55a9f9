"""Real SGD on the simulated clock: gradients in the order, with the staleness, that a simulation produced.

The simulation says which update each gradient went into, when, and which version of the weights it was
computed from; here they are computed and applied. Time to target = seconds per update (hardware efficiency) x
updates to target (statistical efficiency), reported apart. What this does not say about large models:
``problems``.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np
import numpy.typing as npt

from sim.errors import InvariantError
from sim.rng import stream
from sim.scenario.dataclass import dataclass
from sim.scenario.fields import key
from sim.training.learning.problems import CHUNK, PROBLEMS, Drawn, Problem, Vector, folded

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Updates, and the gradients in them. Versions count updates: version 0 is the start.

    An update averages its gradients: BSP has all workers' in each, ASP one. ``update`` is ascending;
    ``version_read`` is at most the gradient's own update (counted from 0), staleness is their difference.
    """

    update_times_s: Floats  # one per update, ascending
    update: Ints  # one per gradient: the update that it goes into
    worker: Ints
    version_read: Ints

    @property
    def num_updates(self) -> int:
        """Updates."""
        return len(self.update_times_s)

    @property
    def staleness(self) -> Ints:
        """Updates that happened between reading the weights and using the gradient."""
        return self.update - self.version_read

    @property
    def mean_staleness(self) -> float:
        """Of all gradients."""
        return float(self.staleness.mean()) if len(self.update) else 0.0

    @property
    def num_workers(self) -> int:
        """Workers that brought a gradient, by the largest index."""
        return int(self.worker.max()) + 1 if len(self.worker) else 0


def single_gradient_schedule(times_s: Floats, worker: Ints, version_read: Ints) -> Schedule:
    """ASP and SSP on a parameter server: every gradient is an update of its own."""
    update = np.arange(len(times_s), dtype=np.int64)
    return Schedule(update_times_s=times_s, update=update, worker=worker, version_read=version_read)


def synchronous_schedule(times_s: Floats, num_workers: int) -> Schedule:
    """BSP: update k averages one gradient of version k from every worker."""
    update = np.repeat(np.arange(len(times_s), dtype=np.int64), num_workers)
    worker = np.tile(np.arange(num_workers, dtype=np.int64), len(times_s))
    return Schedule(update_times_s=times_s, update=update, worker=worker, version_read=update)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """Loss against time and updates; the first point is the start."""

    times_s: Floats
    updates: Ints
    losses: Floats
    mean_staleness: float
    num_gradients: int

    @property
    def seconds_per_update(self) -> float:
        """Hardware efficiency."""
        return float(self.times_s[-1] / self.updates[-1]) if self.updates[-1] else 0.0

    @property
    def has_learnt(self) -> bool:
        """Whether the loss ended below its start; a run that diverges ends above it."""
        return bool(self.losses[-1] < self.losses[0])

    def updates_to_target(self, target_loss: float) -> int | None:
        """Statistical efficiency: updates until the loss is first at or below the target; None if never."""
        at = self._reached(target_loss)
        return None if at is None else int(self.updates[at])

    def time_to_target_s(self, target_loss: float) -> float | None:
        """Simulated seconds until then; None if never."""
        at = self._reached(target_loss)
        return None if at is None else float(self.times_s[at])

    def _reached(self, target_loss: float) -> int | None:
        below = np.flatnonzero(self.losses <= target_loss)
        return int(below[0]) if len(below) else None


def learn(
    problem: Problem,
    schedule: Schedule,
    *,
    learning_rate: float,
    staleness_aware: bool = False,
    seed: int = 1,
    evaluate_every: int = 1,
    target_loss: float = -np.inf,
    ceiling: float = np.inf,
) -> LearningCurve:
    """Apply the schedule's updates to the problem.

    ``staleness_aware`` divides each gradient by its staleness where that is above one (Zhang et al., arXiv
    1511.05950). The k-th mini-batch of a worker is the same under every schedule. A run that diverges is cut
    at the first loss that is not below ``ceiling``, and given as that; what it has reached stays. In the
    first interval that ends at or below ``target_loss`` every update is evaluated: the curve has the very
    update that reached it, however far apart its other points are.
    """
    check_schedule(schedule)
    points = [(0.0, 0, problem.loss(problem.start()))]
    since: list[Vector] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for k, weights in enumerate(_weights(problem, schedule, learning_rate, staleness_aware, seed)):
            since.append(weights)
            if (k + 1) % evaluate_every and k + 1 != schedule.num_updates:
                continue
            loss = problem.loss(weights)
            if not loss < ceiling:
                if np.isfinite(ceiling):
                    points.append((float(schedule.update_times_s[k]), k + 1, ceiling))
                break
            if loss <= target_loss < min(point[2] for point in points):
                at, reached = _first_below(problem, since, target_loss)
                at += k + 1 - len(since)
                points.append((float(schedule.update_times_s[at]), at + 1, reached))
            if points[-1][1] != k + 1:
                points.append((float(schedule.update_times_s[k]), k + 1, loss))
            since.clear()
    return _curve(points, schedule.mean_staleness, len(schedule.update))


def _first_below(problem: Problem, since: list[Vector], target_loss: float) -> tuple[int, float]:
    """Index and loss of the first weights at or below the target; the last ones are."""
    losses = (problem.loss(weights) for weights in since)
    return next((index, loss) for index, loss in enumerate(losses) if loss <= target_loss)


def _weights(
    problem: Problem, schedule: Schedule, learning_rate: float, staleness_aware: bool, seed: int
) -> Iterator[Vector]:
    """The weights after each update."""
    weights = problem.start()
    history = {0: weights}
    unused = _last_use(schedule)
    draws = _draws(problem, schedule.num_workers, seed)
    starts = np.searchsorted(schedule.update, np.arange(schedule.num_updates + 1)).tolist()
    worker, version = schedule.worker.tolist(), schedule.version_read.tolist()
    stale = schedule.staleness.tolist()
    first = end = 0  # the gradients that ``ahead`` has
    for k in range(schedule.num_updates):
        total = np.zeros(weights.size)
        for g in range(starts[k], starts[k + 1]):
            if g == end:
                first, end = g, _end_of_known(version, g, k, _num_together(problem))
                read = np.array([history[one] for one in version[first:end]])
                ahead = problem.gradients(read, np.array([next(draws[one]) for one in worker[first:end]]))
            gradient = ahead[g - first]
            total += gradient / max(1, stale[g]) if staleness_aware else gradient
        weights = weights - learning_rate / max(1, starts[k + 1] - starts[k]) * total
        history[k + 1] = weights
        for old in unused.get(k, ()):
            del history[old]
        yield weights


def _end_of_known(version: list[int], begin: int, newest: int, most: int) -> int:
    """The end of the gradients from ``begin`` on whose weights are there by now; at most so many.

    Together they take little more time than one: most of it is spent on calls of NumPy.
    """
    last = min(begin + most, len(version))
    return next((g for g in range(begin + 1, last) if version[g] > newest), last)


def _draws(problem: Problem, num_workers: int, seed: int) -> list[Iterator[Drawn]]:
    """The chance of each worker, from a stream of its own."""
    return [problem.draws(stream(seed, f"learning.worker.{w}")) for w in range(num_workers)]


def _num_together(problem: Problem) -> int:
    return max(1, CHUNK // 2 // max(1, problem.batch_size))  # back-propagation needs twice the room


def _curve(
    points: list[tuple[float, int, float]], mean_staleness: float, num_gradients: int
) -> LearningCurve:
    times, updates, losses = zip(*points, strict=True)
    return LearningCurve(
        times_s=np.array(times),
        updates=np.array(updates, dtype=np.int64),
        losses=np.array(losses),
        mean_staleness=mean_staleness,
        num_gradients=num_gradients,
    )


def check_schedule(schedule: Schedule) -> None:
    """A gradient cannot come from a future version: our simulation's error, not the user's."""
    ahead = schedule.version_read > schedule.update
    if ahead.any() or (len(schedule.version_read) and schedule.version_read.min() < 0):
        at = int(np.flatnonzero(ahead | (schedule.version_read < 0))[0])
        raise InvariantError(
            f"gradient {at} of update {schedule.update[at]} was read from version {schedule.version_read[at]}"
        )
    if len(schedule.update) and (np.diff(schedule.update) < 0).any():
        raise InvariantError("gradients are not in the order of their updates")


def _last_use(schedule: Schedule) -> dict[int, list[int]]:
    """By update: versions that no later gradient reads, so that the history stays short."""
    last: dict[int, int] = {}
    for k, version in zip(schedule.update.tolist(), schedule.version_read.tolist(), strict=True):
        last[version] = k
    by_update: dict[int, list[int]] = {}
    for version in range(schedule.num_updates):
        by_update.setdefault(max(last.get(version, version), version), []).append(version)
    return by_update


def learn_locally(
    problem: Problem,
    round_times_s: Floats,
    *,
    num_workers: int,
    local_steps: int,
    learning_rate: float,
    num_steps: int | None = None,
    seed: int = 1,
    ceiling: float = np.inf,
) -> LearningCurve:
    """Local SGD: each worker does ``local_steps`` of its own, then all average their weights.

    The last round is shorter where ``num_steps`` of a worker are not a multiple of it. A run that diverges
    ends as in ``learn``.
    """
    weights = problem.start()
    draws = _draws(problem, num_workers, seed)
    together = _num_together(problem)
    groups = [draws[at : at + together] for at in range(0, num_workers, together)]
    points = [(0.0, 0, problem.loss(weights))]
    whole = len(round_times_s) * local_steps if num_steps is None else num_steps
    with np.errstate(over="ignore", invalid="ignore"):
        for time_s in round_times_s.tolist():
            before = points[-1][1]
            steps = min(local_steps, whole - before)
            ends = [_alone(problem, weights, group, steps, learning_rate) for group in groups]
            weights = folded(np.concatenate(ends)) / num_workers
            loss = problem.loss(weights)
            if not loss < ceiling:
                if np.isfinite(ceiling):
                    points.append((time_s, before + steps, ceiling))
                break
            points.append((time_s, before + steps, loss))
    return _curve(points, 0.0, num_workers * points[-1][1])


def _alone(
    problem: Problem, start: Vector, draws: list[Iterator[Drawn]], num_steps: int, learning_rate: float
) -> Vector:
    """A row per worker: its weights after so many steps of its own."""
    weights = np.tile(start, (len(draws), 1))
    for _ in range(num_steps):
        weights = weights - learning_rate * problem.gradients(weights, np.array([next(one) for one in draws]))
    return weights


# A scenario's ``learning``: which problem is trained on a run's schedule, and what came of it.

# Loss is computed at this many points of a run: as many gradients apart in every scheme.
MAX_POINTS = 200
# A run whose loss exceeds this multiple of its start is not followed further.
DIVERGED = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningConfig:
    """Real SGD on the simulated schedule. It says nothing about large models (``problems``)."""

    problem: str = key(
        "what is trained, on generated data", default="logistic_regression", choices=lambda: PROBLEMS
    )
    learning_rate: float = key("of the averaged gradient of an update", default=0.2, gt=0, le=1e6)
    staleness_aware: bool = key("divide each gradient by its staleness (arXiv 1511.05950)", default=False)
    batch_size: int = key("examples per gradient", default=16, ge=1, le=100_000)
    target_loss: float | None = key("time and updates to it are reported", default=None, gt=0)
    max_gradients: int = key("the schedule is followed up to here", default=20_000, ge=1, le=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningResult:
    """The curve and, where a target was given, how long it took. None: not reached in the run."""

    curve: LearningCurve
    updates_to_target: int | None
    gradients_to_target: int | None  # in these updates, of all workers
    time_to_target_s: float | None
    is_cut: bool  # the schedule was longer than max_gradients


def problem_of(learning: LearningConfig) -> Problem:
    """The problem by its name, with the batch size."""
    return PROBLEMS[learning.problem](learning.batch_size)


def learn_run(
    learning: LearningConfig,
    schedule: Schedule,
    seed: int,
    *,
    local_steps: int = 1,
    num_steps: int | None = None,
) -> LearningResult:
    """Train on the run's schedule; ``local_steps`` above 1 is local SGD, whose updates are averages.

    Of local SGD's ``num_steps`` a worker those after the last whole round make a shorter one.
    """
    cut = first_gradients(schedule, max(1, learning.max_gradients // local_steps))
    problem = problem_of(learning)
    ceiling = DIVERGED * problem.loss(problem.start())
    if local_steps > 1:
        curve = learn_locally(
            problem,
            cut.update_times_s,
            num_workers=cut.num_workers,
            local_steps=local_steps,
            num_steps=None if cut.num_updates < schedule.num_updates else num_steps,
            learning_rate=learning.learning_rate,
            seed=seed,
            ceiling=ceiling,
        )
    else:
        curve = learn(
            problem,
            cut,
            learning_rate=learning.learning_rate,
            staleness_aware=learning.staleness_aware,
            seed=seed,
            evaluate_every=ceil(cut.num_updates / MAX_POINTS),
            ceiling=ceiling,
            target_loss=-np.inf if learning.target_loss is None else learning.target_loss,
        )
    target = learning.target_loss
    updates = None if target is None else curve.updates_to_target(target)
    return LearningResult(
        curve=curve,
        updates_to_target=updates,
        gradients_to_target=None if updates is None else _gradients(cut, updates, local_steps),
        time_to_target_s=None if target is None else curve.time_to_target_s(target),
        is_cut=cut.num_updates < schedule.num_updates,
    )


def _gradients(schedule: Schedule, num_updates: int, local_steps: int) -> int:
    """Gradients in the first updates; in local SGD every worker's every step is one."""
    if local_steps > 1:
        return num_updates * schedule.num_workers
    return int(np.searchsorted(schedule.update, num_updates))


def first_gradients(schedule: Schedule, num_gradients: int) -> Schedule:
    """The schedule's whole updates among its first gradients, at least one."""
    if len(schedule.update) <= num_gradients:
        return schedule
    updates = max(1, int(schedule.update[num_gradients]))
    kept = int(np.searchsorted(schedule.update, updates))
    return Schedule(
        update_times_s=schedule.update_times_s[:updates],
        update=schedule.update[:kept],
        worker=schedule.worker[:kept],
        version_read=schedule.version_read[:kept],
    )
