"""``calibrate import measured`` from measured rows: a measured table of one model, added up by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from plain_engine import plain_engine
from written_measurements import Law, decode_s, gemm_s, norm_s, write_measurements

from calibrate.commands import main
from calibrate.fit.checks import step_scenario
from calibrate.importing.measurements import read_measured_folder
from sim.errors import ScenarioError
from sim.hardware import load_hardware
from sim.kinds.load import load_scenario
from sim.kinds.run import run_one
from sim.price.providers.table import TablePrice, load_price_table

H200 = "h200-sxm-141gb"
LAW = Law()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole plan measured."""
    made = tmp_path_factory.mktemp("data") / H200
    write_measurements(made, LAW)
    return made


def test_an_imported_table_prices_a_step_by_its_parts(folder: Path, tmp_path: Path) -> None:
    """A decode step at measured sizes (64 tokens, batch 64 × 2,048) is the law's kernels added up by hand."""
    out = tmp_path / "table"
    command = ["import", "measured", str(folder), str(out), "--model", "llama-3.1-8b", "--provider", "triton"]
    assert main(command) == 0
    scenario = replace(step_scenario(load_hardware(H200)), engine=plain_engine(price_table=str(out)))
    priced_s = TablePrice(scenario, load_price_table(out)).step_ps(64, 64 * 2048, []) * 1e-12
    shapes = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
    linear = sum(gemm_s(LAW, "matmul", {"M": 64, "N": n, "K": k}) for n, k in shapes) * 1.1
    decode = decode_s(LAW, "", {"B": 64, "context": 2048, "G": 8, "D": 128})
    small = 2 * 1.1 * norm_s(LAW, "rms_norm", {"M": 64, "N": 4096, "has_residual": 1})
    small += norm_s(LAW, "silu_mul", {"M": 64, "N": 14336})
    small += norm_s(LAW, "rope_cache", {"M": 64, "H": 32, "G": 8, "D": 128})
    head = 1.1 * gemm_s(LAW, "matmul", {"M": 64, "N": 128256, "K": 4096})
    assert priced_s == pytest.approx(32 * (linear + decode + small) + head, rel=0.04)


def test_a_scenario_names_an_imported_table_by_its_path(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "table"
    assert main(["import", "measured", str(folder), str(out), "--model", "llama-3.1-8b"]) == 0
    text = f"""
schema_version: 1
question: Does it run?
kind: serving
hardware: {H200}
model: llama-3.1-8b
workload:
  arrivals: {{process: constant, requests_per_s: 5}}
  prompt_tokens: 200
  output_tokens: 20
  num_requests: 5
engine: {{price_table: {out}}}
"""
    (tmp_path / "scenario.yaml").write_text(text, encoding="utf-8")
    loaded = load_scenario(tmp_path / "scenario.yaml")
    result = run_one(loaded.base, base_dir=tmp_path)
    assert (result.requests.generated_tokens == 20).all()


def test_what_a_model_needs_and_nobody_measured_is_named(folder: Path, tmp_path: Path) -> None:
    for model, tp, message in (
        ("llama-2-13b", 1, "RMSNorm"),
        ("llama-3.1-8b", 2, "qkv_proj"),
        ("opt-13b", 1, "only dense models"),
        ("mixtral-8x7b", 1, "only dense models"),
    ):
        with pytest.raises(ScenarioError, match=message):
            read_measured_folder(folder, model, tp, "fastest")
    assert main(["import", "measured", str(folder), str(tmp_path / "x")]) == 2  # whose layers?
