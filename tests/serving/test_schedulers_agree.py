"""Requests that share nothing decide alike under ``continuous`` and vLLM's scheduler, and cost the same.

vLLM keeps one block for itself (its null block), so it gets one more. With prefix caching a request that was
preempted finds blocks of its own again, so the two agree only as long as nobody is preempted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_price import requests, run_fixed
from random_runs import run

from sim.serving.records import RequestTable, RunResult
from sim.serving.scenario import Speculative

PLAIN: dict[str, Any] = {"max_num_seqs": 64, "max_num_batched_tokens": 512, "max_model_len": 4096}
PLAIN |= {"block_size": 16}
VLLM: dict[str, Any] = {"batching": "vllm", "async_scheduling": False, "enable_prefix_caching": False}


def table(num_requests: int, requests_per_s: float, seed: int) -> RequestTable:
    """Open arrivals, prompts that take several steps, and answers of very different lengths."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1e12 / requests_per_s, num_requests).astype(np.int64)
    return RequestTable(
        arrival_ps=np.cumsum(gaps),
        prompt_tokens=rng.integers(1, 900, num_requests),
        output_tokens=rng.integers(1, 300, num_requests),
    )


def assert_same_times(one: RunResult, other: RunResult) -> None:
    for name in ("first_scheduled_ps", "first_token_ps", "finish_ps", "num_preemptions", "recompute_tokens"):
        assert np.array_equal(getattr(one.requests, name), getattr(other.requests, name)), name


@pytest.mark.parametrize("stepping", ["skip", "every_step"])
@pytest.mark.parametrize("num_blocks", [10_000, 700])
def test_without_caching(num_blocks: int, stepping: str) -> None:
    given = table(300, 30.0, seed=num_blocks)
    generic = run(given, PLAIN | {"num_gpu_blocks_override": num_blocks}, stepping, has_block_map=False)
    vllm = PLAIN | VLLM | {"num_gpu_blocks_override": num_blocks + 1}
    assert_same_times(run(given, vllm, stepping, has_block_map=False), generic)
    assert (generic.requests.num_preemptions.sum() > 0) == (num_blocks == 700)


def test_with_caching_and_nobody_preempted() -> None:
    given = table(600, 30.0, seed=3)
    generic = run(given, PLAIN | {"num_gpu_blocks_override": 10_000}, "skip", has_block_map=False)
    vllm = PLAIN | VLLM | {"num_gpu_blocks_override": 10_001, "enable_prefix_caching": True}
    assert_same_times(run(given, vllm, "skip", has_block_map=False), generic)
    assert generic.requests.num_preemptions.sum() == 0


def test_with_caching_the_preempted_find_their_blocks_again() -> None:
    """Preemption under caching carries the ids: less is computed twice, in both steppings alike."""
    given = table(300, 30.0, seed=700)
    vllm = PLAIN | VLLM | {"num_gpu_blocks_override": 701, "enable_prefix_caching": True}
    cached = run(given, vllm, "skip", has_block_map=False)
    assert_same_times(cached, run(given, vllm, "every_step", has_block_map=False))
    without = run(given, vllm | {"enable_prefix_caching": False}, "skip", has_block_map=False)
    assert cached.requests.num_preemptions.sum() > 0
    assert cached.segments.prefill_tokens.sum() < without.segments.prefill_tokens.sum()


@pytest.mark.parametrize("batching", [{"batching": "continuous"}, VLLM])
@pytest.mark.parametrize("stepping", ["skip", "every_step"])
def test_the_last_token_of_a_chunked_prompt_is_a_decode(batching: dict[str, Any], stepping: str) -> None:
    """513 tokens in steps of 512: the second piece is one query with KV before it."""
    one = RequestTable(arrival_ps=np.array([0]), prompt_tokens=np.array([513]), output_tokens=np.array([2]))
    engine = PLAIN | batching | {"num_gpu_blocks_override": 100, "max_model_len": 1024}
    result = run(one, engine, stepping, has_block_map=False)
    rows = result.segments
    assert rows.num_prefill.tolist() == [1, 0, 0] and rows.prefill_tokens.tolist() == [512, 0, 0]
    assert rows.num_decode.tolist() == [0, 1, 1] and rows.decode_context_tokens.tolist() == [0, 513, 514]


@pytest.mark.parametrize("settings", [{"async_scheduling": True}, {"pipeline_parallel_size": 2}])
def test_kv_levels_are_those_of_one_moment(settings: dict[str, Any]) -> None:
    """With blocks of one token nothing can be internal waste, however many steps are under way."""
    engine = PLAIN | VLLM | settings | {"block_size": 1, "num_gpu_blocks_override": 12_000}
    result = run(table(60, 30.0, seed=5), engine, "skip", has_block_map=False)
    assert result.segments.kv_internal.max() == 0 == result.kv_time_tokens_ps["internal"]
    assert result.segments.kv_tokens.max() > 1000


def test_a_one_token_prompt_beside_drafts_counts_once() -> None:
    """vLLM pads its admission with dummy drafts; they are verified, but no prompt tokens."""
    given = requests([0.0, 0.25], [16, 1], [12, 4])
    drafts = Speculative(num_speculative_tokens=3, acceptance_rate=0.5)
    result = run_fixed(given, **VLLM, speculative=drafts, max_model_len=64, num_gpu_blocks_override=64)
    assert result.segments.prefill_tokens.sum() == 17
