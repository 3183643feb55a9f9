"""A real engine in its smallest form: the simulator's scheduler decides, the GPU does the work.

Policy, KV memory and limits are those of ``sim.serving``; a step is a real forward pass, and time is the
clock's. What is recorded is what the simulator predicts: a row per step, and the times of every request. Not
here: an HTTP server, detokenising, sampling other than greedy, prefix caching. Kernels compile when a size
is first seen: run the workload once before the run that counts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import torch

from calibrate.engine.llama import Batch, Chunk, Llama
from sim.arrays import PS_PER_S
from sim.serving.batching.continuous import continuous
from sim.serving.batching.plan import KVView, Limits, Policy, StepPlan
from sim.serving.kv.paged import PagedKV
from sim.serving.request import Request
from sim.serving.scheduler import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A request to be served: when it arrives, its prompt, and how many tokens it wants."""

    arrival_s: float
    prompt: tuple[int, ...]
    output_tokens: int


@dataclass(slots=True, kw_only=True)
class Answer:
    """What became of it: seconds since the start of the run, and the tokens."""

    first_scheduled_s: float = -1.0
    first_token_s: float = -1.0
    finished_s: float = -1.0
    num_preemptions: int = 0
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step: its shape, as the price sees it, and its time. ``model_s`` is the forward pass alone;
    ``chunks`` are (tokens, tokens in the cache before, whether it ends its prompt)."""

    started_s: float
    step_s: float
    model_s: float
    num_decode: int
    context_tokens: int
    num_prefill: int
    prefill_tokens: int
    num_waiting: int
    chunks: tuple[tuple[int, int, bool], ...] = ()


class Clock:
    """Seconds since the run began. Tests have one that is told what a step takes."""

    def __init__(self) -> None:
        self._begun_s = time.perf_counter()

    def now_s(self) -> float:
        """Now."""
        return time.perf_counter() - self._begun_s

    def wait_until(self, moment_s: float) -> None:
        """Sleeps."""
        time.sleep(max(0.0, moment_s - self.now_s()))

    @property
    def is_over(self) -> bool:
        """Whether the run is to end here, finished or not."""
        return False


class RealEngine:
    """One replica: requests in, answers and steps out."""

    def __init__(
        self,
        model: Llama,
        limits: Limits,
        *,
        policy: Policy = continuous,
        num_gpu_blocks_override: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        pool = model.layers[0].cache[0]
        self.model, self.limits, self.policy, self.clock = model, limits, policy, clock or Clock()
        self.device = pool.device
        # The recorder makes the pool hand out block numbers; of its own rows none are kept.
        blocks = num_gpu_blocks_override or pool.shape[0]
        self.kv = PagedKV(blocks, pool.shape[1], keeps_ids=True)
        self.waiting: deque[Request] = deque()
        self.running: dict[Request, None] = {}
        self.tokens: dict[Request, list[int]] = {}
        self.answers: list[Answer] = []
        self.steps: list[StepRow] = []

    def serve(self, requests: Seq[Served]) -> list[Answer]:
        """Serves them all, in order of arrival, or as many as the clock allows."""
        coming = deque(sequences_of(requests))
        self.tokens = {one: list(requests[one.id].prompt) for one in coming}
        self.answers = [Answer() for _ in requests]
        while (coming or self.waiting or self.running) and not self.clock.is_over:
            now_s = self.clock.now_s()
            while coming and coming[0].arrival_ps <= round(now_s * PS_PER_S):
                self.waiting.append(coming.popleft())
            if self.waiting or self.running:
                self.step(now_s)
            else:
                self.clock.wait_until(coming[0].arrival_ps / PS_PER_S)
        return self.answers

    def step(self, now_s: float) -> None:
        """Decide, run, commit."""
        running = tuple(self.running)
        plan = self.policy(tuple(self.waiting), running, KVView(self.kv, 0, running), self.limits)
        plan.decode = plan.decoding(running)
        self._apply(plan, now_s)
        batch = self._batch(plan)
        begun_s = self.clock.now_s()
        sampled = self.model.forward(batch).argmax(1).tolist()
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # reading tokens waits too, but some steps have none
        ended_s = self.clock.now_s()
        shape = Step(
            num_decode=len(plan.decode),
            context_tokens=sum(one.num_computed_tokens + 1 for one in plan.decode),
        )
        for one, queries in plan.prefill:
            cached = one.num_computed_tokens
            shape.add(one, queries, cached, samples=cached + queries == one.target)
        self._commit(plan, sampled, ended_s)
        row = StepRow(
            started_s=now_s, step_s=self.clock.now_s() - now_s, model_s=ended_s - begun_s,
            num_decode=shape.num_decode, context_tokens=shape.context_tokens, num_prefill=shape.num_prefill,
            prefill_tokens=shape.prefill_tokens, num_waiting=len(self.waiting),
            chunks=tuple(chunk[:3] for chunk in shape.chunks),
        )  # fmt: skip
        self.steps.append(row)

    def _apply(self, plan: StepPlan, now_s: float) -> None:
        for victim in plan.preempted:
            del self.running[victim]
            self.waiting.appendleft(victim)
            self.answers[victim.id].num_preemptions += 1
        for request, _ in plan.prefill:
            if request in self.running:
                continue
            self.waiting.remove(request)
            request.num_computed_tokens = 0
            request.target = request.num_tokens
            self.running[request] = None
            answer = self.answers[request.id]
            if answer.first_scheduled_s < 0:
                answer.first_scheduled_s = now_s

    def _batch(self, plan: StepPlan) -> Batch:
        """Decoding rows first, then the chunks; sampled are the former and the ends of finished prompts."""
        spans = [(one, one.num_computed_tokens, one.num_computed_tokens + 1) for one in plan.decode]
        spans += [
            (one, one.num_computed_tokens, one.num_computed_tokens + queries) for one, queries in plan.prefill
        ]
        tokens = [token for one, start, stop in spans for token in self.tokens[one][start:stop]]
        positions = [position for _, start, stop in spans for position in range(start, stop)]
        slots = [self._slot(one, position) for one, start, stop in spans for position in range(start, stop)]
        chunks, sampled, row = [], list(range(len(plan.decode))), len(plan.decode)
        for one, queries in plan.prefill:
            end = one.num_computed_tokens + queries
            blocks = self._tensor(one.blocks, torch.int64)
            chunks.append(Chunk(start=row, stop=row + queries, context=end, blocks=blocks))
            row += queries
            if end == one.target:
                sampled.append(row - 1)
        contexts = [one.num_computed_tokens + 1 for one in plan.decode]
        return Batch(
            token_M=self._tensor(tokens, torch.int64),
            position_M=self._tensor(positions, torch.int32),
            slot_M=self._tensor(slots, torch.int64),
            table_BP=self._table(plan.decode),
            context_B=self._tensor(contexts, torch.int32),
            max_context=max(contexts, default=0),
            chunks=tuple(chunks),
            sampled=self._tensor(sampled, torch.int64),
        )

    def _slot(self, request: Request, position: int) -> int:
        blocks = request.blocks
        return blocks[position // self.kv.block_size] * self.kv.block_size + position % self.kv.block_size

    def _table(self, decoding: Seq[Request]) -> Any:
        longest = max((len(one.blocks) for one in decoding), default=0)
        padded = [[*(one.blocks), *[0] * (longest - len(one.blocks))] for one in decoding]
        return self._tensor(padded, torch.int32).reshape(len(decoding), longest)

    def _tensor(self, values: Any, dtype: Any) -> Any:
        return torch.tensor(values, dtype=dtype, device=self.device)

    def _commit(self, plan: StepPlan, sampled: list[int], ended_s: float) -> None:
        """Tokens to their sequences, in the order of the sampled rows; memory of the finished back."""
        given = iter(sampled)
        for one in plan.decode:
            one.num_computed_tokens += 1
            self._token(one, next(given), ended_s)
        for one, queries in plan.prefill:
            one.num_computed_tokens += queries
            if one.num_computed_tokens == one.target:
                self._token(one, next(given), ended_s)

    def _token(self, request: Request, token: int, ended_s: float) -> None:
        answer = self.answers[request.id]
        self.tokens[request].append(token)
        answer.tokens.append(token)
        request.num_tokens += 1
        if answer.first_token_s < 0:
            answer.first_token_s = ended_s
        if request.num_tokens == request.end_tokens:
            answer.finished_s = ended_s
            del self.running[request]
            self.kv.release(request, 0)


def sequences_of(requests: Seq[Served]) -> list[Request]:
    """As the scheduler knows them, in order of arrival."""
    found = [
        Request(index, round(one.arrival_s * PS_PER_S), len(one.prompt), one.output_tokens)
        for index, one in enumerate(requests)
    ]
    return sorted(found, key=lambda one: (one.arrival_ps, one.id))
