"""``gpuyard explain``: counts against closed forms, time against the price that the engine asks."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_engine import plain_engine

from sim.arrays import PS_PER_S
from sim.cli.command import main
from sim.hardware import load_hardware
from sim.hardware.engine_profile import EngineOverheads
from sim.hardware.laws.gemm import loaded_bytes, tilings
from sim.model.config import load_model
from sim.price.explain import StepShape, constants_of_step, counter_of, explain_step, step_warnings
from sim.price.law_times import law_device
from sim.price.pipeline import PipelinePrice
from sim.price.step import CompiledPrice
from sim.serving.scenario import Scenario, Workload


def scenario(tensor_parallel_size: int = 1, model: str = "llama-3.1-8b", **engine: Any) -> Scenario:
    return Scenario(
        schema_version=1,
        question="",
        kind="serving",
        hardware=load_hardware("h100-sxm-80gb"),
        model=load_model(model),
        workload=Workload(),
        engine=plain_engine(tensor_parallel_size=tensor_parallel_size, **engine),
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


@pytest.mark.parametrize(("pipeline_parallel_size", "tensor_parallel_size"), [(2, 1), (4, 2)])
def test_a_pipelines_lines_add_up_to_one_batch_from_end_to_end(
    pipeline_parallel_size: int, tensor_parallel_size: int
) -> None:
    one = scenario(tensor_parallel_size, batching="vllm", pipeline_parallel_size=pipeline_parallel_size)
    lines = explain_step(one, StepShape(decode=16, context=1024, prefill=512))
    priced = PipelinePrice(one).step_ps(16, 16 * 1024, [(512, 0, True, None)]) / PS_PER_S
    assert sum(line.time_s for line in lines) == pytest.approx(priced, rel=1e-6)
    send = next(line for line in lines if line.name == "pipeline_send")
    assert send.link_bytes == (pipeline_parallel_size - 1) * 2 * 528 * 4096 * 2 / tensor_parallel_size


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v2-lite"])
@pytest.mark.parametrize("shape", [StepShape(decode=64, context=2048), StepShape(prefill=3000, cached=500)])
def test_inner_levels_move_no_less_than_outer_ones(model: str, shape: StepShape) -> None:
    """HBM's bytes pass L2; operands that SRAM takes in came through L2 and are read once more."""
    for line in explain_step(scenario(model=model), shape):
        assert line.l2_bytes >= line.hbm_bytes * (1 - 1e-9)
        assert line.sram_bytes <= 2 * line.l2_bytes * (1 + 1e-9)
        assert line.dram_bytes == 0


def test_l2_bytes_are_those_of_tiles_counted_one_by_one() -> None:
    """A brute-force count over output tiles, for the tile and split that the law says is the fastest."""
    counter = counter_of(scenario())
    fit = counter.hardware.kernels["gemm_bfloat16"]
    device = law_device(counter.hardware, "gemm_bfloat16")
    numbers = {"m": 1000, "n": 4096, "k": 14336, "value_bytes": 2, "weight_bits": 16, "copies": 1e9}
    sizes = {name: np.array([float(size)]) for name, size in numbers.items()}
    tile, _, _ = min(tilings(sizes, fit.constants, device), key=lambda found: float(found[2][0]))
    counted = sum(
        14336 * 2 * (tile[0] + tile[1]) for _ in range(0, 1000, tile[0]) for _ in range(0, 4096, tile[1])
    )
    assert float(loaded_bytes(sizes, fit.constants, device)[0]) == counted
    down = next(x for x in explain_step(scenario(), StepShape(prefill=1000)) if x.name == "down_proj")
    assert down.sram_bytes == 32 * 2 * counted
    assert down.l2_bytes == 32 * (counted + 1000 * 4096 * 2)


def test_prefill_attention_loads_keys_once_per_block_of_queries() -> None:
    """1,024 tokens in 8 blocks of 128: each walks to its own end, 32 heads of 128, K and V in bfloat16."""
    line = next(x for x in explain_step(scenario(), StepShape(prefill=1024)) if x.name == "attention_prefill")
    walked = sum((block + 1) * 128 for block in range(8))
    operands = 32 * (walked * 2 * 128 * 2 + 1024 * 128 * 2)
    assert line.sram_bytes == pytest.approx(32 * 2 * operands)


def test_every_law_and_peak_of_a_step_has_a_source() -> None:
    one = scenario(4, overheads=EngineOverheads(step_s=0.002, source="measured by hand"))
    shape = StepShape(decode=16, context=1024, prefill=512)
    lines = explain_step(one, shape)
    constants = constants_of_step(one, shape, lines)
    assert all(one.source and "no source given" not in one.source for one in constants)
    names = {one.name for one in constants}
    assert {"hbm_bytes_per_s", "peak_flops_per_s.bfloat16", "gemm_bfloat16.start_s", "step_s"} <= names
    assert {"attention_decode.start_s", "efficiency.elementwise_memory", "intra_node"} <= names
    assert {line.law for line in lines} <= {name.split(".")[0] for name in names} | {""}
    assert next(one for one in constants if one.name == "step_s").source == "measured by hand"


def test_a_step_outside_of_the_measurements_is_warned_of() -> None:
    near = step_warnings(scenario(), StepShape(decode=64, context=4096))
    assert not any("outside of what was measured" in line for line in near)
    far = step_warnings(scenario(), StepShape(decode=1, context=10_000_000))
    (beyond,) = [line for line in far if line not in near]
    assert "outside of what was measured" in beyond and "context 1e+07" in beyond


def test_small_messages_take_the_custom_all_reduce_and_large_ones_nccl() -> None:
    small = explain_step(scenario(4), StepShape(decode=1, context=100))
    large = explain_step(scenario(4), StepShape(prefill=8192))
    assert [x.law for x in small if x.name == "all_reduce"] == ["all_reduce_custom"]
    assert [x.law for x in large if x.name == "all_reduce"] == ["all_reduce_nccl"]


def test_the_command_writes_a_page_and_every_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["explain", "--model", "mixtral-8x7b", "--hardware", "l4", "--tensor-parallel-size", "8"]
    assert main([*given, "--csv", "--out", str(tmp_path / "x")]) == 0
    printed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert printed == list(csv.DictReader((tmp_path / "x" / "operators.csv").open()))
    content = json.loads((tmp_path / "x" / "explain.json").read_text())
    assert [one["name"] for one in content["operators"]] == [row["name"] for row in printed]
    assert any("borrowed from l40s" in one and "gemm_bfloat16" in one for one in content["warnings"])
    assert any(
        row["source"].startswith("roofline with l4's efficiency curves (borrowed from") for row in printed
    )
    rows = list(csv.DictReader((tmp_path / "x" / "constants.csv").open()))
    assert len(rows) == len(content["constants"]) and all(row["source"] for row in rows)
    html = (tmp_path / "x" / "explain.html").read_text()
    assert "Roofline of l4" in html and "moe_experts" in html


@pytest.mark.parametrize("split", ["--tensor-parallel-size", "--pipeline-parallel-size"])
@pytest.mark.parametrize("hardware", ["rtx-4090", "l4", "mi300x"])
def test_gpus_without_nvlink_can_be_split_over(
    split: str, hardware: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["explain", "--model", "llama-3.1-8b", "--hardware", hardware, split, "2", "--json"]
    assert main(given) == 0
    lines = json.loads(capsys.readouterr().out)["operators"]
    exchange = next(one for one in lines if one["link_bytes"])
    assert exchange["bound"] == "link" and exchange["time_s"] > 0
    assert "gemm" not in exchange["source"]


def test_flags_stand_above_the_scenarios_engine(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["explain", "serving/tensor_parallel_70b", "--tensor-parallel-size", "8", "--json"]
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out)["tensor_parallel_size"] == 8


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
        ["--model", "llama-3.1-8b", "--hardware", "a100-sxm-80gb", "--quantization", "fp8"],
        ["--model", "llama-3.1-8b", "--hardware", "v100-sxm2-16gb"],
        ["--model", "llama-3.1-8b", "--hardware", "h100-sxm-80gb", "--tensor-parallel-size", "3"],
        ["--model", "llama-3.1-8b", "--hardware", "h100-sxm-80gb", "--pipeline-parallel-size", "33"],
        ["--model", "llama-3.1-8b", "--hardware", "h100-sxm-80gb", "--quantization", "fp7"],
        ["training/bucket_size"],
        ["kernel/standard_vs_flash"],
    ],
)
def test_what_cannot_be_explained_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *given]) == 2
    assert "gpuyard:" in capsys.readouterr().err
