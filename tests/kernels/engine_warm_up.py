"""Nothing is left to compile once the real engine has been warmed up. Run by test_kernels.py.

On tensors without memory, of Llama-3.1-8B's sizes and as on a device of compute capability 9.0 with 132 SMs:
what would be launched is written down as Triton tells compiled kernels apart (constants, and for every whole
number whether it is 1 or a multiple of 16), and nothing runs.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recorded_launches import recorded, variant

from calibrate.engine import serve
from calibrate.engine.llama import Batch, Llama, random_llama
from calibrate.engine.runs import EngineRun, engine_runs
from calibrate.engine.serving import Clock, RealEngine
from calibrate.engine.warm_up import warm_up_steps
from sim.arrays import PS_PER_S
from sim.price.step import CompiledPrice
from sim.serving.batching.plan import limits_of

HOST_S = 0.012  # of a step, at least


class StepClock(Clock):
    """Moves by what a step is priced at."""

    def __init__(self) -> None:
        self.moment_s = 0.0

    def now_s(self) -> float:
        return self.moment_s

    def wait_until(self, moment_s: float) -> None:
        self.moment_s = max(self.moment_s, moment_s)


class Weightless:
    """A Llama of one layer without memory, behind a pool of which only the shape counts."""

    def __init__(self, run: EngineRun, clock: StepClock, llama: Llama) -> None:
        engine = run.scenario.engine
        pool = torch.zeros((engine.num_gpu_blocks_override or 0, engine.block_size, 1, 1))
        self.layers = [SimpleNamespace(cache=(pool, pool))]
        self.price, self.clock, self.llama = CompiledPrice(run.scenario), clock, llama

    def forward(self, batch: Batch) -> Any:
        names = ("token_M", "position_M", "slot_M", "table_BP", "context_B", "sampled")
        there = {name: getattr(batch, name).to("meta") for name in names}
        chunks = tuple(replace(one, blocks=one.blocks.to("meta")) for one in batch.chunks)
        self.llama.forward(replace(batch, chunks=chunks, **there))
        priced = [(one.stop - one.start, one.context - one.stop + one.start, True, None) for one in chunks]
        step_ps = self.price.step_ps(len(batch.context_B), int(batch.context_B.sum()), priced)
        self.clock.moment_s += max(step_ps / PS_PER_S, HOST_S)
        return torch.zeros((len(batch.sampled), 4))


def llama_of(run: EngineRun) -> Llama:
    model, engine = run.scenario.model, run.scenario.engine
    shape = replace(model, pattern=model.pattern[:1])  # one layer: they compile the same kernels
    return random_llama(
        shape, "bfloat16", "meta", num_blocks=engine.num_gpu_blocks_override or 0,
        block_size=engine.block_size, max_positions=limits_of(run.scenario).max_model_len,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["chat-medium", "documents-overload"])
def test_a_warm_engine_compiles_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(one for one in engine_runs([], ["workload.num_requests=60"]) if one.name == name)
    limits, llama, clock = limits_of(run.scenario), llama_of(run), StepClock()
    launched = recorded(monkeypatch, (9, 0), 132)
    steps = warm_up_steps(
        llama, max_num_batched_tokens=limits.max_num_batched_tokens, max_num_seqs=limits.max_num_seqs,
        max_len=limits.max_model_len,
    )  # fmt: skip
    warm = {variant(one) for one in launched}
    launched.clear()
    RealEngine(Weightless(run, clock, llama), limits, clock=clock).serve(serve.served_of(run))
    needed = {variant(one) for one in launched}
    assert len(needed) > 20 and steps < 150
    assert needed <= warm
