"""The skipping engine against the stepped one: the same picoseconds, preemptions and blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_runs import engines, run, workloads

from sim.serving.records import FINISHED, REFUSED, RequestTable, RunResult


def assert_same(skipped: RunResult, stepped: RunResult) -> None:
    """Every column of the requests, the ledger, the memory and the time."""
    for name in stepped.requests.__dataclass_fields__:
        ours, theirs = getattr(skipped.requests, name), getattr(stepped.requests, name)
        assert np.array_equal(ours, theirs), (name, ours, theirs)
    for name in stepped.preemptions.__dataclass_fields__:
        assert np.array_equal(getattr(skipped.preemptions, name), getattr(stepped.preemptions, name)), name
    assert skipped.busy_ps == stepped.busy_ps
    assert skipped.window_ps == stepped.window_ps
    assert int(skipped.segments.num_steps.sum()) == len(stepped.segments.num_steps)
    assert skipped.kv_time_tokens_ps == stepped.kv_time_tokens_ps
    if skipped.block_map is None:
        return
    assert stepped.block_map is not None
    for name in ("address_tokens", "size_tokens", "start_ps", "end_ps", "request", "kind"):
        assert np.array_equal(getattr(skipped.block_map, name), getattr(stepped.block_map, name)), name


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=workloads(), engine=engines())
def test_one_replica(table: RequestTable, engine: dict[str, Any]) -> None:
    skipped, stepped = run(table, engine, "skip"), run(table, engine, "every_step")
    assert_same(skipped, stepped)
    assert_same(run(table, engine, "skip", has_block_map=False), stepped)
    ended = skipped.requests.status != 0
    assert ended.all()
    finished = skipped.requests.status == FINISHED
    assert (skipped.requests.generated_tokens[finished] == table.output_tokens[finished]).all()
    refused = skipped.requests.status == REFUSED
    assert (skipped.requests.generated_tokens[refused] == 0).all()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=workloads(),
    engine=engines(),
    replicas=st.integers(2, 3),
    routing=st.sampled_from(["round_robin", "least_loaded", "shared_queue"]),
)
def test_replicas(table: RequestTable, engine: dict[str, Any], replicas: int, routing: str) -> None:
    assume(routing != "shared_queue" or engine["batching"] != "static")  # the checks refuse it
    fields = {"replicas": replicas, "routing": routing}
    assert_same(run(table, engine, "skip", **fields), run(table, engine, "every_step", **fields))
