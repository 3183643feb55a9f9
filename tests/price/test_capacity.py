"""The estimated capacity against what the simulated engine serves when more comes than it can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.kinds.load import load_tree
from sim.kinds.run import run_one, run_scenario
from sim.price.capacity import waiting_elasticity
from sim.serving.judgement import load_of_capacity
from sim.serving.records import RunResult


def lengths(mean: int, kind: str = "fixed") -> dict[str, Any]:
    return (
        {"distribution": "fixed", "value": mean}
        if kind == "fixed"
        else {"distribution": kind, "mean": mean, "max": 8 * mean}
    )


def run(prompt: dict[str, Any], output: dict[str, Any], *, rate: float, **given: Any) -> RunResult:
    tree = {
        "schema_version": 1,
        "question": "?",
        "kind": "serving",
        "hardware": "a100-sxm-80gb",
        "model": "llama-3.1-8b",
        "workload": {
            "arrivals": {"process": "poisson", "requests_per_s": rate},
            "prompt_tokens": prompt,
            "output_tokens": output,
            "num_requests": 1500,
        },
        **given,
    }
    found = run_one(load_tree(tree, "test.yaml").base)
    assert isinstance(found, RunResult)
    return found


@pytest.mark.parametrize(
    ("prompt", "output", "given"),
    [
        (lengths(4000), lengths(10), {}),
        (lengths(512), lengths(100, "geometric"), {"engine": {"max_num_seqs": 32}}),
        (lengths(512, "lognormal"), lengths(60, "lognormal"), {"engine": {"max_num_seqs": 64}}),
        (lengths(1000), lengths(100),
         {"hardware": "l4", "engine": {"max_num_seqs": 16, "max_model_len": 4096}}),
    ],
)  # fmt: skip
def test_an_overloaded_engine_serves_the_estimated_rate(
    prompt: dict[str, Any], output: dict[str, Any], given: dict[str, Any]
) -> None:
    """Far more comes than can be served: the middle of what ends goes at capacity, within 12 %."""
    result = run(prompt, output, rate=40.0, **given)
    ends = np.sort(result.requests.finish_ps)
    first, last = int(0.3 * ends.size), int(0.8 * ends.size)
    served_per_s = (last - first) / float(ends[last] - ends[first]) * 1e12
    load = load_of_capacity(result)
    came = np.sort(result.requests.arrival_ps)
    offered_per_s = (came.size - 1) / float(came[-1] - came[0]) * 1e12
    assert load is not None
    assert offered_per_s / load == pytest.approx(served_per_s, rel=0.12)


def queue(load: float) -> dict[str, Any]:
    return {
        "schema_version": 1, "question": "?", "kind": "serving", "hardware": "a100-sxm-80gb",
        "model": "llama-3.1-8b", "engine": {
            "service_time": {"distribution": "exponential", "mean": 1.0}, "max_num_seqs": 1,
        },
        "workload": {
            "arrivals": {"process": "poisson", "requests_per_s": load}, "num_requests": 4000,
            "prompt_tokens": lengths(1), "output_tokens": lengths(1),
        },
    }  # fmt: skip


@pytest.mark.parametrize(("load", "is_warned"), [(0.5, False), (0.75, False), (0.92, True)])
def test_near_capacity_it_is_said_how_steep_waiting_is(load: float, is_warned: bool) -> None:
    answer = run_scenario(load_tree(queue(load), "test.yaml"), record_block_map=False)
    found = [one for _, one in answer.comparison.warnings if one.kind == "near_capacity"]
    assert bool(found) is is_warned
    if found:
        assert "a step 1 % longer makes it about" in found[0].meaning
        assert any("of what the engines can serve" in line for line in answer.comparison.warning_lines)


def test_clients_that_wait_for_answers_have_no_load() -> None:
    result = run(lengths(100), lengths(10), rate=1.0)
    closed = {"process": "closed_loop", "concurrency": 4}
    tree = {
        "schema_version": 1, "question": "?", "kind": "serving", "hardware": "a100-sxm-80gb",
        "model": "llama-3.1-8b",
        "workload": {
            "arrivals": closed, "num_requests": 200, "prompt_tokens": lengths(100),
            "output_tokens": lengths(10),
        },
    }  # fmt: skip
    found = run_one(load_tree(tree, "test.yaml").base)
    assert isinstance(found, RunResult) and load_of_capacity(found) is None
    assert load_of_capacity(replace(result, busy_ps=0)) is None  # mostly idle: nowhere near


@pytest.mark.parametrize("load", [0.5, 0.85, 0.95])
def test_the_elasticity_is_that_of_an_mm1_queue(load: float) -> None:
    """λ s² / (1 - λ s) at s = 1 and a little longer."""

    def waiting(step: float) -> float:
        return load * step**2 / (1 - load * step)

    slope = (waiting(1 + 1e-6) / waiting(1) - 1) / 1e-6
    assert waiting_elasticity(load) == pytest.approx(slope, rel=1e-3)
