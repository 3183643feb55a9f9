"""Models with windows, chunks or states: a run schedules over the groups that their memory is counted in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.kinds.load import load_scenario
from sim.price.memory import memory_plan
from sim.serving.batching.registry import batching_of
from sim.serving.run import replicas_of, run_serving
from sim.serving.scenario import Scenario, max_model_len
from sim.serving.vllm.config import ONE_FULL_GROUP, KVCacheGroup
from sim.serving.vllm.scheduler import Scheduler
from sim.serving.workload.sources import draw_requests

TEXT = """
schema_version: 1
question: Which groups?
kind: serving
seeds: [1]
hardware: h100-sxm-80gb
model: {model}
workload:
  arrivals: {{process: poisson, requests_per_s: 20}}
  prompt_tokens: {{distribution: lognormal, mean: 900, sigma: 0.8}}
  output_tokens: {{distribution: lognormal, mean: 60, sigma: 0.8}}
  num_requests: 40
engine: {{{engine}}}
"""


def scenario_of(tmp_path: Path, model: str, engine: str = "") -> Scenario:
    file = tmp_path / "case.yaml"
    file.write_text(TEXT.format(model=model, engine=engine), encoding="utf-8")
    found = load_scenario(file).base
    assert isinstance(found, Scenario)
    return found


def scheduler_of(scenario: Scenario) -> Scheduler:
    table = draw_requests(scenario.workload, 1, Path())
    (replica,) = replicas_of(scenario, table, Path(), keeps_block_map=False)
    made = batching_of("vllm", Path()).make(replica)
    assert isinstance(made, Scheduler)
    return made


WINDOWED = {"gpt-oss-20b": 2, "gemma-3-4b": 7, "mistral-7b-v0.1": 1, "olmo-3-7b": 4}
CHUNKED = {"llama-4-scout": 4}
WITH_STATES = {"nemotron-nano-9b-v2": 8, "lfm2-1.2b": 3, "granite-4.0-h-tiny": 10}


@pytest.mark.parametrize("model, num_groups", [*WINDOWED.items(), *CHUNKED.items(), *WITH_STATES.items()])
@pytest.mark.parametrize("is_async", ["true", "false"])
def test_a_run_has_the_pool_and_the_groups_of_the_account(
    tmp_path: Path, model: str, num_groups: int, is_async: str
) -> None:
    size = "tensor_parallel_size: 8, max_model_len: 100000, " if model in CHUNKED else ""
    scenario = scenario_of(tmp_path, model, f"{size}async_scheduling: {is_async}")
    plan = memory_plan(scenario.model, scenario.hardware, scenario.engine)
    target = scheduler_of(scenario)
    assert len(target.limits.groups) == len(plan.groups) == num_groups
    assert target.num_blocks + 1 == plan.num_gpu_blocks
    assert {group.block_size for group in plan.groups} == {target.block_size}
    # What memory counts for a request of max_model_len is what the scheduler's gate asks for, states apart:
    # of them a prompt needs the first page only.
    longest, states = max_model_len(scenario), [g for g in plan.groups if g.kind == "state"]
    counted = plan.pool.blocks_of(longest) - sum(group.blocks(longest, 0) for group in states)
    asked = target.kv.most_blocks(longest) - sum(min(2, g.blocks(longest, 0) - 1) for g in states)
    assert asked == counted


@pytest.mark.parametrize("model", ["llama-3.1-8b", "deepseek-v2-lite"])
def test_a_model_of_full_attention_is_one_group(tmp_path: Path, model: str) -> None:
    target = scheduler_of(scenario_of(tmp_path, model))
    assert target.limits.groups == ONE_FULL_GROUP and target.can_lend


def test_another_engine_s_pool_is_not_cut_into_groups(tmp_path: Path) -> None:
    scenario = scenario_of(tmp_path, "gpt-oss-20b", "num_gpu_blocks_override: 5000, max_model_len: 32768")
    other = replace(scenario, engine=replace(scenario.engine, runtime="sglang"))
    assert scheduler_of(other).limits.groups == ONE_FULL_GROUP
    assert KVCacheGroup(kind="sliding", window_tokens=128) in scheduler_of(scenario).limits.groups


@pytest.mark.parametrize("model", ["gpt-oss-20b", "mistral-7b-v0.1", "nemotron-nano-9b-v2"])
@pytest.mark.parametrize("is_async", ["true", "false"])
@pytest.mark.parametrize("blocks", ["", ", num_gpu_blocks_override: 900, max_model_len: 6000"])
def test_skipping_what_does_not_change_gives_every_step_s_run(
    tmp_path: Path, model: str, is_async: str, blocks: str
) -> None:
    results = []
    for stepping in ("skip", "every_step"):
        engine = f"async_scheduling: {is_async}, stepping: {stepping}, max_num_batched_tokens: 1024{blocks}"
        results.append(run_serving(scenario_of(tmp_path, model, engine)))
    one, other = results
    for name in ("first_token_ps", "finish_ps", "status", "num_preemptions"):
        assert np.array_equal(getattr(one.requests, name), getattr(other.requests, name))
    assert one.kv_time_tokens_ps == other.kv_time_tokens_ps
    assert one.kv_time_tokens_ps["tokens"] > 0 and one.kv_time_tokens_ps["internal"] >= 0


def test_what_no_recording_holds_is_said(tmp_path: Path) -> None:
    def notes(model: str, engine: str = "") -> str:
        return "\n".join(run_serving(scenario_of(tmp_path, model, engine)).notes)

    assert "recurrent states: as vLLM 0.33.0 is described, not recorded" in notes("lfm2-1.2b")
    cut = "chunks of a prompt are not cut at the edges of state pages"
    assert cut in notes("lfm2-1.2b") and cut not in notes("lfm2-1.2b", "enable_prefix_caching: false")
    scout = "tensor_parallel_size: 8, max_model_len: 20000"
    assert "chunked local attention: as vLLM 0.33.0 is described" in notes("llama-4-scout", scout)
    windowed = notes("gpt-oss-20b", "async_scheduling: false")
    assert "not recorded" not in windowed
    assert "a token has one in each of 2 KV-cache groups" in windowed
    assert "with full attention in every layer they are skipped" in windowed
    assert "KV-cache groups" not in notes("llama-3.1-8b")
    assert "with windows, chunks or states in the KV cache every step is simulated by itself" in windowed


def test_windows_let_more_requests_run_at_once(tmp_path: Path) -> None:
    """The same pool of blocks: full attention holds what a window has given back."""
    engine: dict[str, Any] = {"num_gpu_blocks_override": 1500, "max_model_len": 8000, "max_num_seqs": 64}
    said = ", ".join(f"{name}: {value}" for name, value in engine.items())
    windowed = run_serving(scenario_of(tmp_path, "mistral-7b-v0.1", said))
    whole = run_serving(scenario_of(tmp_path, "mistral-7b-v0.3", said))
    assert windowed.kv_time_tokens_ps["tokens"] < whole.kv_time_tokens_ps["tokens"]


LENGTH = 1600


def decoding(tmp_path: Path, model: str, num_requests: int, engine: str) -> tuple[Scenario, int]:
    """Short prompts, all at once, that grow to LENGTH together; how many preemptions there are."""
    file = tmp_path / "decoding.yaml"
    sizes = f"max_model_len: {LENGTH}, max_num_batched_tokens: 512, max_num_seqs: 64"
    text = TEXT.format(model=model, engine=f"{sizes}, {engine}")
    text = text.replace("{process: poisson, requests_per_s: 20}", "{process: all_at_once}")
    for what, tokens in (("prompt", 16), ("output", LENGTH - 16)):
        start = text.index(f"  {what}_tokens:")
        end = text.index("\n", start)
        text = f"{text[:start]}  {what}_tokens: {tokens}{text[end:]}"
    text = text.replace("num_requests: 40", f"num_requests: {num_requests}")
    file.write_text(text, encoding="utf-8")
    found = load_scenario(file).base
    assert isinstance(found, Scenario)
    return found, int(run_serving(found).requests.num_preemptions.sum())


@pytest.mark.parametrize("model", ["gpt-oss-20b", "gemma-3-4b", "lfm2-1.2b"])
@pytest.mark.parametrize("is_async", ["true", "false"])
def test_the_account_s_decoding_requests_are_what_a_run_holds(
    tmp_path: Path, model: str, is_async: str
) -> None:
    """So many grow to their full length side by side; with two more somebody has to go."""
    engine = f"async_scheduling: {is_async}"
    free = memory_plan(*_asked(scenario_of(tmp_path, model, f"{engine}, max_model_len: {LENGTH}"))).pool
    blocks = 6 * free.blocks_held(LENGTH) + free.blocks_held(LENGTH) // 2
    engine += f", num_gpu_blocks_override: {blocks}"
    scenario, preempted = decoding(tmp_path, model, 6, engine)
    plan = memory_plan(*_asked(scenario))
    assert plan.lets_go and plan.pool.decoding(LENGTH) == 6 >= int(plan.pool.concurrency(LENGTH))
    assert preempted == 0
    assert decoding(tmp_path, model, 8, engine)[1] > 0


def _asked(scenario: Scenario) -> tuple[Any, Any, Any]:
    return scenario.model, scenario.hardware, scenario.engine
