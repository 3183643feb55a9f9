"""Serves the runs on the GPU, or a few tiny requests of each on the CPU: what ``engine serve`` does.

Imports torch: only for a machine that has it. Before the run that counts every variant of the kernels is
compiled (``warm_up``).
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml

from calibrate.engine.llama import Llama, random_llama
from calibrate.engine.runs import (
    DRY_OUTPUT,
    DRY_PROMPT,
    DRY_REQUESTS,
    REQUEST_COLUMNS,
    STEP_COLUMNS,
    EngineRun,
    expected_s,
    write_rows,
)  # fmt: skip
from calibrate.engine.serving import Answer, Clock, RealEngine, Served
from calibrate.engine.step import cut_down
from calibrate.engine.warm_up import ALIGNED, warm_up_steps
from calibrate.measure import device
from calibrate.measure.run import now
from sim.arrays import PS_PER_S
from sim.rng import stream
from sim.serving.batching.plan import limits_of

WARM_UP_REQUESTS = 128  # batches of up to so many sequences
DRY_BLOCKS, DRY_WIDTH, DRY_LAYERS = 64, 64, 1


def serve_runs(runs: list[EngineRun], folder: Path, deadline_s: float, *, is_dry: bool) -> int:
    """Every run that has no whole record yet and still fits before ``deadline_s``; the number left over."""
    left = 0
    for run in runs:
        target = folder / run.name
        if is_whole(target):
            print(f"{run.name}: is there", flush=True)
            continue
        if not is_dry and time.monotonic() + expected_s(run) > deadline_s:
            print(f"{run.name}: some {expected_s(run):.0f} s, more than are left", flush=True)
            left += 1
            continue
        print(f"{run.name}: some {expected_s(run):.0f} s", flush=True)
        left += not serve_one(run, target, deadline_s, is_dry=is_dry)
    return left


def is_whole(folder: Path) -> bool:
    """Has this run been served to its end?"""
    about = folder / "run.yaml"
    return about.is_file() and bool(yaml.safe_load(about.read_text(encoding="utf-8")).get("is_whole"))


def serve_one(run: EngineRun, target: Path, deadline_s: float, *, is_dry: bool) -> bool:
    """Serves one run and writes what there is of it; False when the deadline cut it off."""
    requests = small(served_of(run)) if is_dry else served_of(run)
    torch.manual_seed(run.seed)
    model = model_of(run, is_dry=is_dry)
    warm_up(run, model, requests)
    engine = engine_of(run, model, deadline_s)
    answers = engine.serve(requests)
    done = all(answer.finished_s >= 0 for answer in answers)
    write_run(run, target, requests, answers, engine, is_dry=is_dry, is_whole=done)
    finished = sum(answer.finished_s >= 0 for answer in answers)
    cut = "" if done else ", cut off: it will be served again"
    print(f"{run.name}: {len(engine.steps)} steps, {finished} of {len(answers)} requests{cut}", flush=True)
    return done


def served_of(run: EngineRun) -> list[Served]:
    """The scenario's requests with random prompts."""
    table, draw = run.requests(), stream(run.seed, "engine_prompts")
    words = run.scenario.model.vocab_size
    return [
        Served(
            arrival_s=float(arrival) / PS_PER_S,
            prompt=tuple(draw.integers(0, words, int(prompt)).tolist()),
            output_tokens=int(output),
        )
        for arrival, prompt, output in zip(
            table.arrival_ps, table.prompt_tokens, table.output_tokens, strict=True
        )
    ]


def small(requests: list[Served]) -> list[Served]:
    """The first few, short enough for the interpreter, in the dry run's vocabulary."""
    return [
        Served(
            arrival_s=0.0,
            prompt=tuple(token % (2 * DRY_WIDTH) for token in one.prompt[:DRY_PROMPT]),
            output_tokens=min(one.output_tokens, DRY_OUTPUT),
        )
        for one in requests[:DRY_REQUESTS]
    ]


def model_of(run: EngineRun, *, is_dry: bool) -> Llama:
    """The scenario's model with random weights and its KV pool; cut down for a dry run."""
    engine, shape = run.scenario.engine, run.scenario.model
    if is_dry:
        small_shape = cut_down(shape, DRY_LAYERS, DRY_WIDTH)
        return random_llama(
            small_shape, "float32", "cpu", num_blocks=DRY_BLOCKS, block_size=engine.block_size,
            max_positions=DRY_PROMPT + DRY_OUTPUT,
        )  # fmt: skip
    assert engine.num_gpu_blocks_override is not None
    return random_llama(
        shape, "bfloat16", "cuda", num_blocks=engine.num_gpu_blocks_override, block_size=engine.block_size,
        max_positions=engine.max_model_len or shape.max_position_embeddings,
    )  # fmt: skip


def engine_of(run: EngineRun, model: Llama, deadline_s: float) -> RealEngine:
    """A fresh engine of the scenario's limits over the model's pool."""
    return RealEngine(model, limits_of(run.scenario), clock=DeadlineClock(deadline_s))


def warm_up(run: EngineRun, model: Llama, requests: list[Served]) -> None:
    """Every variant of the kernels by made-up steps, then some of the requests at once, each a token longer:
    batches of every size from theirs down to one. Off the GPU nothing is compiled, and few steps do."""
    limits = limits_of(run.scenario)
    is_cuda = model.layers[0].cache[0].is_cuda
    warm_up_steps(
        model, max_num_batched_tokens=limits.max_num_batched_tokens if is_cuda else 1,
        max_num_seqs=limits.max_num_seqs if is_cuda else 1,
        max_len=limits.max_model_len if is_cuda else ALIGNED,
    )  # fmt: skip
    few = [
        replace(one, arrival_s=0.0, output_tokens=1 + index)
        for index, one in enumerate(requests[:WARM_UP_REQUESTS])
    ]
    engine_of(run, model, float("inf")).serve(few)


class DeadlineClock(Clock):
    """The real clock, which also says when the slot is over."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__()
        self._deadline_s = deadline_s

    @property
    def is_over(self) -> bool:
        """No step should begin any more."""
        return time.monotonic() > self._deadline_s


def write_run(
    run: EngineRun, target: Path, requests: list[Served], answers: list[Answer], engine: RealEngine, *,
    is_dry: bool, is_whole: bool,
) -> None:  # fmt: skip
    """The rows, then ``run.yaml``, which makes them a run."""
    target.mkdir(parents=True, exist_ok=True)
    steps = [
        {name: getattr(step, name) for name in STEP_COLUMNS if name != "chunks"}
        | {
            "chunks": " ".join(
                f"{queries}@{cached}{'+' * samples}" for queries, cached, samples in step.chunks
            )
        }
        for step in engine.steps
    ]
    write_rows(target / "steps.csv", STEP_COLUMNS, steps)
    rows = [
        {
            "request": index, "arrival_s": request.arrival_s, "prompt_tokens": len(request.prompt),
            "output_tokens": request.output_tokens, "first_scheduled_s": answer.first_scheduled_s,
            "first_token_s": answer.first_token_s, "finished_s": answer.finished_s,
            "num_preemptions": answer.num_preemptions,
        }
        for index, (request, answer) in enumerate(zip(requests, answers, strict=True))
    ]  # fmt: skip
    write_rows(target / "requests.csv", REQUEST_COLUMNS, rows)
    where = "the CPU, in Triton's interpreter: times mean nothing" if is_dry else device.device_name()
    about = {
        "run": run.name, "scenario": Path(run.file).name, "seed": run.seed, "is_whole": is_whole,
        "is_dry": is_dry, "measured_on": where, "measured_at": now(), "commit": device.commit(),
        "torch": str(torch.__version__), "python": sys.version.split()[0], "numpy": np.__version__,
    }  # fmt: skip
    being_written = target / "run.new"
    being_written.write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")
    being_written.replace(target / "run.yaml")
