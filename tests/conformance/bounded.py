"""Every small workload there is, one after another: the scheduler's laws hold in all of them.

Up to 3 requests with prompts of 1 to 4 tokens and answers of 1 to 3, their first tokens shared or their
own, pools of 1 to 6 blocks of 2 tokens, under both policies, with and without prefix caching, with small
and large budgets, drafts or asynchronous scheduling, as 0.33.0 and as 0.20.0.

    python -m tests.conformance.bounded [EVERY]

plays all of them (an hour or two on one core), or every EVERY-th.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from sim.serving.vllm import EngineLoop, Limits, Plan, Request, Scheduler, Status

MOST_STEPS = 200

AXES: dict[str, tuple[Any, ...]] = {
    "version": ("0.33.0", "0.20.0"),
    "caching": (True, False),
    "policy": ("fcfs", "priority"),
    "mode": ("plain", "drafts", "async"),
    "budget": (2, 3, 8),
    "arrive_together": (True, False),
    "num_blocks": (1, 2, 3, 4, 5, 6),
}
SHAPES = tuple(product((1, 2, 3, 4), (1, 2, 3), (True, False)))
WORKLOADS = tuple(w for count in (1, 2, 3) for w in product(SHAPES, repeat=count))
TOTAL = prod(len(values) for values in AXES.values()) * len(WORKLOADS)


def setting(index: int) -> tuple[dict[str, Any], tuple[tuple[int, int, bool], ...]]:
    """The index-th combination: the axes' values and the requests' (prompt, answer, shares) shapes."""
    index, place = divmod(index, len(WORKLOADS))
    values = {}
    for name, choices in AXES.items():
        index, choice = divmod(index, len(choices))
        values[name] = choices[choice]
    return values, WORKLOADS[place]


def play(index: int) -> int:
    """Plays one combination to its end, with the laws checked at every step; returns the steps."""
    values, shapes = setting(index)
    scheduler = Scheduler(_limits(values), values["version"])
    loop = EngineLoop(scheduler, async_scheduling=values["mode"] == "async")
    requests = [_request(number, shape) for number, shape in enumerate(shapes)]
    coming = list(requests)
    for step in range(MOST_STEPS):
        while coming and (values["arrive_together"] or len(requests) - len(coming) <= step):
            scheduler.add(coming.pop(0))
        if not coming and loop.is_idle:
            _check_end(scheduler, requests, index)
            return step
        planned, completed = loop.plan()
        _check(scheduler, planned, values["budget"], index)
        if completed is not None:
            loop.complete(completed, _accepted(completed, step))
        _check(scheduler, None, values["budget"], index)
    raise AssertionError(f"combination {index} does not end: {setting(index)}")


def _limits(values: Mapping[str, Any]) -> Limits:
    return Limits(
        max_num_seqs=3,
        max_num_batched_tokens=values["budget"],
        max_model_len=8,
        block_size=2,
        num_gpu_blocks=values["num_blocks"] + 1,
        enable_prefix_caching=values["caching"],
        policy=values["policy"],
        async_scheduling=values["mode"] == "async",
        num_speculative_tokens=1 if values["mode"] == "drafts" else 0,
    )


def _request(number: int, shape: tuple[int, int, bool]) -> Request:
    prompt, out, shares = shape
    stream = 1 if shares else 10 + number
    return Request(str(number), [(stream, 0, prompt)], out, output_stream=100 + number, arrival=number,
                   priority=number % 2)  # fmt: skip


def _accepted(plan: Plan, step: int) -> dict[Request, int]:
    return {request: step % 2 for request in plan.drafts}


def _check(scheduler: Scheduler, plan: Plan | None, budget: int, index: int) -> None:
    state = scheduler.state
    state.kv.pool.check((request.blocks, request.path) for request in state.unfinished())
    if plan is not None:
        assert 0 <= plan.num_tokens <= budget, f"combination {index} exceeds the budget"
        assert all(count > 0 for count in plan.scheduled.values()), f"combination {index}: nothing to do"
        assert len(state.running) <= 3, f"combination {index} runs too many"


def _check_end(scheduler: Scheduler, requests: list[Request], index: int) -> None:
    pool = scheduler.state.kv.pool
    assert pool.num_free == pool.num_blocks, f"combination {index} keeps blocks"
    for request in requests:
        refused = request.status is Status.REFUSED
        assert refused == bool(scheduler.refusal(request)), f"combination {index}: {request}"
        assert refused or (request.status is Status.FINISHED and request.num_tokens == request.end_tokens)


def sample(every: int) -> Iterator[int]:
    """Every so many-th combination; ``every`` should share no factor with the axes' lengths."""
    yield from range(0, TOTAL, every)


def main() -> None:
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    num_plays = num_steps = 0
    for index in sample(every):
        num_steps += play(index)
        num_plays += 1
        if num_plays % 100_000 == 0:
            print(f"{num_plays} of {TOTAL // every} combinations", flush=True)
    print(f"{num_plays} combinations of {TOTAL}, {num_steps} steps: every law held")


if __name__ == "__main__":
    main()
