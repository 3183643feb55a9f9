"""``BATCHING`` names every way to batch, and nothing else does; a policy by path is one more.

An entry is a ``Batching``, or just a policy: a function (waiting, running, kv, limits) -> ``StepPlan``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sim.scenario.build import build
from sim.serving.batching.continuous import continuous
from sim.serving.batching.entry import Batching, policy_batching
from sim.serving.batching.plan import Policy
from sim.serving.batching.static import static
from sim.serving.scenario import BATCHING_NAMES, EngineConfig
from sim.serving.vllm_batching import VLLM

GENERIC_KEYS = frozenset({"schedule_order", "kv_allocator", "use_kv_cache", "service_time"})
STATIC_KEYS = frozenset({"static_batch_wait_s", "static_returns"})

BATCHING: dict[str, Batching | Policy] = {
    "vllm": VLLM,
    "continuous": policy_batching(
        continuous,
        "requests join and leave at every step (Orca), first come, first served",
        keys=GENERIC_KEYS,
        reads_no_decodes=True,
    ),
    "static": policy_batching(
        static,
        "a padded batch runs to its longest member before the next one",
        keys=GENERIC_KEYS | STATIC_KEYS,
        reads_no_decodes=True,
        runs_to_longest=True,
    ),
}

BATCHING_NAMES.are(BATCHING)


def batching_of(name: str, base_dir: Path = Path()) -> Batching:
    """The entry of a name, or that of a policy named as ``./file.py:function``."""
    if name not in BATCHING:
        from sim.serving.user_policy import load_policy

        return _of_policy(load_policy(name, base_dir), name, is_users=True)
    return known_batching(name)


def known_batching(name: str) -> Batching:
    """The same without a look into a file: what the settings may be."""
    entry = BATCHING.get(name, continuous)
    return entry if isinstance(entry, Batching) else _of_policy(entry, name)


def names_with(key: str) -> list[str]:
    """The entries that understand a setting."""
    return [name for name in BATCHING if key in known_batching(name).keys]


def selective_keys() -> list[str]:
    """Settings of ``engine`` that not every entry understands."""
    entries = [known_batching(name).keys for name in BATCHING]
    return sorted(set().union(*entries) - frozenset.intersection(*entries))


def _of_policy(policy: Policy, name: str, *, is_users: bool = False) -> Batching:
    return policy_batching(policy, keys=GENERIC_KEYS, is_users=is_users, name=name)


def engine_of(given: Mapping[str, object]) -> EngineConfig:
    """An engine section that stands by itself, as a file's would be read."""
    return build(EngineConfig, given, file="", path="engine")
