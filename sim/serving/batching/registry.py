"""``BATCHING`` names every way to batch, and nothing else does; a policy by path is one more.

An entry is a ``Batching``, or just a policy: a function (waiting, running, kv, limits) -> ``StepPlan``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sim.scenario.build import build
from sim.serving.batching.continuous import continuous
from sim.serving.batching.entry import GENERIC_KEYS, Batching, policy_batching
from sim.serving.batching.plan import Policy
from sim.serving.batching.static import static
from sim.serving.scenario import BATCHING_NAMES, EngineConfig
from sim.serving.vllm_batching import VLLM

BATCHING: dict[str, Batching | Policy] = {
    "vllm": VLLM,
    "continuous": policy_batching(
        continuous,
        "requests join and leave at every step (Orca), first come, first served",
        reads_no_decodes=True,
    ),
    "static": policy_batching(
        static,
        "a padded batch runs to its longest member before the next one",
        keys=GENERIC_KEYS | {"static_batch_wait_s", "static_returns"},
        reads_no_decodes=True,
        runs_to_longest=True,
    ),
}


def batching_of(name: str, base_dir: Path = Path()) -> Batching:
    """The entry of a name, or that of a policy named as ``./file.py:function``."""
    if name in BATCHING:
        return known_batching(name)
    from sim.serving.user_policy import load_policy

    return policy_batching(load_policy(name, base_dir), name=name, is_users=True)


def known_batching(name: str) -> Batching:
    """The same without a look into a file: what the settings may be."""
    entry = BATCHING.get(name, continuous)
    return entry if isinstance(entry, Batching) else policy_batching(entry, name=name)


BATCHING_NAMES.are(BATCHING, keys_of=lambda name: known_batching(name).keys)


def engine_of(given: Mapping[str, object]) -> EngineConfig:
    """An engine section that stands by itself, as a file's would be read."""
    return build(EngineConfig, given, file="", path="engine")
