"""What a profile or a model does not know is said, with what was taken in its place, for every kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sim
from sim.errors import ScenarioError
from sim.hardware import load_hardware
from sim.price.collective import NETWORK_HOP_S, latencies_filled_in
from sim.report.terminal import render_answer

SERVING = """\
schema_version: 1
question: What is said of the unknown?
kind: serving
hardware: {base: a100-sxm-80gb, graph_launch_s: unknown, intra_node: {latency_s: unknown}}
model: gpt2
workload:
  arrivals: {process: constant, requests_per_s: 4}
  prompt_tokens: 8
  output_tokens: 4
  num_requests: 9
engine: {tensor_parallel_size: 2}
"""
TRAINING = """\
schema_version: 1
question: What is said of the unknown?
kind: training
hardware: {base: a100-sxm-80gb, gpus_per_node: 4, intra_node: {latency_s: unknown}}
model: gpt2
training: {num_workers: 8, num_steps: 3}
"""
KERNEL = """\
schema_version: 1
question: What is said of the unknown?
kind: kernel
hardware: {base: a100-sxm-80gb, host_link: {bytes_per_s: 25 GB/s, latency_s: unknown}}
kernel: {copy: {size_bytes: 1 MB, source: dram}}
"""


def told(folder: Path, text: str, *overrides: str) -> list[str]:
    """The notes of a run, each of which the terminal must print, too."""
    path = folder / "a.yaml"
    path.write_text(text, encoding="utf-8")
    answer = sim.run_scenario(sim.load_scenario(str(path), overrides=list(overrides)))
    notes = list(answer.results["base"][0].notes)
    shown = " ".join(render_answer(answer).split())
    assert all(note in shown for note in notes)
    return notes


@pytest.mark.parametrize(
    ("text", "overrides", "said", "unsaid"),
    [
        (SERVING, [], ["graph_launch_s", "intra_node.latency_s"], ["inter_node"]),
        (SERVING, ["engine.tensor_parallel_size=1"], ["graph_launch_s"], ["latency_s"]),
        (SERVING, ["hardware.graph_launch_s=2 us"], ["intra_node.latency_s"], ["graph_launch_s"]),
        (SERVING, ["hardware.intra_node={latency_s: 3 us}"], ["graph_launch_s"], ["latency_s"]),
        (TRAINING, [], ["intra_node.latency_s", "inter_node.latency_s"], []),
        (TRAINING, ["training.num_workers=4"], ["intra_node.latency_s"], ["inter_node"]),
        (TRAINING, ["hardware.inter_node={latency_s: 9 us}"], ["intra_node.latency_s"], ["inter_node"]),
        (TRAINING, ["exchange.algorithm=none"], [], ["latency_s"]),
        (KERNEL, [], ["host_link.latency_s"], []),
        (KERNEL, ["hardware.host_link={latency_s: 5 us}"], [], ["host_link"]),
    ],
)
def test_what_was_filled_in_is_a_note(
    tmp_path: Path, text: str, overrides: list[str], said: list[str], unsaid: list[str]
) -> None:
    notes = [note for note in told(tmp_path, text, *overrides) if "is unknown: " in note]
    assert [re.findall(r"hardware\.([a-z_.]+) of", note)[0] for note in notes] == said
    assert not any(word in note for word in unsaid for note in notes)


def test_the_note_says_the_latency_that_was_taken() -> None:
    device = load_hardware({"base": "l4", "inter_node": {"bytes_per_s": "1 GB/s", "latency_s": "unknown"}})
    [note] = latencies_filled_in(device, 2, gpus_per_node=1)
    assert f"{NETWORK_HOP_S * 1e6:g} us a hop" in note


@pytest.mark.parametrize("text", [SERVING, TRAINING])
def test_an_architecture_that_is_guessed_is_warned_of(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    overrides = ["model={base: llama-3.2-1b, model_type: never_heard_of}"]
    answer = sim.run_scenario(sim.load_scenario(str(path), overrides=overrides))
    [caution] = [one for _, one in answer.comparison.warnings if one.kind == "model_guessed"]
    assert "architecture never_heard_of is not one that Gpuyard knows" in caution.observation
    shown = " ".join(render_answer(answer).split())
    assert caution.observation in shown and caution.remedy in shown


def test_a_number_that_nothing_runs_without_cannot_be_unknown(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        told(tmp_path, KERNEL, "hardware.kernel_launch_s=unknown")
    assert caught.value.path == "hardware.kernel_launch_s"
    assert "base: NAME" in caught.value.hint
