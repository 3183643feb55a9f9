"""A user's policy from a Python file: found, loaded, and held to what a policy may do.

``engine.batching: ./file.py:function`` plans whole steps over the generic KV memory (``Policy``);
``engine.policy: ./file.py:Class`` changes the waiting order or the preemption victim of vLLM's scheduler
(``SchedulingPolicy``). Whatever the file raises, and a wrong answer of it, is the user's to put right.
"""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any, TypeVar

from sim.errors import InvariantError, ScenarioError
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
    function = _load(given, base_dir, "batching")
    if not callable(function):
        raise _wrong("is no function", given, "batching", "a function (waiting, running, kv, limits)")
    asked = _Asked(given, "batching")

    def decide(waiting: Seq[Request], running: Seq[Request], kv: KVView, limits: Limits) -> StepPlan:
        plan = asked.ask(lambda: function(waiting, running, kv, limits))
        if not isinstance(plan, StepPlan):
            raise asked.wrong(f"it returned {type(plan).__name__}", "a StepPlan")
        return plan

    return decide


def load_scheduling_policy(given: str, base_dir: Path) -> SchedulingPolicy:
    """The order and victim rule that ``./file.py:Class`` names, checked at every answer."""
    named = _load(given, base_dir, "policy")
    asked = _Asked(given, "policy")
    policy = asked.ask(named) if isinstance(named, type) else named
    if not isinstance(policy, SchedulingPolicy):
        raise _wrong(
            "is no SchedulingPolicy",
            given,
            "policy",
            "a class derived from sim.serving.vllm.SchedulingPolicy",
        )
    return _CheckedPolicy(policy, asked)


class _Asked:
    """Calls the user's code; what it raises comes back with its line."""

    def __init__(self, given: str, key: str) -> None:
        self._given, self._key = given, key
        self._file = Path(given.rpartition(":")[0]).name

    def ask(self, call: Callable[[], Answer]) -> Answer:
        try:
            return call()
        except (ScenarioError, InvariantError):
            raise
        except Exception as error:  # whatever the user's file raises is about the user's file
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if Path(frame.filename).name == self._file]
            where = f" in line {lines[-1]}" if lines else ""
            raise ScenarioError(
                f"the policy failed{where}: {type(error).__name__}: {error}",
                path=f"engine.{self._key}",
                given=self._given,
                hint="put the policy right",
            ) from error

    def wrong(self, problem: str, allowed: str) -> ScenarioError:
        return _wrong(problem, self._given, self._key, allowed)


class _CheckedPolicy(SchedulingPolicy):
    """A policy whose answers must be what was asked for."""

    def __init__(self, policy: SchedulingPolicy, asked: _Asked) -> None:
        self._policy, self._asked = policy, asked

    def order(self, waiting: Seq[Request], cache: CacheView) -> Iterable[Request]:
        ordered = self._asked.ask(lambda: list(self._policy.order(waiting, cache)))
        if len(ordered) != len(waiting) or set(map(id, ordered)) != set(map(id, waiting)):
            raise self._asked.wrong(
                f"order() returned {len(ordered)} entries for {len(waiting)} waiting requests, or others",
                "each waiting request once",
            )
        return ordered

    def victim(self, running: Seq[Request], cache: CacheView) -> Request:
        chosen = self._asked.ask(lambda: self._policy.victim(running, cache))
        if not any(chosen is request for request in running):
            raise self._asked.wrong(f"victim() returned {chosen!r}", "one of the running requests")
        return chosen


def _load(given: str, base_dir: Path, key: str) -> Any:
    path, name = policy_path(given, base_dir), given.rpartition(":")[2]
    spec = importlib.util.spec_from_file_location(f"gpuyard_policy_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise _wrong("no such policy file", given, key, "./file.py:name")
    module = importlib.util.module_from_spec(spec)
    run = spec.loader.exec_module
    _Asked(given, key).ask(lambda: run(module))
    if not hasattr(module, name):
        raise _wrong("the file has no such name", given, key, "./file.py:name")
    return getattr(module, name)


def _wrong(problem: str, given: str, key: str, allowed: str) -> ScenarioError:
    return ScenarioError(f"a user's policy: {problem}", path=f"engine.{key}", given=given, allowed=allowed)
