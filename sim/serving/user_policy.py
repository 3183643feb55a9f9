"""A user's policy from a Python file: found, loaded, and held to what a policy may do.

``engine.batching: ./file.py:function`` plans whole steps over the generic KV memory (``Policy``);
``engine.policy: ./file.py:Class`` changes the waiting order or the preemption victim of vLLM's scheduler
(``SchedulingPolicy``). Whatever the file raises, and a wrong answer of it, is the user's to put right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sim.scenario.place import UserCode
from sim.serving.batching.plan import KVView, Limits, Policy, StepPlan
from sim.serving.request import Request
from sim.serving.vllm.user_policy import CacheView, SchedulingPolicy


def load_policy(given: str, base_dir: Path) -> Policy:
    """The batching policy that ``./file.py:function`` names."""
    code = UserCode(key="batching", given=given)
    function = code.load(base_dir)
    if not callable(function):
        raise code.error("is no function", "a function (waiting, running, kv, limits)")

    def decide(
        waiting: Sequence[Request], running: Sequence[Request], kv: KVView, limits: Limits
    ) -> StepPlan:
        plan = code.call(lambda: function(waiting, running, kv, limits))
        if not isinstance(plan, StepPlan):
            raise code.error(f"it returned {type(plan).__name__}", "a StepPlan")
        return plan

    return decide


def load_scheduling_policy(given: str, base_dir: Path) -> SchedulingPolicy:
    """The order and victim rule that ``./file.py:Class`` names, checked at every answer."""
    code = UserCode(key="policy", given=given)
    named = code.load(base_dir)
    policy = code.call(named) if isinstance(named, type) else named
    if not isinstance(policy, SchedulingPolicy):
        raise code.error("is no SchedulingPolicy", "a class derived from sim.serving.vllm.SchedulingPolicy")
    return CheckedPolicy(policy, code)


class CheckedPolicy(SchedulingPolicy):
    """A policy whose answers must be what was asked for."""

    def __init__(self, policy: SchedulingPolicy, code: UserCode) -> None:
        self._policy, self._code = policy, code

    def order(self, waiting: Sequence[Request], cache: CacheView) -> Iterable[Request]:
        ordered = self._code.call(lambda: list(self._policy.order(waiting, cache)))
        if len(ordered) != len(waiting) or set(map(id, ordered)) != set(map(id, waiting)):
            found = f"{len(ordered)} entries for {len(waiting)} waiting requests, or others"
            raise self._code.error(f"order() returned {found}", "each waiting request once")
        return ordered

    def victim(self, running: Sequence[Request], cache: CacheView) -> Request:
        chosen = self._code.call(lambda: self._policy.victim(running, cache))
        if not any(chosen is request for request in running):
            raise self._code.error(f"victim() returned {chosen!r}", "one of the running requests")
        return chosen
