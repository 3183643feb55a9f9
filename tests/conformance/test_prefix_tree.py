"""The prefix tree and its pool of runs against a cache that lists every token and every block."""

from __future__ import annotations

from typing import cast

import pytest
from conformance.plain_cache import PlainCache
from conformance.playing import check, limits, request, table_of
from conformance.test_steady import ASKS, LIMITS, Ask, Play, assert_served_alike_if_alone
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.serving.request import Request
from sim.serving.vllm.kv import KVCache
from sim.serving.vllm.prefix_tree import PrefixTree, merged
from sim.serving.vllm.scheduler import Scheduler
from sim.serving.workload.descriptions import Descriptions


def by_token(play: Play) -> None:
    """The second scheduler's cache lists every token."""
    state = play.pair[1]
    state.kv = cast(KVCache, PlainCache(state.limits, state.profile))


@settings(max_examples=300, deadline=None)
@given(LIMITS, ASKS, st.sampled_from(["0.33.0", "0.20.0"]))
def test_blocks_are_found_shared_and_evicted_as_by_the_plain_cache(
    named: dict[str, object], asks: list[Ask], version: str
) -> None:
    play = Play({**named, "enable_prefix_caching": True}, asks, version)
    by_token(play)
    play.to_its_end()
    assert play.pair[0].kv.tree.root.num_users == len(play.pair[0].kv.tree.root.children)


class ToldPlay(Play):
    """The first scheduler's requests say what a table says: what others may have, and whom they continue."""

    def __init__(self, named: dict[str, object], asks: list[Ask], version: str) -> None:
        super().__init__(named, asks, version)
        made: list[Request] = []
        for number, ask in enumerate(asks):
            made.append(ask.make(number, made))
        self.descriptions = Descriptions(table_of(made))

    def offer_to(self, scheduler: Scheduler, item: Request, number: int) -> None:
        if scheduler is self.pair[0]:
            self.descriptions.put_on(item, number)
        super().offer_to(scheduler, item, number)


@settings(max_examples=300, deadline=None)
@given(LIMITS, ASKS, st.sampled_from(["0.33.0", "0.20.0"]))
def test_what_a_table_tells_of_tokens_changes_no_decision(
    named: dict[str, object], asks: list[Ask], version: str
) -> None:
    play = ToldPlay({**named, "enable_prefix_caching": True}, asks, version)
    by_token(play)
    play.to_its_end()


@settings(max_examples=150, deadline=None)
@given(LIMITS, ASKS)
def test_a_request_that_says_it_is_alone_is_served_the_same(
    named: dict[str, object], asks: list[Ask]
) -> None:
    named = {**named, "enable_prefix_caching": True}
    assert_served_alike_if_alone(named, asks)


def entered(tree: PrefixTree, name: str, prompt: list[tuple[int, int, int]]) -> Request:
    item = request(name, prompt, 5, output_stream=9)
    tree.enter(item, item.end_tokens // 4)
    return item


def contents(item: Request) -> list[tuple[int, int]]:
    return [(id(node), index) for node, count in item.path for index in range(count)]


def test_equal_tokens_meet_however_they_are_cut() -> None:
    tree = PrefixTree(4)
    whole = contents(entered(tree, "a", [(1, 0, 19)]))
    cut = contents(entered(tree, "b", [(1, 0, 6), (1, 6, 13)]))
    other = contents(entered(tree, "c", [(1, 0, 6), (1, 6, 5), (2, 0, 8)]))
    assert whole == cut and len(whole) == 6
    assert other[:2] == whole[:2]
    assert not set(other[2:]) & set(whole)
    assert merged([(1, 0, 2), (1, 2, 0), (1, 2, 3), (1, 6, 1)]) == [(1, 0, 5), (1, 6, 1)]


def test_content_that_nobody_holds_or_asks_for_is_forgotten() -> None:
    tree = PrefixTree(4)
    items = [entered(tree, name, [(1, 0, length)]) for name, length in (("a", 19), ("b", 8), ("c", 30))]
    assert tree.root.children
    for item in items:
        tree.leave(item)
    assert not tree.root.children and not tree.root.num_users


@pytest.mark.parametrize("num_seqs", [1, 3])
def test_no_tree_is_left_where_the_pool_was_used_anew(num_seqs: int) -> None:
    """Ten prompts in turn through a pool that holds two: only what is cached is remembered."""
    scheduler = Scheduler(limits(enable_prefix_caching=True, num_gpu_blocks=11, max_num_seqs=num_seqs))
    for number in range(10):
        scheduler.add(request(f"r{number}", [(number, 0, 15)], 3, output_stream=100 + number))
    while scheduler.num_unfinished:
        scheduler.update(scheduler.plan_step())
        check(scheduler)
    assert len(scheduler.kv.tree.root.children) <= 3
