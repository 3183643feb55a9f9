"""What an operator moves at the levels below HBM: from L2 into the SMs, and through their SRAM.

HBM, host and link bytes are counted with the operator. The tiles that a kernel works in say how often L2 is
asked for the same bytes again:

- products: every output tile loads its rows and columns over the whole of K (the law's fastest tiling);
- prefill attention: every block of 128 query rows walks the K and V up to its diagonal;
- decode attention: every KV entry goes to one block, so L2 passes on what HBM brings;
- norms and elementwise: as HBM, and nothing in SRAM (they work in registers).

What is loaded is written into SRAM once and read once by the tensor cores: SRAM bytes are twice the operands.
Not modelled: registers that hold operands over several instructions, multicast between SMs, partial sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.cost.law_times import as_arrays, device_of, experts_sizes, gemm_sizes, law_device
from sim.cost.laws.attention import loaded_by_prefill
from sim.cost.laws.device import Constants, Device, Floats
from sim.cost.laws.experts import loaded_by_experts
from sim.cost.laws.gemm import loaded_bytes
from sim.cost.laws.registry import LAWS, OPERATORS
from sim.cost.operators import StepCounter
from sim.cost.roofline import Operator
from sim.model import Matrix, layer_matrices


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The prompt chunk of a step."""

    queries: int
    cached: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Bytes of one launch."""

    sram_bytes: float
    l2_bytes: float


def levels_of(one: Operator, counter: StepCounter, chunk: Chunk) -> Levels:
    """Bytes at SRAM and L2; L2 passes on at least what HBM brings."""
    moved = float(one.hbm_bytes[0])
    loaded = _loaded(one, counter, chunk)
    if loaded is None:
        return Levels(sram_bytes=0.0, l2_bytes=moved)
    operands, written = loaded
    return Levels(sram_bytes=2.0 * operands, l2_bytes=max(operands + written, moved))


def _loaded(one: Operator, counter: StepCounter, chunk: Chunk) -> tuple[float, float] | None:
    """Operands loaded into SRAM, results written back; None for operators without tiles."""
    width = float(counter.precision.activation_bytes)
    matrices = {m.name: m for m in layer_matrices(counter.model, counter.tensor_parallel_size)}
    if one.name == "attention_decode" or (one.name == "attention_prefill" and counter.model.mla):
        return float(one.hbm_bytes[0]), 0.0
    if one.name == "attention_prefill":
        sizes = as_arrays({**_chunk_sizes(chunk), **counter.head_sizes})
        constants = constants_of("attention_prefill", one.law, counter)
        results = chunk.queries * counter.head_sizes["heads"] * counter.head_sizes["head_dim"] * width
        return float(loaded_by_prefill(sizes, constants)[0]), results
    if one.name == "moe_experts":
        up, down = matrices["moe_gate_up"], matrices["moe_down"]
        pairs = one.flops / (2.0 * (up.n * up.k + down.n * down.k))
        sizes = as_arrays(experts_sizes((up, down), pairs / up.experts_per_token, counter.widths_of(up)))
        constants = constants_of("experts_bfloat16", one.law, counter)
        operands = loaded_by_experts(sizes, constants, _device(one, counter))
        return float(operands[0]), float(pairs[0]) * (up.n + down.n) * width
    if one.name in matrices:
        matrix = matrices[one.name]
        sizes = _product_sizes(one, matrix, counter)
        constants = constants_of("gemm_bfloat16", one.law, counter)
        results = float(one.flops[0]) / (2.0 * matrix.k) * width
        return float(loaded_bytes(sizes, constants, _device(one, counter))[0]), results
    return None


def _chunk_sizes(chunk: Chunk) -> dict[str, Floats | float]:
    return {"sequences": np.ones(1), "queries": float(chunk.queries), "cached": float(chunk.cached)}


def _product_sizes(one: Operator, matrix: Matrix, counter: StepCounter) -> dict[str, Floats]:
    """Rows from the FLOPs; experts without a law of their own as one group each."""
    rows = one.flops / (2.0 * matrix.n * matrix.k)
    groups = counter.experts_read(matrix, rows / matrix.experts_per_token)
    return as_arrays({**gemm_sizes(matrix, rows / groups, counter.widths_of(matrix)), "groups": groups})


def constants_of(operator: str, law: str, counter: StepCounter) -> Constants:
    """The law's constants on this device; where it has none, those that a fit would start from."""
    if law:
        return counter.hardware.kernels[law].constants
    return {name: one.start for name, one in LAWS[OPERATORS[operator][0]].constants.items()}


def _device(one: Operator, counter: StepCounter) -> Device:
    return law_device(counter.hardware, one.law) if one.law else device_of(counter.hardware, one.peak)
