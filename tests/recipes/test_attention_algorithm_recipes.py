"""The recipe "an attention algorithm of the kernel simulation is a file and one entry of ALGORITHMS"."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sim.cli.command import main
from sim.errors import ScenarioError
from sim.kernel.algorithms import ALGORITHMS, flash
from sim.kernel.gpu import Efficiency, Fitted
from sim.kernel.run import run_kernel
from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario

SLOW = Fitted(
    name="dummy_kernels",
    forward={"Hopper": Efficiency(tensor_fraction=0.1, source="made up")},
    backward={"Hopper": Efficiency(tensor_fraction=0.1, source="made up")},
)
SCENARIO = """\
schema_version: 1
question: What does a new algorithm gain?
kind: kernel
seeds: [1]
hardware: h100-sxm-80gb
kernel: {{attention: {{algorithm: flash_attention_2, batch: 2, num_heads: 16, head_dim: 64, seqlen: 2048}}}}
compare:
  reference: flash
  variants:
    flash: {{}}
    dummy: {{kernel: {{attention: {{algorithm: dummy{more}}}}}}}
"""
STEP = """\
schema_version: 1
question: What does a new algorithm gain in a training step?
kind: kernel
seeds: [1]
hardware: h100-sxm-80gb
model: gpt2
kernel: {training_step: {micro_batch_size: 1, seqlen: 512, attention: dummy}}
"""


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> str:
    kernels = flash.FlashKernels(
        forward_tiles=lambda gpu: {1024: (64, 64, 1, 4)},
        backward_tiles={1024: (64, 64, 1, 4)},
        dense=SLOW,
        paged=SLOW,
    )
    entry = replace(
        flash.FLASH_ATTENTION_2,
        launches=kernels.launches,
        generation=SLOW,
        paged=None,
        tiles_follow_sram=True,
    )
    monkeypatch.setitem(ALGORITHMS, "dummy", entry)
    return "dummy"


def written(folder: Path, text: str) -> Path:
    file = folder / "new.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_an_algorithm_that_is_no_entry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"unknown value") as refused:
        load_scenario(written(tmp_path, SCENARIO.format(more="")))
    assert "flash_attention_2" in str(refused.value)


def test_schema_and_checks_obey_the_entry(
    dummy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema"]) == 0
    assert '"dummy"' in capsys.readouterr().out
    assert main(["check", str(written(tmp_path, SCENARIO.format(more="")))]) == 0
    with pytest.raises(ScenarioError, match="no kernel of this algorithm reads a block table") as refused:
        load_scenario(written(tmp_path, SCENARIO.format(more=", layout: paged")))
    assert dummy not in refused.value.allowed
    split = SCENARIO.format(more="").replace(
        "{algorithm: dummy}}", "{algorithm: dummy}, tile: {num_splits: 2}}"
    )
    with pytest.raises(ScenarioError, match="no such tile size"):
        load_scenario(written(tmp_path, split))


def test_the_device_runs_it_and_the_report_names_its_efficiency(dummy: str, tmp_path: Path) -> None:
    file = written(tmp_path, SCENARIO.format(more=""))
    assert main(["run", str(file), "--out", str(tmp_path / "out")]) == 0
    runs = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["runs"]
    times = {run["variant"]: run["metrics"]["time_s"] for run in runs}
    assert times["dummy"] > 3 * times["flash"]
    [run] = run_scenario(load_scenario(file)).results["dummy"]
    assert {launch.name for launch in run.plan.launches} == {"dummy forward"}
    assert run.plan.launches[0].num_blocks == 2 * 16 * 2048 // 64  # its own tiles
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "dummy_kernels" in page and "made up" in page
    assert "What if an SM had another SRAM: dummy" in page


def test_a_training_step_takes_it_where_the_entry_says_so(
    dummy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, STEP)
    run = run_kernel(load_scenario(file).base)
    assert run.time_ps > 0 and any("attention" in launch.name for launch in run.plan.launches)
    monkeypatch.setitem(ALGORITHMS, "dummy", replace(ALGORITHMS["dummy"], in_training_step=False))
    with pytest.raises(ScenarioError, match="unknown value"):
        load_scenario(file)
