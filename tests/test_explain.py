"""``gpuyard explain``: counts against closed forms, time against the price that the engine asks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sim.cli.command import main
from sim.cost.explain import StepShape, explain_step
from sim.cost.step import CompiledPrice
from sim.hardware import load_hardware
from sim.model import load_model
from sim.records import PS_PER_S
from sim.scenario import EngineConfig, EngineOverheads, Scenario, Workload


def scenario(tensor_parallel_size: int = 1) -> Scenario:
    return Scenario(
        schema_version=1,
        question="",
        kind="serving",
        hardware=load_hardware("h100-sxm-80gb"),
        model=load_model("llama-3.1-8b"),
        workload=Workload(),
        engine=EngineConfig(tensor_parallel_size=tensor_parallel_size),
    )


def test_counts_are_those_of_the_matrices() -> None:
    lines = {line.name: line for line in explain_step(scenario(), StepShape(prefill=512))}
    assert lines["down_proj"].flops == 32 * 2 * 512 * 4096 * 14336
    assert lines["lm_head"].flops == 2 * 1 * 4096 * 128256
    assert lines["attention_prefill"].flops == 32 * 4 * 4096 * (512 * 513 / 2)


@pytest.mark.parametrize("tensor_parallel_size", [1, 4])
def test_the_lines_add_up_to_the_engines_price(tensor_parallel_size: int) -> None:
    base = scenario(tensor_parallel_size)
    engine = replace(base.engine, overheads=EngineOverheads(step_s=0.001, per_sequence_s=1e-5))
    one = replace(base, engine=engine)
    shape = StepShape(decode=16, context=1024, prefill=512)  # 16 x 1024 is a breakpoint of the price
    lines = explain_step(one, shape)
    priced = CompiledPrice(one).step_ps(16, 16 * 1024, [(512, 0, True, None)]) / PS_PER_S
    assert sum(line.time_s for line in lines) == pytest.approx(priced, rel=1e-6)
    assert sum(line.share for line in lines) == pytest.approx(1.0)


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["explain", "--model", "llama-3.1-8b", "--hardware", "a100-sxm-80gb", "--json"]
    assert main(given) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["time_s"] == pytest.approx(sum(one["time_s"] for one in printed["operators"]))


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--model", "llama-3.1-8b"],
        ["--decode", "-1"],
        ["training/bucket_size"],
        ["kernel/standard_vs_flash"],
    ],
)
def test_what_cannot_be_explained_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *given]) == 2
    assert "gpuyard:" in capsys.readouterr().err
