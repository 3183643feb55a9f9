"""Seconds of one transformer layer, forward, backward and recomputed, from its FLOPs and bytes.

Linear layers are three GEMMs each (output, gradient of the input, gradient of the weight) by the profile's
GEMM law or curves; attention is FlashAttention's tiles or standard attention with its scores in HBM; norms,
residuals, activation functions and dropout are HBM traffic, fused as Megatron and PyTorch's kernels fuse
them. Not modelled: overlap of kernels, the allocator, data loading.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from sim.errors import CannotRun
from sim.hardware.architecture import Chosen, by_architecture
from sim.model.matrices import Matrix, layer_matrices
from sim.price.collective import fabric_of, nccl_cost
from sim.price.figures import AskedLaw, Used, together
from sim.price.law_times import NEVER_HOT, gemm_operator, law_s
from sim.price.roofline import Operator, fractions
from sim.scenario.dataclass import dataclass
from sim.training.step.shape import PRECISIONS, StepShape, dequantise_bytes, fake_quantise_bytes

# The fitted constants of training step times: four numbers, fitted once, by the mean absolute MFU error
# over MosaicML's 61 FSDP runs on A100-80GB (llm-foundry, scripts/train/benchmarking, 8 to 64 GPUs). On runs
# that no fit has seen: median error 2.7 % over its 78 runs on A100-40GB (8 to 128 GPUs), Megatron-LM's
# iteration times (arXiv 2205.05198, table 5) within 5 %, FlashAttention-2's training table within 11 % (but
# see ``EAGER_SCORE_BYTES``). Taken for every device: on others than Ampere nothing was
# checked.

# Fitted. Rate that GEMMs and attention sustain through a training step over the rate of the same kernel alone
# in a benchmark loop: clocks under the power limit, cold L2, launch gaps.
SUSTAINED_FRACTION = 0.82

# FlashAttention's backward pass has 5 matrix products for the forward's 2 (arXiv 2307.08691, section 4.1) and
# runs them at a lower rate: 63 against 73 % of an A100's peak (abstract and section 4.1). Not fitted.
FLASH_BACKWARD_FLOPS = 2.5
FLASH_BACKWARD_FRACTION = 0.85

# FlashAttention-1 over FlashAttention-2, which is "around 2x" faster (abstract). Not fitted.
FLASH_1_FRACTION = 0.5
# Fitted. The same for its port to Triton, 1.3 to 2.5 times slower than FlashAttention-2 (section 4.1).
FLASH_TRITON_FRACTION = 0.75

# Kernels written before Hopper's asynchronous instructions over FlashAttention-3 there: 35 against 75 % of an
# H100's peak (arXiv 2407.08608, abstract). Not fitted; taken for Blackwell too.
FLASH_2_FRACTIONS = {"Ampere": 1.0, "Hopper": 0.35 / 0.75}

# Fitted. HBM passes of norms, activation functions and the loss where every PyTorch operator is a kernel of
# its own, over those of fused kernels.
EAGER_PASSES = 1.75

# Fitted, weakly: 0 to 0.3 fit alike. SMs and HBM that NCCL's kernels take from computation that runs
# meanwhile: compute is longer by this share of the overlapped exchange.
OVERLAP_SLOWDOWN = 0.2

# Passes of PyTorch's multi-tensor optimizer over what one ideal kernel reads and writes. Assumed.
OPTIMIZER_PASSES = 1.5


def flash_2_fraction(architecture: str) -> Chosen[float]:
    """The share of the profile's curve that FlashAttention-2 reaches; on an unknown device as on Ampere.

    On Blackwell as on Hopper, whose own kernels are as much faster.
    """
    what = "the share of the peak of attention kernels older than FlashAttention-3"
    stand_in = "Hopper" if architecture == "Blackwell" else "Ampere"
    return by_architecture(FLASH_2_FRACTIONS, architecture, what, stand_in=stand_in)


# The kernel behind each word of ``training.attention``; flash is whatever the device has.
ATTENTION_KERNELS_BY_WORD = {
    "flash": "",
    "flash_2": "flash_attention_2",
    "flash_triton": "flash_triton",
    "flash_1": "flash_attention_1",
    "standard": "",
}
FITTED_CAPABILITY = "8.0"  # of the A100s that the constants above were fitted to


def used_by_step(shape: StepShape) -> Used:
    """What a step takes of its device's figures: the curves and laws below, and constants fitted on A100s."""
    hardware, split = shape.hardware, shape.parallelism.tensor_parallel_size
    tokens = float(shape.tokens_per_micro_batch)
    law = gemm_operator("none", False, shape.precision.peak)
    matrices = layer_matrices(shape.model, split)
    laws = tuple(
        AskedLaw(law=law, sizes={"m": tokens, "n": float(one.n), "k": float(one.k)})
        for one in matrices
        if law in hardware.kernels and one.num_experts == 1
    )
    curves = ["elementwise_memory"]
    curves += [] if law in hardware.kernels else ["gemm_compute", "gemm_memory"]
    curves += (
        ["attention_prefill_compute"] if shape.attention != "standard" else ["gemm_compute", "gemm_memory"]
    )
    assumed = []
    if shape.attention in FLASH_FRACTIONS:
        assumed.append(flash_2_fraction(hardware.architecture).assumed)
    if hardware.compute_capability != FITTED_CAPABILITY:
        assumed.append("the share of its kernels' speed that a training step keeps, as on A100s")
    return together([Used(curves=tuple(curves), laws=laws, assumed=tuple(assumed))])


Pass = Literal["forward", "backward"]
FLASH_FRACTIONS = {"flash_2": 1.0, "flash_triton": FLASH_TRITON_FRACTION, "flash_1": FLASH_1_FRACTION}


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTimes:
    """Seconds of one pass through one layer on one GPU, by kind of work."""

    gemm_s: float = 0.0
    attention_s: float = 0.0
    elementwise_s: float = 0.0
    tensor_parallel_s: float = 0.0  # its collectives, not overlapped

    @property
    def total_s(self) -> float:
        """All of it, one after another."""
        return self.gemm_s + self.attention_s + self.elementwise_s + self.tensor_parallel_s


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTimes:
    """One layer and one micro-batch; ``recompute`` is what checkpointing adds to the backward pass."""

    forward: PassTimes
    backward: PassTimes
    recompute: PassTimes

    @property
    def forward_s(self) -> float:
        """Forward pass."""
        return self.forward.total_s

    @property
    def backward_s(self) -> float:
        """Backward pass with what it recomputes."""
        return self.backward.total_s + self.recompute.total_s


# Bytes per score of PyTorch's own kernels under autocast: scale and mask (2 + 2), softmax in float32 (2 + 4),
# back to 16 bits (4 + 2); backward: to float32 (2 + 4), softmax' gradient (8 + 2), mask and scale (2 + 2). Of
# several ways to count, this one was taken after FlashAttention-2's rows without FlashAttention were seen.
EAGER_SCORE_BYTES = {"forward": 16, "backward": 20}


def layer_times(shape: StepShape) -> LayerTimes:
    """The mean layer of the model: matrices that only some layers have (experts) count by their share."""
    forward = PassTimes(
        gemm_s=_gemms_s(shape, "forward"),
        attention_s=attention_s(shape, "forward"),
        elementwise_s=_elementwise_s(shape, "forward"),
        tensor_parallel_s=_tensor_parallel_s(shape, "forward"),
    )
    backward = PassTimes(
        gemm_s=_gemms_s(shape, "backward"),
        attention_s=attention_s(shape, "backward"),
        elementwise_s=_elementwise_s(shape, "backward"),
        tensor_parallel_s=_tensor_parallel_s(shape, "backward"),
    )
    return LayerTimes(forward=forward, backward=backward, recompute=_recompute(shape, forward))


def _recompute(shape: StepShape, forward: PassTimes) -> PassTimes:
    """selective: the attention core again; full and every_k: the whole forward pass again.

    Under every_k a segment's last layers need not be kept either, so the time is that of full.
    """
    if shape.activation_checkpointing == "none":
        return PassTimes()
    if shape.activation_checkpointing == "selective":
        return PassTimes(attention_s=forward.attention_s)
    return forward


def gemm_s(shape: StepShape, matrix: Matrix, tokens: float, which: Pass) -> float:
    """Seconds of a linear layer's GEMMs for ``tokens``: one forward; two backward, one if it is frozen.

    Experts see their share of the tokens and are launched one by one, as grouped GEMMs without gain.
    """
    rows = max(tokens * matrix.experts_per_token / matrix.num_experts, 1.0)
    n, k = float(matrix.n), float(matrix.k)
    sizes = [(rows, n, k)]
    if which == "backward":
        sizes = [(rows, k, n)] if shape.adapter is not None else [(rows, k, n), (n, k, rows)]
    return matrix.num_experts * sum(_each_gemm_s(shape, sizes))


def _each_gemm_s(shape: StepShape, each: list[tuple[float, float, float]]) -> list[float]:
    """By the profile's kernel law where it has one for 16-bit GEMMs, else by its efficiency curves."""
    m, n, k = np.array(each).T
    precision, hardware = shape.precision, shape.hardware
    width = 1 if precision.peak == "float8" else precision.activation_bytes
    sizes = {"m": m, "n": n, "k": k, "value_bytes": 2.0, "weight_bits": 16.0, "copies": NEVER_HOT}
    law = gemm_operator("none", False, precision.peak)
    operator = Operator(
        name="gemm",
        count=1,
        flops=2 * m * n * k,
        hbm_bytes=(m * k + k * n) * width + m * n * precision.activation_bytes,
        peak=peak_of(shape),
        output=(m, n),
        law_s=law_s(hardware, law, sizes),
    )
    times = operator.times_s(hardware, hardware.kernel_launch_s, None)
    return [one / SUSTAINED_FRACTION for one in times.tolist()]


def peak_of(shape: StepShape) -> str:
    """The key of ``peak_flops_per_s``; refused where the device has no such units."""
    peak = shape.precision.peak
    if peak not in shape.hardware.peak_flops_per_s:
        raise CannotRun(
            f"{shape.hardware.name} has no {peak} rate",
            path="training.precision",
            given=shape.precision_name,
            allowed=", ".join(
                name for name, one in PRECISIONS.items() if one.peak in shape.hardware.peak_flops_per_s
            ),
        )
    return peak


def _gemms_s(shape: StepShape, which: Pass) -> float:
    """All projections of the mean layer."""
    tokens, layers = float(shape.tokens_per_micro_batch), shape.model.num_hidden_layers
    matrices = layer_matrices(shape.model, shape.parallelism.tensor_parallel_size)
    return sum(
        gemm_s(shape, matrix, tokens, which) * matrix.layers / layers
        for matrix in matrices
        if matrix.name != "lm_head"
    )


def attention_s(shape: StepShape, which: Pass) -> float:
    """The attention core of one layer: between the projections."""
    heads = shape.model.num_attention_heads / shape.parallelism.tensor_parallel_size
    pairs = shape.micro_batch_size * float(shape.max_seq_len) ** 2 * heads
    if shape.attention == "standard":
        return _standard_attention_s(shape, pairs, which)
    return _flash_attention_s(shape, pairs, which)


def _flash_attention_s(shape: StepShape, pairs: float, which: Pass) -> float:
    """Causal tiles only: 4 d FLOPs for half of the pairs forward, 2.5 times that backward (it recomputes S).

    The speed is the profile's curve for causal prefill; older kernels reach a share of it.
    """
    flops = 4 * pairs / 2 * shape.model.head_dim
    rate = shape.hardware.peak_flops_per_s[_attention_peak(shape)] * float(
        fractions(shape.hardware, "attention_prefill_compute", np.array([flops]))[0]
    )
    if shape.attention != "flash":
        rate *= FLASH_FRACTIONS[shape.attention] * flash_2_fraction(shape.hardware.architecture).value
    if which == "forward":
        return flops / rate / SUSTAINED_FRACTION
    return FLASH_BACKWARD_FLOPS * flops / (rate * FLASH_BACKWARD_FRACTION) / SUSTAINED_FRACTION


def _standard_attention_s(shape: StepShape, pairs: float, which: Pass) -> float:
    """Two batched GEMMs forward and four backward over the full square, and the passes over the scores.

    Bytes per score: QK^T writes it, softmax (scale and mask fused) reads and writes, dropout reads, writes
    and keeps a mask, PV reads. Backward: dP is written, dropout's and softmax' gradients pass over it, dQ and
    dK read dS, dV reads P. Without fused kernels softmax runs in float32 between two conversions.
    """
    width, d = shape.precision.activation_bytes, shape.model.head_dim
    gemm_bytes, passes = (2 * width, 2 * width) if which == "forward" else (4 * width, 3 * width)
    if not shape.fused_kernels:
        passes = EAGER_SCORE_BYTES[which]
    if shape.dropout:
        passes += 2 * width + 1
    num_gemms = 2 if which == "forward" else 4
    operator = Operator(
        name="scores",
        count=1,
        flops=np.array([2.0 * num_gemms * d * pairs]),
        hbm_bytes=np.array([gemm_bytes * pairs]),
        peak=_attention_peak(shape),
    )
    gemms = float(operator.times_s(shape.hardware, shape.hardware.kernel_launch_s, None)[0])
    return gemms / SUSTAINED_FRACTION + plain_traffic_s(shape, passes * pairs)


def _attention_peak(shape: StepShape) -> str:
    """FP8 recipes leave attention in bf16."""
    return "bfloat16" if shape.precision.peak == "float8" else peak_of(shape)


def traffic_s(shape: StepShape, num_bytes: float) -> float:
    """Seconds of passes over HBM, at the profile's rate of element-wise kernels."""
    num_bytes *= 1.0 if shape.fused_kernels else EAGER_PASSES
    return plain_traffic_s(shape, num_bytes)


def plain_traffic_s(shape: StepShape, num_bytes: float) -> float:
    """The same where passes are counted kernel by kernel."""
    if num_bytes <= 0:
        return 0.0
    rate = float(fractions(shape.hardware, "elementwise_memory", np.array([num_bytes]))[0])
    return num_bytes / (shape.hardware.hbm_bytes_per_s * rate)


def _elementwise_s(shape: StepShape, which: Pass) -> float:
    m, width, t = shape.model, shape.precision.activation_bytes, shape.parallelism.tensor_parallel_size
    tokens, outer = float(shape.tokens_per_micro_batch), 1 if not shape.parallelism.sequence_parallel else t
    whole = _outer_passes(shape, which) * m.hidden_size * width
    if shape.dropout:
        whole += 2 * m.hidden_size * (1 if which == "forward" else 2 * width + 1)
    inner = _inner_passes(shape, which) * width
    moved = tokens * (whole / outer + inner / t)
    moved += _format_bytes(shape, which)
    # Each norm, residual and activation kernel moves its own part: the curve is read at a part's size.
    return 4 * traffic_s(shape, moved / 4)


def _outer_passes(shape: StepShape, which: Pass) -> float:
    """Passes over the residual stream: norms (read, write) and residual additions (two read, one written).

    Backward: a norm reads its input and the gradient and writes one, the residual's gradient is added.
    """
    norms = shape.model.norms_per_layer
    return 2 * norms + 2 * 3 if which == "forward" else 3 * norms + 2 * 3


def _inner_passes(shape: StepShape, which: Pass) -> float:
    """Elements per token moved by the activation function and by rotary embeddings."""
    m = shape.model
    inner = m.intermediate_size
    if m.moe is not None:
        inner = m.moe.num_experts_per_tok * m.moe.moe_intermediate_size
    gated, plain = (3, 2) if which == "forward" else (5, 3)
    passes = gated if m.mlp_matrices == 3 else plain
    rotary = 0 if m.learned_positions else 2 * (m.num_attention_heads + m.num_key_value_heads) * m.head_dim
    return passes * inner + rotary


def _format_bytes(shape: StepShape, which: Pass) -> float:
    """Bytes per layer that the number format costs: weight copies, fp8 scaling, fake quantisation."""
    matrices = layer_matrices(shape.model, shape.parallelism.tensor_parallel_size)
    layers = shape.model.num_hidden_layers
    weights = sum(x.n * x.k * x.num_experts * x.layers for x in matrices if x.name != "lm_head") / layers
    inputs = sum(x.k * x.experts_per_token * x.layers for x in matrices if x.name != "lm_head") / layers
    precision, tokens = shape.precision, shape.tokens_per_micro_batch
    shards = shape.parallelism.data_parallel_size if shape.parallelism.zero_stage == 3 else 1
    moved = 0.0
    if which == "forward":
        moved += weights * precision.cast_bytes / shards
    moved += inputs * tokens * precision.activation_cast_bytes
    if shape.fake_quantise:
        both = fake_quantise_bytes(weights + inputs * tokens, precision.activation_bytes)
        moved += both[0] if which == "forward" else both[1]
    if shape.adapter is not None and shape.adapter.is_quantized:
        moved += dequantise_bytes(weights)
    return moved


def _tensor_parallel_s(shape: StepShape, which: Pass) -> float:
    """Two all-reduces of s b h a pass; with sequence parallelism as many bytes in two pairs of
    reduce-scatter and all-gather (the backward pass gathers inputs once more, behind the GEMMs).
    """
    t = shape.parallelism.tensor_parallel_size
    if t == 1:
        return 0.0
    width = shape.precision.activation_bytes
    size = float(shape.tokens_per_micro_batch) * shape.model.hidden_size * width
    fabric = fabric_of(shape.hardware)  # tensor-parallel groups fill nodes first
    if shape.parallelism.sequence_parallel:
        pair = nccl_cost("reduce_scatter", size, t, fabric).total_s
        return 2 * (pair + nccl_cost("all_gather", size, t, fabric).total_s)
    return 2 * nccl_cost("all_reduce", size, t, fabric).total_s
