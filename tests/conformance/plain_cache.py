"""A second implementation of vLLM's KV cache: token by token, block by block, and slow."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from sim.serving.request import Request
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.versions import VersionProfile

Token = tuple[int, int]


class PlainCache:
    """What ``KVBlocks`` decides. A block's hash is the tuple of its tokens and of all before it."""

    follows_flight = False

    def __init__(self, limits: SchedulerConfig, profile: VersionProfile) -> None:
        self.limits, self.profile = limits, profile
        self.free = list(range(1, limits.num_gpu_blocks))
        self.owners: dict[int, int] = {}
        self.cached: dict[tuple[Token, ...], list[int]] = {}
        self.hash_of: dict[int, tuple[Token, ...]] = {}
        self.pool = SimpleNamespace(
            num_blocks=len(self.free), free_order=lambda: self.free, check=lambda _: None
        )
        self._count()

    def _count(self) -> None:
        self.pool.num_free = len(self.free)
        self.pool.num_extra_owners = sum(count - 1 for count in self.owners.values())

    def open(self, request: Request) -> list[Request]:
        return []

    def _hash(self, request: Request, number: int) -> tuple[Token, ...]:
        stream, output = request.output_stream, range(request.end_tokens - request.num_prompt_tokens)
        tokens = [(s, start + i) for s, start, length in request.prompt for i in range(length)]
        tokens += [(stream, i) for i in output]
        return tuple(tokens[: (number + 1) * self.limits.block_size])

    def find_hits(self, request: Request) -> int:
        most = (request.num_tokens - 1) // self.limits.block_size if self.limits.enable_prefix_caching else 0
        return next((n for n in range(most) if not self.cached.get(self._hash(request, n))), most)

    def _take(self, count: int) -> list[int]:
        taken = [self.free.pop(0) for _ in range(count)]
        for block in taken:
            if block in self.hash_of:
                self.cached[self.hash_of.pop(block)].remove(block)
            self.owners[block] = 1
        self._count()
        return taken

    def _need(self, num_tokens: int) -> int:
        return -(-min(num_tokens, self.limits.max_model_len) // self.limits.block_size)

    def most_blocks(self, num_tokens: int) -> int:
        return self._need(num_tokens)

    def extend(self, request: Request, num_new_tokens: int) -> list[int] | None:
        need = self._need(request.num_computed_tokens + num_new_tokens) - len(request.blocks)
        if need > len(self.free):
            return None
        fresh = self._take(max(0, need))
        request.blocks.extend(fresh)
        self.register(request, request.num_computed_tokens + num_new_tokens)
        return fresh

    def admit(self, request: Request, num_hits: int, num_tokens: int, *, spare: bool) -> list[int] | None:
        hits = [self.cached[self._hash(request, n)][0] for n in range(num_hits)]
        left = [block for block in self.free if block not in hits]
        spared = int(self.limits.watermark * self.limits.num_gpu_blocks) if spare else 0
        computed = num_hits * self.limits.block_size
        need = max(0, self._need(computed + num_tokens) - num_hits)
        gate = max(0, self._need(request.num_tokens) - num_hits)
        if max(need, gate if self.limits.scheduler_reserve_full_isl else 0) > len(left) - spared:
            return None
        self.free = left
        self.pool.free_order = lambda: self.free
        for block in hits:
            self.owners[block] = self.owners.get(block, 0) + 1
        fresh = self._take(need)
        request.blocks, request.num_registered_blocks = [*hits, *fresh], num_hits
        self.register(request, computed + num_tokens)
        return fresh

    def register(self, request: Request, num_tokens: int) -> None:
        full = min(num_tokens, request.num_tokens) // self.limits.block_size
        if not self.limits.enable_prefix_caching or full <= request.num_registered_blocks:
            return
        for number in range(request.num_registered_blocks, full):
            block, content = request.blocks[number], self._hash(request, number)
            self.cached.setdefault(content, []).append(block)
            self.hash_of[block] = content
        request.num_registered_blocks = full

    def release(self, request: Request) -> None:
        for block in reversed(request.blocks):
            self.owners[block] -= 1
        freed = [block for block in reversed(request.blocks) if not self.owners[block]]
        self._put_back(freed)
        for block in freed:
            del self.owners[block]
        request.blocks, request.num_registered_blocks = [], 0
        self._count()

    close = release

    def _put_back(self, freed: Sequence[int]) -> None:
        unhashed = [block for block in freed if block not in self.hash_of]
        hashed = [block for block in freed if block in self.hash_of]
        if self.profile.unhashed_blocks_to_front:
            self.free = [*unhashed, *self.free, *hashed]
        else:
            self.free = [*self.free, *unhashed, *hashed]
        self.pool.free_order = lambda: self.free
