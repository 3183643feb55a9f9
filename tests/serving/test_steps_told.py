"""A run whose steps are simulated one by one says so, why, and what would skip them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.cli.command import main
from sim.serving.vllm.scheduler import Scheduler

SCENARIO = """
schema_version: 1
question: Does it say that it steps?
kind: serving
hardware: h100-sxm-80gb
model: llama-3.1-8b
workload:
  arrivals: {process: poisson, requests_per_s: 8}
  prompt_tokens: 64
  output_tokens: 8
  num_requests: 12
"""
POLICY = """
from dataclasses import replace
from sim.serving.batching.continuous import continuous

def plan(waiting, running, kv, limits):
    return replace(continuous(waiting, running, kv, limits), stands=False)
"""
STEPS = "every step is simulated by itself"
ENGINES = {
    "engine={}": "",
    "engine.batching=continuous": "",
    "engine.prefill_schedule_interval=2": f"with prefill_schedule_interval {STEPS}",
    "engine.pipeline_parallel_size=2": f"with pipeline_parallel_size {STEPS}",
    "engine={batching: continuous, use_kv_cache: false}": f"without a KV cache {STEPS}",
    "engine.batching=./policy.py:plan": (
        f"with a policy that does not say for how long its decisions stand {STEPS}"
    ),
    "engine.stepping=every_step": f"{STEPS}, as engine.stepping asks",
}
REMEDIES = {
    "interval": "; without it steps are skipped",
    "pipeline": "; without it steps are skipped",
    "cache": "; with one (engine.use_kv_cache) steps are skipped",
    "policy.py": "; the steps of a plan that says so (stands=True) are skipped",
    "stepping": "; skip skips them",
}


def told(folder: Path, override: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str], str]:
    """Terminal, notes of summary.json, report of a run."""
    (folder / "one.yaml").write_text(SCENARIO)
    (folder / "policy.py").write_text(POLICY)
    out = folder / "out"
    assert main(["run", str(folder / "one.yaml"), "--set", override, "--out", str(out)]) == 0
    terminal = " ".join(capsys.readouterr().out.split())
    (run,) = json.loads((out / "summary.json").read_text())["runs"]
    return terminal, run["notes"], (out / "report.md").read_text()


@pytest.mark.parametrize(("override", "said"), ENGINES.items(), ids=ENGINES)
def test_a_run_that_steps_says_so_in_terminal_json_and_report(
    override: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal, notes, report = told(tmp_path, override, capsys)
    stepping = [note for note in notes if STEPS in note]
    if not said:
        assert not stepping and STEPS not in terminal + report
        return
    (note,) = stepping
    assert note.startswith(said)
    assert note.endswith(next(remedy for sign, remedy in REMEDIES.items() if sign in override))
    assert note in terminal
    assert note in " ".join(report.split())


def test_the_reason_and_the_remedy_are_the_scheduler_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scheduler, "can_lend", False, raising=False)
    monkeypatch.setattr(Scheduler, "why_stepwise", lambda self: "on a Tuesday")
    monkeypatch.setattr(Scheduler, "what_skips", lambda self: "on Wednesdays they are skipped")
    terminal, _, _ = told(tmp_path, "engine={async_scheduling: false}", capsys)
    assert f"on a Tuesday {STEPS}" in terminal and "on Wednesdays they are skipped" in terminal
