"""One run of a kernel scenario: its launches, their time on the device, copies over the host link."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from simpy import Environment, Event, Resource

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile
from sim.kernel.algorithms.attention import DECODERS, attention_launches
from sim.kernel.algorithms.elementwise import copy_launches, norm_launches
from sim.kernel.algorithms.gemm import gemm_launches
from sim.kernel.algorithms.problem import STATISTIC_BYTES, Problem, problem_of
from sim.kernel.algorithms.standard import StandardAttention
from sim.kernel.device import GroupedDevice
from sim.kernel.every_block import BlockByBlockDevice
from sim.kernel.gpu import Gpu, efficiency_of, gemm_efficiency, gpu_of
from sim.kernel.launches import Launch
from sim.kernel.rates import PS_PER_S
from sim.kernel.records import LaunchRecord
from sim.kernel.scenario import (
    DTYPE_BYTES,
    Attention,
    Gemm,
    KernelScenario,
    KernelWork,
    Norm,
    Tile,
    TrainingStep,
)
from sim.kernel.training_step import TrainingStepWork, checked_model
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


def run_launches(
    launches: Sequence[Launch], sm_count: int, *, trace: bool = False, spans: bool = False
) -> list[LaunchRecord]:
    """The record of every launch. ``trace`` keeps every tile, ``spans`` every block's start and end.

    A launch that repeats runs once: each time is like the first, since a launch starts on an idle device.
    """
    env = Environment(initial_time=0)
    records: list[LaunchRecord] = []

    def stream() -> Generator[Event, object, None]:
        for launch in launches:
            yield env.timeout(round(launch.start_s * PS_PER_S) * launch.repeats)
            if trace:
                records.append((yield from BlockByBlockDevice(env, launch, sm_count).run()))
                continue
            device = GroupedDevice(env, launch, sm_count)
            device.keeps_spans = spans
            record = yield from device.run()
            if launch.repeats > 1:
                yield env.timeout((launch.repeats - 1) * (record.end_ps - record.start_ps))
            records.append(record.stretched(launch.repeats))

    env.process(stream())
    env.run()
    return records


NUM_CHUNKS = 8


def copy_ps(profile: HardwareProfile, size_bytes: float) -> int:
    """One pinned copy over the host link. Not modelled: pageable memory, which is slower."""
    link = profile.host_link
    if link is None:
        raise ScenarioError(
            f"{profile.name} has no known host link",
            path="hardware.host_link",
            allowed="{bytes_per_s: 63 GB/s, latency_s: 10 us}",
        )
    return round(((link.latency_s or 0.0) + size_bytes / link.bytes_per_s) * PS_PER_S)


def overlapped_ps(copy: int, kernel: int, num_chunks: int = NUM_CHUNKS) -> int:
    """Copy and kernel in ``num_chunks`` equal parts, a part computed once it has come."""
    env = Environment(initial_time=0)
    link, device = Resource(env, capacity=1), Resource(env, capacity=1)

    def part(copying: int, computing: int) -> Generator[Event, object, None]:
        with link.request() as turn:
            yield turn
            yield env.timeout(copying)
        with device.request() as turn:
            yield turn
            yield env.timeout(computing)

    for index in range(num_chunks):
        env.process(part(_share(copy, index, num_chunks), _share(kernel, index, num_chunks)))
    env.run()
    return int(env.now)


def _share(whole: int, index: int, parts: int) -> int:
    """Whole picoseconds that add up."""
    return whole * (index + 1) // parts - whole * index // parts


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelResult:
    """What one run left behind. ``records`` is empty where the device had not enough memory."""

    scenario: KernelScenario
    variant: str
    seed: int
    plan: Plan
    records: tuple[LaunchRecord, ...]
    kernel_ps: int
    host_copy_ps: int
    time_ps: int
    notes: tuple[str, ...]

    @property
    def memory_bytes(self) -> int:
        """Inputs, outputs and the peak of temporaries."""
        return self.plan.tensor_bytes + self.plan.extra_bytes

    @property
    def is_out_of_memory(self) -> bool:
        """The device's HBM cannot hold it."""
        return self.memory_bytes > self.plan.gpu.profile.hbm_bytes


def run_kernel(
    scenario: KernelScenario,
    *,
    variant: str = "base",
    seed: int = 1,
    base_dir: Path = Path("."),
    record_block_map: bool = False,
) -> KernelResult:
    """Simulates one variant. Nothing is drawn: every seed gives the same result."""
    del base_dir, record_block_map  # a kernel reads no files and has no KV block map
    work = scenario.kernel
    plan = plan_of(scenario.hardware, work, scenario.model)
    result = KernelResult(
        scenario=scenario,
        variant=variant,
        seed=seed,
        plan=plan,
        records=(),
        kernel_ps=0,
        host_copy_ps=0,
        time_ps=0,
        notes=plan.assumed,
    )
    if result.is_out_of_memory:
        return result
    records = tuple(run_launches(plan.launches, plan.gpu.sm_count, trace=work.trace))
    kernel_ps = records[-1].end_ps if records else 0
    copied = host_copy_bytes(scenario)
    host_ps = copy_ps(scenario.hardware, copied) if copied else 0
    time_ps = overlapped_ps(host_ps, kernel_ps) if host_ps and kernel_ps else host_ps + kernel_ps
    return KernelResult(
        scenario=scenario,
        variant=variant,
        seed=seed,
        plan=plan,
        records=records,
        kernel_ps=kernel_ps,
        host_copy_ps=host_ps,
        time_ps=time_ps,
        notes=plan.assumed,
    )


def host_copy_bytes(scenario: KernelScenario) -> float:
    """Bytes that cross the host link."""
    work = scenario.kernel
    if work.copy is not None and work.copy.source != work.copy.target:
        return work.copy.size_bytes
    if work.kv_location == "dram" and work.attention is not None:
        problem = problem_of(work.attention)
        return 2.0 * problem.key_bytes * problem.kv_heads
    return 0.0


def num_gpus(scenario: KernelScenario) -> int:
    """One GPU."""
    return 1


def bytes_by_tensor(result: KernelResult) -> dict[str, tuple[int, int]]:
    """(read, written) by tensor, all launches."""
    reads: Counter[str] = Counter()
    writes: Counter[str] = Counter()
    for launch in result.plan.launches:
        reads.update(launch.reads)
        writes.update(launch.writes)
    return {name: (reads[name], writes[name]) for name in {**reads, **writes}}


def bound_ps(result: KernelResult) -> Counter[str]:
    """Block-time by what held the blocks back, weighted so that a launch counts by its duration."""
    total: Counter[str] = Counter()
    for record in result.records:
        length = record.end_ps - record.start_ps
        for bound, spent in record.bound_ps.items():
            if record.block_ps:
                total[bound] += spent * length // record.block_ps
    return total
