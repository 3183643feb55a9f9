"""Small plays of the scheduler for its tests: requests in, decisions out, laws checked after each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sim.serving.records import RequestTable
from sim.serving.request import Request, Status
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.groups import GroupPool
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.pool import BlockPool
from sim.serving.vllm.scheduler import Scheduler
from sim.trust.conformance import named_request

ENDLESS = 10_000


def limits(**named: Any) -> SchedulerConfig:
    """Roomy limits with blocks of 4 tokens, and these differences."""
    roomy: dict[str, Any] = {
        "max_num_seqs": 8, "max_num_batched_tokens": 64, "max_model_len": 64, "block_size": 4,
        "num_gpu_blocks": 100, "enable_prefix_caching": False,
    }  # fmt: skip
    return SchedulerConfig(**{**roomy, **named})


def request(name: str, prompt: int | Sequence[tuple[int, int, int]], out: int, **named: Any) -> Request:
    """A request whose tokens are its own, unless its prompt's segments are given."""
    own = sum(name.encode())
    segments = [(own, 0, prompt)] if isinstance(prompt, int) else prompt
    return named_request(name, segments, out, **{"output_stream": 10_000 + own, **named})


def table_of(items: Sequence[Request]) -> RequestTable:
    """The same requests as rows, their prompts in segments."""
    segments = np.array([segment for item in items for segment in item.prompt], dtype=np.int64).reshape(-1, 3)
    columns = np.array(
        [(item.arrival, item.num_prompt_tokens, item.max_tokens, item.stream_of_output) for item in items],
        dtype=np.int64,
    ).reshape(-1, 4)
    return RequestTable(
        arrival_ps=columns[:, 0].copy(),
        prompt_tokens=columns[:, 1].copy(),
        output_tokens=columns[:, 2].copy(),
        output_stream=columns[:, 3].copy(),
        segment_offsets=np.cumsum([0, *(len(item.prompt) for item in items)]),
        segment_stream=segments[:, 0].copy(),
        segment_start=segments[:, 1].copy(),
        segment_length=segments[:, 2].copy(),
    )


def offer(scheduler: Scheduler, item: Request) -> None:
    """Queues a request, unless it can never be served: then it is over."""
    if scheduler.refusal(item):
        item.status = Status.FINISHED
    else:
        scheduler.add(item)


def ids(requests: Mapping[Request, int] | Sequence[Request]) -> list[str]:
    return [item.request_id for item in requests]


def tokens(plan: Plan) -> dict[str, int]:
    """What a plan schedules, by request id, in order."""
    return {item.request_id: count for item, count in plan.scheduled.items()}


def blocks(plan: Plan) -> dict[str, list[int]]:
    """Fresh blocks by request id."""
    return {item.request_id: list(taken) for item, taken in plan.fresh.items()}


def check(scheduler: Scheduler) -> None:
    """The pool's laws, as the requests' block tables see them."""
    pool = scheduler.kv.pool
    if isinstance(pool, GroupPool):
        pool.check(table for item in scheduler.unfinished() for table in item.tables)
    elif isinstance(pool, BlockPool):  # the plain cache, a second implementation, has no such laws
        pool.check((item.blocks, item.path) for item in scheduler.unfinished())


def steps(scheduler: Scheduler, accepted: int = 0) -> Iterator[Plan]:
    """Plans synchronous steps until nothing is left; each is taken in when the next is asked for."""
    for _ in range(ENDLESS):
        if not scheduler.num_unfinished:
            return
        plan = scheduler.plan_step()
        assert plan.num_tokens == sum(plan.scheduled.values())
        check(scheduler)
        yield plan
        scheduler.update(plan, dict.fromkeys(plan.drafts, accepted))
        check(scheduler)
    raise AssertionError("it goes on for ever")


def observed(scheduler: Scheduler) -> tuple[object, ...]:
    """Everything that decides the future, with every request's counts brought up to date."""
    requests = []
    for item in scheduler.unfinished():
        if item.end_step >= 0:
            scheduler.batch.settle(item)
        requests.append((
            item.request_id, item.status, item.num_tokens, item.num_computed_tokens, item.is_prefill_chunk,
            item.num_drafts, item.num_placeholders, item.num_stale_tokens, _held(item),
            item.num_preemptions,
        ))  # fmt: skip
    return (
        requests, ids(list(scheduler.running.values())), ids(list(scheduler.waiting)),
        scheduler.num_preempted_alive, scheduler.kv.pool.num_free, scheduler.kv.pool.free_order(),
    )  # fmt: skip


def decided(plan: Plan) -> tuple[object, ...]:
    """All that a plan says."""
    return (
        list(tokens(plan).items()), [(item.request_id, hit) for item, hit in plan.admitted.items()],
        ids(plan.preempted), list(blocks(plan).items()), [(i.request_id, n) for i, n in plan.drafts.items()],
        [(i.request_id, _held(i)) for i in plan.admitted],
    )  # fmt: skip


def _held(item: Request) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(table) for table in item.tables or (item.blocks,))


def is_over(item: Request) -> bool:
    return item.status is Status.FINISHED
