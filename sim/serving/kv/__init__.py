"""KV memory of the generic schedulers: ``KV_ALLOCATORS`` names every allocator, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

from sim.serving.kv.allocator import KVAllocator, KVSettings
from sim.serving.kv.contiguous import ContiguousKV
from sim.serving.kv.paged import PagedKV
from sim.serving.scenario import KV_ALLOCATOR_NAMES

KV_ALLOCATORS: dict[str, Callable[[KVSettings], KVAllocator]] = {
    "paged": PagedKV.of,
    "contiguous": ContiguousKV.of,
}

KV_ALLOCATOR_NAMES.are(KV_ALLOCATORS)
