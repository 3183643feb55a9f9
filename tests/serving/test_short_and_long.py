"""A short run says what a long one says: rates, cost and busy time do not depend on how long it is.

Twelve scenarios, each at a share of what it can carry (what it serves when as many clients as its batch has
places wait in a closed loop). Short and long runs, other seeds each, may differ by 2 %, and by no more than
the seeds leave open: the 99.9 % interval of the difference by Welch's t.

On request with 2,000 and 20,000 requests, 180,000 of each scenario: some minutes. Else with a quarter of
them, which still notices a ramp-down that is divided by (five scenarios, by 2 to 8 %) and a warm-up that is
not cut off (two, by 2 to 3 %).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sim.kinds.load import load_tree
from sim.kinds.run import run_one
from sim.scenario.variants import merge
from sim.serving.summary import summarize

METRICS = ("requests_per_s", "cost_per_million_output_tokens", "busy_fraction")
SHORT, LONG = 2_000, 10_000
SHORT_SEEDS, LONG_SEEDS = range(1, 13), range(101, 103)
PLACES = 64

CHAT: Mapping[str, Any] = {
    "schema_version": 1, "question": "Does the length of a run matter?", "kind": "serving",
    "hardware": "h100-sxm-80gb", "model": "llama-3.1-8b",
    "workload": {
        "prompt_tokens": {"distribution": "lognormal", "mean": 256, "sigma": 0.6, "max": 2048},
        "output_tokens": {"distribution": "lognormal", "mean": 64, "sigma": 0.6, "max": 512},
    },
    "engine": {
        "batching": "vllm", "async_scheduling": False, "max_model_len": 4096, "max_num_seqs": PLACES,
    },
}  # fmt: skip

EXPONENTIAL = {"distribution": "exponential", "mean": "100 ms"}
# By name: the share of the capacity that is offered, and what is not as in ``CHAT``.
SCENARIOS: Mapping[str, tuple[float, Mapping[str, Any]]] = {
    "vllm at 0.3": (0.3, {}),
    "one at a time at 0.7": (
        0.7,
        {"engine": {"batching": "continuous", "max_num_seqs": 1, "service_time": EXPONENTIAL}},
    ),
    "vllm at 0.9": (0.9, {}),
    "continuous at 0.5": (0.5, {"engine": {"batching": "continuous"}}),
    "short answers at 0.5": (
        0.5,
        {"workload": {"output_tokens": {"mean": 3, "max": 8}}, "engine": {"batching": "continuous"}},
    ),
    "static at 0.6": (0.6, {"engine": {"batching": "static"}}),
    "contiguous KV at 0.7": (
        0.7,
        {"engine": {"batching": "continuous", "kv_allocator": "contiguous", "kv_reservation": "max"}},
    ),
    "bursts at 0.7": (0.7, {"workload": {"arrivals": {"process": "gamma", "cv": 1.5}}}),
    "two replicas at 0.8": (0.8, {"replicas": 2, "routing": "least_loaded"}),
    "a shared prefix at 0.8": (
        0.8,
        {
            "workload": {"shared_prefix": {"num_groups": 4, "prefix_tokens": 512}},
            "engine": {"enable_prefix_caching": True},
        },
    ),
    "drafts at 0.5": (
        0.5,
        {
            "workload": {"output_tokens": {"mean": 16}},
            "engine": {"speculative": {"num_speculative_tokens": 3, "acceptance_rate": 0.6}},
        },
    ),
    "two stages at 0.6": (
        0.6,
        {"workload": {"output_tokens": {"mean": 16}}, "engine": {"pipeline_parallel_size": 2}},
    ),
}  # fmt: skip


def numbers_of(tree: Mapping[str, Any], seeds: Sequence[int]) -> list[Mapping[str, float | None]]:
    scenario = load_tree(dict(tree), "length.yaml").base
    return [summarize(run_one(scenario, seed=seed)).metrics for seed in seeds]


def with_workload(name: str, **workload: Any) -> dict[str, Any]:
    tree = merge(CHAT, SCENARIOS[name][1], {})
    arrivals = {**tree["workload"].get("arrivals", {"process": "poisson"}), **workload.pop("arrivals")}
    return merge(tree, {"workload": {**workload, "arrivals": arrivals}}, {})


def capacity(name: str) -> float:
    """Requests a second where every place is taken."""
    replicas = merge(CHAT, SCENARIOS[name][1], {}).get("replicas", 1)
    tree = merge(CHAT, SCENARIOS[name][1], {})
    arrivals = {"process": "closed_loop", "concurrency": PLACES * replicas}
    tree["workload"] = {**tree["workload"], "num_requests": 4_000, "arrivals": arrivals}
    served = numbers_of(tree, [1])[0]["requests_per_s"]
    assert served
    return served


def samples(name: str, rate: float, num_requests: int, seeds: Sequence[int]) -> dict[str, list[float]]:
    tree = with_workload(name, num_requests=num_requests, arrivals={"requests_per_s": rate})
    runs = numbers_of(tree, seeds)
    return {metric: [run[metric] or math.nan for run in runs] for metric in METRICS}


def assert_lengths_agree(
    name: str, short: Mapping[str, list[float]], long: Mapping[str, list[float]]
) -> None:
    wrong = []
    for metric in METRICS:
        mean = np.mean(long[metric])
        off = (np.mean(short[metric]) - mean) / mean
        if abs(off) < 1e-6:
            continue  # always busy: there is no spread to compare with
        chance = stats.ttest_ind(short[metric], long[metric], equal_var=False).pvalue
        print(f"{name}: {metric} {mean:.5g}, {off:+.2%}, p {chance:.3g}")
        if abs(off) > 0.02 or chance < 0.001:
            wrong.append(f"{metric} {off:+.2%}, p {chance:.2g}")
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_short_runs_say_what_long_ones_say(name: str) -> None:
    rate = SCENARIOS[name][0] * capacity(name)
    assert_lengths_agree(name, samples(name, rate, SHORT, SHORT_SEEDS), samples(name, rate, LONG, LONG_SEEDS))


@pytest.mark.slow
@pytest.mark.on_request
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_length_of_a_run_does_not_matter(name: str) -> None:
    rate = SCENARIOS[name][0] * capacity(name)
    short = samples(name, rate, 2_000, range(1, 41))
    assert_lengths_agree(name, short, samples(name, rate, 20_000, range(101, 106)))
