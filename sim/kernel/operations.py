"""What a scenario's operation launches, and the memory that it needs: an entry of ``OPERATIONS`` each.

The entry is the only place that names an operation beside its field in ``KernelWork``: planning, checks,
tables and reports go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

from sim.errors import CannotRun, ScenarioError
from sim.hardware import HardwareProfile, Link
from sim.kernel.algorithms import ALGORITHMS
from sim.kernel.algorithms.elementwise import copy_launches, norm_launches
from sim.kernel.algorithms.gemm import gemm_launches
from sim.kernel.algorithms.problem import Problem, Tile
from sim.kernel.gpu import DTYPE_BYTES, Efficiency, Gpu, Library, efficiency_of, gemm_efficiency, gpu_of
from sim.kernel.launches import Launch
from sim.kernel.scenario import Attention, KernelWork
from sim.kernel.training_step import TrainingStepWork, checked_model
from sim.model.shape import ModelShape
from sim.price.figures import Used, together
from sim.scenario.dataclass import dataclass


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
    def used(self) -> Used:
        """What its launches took of the device's figures."""
        return together([self.gpu.used, *(launch.used for launch in self.launches)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One kind of work: its launches, its words, the tile keys that it reads, and the kernels it runs by.

    ``efficiency`` is (the kernels' name, how well they use the device, whether softmax is part of them).
    """

    plan: Callable[[Gpu, KernelWork, ModelShape | None], Plan]
    words: Callable[[KernelWork, ModelShape | None], str]
    efficiency: Callable[[KernelWork, HardwareProfile], tuple[str, Efficiency, bool]]
    tile_keys: Callable[[KernelWork], tuple[str, ...]] = lambda _: ()


def operation_of(work: KernelWork) -> Operation:
    """The one operation that a scenario states."""
    given = [name for name in OPERATIONS if getattr(work, name) is not None]
    if len(given) != 1:
        raise ScenarioError(
            "a kernel scenario states one operation",
            path="kernel",
            given=", ".join(given) or "none",
            allowed=f"exactly one of {', '.join(OPERATIONS)}",
        )
    return OPERATIONS[given[0]]


def host_copy_bytes(work: KernelWork) -> float:
    """Bytes that cross the host link."""
    if work.copy is not None and work.copy.source != work.copy.target:
        return work.copy.size_bytes
    if work.kv_location == "dram" and work.attention is not None:
        problem = problem_of(work.attention)
        return 2.0 * problem.key_bytes * problem.kv_heads
    return 0.0


def host_link_of(hardware: HardwareProfile) -> Link:
    """The link to the host; refused where the profile has none."""
    if hardware.host_link is None:
        raise CannotRun(
            f"{hardware.name} has no known host link",
            path="hardware.host_link",
            allowed="{bytes_per_s: 63 GB/s, latency_s: 10 us}",
        )
    return hardware.host_link


def plan_of(hardware: HardwareProfile, work: KernelWork, model: ModelShape | None = None) -> Plan:
    """The operation's launches on this device; ``model`` is that of a training step."""
    return operation_of(work).plan(gpu_of(hardware), work, model)


# --- attention ----------------------------------------------------------------------------------


def problem_of(given: Attention) -> Problem:
    """Checked and resolved."""
    algorithm, num_kv_heads = ALGORITHMS[given.algorithm], given.num_kv_heads or given.num_heads
    if given.num_heads % num_kv_heads:
        raise ScenarioError(
            "every KV head serves equally many query heads",
            path="kernel.attention.num_kv_heads",
            given=num_kv_heads,
            allowed=f"a divisor of num_heads ({given.num_heads})",
        )
    return Problem(
        algorithm=given.algorithm,
        batch=given.batch,
        num_heads=given.num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=given.head_dim,
        seqlen=given.seqlen,
        seqlen_kv=given.seqlen_kv or given.seqlen,
        causal=given.causal,
        dtype=given.dtype,
        mask=given.mask,
        dropout=given.dropout,
        page_tokens=given.page_tokens,
        is_paged=algorithm.is_always_paged or given.layout == "paged",
        packs_heads=algorithm.packs_heads,
    )


def _attention(work: KernelWork) -> Attention:
    assert work.attention is not None
    return work.attention


def _attention_plan(gpu: Gpu, work: KernelWork, model: ModelShape | None) -> Plan:
    given, problem = _attention(work), problem_of(_attention(work))
    algorithm = ALGORITHMS[given.algorithm]
    forward, backward = given.direction != "backward", given.direction != "forward"
    if backward and not algorithm.has_backward:
        raise ScenarioError(
            "decoding has no backward pass",
            path="kernel.attention.direction",
            given=given.direction,
            allowed="forward",
        )
    launches: list[Launch] = []
    if forward:
        launches += algorithm.launches(gpu, problem, work.tile, "forward")
    if backward:
        launches += algorithm.launches(gpu, problem, work.tile, "backward")
    tensors = 2 * problem.heads * problem.query_bytes + 2 * problem.kv_heads * problem.key_bytes
    return Plan(
        gpu=gpu,
        launches=tuple(launches),
        dtype=given.dtype,
        tensor_bytes=tensors * (2 if backward else 1),
        extra_bytes=algorithm.extra_bytes(problem, launches, given.direction),
        flops=forward * problem.forward_flops + backward * problem.backward_flops,
    )


def _attention_words(work: KernelWork, model: ModelShape | None) -> str:
    one = _attention(work)
    return f"{one.algorithm} {one.direction} {one.batch}x{one.num_heads}x{one.seqlen}x{one.head_dim}"


def _attention_efficiency(work: KernelWork, hardware: HardwareProfile) -> tuple[str, Efficiency, bool]:
    return _of_algorithm(_attention(work).algorithm, hardware, is_paged=_attention(work).layout == "paged")


def _of_algorithm(name: str, hardware: HardwareProfile, *, is_paged: bool) -> tuple[str, Efficiency, bool]:
    generation = ALGORITHMS[name].generation_of(is_paged=is_paged)
    return generation.name, generation.on(hardware), not isinstance(generation, Library)


# --- products, norms, copies --------------------------------------------------------------------


def _gemm_plan(gpu: Gpu, work: KernelWork, model: ModelShape | None) -> Plan:
    given = work.gemm
    assert given is not None
    size = DTYPE_BYTES[given.dtype]
    efficiency = gemm_efficiency(gpu.profile, given.dtype, given.weight_bits)
    launches = gemm_launches(gpu, efficiency, given, work.tile)
    weights = given.n * given.k * (given.weight_bits or 8 * size) // 8
    return Plan(
        gpu=gpu,
        launches=tuple(launches),
        dtype=given.dtype,
        tensor_bytes=given.batch * (weights + given.m * (given.n + given.k) * size),
        extra_bytes=launches[0].writes.get("partial", 0),
        flops=2.0 * given.m * given.n * given.k * given.batch,
    )


def _gemm_words(work: KernelWork, model: ModelShape | None) -> str:
    assert work.gemm is not None
    return f"gemm {work.gemm.m}x{work.gemm.n}x{work.gemm.k}"


def _gemm_efficiency(work: KernelWork, hardware: HardwareProfile) -> tuple[str, Efficiency, bool]:
    assert work.gemm is not None
    return "gemm", gemm_efficiency(hardware, work.gemm.dtype, work.gemm.weight_bits), False


def _norm_plan(gpu: Gpu, work: KernelWork, model: ModelShape | None) -> Plan:
    given = work.norm
    assert given is not None
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


def _copy_plan(gpu: Gpu, work: KernelWork, model: ModelShape | None) -> Plan:
    given = work.copy
    assert given is not None
    on_device = given.source == given.target == "hbm"
    launches = copy_launches(gpu, efficiency_of("stream", gpu.profile), given) if on_device else []
    return Plan(
        gpu=gpu,
        launches=tuple(launches),
        dtype="float32",
        tensor_bytes=(1 + on_device) * int(given.size_bytes),
        extra_bytes=0,
        flops=0.0,
    )


def _stream_efficiency(work: KernelWork, hardware: HardwareProfile) -> tuple[str, Efficiency, bool]:
    return "stream", efficiency_of("stream", hardware), False


# --- a training step ----------------------------------------------------------------------------


def _training_plan(gpu: Gpu, work: KernelWork, model: ModelShape | None) -> Plan:
    assert work.training_step is not None
    step = TrainingStepWork(gpu, work.training_step, checked_model(model))
    return Plan(
        gpu=gpu,
        launches=tuple(step.launches()),
        dtype="float16",
        tensor_bytes=step.state_bytes,
        extra_bytes=step.kept_bytes,
        flops=step.model_flops,
    )


def _training_words(work: KernelWork, model: ModelShape | None) -> str:
    step = work.training_step
    assert step is not None
    shape = f"{step.micro_batch_size}x{step.seqlen} {step.attention} {step.kernels}"
    return f"{model.name if model else ''} step {shape}"


def _training_efficiency(work: KernelWork, hardware: HardwareProfile) -> tuple[str, Efficiency, bool]:
    assert work.training_step is not None
    return _of_algorithm(work.training_step.attention, hardware, is_paged=False)


OPERATIONS: Mapping[str, Operation] = {
    "attention": Operation(
        plan=_attention_plan,
        words=_attention_words,
        efficiency=_attention_efficiency,
        tile_keys=lambda work: ALGORITHMS[_attention(work).algorithm].tile_keys,
    ),
    "gemm": Operation(
        plan=_gemm_plan,
        words=_gemm_words,
        efficiency=_gemm_efficiency,
        tile_keys=lambda work: tuple(one.name for one in fields(Tile)),
    ),
    "norm": Operation(plan=_norm_plan, words=lambda *_: "rms_norm", efficiency=_stream_efficiency),
    "copy": Operation(plan=_copy_plan, words=lambda *_: "copy", efficiency=_stream_efficiency),
    "training_step": Operation(plan=_training_plan, words=_training_words, efficiency=_training_efficiency),
}
