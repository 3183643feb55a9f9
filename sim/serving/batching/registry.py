"""``BATCHING`` names every way to batch, and nothing else does; a policy by path is one more.

An entry is a ``Batching``, or just a policy: a function (waiting, running, kv, limits) -> ``StepPlan``.
"""

from __future__ import annotations

from pathlib import Path

from sim.serving.batching.continuous import continuous
from sim.serving.batching.entry import GENERIC_KEYS, Batching
from sim.serving.batching.plan import Policy
from sim.serving.batching.static import static
from sim.serving.policy_scheduler import PolicyBatching
from sim.serving.scenario import BATCHING_NAMES
from sim.serving.user_policy import load_policy
from sim.serving.vllm_batching import VLLM

BATCHING: dict[str, Batching | Policy] = {
    "vllm": VLLM,
    "continuous": PolicyBatching(
        policy=continuous,
        doc="requests join and leave at every step (Orca), first come, first served",
        reads_no_decodes=True,
    ),
    "static": PolicyBatching(
        policy=static,
        doc="a padded batch runs to its longest member before the next one",
        keys=(GENERIC_KEYS - {"schedule_order"}) | {"static_batch_wait_s", "static_returns"},
        reads_no_decodes=True,
        pads_batches=True,
        shares_queue=False,
    ),
}


def batching_of(name: str, base_dir: Path = Path()) -> Batching:
    """The entry of a name, or that of a policy named as ``./file.py:function``."""
    if name in BATCHING:
        return known_batching(name)
    return PolicyBatching(policy=load_policy(name, base_dir), is_users=True)


def known_batching(name: str) -> Batching:
    """The same without a look into a file: what the settings may be."""
    entry = BATCHING.get(name, continuous)
    return entry if isinstance(entry, Batching) else PolicyBatching(policy=entry)


BATCHING_NAMES.are(BATCHING, keys_of=lambda name: known_batching(name).keys)
