"""A user's policy from a Python file: found, loaded, and held to what a policy may do.

``engine.batching: ./file.py:function`` plans whole steps over the generic KV memory (``Policy``);
``engine.policy: ./file.py:Class`` changes the waiting order or the preemption victim of vLLM's scheduler
(``SchedulingPolicy``). Whatever the file raises, and a wrong answer of it, is the user's to put right.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sim.errors import InvariantError, ScenarioError
from sim.scenario.dataclass import dataclass
from sim.serving.batching.plan import KVView, Limits, Policy, StepPlan
from sim.serving.request import Request
from sim.serving.vllm.user_policy import CacheView, SchedulingPolicy

Answer = TypeVar("Answer")


def policy_path(given: str, base_dir: Path) -> Path:
    """The file of ``./file.py:name``: beside the scenario, else from the current folder."""
    file = given.rpartition(":")[0]
    beside = base_dir / file
    return beside if beside.is_file() else Path(file)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCode:
    """What ``engine.KEY: ./file.py:name`` names. An error inside it names the line of the user's file."""

    key: str
    given: str

    def load(self, base_dir: Path) -> Any:
        """Runs the file; the object of that name."""
        path, name = policy_path(self.given, base_dir), self.given.rpartition(":")[2]
        if not path.is_file():
            raise self.error("no such policy file", "./file.py:name")
        found = self.call(lambda: runpy.run_path(str(path), run_name=f"gpuyard_policy_{path.stem}"))
        if name not in found:
            raise self.error("the file has no such name", "./file.py:name")
        return found[name]

    def call(self, call: Callable[[], Answer]) -> Answer:
        """What ``call``, which runs the user's code, returns."""
        try:
            return call()
        except (ScenarioError, InvariantError):
            raise
        except Exception as error:  # whatever the user's file raises is about the user's file
            import traceback

            file = Path(self.given.rpartition(":")[0]).name
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if Path(frame.filename).name == file]
            where = f" in line {lines[-1]}" if lines else ""
            raise ScenarioError(
                f"the policy failed{where}: {type(error).__name__}: {error}",
                path=f"engine.{self.key}",
                given=self.given,
                hint="put the policy right",
            ) from error

    def error(self, problem: str, allowed: str) -> ScenarioError:
        """A policy that is not there, or an answer that is none."""
        return ScenarioError(
            f"a user's policy: {problem}", path=f"engine.{self.key}", given=self.given, allowed=allowed
        )
