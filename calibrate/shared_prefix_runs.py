"""Runs of vLLM under shared prefixes, as scenarios: one load stage each, with what was measured."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.hardware import load_hardware
from sim.metrics import summarize
from sim.model import load_model
from sim.run import run_one
from sim.scenario import (
    Arrivals,
    Distribution,
    EngineConfig,
    EngineOverheads,
    Scenario,
    SharedPrefix,
    Workload,
)

NEW_TOKENS = 6  # of a prompt sent again, what lies beyond its last full block at the least
CLIENT_TIMEOUT_S = 300.0
WARM_UP_REQUESTS = 300
MEASURED_REQUESTS = 700
TIMES = ("e2e", "tpot", "ttft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One load stage: what was asked, and the mean times in seconds."""

    experiment: str
    model: str
    workload: str
    tensor_parallel_size: int
    requests_per_s: float
    duration_s: float
    num_prompts: int
    prompt_tokens: int
    output_tokens: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    num_ok: int
    num_failed: int
    measured_s: dict[str, float]

    @property
    def label(self) -> str:
        """Model, workload and rate."""
        return f"{self.model} {self.workload} {self.requests_per_s:g}/s"


def read_stages(file: Path, *, overloaded: bool = False) -> list[Stage]:
    """The stages of the CSV whose clients all waited, or those in which some gave up."""
    with file.open(newline="", encoding="utf-8") as stream:
        stages = [_stage(row) for row in csv.DictReader(stream)]
    return [one for one in stages if (one.num_failed > 0) == overloaded]


def _stage(row: dict[str, str]) -> Stage:
    output_tokens = int(row["output_len"])
    e2e_s, ttft_s = float(row["e2e_s_mean"]), float(row["ttft_s_mean"])
    return Stage(
        experiment=row["experiment"],
        model=row["model"],
        workload=row["profile"],
        tensor_parallel_size=int(row["tensor_parallel_size"]),
        requests_per_s=float(row["requests_per_s"]),
        duration_s=float(row["duration_s"]),
        num_prompts=int(row["num_groups"]) * int(row["num_prompts_per_group"]),
        prompt_tokens=round(float(row["prompt_tokens_mean"])),
        output_tokens=output_tokens,
        max_num_seqs=int(row["max_num_seqs"]),
        max_num_batched_tokens=int(row["max_num_batched_tokens"]),
        max_model_len=int(row["max_model_len"]),
        num_ok=int(row["num_ok"]),
        num_failed=int(row["num_failed"]),
        measured_s={"e2e": e2e_s, "ttft": ttft_s, "tpot": (e2e_s - ttft_s) / (output_tokens - 1)},
    )


def scenario_of(
    stage: Stage, overheads: EngineOverheads, *, num_requests: int, timeout_s: float | None = None
) -> Scenario:
    """vLLM 0.20.0's switches without asynchronous scheduling; a prompt is its own prefix group."""
    return Scenario(
        schema_version=1,
        question="",
        kind="serving",
        hardware=load_hardware("h100-sxm-80gb"),
        model=load_model(stage.model),
        workload=Workload(
            arrivals=Arrivals(process="constant", requests_per_s=stage.requests_per_s),
            prompt_tokens=_fixed(NEW_TOKENS),
            output_tokens=_fixed(stage.output_tokens),
            shared_prefix=SharedPrefix(
                num_groups=stage.num_prompts,
                prefix_tokens=_fixed(stage.prompt_tokens - NEW_TOKENS),
                order="in_turn",
            ),
            num_requests=num_requests,
            warmup_requests=0 if timeout_s else WARM_UP_REQUESTS,
            timeout_s=timeout_s,
        ),
        engine=EngineConfig(
            batching="vllm",
            vllm_version="0.20.0",
            enable_prefix_caching=True,
            async_scheduling=False,
            tensor_parallel_size=stage.tensor_parallel_size,
            max_num_seqs=stage.max_num_seqs,
            max_num_batched_tokens=stage.max_num_batched_tokens,
            max_model_len=stage.max_model_len,
            overheads=overheads,
        ),
    )


def _fixed(value: int) -> Distribution:
    return Distribution(distribution="fixed", value=value)


def simulated_s(stage: Stage, overheads: EngineOverheads) -> dict[str, float]:
    """The stage's mean times in a short run, past the first round of prompts."""
    run = run_one(scenario_of(stage, overheads, num_requests=WARM_UP_REQUESTS + MEASURED_REQUESTS))
    metrics = summarize(run).metrics
    return {name: metrics[f"mean_{name}_s"] for name in TIMES}


def errors(stages: Sequence[Stage], overheads: EngineOverheads) -> list[dict[str, float]]:
    """Simulated over measured, less one, by stage and time."""
    found = []
    for stage in stages:
        own = simulated_s(stage, overheads)
        found.append({name: own[name] / stage.measured_s[name] - 1 for name in TIMES})
    return found


def completed(stage: Stage, overheads: EngineOverheads) -> int:
    """How many requests of an overloaded stage end before their client gives up."""
    offered = stage.num_ok + stage.num_failed
    scenario = scenario_of(stage, overheads, num_requests=offered, timeout_s=CLIENT_TIMEOUT_S)
    return int(summarize(run_one(scenario)).metrics["num_finished"] or 0)
