"""Ring all-reduce and DDP's buckets: closed forms, true sums, and a second implementation of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_jobs import S, job

from sim.hardware import Link
from sim.price.collective import ring_all_reduce_s
from sim.training.delays import StepVariation
from sim.training.exchange.prices import MIB, Exchange, fill_buckets, gradient_buckets, overlap
from sim.training.exchange.ring import chunk_of, num_ring_steps, ring_done_ps, sum_over_ring
from sim.training.schedule.synchronous import run_chunks, run_synchronous


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 1000))
def test_every_rank_ends_with_the_true_sum(n: int, size: int, seed: int) -> None:
    gradients = list(np.random.default_rng(seed).integers(-99, 99, (n, size)).astype(np.float64))
    for held in sum_over_ring(gradients):
        assert held.tolist() == np.sum(gradients, axis=0).tolist()


@given(st.integers(2, 40))
def test_ranks_send_what_they_have_just_received(n: int) -> None:
    for step in range(num_ring_steps(n)):
        assert len({chunk_of(step, rank, n) for rank in range(n)}) == n
        if step:
            sent_before = [chunk_of(step - 1, rank, n) for rank in range(n)]
            assert [chunk_of(step, rank, n) for rank in range(n)] == sent_before[-1:] + sent_before[:-1]


@pytest.mark.parametrize("n", [1, 2, 3, 8, 64])
def test_a_ring_of_equal_ranks_takes_the_closed_form(n: int) -> None:
    """2(n-1) alpha + 2(n-1)/n S/B, in whole picoseconds per chunk."""
    latency, transfer = 5_000_000, 123_456_789
    done = ring_done_ps(np.zeros(n, dtype=np.int64), latency, transfer)
    assert done.tolist() == [2 * (n - 1) * (latency + transfer)] * n
    link = Link(bytes_per_s=1e12 / transfer, latency_s=latency / S)
    assert done[0] / S == pytest.approx(ring_all_reduce_s(float(n), n, link))


def by_messages(ready: list[int], latency: int, transfer: int) -> list[int]:
    """The same ring, message by message from a queue of events, without arrays."""
    n = len(ready)
    holds, link_free = list(ready), [0] * n
    for _ in range(num_ring_steps(n)):
        arrived = {}
        for rank in range(n):
            begin = max(holds[rank], link_free[rank])
            link_free[rank] = begin + transfer
            arrived[(rank + 1) % n] = begin + transfer + latency
        holds = [max(arrived[rank], ready[rank]) for rank in range(n)]
    return holds


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=9), st.integers(0, 500), st.integers(0, 5000))
def test_a_late_rank_holds_the_ring_back_chunk_by_chunk(
    ready: list[int], latency: int, transfer: int
) -> None:
    done = ring_done_ps(np.array(ready), latency, transfer).tolist()
    assert done == by_messages(ready, latency, transfer)
    n, alone = len(ready), 2 * (len(ready) - 1) * (latency + transfer)
    assert max(ready) + 2 * (n - 1) * transfer <= max(done) <= max(ready) + alone


def test_chunks_of_workers_without_variation_are_the_closed_form() -> None:
    n, latency, transfer = 8, 10**6, 10**8
    exchange = Exchange(
        pattern="all_reduce",
        buckets=((0.5, 14 * (latency + transfer)), (1.0, 14 * (latency + transfer))),
        chunks=((latency, transfer),) * 2,
    )
    plain = run_synchronous(job(n, 20, exchange=replace(exchange, chunks=())))
    assert run_chunks(job(n, 20, exchange=exchange)).update_ps.tolist() == plain.update_ps.tolist()


@pytest.mark.parametrize("latency", [0, 10**9])
def test_a_straggler_costs_a_ring_as_much_as_a_barrier_but_for_latency(latency: int) -> None:
    """The last rank sends 2(n-1) chunks itself: all that is gained is latency of chunks that wait."""
    exchange = Exchange(
        pattern="all_reduce", buckets=((1.0, 14 * (10**10 + latency)),), chunks=((latency, 10**10),)
    )
    vary = StepVariation(distribution="exponential")
    chunks = run_chunks(job(8, 200, exchange=exchange, variation=vary)).update_ps
    barrier = run_synchronous(job(8, 200, exchange=replace(exchange, chunks=()), variation=vary)).update_ps
    assert (chunks <= barrier).all()
    assert (chunks[-1] < barrier[-1]) == (latency > 0)


def test_buckets_close_as_pytorch_s_do() -> None:
    """The tensor that takes a bucket to its cap closes it; the first one's cap is its own."""
    assert fill_buckets([1, 1, 1, 1, 1, 1, 1], 1, 3) == [[0], [1, 2, 3], [4, 5, 6]]
    assert fill_buckets([10, 1, 1, 5], 1, 3) == [[0], [1, 2, 3]]
    assert fill_buckets([], 1, 3) == []


def test_gradients_come_from_the_last_layer_to_the_first() -> None:
    buckets = gradient_buckets([4 * MIB, 2 * MIB, 1 * MIB], [1.0, 1.0, 2.0], MIB, 3 * MIB)
    assert [(one.num_bytes // MIB, one.ready_fraction) for one in buckets] == [(1, 0.5), (6, 1.0)]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 300)), min_size=1, max_size=8))
def test_ddp_overlap_is_the_recursion(buckets: list[tuple[int, int]]) -> None:
    """done_k = max(done_{k-1}, ready_k) + AR(k), against max over k of ready_k + all that follows."""
    buckets.sort(key=lambda one: one[0])
    ready, spent = zip(*buckets, strict=True)
    done = overlap(ready, spent)
    assert done[-1] == max(ready[k] + sum(spent[k:]) for k in range(len(ready)))
    fractions = tuple((r / 1000, d * 10**9) for r, d in buckets)
    exchange = Exchange(pattern="all_reduce", buckets=fractions)
    share = np.full(3, 1.0)
    outcome = run_synchronous(job(3, 1, exchange=exchange, backward_share=share, nominal_s=np.ones(3)))
    assert int(outcome.update_ps[0]) == max(S, done[-1] * 10**9)


def test_no_overlap_adds_the_whole_exchange() -> None:
    exchange = Exchange(pattern="all_reduce", buckets=((0.2, 10**9), (1.0, 2 * 10**9)), overlap=False)
    assert run_synchronous(job(4, 1, exchange=exchange)).update_ps.tolist() == [S + 3 * 10**9]


def test_a_parameter_server_carries_every_gradient_and_the_weights_back() -> None:
    """2 n S/(k B) after n workers at once, the weights pulled before, the gradients pushed after."""
    n, occupies = 16, 10**9
    exchange = Exchange(pattern="server", occupies_ps=occupies, takes_ps=occupies)
    steps = np.diff(run_synchronous(job(n, 5, exchange=exchange)).update_ps)
    # Pulls come one after another and so do the computations' ends: the pushes hide behind them.
    assert steps.tolist() == [S + (n + 1) * occupies] * 4
    at_once = run_synchronous(job(n, 5, exchange=exchange, nominal_s=np.zeros(n)))
    assert np.diff(at_once.update_ps).tolist() == [(n + 1) * occupies] * 4
