"""What a kernel scenario says, as frozen dataclasses: the operation, its shape and its tile.

Products, norms, copies and tiles stand in ``sim.kernel.algorithms.problem``, which the kernels read too.
"""

from __future__ import annotations

from typing import Literal

from sim.hardware import HardwareProfile
from sim.kernel.algorithms import ALGORITHMS, training_algorithms
from sim.kernel.algorithms.problem import Copy, Dtype, Gemm, Norm, Tile
from sim.model.shape import ModelShape
from sim.scenario.dataclass import dataclass
from sim.scenario.fields import Threshold, key


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """softmax(Q Kᵀ) V for ``batch`` sequences."""

    algorithm: str = key("which kernels compute it", choices=lambda: ALGORITHMS)
    batch: int = key("sequences", ge=1, le=1_000_000)
    num_heads: int = key("query heads", ge=1, le=100_000)
    num_kv_heads: int | None = key("KV heads (fewer: GQA, 1: MQA); default: num_heads", default=None, ge=1)
    head_dim: int = key("size of a head", default=128, ge=8, le=1024)
    seqlen: int = key("query tokens of a sequence; of a decode: 1", ge=1, le=16_777_216)
    seqlen_kv: int | None = key("KV tokens of a sequence; default: seqlen", default=None, ge=1)
    causal: bool = key("a query sees no later key", default=False)
    direction: Literal["forward", "backward", "forward_backward"] = key(
        "backward recomputes the scores (flash) or reads them (standard)", default="forward"
    )
    dtype: Dtype = key("Q, K, V and O", default="bfloat16")
    mask: bool = key(
        "standard: an additive mask, a pass of its own; flash: in SRAM, at no cost", default=False
    )
    dropout: bool = key(
        "standard: on the probabilities, passes of their own; flash: in SRAM, at no cost", default=False
    )
    layout: Literal["dense", "paged"] = key(
        "paged: prefill through a block table with varlen bookkeeping, as vLLM launches it", default="dense"
    )
    page_tokens: int = key("paged_decode: KV tokens per page of the block table", default=16, ge=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """One optimizer step of a GPT on one GPU: forward, backward, loss and AdamW, every launch of them."""

    micro_batch_size: int = key("sequences of a forward and backward pass", ge=1, le=100_000)
    gradient_accumulation_steps: int = key(
        "micro-batches of an optimizer step", default=1, ge=1, le=1_000_000
    )
    seqlen: int = key("tokens of a sequence", default=1024, ge=1, le=1_048_576)
    attention: str = key(
        "which kernels compute it", default="standard", choices=lambda: training_algorithms()
    )
    kernels: Literal["eager", "fused"] = key(
        "eager: PyTorch operator by operator under autocast (Hugging Face's GPT-2); fused: as Megatron-LM",
        default="eager",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWork:
    """Exactly one operation, and how it is cut."""

    attention: Attention | None = key("an attention", default=None)
    gemm: Gemm | None = key("a matrix product", default=None)
    norm: Norm | None = key("an RMSNorm", default=None)
    copy: Copy | None = key("a copy", default=None)
    training_step: TrainingStep | None = key("a whole training step", default=None)
    tile: Tile = key("tile sizes; default: the kernel's own", default=Tile())
    kv_location: Literal["hbm", "dram"] = key(
        "dram: K and V come over the host link first, in chunks that overlap with the kernel", default="hbm"
    )
    trace: bool = key("keep every tile for the timeline (small cases)", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelScenario:
    """One kernel on one GPU."""

    schema_version: int = key("format of this file", ge=1)
    question: str = key("what the report answers")
    kind: Literal["kernel"] = key("what is simulated")
    seeds: tuple[int, ...] = key("a kernel run draws nothing: one seed is enough", default=(1,), ge=0)
    hardware: HardwareProfile = key("a profile's name, a path to one, or one written out")
    kernel: KernelWork = key("what runs")
    model: ModelShape | None = key("training_step: the model, with plain MLPs", default=None)
    answer_by: Literal["time_s", "memory_bytes", "hbm_bytes"] = key(
        "the metric that answers the question", default="time_s"
    )
    thresholds: tuple[Threshold, ...] = key("bounds that make exit code 1", default=())
