"""Single rules of the scheduler, each in a play small enough to follow by hand."""

from __future__ import annotations

from itertools import islice

import pytest
from conformance.playing import blocks, check, ids, limits, request, steps, tokens

from sim.errors import InvariantError
from sim.serving.request import Status
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.prefix_tree import Node
from sim.serving.vllm.scheduler import Scheduler
from sim.trust.conformance import EngineLoop


def scheduler(version: str = "0.33.0", **named: object) -> Scheduler:
    return Scheduler(limits(**named), version)


def add(target: Scheduler, *requests: object) -> None:
    for item in requests:
        assert not target.refusal(item)  # type: ignore[arg-type]
        target.add(item)  # type: ignore[arg-type]


def play(target: Scheduler, *requests: object, accepted: int = 0) -> list[dict[str, int]]:
    add(target, *requests)
    return [tokens(plan) for plan in steps(target, accepted)]


def test_prefill_and_decode_share_a_step_and_the_last_chunk_gives_the_first_token() -> None:
    target = scheduler(max_num_batched_tokens=6)
    assert play(target, request("a", 4, 3), request("b", 7, 2)) == [
        {"a": 4, "b": 2}, {"a": 1, "b": 5}, {"a": 1, "b": 1},
    ]  # fmt: skip


def test_a_chunk_ahead_of_decodes_takes_their_budget() -> None:
    target = scheduler(max_num_batched_tokens=8, long_prefill_token_threshold=6)
    assert play(target, request("a", 20, 1), request("b", 2, 4))[:4] == [
        {"a": 6, "b": 2}, {"a": 6, "b": 1}, {"a": 6, "b": 1}, {"a": 2, "b": 1},
    ]  # fmt: skip
    tight = scheduler(max_num_batched_tokens=6, long_prefill_token_threshold=4)
    assert play(tight, request("a", 16, 1), request("b", 2, 2), request("c", 9, 1))[:3] == [
        {"a": 4, "b": 2}, {"a": 4, "b": 1, "c": 1}, {"a": 4, "c": 2},
    ]  # fmt: skip


def test_without_chunks_a_prompt_that_does_not_fit_stops_the_queue() -> None:
    target = scheduler(enable_chunked_prefill=False, max_num_batched_tokens=64, max_model_len=64)
    assert play(target, request("a", 50, 1), request("b", 20, 1), request("c", 2, 1)) == [
        {"a": 50}, {"b": 20, "c": 2},
    ]  # fmt: skip


def test_the_threshold_spares_a_lone_request_in_0_33_only() -> None:
    assert play(scheduler(long_prefill_token_threshold=5), request("a", 12, 1)) == [{"a": 12}]
    old = scheduler("0.20.0", long_prefill_token_threshold=5)
    assert play(old, request("a", 12, 1)) == [{"a": 5}, {"a": 5}, {"a": 2}]


def test_the_adaptive_threshold_shares_the_budget() -> None:
    named = {"long_prefill_token_threshold": 5, "long_prefill_token_threshold_adaptive": True}
    target = scheduler(max_num_batched_tokens=20, **named)
    assert play(target, request("a", 12, 1), request("b", 12, 1))[0] == {"a": 10, "b": 10}


def test_max_num_active_seqs_limits_admissions() -> None:
    target = scheduler(max_num_active_seqs=1)
    assert play(target, request("a", 4, 2), request("b", 4, 1)) == [{"a": 4}, {"a": 1}, {"b": 4}]


def test_max_model_len_ends_an_answer() -> None:
    item = request("a", 60, 30)
    assert len(play(scheduler(), item)) == 4
    assert item.num_tokens == 64 and item.status is Status.FINISHED


def test_the_latest_admitted_is_preempted_and_goes_to_the_front() -> None:
    target = scheduler(num_gpu_blocks=5)
    add(target, request("a", 7, 6), request("b", 7, 6), request("c", 7, 1))
    plans = list(islice(steps(target), 3))
    assert [tokens(plan) for plan in plans] == [{"a": 7, "b": 7}, {"a": 1, "b": 1}, {"a": 1}]
    assert ids(plans[2].preempted) == ["b"]
    assert ids(list(target.waiting)) == ["b", "c"]
    assert [item.num_computed_tokens for item in target.waiting] == [0, 0]


def test_several_victims_come_back_oldest_first() -> None:
    target = scheduler(num_gpu_blocks=5)
    add(target, request("a", 7, 10), request("b", 3, 10), request("c", 3, 10))
    for plan in steps(target):
        if len(plan.preempted) == 2:
            assert ids(plan.preempted) == ["c", "b"]
            assert ids(list(target.waiting)) == ["b", "c"]
            return
    raise AssertionError("no step preempted two")


def test_nobody_is_admitted_in_a_step_that_preempts() -> None:
    target = scheduler(num_gpu_blocks=5)
    add(target, request("a", 7, 6), request("b", 7, 6))
    for plan in steps(target):
        assert not (plan.preempted and plan.admitted)


def test_priority_preempts_the_least_urgent_wherever_it_stands() -> None:
    target = scheduler(num_gpu_blocks=5, policy="priority")
    add(target, request("a", 7, 6, priority=3), request("b", 7, 6, priority=1, arrival=1))
    plans = list(islice(steps(target), 3))
    assert ids(plans[0].admitted) == ["b", "a"]
    assert ids(plans[2].preempted) == ["a"] and tokens(plans[2]) == {"b": 1}


def test_a_tie_of_priorities_goes_by_arrival_then_by_the_id_as_text() -> None:
    target = scheduler(max_num_seqs=1, policy="priority")
    named = {"priority": 1, "arrival": 5}
    played = play(target, request("r9", 2, 1, **named), request("r10", 2, 1, **named),
                  request("z", 2, 1, priority=1, arrival=4))  # fmt: skip
    assert played == [{"z": 2}, {"r10": 2}, {"r9": 2}]


def test_a_scheduled_victim_gives_its_tokens_back() -> None:
    """b, more urgent but later in the list, takes the blocks of a, which was scheduled already."""
    target = scheduler(num_gpu_blocks=5, policy="priority", max_num_batched_tokens=16)
    add(target, request("a", 7, 9, priority=9))
    target.update(target.plan_step())
    add(target, request("b", 7, 9, priority=1))
    plans = list(islice(steps(target), 3))
    assert [tokens(plan) for plan in plans] == [{"a": 1, "b": 7}, {"b": 1}, {"b": 1}]
    assert ids(plans[1].preempted) == ["a"]


def test_a_dropped_request_gives_its_tokens_back() -> None:
    plan, item = Plan(budget=10), request("a", 4, 4)
    plan.choose(item, 4, [1])
    plan.drafts[item] = 2
    plan.drop(item)
    assert (plan.budget, plan.scheduled, plan.fresh, plan.drafts) == (10, {}, {}, {})


def test_preemption_drops_the_drafts() -> None:
    target = scheduler(num_gpu_blocks=6, num_speculative_tokens=3)
    add(target, request("a", 7, 9), request("b", 7, 9))
    for plan in steps(target):
        if plan.preempted:
            assert [item.num_drafts for item in plan.preempted] == [0]
            return
    raise AssertionError("nobody was preempted")


@pytest.mark.parametrize("version, others", [("0.33.0", {"b": 1}), ("0.20.0", {})])
def test_who_preempts_itself_ends_the_loop_in_0_20(version: str, others: dict[str, int]) -> None:
    target = scheduler(version, num_gpu_blocks=4, policy="priority")
    add(target, request("a", 3, 4, priority=9))
    target.update(target.plan_step())
    add(target, request("b", 6, 2, priority=1))
    plan = target.plan_step()
    assert tokens(plan) == {"a": 1, "b": 6}
    target.update(plan)
    plan = target.plan_step()
    assert ids(plan.preempted) == ["a"] and tokens(plan) == others


def test_of_equal_victims_the_first_in_the_list_goes() -> None:
    target = scheduler(num_gpu_blocks=4, policy="priority")
    add(target, request("a", 2, 9, priority=5), request("b", 7, 5, priority=5))
    plans = list(islice(steps(target), 3))
    assert ids(plans[2].preempted) == ["a"] and tokens(plans[2]) == {"b": 1}


@pytest.mark.parametrize("reserve, first", [(True, {"a": 8}), (False, {"a": 8, "b": 4})])
def test_the_gate_asks_for_the_whole_prompt(reserve: bool, first: dict[str, int]) -> None:
    target = scheduler(num_gpu_blocks=6, max_num_batched_tokens=12, scheduler_reserve_full_isl=reserve)
    assert play(target, request("a", 8, 1), request("b", 16, 1))[0] == first


def test_the_gate_counts_the_answer_of_a_resumed_request() -> None:
    kv = scheduler(num_gpu_blocks=6).kv
    resumed = request("a", 1, 16)
    resumed.num_tokens = 14
    kv.pool.take(2)
    assert kv.admit(resumed, 0, 4, spare=False) is None
    resumed.num_tokens = 12
    assert kv.admit(resumed, 0, 4, spare=False) == [3]


def test_the_watermark_spares_blocks_unless_nobody_runs() -> None:
    target = scheduler(num_gpu_blocks=10, watermark=0.5)
    assert play(target, request("a", 20, 1), request("b", 4, 1)) == [{"a": 20}, {"b": 4}]
    roomier = scheduler(num_gpu_blocks=11, watermark=0.4)
    assert play(roomier, request("a", 20, 1), request("b", 4, 1)) == [{"a": 20, "b": 4}]


@pytest.mark.parametrize("version, taken", [("0.33.0", [3, 2, 1]), ("0.20.0", [4, 5, 6])])
def test_blocks_without_a_hash_are_used_again_first_in_0_33(version: str, taken: list[int]) -> None:
    target = scheduler(version, max_num_seqs=1)
    add(target, request("a", 12, 1), request("b", 12, 1))
    plans = list(steps(target))
    assert blocks(plans[0]) == {"a": [1, 2, 3]}
    assert blocks(plans[1]) == {"b": taken}


def test_cached_blocks_are_evicted_last_and_tail_first() -> None:
    target = scheduler(enable_prefix_caching=True, num_gpu_blocks=6, max_num_seqs=1)
    add(target, request("a", 10, 1), request("b", 15, 1), request("c", 4, 1))
    plans = list(steps(target))
    assert blocks(plans[0]) == {"a": [1, 2, 3]}
    assert blocks(plans[1]) == {"b": [3, 4, 5, 2]}
    assert blocks(plans[2]) == {"c": [2]}
    assert target.kv.pool.num_evictions == 1


def test_a_full_prompt_computes_its_last_block_again() -> None:
    prompt = [(1, 0, 12)]
    target = scheduler(enable_prefix_caching=True, max_num_seqs=1)
    add(target, request("a", prompt, 1), request("b", prompt, 1), request("c", [(1, 0, 13)], 1))
    plans = list(steps(target))
    assert [list(plan.admitted.values()) for plan in plans] == [[0], [8], [12]]
    assert plans[2].admitted and blocks(plans[2]) == {"c": [5]}


def test_requests_of_one_step_share_their_prefix() -> None:
    target = scheduler(enable_prefix_caching=True)
    add(target, request("a", [(1, 0, 12), (2, 0, 3)], 1), request("b", [(1, 0, 12), (3, 0, 3)], 1))
    plan = target.plan_step()
    check(target)
    assert list(plan.admitted.values()) == [0, 12]
    assert tokens(plan) == {"a": 15, "b": 3}


def test_a_later_turn_hits_the_answer_but_not_its_last_token() -> None:
    first = request("a", [(1, 0, 6)], 6, output_stream=7)
    again = request("b", [(1, 0, 6), (7, 0, 6), (8, 0, 4)], 1)
    target = scheduler(enable_prefix_caching=True)
    play(target, first)
    add(target, again)
    assert list(target.plan_step().admitted.values()) == [8]


def test_tokens_of_a_running_answer_can_be_hit() -> None:
    first = request("a", [(1, 0, 6)], 20, output_stream=7)
    target = scheduler(enable_prefix_caching=True)
    add(target, first)
    for _ in range(9):
        target.update(target.plan_step())
    add(target, request("b", [(1, 0, 6), (7, 0, 9)], 1))
    plan = target.plan_step()
    check(target)
    assert plan.admitted and list(plan.admitted.values()) == [12]


def test_of_equal_blocks_the_first_registered_answers_until_it_is_evicted() -> None:
    pool = scheduler(enable_prefix_caching=True).kv.pool
    pool.take(4)
    node = Node(2)
    path = [(node, 2)]
    pool.register(path, [2], 0, 1)
    pool.register(path, [1, 3], 0, 2)
    pool.register(path, [4], 0, 1)
    assert node.blocks == [2, 3]
    pool.release([2], path, 1)
    assert pool.take(95) and node.blocks == [2, 3]
    pool.take(1)
    assert node.blocks == [1, 3]


def test_a_lookup_that_leads_to_nothing_changes_nothing() -> None:
    target = scheduler(enable_prefix_caching=True, num_gpu_blocks=6)
    add(target, request("a", [(1, 0, 8)], 1))
    target.update(target.plan_step())
    add(target, request("b", 8, 9))
    target.update(target.plan_step())
    add(target, request("c", [(1, 0, 8), (2, 0, 8)], 1))
    before = target.kv.pool.free_order()
    plan = target.plan_step()
    assert not plan.admitted and len(target.waiting) == 1
    assert target.kv.pool.free_order() == before[1:]


def test_drafts_are_taken_back_where_they_were_wrong() -> None:
    item = request("a", 4, 8)
    target = scheduler(num_speculative_tokens=3)
    assert play(target, item, accepted=2) == [{"a": 4}, {"a": 4}, {"a": 4}, {"a": 4}]
    alone = request("a", 4, 8)
    assert len(play(scheduler(num_speculative_tokens=3), alone, accepted=0)) == 8


def test_drafts_fit_the_budget_and_max_model_len() -> None:
    target = scheduler(num_speculative_tokens=3, max_num_batched_tokens=5)
    played = play(target, request("a", 2, 9), request("b", 2, 9))
    assert played[1] == {"a": 4, "b": 1}
    at_end = scheduler(num_speculative_tokens=3, max_model_len=10)
    assert play(at_end, request("a", 6, 9))[1:] == [{"a": 3}, {"a": 2}, {"a": 1}]


@pytest.mark.parametrize("version, first", [("0.33.0", 4), ("0.20.0", 1)])
def test_a_one_token_admission_beside_decodes_is_padded_in_0_33(version: str, first: int) -> None:
    target = scheduler(version, num_speculative_tokens=3)
    add(target, request("a", 6, 30))
    target.update(target.plan_step())
    add(target, request("b", 1, 3))
    plan = target.plan_step()
    assert tokens(plan) == {"a": 4, "b": first}
    target.update(plan)
    assert [item.num_tokens for item in target.running.values()] == [8, 2]


def test_padding_needs_company_or_a_hit() -> None:
    assert play(scheduler(num_speculative_tokens=3), request("a", 1, 1)) == [{"a": 1}]


@pytest.mark.parametrize("max_model_len, second", [(9, 4), (8, 1)])
def test_padding_keeps_within_max_model_len(max_model_len: int, second: int) -> None:
    target = scheduler(num_speculative_tokens=3, enable_prefix_caching=True, max_model_len=max_model_len)
    add(target, request("a", [(1, 0, 4)], 3), request("b", [(1, 0, 4), (2, 0, 1)], 2))
    assert tokens(target.plan_step()) == {"a": 4, "b": second}


@pytest.mark.parametrize("version, hit", [("0.33.0", 8), ("0.20.0", 4)])
def test_a_block_that_drafts_filled_is_cached_at_once_in_0_33(version: str, hit: int) -> None:
    target = scheduler(version, num_speculative_tokens=3, enable_prefix_caching=True)
    play(target, request("a", [(1, 0, 4)], 5, output_stream=7), accepted=3)
    add(target, request("b", [(1, 0, 4), (7, 0, 5), (2, 0, 4)], 1))
    assert list(target.plan_step().admitted.values()) == [hit]


def test_a_padded_admission_that_exceeds_the_budget_waits() -> None:
    target = scheduler(num_speculative_tokens=3, max_num_batched_tokens=7)
    add(target, request("a", 6, 30))
    target.update(target.plan_step())
    add(target, request("b", 1, 3))
    assert tokens(target.plan_step()) == {"a": 4}


def test_prefill_waits_for_its_turn_while_decodes_run() -> None:
    target = scheduler(prefill_schedule_interval=3)
    add(target, request("a", 4, 9))
    played = []
    for step in range(5):
        if step == 1:
            add(target, request("b", 4, 9))
        plan = target.plan_step()
        played.append(tokens(plan))
        target.update(plan)
    assert played == [{"a": 4}, {"a": 1}, {"a": 1}, {"a": 1, "b": 4}, {"a": 1, "b": 1}]


def test_prefill_does_not_wait_where_the_engine_is_full_anyway() -> None:
    target = scheduler(prefill_schedule_interval=5, max_num_seqs=1)
    assert play(target, request("a", 4, 2), request("b", 4, 1)) == [{"a": 4}, {"a": 1}, {"b": 4}]


def test_prefills_do_not_wait_for_each_other() -> None:
    target = scheduler(prefill_schedule_interval=5, max_num_batched_tokens=4)
    assert play(target, request("a", 12, 1)) == [{"a": 4}, {"a": 4}, {"a": 4}]


def test_an_admission_with_one_token_left_is_no_prefill() -> None:
    target = scheduler(prefill_schedule_interval=4, enable_prefix_caching=True)
    add(target, request("a", [(1, 0, 4)], 20))
    played = []
    for step in range(6):
        if step == 1:
            add(target, request("b", [(1, 0, 4), (2, 0, 1)], 20))
        if step == 2:
            add(target, request("c", 4, 20))
        plan = target.plan_step()
        played.append(tokens(plan))
        target.update(plan)
    assert played[1] == {"a": 1, "b": 1}
    assert [("c" in step) for step in played] == [False, False, False, False, True, True]


def test_asynchronous_scheduling_plans_one_step_ahead() -> None:
    target = scheduler(async_scheduling=True)
    loop = EngineLoop(target, async_scheduling=True)
    add(target, request("a", 4, 3), request("b", 4, 1))
    seen = []
    for _ in range(ENOUGH):
        planned, completed = loop.plan()
        ended = loop.complete(completed) if completed is not None else []
        seen.append((tokens(planned) if planned else None, ids(ended), target.kv.pool.num_free))
        if loop.is_idle:
            break
    assert seen == [
        ({"a": 4, "b": 4}, [], 97), ({"a": 1}, ["b"], 97), ({"a": 1}, [], 97), ({}, ["a"], 99), ({}, [], 99),
        (None, [], 99),
    ]  # fmt: skip


ENOUGH = 50


def test_a_token_that_arrives_after_a_preemption_is_kept_but_not_counted_as_computed() -> None:
    target = scheduler(async_scheduling=True, num_gpu_blocks=5)
    loop = EngineLoop(target, async_scheduling=True)
    first, second = request("a", 7, 6), request("b", 7, 6)
    add(target, first, second)
    for _ in range(ENOUGH):
        planned, completed = loop.plan()
        if planned is not None and planned.preempted:
            assert (second.num_tokens, second.num_computed_tokens, second.num_stale_tokens) == (8, 0, 1)
            assert completed is not None
            loop.complete(completed)
            assert (second.num_tokens, second.num_computed_tokens, second.num_stale_tokens) == (9, 0, 0)
            return
        if completed is not None:
            loop.complete(completed)
    raise AssertionError("nobody was preempted")


def test_a_request_with_a_stale_token_is_passed_over_and_keeps_its_place() -> None:
    target = scheduler(async_scheduling=True, max_num_seqs=1)
    late, others = request("a", 4, 2), [request("b", 4, 2), request("c", 4, 2)]
    late.num_stale_tokens = 1
    add(target, late, *others)
    assert ids(target.plan_step().admitted) == ["b"]
    assert ids(list(target.waiting)) == ["a", "c"]


@pytest.mark.parametrize("prompt, out, words", [
    (64, 1, "max_model_len"), (9, 9, "KV blocks"), (0, 1, "at least one"), (4, 0, "at least one"),
])  # fmt: skip
def test_what_can_never_be_served_is_refused(prompt: int, out: int, words: str) -> None:
    target = scheduler(num_gpu_blocks=5)
    item = request("a", prompt, out)
    assert words in target.refusal(item)


def test_what_just_fits_is_served() -> None:
    item = request("a", 9, 8)
    play(scheduler(num_gpu_blocks=5), item)
    assert item.num_tokens == 17


def test_an_aborted_request_leaves_at_once() -> None:
    target = scheduler(enable_prefix_caching=True)
    one, two, three = request("a", 9, 9), request("b", 9, 9), request("c", 9, 9)
    add(target, one, two)
    target.update(target.plan_step())
    plan = target.plan_step()
    add(target, three)
    target.abort(one)
    target.abort(three)
    target.update(plan)
    check(target)
    assert ids(list(target.unfinished())) == ["b"] and one.num_tokens == 10
    target.abort(two)
    assert target.num_unfinished == 0 and target.kv.pool.num_free == 99


def test_steps_that_are_not_uniform_cannot_be_taken_at_once() -> None:
    target = scheduler()
    add(target, request("a", 4, 9))
    with pytest.raises(InvariantError):
        target.batch.advance(1)
