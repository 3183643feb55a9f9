"""Several KV-cache groups: the rules of their kinds by hand, and laws over random plays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conformance.playing import (
    blocks,
    check,
    ids,
    is_over,
    limits,
    offer,
    request,
    steps,
    tokens,
)
from conformance.test_steady import ASKS, ENDLESS, Ask, Play, assert_served_alike_if_alone
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.serving.request import Request
from sim.serving.vllm.config import KVCacheGroup, SchedulerConfig
from sim.serving.vllm.group_kinds import GroupKind, Retention, kinds_of
from sim.serving.vllm.groups import GroupedKVBlocks
from sim.serving.vllm.prefix_tree import Node
from sim.serving.vllm.scheduler import Scheduler
from sim.serving.vllm.steady import GroupedSteadyDecode
from sim.trust.conformance import EngineLoop

FULL = KVCacheGroup()


def window(num_tokens: int) -> KVCacheGroup:
    return KVCacheGroup(kind="sliding", window_tokens=num_tokens)


def chunked(num_tokens: int) -> KVCacheGroup:
    return KVCacheGroup(kind="chunked", window_tokens=num_tokens)


def state(num_pages: int) -> KVCacheGroup:
    return KVCacheGroup(kind="state", pages_per_request=num_pages)


def kind(group: KVCacheGroup, block_size: int = 4) -> GroupKind:
    return kinds_of([group], block_size)[0]


def grouped(*groups: KVCacheGroup, **named: Any) -> Scheduler:
    return Scheduler(limits(**{"groups": groups, "enable_prefix_caching": True, **named}))


def tables(item: Request) -> list[list[int]]:
    return [list(table) for table in item.tables]


def add(target: Scheduler, *items: Request) -> None:
    for item in items:
        target.add(item)


def one_step(target: Scheduler) -> dict[str, int]:
    plan = target.plan_step()
    scheduled = tokens(plan)
    target.update(plan)
    check(target)
    return scheduled


def kept(group: KVCacheGroup, first: int, end: int, *boundaries: int, interval: int | None = 0) -> list[int]:
    retention = Retention(interval_tokens=interval, boundaries_tokens=boundaries)
    return list(kind(group).kept(first, end, (first * 4, end * 4), retention))


def cached(*indices: int) -> Callable[[int], bool]:
    return set(indices).__contains__


# kinds


@pytest.mark.parametrize("computed, skipped", [(0, 0), (7, 0), (8, 1), (20, 13)])
def test_a_window_reaches_from_the_next_token_back(computed: int, skipped: int) -> None:
    assert kind(window(8)).num_skipped_tokens(computed) == skipped


@pytest.mark.parametrize("computed, skipped", [(7, 0), (8, 8), (15, 8), (16, 16)])
def test_a_chunk_is_over_as_a_whole(computed: int, skipped: int) -> None:
    assert kind(chunked(8)).num_skipped_tokens(computed) == skipped


@pytest.mark.parametrize("block_size", [1, 4, 5])
@pytest.mark.parametrize("group", [window(1), window(8), window(9), chunked(8), chunked(6), state(2)])
def test_when_the_next_block_leaves_is_known(group: KVCacheGroup, block_size: int) -> None:
    rule = kind(group, block_size)
    for computed in range(60):
        gone = rule.num_skipped_tokens(computed) // block_size
        quiet = rule.next_leave(computed)
        assert quiet >= computed
        assert rule.num_skipped_tokens(quiet) // block_size == gone
        if group.kind != "chunked":  # (whose end may lie inside the same block)
            assert rule.num_skipped_tokens(quiet + 1) // block_size == gone + 1
    assert kind(FULL).next_leave(7) == kind(state(1)).next_leave(7) > 10**9


def test_a_window_holds_itself_and_what_is_under_way_and_one_block_more() -> None:
    assert kind(window(8)).most_blocks(16, 1000) == 7  # 23 tokens are 6 blocks
    assert kind(window(8)).most_blocks(16, 12) == 4
    assert kind(chunked(8)).most_blocks(16, 1000) == 6
    assert kind(FULL).most_blocks(16, 1000) is None


def test_full_attention_finds_the_first_run() -> None:
    assert kind(FULL).find(cached(0, 1, 3), 19) == (0, 2)
    assert kind(FULL).find(cached(0, 1, 2), 11) == (0, 2)
    assert kind(FULL).find(cached(0, 1, 2), 19, drops=True) == (0, 2)


def test_a_window_finds_the_latest_run_that_fills_it() -> None:
    """A window of 9 needs the 8 tokens before a token: 2 blocks."""
    assert kind(window(9)).find(cached(0, 1, 3, 4, 6), 31) == (3, 5)
    assert kind(window(9)).find(cached(0, 1, 3, 4, 6), 16) == (0, 2)
    assert kind(window(9)).find(cached(3, 4, 5), 24, drops=True) == (3, 5)


def test_a_shorter_run_counts_only_at_the_very_start() -> None:
    assert kind(window(9)).find(cached(0, 2), 31) == (0, 1)
    assert kind(window(9)).find(cached(2), 31) == (0, 0)


def test_chunks_before_the_last_need_not_be_cached() -> None:
    """Chunks of 8 are 2 blocks: at 23 tokens the third is read, its first block if it is there."""
    assert kind(chunked(8)).find(cached(), 23) == (4, 4)
    assert kind(chunked(8)).find(cached(4), 23) == (4, 5)
    assert kind(chunked(8)).find(cached(0, 1), 7) == (0, 1)


def test_of_states_the_latest_is_enough() -> None:
    assert kind(state(2)).find(cached(1, 3), 31) == (3, 4)
    assert kind(state(2)).find(cached(1, 3), 12) == (1, 2)
    assert kind(state(2)).find(cached(), 31) == (0, 0)


def test_a_window_registers_what_a_resend_of_the_prompt_needs() -> None:
    """Prompt of 30: a resend hits at most 7 blocks and needs the 2 before that edge."""
    assert kept(FULL, 0, 9, 29) == list(range(9))
    assert kept(window(9), 0, 9, 29) == [5, 6]
    assert kept(window(9), 6, 9, 29) == [6]
    assert kept(window(9), 0, 6, 29) == [5]
    assert kept(window(9), 0, 9, 29, 16) == [2, 3, 5, 6]


def test_an_interval_keeps_the_end_of_every_segment() -> None:
    assert kept(window(9), 0, 9, 29, interval=16) == [2, 3, 5, 6, 7]
    assert kept(window(9), 0, 9, 29, interval=8) == list(range(9))
    assert kept(window(9), 0, 9, 29, interval=None) == list(range(9))


def test_a_state_is_registered_only_at_its_edge() -> None:
    at_boundary = Retention(interval_tokens=0, boundaries_tokens=(13,))
    assert list(kind(state(2)).kept(0, 3, (0, 12), at_boundary)) == [2]
    assert list(kind(state(2)).kept(0, 3, (0, 13), at_boundary)) == []
    assert list(kind(state(3)).kept(0, 3, (0, 13), at_boundary)) == [2]
    assert list(kind(state(3)).kept(2, 3, (9, 13), at_boundary)) == []
    assert list(kind(state(1)).kept(0, 3, (0, 12), at_boundary)) == []
    assert list(kind(state(2)).kept(0, 4, (0, 16), at_boundary)) == []
    dense = Retention(interval_tokens=None, boundaries_tokens=())
    assert list(kind(state(2)).kept(0, 4, (0, 16), dense)) == [3]
    every_two = Retention(interval_tokens=8, boundaries_tokens=())
    assert [list(kind(state(2)).kept(0, end, (0, 4 * end), every_two)) for end in (3, 4)] == [[], [3]]


# what requests hold


def test_every_group_takes_its_blocks_in_turn_and_a_window_gives_back() -> None:
    target = grouped(FULL, window(8))
    item = request("a", 20, 6)
    add(target, item)
    one_step(target)
    assert tables(item) == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    plan = target.plan_step()
    assert blocks(plan) == {"a": [7, 6]}  # 8 has a hash: a resend would need it
    assert tables(item) == [[1, 2, 3, 4, 5, 7], [0, 0, 0, 9, 10, 6]]


def test_blocks_that_left_a_window_are_free_though_the_step_then_fails() -> None:
    """Of 9 blocks a holds 8; of those 4 leave the window before it asks for two."""
    target = grouped(FULL, window(4), num_gpu_blocks=10)
    first = request("a", 16, 4)
    add(target, first)
    one_step(target)
    assert target.kv.pool.num_free == 1
    one_step(target)
    assert target.kv.pool.num_free == 2 and tables(first)[1][:3] == [0, 0, 0]


def test_what_left_the_window_goes_in_front_the_latest_first() -> None:
    target = grouped(window(5), enable_prefix_caching=False)
    item = request("a", 20, 2)
    add(target, item)
    one_step(target)
    target.plan_step()
    assert tables(item) == [[0, 0, 0, 0, 5, 4]]
    assert target.kv.pool.free_order()[:3] == [3, 2, 1]


def test_groups_are_freed_one_after_the_other_each_tail_first() -> None:
    target = grouped(FULL, window(5), enable_prefix_caching=False, num_gpu_blocks=20)
    item = request("a", 11, 1)
    add(target, item)
    one_step(target)
    assert target.kv.pool.free_order()[:6] == [6, 5, 4, 3, 2, 1]


def test_the_gate_counts_a_window_with_what_it_can_hold() -> None:
    """40 tokens are 10 full blocks; a window of 5 with 8 under way holds 4 at a time: 14 of 20, not 20."""
    for num_gpu_blocks, is_served in ((15, True), (14, False)):
        target = grouped(FULL, window(5), num_gpu_blocks=num_gpu_blocks, max_num_batched_tokens=8)
        item = request("a", 40, 1)
        assert bool(target.refusal(item)) is not is_served
    waiting = grouped(FULL, window(5), num_gpu_blocks=17, max_num_batched_tokens=8)
    add(waiting, request("a", 8, 4), request("b", 40, 1))
    assert one_step(waiting) == {"a": 8}
    assert one_step(waiting) == {"a": 1}  # 4 blocks and 2 more are in use, 14 are asked for


def test_two_steps_in_flight_double_what_a_window_may_hold() -> None:
    target = grouped(FULL, window(5), async_scheduling=True, max_num_batched_tokens=8)
    assert target.limits.in_flight_tokens == 16
    assert target.kv.most_blocks(40) == 10 + 6
    stages = replace(target.limits, async_scheduling=False, pipeline_parallel_size=3)
    assert stages.in_flight_tokens == 24


def test_what_is_in_flight_keeps_its_window() -> None:
    target = grouped(window(5), async_scheduling=True, enable_prefix_caching=False)
    loop = EngineLoop(target, async_scheduling=True)
    item = request("a", 20, 6)
    add(target, item)
    loop.plan()
    planned, completed = loop.plan()
    assert planned is not None and completed is not None
    assert tables(item) == [[1, 2, 3, 4, 5, 6]]  # the prompt's step is not over
    loop.complete(completed)
    loop.plan()
    assert tables(item) == [[0, 0, 0, 0, 5, 6]]


def test_a_request_too_large_for_the_groups_together_is_refused() -> None:
    target = grouped(FULL, FULL, num_gpu_blocks=11)
    assert "KV blocks" in target.refusal(request("a", 20, 5))
    assert not target.refusal(request("a", 16, 5))


# hits


def prompt(own: int, shared: int = 20) -> list[tuple[int, int, int]]:
    return [(1, 0, shared), (100 + own, 0, 5)]


def test_a_hit_of_all_groups_leaves_the_window_s_beginning_empty() -> None:
    target = grouped(FULL, window(6))
    add(target, request("a", [(1, 0, 25)], 1))
    list(steps(target))
    again = request("b", [(1, 0, 25)], 1)
    add(target, again)
    plan = target.plan_step()
    assert list(plan.admitted.values()) == [24] and tokens(plan) == {"b": 1}
    assert tables(again)[0][:6] == [1, 2, 3, 4, 5, 6]
    assert tables(again)[1][:4] == [0, 0, 0, 0] and all(tables(again)[1][4:])


def test_where_a_window_has_kept_less_the_hit_is_shorter_and_the_place_is_remembered() -> None:
    """b shares 20 tokens with a, whose window kept only the end of its prompt; c finds what b then kept."""
    target = grouped(FULL, window(6))
    hits = []
    for number in range(3):
        item = request("abc"[number], prompt(number), 1)
        add(target, item)
        plan = target.plan_step()
        hits += plan.admitted.values()
        junction = item.junction_tokens
        assert junction == (20 if number == 1 else 0)
        target.update(plan)
    assert hits == [0, 0, 20]


def test_a_window_alone_has_no_junction() -> None:
    target = grouped(window(6), prefix_cache_retention_interval=0)
    for number in range(3):
        item = request("abc"[number], prompt(number), 1)
        add(target, item)
        plan = target.plan_step()
        assert list(plan.admitted.values()) == [0] and item.junction_tokens == 0
        target.update(plan)


def test_groups_of_one_window_are_looked_up_together() -> None:
    target = grouped(FULL, window(6), window(6))
    add(target, request("a", [(1, 0, 25)], 1))
    list(steps(target))
    kv = target.kv
    assert isinstance(kv, GroupedKVBlocks)
    again = request("b", [(1, 0, 25)], 1)
    add(target, again)
    assert kv.find_hits(again) == 6
    content = next(key for key in kv.pool._holders if key[0] == 2)
    kv.pool._forget(next(iter(kv.pool._holders[content])))
    assert kv.find_hits(again) == 0


def test_a_kind_is_asked_again_where_another_shortened_the_hit() -> None:
    """Of 4 blocks a window of 5 has the last; one of 6 the first two, and of those the other has none."""
    target = grouped(FULL, window(5), window(6))
    kv = target.kv
    assert isinstance(kv, GroupedKVBlocks)
    node, held = Node(5), {0: {0, 1, 2, 3}, 1: {3}, 2: {0, 1}}
    for group, indices in held.items():
        for index, block in zip(sorted(indices), kv.pool.take(len(indices)), strict=True):
            kv.pool.register(group, (node, index), block)
    contents = [(node, index) for index in range(5)]
    found = kv._look_up(contents, 19)
    assert (found.num_blocks, found.junction_tokens) == (0, 16)


def test_hits_that_nobody_owns_use_up_free_blocks() -> None:
    target = grouped(FULL, window(6), num_gpu_blocks=17, max_num_batched_tokens=32)
    add(target, request("a", [(1, 0, 25)], 1))
    list(steps(target))
    kv = target.kv
    again = request("b", [(1, 0, 25)], 1)
    add(target, again)
    hits = kv.find_hits(again)
    taken = kv.pool.take(16 - 8 - 1)  # 8 idle hits (6 full, 2 of the window) and 2 blocks are needed
    assert kv.admit(again, hits, 1, spare=False) is None
    kv.pool.release_unhashed(taken[:1])
    assert kv.admit(again, hits, 1, spare=False) is not None


def test_generated_text_is_found_by_full_groups_only() -> None:
    first = request("a", [(1, 0, 9)], 24, output_stream=7)
    again = request("b", [(1, 0, 9), (7, 0, 23), (8, 0, 3)], 1)
    for groups, hit in (((FULL, FULL), 32), ((FULL, window(6)), 8)):
        target = grouped(*groups)
        add(target, first)
        list(steps(target))
        add(target, again)
        plan = target.plan_step()
        assert list(plan.admitted.values()) == [hit]
        first = request("a", [(1, 0, 9)], 24, output_stream=7)
        again = request("b", [(1, 0, 9), (7, 0, 23), (8, 0, 3)], 1)


def test_a_place_that_is_empty_is_not_registered() -> None:
    target = grouped(FULL, window(6), prefix_cache_retention_interval=None)
    item = request("a", 6, 3)
    add(target, item)
    one_step(target)
    kv = target.kv
    assert isinstance(kv, GroupedKVBlocks)
    kv.pool.give_back([item.tables[1][1]])
    item.tables[1][1] = 0
    kv.register(item, 8)
    item.num_tokens = 8
    kv.register(item, 8)
    assert kv.pool.cached(0, kv._contents[item][1]) == item.tables[0][1]
    assert kv.pool.cached(1, kv._contents[item][1]) is None


# states


def test_a_state_moves_from_page_to_page() -> None:
    target = grouped(FULL, state(2), enable_prefix_caching=False)
    item = request("a", 10, 8)
    add(target, item)
    one_step(target)
    assert tables(item)[1] == [0, 0, 4]
    for _ in range(3):
        one_step(target)
    assert tables(item)[1] == [0, 0, 4, 6]  # a page is written while the one before is read
    one_step(target)
    assert tables(item)[1] == [0, 0, 0, 6]


def test_a_prompt_s_last_edge_is_kept_where_layers_keep_checkpoints() -> None:
    for pages, held in ((2, [0, 0, 4]), (3, [0, 4, 5])):
        target = grouped(FULL, state(pages))
        item = request("a", 10, 2)
        add(target, item)
        one_step(target)
        assert tables(item)[1] == held


def test_one_page_holds_the_state_to_the_end() -> None:
    target = grouped(state(1), enable_prefix_caching=False)
    item = request("a", 10, 20)
    add(target, item)
    for _ in range(15):
        one_step(target)
        assert tables(item) == [[1]]


def test_a_checkpoint_is_found_by_a_resend() -> None:
    hits = {}
    for pages in (2, 3):
        target = grouped(FULL, state(pages))
        add(target, request("a", [(1, 0, 10)], 1))
        list(steps(target))
        again = request("b", [(1, 0, 10)], 1)
        add(target, again)
        hits[pages] = list(target.plan_step().admitted.values())
    assert hits == {2: [0], 3: [8]}


# laws

GROUPS = st.lists(
    st.sampled_from(
        [FULL, FULL, window(3), window(7), window(12), window(7), chunked(6), state(2), state(3)]
    ),
    min_size=1,
    max_size=4,
).map(tuple)
GROUPS = GROUPS.filter(lambda groups: groups != (FULL,))
LIMITS = st.fixed_dictionaries(
    {
        "block_size": st.integers(1, 5),
        "num_gpu_blocks": st.integers(25, 110),
        "max_num_seqs": st.integers(1, 6),
        "max_num_batched_tokens": st.sampled_from([3, 5, 9, 17, 80]),
        "max_model_len": st.just(80),
        "enable_prefix_caching": st.sampled_from([True, True, False]),
        "policy": st.sampled_from(["fcfs", "fcfs", "priority"]),
        "long_prefill_token_threshold": st.sampled_from([0, 0, 4]),
        "scheduler_reserve_full_isl": st.just(True),
        "watermark": st.sampled_from([0.0, 0.0, 0.04]),
        "groups": GROUPS,
        "retention": st.sampled_from([None, 0, 0, 1, 2, 3]),
    }
)


def settled(named: dict[str, Any]) -> dict[str, Any]:
    """``retention`` counts blocks there."""
    retention, size = named["retention"], named["block_size"]
    others = {key: value for key, value in named.items() if key != "retention"}
    return {**others, "prefix_cache_retention_interval": retention and retention * size}


def check_bounds(target: Scheduler) -> None:
    """No group of a request holds more than it may."""
    kv, config = target.kv, target.limits
    assert isinstance(kv, GroupedKVBlocks)
    for item in target.running.values():
        for rule, table in zip(kv.kinds, item.tables, strict=True):
            held = len(table) - table.count(0)
            most = rule.most_blocks(config.in_flight_tokens, config.max_model_len)
            assert most is None or held <= most
            # (A state may move on in each of two steps in flight; pages are counted for one at a time.)
            is_bound = rule.is_state and not config.async_scheduling
            assert not is_bound or held <= rule.group.pages_per_request


@settings(max_examples=200, deadline=None)
@given(LIMITS, ASKS)
def test_asking_only_those_whose_blocks_change_is_asking_everybody(
    named: dict[str, Any], asks: list[Ask]
) -> None:
    play = Play(settled(named), asks, "0.33.0")
    for _ in range(ENDLESS):
        play.offer()
        if play.is_over:
            break
        play.one_step()
        play.compare()
        check_bounds(play.pair[0])
    assert play.is_over
    for target in play.pair:
        assert target.kv.pool.num_free == target.kv.pool.num_blocks
        assert target.kv.num_blocks_beside == 0
        assert target.used_tokens() == 0


@settings(max_examples=100, deadline=None)
@given(LIMITS, ASKS)
def test_the_laws_hold_with_two_steps_in_flight(named: dict[str, Any], asks: list[Ask]) -> None:
    target = Scheduler(limits(**{**settled(named), "async_scheduling": True}))
    loop = EngineLoop(target, async_scheduling=True)
    made: list[Request] = []
    for ask in asks:
        made.append(ask.make(len(made), made))
        offer(target, made[-1])
    for _ in range(ENDLESS):
        if loop.is_idle:
            break
        _, completed = loop.plan()
        check(target)
        check_bounds(target)
        if completed is not None:
            loop.complete(completed)
            check(target)
    assert all(is_over(item) for item in made)
    assert target.kv.pool.num_free == target.kv.pool.num_blocks


@settings(max_examples=100, deadline=None)
@given(LIMITS, ASKS)
def test_requests_that_are_alone_are_served_the_same(named: dict[str, Any], asks: list[Ask]) -> None:
    named = settled(named)
    assert_served_alike_if_alone(named, asks)


@settings(max_examples=100, deadline=None)
@given(LIMITS, ASKS)
def test_one_full_group_decides_as_the_path_of_its_own(named: dict[str, Any], asks: list[Ask]) -> None:
    """Two implementations of the pool, one of runs and one of blocks: ids and the free queue are equal."""
    play = Play({**settled(named), "groups": (FULL,)}, asks, "0.33.0")
    by_block = play.pair[1]
    by_block.kv = GroupedKVBlocks(by_block.limits, by_block.profile)
    play.to_its_end()


@settings(max_examples=100, deadline=None)
@given(LIMITS, ASKS, st.integers(2, 3))
def test_full_groups_decide_as_one_does_with_a_share_of_the_blocks(
    named: dict[str, Any], asks: list[Ask], num_groups: int
) -> None:
    """Equal groups grow and shrink together: each has its share of the pool.

    Without prefix caching: one group's blocks are freed, and so evicted, before the other's.
    """
    share = 24
    common = {**settled(named), "watermark": 0.0, "prefix_cache_retention_interval": 0}
    common["enable_prefix_caching"] = False
    sizes = (share + 1, num_groups * share + 1)
    groups = ((FULL,), (FULL,) * num_groups)
    pair = [
        Scheduler(limits(**{**common, "num_gpu_blocks": size, "groups": members}))
        for size, members in zip(sizes, groups, strict=True)
    ]
    made: list[list[Request]] = [[], []]
    for number, ask in enumerate(asks):
        for target, mine in zip(pair, made, strict=True):
            mine.append(ask.make(number, mine))
            offer(target, mine[-1])
    for _ in range(ENDLESS):
        if not pair[0].num_unfinished:
            break
        plans = [target.plan_step() for target in pair]
        for said in (tokens, lambda plan: ids(plan.preempted), lambda plan: list(plan.admitted.values())):
            assert said(plans[0]) == said(plans[1])
        for target, plan in zip(pair, plans, strict=True):
            target.update(plan)
            check(target)
    assert not pair[1].num_unfinished


def test_a_step_asks_only_those_whose_blocks_change() -> None:
    target = grouped(FULL, window(8), enable_prefix_caching=False)
    add(target, *(request(name, 6, 40) for name in "abcd"))
    batch = target.batch
    assert isinstance(batch, GroupedSteadyDecode)
    asked = []
    for _ in range(10):
        target.update(target.plan_step())
        asked.append(len(batch._due_registrars()))
    assert asked[2:] == [4, 0, 0, 4, 4, 0, 0, 4]
    assert target.schedule().num_steps == 1 and SchedulerConfig().groups == (FULL,)
