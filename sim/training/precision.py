"""Number formats of training: what a parameter keeps, what GEMMs run in, what the format costs besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.errors import ScenarioError
from sim.suggest import did_you_mean

Optimizer = Literal["adamw", "sgd", "sgd_momentum"]

# fp32 states that an optimizer keeps per trained parameter, in bytes.
OPTIMIZER_STATE_BYTES: dict[str, int] = {"adamw": 8, "sgd": 0, "sgd_momentum": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Bytes that one parameter and one activation take, and the type that GEMMs compute in."""

    name: str
    peak: str  # key of peak_flops_per_s
    weight_bytes: float  # of a resident weight as forward and backward use it
    gradient_bytes: int  # as kept until the optimizer
    master_bytes: int  # the optimizer's own copy of a weight, 0 where the weight itself is updated
    state_bytes: int  # of one Adam state (of two)
    activation_bytes: int
    reduce_bytes: int  # of a gradient on the wire
    has_loss_scaling: bool = False
    copy_bytes: int = 0  # of weight_bytes: 16-bit copies that ZeRO-3 only has of the gathered layers
    cast_bytes: int = 0  # per weight and forward pass: reading and writing copies in the GEMMs' type
    activation_cast_bytes: int = 0  # per GEMM input and output element: quantising and scaling (fp8)
    source: str = ""

    def bytes_per_parameter(self, optimizer: str = "adamw") -> float:
        """Weight, gradient, master copy and optimizer states: 16 or 18 for mixed-precision Adam."""
        states = OPTIMIZER_STATE_BYTES[optimizer] * self.state_bytes / 4
        return self.weight_bytes + self.gradient_bytes + self.master_bytes + states


PRECISIONS: dict[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision(
            name="fp32", peak="float32", weight_bytes=4, gradient_bytes=4, master_bytes=0, state_bytes=4,
            activation_bytes=4, reduce_bytes=4, source="4 + 4 + 8",
        ),
        Precision(
            name="tf32", peak="tfloat32", weight_bytes=4, gradient_bytes=4, master_bytes=0, state_bytes=4,
            activation_bytes=4, reduce_bytes=4, source="stored as fp32, multiplied with 10-bit mantissas",
        ),
        Precision(
            name="amp_bf16", peak="bfloat16", weight_bytes=6, gradient_bytes=4, master_bytes=0, state_bytes=4,
            activation_bytes=2, reduce_bytes=4, copy_bytes=2, cast_bytes=6,
            source="PyTorch autocast: fp32 weights with bf16 copies (4 + 2), fp32 gradients 4, Adam 8: 18",
        ),
        Precision(
            name="amp_fp16", peak="float16", weight_bytes=6, gradient_bytes=4, master_bytes=0, state_bytes=4,
            activation_bytes=2, reduce_bytes=4, copy_bytes=2, cast_bytes=6, has_loss_scaling=True,
            source="as amp_bf16, with loss scaling (Micikevicius et al., arXiv 1710.03740)",
        ),
        Precision(
            name="bf16_mixed", peak="bfloat16", weight_bytes=2, gradient_bytes=2, master_bytes=4,
            state_bytes=4, activation_bytes=2, reduce_bytes=2, source="ZeRO, arXiv 1910.02054: 2 + 2 + 12",
        ),
        Precision(
            name="fp16_mixed", peak="float16", weight_bytes=2, gradient_bytes=2, master_bytes=4,
            state_bytes=4, activation_bytes=2, reduce_bytes=2, has_loss_scaling=True,
            source="as bf16_mixed, with loss scaling",
        ),
        Precision(
            name="bf16", peak="bfloat16", weight_bytes=2, gradient_bytes=2, master_bytes=0, state_bytes=2,
            activation_bytes=2, reduce_bytes=2, source="everything in bf16, no master copy: 2 + 2 + 4",
        ),
        Precision(
            name="fp8", peak="float8", weight_bytes=4, gradient_bytes=2, master_bytes=4, state_bytes=4,
            activation_bytes=2, reduce_bytes=2, cast_bytes=4, activation_cast_bytes=4,
            source="bf16 weights with two fp8 copies, one transposed (2 + 1 + 1), bf16 gradients, fp32 "
            "master and Adam; inputs of GEMMs are quantised twice, plain and transposed",
        ),
    )
}  # fmt: skip

# torch.amp.GradScaler: the scale is doubled after 2,000 good steps until one overflows and is skipped.
SKIPPED_STEP_FRACTION = 1 / 2001
# Bytes per parameter of the pass that divides gradients by the scale and looks for infinities.
UNSCALE_BYTES_PER_GRADIENT = 2  # times gradient_bytes: read and written

# A fake-quantise pass reads a tensor in the compute type and writes it back rounded; its backward pass reads
# the gradient and the clipping mask (one byte) and writes the gradient (straight-through).
FAKE_QUANTISE_FORWARD_PASSES, FAKE_QUANTISE_BACKWARD_PASSES, FAKE_QUANTISE_MASK_BYTES = 2, 2, 1


def precision_of(name: str, path: str = "training.precision") -> Precision:
    """The precision of that name; refused with the names that there are."""
    if name not in PRECISIONS:
        raise ScenarioError(
            "unknown precision" + did_you_mean(name, PRECISIONS),
            path=path,
            given=name,
            allowed=", ".join(PRECISIONS),
        )
    return PRECISIONS[name]


def unscale_bytes(precision: Precision, num_gradients: float) -> float:
    """HBM bytes that loss scaling adds to a step: gradients are read, divided, checked, written."""
    if not precision.has_loss_scaling:
        return 0.0
    return UNSCALE_BYTES_PER_GRADIENT * precision.gradient_bytes * num_gradients


def useful_step_fraction(precision: Precision) -> float:
    """Share of steps that update the weights: under loss scaling some overflow and are skipped."""
    return 1.0 - SKIPPED_STEP_FRACTION if precision.has_loss_scaling else 1.0


def fake_quantise_bytes(num_elements: float, element_bytes: int) -> tuple[float, float]:
    """Forward and backward HBM bytes of fake-quantising ``num_elements`` (QAT of a weight or an activation).

    Not modelled: observers that also reduce minima and maxima (one more read), fusion into the GEMM.
    """
    forward = num_elements * (FAKE_QUANTISE_FORWARD_PASSES * element_bytes + FAKE_QUANTISE_MASK_BYTES)
    backward = num_elements * (FAKE_QUANTISE_BACKWARD_PASSES * element_bytes + FAKE_QUANTISE_MASK_BYTES)
    return forward, backward
