"""Contiguous KV: one stretch of addresses per request, reserved at admission, from a buddy allocator.

What is reserved is the choice of ``kv_reservation`` (the three Orca variants of 2309.06180, section 6.1):
``max`` the longest possible sequence, ``pow2`` the prompt and the next power of two of the answer,
``oracle`` the true length. The buddy allocator (Knuth, TAOCP 1, 2.5) rounds that up to a power of two.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, ClassVar

from sim.serving.kv.allocator import KVSettings, Reservation
from sim.serving.request import Request
from sim.serving.usage import Levels

if TYPE_CHECKING:
    from sim.serving.recorder import BlockMapRecorder


class BuddyAllocator:
    """Addresses 0 … ``capacity`` in power-of-two pieces; lowest free address first, buddies merge."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.free = capacity
        self._free_lists: list[list[int]] = [[] for _ in range(capacity.bit_length() + 1)]
        address = 0
        for order in range(capacity.bit_length(), -1, -1):
            if capacity & (1 << order):
                self._free_lists[order].append(address)
                address += 1 << order
        self._top = {start: order for order, starts in enumerate(self._free_lists) for start in starts}

    def largest_ever(self) -> int:
        """The largest piece of an empty pool."""
        return 1 << (self.capacity.bit_length() - 1) if self.capacity else 0

    def can_allocate(self, size: int) -> bool:
        """Whether a piece of at least ``size`` is free in one stretch."""
        return any(self._free_lists[order_of(size) :])

    def allocate(self, size: int) -> int:
        """Address of a piece of ``1 << order_of(size)``; the caller has asked ``can_allocate``."""
        wanted = order_of(size)
        order = next(o for o in range(wanted, len(self._free_lists)) if self._free_lists[o])
        address = self._free_lists[order].pop(0)
        while order > wanted:
            order -= 1
            insort(self._free_lists[order], address + (1 << order))
        self.free -= 1 << wanted
        return address

    def release(self, address: int, size: int) -> None:
        """Gives the piece back and merges it with its free buddies."""
        order = order_of(size)
        self.free += 1 << order
        while self._top.get(address) != order:
            buddy = self._buddy(address, order)
            if buddy not in self._free_lists[order]:
                break
            self._free_lists[order].remove(buddy)
            address = min(address, buddy)
            order += 1
        insort(self._free_lists[order], address)

    def _buddy(self, address: int, order: int) -> int:
        """The other half; halves are counted from the start of the top piece that both lie in."""
        start = max(top for top in self._top if top <= address)
        return start + ((address - start) ^ (1 << order))


class ContiguousKV:
    """KV by reservation: nothing grows, nothing is preempted."""

    keys: ClassVar = frozenset({"kv_reservation"})
    is_paged = False
    growth_period = 0
    free = 0  # a contiguous pool has nothing to grow by

    def __init__(
        self,
        capacity_tokens: int,
        reservation: Reservation,
        max_model_len: int,
        block_map: BlockMapRecorder | None = None,
    ) -> None:
        self.capacity_tokens = capacity_tokens
        self.reservation = reservation
        self.max_model_len = max_model_len
        self.block_map = block_map
        self.buddy = BuddyAllocator(capacity_tokens)
        self.requested_tokens = 0
        self.final_tokens = 0
        self._addresses: dict[int, int] = {}

    @classmethod
    def of(cls, settings: KVSettings) -> ContiguousKV:
        """From a scenario's settings: as many tokens as the blocks would hold."""
        capacity = settings.num_blocks * settings.block_size
        return cls(capacity, settings.reservation, settings.max_model_len, settings.block_map)

    def reservation_tokens(self, request: Request) -> int:
        """Tokens asked for, before the allocator's rounding."""
        if self.reservation == "max":
            return max(self.max_model_len, request.end_tokens)
        if self.reservation == "pow2":
            return request.num_prompt_tokens + (1 << order_of(request.max_tokens))
        return request.end_tokens

    def can_ever_fit(self, request: Request) -> bool:
        """Whether the reservation fits an empty pool in one stretch."""
        return 1 << order_of(self.reservation_tokens(request)) <= self.buddy.largest_ever()

    def can_admit(self, request: Request, *, is_first: bool) -> bool:
        """Whether a stretch is free now."""
        return self.buddy.can_allocate(self.reservation_tokens(request))

    def admit(self, request: Request, now_ps: int) -> None:
        """Reserves a stretch."""
        size = self.reservation_tokens(request)
        address = self.buddy.allocate(size)
        self._addresses[request.id] = address
        request.reserved = size
        self.requested_tokens += size
        self.final_tokens += request.end_tokens
        if self.block_map is not None:
            self.block_map.take(address, 1 << order_of(size), request.id, now_ps)

    def growth(self, request: Request) -> int:
        """Nothing: all was reserved at admission."""
        return 0

    def grow(self, request: Request, num_units: int, now_ps: int) -> None:
        """Never called, as nothing grows."""

    def settle(self, request: Request) -> None:
        """Nothing to do: what it has is what it reserved."""

    def release(self, request: Request, now_ps: int) -> None:
        """Gives the stretch back."""
        if not request.reserved:
            return
        address = self._addresses.pop(request.id)
        self.buddy.release(address, request.reserved)
        self.requested_tokens -= request.reserved
        self.final_tokens -= request.end_tokens
        request.reserved = 0
        if self.block_map is not None:
            self.block_map.give(address, now_ps)

    def used_tokens(self) -> int:
        """Tokens' worth of memory in use, rounding included."""
        return self.buddy.capacity - self.buddy.free

    def levels(self, held_tokens: int, unfilled_tokens: int, is_blocked: bool) -> Levels:
        """*Reserved* is what requests will still use, *internal* what they asked for beyond that.

        *External* is the buddy's rounding, and all free memory while the head of the queue finds no stretch.
        """
        external = self.used_tokens() - self.requested_tokens + (self.buddy.free if is_blocked else 0)
        return held_tokens, self.final_tokens, self.requested_tokens, external


def order_of(size: int) -> int:
    """The smallest order with ``1 << order >= size``."""
    return (size - 1).bit_length()
