"""Arrays and heaps against SimPy's events: the same picosecond for every update, the same version read."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st
from training_jobs import FREE, VARIATIONS, job

from sim.training.delays import StepVariation
from sim.training.exchange.prices import Exchange
from sim.training.scenario import Failures
from sim.training.schedule.asynchronous import run_asynchronous
from sim.training.schedule.job import Job
from sim.training.schedule.synchronous import run_synchronous
from sim.training.schedule.timeline import first_steps
from sim.training.sync import SYNC, UNBOUNDED
from sim.training.worker import simulate_events

MS = 10**9
SERVERS = st.builds(
    lambda occupies, rest, late: Exchange(
        pattern="server",
        occupies_ps=occupies * 50 * MS,
        takes_ps=(occupies + rest) * 50 * MS,
        link_ps=((0, late * 130 * MS),) if late else (),
    ),
    st.integers(0, 6),
    st.integers(0, 3),
    st.integers(0, 3),
)
BUCKETS = st.lists(
    st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0]), st.integers(0, 400 * MS)), min_size=1, max_size=5
)


def collective(buckets: list[tuple[float, int]], overlap: bool) -> Exchange:
    return Exchange(pattern="all_reduce", buckets=tuple(sorted(buckets)), overlap=overlap)


@st.composite
def jobs(draw: st.DrawFn, schemes: tuple[str, ...], has_collectives: bool) -> Job:
    n, scheme = draw(st.integers(1, 7)), draw(st.sampled_from(schemes))
    kinds = [st.just(FREE), SERVERS]
    if has_collectives and scheme != "k_sync":
        kinds.append(st.builds(collective, BUCKETS, st.just(scheme == "bsp") | st.just(False)))
    exchange = draw(st.one_of(kinds))
    changes: dict[str, Any] = {
        "variation": draw(st.sampled_from(VARIATIONS)),
        "seed": draw(st.integers(0, 99)),
        "exchange": exchange,
        "num_awaited": draw(st.integers(1, n)) if scheme in ("k_sync", "k_async") else n,
        "local_steps": draw(st.integers(1, 4)) if scheme == "local_sgd" else 1,
        "staleness_bound": {"asp": UNBOUNDED, "ssp": draw(st.integers(0, 4))}.get(scheme, 0),
    }
    if not exchange.is_server:
        changes["optimizer_ps"] = draw(st.integers(0, 2)) * 70 * MS * np.arange(n, dtype=np.int64)
    return job(n, draw(st.integers(1, 12)), scheme, **changes)


@settings(max_examples=150, deadline=None)
@given(jobs(("bsp", "k_sync", "local_sgd"), True))
def test_synchronous_arrays_are_the_events(made: Job) -> None:
    outcome, trail = run_synchronous(made), simulate_events(made, made.num_steps)
    assert outcome.update_ps.tolist() == trail.updates
    if outcome.gradients is not None:
        used = zip(outcome.gradients.update.tolist(), outcome.gradients.worker.tolist(), strict=True)
        assert sorted(used) == sorted((version, worker) for _, worker, version in trail.gradients)


@settings(max_examples=200, deadline=None)
@given(jobs(("ssp", "asp", "k_async"), False))
def test_asynchronous_heaps_are_the_events(made: Job) -> None:
    outcome, log = run_asynchronous(made)
    trail = simulate_events(made, made.num_steps)
    size = log.time_ps.size
    found = zip(log.time_ps.tolist(), log.worker.tolist(), log.version_read.tolist(), strict=True)
    assert list(found) == trail.gradients[:size]
    assert outcome.update_ps.tolist() == trail.updates[: outcome.update_ps.size]


@settings(max_examples=300, deadline=None)
@given(jobs(("bsp", "ssp", "asp", "k_sync", "k_async", "local_sgd"), True), st.integers(1, 14), st.booleans())
def test_the_first_steps_are_the_events(made: Job, num_steps: int, is_frail: bool) -> None:
    if is_frail and made.scheme.is_asynchronous:
        made = replace(made, failures=Failures(mtbf_s=5, restart_s=0.5))
    found, events = first_steps(made, num_steps), simulate_events(made, num_steps).columns()
    if found is None:
        event("only the events can tell")
        return
    for column in fields(events):
        expected = getattr(events, column.name)
        assert getattr(found, column.name).tolist() == expected.tolist(), column.name
        assert getattr(found, column.name).dtype == expected.dtype


def test_only_instants_that_tie_are_left_to_the_events() -> None:
    exponential = StepVariation(distribution="exponential")
    server = Exchange(pattern="server", occupies_ps=MS, takes_ps=2 * MS)
    for scheme in SYNC:
        made = job(5, 12, scheme, variation=exponential, exchange=server, num_awaited=3)
        assert first_steps(made, 6) is not None, scheme


@settings(max_examples=40, deadline=None)
@given(jobs(("ssp", "asp"), False), st.integers(1, 20))
def test_workers_that_die_do_so_at_the_same_moment(made: Job, mtbf_s: int) -> None:
    frail = replace(made, failures=Failures(mtbf_s=mtbf_s, restart_s=0.5))
    _, log = run_asynchronous(frail)
    trail = simulate_events(frail, frail.num_steps)
    assert log.time_ps.tolist() == [time for time, _, _ in trail.gradients[: log.time_ps.size]]


@settings(max_examples=60, deadline=None)
@given(jobs(("bsp", "ssp", "asp", "k_sync", "k_async", "local_sgd"), True))
def test_a_worker_s_time_adds_up(made: Job) -> None:
    """Computing, stalls, waiting and exchange are never negative and never more than the run."""
    is_alone = made.scheme.is_asynchronous
    outcome = run_asynchronous(made)[0] if is_alone else run_synchronous(made)
    workers = outcome.workers
    parts = [workers.compute_ps, workers.data_stall_ps, workers.wait_ps, workers.exchange_ps]
    parts += [workers.optimizer_ps, workers.lost_ps]
    assert all((part >= 0).all() for part in parts)
    assert (sum(parts) <= outcome.end_ps).all() or made.scheme.drops_gradients
    used = int(workers.num_steps.sum())
    assert used == (outcome.gradients.update.size if outcome.gradients else made.num_workers * made.num_steps)
