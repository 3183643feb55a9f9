"""Runs of vLLM under shared prefixes, as scenarios: one load stage each, with what was measured."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.errors import InvariantError
from sim.hardware import load_hardware
from sim.hardware.engine_profile import EngineOverheads
from sim.model.catalogue import model_names
from sim.model.config import load_model
from sim.scenario.distribution import Distribution
from sim.serving.run import run_serving
from sim.serving.scenario import EngineConfig, Scenario, SharedPrefix, Workload
from sim.serving.summary import summarize
from sim.serving.workload.arrivals import Arrivals

NEW_TOKENS = 6  # of a prompt sent again, what lies beyond its last full block at the least
CLIENT_TIMEOUT_S = 300.0
WARM_UP_REQUESTS = 300  # at least: the first round of prompts, which are no hits, and the first answers
SLOW_TOKEN_S = 0.05  # of whom so many are under way where a token takes this long
MEASURED_REQUESTS = 700
TIMES = ("e2e", "tpot", "ttft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One load stage: what was asked, and the mean times in seconds."""

    hardware: str
    model: str
    model_source: str  # a shipped name, or the path of a config.json
    workload: str
    tensor_parallel_size: int
    num_gpu_blocks: int | None  # that the engine printed
    requests_per_s: float
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
    def num_warm_up(self) -> int:
        """Requests before the measured ones."""
        return max(WARM_UP_REQUESTS, round(self.requests_per_s * self.output_tokens * SLOW_TOKEN_S))

    @property
    def label(self) -> str:
        """Model, workload and rate."""
        return f"{self.model} {self.workload} {self.requests_per_s:g}/s"


def read_stages(file: Path, *, overloaded: bool = False) -> list[Stage]:
    """The stages of the CSV whose clients all waited, or those in which some gave up."""
    with file.open(newline="", encoding="utf-8") as stream:
        stages = [_stage(row, file.parent / "model_configs") for row in csv.DictReader(stream)]
    return [one for one in stages if (one.num_failed > 0) == overloaded]


def _stage(row: dict[str, str], configs: Path) -> Stage:
    output_tokens = int(row["output_len"])
    e2e_s, ttft_s = float(row["e2e_s_mean"]), float(row["ttft_s_mean"])
    return Stage(
        hardware=row["gpu"].lower(),
        model=row["model"],
        model_source=_model_source(row["model"], configs),
        workload=row["profile"],
        tensor_parallel_size=int(row["tensor_parallel_size"]),
        num_gpu_blocks=int(float(row["num_gpu_blocks"])) if row["num_gpu_blocks"] else None,
        requests_per_s=float(row["requests_per_s"]),
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


def _model_source(name: str, configs: Path) -> str:
    """The shipped model of that name, or the configuration beside the runs whose name begins with it."""
    if name in model_names():
        return name
    beside = [one for one in sorted(configs.glob("*.json")) if one.stem.lower().startswith(name.lower())]
    return str(beside[0]) if beside else name


def scenario_of(
    stage: Stage, overheads: EngineOverheads, *, num_requests: int, timeout_s: float | None = None
) -> Scenario:
    """vLLM 0.20.0's switches without asynchronous scheduling; a prompt is its own prefix group."""
    return Scenario(
        schema_version=1,
        question="",
        kind="serving",
        hardware=load_hardware(stage.hardware),
        model=load_model(stage.model_source),
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
            warmup_requests=0 if timeout_s else stage.num_warm_up,
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
    run = run_serving(scenario_of(stage, overheads, num_requests=stage.num_warm_up + MEASURED_REQUESTS))
    metrics = summarize(run).metrics
    return {name: _known(metrics[f"mean_{name}_s"]) for name in TIMES}


def _known(value: float | None) -> float:
    """A mean of a run whose every request finished."""
    if value is None:
        raise InvariantError("no request of the simulated stage finished")
    return value


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
    return int(summarize(run_serving(scenario)).metrics["num_finished"] or 0)
