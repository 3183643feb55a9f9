"""Degenerate mode: with a drawn service time, one sequence at a time and no KV limit, the engine is a queue.

Means over independent seeds; a mean passes within 4 standard errors of the exact value, where the standard
error comes from the seeds themselves.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from conservation_laws import littles_law_gap, running_time_gap
from plain_engine import plain_engine

from sim.arrays import PS_PER_S
from sim.hardware import load_hardware
from sim.kinds.run import run_one
from sim.model.config import load_model
from sim.scenario.distribution import Distribution
from sim.serving.records import RunResult
from sim.serving.scenario import Scenario, Workload
from sim.serving.workload.arrivals import Arrivals

ONE_TOKEN = Distribution(distribution="fixed", value=1)
WARMUP, MEASURED = 500, 8000
SEEDS = range(1, 17)


def a_queue(service: dict[str, Any], requests_per_s: float, **fields: Any) -> Scenario:
    """Poisson arrivals into ``replicas`` servers with that service time."""
    return Scenario(
        schema_version=1,
        question="does the wait equal theory's?",
        kind="serving",
        hardware=load_hardware("h100-sxm-80gb"),
        model=load_model("llama-3.1-8b"),
        workload=Workload(
            arrivals=Arrivals(process="poisson", requests_per_s=requests_per_s),
            prompt_tokens=ONE_TOKEN,
            output_tokens=ONE_TOKEN,
            num_requests=WARMUP + MEASURED,
            warmup_requests=WARMUP,
        ),
        engine=plain_engine(max_num_seqs=1, max_model_len=16, service_time=Distribution(**service)),
        **fields,
    )


def waits_s(result: RunResult) -> np.ndarray:
    """Waiting times of the measured requests; Little's law and the engine's own time hold exactly."""
    assert littles_law_gap(result) == 0.0
    assert running_time_gap(result) == 0.0
    requests = result.requests
    waited = (requests.first_scheduled_ps - requests.arrival_ps)[requests.is_measured] / PS_PER_S
    return np.asarray(waited)


def assert_within_four_sigma(per_seed: list[float], exact: float) -> None:
    """The mean over seeds against the exact value; the gate is itself no wider than 15 %."""
    mean, error = float(np.mean(per_seed)), float(np.std(per_seed, ddof=1)) / math.sqrt(len(per_seed))
    assert 4 * error < 0.15 * exact, f"{len(per_seed)} seeds say nothing: {mean:.4g} ± {error:.2g}"
    assert abs(mean - exact) < 4 * error, f"{mean:.4f} ± {error:.4f}, exactly {exact:.4f}"


LOAD = 0.7
SIGMA = 0.8
QUEUES = {
    # Pollaczek-Khinchine: lambda E[S^2] / (2 (1 - rho)), with E[S] = 1 s.
    "M/M/1": ({"distribution": "exponential", "mean": 1}, 2.0),
    "M/D/1": ({"distribution": "fixed", "value": 1}, 1.0),
    "M/G/1 log-normal": ({"distribution": "lognormal", "mean": 1, "sigma": SIGMA}, math.exp(SIGMA**2)),
    "M/G/1 uniform": ({"distribution": "uniform", "min": 0, "max": 2}, 4 / 3),
}


@cache
def waits_by_seed(name: str) -> tuple[np.ndarray, ...]:
    scenario = a_queue(QUEUES[name][0], LOAD)
    return tuple(waits_s(run_one(scenario, seed=seed)) for seed in SEEDS)


@pytest.mark.parametrize("name", QUEUES)
def test_mean_wait_is_pollaczek_khinchines(name: str) -> None:
    second_moment = QUEUES[name][1]
    exact = LOAD * second_moment / (2 * (1 - LOAD))
    assert_within_four_sigma([float(waits.mean()) for waits in waits_by_seed(name)], exact)


def test_mm1_wait_distribution() -> None:
    # P(wait = 0) = 1 - rho; P(wait > t) = rho exp(-(mu - lambda) t), so p99 = ln(rho / 0.01) / (mu - lambda).
    waits = waits_by_seed("M/M/1")
    assert_within_four_sigma([float((w == 0).mean()) for w in waits], 1 - LOAD)
    exact = math.log(LOAD / 0.01) / (1 - LOAD)
    pooled = float(np.quantile(np.concatenate(waits), 0.99))
    halves = [float(np.quantile(np.concatenate(waits[i : i + 4]), 0.99)) for i in range(0, 16, 4)]
    error = float(np.std(halves, ddof=1)) / 2
    assert abs(pooled - exact) < 4 * error, f"{pooled:.2f} ± {error:.2f}, exactly {exact:.2f}"


@pytest.mark.parametrize("servers", [2, 4])
def test_replicas_of_a_shared_queue_are_mmc(servers: int) -> None:
    rate = 0.8 * servers
    scenario = a_queue(
        {"distribution": "exponential", "mean": 1}, rate, replicas=servers, routing="shared_queue"
    )
    results = [run_one(scenario, seed=seed) for seed in SEEDS]
    waits = [waits_s(result) for result in results]
    exact = erlang_c(servers, rate) / (servers - rate)
    assert_within_four_sigma([float(w.mean()) for w in waits], exact)
    assert_within_four_sigma([float((w > 0).mean()) for w in waits], erlang_c(servers, rate))


def erlang_c(servers: int, offered: float) -> float:
    """Probability of waiting in M/M/c, by Erlang's B recursion (``offered`` = lambda / mu)."""
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def test_erlang_c_itself() -> None:
    # One server: the probability of waiting is rho. Four at load 0.8: THEORY's 0.7455 = C / (4 - 3.2).
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(4, 3.2) / 0.8 == pytest.approx(0.7455, abs=1e-4)


def test_round_robin_lies_between_one_queue_and_many() -> None:
    # Round robin splits a Poisson stream into Erlang-2 gaps: its wait lies between M/M/2 and M/M/1.
    service = {"distribution": "exponential", "mean": 1}
    split = a_queue(service, 1.6, replicas=2, routing="round_robin")
    wait = float(np.mean([waits_s(run_one(split, seed=seed)).mean() for seed in SEEDS]))
    assert erlang_c(2, 1.6) / (2 - 1.6) < wait < 0.8 / (1 - 0.8)
