"""``python -m calibrate fit-engine``: the host times of an engine profile from runs under load.

Two constants, both models together: host time per step, from the time per output token; and what the first
token takes besides (HTTP, tokeniser, streaming), from the time to the first. (Host time per sequence was
fitted too, and came out as nothing.) Cross-validated by leaving out all stages of one workload in turn, and
tried on the overloaded runs, which no fit looks at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from calibrate.shared_prefix_runs import (
    TIMES,
    Stage,
    completed,
    errors,
    read_stages,
    scenario_of,
    simulated_s,
)
from sim.errors import ScenarioError
from sim.hardware.engine_profile import EngineOverheads, load_engine_profile
from sim.price.memory import memory_plan

FILE = Path("serving/h100_vllm_shared_prefix.csv")
TARGETS = {"e2e": 0.05, "tpot": 0.05, "ttft": 0.12}  # mean over the stages left out; none worse than twice it
COMPLETED_TARGET = 0.10
MAX_ROUNDS = 6
CLOSE_ENOUGH_S = 2e-6
FEEL_S = 1e-4  # how far step_s is moved to see what it does


def run_fit_engine(arguments: argparse.Namespace) -> int:
    """Cross-validates, fits on all stages, tries the overloaded runs; 1 where a target is missed."""
    file = arguments.measured / FILE
    if not file.is_file():
        raise ScenarioError("no such file", file=str(file), hint="--measured FOLDER")
    start = load_engine_profile(arguments.profile, path="--profile").overheads
    stages = read_stages(file)
    if len({one.workload for one in stages}) < 2:
        raise ScenarioError("leaving out a workload needs another one", file=str(file))
    print_blocks(stages)
    print("two constants, fitted without the stages of one workload:")
    is_met = met(left_out_errors(stages, start))
    fitted = fit(stages, start)
    print(f"on all stages: {shown(fitted)}")
    print("overloaded, clients that give up after 300 s, seen by no fit:")
    for stage in read_stages(file, overloaded=True):
        count = completed(stage, fitted)
        error = count / stage.num_ok - 1
        is_met = is_met and abs(error) <= COMPLETED_TARGET
        print(f"  {stage.label:<32}completed {count:,}, measured {stage.num_ok:,}: {error:+.1%}")
    return 0 if is_met else 1


def print_blocks(stages: Sequence[Stage]) -> None:
    """KV blocks of the memory budget beside those that the engine printed."""
    for stage in {one.model: one for one in stages if one.num_gpu_blocks}.values():
        scenario = scenario_of(stage, EngineOverheads(), num_requests=1)
        own = memory_plan(scenario.model, scenario.hardware, scenario.engine).num_gpu_blocks
        error = own / (stage.num_gpu_blocks or own) - 1
        print(f"KV blocks of {stage.model}: {own:,}, the engine's {stage.num_gpu_blocks:,}: {error:+.1%}")


def left_out_errors(
    stages: Sequence[Stage], start: EngineOverheads
) -> Iterator[tuple[Stage, dict[str, float]]]:
    """Every stage's errors under constants that have not seen its workload."""
    for workload in sorted({one.workload for one in stages}):
        fitted = fit([one for one in stages if one.workload != workload], start)
        print(f"  without {workload}: {shown(fitted)}", flush=True)
        own = [one for one in stages if one.workload == workload]
        yield from zip(own, errors(own, fitted), strict=True)


def met(found: Iterator[tuple[Stage, dict[str, float]]]) -> bool:
    """Prints the errors of the stages left out; whether all targets are met."""
    rows = list(found)
    for stage, error in rows:
        print(f"  {stage.label:<30}" + "".join(f"  {name} {beside(stage, error, name)}" for name in TIMES))
    is_met = True
    for name, target in TARGETS.items():
        sizes = [abs(error[name]) for _, error in rows]
        is_met = is_met and float(np.mean(sizes)) <= target and max(sizes) <= 2 * target
        print(f"  {name}: mean {np.mean(sizes):.1%} (asked {target:.0%}), worst {max(sizes):.1%}")
    return is_met


def beside(stage: Stage, error: dict[str, float], name: str) -> str:
    """Simulated time, the measured one and the error, as text."""
    measured = stage.measured_s[name] * 1e3
    return f"{measured * (1 + error[name]):8.2f} ms for {measured:8.2f} ({error[name]:+5.1%})"


def shown(overheads: EngineOverheads) -> str:
    """The fitted constants as text."""
    return f"step_s {overheads.step_s * 1e3:.3f} ms, frontend_s {overheads.frontend_s * 1e3:.2f} ms"


def fit(stages: Sequence[Stage], start: EngineOverheads) -> EngineOverheads:
    """Least squares of relative errors: the time per token by Gauss-Newton steps, then the first token's.

    Under a fixed rate a longer step means more sequences at a time and so a still longer step: what a
    constant does is seen by moving it.
    """
    at = replace(start, step_s=0.0, frontend_s=0.0, output_s=0.0)
    error = tpot_errors(stages, at)
    for number in range(MAX_ROUNDS):
        slope = (tpot_errors(stages, replace(at, step_s=at.step_s + FEEL_S)) - error) / FEEL_S
        step_s = max(0.0, at.step_s - float(slope @ error / (slope @ slope)))
        moved = abs(step_s - at.step_s)
        at = replace(at, step_s=step_s)
        error = tpot_errors(stages, at)
        note = f"round {number + 1}: step_s {step_s * 1e3:.3f} ms, RMS {np.sqrt(np.mean(error**2)):.2%}"
        print(f"    {note}", file=sys.stderr, flush=True)
        if moved < CLOSE_ENOUGH_S:
            break
    return replace(at, frontend_s=front_end_s(stages, at))


def tpot_errors(stages: Sequence[Stage], overheads: EngineOverheads) -> np.ndarray:
    """Simulated over measured time per output token, less one."""
    return np.array([found["tpot"] for found in errors(stages, overheads)])


def front_end_s(stages: Sequence[Stage], overheads: EngineOverheads) -> float:
    """The one delay of the first token with the smallest squared relative errors: a weighted mean."""
    measured = np.array([one.measured_s["ttft"] for one in stages])
    gaps = measured - np.array([simulated_s(one, overheads)["ttft"] for one in stages])
    return max(0.0, float(np.sum(gaps / measured**2) / np.sum(1 / measured**2)))
