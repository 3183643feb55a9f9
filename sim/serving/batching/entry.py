"""What an entry of ``BATCHING`` says, and the entry of a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sim.scenario.place import Place
from sim.serving.batching.plan import Policy, limits_of
from sim.serving.scenario import EngineConfig, Scenario

if TYPE_CHECKING:
    from sim.serving.scheduler import Scheduler

GENERIC_KEYS = frozenset({"schedule_order", "kv_allocator", "use_kv_cache", "service_time"})
"""Settings of ``engine`` that every policy understands, and vLLM's scheduler does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What a scheduler is made from."""

    scenario: Scenario
    num_blocks: int  # KV budget
    base_dir: Path
    index: int = 0
    are_alone: bool = False  # no two requests have tokens in common
    keeps_block_map: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """A way to batch. ``keys``: settings of ``engine`` that only some entries understand, this one too."""

    doc: str
    make: Callable[[Replica], Scheduler]
    keys: frozenset[str] = frozenset()
    check: Callable[[EngineConfig, Place], None] = lambda engine, place: None
    """Refuses settings that do not go together with it."""
    shares_queue: bool = False  # several replicas may admit from one queue
    pads_batches: bool = False  # a step may have more tokens than max_num_batched_tokens


def policy_batching(
    policy: Policy,
    doc: str = "",
    *,
    keys: frozenset[str] = GENERIC_KEYS,
    reads_no_decodes: bool = False,
    runs_to_longest: bool = False,
    is_users: bool = False,
    name: str = "",
) -> Batching:
    """The entry of a policy. ``reads_no_decodes``: it reads decoding requests only when short of memory."""

    def make(replica: Replica) -> Scheduler:
        from sim.serving.kv import KV_ALLOCATORS
        from sim.serving.kv.allocator import KVSettings
        from sim.serving.policy_scheduler import PolicyScheduler
        from sim.serving.recorder import BlockMapRecorder

        engine, limits = replica.scenario.engine, limits_of(replica.scenario)
        settings = KVSettings(
            num_blocks=replica.num_blocks,
            block_size=engine.block_size,
            watermark=engine.watermark,
            reservation=engine.kv_reservation,
            max_model_len=limits.max_model_len,
            block_map=BlockMapRecorder(replica.index) if replica.keeps_block_map else None,
        )
        kv = KV_ALLOCATORS[engine.kv_allocator].of(settings)
        is_regular = engine.use_kv_cache and kv.growth_period is not None
        skips = engine.stepping == "skip" and is_regular
        return PolicyScheduler(
            policy,
            kv,
            limits,
            name=name or getattr(policy, "__name__", repr(policy)),
            skips=skips,
            is_counted=skips and reads_no_decodes,
            runs_to_longest=runs_to_longest,
            is_users=is_users,
            first_order=replica.index << 40,
        )

    return Batching(
        doc=doc, make=make, keys=keys, pads_batches=runs_to_longest, shares_queue=not runs_to_longest
    )
