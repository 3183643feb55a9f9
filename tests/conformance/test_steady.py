"""Steady decode, and steps taken at once, against the same steps planned request by request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from conformance.playing import blocks, check, decided, ids, is_over, limits, observed, offer, request, steps
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.serving.request import Request
from sim.serving.vllm.scheduler import Scheduler

ENDLESS = 3_000


@dataclass(frozen=True)
class Ask:
    """One request of a play; ``follows``: its prompt goes on where that earlier one's answer ends.

    Arrivals differ: without the admission gate, requests of equal priority that arrive together can
    preempt each other's half-done prefills for ever, in vLLM too.
    """

    gap: int
    shared: tuple[int, int]
    own: int
    out: int
    priority: int = 0
    follows: int | None = None
    leaves_after: int | None = None

    def make(self, number: int, earlier: list[Request]) -> Request:
        prompt = [(self.shared[0], 0, self.shared[1]), (100 + number, 0, self.own)]
        if self.follows is not None and earlier:
            before = earlier[self.follows % len(earlier)]
            prompt = [
                *before.prompt,
                (before.output_stream, 0, before.max_tokens),
                (100 + number, 0, self.own),
            ]
        stream = 1000 + (number if self.priority < 3 else number % 2)
        named = {"priority": self.priority, "output_stream": stream, "arrival": number}
        return request(f"r{number}", prompt, self.out, **named)


ASKS = st.lists(
    st.builds(
        Ask,
        gap=st.integers(0, 12),
        shared=st.tuples(st.integers(1, 2), st.integers(0, 13)),
        own=st.integers(1, 14),
        out=st.integers(1, 25),
        priority=st.integers(0, 3),
        follows=st.none() | st.integers(0, 5),
        leaves_after=st.none() | st.none() | st.integers(0, 20),
    ),
    min_size=1,
    max_size=9,
)
LIMITS = st.fixed_dictionaries(
    {
        "block_size": st.integers(1, 5),
        "num_gpu_blocks": st.integers(12, 40),
        "max_num_seqs": st.integers(1, 6),
        "max_num_batched_tokens": st.sampled_from([3, 5, 9, 17, 80]),
        "max_model_len": st.just(80),
        "enable_prefix_caching": st.sampled_from([True, True, False]),
        "policy": st.sampled_from(["fcfs", "fcfs", "priority"]),
        "long_prefill_token_threshold": st.sampled_from([0, 0, 4]),
        "scheduler_reserve_full_isl": st.booleans(),
    }
)


class Play:
    """The same requests offered to two schedulers, step by step."""

    def __init__(self, named: dict[str, object], asks: list[Ask], version: str) -> None:
        self.pair = [Scheduler(limits(**named), version, steady=steady) for steady in (True, False)]
        self.asks, self.made = asks, ([], [])  # type: tuple[list[Ask], tuple[list[Request], list[Request]]]
        self.step = self.arrives = 0
        self.leaves: dict[int, list[int]] = {}

    def offer(self) -> None:
        """Adds what has arrived, and takes out whose client has left."""
        while len(self.made[0]) < len(self.asks):
            ask, number = self.asks[len(self.made[0])], len(self.made[0])
            if self.arrives + ask.gap > self.step:
                break
            self.arrives += ask.gap
            for scheduler, made in zip(self.pair, self.made, strict=True):
                made.append(ask.make(number, made))
                self.offer_to(scheduler, made[-1], number)
            if ask.leaves_after is not None:
                self.leaves.setdefault(self.step + ask.leaves_after, []).append(number)
        for number in self.leaves.pop(self.step, ()):
            for scheduler, made in zip(self.pair, self.made, strict=True):
                scheduler.abort(made[number])

    def offer_to(self, scheduler: Scheduler, item: Request, number: int) -> None:
        offer(scheduler, item)

    def next_event(self) -> int:
        """Steps until the next arrival or leaving client."""
        number = len(self.made[0])
        coming = [self.arrives + self.asks[number].gap] if number < len(self.asks) else []
        return min([*coming, *self.leaves], default=self.step + ENDLESS) - self.step

    def one_step(self) -> None:
        plans = [scheduler.plan_step() for scheduler in self.pair]
        assert decided(plans[0]) == decided(plans[1])
        ended = [scheduler.update(plan) for scheduler, plan in zip(self.pair, plans, strict=True)]
        assert [r.request_id for r in ended[0]] == [r.request_id for r in ended[1]]
        self.step += 1

    def at_once(self, num_steps: int) -> None:
        """``num_steps`` uniform steps: taken at once, and one by one."""
        skipping, reference = self.pair
        ended = skipping.batch.advance(num_steps)
        for left in range(num_steps, 0, -1):
            plan = reference.plan_step()
            assert not plan.admitted and not plan.preempted and not plan.partial
            assert set(plan.scheduled.values()) == {1}
            assert ids(reference.update(plan)) == (ids(ended) if left == 1 else [])
        self.step += num_steps

    def to_its_end(self) -> None:
        """Step by step, compared after each."""
        for _ in range(ENDLESS):
            self.offer()
            if self.is_over:
                return
            self.one_step()
            self.compare()
        raise AssertionError("it goes on for ever")

    def compare(self) -> None:
        assert observed(self.pair[0]) == observed(self.pair[1])
        for scheduler in self.pair:
            check(scheduler)

    @property
    def is_over(self) -> bool:
        return len(self.made[0]) == len(self.asks) and all(is_over(item) for item in self.made[0])


@settings(max_examples=400, deadline=None)
@given(LIMITS, ASKS, st.sampled_from(["0.33.0", "0.20.0"]), st.integers(0, 9))
@example(
    {"num_gpu_blocks": 14, "enable_prefix_caching": True, "block_size": 2},
    [Ask(gap=0, shared=(1, 4), own=3, out=20), Ask(gap=2, shared=(1, 4), own=3, out=20, follows=0)],
    "0.33.0",
    9,
)
def test_steps_taken_at_once_are_the_same_steps(
    named: dict[str, object], asks: list[Ask], version: str, patience: int
) -> None:
    """``patience``: at most so many uniform steps at once, so that counts are read between them too."""
    play = Play(named, asks, version)
    for _ in range(ENDLESS):
        play.offer()
        if play.is_over:
            break
        num_steps = min(play.pair[0].batch.uniform_steps(), play.next_event(), patience or ENDLESS)
        if num_steps > 0:
            play.at_once(num_steps)
        else:
            play.one_step()
        if patience % 2:
            play.compare()
    play.compare()
    assert play.is_over


def test_a_long_decode_is_one_jump() -> None:
    scheduler = Scheduler(limits(max_model_len=5000, num_gpu_blocks=3000))
    scheduler.add(request("a", 8, 4000))
    scheduler.update(scheduler.plan_step())
    assert scheduler.batch.uniform_steps() == 3999
    assert len(scheduler.batch.advance(3999)) == 1


def test_blocks_go_out_in_order_of_admission_though_the_later_one_decodes_first() -> None:
    scheduler = Scheduler(limits(long_prefill_token_threshold=8))
    for item in (request("a", 20, 12), request("b", 6, 12)):
        scheduler.add(item)
    grown = [list(blocks(plan)) for plan in steps(scheduler) if not plan.admitted]
    assert ["a", "b"] in grown and ["b", "a"] not in grown


def test_a_full_engine_with_a_queue_still_jumps() -> None:
    scheduler = Scheduler(limits(max_num_seqs=1))
    for name in "ab":
        scheduler.add(request(name, 8, 40))
    scheduler.update(scheduler.plan_step())
    assert scheduler.batch.uniform_steps() == 39


@pytest.mark.parametrize(
    "named", [{"async_scheduling": True}, {"num_speculative_tokens": 2}, {"prefill_schedule_interval": 2}]
)
def test_what_cannot_be_skipped_says_so(named: dict[str, object]) -> None:
    scheduler = Scheduler(limits(**named))
    scheduler.add(request("a", 8, 40))
    scheduler.update(scheduler.plan_step())
    assert scheduler.schedule().num_steps == 1


def assert_served_alike_if_alone(named: dict[str, Any], asks: list[Ask]) -> None:
    """Requests without a token in common, said to be alone or not: the same decisions, and the same state."""
    pair = [Scheduler(limits(**named), are_alone=are_alone) for are_alone in (True, False)]
    for number, ask in enumerate(asks):
        for scheduler in pair:
            item = request(f"r{number}", [(number, 0, ask.own + 1)], ask.out, output_stream=1000 + number)
            item.arrival, item.priority = number, ask.priority
            offer(scheduler, item)
    for _ in range(ENDLESS):
        if not pair[0].num_unfinished:
            return
        plans = [scheduler.plan_step() for scheduler in pair]
        assert decided(plans[0]) == decided(plans[1])
        for scheduler, plan in zip(pair, plans, strict=True):
            scheduler.update(plan)
            check(scheduler)
        assert observed(pair[0]) == observed(pair[1])
    raise AssertionError("it goes on for ever")
