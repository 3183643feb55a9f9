"""Seconds of one training step on the profile, and how they split.

One micro-batch is a forward and a backward pass through the layers and the head; a step is the replica's
micro-batches, pipelined (1F1B) where there are stages, the exchange of gradients and weights as far as it
does not hide behind them, and the optimizer. MFU counts 6 P + 12 L h s FLOPs a token (arXiv 2204.02311,
appendix B), attention not halved for causality.
"""

from __future__ import annotations

from sim.model.counts import num_active_parameters, num_parameters
from sim.model.matrices import layer_matrices
from sim.price.collective import (
    NETWORK_HOP_S,
    Collective,
    Fabric,
    fabric_of,
    known_latency,
    nccl_cost,
    send_s,
)
from sim.price.layer import PassTimes
from sim.scenario.dataclass import dataclass
from sim.scenario.shared import Shared
from sim.training.step.layer import (
    OPTIMIZER_PASSES,
    OVERLAP_SLOWDOWN,
    LayerTimes,
    gemm_s,
    layer_times,
    peak_of,
    plain_traffic_s,
    traffic_s,
)
from sim.training.step.shape import (
    OPTIMIZER_STATE_BYTES,
    StepShape,
    adapter_parameters,
    check_shape,
    unscale_bytes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """One optimizer step. ``step_s`` = compute + exposed exchange + bubble + optimizer."""

    step_s: float
    compute_s: float  # forward, backward and recomputation of all micro-batches on one GPU, TP included
    tensor_parallel_s: float  # of compute_s
    recompute_s: float  # of compute_s
    bubble_s: float
    pipeline_send_s: float
    comm_s: float  # data-parallel exchange, hidden or not
    exposed_comm_s: float
    optimizer_s: float
    layer: LayerTimes
    head: LayerTimes
    tokens_per_s: float  # whole job
    tokens_per_s_per_gpu: float
    mfu: float
    hfu: float


def step_times(shape: StepShape) -> StepTimes:
    """Price one step of the shape."""
    check_shape(shape)
    layer, head = layer_times(shape), head_times(shape)
    layers, m = shape.layers_per_stage, shape.gradient_accumulation_steps
    # The last stage has the head; 1F1B runs at the slowest stage's pace only where it is the bottleneck, and
    # Megatron gives it no fewer layers: the head is counted there.
    forward = layers * layer.forward_s + head.forward_s
    backward = layers * layer.backward_s + head.backward_s
    compute = m * (forward + backward)
    bubble = bubble_fraction(shape) * compute
    sends = pipeline_send_s(shape)
    comm, exposed = exchange_s(shape, layer)
    optimizer = optimizer_s(shape)
    step = compute + bubble + sends + exposed + optimizer
    rate = shape.global_batch_tokens / step
    peak = shape.hardware.peak_flops_per_s[peak_of(shape)] * shape.parallelism.num_gpus
    recompute = m * layers * layer.recompute.total_s
    return StepTimes(
        step_s=step,
        compute_s=compute,
        tensor_parallel_s=m * layers * sum(x.tensor_parallel_s for x in _passes(layer)),
        recompute_s=recompute,
        bubble_s=bubble,
        pipeline_send_s=sends,
        comm_s=comm,
        exposed_comm_s=exposed,
        optimizer_s=optimizer,
        layer=layer,
        head=head,
        tokens_per_s=rate,
        tokens_per_s_per_gpu=rate / shape.parallelism.num_gpus,
        mfu=rate * model_flops_per_token(shape) / peak,
        hfu=rate * hardware_flops_per_token(shape) / peak,
    )


def _passes(layer: LayerTimes) -> tuple[PassTimes, ...]:
    return layer.forward, layer.backward, layer.recompute


def model_flops_per_token(shape: StepShape) -> float:
    """6 P + 12 L h s: P the parameters that a token uses, embeddings included as MosaicML counts.

    Frozen weights under LoRA take part forward and in the activations' gradient, 4 P, and have none of their
    own; the adapters count in full.
    """
    model = shape.model
    width = model.num_attention_heads * model.head_dim
    attention = 12 * model.num_hidden_layers * width * shape.max_seq_len
    if shape.adapter is not None:
        adapters = adapter_parameters(model, shape.adapter)
        return 4 * num_active_parameters(model) + 6 * adapters + attention
    return 6 * num_active_parameters(model) + attention


def hardware_flops_per_token(shape: StepShape) -> float:
    """With recomputation: full: one more forward pass (4/3); selective: the scores' products again."""
    flops = model_flops_per_token(shape)
    width = shape.model.num_attention_heads * shape.model.head_dim
    scores = 4 * shape.model.num_hidden_layers * width * shape.max_seq_len
    if shape.activation_checkpointing in ("full", "every_k"):
        adapters = adapter_parameters(shape.model, shape.adapter) if shape.adapter else 0
        return flops + 2 * (num_active_parameters(shape.model) + adapters) + scores
    return flops + scores if shape.activation_checkpointing == "selective" else flops


def bubble_fraction(shape: StepShape) -> float:
    """Idle share over busy time of 1F1B: (p - 1)/m, over v with interleaved stages (arXiv 2104.04473).

    As a share of the step this is (p - 1)/(m + p - 1).
    """
    split = shape.parallelism
    stages = split.pipeline_parallel_size
    return (stages - 1) / (shape.gradient_accumulation_steps * split.virtual_pipeline_size)


# float32 logits are made, normalised, and go back: cast (2 + 4), log-softmax (4 + 4), loss' gradient (4 + 4),
# cast back (4 + 2).
LOGIT_BYTES_FORWARD, LOGIT_BYTES_BACKWARD = 14, 14


def head_times(shape: StepShape) -> LayerTimes:
    """lm_head and the loss; the embedding's lookup is left out (one row a token)."""
    tokens, t = float(shape.tokens_per_micro_batch), shape.parallelism.tensor_parallel_size
    head = next(x for x in layer_matrices(shape.model, t) if x.name == "lm_head")
    logits = tokens * head.n
    return LayerTimes(
        forward=PassTimes(
            gemm_s=gemm_s(shape, head, tokens, "forward"),
            elementwise_s=traffic_s(shape, logits * LOGIT_BYTES_FORWARD),
        ),
        backward=PassTimes(
            gemm_s=gemm_s(shape, head, tokens, "backward"),
            elementwise_s=traffic_s(shape, logits * LOGIT_BYTES_BACKWARD),
        ),
        recompute=PassTimes(),
    )


def trained_parameters(shape: StepShape) -> float:
    """Parameters with a gradient on one GPU, before ZeRO splits them."""
    split = shape.parallelism
    total = num_parameters(shape.model)
    if shape.adapter is not None:
        total = adapter_parameters(shape.model, shape.adapter)
    return total / split.tensor_parallel_size / split.pipeline_parallel_size


def optimizer_s(shape: StepShape) -> float:
    """The update: gradient read, weight and states read and written, the 16-bit copy written.

    ZeRO updates each GPU's share only. Loss scaling's pass and gradient clipping (one read) come before.
    """
    precision, split = shape.precision, shape.parallelism
    owned = trained_parameters(shape) / (split.data_parallel_size if split.zero_stage >= 1 else 1)
    states = OPTIMIZER_STATE_BYTES[shape.optimizer] * precision.state_bytes / 4
    weight = precision.master_bytes or min(precision.weight_bytes, 4)
    copy = precision.weight_bytes if precision.master_bytes else 0
    moved = precision.gradient_bytes + 2 * (states + weight) + copy
    clipping = precision.gradient_bytes
    return plain_traffic_s(
        shape, owned * (moved * OPTIMIZER_PASSES + clipping) + unscale_bytes(precision, owned)
    )


def data_parallel_fabric(shape: StepShape) -> Fabric:
    """The fabric that a data-parallel group sees: tensor-parallel ranks fill a node first."""
    gpus = shape.hardware.gpus_per_node or 1
    return fabric_of(shape.hardware, max(1, gpus // shape.parallelism.tensor_parallel_size))


def exchange_s(shape: StepShape, layer: LayerTimes) -> tuple[float, float]:
    """Data-parallel exchange of a step: all of it, and what is not hidden behind the layers.

    ZeRO-3 gathers each layer's weights before its forward and its backward pass, the next while one computes,
    and reduce-scatters its gradients, in every micro-batch. ZeRO-0 to 2 exchange gradients in the last
    micro-batch's backward pass: all-reduce, or reduce-scatter and (after the update) an all-gather.
    """
    n = shape.parallelism.data_parallel_size
    if n == 1:
        return 0.0, 0.0
    if shape.parallelism.zero_stage == 3:
        return _sharded_exchange_s(shape, layer, n)
    return _gradient_exchange_s(shape, layer, n)


def _sharded_exchange_s(shape: StepShape, layer: LayerTimes, n: int) -> tuple[float, float]:
    fabric, layers = data_parallel_fabric(shape), shape.layers_per_stage
    held = num_parameters(shape.model) / shape.parallelism.tensor_parallel_size
    in_layer = held / shape.model.num_hidden_layers
    trained = trained_parameters(shape) / layers
    gather = nccl_cost("all_gather", in_layer * shape.precision.activation_bytes, n, fabric).total_s
    scatter = nccl_cost("reduce_scatter", trained * shape.precision.reduce_bytes, n, fabric).total_s
    forward = _hidden(layer.forward_s, gather)
    backward = _hidden(layer.backward_s, gather + scatter)
    # Nothing computes during the first gather of a pass and the last reduce-scatter.
    per_micro_batch = layers * (forward + backward) + gather + scatter
    comm = layers * (2 * gather + scatter)
    m = shape.gradient_accumulation_steps
    return m * comm, m * per_micro_batch


def _hidden(compute_s: float, comm_s: float) -> float:
    """What an exchange beside ``compute_s`` adds: its slowdown of the computation, and what sticks out."""
    overlapped = min(compute_s, comm_s)
    return OVERLAP_SLOWDOWN * overlapped + max(0.0, comm_s - compute_s * (1 + OVERLAP_SLOWDOWN))


def _gradient_exchange_s(shape: StepShape, layer: LayerTimes, n: int) -> tuple[float, float]:
    """One bucket per layer, sent when the layer's gradients are ready: done = max(done, ready) + its time."""
    fabric, layers = data_parallel_fabric(shape), round(shape.layers_per_stage)
    total_bytes = trained_parameters(shape) * shape.precision.reduce_bytes
    kind: Collective = "all_reduce" if shape.parallelism.zero_stage == 0 else "reduce_scatter"
    bucket = nccl_cost(kind, total_bytes / layers, n, fabric).total_s
    done, ready = 0.0, 0.0
    for _ in range(layers):
        ready += layer.backward_s
        done = max(done, ready) + bucket
    exposed = done - ready + OVERLAP_SLOWDOWN * max(0.0, layers * bucket - (done - ready))
    comm = layers * bucket
    if shape.parallelism.zero_stage:
        weights = trained_parameters(shape) * shape.precision.activation_bytes
        gather = nccl_cost("all_gather", weights, n, fabric).total_s
        comm, exposed = comm + gather, exposed + gather
    return comm, exposed


def pipeline_send_s(shape: StepShape) -> float:
    """Activations to the next stage and gradients back, once per micro-batch and virtual stage, not hidden.

    Tensor-parallel ranks send 1/t each over their own NIC (Megatron's scatter-gather, arXiv 2104.04473, 4.1).
    """
    split = shape.parallelism
    outer = shape.hardware.inter_node
    if split.pipeline_parallel_size == 1 or outer is None:
        return 0.0
    t = split.tensor_parallel_size
    size = shape.tokens_per_micro_batch * shape.model.hidden_size * shape.precision.activation_bytes / t
    once = send_s(size, known_latency(outer, NETWORK_HOP_S))
    return 2 * shape.gradient_accumulation_steps * split.virtual_pipeline_size * once


# What a simulated worker needs of a step: when each layer's gradients are ready, and how large they are.


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStep:
    """One replica's step on one GPU of it. Tuples go by parts in forward order: embedding, layers, head.

    A step is ``before_s`` (micro-batches whose gradients stay local under no_sync, pipeline bubble and
    sends), the last micro-batch's forward and backward pass, the exchange, ``optimizer_s``.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    gradient_bytes: tuple[int, ...]  # on the wire
    before_s: float
    optimizer_s: float

    @property
    def compute_s(self) -> float:
        """Everything but exchange and update."""
        return self.before_s + sum(self.forward_s) + sum(self.backward_s)

    @property
    def total_gradient_bytes(self) -> int:
        """What a replica's GPU exchanges."""
        return sum(self.gradient_bytes)


def worker_step(shape: StepShape) -> WorkerStep:
    """The step's parts. The embedding's own times are left out; a tied lm_head's gradient comes with it.

    Seeds, checks and runs of one process that ask for the same shape share them.
    """
    return _STEPS.get(shape, _worker_step)


def _worker_step(shape: StepShape) -> WorkerStep:
    check_shape(shape)
    layer, head = layer_times(shape), head_times(shape)
    layers = max(1, round(shape.layers_per_stage))
    forward = (0.0, *(layer.forward_s,) * layers, head.forward_s)
    backward = (0.0, *(layer.backward_s,) * layers, head.backward_s)
    once = sum(forward) + sum(backward)
    m = shape.gradient_accumulation_steps
    before = (m - 1) * once + bubble_fraction(shape) * m * once + pipeline_send_s(shape)
    return WorkerStep(
        forward_s=forward,
        backward_s=backward,
        gradient_bytes=_gradient_bytes(shape, layers),
        before_s=before,
        optimizer_s=optimizer_s(shape),
    )


def _gradient_bytes(shape: StepShape, layers: int) -> tuple[int, ...]:
    """Embedding, layers and head; the parts add up to the trained parameters x bytes on the wire."""
    total = trained_parameters(shape) * shape.precision.reduce_bytes
    model = shape.model
    if shape.adapter is not None:
        return (0, *_split(round(total), layers), 0)
    table = model.vocab_size * model.hidden_size / num_parameters(model) * total
    ends = round(table), 0 if model.tie_word_embeddings else round(table)
    return (ends[0], *_split(round(total) - sum(ends), layers), ends[1])


def _split(total: int, parts: int) -> tuple[int, ...]:
    """``total`` in nearly equal whole parts."""
    return tuple(total * (i + 1) // parts - total * i // parts for i in range(parts))


_STEPS: Shared[StepShape, WorkerStep] = Shared(128)
