"""What an entry of ``BATCHING`` says, and the entry of a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sim.scenario.place import Place
from sim.serving.batching.plan import Limits, Policy
from sim.serving.scenario import EngineConfig, Scenario

if TYPE_CHECKING:
    from sim.serving.recorder import BlockMapRecorder
    from sim.serving.scheduler import Scheduler
    from sim.serving.vllm_block_map import VllmBlockMapRecorder

    BlockMaps = BlockMapRecorder | VllmBlockMapRecorder

BLOCK_MAP_RECTANGLES = 60_000
GENERIC_KEYS = frozenset({"schedule_order", "kv_allocator", "use_kv_cache", "service_time"})
"""Settings of ``engine`` that every policy understands, and vLLM's scheduler does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What a scheduler is made from."""

    scenario: Scenario
    limits: Limits
    num_blocks: int
    """KV budget."""
    base_dir: Path
    index: int = 0
    are_alone: bool = False
    """No two requests have tokens in common."""
    block_map: BlockMaps | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """A way to batch. ``keys``: settings of ``engine`` that only some entries understand, and this one
    does."""

    doc: str
    make: Callable[[Replica], Scheduler]
    keys: frozenset[str] = field(default_factory=frozenset)
    check: Callable[[EngineConfig, Place], None] = lambda engine, place: None
    """Refuses settings that do not go together with it."""
    shares_queue: bool = False
    """Several replicas may admit from one queue."""
    block_map: Callable[[], BlockMaps]
    """Records the KV memory of the first replica."""
    pads_batches: bool = False
    """A step may have more tokens than ``max_num_batched_tokens``."""
    why_stepwise: Callable[[EngineConfig], str] = lambda engine: ""
    """What keeps steps from being skipped, or nothing."""


def block_map_recorder() -> BlockMaps:
    """Rectangles of the generic allocators."""
    from sim.serving.recorder import BlockMapRecorder

    return BlockMapRecorder(0, BLOCK_MAP_RECTANGLES)


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
    """The entry of a policy. ``reads_no_decodes``: it looks at decoding requests only when short of
    memory."""

    def make(replica: Replica) -> Scheduler:
        from sim.serving.kv import KV_ALLOCATORS
        from sim.serving.kv.allocator import KVSettings
        from sim.serving.policy_scheduler import PolicyScheduler
        from sim.serving.recorder import BlockMapRecorder

        engine = replica.scenario.engine
        settings = KVSettings(
            num_blocks=replica.num_blocks,
            block_size=engine.block_size,
            watermark=engine.watermark,
            reservation=engine.kv_reservation,
            max_model_len=replica.limits.max_model_len,
            block_map=replica.block_map if isinstance(replica.block_map, BlockMapRecorder) else None,
        )
        kv = KV_ALLOCATORS[engine.kv_allocator].of(settings)
        is_regular = engine.use_kv_cache and kv.growth_period is not None
        skips = engine.stepping == "skip" and is_regular
        return PolicyScheduler(
            policy,
            kv,
            replica.limits,
            name=name or getattr(policy, "__name__", repr(policy)),
            skips=skips,
            is_counted=skips and reads_no_decodes,
            runs_to_longest=runs_to_longest,
            is_users=is_users,
            first_order=replica.index << 40,
        )

    def why_stepwise(engine: EngineConfig) -> str:
        return "" if engine.use_kv_cache else "without a KV cache"

    return Batching(
        doc=doc,
        make=make,
        block_map=block_map_recorder,
        keys=keys,
        pads_batches=runs_to_longest,
        shares_queue=not runs_to_longest,
        why_stepwise=why_stepwise,
    )
