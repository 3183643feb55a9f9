"""What depends on a device's architecture, and what stands in where a table does not have it.

A table by architecture (``HardwareProfile.architecture``) or by compute capability is read through
``by_architecture`` or ``sm_facts``: another architecture's figures are taken only with a sentence that says
so, which goes into the run's notes and its report. A new GPU therefore needs its YAML file and no line here;
a line here (or in one of those tables) replaces the assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from sim.hardware.profile import HardwareProfile

Figure = TypeVar("Figure")
# Kernels were measured on these; the first of them that a table has stands in for one that it lacks.
STAND_INS = ("Hopper", "Ampere", "Ada", "Blackwell")
# An architecture that no kernel was measured on: Ampere's, the oldest that was.
STAND_INS_FOR_UNKNOWN = ("Ampere", "Hopper", "Ada", "Blackwell")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen(Generic[Figure]):
    """A figure, and where it is another architecture's: a sentence that says so ("" where it is not)."""

    value: Figure
    assumed: str = ""


def by_architecture(
    table: Mapping[str, Figure], architecture: str, what: str, *, stand_in: str = ""
) -> Chosen[Figure]:
    """The entry for ``architecture``, or the one that stands in for it, said to be assumed.

    ``table`` must have ``stand_in``, or where none is named at least one of ``STAND_INS``.
    """
    if architecture in table:
        return Chosen(value=table[architecture])
    order = STAND_INS if architecture in STAND_INS else STAND_INS_FOR_UNKNOWN
    name = stand_in or next(name for name in order if name in table)
    return Chosen(
        value=table[name],
        assumed=f"assumed: {what} is not known for {architecture or 'this architecture'}; {name}'s stands in",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SmFacts:
    """An SM as the CUDA C++ Programming Guide's technical specifications per compute capability have it.

    ``multicast_fraction``: L2 loads over SRAM fills of a GEMM's operands, where pairs of SMs share them.
    """

    max_warps: int  # resident on an SM
    max_blocks: int
    lanes: int  # FP32 operations per clock
    multicast_fraction: float = 1.0


SM_FACTS: Mapping[str, SmFacts] = {
    "7.0": SmFacts(max_warps=64, max_blocks=32, lanes=64),
    "7.5": SmFacts(max_warps=32, max_blocks=16, lanes=64),
    "8.0": SmFacts(max_warps=64, max_blocks=32, lanes=64),
    "8.6": SmFacts(max_warps=48, max_blocks=16, lanes=128),
    "8.9": SmFacts(max_warps=48, max_blocks=24, lanes=128),
    "9.0": SmFacts(max_warps=64, max_blocks=32, lanes=128, multicast_fraction=0.5),
    "10.0": SmFacts(max_warps=64, max_blocks=32, lanes=128, multicast_fraction=0.5),
    "12.0": SmFacts(max_warps=48, max_blocks=24, lanes=128),
}
_ASSUMED_SM = SmFacts(max_warps=64, max_blocks=32, lanes=128)


def sm_facts(profile: HardwareProfile) -> Chosen[SmFacts]:
    """The facts of the profile's compute capability; of an unknown one a common SM's, said to be assumed."""
    found = SM_FACTS.get(profile.compute_capability or "")
    if found is not None:
        return Chosen(value=found)
    capability = profile.compute_capability or "unknown"
    return Chosen(
        value=_ASSUMED_SM,
        assumed=(
            f"assumed: an SM of compute capability {capability} holds {_ASSUMED_SM.max_warps} warps and "
            f"{_ASSUMED_SM.max_blocks} blocks and has {_ASSUMED_SM.lanes} FP32 lanes"
        ),
    )
