"""Every small workload there is, one after another: the scheduler's laws hold in all of them.

Up to 3 requests with prompts of 1 to 4 tokens and answers of 1 to 3, their first tokens shared or their
own, pools of 1 to 6 blocks of 2 tokens, under both policies, with and without prefix caching, with small
and large budgets, drafts or asynchronous scheduling, as 0.33.0 and as 0.20.0: 12.5 million combinations.

Many of them are the same play, so one of each kind is played (``canonical``):

- a request that can never be served is refused at once and might as well not be there;
- without prefix caching nobody sees whose tokens are equal, and a first token that is shared fills no block;
- a request that shares with nobody is one with tokens of its own.

``test_bounded.py`` holds them against the combinations that they stand for.

    python -m tests.conformance.bounded [EVERY]

plays all of them in some minutes on two cores, or every EVERY-th.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from math import prod
from typing import Any

from sim.serving.request import Request, Status
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.scheduler import Scheduler
from sim.trust.conformance import EngineLoop, named_request

MOST_STEPS = 200
NUM_AT_ONCE = 2
MAX_MODEL_LEN, BLOCK_SIZE = 8, 2

AXES: dict[str, tuple[Any, ...]] = {
    "version": ("0.33.0", "0.20.0"),
    "caching": (True, False),
    "policy": ("fcfs", "priority"),
    "mode": ("plain", "drafts", "async"),
    "budget": (2, 3, 8),
    "arrive_together": (True, False),
    "num_blocks": (1, 2, 3, 4, 5, 6),
}
Shape = tuple[int, int, bool]
"""Prompt tokens, answer tokens, and whether the prompt is the beginning of the shared stream."""
Workload = tuple[Shape | None, ...]
"""One entry per arrival; None: nobody comes."""

SHAPES: tuple[Shape, ...] = tuple(product((1, 2, 3, 4), (1, 2, 3), (True, False)))
WORKLOADS: tuple[Workload, ...] = tuple(w for count in (1, 2, 3) for w in product(SHAPES, repeat=count))
SETTINGS = tuple(dict(zip(AXES, choice, strict=True)) for choice in product(*AXES.values()))
TOTAL = prod(len(values) for values in AXES.values()) * len(WORKLOADS)


@dataclass(frozen=True)
class Played:
    """A play to its end, and what its steps decided, if anybody listened."""

    num_steps: int
    decisions: tuple[object, ...] = ()


def canonical(workload: Workload, *, caching: bool, num_blocks: int) -> Workload:
    """The workload that is played in place of this one."""
    kept = [shape if shape and _can_fit(shape, num_blocks) else None for shape in workload]
    sharers = [shape for shape in kept if shape and shape[2] and shape[0] >= BLOCK_SIZE]
    sees_sharing = caching and len(sharers) > 1
    plain = [
        shape and (shape[0], shape[1], shape[2] and shape[0] >= BLOCK_SIZE and sees_sharing) for shape in kept
    ]
    while plain and plain[-1] is None:
        plain.pop()
    return tuple(plain)


def _can_fit(shape: Shape, num_blocks: int) -> bool:
    """Whether a request finds its KV in an empty pool (its last token is never written)."""
    return min(shape[0] + shape[1], MAX_MODEL_LEN) - 1 <= num_blocks * BLOCK_SIZE


@cache
def workloads(*, caching: bool, num_blocks: int) -> tuple[Workload, ...]:
    """One of each kind, in a fixed order."""
    kinds = {canonical(one, caching=caching, num_blocks=num_blocks): None for one in WORKLOADS}
    return tuple(kind for kind in kinds if kind)


def combinations() -> Iterator[tuple[Mapping[str, Any], Workload]]:
    """All settings, with all workloads that differ in them."""
    for values in SETTINGS:
        for workload in workloads(caching=values["caching"], num_blocks=values["num_blocks"]):
            yield values, workload


NUM_COMBINATIONS = sum(
    len(workloads(caching=values["caching"], num_blocks=values["num_blocks"])) for values in SETTINGS
)


def play(values: Mapping[str, Any], workload: Workload, *, listens: bool = False) -> Played:
    """Plays one combination to its end, with the laws checked at every step."""
    scheduler = Scheduler(_limits(values), values["version"])
    loop = EngineLoop(scheduler, async_scheduling=values["mode"] == "async")
    requests = [shape and _request(number, shape) for number, shape in enumerate(workload)]
    decisions: list[object] = []
    num_come = 0
    for step in range(MOST_STEPS):
        while num_come < len(requests) and (values["arrive_together"] or num_come <= step):
            request = requests[num_come]
            if request and not scheduler.refusal(request):
                scheduler.add(request)
            num_come += 1
        if num_come == len(requests) and loop.is_idle:
            _check_end(scheduler, [request for request in requests if request], values)
            return Played(step, tuple(decisions))
        planned, completed = loop.plan()
        if planned is not None and listens:
            decisions.append(_heard(planned))
        _check(scheduler, planned, values)
        if completed is not None:
            loop.complete(completed, {request: step % 2 for request in completed.drafts})
            _check(scheduler, None, values)
    raise AssertionError(f"it does not end: {values}, {workload}")


def _heard(plan: Plan) -> object:
    return (
        [(request.request_id, count) for request, count in plan.scheduled.items()],
        [(request.request_id, hits, tuple(request.blocks)) for request, hits in plan.admitted.items()],
        [(request.request_id, tuple(blocks)) for request, blocks in plan.fresh.items()],
        [request.request_id for request in plan.preempted],
    )


def _limits(values: Mapping[str, Any]) -> SchedulerConfig:
    return SchedulerConfig(
        max_num_seqs=3,
        max_num_batched_tokens=values["budget"],
        max_model_len=MAX_MODEL_LEN,
        block_size=BLOCK_SIZE,
        num_gpu_blocks=values["num_blocks"] + 1,
        enable_prefix_caching=values["caching"],
        policy=values["policy"],
        async_scheduling=values["mode"] == "async",
        num_speculative_tokens=1 if values["mode"] == "drafts" else 0,
    )


def _request(number: int, shape: Shape) -> Request:
    prompt, out, shares = shape
    stream = 1 if shares else 10 + number
    output, priority = 100 + number, number % 2
    return named_request(
        str(number), [(stream, 0, prompt)], out, output_stream=output, arrival=number, priority=priority
    )


def _check(scheduler: Scheduler, plan: Plan | None, values: Mapping[str, Any]) -> None:
    scheduler.kv.pool.check((request.blocks, request.path) for request in scheduler.unfinished())
    if plan is not None:
        assert 0 <= plan.num_tokens <= values["budget"], f"{values} exceeds the budget"
        assert all(count > 0 for count in plan.scheduled.values()), f"{values}: nothing to do"
        assert len(scheduler.running) <= 3, f"{values} runs too many"


def _check_end(scheduler: Scheduler, requests: list[Request], values: Mapping[str, Any]) -> None:
    pool = scheduler.kv.pool
    assert pool.num_free == pool.num_blocks, f"{values} keeps blocks"
    for request in requests:
        refused = bool(scheduler.refusal(request))
        assert refused or (request.status is Status.FINISHED and request.num_tokens == request.end_tokens)


def sample(every: int, first: int = 0) -> Iterator[tuple[Mapping[str, Any], Workload]]:
    """Every so many-th combination."""
    return islice(combinations(), first, None, every)


def _play_share(share: tuple[int, int]) -> tuple[int, int]:
    """(first, every) -> plays and steps."""
    num_plays = num_steps = 0
    for values, workload in sample(share[1], share[0]):
        num_steps += play(values, workload).num_steps
        num_plays += 1
    return num_plays, num_steps


def main() -> None:
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    shares = [(every * index, every * 50) for index in range(50)]
    num_plays = num_steps = 0
    with ProcessPoolExecutor(NUM_AT_ONCE) as pool:
        for done, (plays, steps) in enumerate(pool.map(_play_share, shares), 1):
            num_plays += plays
            num_steps += steps
            print(f"{2 * done} %: {num_plays:,} plays", flush=True)
    said = f"{num_plays:,} plays, {num_steps:,} steps" + (f", every {every}th" if every > 1 else "")
    print(f"{said}; they stand for {TOTAL:,} combinations: every law held")


if __name__ == "__main__":
    main()
