"""What depends on a device's architecture, and what stands in where a table does not have it.

A table by architecture (``HardwareProfile.architecture``) or by compute capability is read through
``by_architecture`` or ``sm_facts``: another architecture's figures are taken only with a sentence that says
so, which goes into the run's notes and its report. A new GPU therefore needs its YAML file and no line here;
a line here (or in one of those tables) replaces the assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from sim.hardware.profile import HardwareProfile
from sim.scenario.dataclass import dataclass
from sim.scenario.place import Place

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


# The chips on which kernels were measured, by architecture: compute capability, and the GPU.
MEASURED_CHIPS: Mapping[str, tuple[str, str]] = {
    "Ampere": ("8.0", "an A100"),
    "Ada": ("8.9", "an L40S"),
    "Hopper": ("9.0", "an H100"),
    "Blackwell": ("10.0", "a B200"),
}


def by_chip(table: Mapping[str, Figure], profile: HardwareProfile, what: str) -> Chosen[Figure]:
    """``by_architecture``, and said to be assumed too where another chip of the architecture was measured."""
    found = by_architecture(table, profile.architecture, what)
    capability, chip = MEASURED_CHIPS.get(profile.architecture, ("", ""))
    if found.assumed or not capability or profile.compute_capability == capability:
        return found
    where = f"compute capability {profile.compute_capability or 'unknown'}"
    return Chosen(
        value=found.value, assumed=f"assumed: {what} is not known for {where}; that of {chip} stands in"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsOn:
    """Where a published attention kernel runs: architectures, or of one some compute capabilities only."""

    architectures: tuple[str, ...]
    source: str
    capabilities: tuple[str, ...] = ()


_FLASH_2_ON = ("Ampere", "Ada", "Hopper", "Blackwell", "CDNA 2", "CDNA 3")
_FLASH_2_SOURCE = (
    "Dao-AILab/flash-attention README: Ampere, Ada or Hopper, and MI200 or MI300 under ROCm; Blackwell by "
    "its sm_80 code (microsoft/onnxruntime#24584, flashinfer-ai/flashinfer#1147)"
)
# Not here: what runs everywhere, as standard attention and vLLM's paged_decode do.
ATTENTION_KERNELS: Mapping[str, RunsOn] = {
    "flash_attention_1": RunsOn(
        architectures=("Turing", "Ampere", "Ada", "Hopper", "CDNA 2", "CDNA 3"),
        source="Dao-AILab/flash-attention README: FlashAttention 1.x for Turing too; ROCm's port from memory",
    ),
    "flash_attention_2": RunsOn(architectures=_FLASH_2_ON, source=_FLASH_2_SOURCE),
    "split_kv_decode": RunsOn(
        architectures=_FLASH_2_ON, source=f"FlashAttention-2's flash_fwd_split kernels; {_FLASH_2_SOURCE}"
    ),
    "flash_attention_3": RunsOn(
        architectures=("Hopper",), source="Dao-AILab/flash-attention README: H100 or H800"
    ),
    "flash_triton": RunsOn(
        architectures=_FLASH_2_ON,
        source="triton-lang/triton README: compute capability 8.0 and later, AMD GPUs (from memory)",
    ),
    "flash_trtllm": RunsOn(
        architectures=("Blackwell",),
        capabilities=("10.0", "10.3"),
        source="TllmGenFmhaRunner refuses all but sm_100 and sm_103 (flashinfer-ai/flashinfer#3263)",
    ),
}


def runs_on(kernel: str, profile: HardwareProfile) -> bool:
    """Whether the kernel exists for the device; of an architecture that no kernel is known for, assumed."""
    found = ATTENTION_KERNELS.get(kernel)
    known = {name for one in ATTENTION_KERNELS.values() for name in one.architectures} | {"Volta"}
    if found is None or profile.architecture not in known:
        return True
    is_built = not found.capabilities or profile.compute_capability in (*found.capabilities, None)
    return profile.architecture in found.architectures and is_built


def check_runs_on(
    kernel: str, profile: HardwareProfile, place: Place, *, given: str, names: Mapping[str, str]
) -> None:
    """Refuses a kernel that does not exist for the device; ``names``: the words allowed, by kernel."""
    if runs_on(kernel, profile):
        return
    where = f"{profile.architecture}, compute capability {profile.compute_capability}"
    raise place.cannot_run(
        f"this kernel does not exist for {profile.name} ({where})",
        given=given,
        allowed=", ".join(name for name, one in names.items() if runs_on(one, profile)),
        hint=f"hardware of {', '.join(ATTENTION_KERNELS[kernel].architectures)}, on which it runs",
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
