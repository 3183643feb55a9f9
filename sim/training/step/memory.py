"""Does a training step fit: one GPU's memory, line by line, and what to change where it does not.

Model states after ZeRO (Rajbhandari et al., arXiv 1910.02054): stage 1 splits optimizer states over the
data-parallel group, stage 2 gradients too, stage 3 weights too. Not modelled:
CPU and NVMe offload, peak-time buffers of single kernels beyond cuBLAS's, CUDA graphs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sim.errors import CannotRun, ScenarioError
from sim.model.counts import num_parameters
from sim.model.shape import ModelShape
from sim.price.memory_lines import GIB, MemoryLine
from sim.scenario.dataclass import dataclass
from sim.training.step.shape import StepShape, adapter_parameters, check_shape, frozen_weight_bytes

# Activations that wait for the backward pass: bytes per transformer layer and for the head.
#
# Itemised so that a GPT layer with dropout in 16 bits comes to s b h (34 + 5 a s / h), the formula of
# Korthikanti et al. (arXiv 2205.05198, equation 1): attention 11 s b h + 5 a s^2 b, MLP 19 s b h, norms
# 4 s b h.
# Grouped-query attention keeps fewer keys and values, a gated MLP three inner tensors in place of two,
# models without dropout no masks. Not modelled: FP8's smaller copies, activations offloaded to the host.

# What lies outside of PyTorch's allocator: the CUDA context's growth after start-up, cuBLAS and NCCL.
# vLLM's logs print 0.02 to 0.09 GiB on one GPU (0.07: vllm#21489) and 0.20 to 0.30 GiB on two
# (vllm#14447, vllm#15815).
NON_TORCH_BYTES, NON_TORCH_BYTES_OF_NCCL = 0.08 * GIB, 0.20 * GIB


MASK_BYTES = 1
LOGSUMEXP_BYTES = 4  # FlashAttention keeps one fp32 statistic per head and token


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerActivations:
    """Bytes of one layer's kept activations on one GPU, for one micro-batch."""

    replicated_bytes: float  # norms, GEMM inputs, masks: whole on every GPU unless sequence parallel
    split_bytes: float  # inside attention and MLP: split over the tensor-parallel group
    scores_bytes: float  # the quadratic part of standard attention, split by heads

    @property
    def total_bytes(self) -> float:
        """All of it."""
        return self.replicated_bytes + self.split_bytes + self.scores_bytes


def layer_activations(shape: StepShape) -> LayerActivations:
    """What a layer without recomputation keeps.

    TP: s b h (10 + 24/t + 5 a s / (h t)); with sequence parallelism all of it over t (equations 2 and 4).
    """
    m, width = shape.model, shape.precision.activation_bytes
    tokens, t = shape.tokens_per_micro_batch, shape.parallelism.tensor_parallel_size
    mask = MASK_BYTES if shape.dropout else 0
    # inputs of both norms, of qkv and of the MLP; masks of both residual dropouts
    replicated: float = tokens * m.hidden_size * (4 * width + 2 * mask)
    replicated += _norm_extra(m) * tokens * m.hidden_size * width
    if shape.parallelism.sequence_parallel:
        replicated /= t
    queries, keys = m.num_attention_heads * m.head_dim, m.num_key_value_heads * m.head_dim
    inside = width * (2 * queries + 2 * keys + inner_width(m, is_fused=shape.fused_kernels))
    scores = 0.0
    if shape.attention != "standard":
        inside += LOGSUMEXP_BYTES * m.num_attention_heads
    else:
        # softmax output, its dropout mask and the dropped-out probabilities; PyTorch's own softmax keeps
        # its output in float32 besides
        per_score = 2 * width + MASK_BYTES if shape.dropout else width
        per_score += 0 if shape.fused_kernels else 4
        scores = per_score * m.num_attention_heads * shape.max_seq_len * tokens / t
    return LayerActivations(replicated_bytes=replicated, split_bytes=tokens * inside / t, scores_bytes=scores)


def inner_width(m: ModelShape, *, is_fused: bool) -> float:
    """Elements per token that the MLP keeps inside: each inner tensor once per expert that a token visits.

    Plain: before and after the activation function. Gated: gate, up and their product, as the fused kernels
    of Megatron and Liger keep them; PyTorch's own keep the activated gate too.
    """
    gated = 3 if is_fused else 4
    inner_tensors = gated if m.mlp_matrices == 3 else 2
    if m.moe is None:
        return float(inner_tensors * m.intermediate_size)
    dense = m.num_dense_mlp_layers / m.num_hidden_layers
    visited = m.moe.num_experts_per_tok * m.moe.moe_intermediate_size
    visited += m.moe.shared_expert_intermediate_size
    return inner_tensors * (dense * m.intermediate_size + (1 - dense) * visited)


def _norm_extra(m: ModelShape) -> int:
    """Norms beyond two a layer (Gemma's), each keeping its input."""
    return max(0, m.norms_per_layer - 2)


def kept_layer_bytes(shape: StepShape) -> float:
    """What one layer keeps under the shape's checkpointing, averaged over layers.

    selective: without the quadratic part, which is recomputed; full: the layer's input, 2 s b h;
    every_k: one input per k layers (Chen et al., arXiv 1604.06174).
    """
    whole = layer_activations(shape)
    if shape.activation_checkpointing == "none":
        return whole.total_bytes
    if shape.activation_checkpointing == "selective":
        return whole.replicated_bytes + whole.split_bytes
    every = shape.checkpoint_every if shape.activation_checkpointing == "every_k" else 1
    return layer_input_bytes(shape) / every


def layer_input_bytes(shape: StepShape) -> float:
    """A layer's input, 2 s b h in 16 bits; sequence parallelism splits it too."""
    t = shape.parallelism.tensor_parallel_size if shape.parallelism.sequence_parallel else 1
    return shape.tokens_per_micro_batch * shape.model.hidden_size * shape.precision.activation_bytes / t


def recomputed_layer_bytes(shape: StepShape) -> float:
    """What comes back for a moment in the backward pass: a layer's activations, k layers' under every_k."""
    whole = layer_activations(shape)
    if shape.activation_checkpointing == "none":
        return 0.0
    if shape.activation_checkpointing == "selective":
        return whole.scores_bytes
    every = shape.checkpoint_every if shape.activation_checkpointing == "every_k" else 1
    return whole.total_bytes * min(every, shape.layers_per_stage)


def micro_batches_in_flight(shape: StepShape) -> float:
    """Micro-batches whose activations the first pipeline stage holds at once, in whole-stage units.

    1F1B: p of them; interleaved with v stages per GPU, p (1 + (p - 1)/(p v)) (Korthikanti, section 4.2.3).
    """
    p, v = shape.parallelism.pipeline_parallel_size, shape.parallelism.virtual_pipeline_size
    held = p * (1 + (p - 1) / (p * v)) if v > 1 else float(p)
    return min(held, float(shape.gradient_accumulation_steps)) if p > 1 else 1.0


def head_activations(shape: StepShape) -> float:
    """Outside the layers, on one stage: final norm, lm_head input, float32 logits, embedding's dropout mask.

    4 s b h (1 + v/h) in 16 bits (Korthikanti, section 4.3), over t. In pipelines the first stage has no
    logits, and the last has fewer micro-batches.
    """
    m, width = shape.model, shape.precision.activation_bytes
    tokens, t = shape.tokens_per_micro_batch, shape.parallelism.tensor_parallel_size
    if shape.parallelism.pipeline_parallel_size > 1:
        return tokens * m.hidden_size * (MASK_BYTES if shape.dropout else 0)
    hidden = 2 * m.hidden_size * width / (t if shape.parallelism.sequence_parallel else 1)
    return tokens * (hidden + 4 * m.vocab_size / t)


def activation_bytes(shape: StepShape) -> float:
    """All kept activations of the fullest GPU (the first pipeline stage), without momentary buffers."""
    layers = kept_layer_bytes(shape) * shape.layers_per_stage * micro_batches_in_flight(shape)
    return layers + head_activations(shape)


def selective_saving(shape: StepShape) -> float:
    """Share of a layer's activations that selective recomputation saves: (5as/h) / (34 + 5as/h) for GPT."""
    whole = layer_activations(shape)
    return whole.scores_bytes / whole.total_bytes


# Reserved by PyTorch's caching allocator but lost to fragments, as a share of what is allocated. ZeRO
# (section 6.3) reports out-of-memory with 30 % still free in extreme cases; our assumption for fixed shapes.
FRAGMENTATION_FRACTION = 0.05

# FSDP prefetches the next layer's weights while it computes with the current ones.
GATHERED_LAYERS = 2
# DDP and ZeRO-1/2 reduce gradients in buckets: two of PyTorch's default size are in flight.
BUCKET_BYTES = 25 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """One GPU's account. Every line is positive; ``room_bytes`` is what is left of the device."""

    lines: tuple[MemoryLine, ...]
    peak_memory_bytes: int
    hbm_bytes: int
    num_trained_parameters: float

    @property
    def room_bytes(self) -> int:
        """Bytes left, negative where it does not fit."""
        return self.hbm_bytes - self.peak_memory_bytes

    @property
    def fits(self) -> bool:
        """Whether the peak is below what the device has."""
        return self.room_bytes >= 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON: fields and lines by name."""
        lines = [{"label": x.label, "bytes": x.num_bytes, "formula": x.formula} for x in self.lines]
        return {
            "lines": lines,
            "peak_memory_bytes": self.peak_memory_bytes,
            "hbm_bytes": self.hbm_bytes,
            "room_bytes": self.room_bytes,
            "fits": self.fits,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStates:
    """Bytes of weights, gradients and optimizer states on one GPU."""

    weight_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    num_trained: float  # parameters with a gradient, per GPU before ZeRO

    @property
    def total_bytes(self) -> float:
        """All model states."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes


def model_states(shape: StepShape) -> ModelStates:
    """Weights, gradients and optimizer states of the fullest GPU.

    With K = optimizer bytes a parameter: ZeRO-1 4Ψ + KΨ/N, ZeRO-2 2Ψ + (2 + K)Ψ/N, ZeRO-3 (4 + K)Ψ/N.
    Tensor and pipeline parallelism split evenly; the stages' embeddings are spread over all of them.
    """
    precision, split = shape.precision, shape.parallelism
    shards = split.tensor_parallel_size * split.pipeline_parallel_size
    total = num_parameters(shape.model) / shards
    trained, weights = total, total * precision.weight_bytes
    if shape.adapter is not None:
        trained = adapter_parameters(shape.model, shape.adapter) / shards
        weights = frozen_weight_bytes(shape.model, shape.adapter, 2.0) / shards
        weights += trained * precision.weight_bytes
    copies = trained * precision.copy_bytes
    gradients = trained * precision.gradient_bytes
    kept = precision.bytes_per_parameter(shape.optimizer) - precision.weight_bytes - precision.gradient_bytes
    optimizer = trained * kept
    n = split.data_parallel_size
    return ModelStates(
        weight_bytes=(weights - copies) / n if split.zero_stage >= 3 else weights,
        gradient_bytes=gradients / n if split.zero_stage >= 2 else gradients,
        optimizer_bytes=optimizer / n if split.zero_stage >= 1 else optimizer,
        num_trained=trained,
    )


def training_memory(shape: StepShape) -> TrainingMemory:
    """The account at the peak, which is the start of the backward pass."""
    check_shape(shape)
    states = model_states(shape)
    lines = [*_state_lines(shape, states), *_activation_lines(shape), *_buffer_lines(shape)]
    allocated = sum(line.num_bytes for line in lines)
    lines.append(
        MemoryLine(
            label="fragmentation",
            num_bytes=int(allocated * FRAGMENTATION_FRACTION),
            formula=f"{FRAGMENTATION_FRACTION:.0%} of {allocated / 1e9:.1f} GB allocated",
        )
    )
    lines.append(_outside_line(shape))
    return TrainingMemory(
        lines=tuple(lines),
        peak_memory_bytes=sum(line.num_bytes for line in lines),
        hbm_bytes=shape.hardware.hbm_bytes,
        num_trained_parameters=states.num_trained,
    )


def render_training_memory(memory: TrainingMemory) -> str:
    """The account as text: label, GiB, GB and formula; then what is left, or missing."""
    rows = [_row(line.label, line.num_bytes, line.formula) for line in memory.lines]
    rows.append(_row("= peak", memory.peak_memory_bytes, "at the start of the backward pass"))
    word = "left" if memory.fits else "missing"
    rows.append(_row(word, abs(memory.room_bytes), f"of {memory.hbm_bytes / GIB:.2f} GiB"))
    return "\n".join(rows)


def _row(label: str, num_bytes: int, formula: str) -> str:
    return f"{label:<28}{num_bytes / GIB:>9.2f} GiB{num_bytes / 1e9:>9.2f} GB   {formula}"


def check_fits(shape: StepShape, *, file: str = "") -> TrainingMemory:
    """The account; refused with the numbers and the ways out where it does not fit."""
    memory = training_memory(shape)
    if memory.fits:
        return memory
    shown = "; ".join(
        f"{line.label} {line.num_bytes / 1e9:.1f} GB" for line in memory.lines if line.num_bytes >= 5e7
    )
    raise CannotRun(
        f"{shape.model.name} does not fit: {memory.peak_memory_bytes / 1e9:.1f} GB are needed on each "
        f"{shape.hardware.name}, {memory.hbm_bytes / 1e9:.1f} GB are there\n  {shown}",
        file=file,
        path="training",
        hint=", or ".join(ways_out(shape)) or "a smaller model, or hardware with more hbm_bytes",
    )


def ways_out(shape: StepShape) -> list[str]:
    """Single changes under which it would fit, the least costly first, each with its peak."""
    found = []
    for label, changed in _changes(shape):
        try:
            memory = training_memory(changed)
        except ScenarioError:
            continue
        if memory.fits:
            found.append(f"{label} ({memory.peak_memory_bytes / 1e9:.1f} GB)")
    if not found:
        smallest = _smallest(shape)
        if smallest is not None:
            found.append(smallest)
    return found[:4]


def _changes(shape: StepShape) -> list[tuple[str, StepShape]]:
    split = shape.parallelism
    changes = []
    if shape.attention == "standard":
        changes.append(("attention: flash", replace(shape, attention="flash")))
    for stage in (1, 2, 3):
        if stage > split.zero_stage and split.data_parallel_size > 1:
            changed = replace(shape, parallelism=replace(split, zero_stage=stage))
            changes.append((f"zero_stage: {stage}", changed))
    for kind in ("selective", "full"):
        if shape.activation_checkpointing in ("none", "selective") and kind != shape.activation_checkpointing:
            changed = replace(shape, activation_checkpointing=kind)
            changes.append((f"activation_checkpointing: {kind}", changed))
    size = shape.micro_batch_size // 2
    while size >= 1:
        changes.append((f"micro_batch_size: {size}", replace(shape, micro_batch_size=size)))
        size //= 2
    for tp in (2, 4, 8):
        if tp > split.tensor_parallel_size:
            changed = replace(shape, parallelism=replace(split, tensor_parallel_size=tp))
            changes.append((f"tensor_parallel_size: {tp}", changed))
    return changes


def _smallest(shape: StepShape) -> str | None:
    """Where no single change helps: full recomputation, ZeRO-3 and one sequence at a time, if that fits."""
    split = replace(shape.parallelism, zero_stage=3)
    changed = replace(
        shape, parallelism=split, micro_batch_size=1, activation_checkpointing="full", attention="flash"
    )
    memory = training_memory(changed)
    if not memory.fits:
        return None
    return (
        "zero_stage: 3 with activation_checkpointing: full and micro_batch_size: 1 "
        f"({memory.peak_memory_bytes / 1e9:.1f} GB)"
    )


def _state_lines(shape: StepShape, states: ModelStates) -> list[MemoryLine]:
    precision, split = shape.precision, shape.parallelism
    shards = split.tensor_parallel_size * split.pipeline_parallel_size
    over = f" / {shards} (tensor x pipeline)" if shards > 1 else ""

    def line(label: str, num_bytes: float, per_parameter: float, stage: int) -> MemoryLine:
        n = f" / {split.data_parallel_size} (ZeRO-{split.zero_stage})" if split.zero_stage >= stage else ""
        count = f"{states.num_trained * shards:,.0f} parameters x {per_parameter:g} B{over}{n}"
        return MemoryLine(label=label, num_bytes=int(num_bytes), formula=count)

    kept = precision.bytes_per_parameter(shape.optimizer) - precision.weight_bytes - precision.gradient_bytes
    copied = precision.copy_bytes if split.zero_stage >= 3 else 0
    weights = line("weights", states.weight_bytes, precision.weight_bytes - copied, 3)
    if shape.adapter is not None:
        held = "NF4 where quantised, else 16-bit" if shape.adapter.is_quantized else "16-bit"
        formula = f"{num_parameters(shape.model):,} frozen parameters, {held}{over}, and the adapters"
        weights = replace(weights, formula=formula)
    return [
        weights,
        line("gradients", states.gradient_bytes, precision.gradient_bytes, 2),
        line("optimizer states", states.optimizer_bytes, kept, 1),
    ]


def _activation_lines(shape: StepShape) -> list[MemoryLine]:
    per_layer, layers = kept_layer_bytes(shape), shape.layers_per_stage
    in_flight = micro_batches_in_flight(shape)
    formula = f"{layers:g} layers x {per_layer / 2**20:.1f} MiB"
    formula += f" x {in_flight:.2f} micro-batches in flight" if in_flight != 1 else ""
    lines = [
        MemoryLine(
            label="activations",
            num_bytes=int(activation_bytes(shape)),
            formula=f"{formula} ({shape.activation_checkpointing}), and outside the layers",
        )
    ]
    again = recomputed_layer_bytes(shape)
    if again:
        lines.append(
            MemoryLine(label="recomputed", num_bytes=int(again), formula="activations brought back at a time")
        )
    return lines


def _buffer_lines(shape: StepShape) -> list[MemoryLine]:
    """Gathered layers of ZeRO-3, else gradient buckets."""
    split = shape.parallelism
    if split.data_parallel_size == 1:
        return []
    if split.zero_stage < 3:
        return [
            MemoryLine(label="gradient buckets", num_bytes=2 * BUCKET_BYTES, formula="2 x 25 MiB in flight")
        ]
    layer = num_parameters(shape.model) / shape.model.num_hidden_layers / split.tensor_parallel_size
    width = shape.precision.activation_bytes
    return [
        MemoryLine(
            label="gathered layers",
            num_bytes=int(layer * (GATHERED_LAYERS * width + shape.precision.gradient_bytes)),
            formula=f"{GATHERED_LAYERS} layers x {layer:,.0f} parameters x {width} B, and one's gradients",
        )
    ]


def _outside_line(shape: StepShape) -> MemoryLine:
    nccl = NON_TORCH_BYTES_OF_NCCL if shape.parallelism.num_gpus > 1 else 0.0
    return MemoryLine(
        label="CUDA context, cuBLAS" + (", NCCL" if nccl else ""),
        num_bytes=int(NON_TORCH_BYTES + nccl),
        formula="0.08 GiB outside of PyTorch" + (" + 0.20 GiB for NCCL" if nccl else ""),
    )
