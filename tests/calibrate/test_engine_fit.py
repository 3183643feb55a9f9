"""``calibrate fit-engine``: constants of runs that were made with known constants come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from calibrate.commands import main
from calibrate.engine_fit import fit, met
from calibrate.shared_prefix_runs import Stage, read_stages, simulated_s
from sim.hardware.engine_profile import load_engine_profile

START = load_engine_profile("vllm-0.15-h100").overheads
COLUMNS = (
    "experiment,model,gpu,num_gpu_blocks,tensor_parallel_size,profile,max_num_seqs,max_num_batched_tokens,max_model_len,"
    "requests_per_s,duration_s,num_groups,num_prompts_per_group,output_len,num_ok,num_failed,e2e_s_mean,"
    "ttft_s_mean,prompt_tokens_mean"
)
ROWS = (
    "a,llama-2-7b,H100-SXM-80GB,7463,1,chat,128,2048,4096,5.0,600,10,10,101,3000,0,1.05,0.05,591.6",
    "b,tiny,H100-SXM-80GB,,1,long,128,2048,4096,4.0,1200,10,10,1448,732,4068,160.0,106.6,1082.2",
)


def stages(tmp_path: Path, *, overloaded: bool = False) -> list[Stage]:
    (tmp_path / "runs.csv").write_text("\n".join((COLUMNS, *ROWS)) + "\n", encoding="utf-8")
    return read_stages(tmp_path / "runs.csv", overloaded=overloaded)


def measured_under(chosen: Sequence[Stage], **known: float) -> list[Stage]:
    """The stages as if an engine with these host times had been measured."""
    return [replace(one, measured_s=simulated_s(one, replace(START, **known))) for one in chosen]


def test_a_stage_is_a_row_and_its_time_per_token_excludes_the_first(tmp_path: Path) -> None:
    (stage,) = stages(tmp_path)
    assert stage.measured_s == pytest.approx({"e2e": 1.05, "ttft": 0.05, "tpot": 0.01})
    assert (stage.num_prompts, stage.prompt_tokens, stage.num_gpu_blocks) == (100, 592, 7463)
    assert (stage.hardware, stage.model_source) == ("h100-sxm-80gb", "llama-2-7b")
    assert [one.workload for one in stages(tmp_path, overloaded=True)] == ["long"]


def test_a_model_that_is_not_shipped_lies_beside_the_runs(tmp_path: Path) -> None:
    (tmp_path / "model_configs").mkdir()
    config = tmp_path / "model_configs" / "Tiny-hf.json"
    config.write_text("{}", encoding="utf-8")
    (stage,) = stages(tmp_path, overloaded=True)
    assert stage.model_source == str(config)


def test_known_constants_come_back(tmp_path: Path) -> None:
    (slow,) = stages(tmp_path)
    both = [slow, replace(slow, requests_per_s=12.0)]
    found = fit(measured_under(both, step_s=0.8e-3, frontend_s=11e-3), START)
    assert found.step_s == pytest.approx(0.8e-3, rel=0.01)
    assert found.frontend_s == pytest.approx(11e-3, rel=0.01)


def test_the_worst_stage_counts_too(tmp_path: Path) -> None:
    (stage,) = stages(tmp_path)
    fine, bad = ({"e2e": size, "tpot": 0.0, "ttft": 0.0} for size in (0.001, 0.11))
    assert met(iter([(stage, fine)] * 9))
    assert not met(iter([(stage, fine)] * 9 + [(stage, bad)]))


def test_one_workload_alone_cannot_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "serving").mkdir()
    text = "\n".join((COLUMNS, *ROWS)) + "\n"
    (tmp_path / "serving" / "h100_vllm_shared_prefix.csv").write_text(text, encoding="utf-8")
    assert main(["fit-engine", "--measured", str(tmp_path)]) == 2
    assert "needs another one" in capsys.readouterr().err


def test_no_measurements_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit-engine", "--measured", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err
