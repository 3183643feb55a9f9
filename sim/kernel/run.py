"""One run of a kernel scenario: its launches, their time on the device, copies over the host link."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path

from simpy import Environment, Event, Resource

from sim.hardware import HardwareProfile
from sim.kernel.device import GroupedDevice
from sim.kernel.every_block import BlockByBlockDevice
from sim.kernel.launches import Launch
from sim.kernel.operations import Plan, host_copy_bytes, host_link_of, plan_of
from sim.kernel.rates import PS_PER_S, compute_s
from sim.kernel.records import LaunchRecord
from sim.kernel.scenario import KernelScenario
from sim.scenario.dataclass import dataclass


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
    link = host_link_of(profile)
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
    """Part ``index`` of ``parts``, in whole picoseconds: all parts add up to the whole."""
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
        notes=(),
    )
    if result.is_out_of_memory:
        return result
    records = tuple(run_launches(plan.launches, plan.gpu.sm_count, trace=work.trace))
    kernel_ps = records[-1].end_ps if records else 0
    copied = host_copy_bytes(work)
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
        notes=_notes(scenario, copied),
    )


def _notes(scenario: KernelScenario, copied_bytes: float) -> tuple[str, ...]:
    """What the profile does not know, and what was taken in its place."""
    hardware = scenario.hardware
    found = []
    if copied_bytes and hardware.host_link is not None and hardware.host_link.latency_s is None:
        found.append(f"hardware.host_link.latency_s of {hardware.name} is unknown: 0 is taken")
    return tuple(found)


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


def l2_share(result: KernelResult) -> float:
    """Of the block-time that waits for memory, what waits in launches that L2 limits, not HBM."""
    waits = {True: 0.0, False: 0.0}
    for launch, record in zip(result.plan.launches, result.records, strict=True):
        if record.block_ps:
            spent = record.bound_ps["memory"] * (record.end_ps - record.start_ps) / record.block_ps
            waits[launch.is_limited_by_l2] += spent
    return waits[True] / (sum(waits.values()) or 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """How long a run would take if it had only to compute, or only to move its bytes: its two roofs.

    Both as its kernels use the device: the tensor cores' share of the peak and the softmax that is not
    hidden, the bandwidth that they stream at. Nothing waits, no SM is idle. ``vector_s`` of ``compute_s`` is
    what the tensor cores wait for. ``l2_s`` of ``memory_s`` is of the launches that L2 limits, not HBM.
    """

    compute_s: float
    memory_s: float
    vector_s: float = 0.0
    l2_s: float = 0.0


def alone(plan: Plan) -> Alone:
    """The sums over all blocks of all launches."""
    computing = tensor = moving = through_l2 = 0.0
    for launch in plan.launches:
        for kind, count in launch.grid:
            for phase in kind.phases:
                times = count * phase.iterations * launch.repeats
                computing += times * compute_s(phase.cost, 1)
                tensor += times * phase.cost.tensor_s
                moving += times * phase.cost.memory_s
                through_l2 += times * phase.cost.memory_s if launch.is_limited_by_l2 else 0.0
    sms = plan.gpu.sm_count
    return Alone(
        compute_s=computing / sms, memory_s=moving, vector_s=(computing - tensor) / sms, l2_s=through_l2
    )
