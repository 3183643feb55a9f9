"""What a ``kind: training`` scenario says, as frozen dataclasses (habits: ``sim.serving.scenario``).

A *worker* is one data-parallel replica: the GPUs of its tensor- and pipeline-parallel split act as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from sim.hardware import HardwareProfile
from sim.model.shape import ModelShape
from sim.scenario.dataclass import dataclass
from sim.scenario.distribution import Distribution
from sim.scenario.fields import Threshold, key
from sim.scenario.file import has_drawn_values
from sim.training.delays import DELAYS, StepVariation
from sim.training.exchange.algorithms import EXCHANGES
from sim.training.learning.sgd import LearningConfig
from sim.training.step.shape import Adapter, Parallelism, StepShape
from sim.training.sync import SyncConfig

if TYPE_CHECKING:
    from sim.results.comparison import ChosenLength, Comparison

# How a scenario asks for a scaling curve.

POWERS_OF_TWO = tuple(2**power for power in range(11))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingConfig:
    """The same job with other numbers of workers; each keeps its micro-batch (weak scaling)."""

    num_workers: tuple[int, ...] = key("how many, rising", default=POWERS_OF_TWO, ge=1, le=65_536)
    num_steps: int = key("steps that each of them does", default=20, ge=1, le=1_000_000)
    min_efficiency: float = key(
        "efficient_workers: how much of the smallest job's rate per worker is enough",
        default=0.8,
        gt=0,
        le=1,
    )


# How a scenario says that step times differ, and that workers fail.


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowLink:
    """One worker whose link to the others is slow all the time: a flapping NIC, a wrong cable or slot."""

    worker: int = key("which one, from 0", ge=0, le=65_535)
    slowdown: float = key("what its link takes per byte, times this", ge=1, le=1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Workers die at random. A collective job goes back to its last checkpoint, all of it."""

    mtbf_s: float = key("mean time between failures of one worker", gt=0)
    restart_s: float = key("from a failure until training goes on", default=0.0, ge=0)
    checkpoint_s: float = key("writing a checkpoint; training stands still", default=0.0, ge=0)
    interval_s: float | None = key(
        "training time between two checkpoints; default: Young's sqrt(2 checkpoint_s mtbf_s / num_workers)",
        default=None,
        gt=0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """The job: how many workers do what in a step. Names are PyTorch's, Hugging Face's and Megatron's."""

    num_workers: int = key("data-parallel workers", ge=1, le=65_536)
    num_steps: int = key("optimizer steps that each worker does", ge=1, le=10_000_000)
    micro_batch_size: int = key("sequences per micro-batch and worker", default=1, ge=1, le=1_000_000)
    gradient_accumulation_steps: int = key(
        "micro-batches per step and worker; all but the last run under no_sync", default=1, ge=1, le=100_000
    )
    max_seq_len: int | None = key(
        "tokens per sequence; default: 2048, or what the model can take", default=None, ge=1, le=10_000_000
    )
    precision: str = key(
        "fp32, tf32, amp_bf16, amp_fp16, bf16_mixed, fp16_mixed, bf16 or fp8", default="bf16_mixed"
    )
    optimizer: Literal["adamw", "sgd", "sgd_momentum"] = key(
        "which states a parameter keeps", default="adamw"
    )
    activation_checkpointing: Literal["none", "selective", "full", "every_k"] = key(
        "what the backward pass recomputes", default="none"
    )
    checkpoint_every: int = key("every_k: layers between kept inputs", default=1, ge=1, le=10_000)
    attention: Literal["flash", "flash_2", "flash_triton", "flash_1", "standard"] = key(
        "flash: scores stay in SRAM, the device's best kernel (flash_2, flash_triton, flash_1: that one); "
        "standard: scores are kept for the backward pass",
        default="flash",
    )
    fused_kernels: bool = key(
        "norms, activation functions and softmax fused as in Megatron-LM or by torch.compile; "
        "false: one kernel per PyTorch operator",
        default=False,
    )
    dropout: bool = key("dropout masks are kept for the backward pass", default=False)
    fake_quantise: bool = key("quantisation-aware training of weights and GEMM inputs", default=False)
    lora: Adapter | None = key("train adapters beside frozen weights", default=None)
    tensor_parallel_size: int = key("GPUs that split each layer of a worker", default=1, ge=1, le=1024)
    sequence_parallel: bool = key("Megatron's: norms and dropout are split too", default=False)
    pipeline_parallel_size: int = key("stages of a worker, 1F1B schedule", default=1, ge=1, le=1024)
    virtual_pipeline_size: int = key("interleaved stages per GPU", default=1, ge=1, le=1024)
    zero_stage: Literal[0, 1, 2, 3] = key(
        "sharded over the workers: 1 optimizer states, 2 gradients too, 3 weights too (FSDP)", default=0
    )
    gpus_per_node: int | None = key("default: the profile's", default=None, ge=1, le=1024)
    stepping: Literal["skip", "every_step"] = key(
        "skip: no event where nothing is decided; every_step: the reference, every step in SimPy",
        default="skip",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """Times given in place of the price: a job without a model, or one that was measured."""

    compute_s: float | None = key(
        "forward and backward of one step (all its micro-batches)", default=None, ge=0
    )
    forward_fraction: float = key("share of compute_s that is the forward pass", default=1 / 3, ge=0, le=1)
    optimizer_s: float = key("the optimizer's update, after the exchange", default=0.0, ge=0)
    gradient_bytes: int | None = key("what a worker exchanges; default: the model's", default=None, ge=0)
    host_s: float = key(
        "data_parallel_single_process: Python's time per replica and forward pass, under its lock",
        default=0.0,
        ge=0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeConfig:
    """How gradients meet. Independent of ``sync``, except that a collective needs all workers."""

    algorithm: str = key("who sends what to whom", default="nccl", choices=lambda: EXCHANGES)
    num_servers: int = key(
        "parameter_server: shards, each behind a NIC of its own", default=1, ge=1, le=65_536
    )
    bucket_cap_mb: float = key("DDP: MiB of gradients per bucket", default=25.0, gt=0, le=1_000_000)
    first_bucket_mb: float = key("DDP: MiB of the first bucket", default=1.0, gt=0, le=1_000_000)
    overlap: bool = key("all-reduce buckets while the backward pass goes on", default=True)
    chunks: bool = key("ring: simulate every chunk on every link, not the closed form", default=False)
    slow_links: tuple[SlowLink, ...] = key(
        "workers with a slow link; every collective goes at the slowest one's pace", default=()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingConfig:
    """How documents fill sequences of ``max_seq_len`` tokens."""

    strategy: Literal["longest", "maximum", "bucketing", "greedy", "first_fit_decreasing", "best_fit"] = key(
        "longest, maximum: padding, no packing; bucketing: like lengths together; the rest packs"
    )
    lengths: Distribution = key("tokens of a document")
    num_documents: int = key("documents that are drawn and packed", default=10_000, ge=1, le=10_000_000)
    attention: Literal["block_diagonal", "crossing"] = key(
        "block_diagonal: a token sees its own document only, FLOPs by the sum of squares",
        default="block_diagonal",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGroup:
    """Workers on another device than the scenario's."""

    hardware: HardwareProfile = key("a profile's name, a path to one, or one written out")
    num_workers: int = key("so many of the workers, the last ones", ge=1, le=65_536)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingScenario:
    """One question about a training job, fully stated."""

    schema_version: int = key("format of this file", ge=1)
    question: str = key("what the report answers")
    kind: Literal["training"] = key("what is simulated")
    seeds: tuple[int, ...] = key("one run per seed and variant", default=(1,), ge=0, le=2**32 - 1)
    hardware: HardwareProfile = key("a profile's name, a path to one, or one written out")
    model: ModelShape | None = key(
        "a shipped shape's name, or a config.json; needed for a price", default=None
    )
    training: TrainingConfig = key("the job")
    compute: ComputeConfig = key("times that are given, not priced", default=ComputeConfig())
    sync: SyncConfig = key("when a worker may go on", default=SyncConfig())
    exchange: ExchangeConfig = key("how gradients meet", default=ExchangeConfig())
    variation: StepVariation = key("how step times differ", default=StepVariation())
    packing: PackingConfig | None = key("how documents fill sequences", default=None)
    devices: tuple[DeviceGroup, ...] = key("workers on other devices", default=())
    failures: Failures | None = key("workers that die, and checkpoints", default=None)
    scaling: ScalingConfig | None = key("the same job with other numbers of workers", default=None)
    learning: LearningConfig | None = key("real SGD on the simulated schedule", default=None)
    thresholds: tuple[Threshold, ...] = key("bounds that make exit code 1", default=())
    precision: float | None = key(
        "chooses the length: num_steps doubles, 6 times at most, until the 95 % interval over the seeds "
        "of what answers reaches no further than this share of it to either side",
        default=None,
        ge=0.001,
        le=0.5,
    )


DEFAULT_MAX_SEQ_LEN = 2048


def max_seq_len(scenario: TrainingScenario) -> int:
    """Tokens per sequence: as given, or 2048 at most."""
    if scenario.training.max_seq_len is not None:
        return scenario.training.max_seq_len
    longest = scenario.model.max_position_embeddings if scenario.model else DEFAULT_MAX_SEQ_LEN
    return min(DEFAULT_MAX_SEQ_LEN, longest)


def tokens_per_step(scenario: TrainingScenario) -> int:
    """Tokens of one worker's step, padding included."""
    job = scenario.training
    return job.micro_batch_size * job.gradient_accumulation_steps * max_seq_len(scenario)


def gpus_per_worker(scenario: TrainingScenario) -> int:
    """GPUs of one data-parallel replica."""
    return scenario.training.tensor_parallel_size * scenario.training.pipeline_parallel_size


def num_gpus(scenario: TrainingScenario) -> int:
    """GPUs of the whole job."""
    return scenario.training.num_workers * gpus_per_worker(scenario)


def step_shape(scenario: TrainingScenario, hardware: HardwareProfile | None = None) -> StepShape:
    """The step that ``sim.training.step.time`` prices; on ``hardware`` in place of the scenario's."""
    job = scenario.training
    if scenario.model is None:
        raise ValueError("a step without a model has no shape")
    return StepShape(
        model=scenario.model,
        hardware=hardware or scenario.hardware,
        max_seq_len=max_seq_len(scenario),
        micro_batch_size=job.micro_batch_size,
        gradient_accumulation_steps=job.gradient_accumulation_steps,
        precision_name=job.precision,
        optimizer=job.optimizer,
        activation_checkpointing=job.activation_checkpointing,
        checkpoint_every=job.checkpoint_every,
        attention=job.attention,
        dropout=job.dropout,
        fused_kernels=job.fused_kernels,
        fake_quantise=job.fake_quantise,
        adapter=job.lora,
        parallelism=Parallelism(
            data_parallel_size=job.num_workers,
            tensor_parallel_size=job.tensor_parallel_size,
            sequence_parallel=job.sequence_parallel,
            pipeline_parallel_size=job.pipeline_parallel_size,
            virtual_pipeline_size=job.virtual_pipeline_size,
            zero_stage=job.zero_stage,
        ),
    )


def draws(scenario: TrainingScenario) -> bool:
    """Whether another seed gives other numbers."""
    variation = scenario.variation
    by_chance = (variation.markov, variation.data_loader, scenario.failures, scenario.learning)
    if DELAYS[variation.distribution].is_random or any(one is not None for one in by_chance):
        return True
    return has_drawn_values(scenario.packing)


def chosen_length(scenario: TrainingScenario, headline: Callable[[Comparison], str]) -> ChosenLength | None:
    """How ``precision`` chooses the length of a training run; None where its length is given."""
    if scenario.precision is None:
        return None
    from sim.results.comparison import ChosenLength

    job, why_not = scenario.training, None
    if scenario.learning is not None:
        why_not = "with learning the length decides what is learned"
    elif scenario.scaling is not None:
        why_not = "scaling has a number of steps of its own"
    return ChosenLength(
        precision=scenario.precision,
        why_not=why_not,
        sought=lambda comparison, variant: (headline(comparison),),
        lengthened=lambda factor: replace(scenario, training=replace(job, num_steps=job.num_steps * factor)),
        said=lambda factor: f"{job.num_steps * factor:,} steps",
    )
