"""Recorded traces, whole: every request and every token is accounted for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conservation_laws import littles_law_gap

from sim.kinds.load import load_scenario
from sim.kinds.run import run_one
from sim.serving.records import FINISHED, REFUSED, UNFINISHED

CHECKOUT = Path(__file__).parents[2]
SCENARIOS = CHECKOUT / "scenarios" / "serving"
TRACES = {
    "azure_conversation": ("azure2023_conv.csv.gz", 19_366),
    "mooncake_conversation": ("mooncake_conversation.jsonl.gz", 12_031),
}


@pytest.mark.parametrize("name", TRACES)
def test_nothing_is_lost(name: str, shared: Path) -> None:
    file, count = TRACES[name]
    path = SCENARIOS / f"{name}.yaml"
    # The engine raises where a block is still in use at the end.
    result = run_one(load_scenario(path, trace=str(shared / "traces" / file)).base, base_dir=path.parent)
    requests, segments = result.requests, result.segments
    finished, refused = requests.status == FINISHED, requests.status == REFUSED
    unfinished = requests.status == UNFINISHED
    assert len(requests.status) == count == finished.sum() + refused.sum() + unfinished.sum()
    assert not unfinished.any()
    assert not refused.any()
    assert (requests.generated_tokens[finished] == requests.output_tokens[finished]).all()
    # Every position but an answer's last is computed once, and again where preemption lost its KV.
    computed = int(np.sum(segments.prefill_tokens) + np.sum(segments.num_decode * segments.num_steps))
    asked = int(np.sum((requests.prompt_tokens + requests.output_tokens - 1)[finished]))
    assert computed == asked + int(result.preemptions.recompute_tokens.sum())
    assert littles_law_gap(result) == 0.0


def test_from_the_command_line(shared: Path, tmp_path: Path) -> None:
    file, count = TRACES["azure_conversation"]
    command = [sys.executable, "-m", "sim", "run", "serving/azure_conversation", "--no-report", "--quiet"]
    command += ["--trace", str(shared / "traces" / file), "--out", str(tmp_path)]
    subprocess.run(command, cwd=CHECKOUT, check=True)
    whole = json.loads((tmp_path / "summary.json").read_text())["runs"][0]["whole_run"]
    assert whole["num_offered"] == whole["num_finished"] == count
