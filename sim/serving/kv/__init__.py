"""KV memory of the generic schedulers: ``KV_ALLOCATORS`` names every allocator, and nothing else does."""

from __future__ import annotations

from sim.serving.kv.allocator import KVAllocator
from sim.serving.kv.contiguous import ContiguousKV
from sim.serving.kv.paged import PagedKV
from sim.serving.scenario import KV_ALLOCATOR_NAMES

KV_ALLOCATORS: dict[str, type[KVAllocator]] = {"paged": PagedKV, "contiguous": ContiguousKV}


KV_ALLOCATOR_NAMES.are(KV_ALLOCATORS, keys_of=lambda name: KV_ALLOCATORS.get(name, PagedKV).keys)
