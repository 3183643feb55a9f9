"""How many blocks of a launch an SM holds, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from sim.errors import ScenarioError
from sim.kernel.gpu import Gpu
from sim.units import format_count

_WARP = 32
_MAX_REGISTERS_PER_THREAD = 255
_REGISTER_BYTES = 4
# Addresses, loop counters, fragments in flight: registers of a thread beside the accumulators.
_OTHER_REGISTERS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one thread block holds on its SM."""

    sram_bytes: int
    warps: int
    accumulator_bytes: int = 0

    @property
    def registers_per_thread(self) -> int:
        """Accumulators spread over the threads, and the rest."""
        threads = self.warps * _WARP
        return -(-self.accumulator_bytes // (threads * _REGISTER_BYTES)) + _OTHER_REGISTERS


def fits(gpu: Gpu, footprint: Footprint) -> bool:
    """Whether an SM can hold one such block."""
    return (
        footprint.sram_bytes <= gpu.sram_bytes_per_block
        and footprint.accumulator_bytes <= gpu.register_bytes
        and min(_limits(gpu, footprint)) >= 1
    )


def _limits(gpu: Gpu, footprint: Footprint) -> tuple[int, int, int, int]:
    """Blocks that SRAM, registers, warps and the SM's own limit allow."""
    registers = min(footprint.registers_per_thread, _MAX_REGISTERS_PER_THREAD)
    register_bytes = registers * footprint.warps * _WARP * _REGISTER_BYTES
    return (
        gpu.sram_bytes // max(1, footprint.sram_bytes),
        gpu.register_bytes // register_bytes,
        gpu.max_warps // footprint.warps,
        gpu.max_blocks,
    )


def blocks_per_sm(gpu: Gpu, footprint: Footprint, what: str) -> int:
    """Resident blocks of an SM: the tightest of SRAM, registers, warps and blocks.

    Refused with the limit named: more SRAM than a block may have, accumulators beyond the register file.
    """
    if footprint.sram_bytes > gpu.sram_bytes_per_block:
        raise ScenarioError(
            f"{what}: a tile needs more SRAM than a thread block may have on {gpu.profile.name}",
            path="kernel.tile",
            given=f"{format_count(footprint.sram_bytes)} bytes",
            allowed=f"at most {format_count(gpu.sram_bytes_per_block)} bytes (max_sram_bytes_per_block)",
            hint="smaller block_m, block_n or num_stages",
        )
    if footprint.accumulator_bytes > gpu.register_bytes:
        raise ScenarioError(
            f"{what}: the accumulators do not fit the register file of {gpu.profile.name}",
            path="kernel.tile",
            given=f"{format_count(footprint.accumulator_bytes)} bytes",
            allowed=f"at most {format_count(gpu.register_bytes)} bytes (register_file_bytes_per_sm)",
            hint="smaller block_m or block_n",
        )
    limits = _limits(gpu, footprint)
    if min(limits) < 1:
        raise ScenarioError(
            f"{what}: a thread block of {footprint.warps} warps does not fit an SM of {gpu.profile.name}",
            path="kernel.tile.num_warps",
            given=footprint.warps,
            allowed=f"{gpu.max_warps} warps, {format_count(gpu.register_bytes)} bytes of registers",
            hint="fewer warps",
        )
    return min(limits)
