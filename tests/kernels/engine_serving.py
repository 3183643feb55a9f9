"""The real engine on a tiny Llama, in Triton's interpreter. Run by test_kernels.py.

Greedy answers do not depend on scheduling: whatever batches, chunks, blocks and preemptions a request went
through, its tokens are those of its prompt run alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch

from calibrate.engine.llama import Batch, Chunk, Llama, random_llama
from calibrate.engine.serving import Answer, Clock, RealEngine, Served
from calibrate.engine.step import cut_down
from sim.model.config import load_model
from sim.serving.batching.plan import Limits

BLOCK_SIZE = 4
LIMITS = Limits(
    max_num_seqs=3,
    max_num_batched_tokens=16,
    max_model_len=64,
    enable_chunked_prefill=True,
    is_prefill_first=False,
)
LENGTHS = ((9, 5), (21, 6), (5, 3), (12, 1))  # prompt and output tokens


class ToldClock(Clock):
    """Every look at it takes a millisecond, every wait none."""

    def __init__(self) -> None:
        self.moment_s = 0.0

    def now_s(self) -> float:
        self.moment_s += 1e-3
        return self.moment_s

    def wait_until(self, moment_s: float) -> None:
        self.moment_s = max(self.moment_s, moment_s)


def llama() -> Llama:
    torch.manual_seed(0)
    shape = cut_down(load_model("llama-3.1-8b"), 1, 64)
    return random_llama(shape, "float32", "cpu", num_blocks=24, block_size=BLOCK_SIZE, max_positions=64)


def requests(gap_s: float) -> list[Served]:
    torch.manual_seed(1)
    return [
        Served(
            arrival_s=gap_s * index,
            prompt=tuple(torch.randint(0, 128, (prompt,)).tolist()),
            output_tokens=output,
        )
        for index, (prompt, output) in enumerate(LENGTHS)
    ]


def assert_as_alone(answers: Sequence[Answer]) -> None:
    """Each answer is the greedy one of its prompt run alone."""
    for index, answer in enumerate(answers):
        tokens = tuple(answer.tokens)
        assert len(tokens) == LENGTHS[index][1]
        assert tokens == greedy_after(index, tokens)


@cache
def greedy_after(index: int, answer: tuple[int, ...]) -> tuple[int, ...]:
    """The likeliest token after a prompt, and after each token of its answer but the last.

    One whole prefill of both: attention is causal, so a row knows only what stands before it, and an answer
    that equals this is what would have come token by token.
    """
    prompt = requests(0.0)[index].prompt
    tokens = [*prompt, *answer[:-1]]
    positions = torch.arange(len(tokens))
    whole = Chunk(start=0, stop=len(tokens), context=len(tokens), blocks=torch.arange(16))
    batch = Batch(
        token_M=torch.tensor(tokens),
        position_M=positions.int(),
        slot_M=positions,
        table_BP=torch.zeros((0, 0), dtype=torch.int32),
        context_B=torch.zeros(0, dtype=torch.int32),
        chunks=(whole,),
    )
    return tuple(llama().forward(batch)[len(prompt) - 1 :].argmax(dim=1).tolist())


@pytest.mark.parametrize(("gap_s", "is_prefill_first"), [(0.0, True), (0.02, False)])
def test_answers_do_not_depend_on_scheduling(gap_s: float, is_prefill_first: bool) -> None:
    engine = RealEngine(llama(), replace(LIMITS, is_prefill_first=is_prefill_first), clock=ToldClock())
    answers = engine.serve(requests(gap_s))
    assert_as_alone(answers)
    assert engine.kv.free == engine.kv.total
    for answer, request in zip(answers, requests(gap_s), strict=True):
        assert request.arrival_s <= answer.first_scheduled_s < answer.first_token_s <= answer.finished_s
    assert_steps_add_up(engine)


def test_a_preempted_request_gives_the_same_answer() -> None:
    """Nine blocks of four tokens hold the first two prompts, and not another token of either."""
    engine = RealEngine(llama(), LIMITS, num_gpu_blocks_override=9, clock=ToldClock())
    answers = engine.serve(requests(0.0))
    assert sum(answer.num_preemptions for answer in answers) > 0
    assert_as_alone(answers)
    assert engine.kv.free == engine.kv.total == 9


def assert_steps_add_up(engine: RealEngine) -> None:
    """Without preemption: every prompt token once, and a decode row for every token but the first."""
    assert sum(step.prefill_tokens for step in engine.steps) == sum(prompt for prompt, _ in LENGTHS)
    assert sum(step.num_decode for step in engine.steps) == sum(output - 1 for _, output in LENGTHS)
    contexts = sum(sum(range(prompt + 1, prompt + output)) for prompt, output in LENGTHS)
    assert sum(step.context_tokens for step in engine.steps) == contexts
    assert (
        max(step.num_decode + step.prefill_tokens for step in engine.steps) <= LIMITS.max_num_batched_tokens
    )
    assert all(step.step_s > step.model_s > 0 for step in engine.steps)
