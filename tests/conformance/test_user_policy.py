"""Policies of the user's over vLLM's scheduler: vLLM's two written as such decide what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from conformance.playing import ids, limits, request, steps

from sim.cli.conformance import render
from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario
from sim.serving.user_policy import load_scheduling_policy
from sim.serving.vllm import CacheView, Request, SchedulingPolicy
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.scheduler import Scheduler
from sim.trust import conformance as replay
from sim.trust.conformance import replay_folder

CASES = sorted((Path(__file__).parent / "cases").glob("vllm-*"))
SHIPPED = Path(__file__).parents[2] / "scenarios" / "serving" / "policies"


class PriorityByHand(SchedulingPolicy):
    """vLLM's priority policy."""

    def order(self, waiting: Sequence[Request], cache: CacheView) -> list[Request]:
        return sorted(waiting, key=lambda item: (item.priority, item.arrival, item.request_id))

    def victim(self, running: Sequence[Request], cache: CacheView) -> Request:
        return max(running, key=lambda item: (item.priority, item.arrival))


def by_hand(limits: SchedulerConfig, version: str) -> Scheduler:
    policy = SchedulingPolicy() if limits.policy == "fcfs" else PriorityByHand()
    return Scheduler(replace(limits, policy="user"), version, policy=policy)


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_vllms_two_policies_by_hand_decide_as_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "Scheduler", by_hand)
    results = [result for result in replay_folder(folder) if not result.not_modelled]
    assert results and all(result.is_equal for result in results), render(results)


def cached_first(**named: object) -> tuple[Scheduler, Callable[..., Request]]:
    """A scheduler under the shipped example, whose cache holds the first 12 tokens of stream 7."""
    policy = load_scheduling_policy("cache_aware.py:CacheAware", SHIPPED)
    target = Scheduler(limits(enable_prefix_caching=True, policy="user", max_num_seqs=1), policy=policy)
    target.add(request("first", [(7, 0, 13)], 1))
    assert len(list(steps(target))) == 1
    return target, partial(request, out=1)


def test_the_longest_cached_prefix_goes_first_until_another_has_waited_long_enough() -> None:
    second = 10**12
    for waited_s, expected in ((0, ["hit", "miss"]), (1, ["miss", "hit"])):
        target, make = cached_first()
        target.add(make("miss", [(8, 0, 13)], arrival=0))
        target.add(make("hit", [(7, 0, 13)], arrival=waited_s * second))
        admitted = [ids(plan.admitted) for plan in steps(target)]
        assert [name for names in admitted for name in names] == expected


def test_the_cheapest_victim_is_the_one_with_the_fewest_computed_tokens() -> None:
    policy = load_scheduling_policy("cache_aware.py:CheapestVictim", SHIPPED)
    preempted = []
    for own in (None, policy):
        choice = {"policy": "user"} if own else {}
        target = Scheduler(limits(num_gpu_blocks=7, **choice), policy=own)
        target.add(request("short", 4, 12))
        target.add(request("long", 12, 12))
        preempted.append(next(name for plan in steps(target) for name in ids(plan.preempted)))
    assert preempted == ["long", "short"]


FILE = """
from sim.serving.vllm import SchedulingPolicy

class Wrong(SchedulingPolicy):
    def {method}(self, items, cache):
        {body}

def plan(waiting, running, kv, limits):
    {body}
"""


SCENARIO = """
schema_version: 1
question: What does a wrong policy say?
kind: serving
seeds: [1]
hardware: h100-sxm-80gb
model: llama-3.1-8b
workload:
  arrivals: {{process: poisson, requests_per_s: 500}}
  prompt_tokens: {{distribution: fixed, value: 500}}
  output_tokens: {{distribution: fixed, value: 200}}
  num_requests: 60
engine: {{{engine}, num_gpu_blocks_override: 300, max_model_len: 1000}}
"""


def failure(tmp_path: Path, key: str, body: str, method: str) -> str:
    (tmp_path / "mine.py").write_text(FILE.format(method=method, body=body), encoding="utf-8")
    engine = "batching: ./mine.py:plan" if key == "batching" else "policy: ./mine.py:Wrong"
    (tmp_path / "mine.yaml").write_text(SCENARIO.format(engine=engine), encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        run_scenario(load_scenario(tmp_path / "mine.yaml"))
    return str(caught.value)


@pytest.mark.parametrize(
    "key, method, body, said",
    [
        ("policy", "order", "return items[1:] if items else 1 / 0", "each waiting request once"),
        ("policy", "order", "return 1 / 0", "failed in line 6: ZeroDivisionError"),
        ("policy", "order", "pass", "failed: TypeError"),
        ("policy", "victim", "return None", "one of the running requests"),
        ("batching", "order", "return 1 / 0", "failed in line 9: ZeroDivisionError"),
        ("batching", "order", "pass", "a StepPlan"),
    ],
)
def test_a_wrong_policy_is_told_what_is_wrong(
    tmp_path: Path, key: str, method: str, body: str, said: str
) -> None:
    message = failure(tmp_path, key, body, method)
    assert said in message
    assert f"engine.{key}" in message and "mine.py" in message


def test_a_policy_that_is_not_there_or_no_policy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Order:\n    pass\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="is no SchedulingPolicy"):
        load_scheduling_policy("./mine.py:Order", tmp_path)
    with pytest.raises(ScenarioError, match="no such name"):
        load_scheduling_policy("./mine.py:Ordre", tmp_path)
    with pytest.raises(ScenarioError, match="no such policy file"):
        load_scheduling_policy("./yours.py:Order", tmp_path)


class FirstGoes(SchedulingPolicy):
    """A rule that throws out whoever has got furthest."""

    def victim(self, running: Sequence[Request], cache: CacheView) -> Request:
        return running[0]


def endless(policy: SchedulingPolicy | None, **named: object) -> Scheduler:
    """Two prompts prefilled side by side, which the pool holds one at a time."""
    tight = {"block_size": 2, "num_gpu_blocks": 8, "max_num_batched_tokens": 5, **named}
    tight |= {"long_prefill_token_threshold": 4, "policy": "user" if policy else "priority"}
    target = Scheduler(limits(**tight), policy=policy)
    target.add(request("a", 12, 3))
    target.add(request("b", 14, 1))
    return target


@pytest.mark.parametrize("policy", [None, FirstGoes()])
def test_requests_that_preempt_each_other_for_ever_are_noticed(policy: SchedulingPolicy | None) -> None:
    target = endless(policy, scheduler_reserve_full_isl=False)
    for _ in range(2_000):
        plan = target.plan_step()
        if target.endless(plan):
            break
        target.update(plan)
    assert target.endless(plan)
    target.update(plan)
    before = [(item.request_id, item.num_tokens) for item in target.unfinished()]
    for _ in range(500):
        target.update(target.plan_step())
    assert sorted(before) == sorted((item.request_id, item.num_tokens) for item in target.unfinished())
    target.abort(next(iter(target.running.values())))  # one leaves: the other gets on
    assert not target.endless(plan)
    assert len(list(steps(target))) < 20


@pytest.mark.parametrize("policy", [None, SchedulingPolicy()])
def test_whom_the_gate_or_the_order_protects_gets_on(policy: SchedulingPolicy | None) -> None:
    target = endless(policy, scheduler_reserve_full_isl=policy is None)
    plans = list(steps(target))
    assert len(plans) < 50
    assert not any(target.endless(plan) for plan in plans)


def test_a_run_that_would_never_end_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE.format(method="victim", body="return items[0]"), encoding="utf-8")
    engine = (
        "policy: ./mine.py:Wrong, scheduler_reserve_full_isl: false, async_scheduling: false, "
        "long_prefill_token_threshold: 16, max_num_batched_tokens: 64, max_num_seqs: 2, "
        "enable_prefix_caching: false"
    )
    text = SCENARIO.format(engine=engine).replace("300, max", "41, max").replace("200}", "20}")
    text = text.replace("max_model_len: 1000", "max_model_len: 600")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match="preempt one another for ever"):
        run_scenario(load_scenario(tmp_path / "mine.yaml"))
