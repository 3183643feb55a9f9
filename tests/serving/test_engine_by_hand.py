"""What an engine does, step by step, at 0.1 s a step: every expected number can be worked out in the head."""

from __future__ import annotations

from typing import Any

import pytest
from fake_price import in_ps, requests, run_fixed, seconds

from sim.serving.records import ABORTED, FINISHED, REFUSED, RequestTable, RunResult

ENGINES = {
    "fast_path": {"stepping": "skip"},
    "skipping": {"stepping": "skip", "has_block_map": True},
    "stepped": {"stepping": "every_step"},
}


@pytest.fixture(params=ENGINES.values(), ids=ENGINES.keys())
def run(request: pytest.FixtureRequest) -> Any:
    """The same run on each of the three engines."""

    def run_it(table: RequestTable, **settings: Any) -> RunResult:
        return run_fixed(
            table, **{"max_model_len": 128, "num_gpu_blocks_override": 64, **settings, **request.param}
        )

    return run_it


def test_a_third_request_waits_for_a_free_place(run: Any) -> None:
    result = run(requests([0, 0, 0.05], [4, 4, 4], [2, 3, 2]), max_num_seqs=2)
    # 0.1: first tokens of 0 and 1. 0.2: request 0 is done, 2 takes its place beside the decode of 1.
    assert seconds(result.requests.first_scheduled_ps) == [0, 0, 0.2]
    assert seconds(result.requests.first_token_ps) == [0.1, 0.1, 0.3]
    assert seconds(result.requests.finish_ps) == [0.2, 0.3, 0.4]


def test_an_idle_engine_wakes_at_the_arrival(run: Any) -> None:
    result = run(requests([0.07, 1.23], [4, 4], [1, 1]))
    assert seconds(result.requests.finish_ps) == [0.17, 1.33]
    assert result.busy_ps == 200_000_000_000


@pytest.mark.parametrize(
    ("is_chunked", "scheduled", "finish"),
    [
        # 8 tokens a step. Chunked: 4 + 4 of the long prompt, then 1 decode + its other 4.
        (True, [0, 0], [0.3, 0.2]),
        # Whole prompts only: 8 tokens never fit beside a decode, so it waits for the end of request 0.
        (False, [0, 0.3], [0.3, 0.4]),
    ],
)
def test_chunked_prefill(run: Any, is_chunked: bool, scheduled: list[float], finish: list[float]) -> None:
    table = requests([0, 0], [4, 8], [3, 1])
    result = run(table, max_num_batched_tokens=8, enable_chunked_prefill=is_chunked)
    assert seconds(result.requests.first_scheduled_ps) == scheduled
    assert seconds(result.requests.finish_ps) == finish


@pytest.mark.parametrize(("order", "finish"), [("decode_first", [0.3, 0.3]), ("prefill_first", [0.4, 0.3])])
def test_a_prompt_stalls_decodes_only_when_it_goes_first(run: Any, order: str, finish: list[float]) -> None:
    result = run(requests([0, 0.05], [4, 4], [3, 2]), schedule_order=order)
    assert seconds(result.requests.first_token_ps) == [0.1, 0.2]
    assert seconds(result.requests.finish_ps) == finish


def test_the_latest_admitted_is_preempted_and_recomputed(run: Any) -> None:
    # 4 blocks of 4 tokens, two prompts of 8 fill them. At 0.1 request 0 needs a third block for its next
    # token: request 1 loses the KV of its 8 prompt tokens. It comes back with 9 tokens (3 blocks) at 0.4.
    result = run(requests([0, 0], [8, 8], [4, 4]), block_size=4, num_gpu_blocks_override=4)
    assert seconds(result.requests.first_token_ps) == [0.1, 0.1]
    assert seconds(result.requests.finish_ps) == [0.4, 0.7]
    assert seconds(result.preemptions.time_ps) == [0.1]
    assert result.preemptions.request.tolist() == [1]
    assert result.preemptions.recompute_tokens.tolist() == [8]
    assert result.requests.num_preemptions.tolist() == [0, 1]
    assert result.requests.recompute_tokens.tolist() == [0, 8]
    assert result.segments.prefill_tokens.sum() == 8 + 8 + 9


def test_an_abort_keeps_delivered_tokens_and_gives_the_place_back(run: Any) -> None:
    # Tokens at 0.1, 0.2, 0.3; the client leaves at 0.35; the step under way ends at 0.4.
    table = requests([0, 0], [4, 4], [10, 1], timeout_ps=in_ps([0.35, 9]))
    result = run(table, max_num_seqs=1)
    assert result.requests.status.tolist() == [ABORTED, FINISHED]
    assert result.requests.generated_tokens.tolist() == [3, 1]
    assert seconds(result.requests.finish_ps) == [0.35, 0.5]
    assert seconds(result.requests.first_scheduled_ps) == [0, 0.4]


def test_an_abort_in_the_queue_was_never_scheduled(run: Any) -> None:
    table = requests([0, 0], [4, 4], [10, 1], timeout_ps=in_ps([9, 0.35]))
    result = run(table, max_num_seqs=1)
    assert result.requests.status.tolist() == [FINISHED, ABORTED]
    assert seconds(result.requests.first_scheduled_ps) == [0, -1]
    assert seconds(result.requests.finish_ps) == [1.0, 0.35]
    assert result.requests.generated_tokens.tolist() == [10, 0]


def test_what_can_never_fit_is_refused_at_its_arrival(run: Any) -> None:
    # 4 blocks of 4 tokens; the last token of an answer is never written, so 13 + 4 - 1 = 16 still fit.
    table = requests([0, 0.02, 0.03], [13, 14, 60], [4, 4, 70])
    result = run(table, block_size=4, num_gpu_blocks_override=4)
    assert result.requests.status.tolist() == [FINISHED, REFUSED, REFUSED]
    assert seconds(result.requests.finish_ps) == [0.4, 0.02, 0.03]
    assert [note for note in result.notes if "refused" in note] == [
        "1 requests refused: needs more KV memory than the whole pool of 16 tokens",
        "1 requests refused: prompt + answer longer than max_model_len 128",
    ]


STATIC = {"batching": "static", "max_num_seqs": 3}


def test_a_static_batch_runs_to_its_longest_member(run: Any) -> None:
    result = run(requests([0, 0, 0, 0.15], [4, 4, 4, 4], [1, 3, 2, 1]), **STATIC)
    assert seconds(result.requests.finish_ps) == [0.1, 0.3, 0.2, 0.4]
    assert result.segments.num_padded is not None
    padded = (result.segments.num_padded * result.segments.num_steps).sum()
    assert padded == 1 + 2  # request 0 in steps 2 and 3, request 2 in step 3


@pytest.mark.parametrize(
    ("arrivals", "start"),
    [
        ([0, 0.1], 0.25),  # the oldest has waited long enough
        ([0, 0.1, 0.2], 0.2),  # the batch is full
    ],
)
def test_a_static_batch_waits_for_more(run: Any, arrivals: list[float], start: float) -> None:
    count = len(arrivals)
    result = run(requests(arrivals, [4] * count, [1] * count), static_batch_wait_s=0.25, **STATIC)
    assert seconds(result.requests.first_scheduled_ps) == [start] * count


def test_a_static_batch_may_return_all_answers_at_its_end(run: Any) -> None:
    result = run(requests([0, 0], [4, 4], [1, 3]), static_returns="at_end", **STATIC)
    assert seconds(result.requests.first_token_ps) == [0.3, 0.3]
    assert seconds(result.requests.finish_ps) == [0.3, 0.3]


def test_a_closed_loop_sends_the_next_after_thinking(run: Any) -> None:
    table = requests([0, -1, -1], [4] * 3, [1] * 3, closed_loop=True, think_ps=in_ps([0, 0.05, 0.25]))
    result = run(table)
    assert seconds(result.requests.arrival_ps) == [0, 0.15, 0.5]
    assert seconds(result.requests.finish_ps) == [0.1, 0.25, 0.6]


def test_a_turn_follows_its_own_predecessor(run: Any) -> None:
    # Two sessions: 0 -> 2 and 1 -> 3; request 1 answers in three steps.
    follows = in_ps([0, 0, 0, 0])
    follows[:] = [-1, -1, 0, 1]
    table = requests([0, 0, -1, -1], [4] * 4, [1, 3, 1, 1], follows=follows, think_ps=in_ps([0, 0, 1, 1]))
    result = run(table)
    assert seconds(result.requests.arrival_ps) == [0, 0, 1.1, 1.3]


@pytest.mark.parametrize(
    ("routing", "replicas_chosen"),
    [
        ("round_robin", [0, 1, 0, 1]),
        # Request 0 is still running on replica 0 at 0.25, request 1 left replica 1 at 0.15.
        ("least_loaded", [0, 1, 1, 0]),
    ],
)
def test_routing(run: Any, routing: str, replicas_chosen: list[int]) -> None:
    table = requests([0, 0.05, 0.25, 0.26], [4] * 4, [9, 1, 9, 9])
    result = run(table, replicas=2, routing=routing)
    assert result.requests.replica.tolist() == replicas_chosen


def test_a_shared_queue_gives_the_head_to_whoever_is_free(run: Any) -> None:
    table = requests([0, 0, 0, 0], [4] * 4, [5, 2, 1, 1])
    result = run(table, replicas=2, routing="shared_queue", max_num_seqs=1)
    assert seconds(result.requests.first_scheduled_ps) == [0, 0, 0.2, 0.3]
    assert result.requests.replica.tolist() == [0, 1, 1, 1]
