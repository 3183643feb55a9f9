"""What one training step is, before anything is priced: model, batch, split over GPUs, recomputation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile
from sim.model import ModelShape, check_tensor_parallel_size
from sim.training.finetune import Adapter
from sim.training.precision import Precision, precision_of

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
    if shape.model.mla is not None or shape.model.mamba is not None:
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
