"""Published training runs as step shapes, and what they measured."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

from sim.hardware import load_hardware
from sim.model.config import load_model
from sim.model.shape import ModelShape
from sim.training.step.memory import training_memory
from sim.training.step.shape import Parallelism, StepShape

A100 = load_hardware("a100-sxm-80gb")

# hidden_size, layers, heads: llm-foundry's scripts/train/yamls/mpt.
MPT = {
    "MPT-125m": (768, 12, 12),
    "MPT-350m": (1024, 24, 16),
    "MPT-760m": (1536, 24, 12),
    "MPT-1b": (2048, 24, 16),
    "MPT-3b": (2560, 32, 20),
    "MPT-7b": (4096, 32, 32),
    "MPT-13b": (5120, 40, 40),
    "MPT-30b": (7168, 48, 56),
    "MPT-70b": (8192, 80, 64),
}

# name: hidden_size, layers, heads, pipeline stages, interleaved, micro-batch, micro-batches. arXiv
# 2205.05198, table 3, confirmed by Calculon's validation inputs (calculon-ai/calculon, validation/seqsel/tab5
# and models).
MEGATRON = {
    "GPT-22B": (6144, 48, 64, 1, 1, 4, 1),
    "GPT-175B": (12288, 96, 96, 8, 3, 1, 64),
    "GPT-530B": (20480, 105, 128, 35, 3, 1, 280),
    "GPT-1T": (25600, 128, 160, 64, 1, 1, 512),
}


@cache
def gpt(
    hidden_size: int, layers: int, heads: int, vocab_size: int = 51200, positions: int = 2048
) -> ModelShape:
    """A GPT of that size with tied embeddings and learned positions."""
    sizes = {"n_embd": hidden_size, "n_layer": layers, "n_head": heads}
    return load_model({"base": "gpt2", "vocab_size": vocab_size, "n_positions": positions, **sizes})


@dataclass(frozen=True, slots=True)
class Run:
    """One published number."""

    name: str
    gpu: str
    measured: float
    shape: StepShape


def rows(shared: Path, source: str) -> list[dict[str, str]]:
    """The rows of one source."""
    with (shared / "measured/training/published.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["source"].startswith(source)]


def fsdp_runs(shared: Path) -> list[Run]:
    """MosaicML's sweep on A100s: MFU in percent. Mixed precision DEFAULT reduces in float32, PURE in bf16."""
    return [_fsdp_run(row) for row in rows(shared, "MosaicML") if row["metric"] == "mfu"]


def _fsdp_run(row: dict[str, str]) -> Run:
    length = int(float(row["seq_len"]))
    accumulated = re.search(r"grad accum (\d+)", row["notes"])
    assert accumulated
    shape = StepShape(
        model=gpt(*MPT[row["model"]], 50368, length),
        hardware=load_hardware("a100-sxm-80gb" if row["gpu"] == "a100_80gb" else "a100-sxm-40gb"),
        max_seq_len=length,
        micro_batch_size=int(row["micro_batch"]),
        gradient_accumulation_steps=int(accumulated[1]),
        precision_name="amp_bf16" if row["precision"] == "amp_bf16" else "bf16_mixed",
        attention="flash_triton",
        fused_kernels=False,
        activation_checkpointing="full" if row["act_ckpt"] == "True" else "none",
        parallelism=Parallelism(data_parallel_size=int(float(row["n_gpus"])), zero_stage=3),
    )
    return Run(f"{row['model']} {length}", row["gpu"], float(row["value"]), shape)


def right_order(measured: list[float], predicted: list[float], apart: float = 1.05) -> float:
    """Share of the pairs at least ``apart`` that the prediction puts in the right order."""
    right = total = 0
    for (m1, p1), (m2, p2) in combinations(zip(measured, predicted, strict=True), 2):
        if max(m1, m2) >= apart * min(m1, m2):
            total += 1
            right += (m1 > m2) == (p1 > p2)
    return right / total


def megatron(name: str, recomputation: str, data_parallel_size: int = 1) -> StepShape:
    """A row of Korthikanti's table 5: full recomputation, or selective with sequence parallelism."""
    hidden, layers, heads, stages, interleaved, micro_batch, num_micro_batches = MEGATRON[name]
    return StepShape(
        model=gpt(hidden, layers, heads),
        hardware=A100,
        max_seq_len=2048,
        micro_batch_size=micro_batch,
        gradient_accumulation_steps=num_micro_batches,
        precision_name="fp16_mixed",
        attention="standard",
        dropout=True,
        fused_kernels=True,
        activation_checkpointing="full" if recomputation == "full" else "selective",
        parallelism=Parallelism(
            data_parallel_size=data_parallel_size,
            tensor_parallel_size=8,
            sequence_parallel=recomputation != "full",
            pipeline_parallel_size=stages,
            virtual_pipeline_size=interleaved,
        ),
    )


def flash_attention_run(row: dict[str, str]) -> Run:
    """A row of FlashAttention-2's table 1: TFLOP/s per GPU. Micro-batch and recomputation are not published:
    the largest micro-batch up to 16,384 tokens that fits, and full recomputation where none fits without.
    """
    hidden, layers, heads = (2048, 24, 16) if row["model"] == "GPT3-1.3B" else (2560, 32, 20)
    kind = row["notes"].split(";")[0]
    attention = {"no FlashAttention (Megatron baseline)": "standard", "FlashAttention-1": "flash_1"}
    length = int(row["seq_len"])
    shape = StepShape(
        model=gpt(hidden, layers, heads, 50257, length),
        hardware=A100,
        max_seq_len=length,
        micro_batch_size=16384 // length,
        gradient_accumulation_steps=8,
        precision_name="amp_bf16",
        attention=attention.get(kind, "flash"),  # type: ignore[arg-type]
        fused_kernels=kind.startswith("Flash"),
        parallelism=Parallelism(data_parallel_size=8, zero_stage=1),
    )
    name = f"{row['model']} {length} {kind}"
    return Run(name, "a100_80gb", float(row["value"]), as_large_as_fits(shape))


def as_large_as_fits(shape: StepShape) -> StepShape:
    """The largest micro-batch that fits without recomputation, else with full recomputation."""
    for recomputation in ("none", "full"):
        size = shape.micro_batch_size
        while size:
            smaller = replace(shape, micro_batch_size=size, activation_checkpointing=recomputation)
            if training_memory(smaller).fits:
                return smaller
            size //= 2
    raise AssertionError("does not fit at all")
