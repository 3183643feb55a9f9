"""One run of a kernel scenario, and its numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sim.kernel.host_link import copy_ps, overlapped_ps
from sim.kernel.planning import Plan, plan_of
from sim.kernel.problem import problem_of
from sim.kernel.record import LaunchRecord
from sim.kernel.run_launches import run_launches
from sim.kernel.scenario import KernelScenario


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
