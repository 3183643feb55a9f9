"""Seconds of one transformer layer, forward, backward and recomputed: the layer's one price, for training.

Operators, kernels and what they take are ``sim.price.layer``'s: three GEMMs a linear layer (output, gradient
of the input, gradient of the weight), attention, the passes of a kernel set. Added here: what recomputation,
number formats, adapters and sequence parallelism change. Not modelled: overlap of kernels, the allocator,
data loading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sim.errors import CannotRun
from sim.model.matrices import Matrix, layer_matrices
from sim.price.collective import fabric_of, nccl_cost
from sim.price.figures import AskedLaw, Used, together, used_by_operators
from sim.price.kernel_set import KernelSet, kernels_named
from sim.price.layer import LayerPrice, PassTimes
from sim.price.operators import Direction, StepCounter
from sim.price.priced import Precision as Widths
from sim.price.roofline import fractions
from sim.scenario.dataclass import dataclass
from sim.training.step.shape import PRECISIONS, StepShape, dequantise_bytes, fake_quantise_bytes

# The fitted constants of training step times: four numbers (``SUSTAINED_FRACTION``, ``EAGER_PASSES`` and the
# speed of ``flash_triton`` in ``sim.price.kernel_set``, ``OVERLAP_SLOWDOWN`` below), by the mean absolute MFU
# error over MosaicML's 61 FSDP runs on A100-80GB (llm-foundry, scripts/train/benchmarking, 8 to 64 GPUs): 4.3
# %. On runs that no fit has seen: median error 2.7 % over its 78 runs on A100-40GB (8 to 128 GPUs),
# Megatron-LM's iteration times (arXiv 2205.05198, table 5) within 4 %, FlashAttention-2's training table
# within 12 %.
# Taken for every device: on others than Ampere nothing was checked.

# Fitted, weakly: 0 to 0.3 fit alike. SMs and HBM that NCCL's kernels take from computation that runs
# meanwhile: compute is longer by this share of the overlapped exchange.
OVERLAP_SLOWDOWN = 0.2

# Passes of PyTorch's multi-tensor optimizer over what one ideal kernel reads and writes. Assumed.
OPTIMIZER_PASSES = 1.5


FITTED_CAPABILITY = "8.0"  # of the A100s that the constants above were fitted to


def kernels_of(shape: StepShape) -> KernelSet:
    """The kernels that a framework runs this step by: Megatron's where they are fused, else PyTorch's."""
    return kernels_named("megatron" if shape.fused_kernels else "pytorch", shape.attention)


def counter_of(shape: StepShape, kernels: KernelSet | None = None) -> StepCounter:
    """The step's counts; ``kernels``: others than the framework's own."""
    precision, is_eight_bit = shape.precision, peak_of(shape) == "float8"
    return StepCounter(
        model=shape.model,
        hardware=shape.hardware,
        precision=Widths(
            dtype="bfloat16" if is_eight_bit else precision.peak,  # FP8 recipes leave attention in bf16
            quantization="fp8" if is_eight_bit else "none",
            activation_bytes=precision.activation_bytes,
            kv_bytes=precision.activation_bytes,
        ),
        tensor_parallel_size=shape.parallelism.tensor_parallel_size,
        kernels=kernels or kernels_of(shape),
        has_dropout=shape.dropout,
        sequence_parallel=shape.parallelism.sequence_parallel,
    )


def layer_price(shape: StepShape, kernels: KernelSet | None = None) -> LayerPrice:
    """The mean layer of a micro-batch."""
    return LayerPrice(
        counter=counter_of(shape, kernels),
        sequences=float(shape.micro_batch_size),
        queries=float(shape.max_seq_len),
        trains_weights=shape.adapter is None,
        other_bytes=(_format_bytes(shape, "forward"), _format_bytes(shape, "backward")),
    )


def used_by_step(shape: StepShape) -> Used:
    """What a step takes of its device's figures: the curves and laws below, and constants fitted on A100s."""
    hardware, counter = shape.hardware, counter_of(shape)
    tokens = float(shape.tokens_per_micro_batch)
    matrices = layer_matrices(shape.model, counter.tensor_parallel_size)
    asked = [
        AskedLaw(law=law, sizes={"m": tokens, "n": float(one.n), "k": float(one.k)})
        for one in matrices
        if (law := counter.gemm_law(one)) and one.num_experts == 1
    ]
    if law := counter.attention_law("attention_prefill"):
        heads = {name: one for name, one in counter.head_sizes.items() if name != "kv_bytes"}
        asked.append(AskedLaw(law=law, sizes={**heads, "queries": float(shape.max_seq_len)}))
    price = layer_price(shape)
    operators = [*price.products("forward"), *price.attention("forward"), price.elementwise("forward")]
    assumed = [counter.kernels.attention_assumed(hardware)]
    if hardware.compute_capability != FITTED_CAPABILITY:
        assumed.append("the share of its kernels' speed that a training step keeps, as on A100s")
    return together([Used(laws=tuple(asked), assumed=tuple(assumed)), used_by_operators(operators)])


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


def layer_times(shape: StepShape, kernels: KernelSet | None = None) -> LayerTimes:
    """The mean layer of the model: matrices that only some layers have (experts) count by their share."""
    forward, backward = layer_price(shape, kernels).both()
    if shape.parallelism.sequence_parallel:
        summed = _gather_and_scatter_s(shape)
        forward = replace(forward, tensor_parallel_s=summed)
        backward = replace(backward, tensor_parallel_s=summed)
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


def gemm_s(shape: StepShape, matrix: Matrix, tokens: float, which: Direction) -> float:
    """Seconds of a linear layer's GEMMs for ``tokens``: one forward; two backward, one if it is frozen."""
    counter = counter_of(shape)
    price = LayerPrice(counter=counter, sequences=1.0, queries=tokens)
    if which == "forward":
        return price.seconds([counter.product(matrix, np.array([tokens]))])
    return price.seconds([counter.gradients(matrix, tokens, has_own=shape.adapter is None)])


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


def traffic_s(shape: StepShape, num_bytes: float) -> float:
    """Seconds of passes over HBM, at the profile's rate of element-wise kernels."""
    return plain_traffic_s(shape, num_bytes * kernels_of(shape).pass_factor)


def plain_traffic_s(shape: StepShape, num_bytes: float) -> float:
    """The same where passes are counted kernel by kernel."""
    if num_bytes <= 0:
        return 0.0
    rate = float(fractions(shape.hardware, "elementwise_memory", np.array([num_bytes]))[0])
    return num_bytes / (shape.hardware.hbm_bytes_per_s * rate)


def _format_bytes(shape: StepShape, which: Direction) -> float:
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
    if not _law_quantises(shape, matrices):
        moved += inputs * tokens * precision.activation_cast_bytes
    if shape.fake_quantise:
        both = fake_quantise_bytes(weights + inputs * tokens, precision.activation_bytes)
        moved += both[0] if which == "forward" else both[1]
    if shape.adapter is not None and shape.adapter.is_quantized:
        moved += dequantise_bytes(weights)
    return moved


def _law_quantises(shape: StepShape, matrices: Sequence[Matrix]) -> bool:
    """Whether the law of the step's products was fitted with the pass that makes their 8-bit inputs."""
    counter = counter_of(shape)
    laws = {counter.gemm_law(matrix) for matrix in matrices} - {""}
    return any("quantize_start_s" in shape.hardware.kernels[law].constants for law in laws)


def _gather_and_scatter_s(shape: StepShape) -> float:
    """Sequence parallelism: as many bytes as a pass's two all-reduces, in two pairs of reduce-scatter and
    all-gather (the backward pass gathers inputs once more, behind the GEMMs).
    """
    t = shape.parallelism.tensor_parallel_size
    size = float(shape.tokens_per_micro_batch) * shape.model.hidden_size * shape.precision.activation_bytes
    fabric = fabric_of(shape.hardware)  # tensor-parallel groups fill nodes first
    pair = nccl_cost("reduce_scatter", size, t, fabric).total_s
    return 2 * (pair + nccl_cost("all_gather", size, t, fabric).total_s)
