"""What kernels can use of a device: an SM's units and memory, resident blocks, and the peaks they reach.

A profile is seen from one SM: its units, its memory, its share of the memory system, how many blocks of a
launch it holds. The named efficiencies of kernel generations by architecture are what the structure does not
explain: everything else (waves, tails, causal imbalance, tile edges, pipelining, traffic) is simulated.
Fitted by a grid search over published curves, one entry for all their lengths, head sizes and masks; each
entry says to what, and how far off it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Literal, Protocol

from sim.errors import CannotRun, ScenarioError
from sim.hardware import HardwareProfile
from sim.hardware.architecture import Chosen, by_chip, sm_facts
from sim.hardware.laws.registry import LAWS
from sim.price.figures import NOTHING, AskedLaw, Used
from sim.price.kernel_set import standard_memory_fraction
from sim.price.law_times import NEVER_HOT, as_arrays, law_device
from sim.scenario.dataclass import dataclass
from sim.units import format_count

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8": 1}
"""The types that a kernel scenario may compute in."""

# Special function units of an SM: exponentials per clock (CUDA C++ Programming Guide).
_EXPONENTIALS_PER_CLOCK = 16
# Device memory to SM: about 500 ns on A100 and H100 (Chips and Cheese; Luo et al., 2402.13499).
MEMORY_LATENCY_S = 0.6e-6
# Bytes that one SM can draw from L2 in a clock: 64 (same paper).
_SM_BYTES_PER_CLOCK = 64
# Where no L2 bandwidth is known: A100 measures 2.7 times its HBM, H200 2.0 times.
L2_OVER_HBM = 2.5
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
    l2_bytes_per_s: float  # where the profile has none, what ``L2_OVER_HBM`` assumes
    l2_bytes: int
    multicast_fraction: float  # L2 loads over SRAM fills of a GEMM's operands
    used: Used = NOTHING  # its streaming rate, and the SM where no table has its compute capability

    @property
    def sm_count(self) -> int:
        """SMs."""
        return self.profile.sm_count

    def sm_share(self, from_hbm_fraction: float) -> float:
        """The largest share of the memory system that one SM can draw."""
        bytes_per_s = _SM_BYTES_PER_CLOCK * clock_hz(self.profile)
        return min(1.0, self.memory_s(bytes_per_s, from_hbm_fraction))

    def tensor_flops_per_s(self, dtype: str) -> float:
        """Dense peak of one SM."""
        peak = self.profile.peak_flops_per_s.get(dtype)
        if peak is None:
            raise CannotRun(
                f"{self.profile.name} has no {dtype} rate",
                path="kernel",
                given=dtype,
                allowed=", ".join(name for name in DTYPE_BYTES if name in self.profile.peak_flops_per_s),
            )
        return peak / self.sm_count

    def memory_s(self, size_bytes: float, from_hbm_fraction: float, from_l2_fraction: float = 1.0) -> float:
        """Seconds of the whole memory system: the slower of L2 (everything) and HBM (what L2 misses).

        ``from_l2_fraction`` is below 1 where one load from L2 serves several SMs (multicast).
        """
        l2_s = from_l2_fraction / self.l2_bytes_per_s
        return size_bytes * max(from_hbm_fraction / self.hbm_bytes_per_s, l2_s)

    def is_limited_by_l2(self, from_hbm_fraction: float, from_l2_fraction: float = 1.0) -> bool:
        """Whether L2 is the slower of the two, for bytes as ``memory_s`` has them."""
        l2_s = from_l2_fraction / self.l2_bytes_per_s
        return from_hbm_fraction / self.hbm_bytes_per_s < l2_s


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
        l2_bytes_per_s=profile.l2_bytes_per_s or L2_OVER_HBM * profile.hbm_bytes_per_s,
        l2_bytes=profile.l2_bytes or 0,
        multicast_fraction=facts.value.multicast_fraction,
        used=Used(curves=("elementwise_memory",), assumed=(facts.assumed,)),
    )


def clock_hz(profile: HardwareProfile) -> float:
    """The profile's clock; 1.5 GHz where it is unknown."""
    return profile.clock_hz or 1.5e9


_WARP = 32
_MAX_REGISTERS_PER_THREAD = 255  # of every NVIDIA device since Kepler (CUDA C++ Programming Guide)
_REGISTER_BYTES = 4
# Registers of a thread beside its accumulators: addresses, counters, fragments in flight. With 48 every tile
# of FlashAttention 2 fits 255, and the ones that its authors call slow "because of register spilling" do not
# (head size 64: 256 x 64 with 4 warps, 85 % slower than 128 x 128; flash_fwd_launch_template.h). Where warps
# compute from SRAM and others load (FlashAttention 3) no fragments are held: with 32 all of tile_size.h (in
# hopper/) fit what its kernels reserve, 240 a thread with two computing warpgroups, 160 with three.
_OTHER_REGISTERS, _OTHER_REGISTERS_FED = 48, 32
_PRODUCER_REGISTERS = 24  # a thread of the warps that only load keeps so many (flash_fwd_kernel_sm90.h)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one thread block holds on its SM; its accumulators lie in registers of the warps that compute.

    ``producer_warps`` of them only load and hand their registers over. ``in_tensor_memory``: the accumulators
    have a memory of their own (Blackwell), as large as the registers.
    """

    sram_bytes: int
    warps: int
    accumulator_bytes: int = 0
    producer_warps: int = 0
    in_tensor_memory: bool = False

    @property
    def computing_threads(self) -> int:
        """Threads that hold accumulators; none where every warp is needed to load."""
        return max(0, self.warps - self.producer_warps) * _WARP

    @property
    def registers_per_thread(self) -> int:
        """Accumulators spread over the threads that compute, and the rest."""
        other = _OTHER_REGISTERS_FED if self.producer_warps else _OTHER_REGISTERS
        return -(-self.accumulator_bytes // (max(1, self.computing_threads) * _REGISTER_BYTES)) + other

    @property
    def registers(self) -> int:
        """Of the whole block."""
        per_thread = min(self.registers_per_thread, _MAX_REGISTERS_PER_THREAD)
        return per_thread * self.computing_threads + _PRODUCER_REGISTERS * self.producer_warps * _WARP

    @property
    def spills(self) -> bool:
        """Whether a thread cannot address its accumulators: they would go to memory at every step."""
        return not self.in_tensor_memory and self.registers_per_thread > _MAX_REGISTERS_PER_THREAD


def fits(gpu: Gpu, footprint: Footprint) -> bool:
    """Whether an SM can hold one such block, nothing of it spilt."""
    return (
        footprint.sram_bytes <= gpu.sram_bytes_per_block
        and footprint.accumulator_bytes <= gpu.register_bytes
        and footprint.computing_threads > 0
        and not footprint.spills
        and min(_limits(gpu, footprint)) >= 1
    )


def _limits(gpu: Gpu, footprint: Footprint) -> tuple[int, int, int, int]:
    """Blocks that SRAM, registers, warps and the SM's own limit allow."""
    return (
        gpu.sram_bytes // max(1, footprint.sram_bytes),
        gpu.register_bytes // (footprint.registers * _REGISTER_BYTES),
        gpu.max_warps // footprint.warps,
        gpu.max_blocks,
    )


def blocks_per_sm(gpu: Gpu, footprint: Footprint, what: str) -> int:
    """Resident blocks of an SM: the tightest of SRAM, registers, warps and blocks.

    Refused with the limit named: more SRAM than a block may have, accumulators beyond the register file or
    beyond what a thread can address (spilling is not priced).
    """
    if footprint.sram_bytes > gpu.sram_bytes_per_block:
        raise CannotRun(
            f"{what}: a tile needs more SRAM than a thread block may have on {gpu.profile.name}",
            path="kernel.tile",
            given=f"{format_count(footprint.sram_bytes)} bytes",
            allowed=f"at most {format_count(gpu.sram_bytes_per_block)} bytes (max_sram_bytes_per_block)",
            hint="smaller block_m, block_n or num_stages",
        )
    if footprint.accumulator_bytes > gpu.register_bytes:
        raise CannotRun(
            f"{what}: the accumulators do not fit the register file of {gpu.profile.name}",
            path="kernel.tile",
            given=f"{format_count(footprint.accumulator_bytes)} bytes",
            allowed=f"at most {format_count(gpu.register_bytes)} bytes (register_file_bytes_per_sm)",
            hint="smaller block_m or block_n",
        )
    if not footprint.computing_threads:
        raise CannotRun(
            f"{what}: {footprint.producer_warps} warps of a block only load, and none is left to compute",
            path="kernel.tile.num_warps",
            given=footprint.warps,
            allowed=f"at least {2 * footprint.producer_warps} warps",
            hint=f"num_warps: {3 * footprint.producer_warps}",
        )
    if footprint.spills:
        raise CannotRun(
            f"{what}: a thread cannot hold its part of the accumulators: they would spill to memory",
            path="kernel.tile",
            given=f"{footprint.registers_per_thread} registers a thread, with {footprint.warps} warps",
            allowed=f"at most {_MAX_REGISTERS_PER_THREAD}",
            hint="smaller block_m or block_n, or more num_warps: spilling is far slower, and not priced",
        )
    limits = _limits(gpu, footprint)
    if min(limits) < 1:
        raise CannotRun(
            f"{what}: a thread block of {footprint.warps} warps does not fit an SM of {gpu.profile.name}",
            path="kernel.tile.num_warps",
            given=f"{footprint.warps} warps, {format_count(footprint.registers * _REGISTER_BYTES)} bytes",
            allowed=f"{gpu.max_warps} warps, {format_count(gpu.register_bytes)} bytes of registers",
            hint="fewer warps, or a smaller tile",
        )
    return min(limits)


_STREAM_START_S, _GEMM_START_S = 0.2e-6, 1.0e-6  # many small blocks per SM hide most of it; few do not
_GEMM_FRACTION = 0.8  # where the profile has no curve


_BLOCK_END_S = 0.5e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """How well one kernel generation uses one architecture.

    ``tensor_fraction``: of the dense peak while a matrix product runs. ``exposed_fraction``: of the
    softmax's vector work, what other warps do not hide. ``memory_fraction``: of streaming bandwidth.
    ``start_s``: from launch to the first block. ``block_start_s`` and
    ``block_end_s``: a block's own start and end (address set-up, first load, drain of the store).
    """

    tensor_fraction: float
    exposed_fraction: float = 1.0
    memory_fraction: float = 1.0
    start_s: float = 3e-6
    block_start_s: float = 1.0e-6
    block_end_s: float = _BLOCK_END_S
    source: str = ""
    used: Used = NOTHING  # what of it is the profile's, and what is another chip's


FLASH_2_FIGURES = "FlashAttention-2 forward+backward figures (Dao-AILab/flash-attention assets)"
FLASH_3_FIGURES = "FlashAttention-3 fp16 forward figure (Dao-AILab/flash-attention assets)"

Direction = Literal["forward", "backward"]
LibraryKernels = Literal["gemm", "stream", "standard"]


class Generation(Protocol):
    """Kernels that share one efficiency."""

    @property
    def name(self) -> str:
        """As reports call them."""

    def on(self, profile: HardwareProfile, direction: Direction = "forward") -> Efficiency:
        """How well they use a device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A kernel generation whose efficiency was fitted, by direction and architecture."""

    name: str
    forward: Mapping[str, Efficiency]
    backward: Mapping[str, Efficiency] = field(default_factory=dict)

    def on(self, profile: HardwareProfile, direction: Direction = "forward") -> Efficiency:
        """The fitted efficiency; on an architecture without a fit another's, said to be assumed."""
        table = self.forward if direction == "forward" else self.backward
        if not table:
            raise ScenarioError(
                f"no efficiency is known for {self.name} {direction}",
                path="kernel.attention.direction",
                given=direction,
                allowed="forward",
            )
        found = by_chip(table, profile, f"the efficiency of {self.name} {direction}")
        source = f"{found.assumed} ({found.value.source})" if found.assumed else found.value.source
        own = "" if not found.value.source.startswith("assumed") else f"{self.name} {direction}, {source}"
        return replace(found.value, source=source, used=Used(assumed=(found.assumed or own,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Kernels of PyTorch and cuBLAS, whose efficiency the profile's curves have."""

    name: LibraryKernels

    def on(self, profile: HardwareProfile, direction: Direction = "forward") -> Efficiency:
        """The same in both directions."""
        return efficiency_of(self.name, profile)


def _profile_source(generation: LibraryKernels, profile: HardwareProfile) -> str:
    """Where the profile's own curve comes from: of streaming kernels, or of products."""
    name = "elementwise_memory" if generation == "stream" else "gemm_compute"
    curve = profile.efficiency.get(name)
    source = curve.source if curve else "assumed"
    if generation == "standard":
        return (
            f"share of bandwidth fitted to {FLASH_2_FIGURES} and to the {FLASH_3_FIGURES}; products: {source}"
        )
    return source


def efficiency_of(generation: LibraryKernels, profile: HardwareProfile) -> Efficiency:
    """Of products and streaming kernels, by the profile's curves.

    The largest fraction on its ``gemm_compute`` curve (which serving prices use too), and its launch time.
    """
    eager = Chosen(value=1.0)
    if generation == "standard":
        eager = standard_memory_fraction(profile.architecture)
    curve = profile.efficiency.get("gemm_compute")
    reached = max(fraction for _, fraction in curve.points) if curve else _GEMM_FRACTION
    assumed, curves = [eager.assumed], ("gemm_compute",) if curve and generation != "stream" else ()
    if curve is None and generation != "stream":
        assumed.append(f"assumed: products reach {_GEMM_FRACTION:.0%} of the peak (no gemm_compute curve)")
    return Efficiency(
        tensor_fraction=reached,
        memory_fraction=eager.value,
        block_start_s=_STREAM_START_S if generation != "gemm" else _GEMM_START_S * _tile_share(profile),
        block_end_s=_BLOCK_END_S * (_tile_share(profile) if generation == "gemm" else 1.0),
        start_s=profile.kernel_launch_s,
        source=_profile_source(generation, profile),
        used=Used(curves=curves, assumed=tuple(assumed)),
    )


def _tile_share(profile: HardwareProfile) -> float:
    """What of a tile's start and end a product's blocks spend: less where the profile's GEMM law says so.

    From Hopper on a block's start hides behind the one before it (persistent kernels).
    """
    fit = profile.kernels.get("gemm_bfloat16")
    spent = _GEMM_START_S + _BLOCK_END_S
    return min(1.0, fit.constants["tile_s"] / spent) if fit else 1.0


_LARGE = 8192.0  # rows, columns and depth of a product that fills every device
_WEIGHT_ONLY_BITS = (4, 8)


def gemm_efficiency(profile: HardwareProfile, dtype: str, weight_bits: int | None) -> Efficiency:
    """A product's efficiency: of 8-bit values and packed weights, what the serving price's own law reaches.

    That is the law's rate for a large product, activations already quantized. Dequantizing is part of what
    was timed, so none of it counts again. Without a law for the type: as for 16 bits, dequantizing in full.
    """
    base = efficiency_of("gemm", profile)
    operator = f"gemm_{dtype}"
    if weight_bits is not None:
        operator = f"gemm_int{weight_bits}_weights" if weight_bits in _WEIGHT_ONLY_BITS else ""
    fit = profile.kernels.get(operator)
    if fit is None or operator == "gemm_bfloat16":
        return base
    constants = {name: 0.0 if name.startswith("quantize_") else one for name, one in fit.constants.items()}
    bits = float(weight_bits or 8)
    sizes = {
        **dict.fromkeys(("m", "n", "k"), _LARGE),
        "copies": NEVER_HOT,
        "weight_bits": bits,
        "value_bytes": 2.0 if weight_bits else 1.0,
    }
    device = law_device(profile, operator)
    time_s = float(LAWS[fit.law].seconds(as_arrays(sizes), constants, device)[()])
    reached = min(1.0, 2.0 * _LARGE**3 / device.flops_per_s / time_s)
    lent = f"borrowed from {fit.borrowed_from}: " if fit.borrowed_from else ""
    return replace(
        base,
        tensor_fraction=reached,
        exposed_fraction=0.0,
        source=f"{lent}{fit.fitted_on}",
        used=Used(laws=(AskedLaw(law=operator, sizes={}),)),
    )
