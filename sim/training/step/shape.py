"""What one training step is, before anything is priced: model, batch, split over GPUs, recomputation."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile
from sim.model.counts import check_tensor_parallel_size, num_parameters
from sim.model.matrices import Matrix, layer_matrices
from sim.model.shape import ModelShape
from sim.scenario.dataclass import dataclass
from sim.scenario.fields import key
from sim.scenario.not_modelled import unknown_word

# Number formats of training: what a parameter keeps, what GEMMs run in, what the format costs besides.

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
            unknown_word("precision", name, PRECISIONS),
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


# Fine-tuning with adapters: LoRA and QLoRA train two thin matrices beside each frozen one.

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


Checkpointing = Literal["none", "selective", "full", "every_k"]
# flash: the device's best kernels, which the profile's curve was measured on.
Attention = Literal["flash", "flash_2", "flash_triton", "flash_1", "standard"]
CHECKPOINTING: tuple[Checkpointing, ...] = ("none", "selective", "full", "every_k")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How a step is split over GPUs. GPUs = data x tensor x pipeline parallel size."""

    data_parallel_size: int = 1
    tensor_parallel_size: int = 1
    sequence_parallel: bool = False  # Megatron's: norms and dropout split along the sequence
    pipeline_parallel_size: int = 1
    virtual_pipeline_size: int = 1  # interleaved stages per GPU
    zero_stage: Literal[0, 1, 2, 3] = 0  # 3 is FSDP's FULL_SHARD

    @property
    def num_gpus(self) -> int:
        """GPUs of the job."""
        return self.data_parallel_size * self.tensor_parallel_size * self.pipeline_parallel_size


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """One optimizer step of one job."""

    model: ModelShape
    hardware: HardwareProfile
    max_seq_len: int
    micro_batch_size: int
    gradient_accumulation_steps: int = 1  # micro-batches per replica and optimizer step
    precision_name: str = "bf16_mixed"
    optimizer: str = "adamw"
    activation_checkpointing: Checkpointing = "none"
    checkpoint_every: int = 1  # layers between kept inputs, for every_k
    attention: Attention = "flash"
    dropout: bool = False
    fused_kernels: bool = False  # as in Megatron-LM or Apex; False: one kernel per PyTorch operator
    fake_quantise: bool = False  # quantisation-aware training of weights and GEMM inputs
    parallelism: Parallelism = field(default_factory=Parallelism)
    adapter: Adapter | None = None

    @property
    def precision(self) -> Precision:
        """The precision by its name."""
        return precision_of(self.precision_name)

    @property
    def tokens_per_micro_batch(self) -> int:
        """Tokens of one micro-batch on one replica."""
        return self.micro_batch_size * self.max_seq_len

    @property
    def global_batch_tokens(self) -> int:
        """Tokens of one optimizer step over all replicas."""
        replicas = self.parallelism.data_parallel_size
        return self.tokens_per_micro_batch * self.gradient_accumulation_steps * replicas

    @property
    def layers_per_stage(self) -> float:
        """Layers on one GPU's stage or stages."""
        return self.model.num_hidden_layers / self.parallelism.pipeline_parallel_size


def check_shape(shape: StepShape) -> None:
    """Refuse what cannot be: sizes below 1, splits that do not divide, shapes that are not modelled."""
    split = shape.parallelism
    sizes = {
        "training.max_seq_len": shape.max_seq_len,
        "training.micro_batch_size": shape.micro_batch_size,
        "training.gradient_accumulation_steps": shape.gradient_accumulation_steps,
        "training.checkpoint_every": shape.checkpoint_every,
        "training.num_workers": split.data_parallel_size,
        "training.tensor_parallel_size": split.tensor_parallel_size,
        "training.pipeline_parallel_size": split.pipeline_parallel_size,
        "training.virtual_pipeline_size": split.virtual_pipeline_size,
    }
    for path, size in sizes.items():
        if size < 1:
            raise ScenarioError("must be at least 1", path=path, given=size, allowed="1 and more")
    check_tensor_parallel_size(shape.model, split.tensor_parallel_size)
    layers, stages = shape.model.num_hidden_layers, split.pipeline_parallel_size * split.virtual_pipeline_size
    if stages > layers:
        raise ScenarioError(
            f"{shape.model.name} has {layers} layers, fewer than the pipeline's stages",
            path="training.pipeline_parallel_size",
            given=f"{split.pipeline_parallel_size} x virtual_pipeline_size {split.virtual_pipeline_size}",
            allowed=f"at most {layers} stages in all",
        )
    if shape.model.mla is not None or shape.model.has_state:
        raise ScenarioError(
            f"training of {shape.model.name} is not modelled: latent attention or Mamba layers",
            path="model",
            allowed="models with multi-head or grouped-query attention in every layer",
        )
    if split.sequence_parallel and split.tensor_parallel_size == 1:
        raise ScenarioError(
            "splits norms over a tensor-parallel group, and there is none",
            path="training.sequence_parallel",
            given=True,
            hint="tensor_parallel_size: 2 or more",
        )
