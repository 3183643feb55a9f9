"""KV memory as state machines: any order of admissions, growth and releases."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sim.serving.kv.contiguous import BuddyAllocator, ContiguousKV, order_of
from sim.serving.kv.paged import PagedKV
from sim.serving.recorder import BlockMapRecorder
from sim.serving.request import Request


class Buddies(RuleBasedStateMachine):
    """Pieces of powers of two: apart from each other, aligned, and merged again when free."""

    @initialize(capacity=st.integers(1, 300))
    def begin(self, capacity: int) -> None:
        self.buddy = BuddyAllocator(capacity)
        self.taken: dict[int, int] = {}  # address -> size asked for
        self.tops = self.tops_of(capacity)

    @staticmethod
    def tops_of(capacity: int) -> list[tuple[int, int]]:
        """The pool cut into descending powers of two: (start, size)."""
        tops, start = [], 0
        for order in range(capacity.bit_length(), -1, -1):
            if capacity >> order & 1:
                tops.append((start, 1 << order))
                start += 1 << order
        return tops

    @rule(size=st.integers(1, 320))
    def allocate(self, size: int) -> None:
        if self.buddy.can_allocate(size):
            self.taken[self.buddy.allocate(size)] = size
        elif not self.taken:
            assert 1 << order_of(size) > self.buddy.largest_ever()

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.taken)))
        self.buddy.release(address, self.taken.pop(address))

    @invariant()
    def used_and_free_are_all(self) -> None:
        used = sum(1 << order_of(size) for size in self.taken.values())
        assert used + self.buddy.free == self.buddy.capacity

    @invariant()
    def pieces_are_apart_and_aligned(self) -> None:
        end = 0
        for address, size in sorted(self.taken.items()):
            piece = 1 << order_of(size)
            assert end <= address
            end = address + piece
            start, top = next(t for t in reversed(self.tops) if t[0] <= address)
            assert (address - start) % piece == 0
            assert end <= start + top

    @invariant()
    def an_empty_pool_is_as_new(self) -> None:
        if not self.taken:
            for _, top in self.tops:
                assert self.buddy.can_allocate(top)
            assert vars(self.buddy) == vars(BuddyAllocator(self.buddy.capacity))


class Pools(RuleBasedStateMachine):
    """Paged and contiguous KV beside a plain count of what each sequence was given."""

    @initialize(
        is_paged=st.booleans(),
        reservation=st.sampled_from(["max", "pow2", "oracle"]),
        blocks=st.integers(4, 40),
        block_size=st.sampled_from([1, 4, 16]),
        watermark=st.integers(0, 3),
    )
    def begin(self, is_paged: bool, reservation: str, blocks: int, block_size: int, watermark: int) -> None:
        recorder = BlockMapRecorder(0, 10_000)
        self.kv: PagedKV | ContiguousKV
        if is_paged:
            self.kv = PagedKV(blocks, block_size, watermark, recorder)
        else:
            self.kv = ContiguousKV(blocks * block_size, reservation, 64, recorder)  # type: ignore[arg-type]
        self.recorder = recorder
        self.live: list[Request] = []
        self.given = 0
        self.now = 0

    @rule(prompt=st.integers(1, 64), output=st.integers(1, 64))
    def admit(self, prompt: int, output: int) -> None:
        self.now += 1
        self.given += 1
        sequence = Request(self.given, 0, prompt, output)
        is_first = not self.live
        if self.kv.can_admit(sequence, is_first=is_first):
            self.kv.admit(sequence, self.now)
            self.live.append(sequence)
        elif is_first:
            assert not self.kv.can_ever_fit(sequence) or prompt > self.kv.capacity_tokens

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        self.now += 1
        sequence = data.draw(st.sampled_from(self.live))
        if isinstance(self.kv, PagedKV) and self.kv.free:
            self.kv.grow(sequence, 1, self.now)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.now += 1
        index = data.draw(st.integers(0, len(self.live) - 1))
        self.kv.release(self.live.pop(index), self.now)

    @invariant()
    def what_is_given_out_is_what_they_hold(self) -> None:
        if isinstance(self.kv, PagedKV):
            assert sum(s.reserved for s in self.live) + self.kv.free == self.kv.total
            blocks = [block for s in self.live for block in s.blocks or []]
            assert len(blocks) == len(set(blocks)) == self.kv.total - self.kv.free
        else:
            assert sum(1 << order_of(s.reserved) for s in self.live) == self.kv.used_tokens()
            assert sum(s.reserved for s in self.live) == self.kv.requested_tokens
            assert sum(s.prompt_tokens + s.output_tokens for s in self.live) == self.kv.final_tokens
            assert all(s.reserved >= s.prompt_tokens + s.output_tokens for s in self.live)
        assert 0 <= self.kv.used_tokens() <= self.kv.capacity_tokens

    @invariant()
    def the_block_map_says_the_same(self) -> None:
        still_held = [row for row in self.recorder.rows if row[3] < 0]
        assert sum(row[1] for row in still_held) == self.kv.used_tokens()
        assert {row[4] for row in still_held} == {s.id for s in self.live if s.reserved}


TestBuddies = Buddies.TestCase
TestPools = Pools.TestCase


@pytest.mark.parametrize(("reservation", "tokens"), [("max", 2048), ("pow2", 100 + 64), ("oracle", 100 + 33)])
def test_what_orca_reserves(reservation: str, tokens: int) -> None:
    kv = ContiguousKV(8192, reservation, 2048)  # type: ignore[arg-type]
    assert kv.reservation_tokens(Request(0, 0, 100, 33)) == tokens


def test_paged_admission_keeps_the_watermark_unless_nothing_runs() -> None:
    kv = PagedKV(10, 16, watermark=3)
    assert kv.can_admit(Request(0, 0, 112, 1), is_first=False)  # 7 blocks of 10
    assert not kv.can_admit(Request(0, 0, 113, 1), is_first=False)
    assert kv.can_admit(Request(0, 0, 160, 1), is_first=True)
