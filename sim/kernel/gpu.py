"""A profile seen from one SM: its units, its memory, its share of the memory system."""

from __future__ import annotations

from dataclasses import dataclass

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile
from sim.hardware.architecture import sm_facts

# Special function units of an SM: exponentials per clock (CUDA C++ Programming Guide).
_EXPONENTIALS_PER_CLOCK = 16
# Device memory to SM: about 500 ns on A100 and H100 (Chips and Cheese; Luo et al., 2402.13499).
MEMORY_LATENCY_S = 0.6e-6
# Bytes that one SM can draw from L2 in a clock: 64 (same paper).
_SM_BYTES_PER_CLOCK = 64
# Where no L2 bandwidth is known: A100 measures 2.7 times its HBM, H200 2.0 times.
_L2_OVER_HBM = 2.5
_HBM_FRACTION = 0.92  # where the profile has no curve of streaming kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What a thread block can use. Rates are of one SM, or of the whole memory system."""

    profile: HardwareProfile
    max_warps: int
    max_blocks: int
    sram_bytes: int  # shared memory of an SM
    sram_bytes_per_block: int
    register_bytes: int
    exponentials_per_s: float
    lanes_per_s: float
    hbm_bytes_per_s: float  # what streaming kernels reach
    l2_bytes_per_s: float
    l2_bytes: int
    multicast_fraction: float  # L2 loads over SRAM fills of a GEMM's operands
    assumed: str = ""  # a sentence, where the SM is not in the table of its compute capability

    @property
    def sm_count(self) -> int:
        """SMs."""
        return self.profile.sm_count

    def sm_share(self, from_hbm_fraction: float) -> float:
        """The largest share of the memory system that one SM can draw."""
        own = _SM_BYTES_PER_CLOCK * clock_hz(self.profile)
        return min(1.0, self.memory_s(own, from_hbm_fraction))

    def tensor_flops_per_s(self, dtype: str) -> float:
        """Dense peak of one SM."""
        peak = self.profile.peak_flops_per_s.get(dtype)
        if peak is None:
            raise ScenarioError(
                f"{self.profile.name} has no {dtype} rate",
                path="kernel",
                given=dtype,
                allowed=", ".join(self.profile.peak_flops_per_s),
            )
        return peak / self.sm_count

    def memory_s(self, size_bytes: float, from_hbm_fraction: float, from_l2_fraction: float = 1.0) -> float:
        """Seconds of the whole memory system: the slower of L2 (everything) and HBM (what L2 misses).

        ``from_l2_fraction`` is below 1 where one load from L2 serves several SMs (multicast).
        """
        l2_s = from_l2_fraction / self.l2_bytes_per_s
        return size_bytes * max(from_hbm_fraction / self.hbm_bytes_per_s, l2_s)


def gpu_of(profile: HardwareProfile) -> Gpu:
    """The profile, read for one SM."""
    facts = sm_facts(profile)
    clock = clock_hz(profile)
    curve = profile.efficiency.get("elementwise_memory")
    reached = curve.points[-1][1] if curve else _HBM_FRACTION
    per_block = profile.max_sram_bytes_per_block or profile.sram_bytes_per_sm
    return Gpu(
        profile=profile,
        max_warps=facts.value.max_warps,
        max_blocks=facts.value.max_blocks,
        # A block's 1 KiB for the driver comes on top; L1 keeps the rest.
        sram_bytes=max(per_block, min(profile.sram_bytes_per_sm, per_block + 1024)),
        sram_bytes_per_block=per_block,
        register_bytes=profile.register_file_bytes_per_sm or 256 * 1024,
        exponentials_per_s=_EXPONENTIALS_PER_CLOCK * clock,
        lanes_per_s=facts.value.lanes * clock,
        hbm_bytes_per_s=profile.hbm_bytes_per_s * reached,
        l2_bytes_per_s=profile.l2_bytes_per_s or _L2_OVER_HBM * profile.hbm_bytes_per_s,
        l2_bytes=profile.l2_bytes or 0,
        multicast_fraction=facts.value.multicast_fraction,
        assumed=facts.assumed,
    )


def clock_hz(profile: HardwareProfile) -> float:
    """The profile's clock; 1.5 GHz where it is unknown."""
    return profile.clock_hz or 1.5e9
