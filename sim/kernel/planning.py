"""From a scenario's operation to the launches that carry it out, and the memory that they need."""

from __future__ import annotations

from dataclasses import dataclass

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile
from sim.kernel.attention import DECODERS, attention_launches
from sim.kernel.efficiency import efficiency_of, gemm_efficiency
from sim.kernel.elementwise import copy_launches, norm_launches
from sim.kernel.gemm import gemm_launches
from sim.kernel.gpu import Gpu, gpu_of
from sim.kernel.problem import STATISTIC_BYTES, Problem, problem_of
from sim.kernel.scenario import DTYPE_BYTES, Attention, Gemm, KernelWork, Norm, Tile, TrainingStep
from sim.kernel.standard import StandardAttention
from sim.kernel.training_step import TrainingStepWork, checked_model
from sim.kernel.work import Launch
from sim.model import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The launches in order, the inputs and outputs, and the peak of what is neither."""

    gpu: Gpu
    launches: tuple[Launch, ...]
    dtype: str
    tensor_bytes: int
    extra_bytes: int
    flops: float

    @property
    def assumed(self) -> tuple[str, ...]:
        """What no table has of this device's architecture, and what stands in for it."""
        found = dict.fromkeys((self.gpu.assumed, *(launch.assumed for launch in self.launches)))
        return tuple(text for text in found if text)


def plan_of(hardware: HardwareProfile, work: KernelWork, model: ModelShape | None = None) -> Plan:
    """The operation's launches on this device; ``model`` is that of a training step."""
    gpu = gpu_of(hardware)
    every = (work.attention, work.gemm, work.norm, work.copy, work.training_step)
    given = [one for one in every if one is not None]
    if len(given) != 1:
        raise ScenarioError(
            "a kernel scenario states one operation",
            path="kernel",
            given=", ".join(type(one).__name__.lower() for one in given) or "none",
            allowed="exactly one of attention, gemm, norm, copy, training_step",
        )
    if work.attention is not None:
        return _attention_plan(gpu, work.attention, work.tile)
    if work.gemm is not None:
        return _gemm_plan(gpu, work.gemm, work.tile)
    if work.norm is not None:
        return _norm_plan(gpu, work.norm)
    if work.training_step is not None:
        return _training_plan(gpu, work.training_step, model)
    assert work.copy is not None
    size = int(work.copy.size_bytes)
    on_device = work.copy.source == work.copy.target == "hbm"
    launches = copy_launches(gpu, efficiency_of("stream", hardware), work.copy) if on_device else []
    return Plan(
        gpu=gpu,
        launches=tuple(launches),
        dtype="float32",
        tensor_bytes=(1 + on_device) * size,
        extra_bytes=0,
        flops=0.0,
    )


def _attention_plan(gpu: Gpu, given: Attention, tile: Tile) -> Plan:
    problem = problem_of(given)
    launches: list[Launch] = []
    if given.direction != "backward":
        launches += attention_launches(gpu, problem, tile, is_backward=False)
    if given.direction != "forward":
        launches += attention_launches(gpu, problem, tile, is_backward=True)
    forward, backward = given.direction != "backward", given.direction != "forward"
    tensors = 2 * problem.heads * problem.query_bytes + 2 * problem.kv_heads * problem.key_bytes
    return Plan(
        gpu=gpu,
        launches=tuple(launches),
        dtype=given.dtype,
        tensor_bytes=tensors * (2 if backward else 1),
        extra_bytes=_extra_bytes(gpu, problem, tile, launches),
        flops=forward * problem.forward_flops + backward * problem.backward_flops,
    )


def _extra_bytes(gpu: Gpu, problem: Problem, tile: Tile, launches: list[Launch]) -> int:
    """Temporaries: N × N tensors of standard attention; statistics and float32 sums of the others."""
    given = problem.given
    if given.algorithm == "standard":
        return StandardAttention(gpu, problem, efficiency_of("standard", gpu.profile)).extra_bytes(
            given.direction
        )
    rows = problem.heads * given.seqlen
    if given.algorithm in DECODERS:
        return sum(launches[0].writes.get(name, 0) for name in ("o_partial", "lse"))
    statistics = 2 if given.algorithm == "flash_attention_1" or given.direction != "forward" else 1
    sums = rows * given.head_dim * 4 if given.direction != "forward" else 0
    return statistics * rows * STATISTIC_BYTES + sums


def _gemm_plan(gpu: Gpu, given: Gemm, tile: Tile) -> Plan:
    size = DTYPE_BYTES[given.dtype]
    launches = gemm_launches(gpu, gemm_efficiency(gpu.profile, given.dtype, given.weight_bits), given, tile)
    weights = given.n * given.k * (given.weight_bits or 8 * size) // 8
    return Plan(
        gpu=gpu,
        launches=tuple(launches),
        dtype=given.dtype,
        tensor_bytes=given.batch * (weights + given.m * (given.n + given.k) * size),
        extra_bytes=launches[0].writes.get("partial", 0),
        flops=2.0 * given.m * given.n * given.k * given.batch,
    )


def _training_plan(gpu: Gpu, given: TrainingStep, model: ModelShape | None) -> Plan:
    step = TrainingStepWork(gpu, given, checked_model(model))
    return Plan(
        gpu=gpu,
        launches=tuple(step.launches()),
        dtype="float16",
        tensor_bytes=step.state_bytes,
        extra_bytes=step.kept_bytes,
        flops=step.model_flops,
    )


def _norm_plan(gpu: Gpu, given: Norm) -> Plan:
    size = DTYPE_BYTES[given.dtype]
    x = given.rows * given.columns * size
    return Plan(
        gpu=gpu,
        launches=tuple(norm_launches(gpu, efficiency_of("stream", gpu.profile), given)),
        dtype=given.dtype,
        tensor_bytes=2 * x + given.columns * size,
        extra_bytes=0 if given.is_fused else 2 * x + given.rows * 4,
        flops=0.0,
    )
