"""Memory over a step: its peak is the account's to the byte, its ends and sizes are what theory says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.step.published import A100

from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.model.config import load_model
from sim.model.counts import num_parameters
from sim.report.figures import lanes
from sim.report.html import render_html
from sim.report.markdown import render_markdown
from sim.training.report.memory import MemoryTimeline, memory_pictures, memory_timeline
from sim.training.step.memory import layer_activations, layer_input_bytes, model_states, training_memory
from sim.training.step.shape import CHECKPOINTING, Adapter, Parallelism, StepShape
from sim.training.step.time import head_times, optimizer_s, step_times

LLAMA = load_model("llama-3.2-1b")
SMALL = StepShape(model=LLAMA, hardware=A100, max_seq_len=2048, micro_batch_size=2)

# data, tensor, pipeline and virtual pipeline size; three stages do not divide 16 layers
SPLITS = [(1, 1, 1, 1), (8, 1, 1, 1), (4, 2, 1, 1), (2, 2, 4, 1), (1, 1, 3, 1), (2, 1, 4, 2)]


def at_peak(timeline: MemoryTimeline) -> dict[str, int]:
    """Bytes by category at the highest total."""
    totals = timeline.totals_bytes
    at = totals.index(max(totals))
    return {name: column[at] for name, column in timeline.held_bytes.items()}


@given(
    kind=st.sampled_from(CHECKPOINTING),
    every=st.integers(1, 20),
    batch=st.integers(1, 9),
    accumulated=st.sampled_from([1, 4, 16]),
    split=st.sampled_from(
        [(1, 1, 1, 1), (8, 1, 1, 1), (4, 2, 1, 1), (2, 2, 4, 1), (1, 1, 3, 1), (2, 1, 4, 2)]
    ),
    stage=st.sampled_from([0, 1, 2, 3]),
    attention=st.sampled_from(["flash", "standard"]),
    adapter=st.sampled_from([None, Adapter(r=8), Adapter(is_quantized=True)]),
)
def test_the_peak_is_the_accounts_to_the_byte(
    kind: str,
    every: int,
    batch: int,
    accumulated: int,
    split: tuple[int, int, int, int],
    stage: int,
    attention: str,
    adapter: Adapter | None,
) -> None:
    """All modes, all splits: the highest total is the peak, and each band there is the line of its name."""
    data, tensor, pipeline, virtual = split
    shape = replace(
        SMALL,
        micro_batch_size=batch,
        activation_checkpointing=kind,  # type: ignore[arg-type]
        checkpoint_every=every if kind == "every_k" else 1,
        gradient_accumulation_steps=accumulated,
        attention=attention,  # type: ignore[arg-type]
        dropout=attention == "standard",
        adapter=adapter,
        parallelism=Parallelism(
            data_parallel_size=data,
            tensor_parallel_size=tensor,
            pipeline_parallel_size=pipeline,
            virtual_pipeline_size=virtual,
            zero_stage=stage,  # type: ignore[arg-type]
        ),
    )
    memory, timeline = training_memory(shape), memory_timeline(shape)
    assert max(timeline.totals_bytes) == memory.peak_memory_bytes
    lines = {line.label: line.num_bytes for line in memory.lines}
    held = at_peak(timeline)
    assert held["activations"] + held.get("head and logits", 0) == lines["activations"]
    assert held.get("gradients", 0) + held.get("gradient buffers", 0) == lines["gradients"]
    for name in ("weights", "optimizer states", "recomputed", "gathered layers", "gradient buckets"):
        assert held.get(name, 0) == lines.get(name, 0)
    assert all(size >= 0 for column in timeline.held_bytes.values() for size in column)
    assert list(timeline.times_s) == sorted(timeline.times_s)


def test_the_step_takes_the_prices_time() -> None:
    """Forward, head, recomputation, backward and optimizer of one micro-batch, as the price has them."""
    for kind in CHECKPOINTING:
        shape = replace(SMALL, activation_checkpointing=kind)
        priced = step_times(shape)
        assert memory_timeline(shape).times_s[-1] == pytest.approx(priced.compute_s + priced.optimizer_s)
    first_stage = replace(SMALL, parallelism=Parallelism(pipeline_parallel_size=2))
    whole, half = memory_timeline(SMALL).times_s[-1], memory_timeline(first_stage).times_s[-1]
    head = head_times(SMALL)
    fixed = head.forward_s + head.backward_s + optimizer_s(SMALL)
    assert half - optimizer_s(first_stage) == pytest.approx((whole - fixed) / 2)


def test_activations_grow_by_a_layer_and_shrink_by_a_layer() -> None:
    """16 layers forward and 16 backward, each Korthikanti's bytes; nothing is left at the end."""
    timeline = memory_timeline(SMALL)
    activations = timeline.held_bytes["activations"]
    per_layer = layer_activations(SMALL).total_bytes
    forward = [size for size, phase in zip(activations, timeline.phases, strict=True) if phase == "forward"]
    assert forward == pytest.approx([per_layer * (index + 1) for index in range(16)], abs=2)
    back = [size for size, phase in zip(activations, timeline.phases, strict=True) if phase == "backward"]
    assert back == pytest.approx([per_layer * (15 - index) for index in range(16)], abs=2)
    assert activations[0] == activations[-1] == 0


def test_full_checkpointing_brings_back_one_layer_at_a_time() -> None:
    shape = replace(SMALL, activation_checkpointing="full")
    timeline = memory_timeline(shape)
    again = timeline.held_bytes["recomputed"]
    whole = int(layer_activations(shape).total_bytes)
    assert set(again) == {0, whole}
    assert again.count(whole) == 16
    assert max(timeline.held_bytes["activations"]) == pytest.approx(16 * layer_input_bytes(shape), abs=2)


def test_every_k_brings_back_a_segment_that_shrinks() -> None:
    """16 layers in segments of 6, 6 and 4, from the last one: each at once, then layer by layer."""
    shape = replace(SMALL, activation_checkpointing="every_k", checkpoint_every=6)
    timeline = memory_timeline(shape)
    whole = layer_activations(shape).total_bytes
    shown = [round(size / whole, 6) for size in timeline.held_bytes["recomputed"]]
    backwards = [*range(6, -1, -1), *range(6, -1, -1), *range(4, -1, -1)]
    assert [size for size in shown if size] == [size for size in backwards if size]
    assert timeline.phases.count("recompute") == 3


def test_gradients_are_written_from_the_last_layer_on() -> None:
    """Two bytes a parameter, a sixteenth a layer; with accumulation they are there all along."""
    timeline = memory_timeline(SMALL)
    written, buffers = timeline.held_bytes["gradients"], timeline.held_bytes["gradient buffers"]
    assert written[0] == 0 and written[-1] == 2 * num_parameters(LLAMA)
    assert {a + b for a, b in zip(written, buffers, strict=True)} == {written[-1]}
    assert list(written) == sorted(written)
    later = memory_timeline(replace(SMALL, gradient_accumulation_steps=4))
    assert set(later.held_bytes["gradients"]) == {written[-1]}
    assert model_states(SMALL).gradient_bytes == written[-1]


def test_the_reports_bands_add_up_to_the_summarys_peak(tmp_path: Path) -> None:
    """One picture per different step; two variants that differ in their exchange only share one."""
    path = tmp_path / "memory.yaml"
    path.write_text(
        """
schema_version: 1
question: What does the memory hold when?
kind: training
hardware: a100-sxm-80gb
model: llama-3.2-1b
training: {num_workers: 8, num_steps: 30, micro_batch_size: 4, max_seq_len: 1024}
compare:
  reference: nccl
  variants:
    nccl: {}
    ring: {exchange: {algorithm: ring}}
    full: {training: {activation_checkpointing: full}}
""",
        encoding="utf-8",
    )
    answer = run_scenario(load_scenario(path))
    results: Any = answer.results
    shown = memory_pictures(results, lanes(answer.comparison.variants))
    assert [picture.title.split(": ")[1] for picture in shown] == ["nccl, ring", "full"]
    for picture, name in zip(shown, ("nccl", "full"), strict=True):
        stacked = [sum(column) for column in zip(*(trace["y"] for trace in picture.traces), strict=True)]
        peak = answer.summaries[name][0].metrics["peak_memory_bytes"]
        assert max(stacked) * 1e9 == pytest.approx(peak, abs=1)
        assert max(row[-1] for row in picture.rows) == peak  # type: ignore[type-var]
    assert 'id="plot-memory-1"' in render_html(report_of(answer))
    assert "What the memory holds when" in render_html(report_of(answer))
    assert "What the memory holds when" not in render_markdown(report_of(answer))
