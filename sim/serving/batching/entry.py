"""What an entry of ``BATCHING`` says, and what its schedulers are made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from sim.scenario.dataclass import dataclass
from sim.scenario.place import Place
from sim.serving.scenario import EngineConfig, Scenario
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
class Batching(ABC):
    """A way to batch. ``keys``: settings of ``engine`` that only some entries understand, this one too."""

    doc: str = ""
    keys: frozenset[str] = frozenset()
    shares_queue: bool = False  # several replicas may admit from one queue
    pads_batches: bool = False
    """A batch runs to its longest member, and a step may have more tokens than max_num_batched_tokens."""

    @abstractmethod
    def make(self, replica: Replica) -> Scheduler:
        """A scheduler with its KV memory, for one replica."""

    def check(self, engine: EngineConfig, place: Place) -> None:  # noqa: B027
        """Refuses settings that do not go together with it."""
