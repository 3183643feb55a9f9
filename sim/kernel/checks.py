"""What must hold in a kernel scenario, beyond the bounds of its fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from sim.errors import ScenarioError
from sim.hardware.architecture import check_runs_on
from sim.kernel.algorithms import ALGORITHMS, training_algorithms
from sim.kernel.operations import Plan, host_copy_bytes, host_link_of, operation_of, plan_of
from sim.kernel.scenario import Attention, KernelScenario
from sim.scenario.place import Place

# A traced run has one event per tile and block: beyond this it is a scenario for the grouped device.
MAX_TRACED_BLOCKS = 4000


def check_kernel(scenario: KernelScenario, *, file: str) -> None:
    """What must hold in a kernel scenario; a tile that does not fit the device is refused here."""
    _check_kernel_exists(scenario, Place(file=file))
    try:
        plan = plan_of(scenario.hardware, scenario.kernel, scenario.model)
        if host_copy_bytes(scenario.kernel):
            host_link_of(scenario.hardware)
    except ScenarioError as error:
        raise _in_file(error, file) from None
    for refused in (*_unused(scenario), *_impossible(scenario, plan)):
        raise _in_file(refused, file)


def _check_kernel_exists(scenario: KernelScenario, place: Place) -> None:
    """A published attention kernel on a device that it was never built for."""
    work = scenario.kernel
    for part, one in (
        ("attention.algorithm", work.attention),
        ("training_step.attention", work.training_step),
    ):
        if one is None:
            continue
        name = one.algorithm if isinstance(one, Attention) else one.attention
        names = ALGORITHMS if isinstance(one, Attention) else training_algorithms()
        where = place.child("kernel").child(part)
        check_runs_on(name, scenario.hardware, where, given=name, names={each: each for each in names})


def _in_file(error: ScenarioError, file: str) -> ScenarioError:
    return error.told(file=error.file or file)


def _impossible(scenario: KernelScenario, plan: Plan) -> Iterator[ScenarioError]:
    """What no run can do."""
    work = scenario.kernel
    num_blocks = sum(launch.num_blocks * launch.repeats for launch in plan.launches)
    if work.trace and (num_blocks > MAX_TRACED_BLOCKS or work.training_step is not None):
        yield ScenarioError(
            "too many thread blocks to keep every tile",
            path="kernel.trace",
            given=num_blocks,
            allowed=f"at most {MAX_TRACED_BLOCKS:,} thread blocks of one operation",
            hint="trace: false, or a smaller shape",
        )
    if work.copy is not None and work.copy.source == work.copy.target == "dram":
        yield ScenarioError(
            "a copy from host to host never meets the GPU",
            path="kernel.copy",
            given="dram to dram",
            allowed="hbm to hbm, dram to hbm, hbm to dram",
        )


def _unused(scenario: KernelScenario) -> Iterator[ScenarioError]:
    """Keys that the operation does not read: a scenario that states one expects what it will not get."""
    work, attention = scenario.kernel, scenario.kernel.attention
    used = operation_of(work).tile_keys(work)
    for one in fields(work.tile):
        if getattr(work.tile, one.name) is not None and one.name not in used:
            yield ScenarioError(
                "this operation has no such tile size",
                path=f"kernel.tile.{one.name}",
                given=getattr(work.tile, one.name),
                allowed=", ".join(used) or "no tile: it chooses its own",
            )
    is_paged = attention is not None and attention.layout == "paged"
    if attention is not None and is_paged and ALGORITHMS[attention.algorithm].paged is None:
        paged = [name for name, one in ALGORITHMS.items() if one.paged is not None]
        yield ScenarioError(
            "no kernel of this algorithm reads a block table",
            path="kernel.attention.layout",
            given=f"paged, {attention.algorithm}",
            allowed="paged with " + ", ".join(paged) + "; paged_decode",
        )
    if work.kv_location == "dram" and attention is None:
        yield ScenarioError(
            "only an attention has K and V", path="kernel.kv_location", given="dram", allowed="hbm"
        )
    if scenario.model is not None and work.training_step is None:
        yield ScenarioError(
            "only a training step is that of a model",
            path="model",
            given=scenario.model.name,
            allowed="no model: the operation states its own sizes",
        )
