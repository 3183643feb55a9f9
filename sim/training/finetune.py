"""Fine-tuning with adapters: LoRA and QLoRA train two thin matrices beside each frozen one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.errors import ScenarioError
from sim.model import Matrix, ModelShape, layer_matrices, num_parameters
from sim.scenario import key

ATTENTION_MATRICES = ("qkv_proj", "o_proj")
GATE_AND_UP = ("gate_up_proj", "moe_gate_up", "shared_gate_up")

# NF4 in blocks of 64 with double quantisation: 4 bits, and 0.127 bits of scales a weight (Dettmers et al.,
# arXiv 2305.14314, section 3: 8/64 + 32/(64 * 256)).
NF4_BITS_PER_WEIGHT = 4 + 8 / 64 + 32 / (64 * 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """LoRA of rank ``r`` (PEFT's word) on frozen weights; ``is_quantized`` holds them in NF4 (QLoRA)."""

    r: int = key("rank", default=16, ge=1, le=65_536)
    targets: Literal["attention", "all_linear"] = key("which matrices get an adapter", default="all_linear")
    is_quantized: bool = key("QLoRA: frozen weights in NF4", default=False)


def adapted_matrices(model: ModelShape, adapter: Adapter) -> tuple[Matrix, ...]:
    """The layers' matrices that get an adapter; lm_head and routers never do."""
    if adapter.r < 1:
        raise ScenarioError("must be at least 1", path="training.lora.r", given=adapter.r, allowed="1 to 256")
    matrices = [m for m in layer_matrices(model) if m.name not in ("lm_head", "router")]
    if adapter.targets == "attention":
        matrices = [m for m in matrices if m.name in ATTENTION_MATRICES]
    return tuple(matrices)


def adapter_parameters(model: ModelShape, adapter: Adapter) -> int:
    """Trained parameters: r (n + k) for each adapted n x k matrix (Hu et al., arXiv 2106.09685).

    q, k and v, and gate and up, have adapters of their own as in PEFT, though their matrices are fused here.
    """
    total = 0
    for m in adapted_matrices(model, adapter):
        parts = 3 if m.name == "qkv_proj" else model.mlp_matrices - 1 if m.name in GATE_AND_UP else 1
        total += adapter.r * (m.n + parts * m.k) * m.layers * m.num_experts
    return total


def frozen_weight_bytes(model: ModelShape, adapter: Adapter, weight_bytes: float = 2.0) -> float:
    """Bytes of the frozen weights: 16-bit, or NF4 for the layers' matrices under QLoRA (the rest 16-bit)."""
    total = num_parameters(model)
    if not adapter.is_quantized:
        return total * weight_bytes
    matrices = [m for m in layer_matrices(model) if m.name not in ("lm_head", "router")]
    quantised = sum(m.n * m.k * m.layers * m.num_experts for m in matrices)
    return quantised * NF4_BITS_PER_WEIGHT / 8 + (total - quantised) * weight_bytes


def dequantise_bytes(num_weights: float) -> float:
    """HBM bytes to rebuild 16-bit weights from NF4 for one pass: 4 bits read, 16 written, once per use."""
    return num_weights * (NF4_BITS_PER_WEIGHT / 8 + 2)
