"""What a run's time is charged to: the parts are the whole, and each cause finds its own part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_jobs import VARIATIONS

from sim.hardware import load_hardware
from sim.training.delays import SlowWorker, StepVariation
from sim.training.report.time import OPERATIONS, Attribution, attribute
from sim.training.run import run_training
from sim.training.scenario import (
    ComputeConfig,
    ExchangeConfig,
    Failures,
    SlowLink,
    TrainingConfig,
    TrainingScenario,
)
from sim.training.schedule.job import plan_job
from sim.training.sync import SYNC, SyncConfig

A100 = load_hardware("a100-sxm-80gb")
HERE = Path(".")
SYNCS = (
    SyncConfig(),
    SyncConfig(scheme="ssp", staleness_bound=2),
    SyncConfig(scheme="asp"),
    SyncConfig(scheme="k_sync", backup_workers=1),
    SyncConfig(scheme="k_async", num_required=2),
    SyncConfig(scheme="local_sgd", local_steps=3),
)
SERVER = ExchangeConfig(algorithm="parameter_server", num_servers=2)
SLOW = (SlowLink(worker=1, slowdown=5),)


def scenario(**changes: Any) -> TrainingScenario:
    """Six workers of a second a step that exchange a gigabyte."""
    fields: dict[str, Any] = {
        "schema_version": 1,
        "question": "Who is to blame?",
        "kind": "training",
        "hardware": A100,
        "training": TrainingConfig(num_workers=6, num_steps=30, gpus_per_node=2),
        "compute": ComputeConfig(compute_s=1.0, gradient_bytes=10**9, optimizer_s=0.01),
    }
    return TrainingScenario(**(fields | changes))


def split(given: TrainingScenario) -> Attribution:
    return attribute(given, 1, HERE)


@st.composite
def scenarios(draw: st.DrawFn) -> TrainingScenario:
    sync = draw(st.sampled_from(SYNCS))
    collectives = ("ring", "tree", "hierarchical", "nccl") if sync.scheme in ("bsp", "local_sgd") else ()
    algorithm: Any = draw(st.sampled_from(("none", "parameter_server", *collectives)))
    links = draw(st.sampled_from([(), SLOW])) if algorithm != "none" else ()
    return scenario(
        sync=sync,
        exchange=ExchangeConfig(algorithm=algorithm, slow_links=links),
        variation=draw(st.sampled_from(VARIATIONS)),
        failures=draw(st.sampled_from([None, Failures(mtbf_s=60, checkpoint_s=0.5, restart_s=2)])),
    )


@settings(max_examples=40, deadline=None)
@given(scenarios())
def test_the_parts_are_the_whole(given: TrainingScenario) -> None:
    found = split(given)
    assert tuple(found.by_operation) == OPERATIONS
    assert sum(found.by_operation.values()) == found.total_ps
    run = run_training(given, variant="", seed=1, base_dir=HERE, record_block_map=False)
    assert found.total_ps == int(run.outcome.update_ps[-1])
    if found.by_worker is None:
        assert SYNC[given.sync.scheme].is_asynchronous
    else:
        named = ("slow links", "slower workers", "data loader")
        assert sum(found.by_worker) == sum(found.by_operation[name] for name in named)


def test_the_ideal_is_the_run_s_own() -> None:
    varied = scenario(variation=StepVariation(distribution="lognormal", sigma=0.3))
    run = run_training(varied, variant="", seed=1, base_dir=HERE, record_block_map=False)
    assert split(varied).ideal_ps == run.outcome.ideal_ps


@pytest.mark.parametrize("algorithm", ["ring", "tree", "hierarchical", "nccl", "parameter_server"])
def test_a_slow_link_is_blamed_on_its_worker_and_to_the_picosecond(algorithm: Any) -> None:
    """Alike but for one link: all that the run is longer stands under "slow links", and at that worker."""
    exchange = ExchangeConfig(algorithm=algorithm, slow_links=SLOW)
    found = split(scenario(exchange=exchange))
    healthy = split(scenario(exchange=replace(exchange, slow_links=())))
    late = found.total_ps - healthy.total_ps
    assert late > 0 and found.by_operation["slow links"] == late
    assert found.by_operation["slower workers"] == found.by_operation["data loader"] == 0
    assert found.by_worker is not None and found.by_worker[1] == late


def test_a_slow_link_of_a_server_s_worker_costs_the_others_nothing_under_asp() -> None:
    exchange = replace(SERVER, slow_links=SLOW)
    bsp = split(scenario(exchange=exchange))
    asp = split(scenario(exchange=exchange, sync=SyncConfig(scheme="asp")))
    assert asp.by_operation["slow links"] < 0.4 * bsp.by_operation["slow links"]


def test_servers_queue_counts_n_minus_one_turns() -> None:
    """The last of six waits for five others to pull; they push as far apart, without waiting."""
    served = scenario(exchange=SERVER, compute=ComputeConfig(compute_s=1.0, gradient_bytes=10**9))
    found, job = split(served), plan_job(served, 1, HERE)
    assert found.by_operation["queueing at the servers"] == 30 * 5 * job.exchange.occupies_ps
    assert found.by_operation["exchange that nothing hides"] == 30 * 2 * job.exchange.takes_ps


def test_chunks_on_a_slow_link_agree_with_the_closed_form() -> None:
    """The ring as a whole goes at the pace of its slowest link, but for the chunks before it fills."""
    exchange = ExchangeConfig(algorithm="ring", slow_links=SLOW, overlap=False)
    closed = split(scenario(exchange=exchange))
    chunked = split(scenario(exchange=replace(exchange, chunks=True)))
    assert chunked.total_ps == pytest.approx(closed.total_ps, rel=0.02)
    assert chunked.total_ps <= closed.total_ps


def test_a_slow_worker_is_blamed_for_what_all_wait_for() -> None:
    slow = StepVariation(slow_workers=(SlowWorker(worker=4, slowdown=3),))
    found = split(scenario(variation=slow, exchange=ExchangeConfig(algorithm="none")))
    mean_s = (5 + 3) / 6
    assert found.by_operation["slower workers"] == 30 * round((3 - mean_s) * 1e12)
    assert found.by_worker == (0, 0, 0, 0, 30 * round((3 - mean_s) * 1e12), 0)
    assert np.isclose(found.slowdown, (30 * 3 + 29 * 0.01) / (30 * mean_s + 29 * 0.01))
