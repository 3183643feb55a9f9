"""``overheads.cold_start_s``: the first step of every replica takes longer, no other step does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.arrays import PS_PER_S
from sim.kinds.load import load_scenario
from sim.kinds.run import run_one
from sim.serving.records import RunResult

COLD_S = 3.0
SCENARIO = """
schema_version: 1
question: Who waits for a cold engine?
kind: serving
hardware: h100-sxm-80gb
model: llama-3.1-8b
workload:
  trace: {path: trace.csv}
engine: {batching: BATCHING, max_model_len: 2048, num_gpu_blocks_override: 1000, STEPPING
  overheads: {step_s: 1 ms, cold_start_s: COLD s}}
replicas: 2
routing: round_robin
"""
# Two arrive together, a third during the cold start of the first, two more when everything is warm.
TRACE = "arrival_s,input_tokens,output_tokens\n0,100,5\n0,100,5\n1,100,5\n20,100,5\n20,100,5\n"


def run(folder: Path, batching: str, stepping: str, cold_s: float) -> RunResult:
    (folder / "trace.csv").write_text(TRACE)
    text = SCENARIO.replace("BATCHING", batching).replace("STEPPING", f"stepping: {stepping},")
    file = folder / "scenario.yaml"
    file.write_text(text.replace("COLD", str(cold_s)))
    return run_one(load_scenario(file).base, base_dir=folder)


@pytest.mark.parametrize("stepping", ["skip", "every_step"])
@pytest.mark.parametrize("batching", ["continuous", "vllm"])
def test_only_the_first_step_of_each_replica_is_longer(tmp_path: Path, batching: str, stepping: str) -> None:
    warm, cold = (run(tmp_path, batching, stepping, seconds) for seconds in (0.0, COLD_S))
    later = (cold.requests.first_token_ps - warm.requests.first_token_ps) / PS_PER_S
    assert later[[0, 1, 3, 4]] == pytest.approx([COLD_S, COLD_S, 0, 0], abs=1e-9)
    assert later[2] == pytest.approx(COLD_S - 1, abs=0.02)  # what was left of it when it came
    added = cold.operator_s["engine_overhead"] - warm.operator_s.get("engine_overhead", 0.0)
    assert added == pytest.approx(2 * COLD_S, abs=0.01)
    first = np.unique(cold.segments.replica, return_index=True)[1]
    assert (cold.segments.first_step_ps[first] > COLD_S * PS_PER_S).all()
