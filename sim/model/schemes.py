"""How a quantised matrix is held: the bits of a code, and who shares a scale; and the bytes of both."""

from __future__ import annotations

from math import ceil, gcd
from typing import Literal

from sim.scenario.dataclass import dataclass

Quantization = Literal["none", "fp8", "int8", "int4", "mxfp4", "nvfp4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightScheme:
    """Codes of ``bits``, and a scale for ``rows`` x ``group`` weights (``group`` along k, ``rows`` along n).

    ``group`` None: a scale for each output channel (``rows`` 1), or for the whole matrix (``rows`` 0).
    """

    kind: Quantization
    bits: int
    group: int | None = None
    rows: int = 1
    scale_bytes: int = 4
    zero_bits: int = 0  # of a group's zero point

    @property
    def has_blocks(self) -> bool:
        """Whether scales belong to two-dimensional blocks, which a split must respect."""
        return self.group is not None and self.rows > 1

    @property
    def traffic_bits(self) -> float:
        """Bits that one weight takes when it is read: scales count where they are more than 0.1 %."""
        if self.group is None or self.has_blocks:
            return float(self.bits)
        return self.bits + (8 * self.scale_bytes + self.zero_bits) / self.group

    def num_bytes(self, n: int, k: int) -> float:
        """Codes and scales of an n x k matrix."""
        codes = n * k * self.bits / 8
        if self.group is None:
            return codes + self.scale_bytes * (n if self.rows else 1)
        groups = ceil(n / self.rows) * ceil(k / self.group) if self.has_blocks else n * k / self.group
        return codes + groups * (self.scale_bytes + self.zero_bits / 8)

    def refined(self, inner: int, hidden: int) -> WeightScheme:
        """Smaller blocks where an expert's part does not divide: vLLM 0.33 takes the common divisor."""
        if not self.has_blocks or self.group is None:
            return self
        size = gcd(self.group, inner, hidden)
        return WeightScheme(
            kind=self.kind, bits=self.bits, group=size, rows=size, scale_bytes=self.scale_bytes
        )


FP8_TENSOR = WeightScheme(kind="fp8", bits=8, rows=0)
FP8_CHANNEL = WeightScheme(kind="fp8", bits=8)
INT8_CHANNEL = WeightScheme(kind="int8", bits=8)
# Two 4-bit floats a byte, a float8 scale for 16 of them (and a float32 for the matrix, left out).
NVFP4 = WeightScheme(kind="nvfp4", bits=4, group=16, scale_bytes=1)
# The OCP MX formats 1.0: an 8-bit exponent for 32 codes.
MXFP4 = WeightScheme(kind="mxfp4", bits=4, group=32, scale_bytes=1)
MXFP8 = WeightScheme(kind="fp8", bits=8, group=32, scale_bytes=1)


def fp8_blocks(rows: int, columns: int) -> WeightScheme:
    """DeepSeek's blocks: a float32 scale each."""
    return WeightScheme(kind="fp8", bits=8, group=columns, rows=rows)


def grouped(bits: int, group: int | None, *, has_zeros: bool) -> WeightScheme:
    """AWQ, GPTQ and their like: a 16-bit scale a group, and a zero point of as many bits as a code."""
    kind: Quantization = "int4" if bits <= 4 else "int8"
    zero_bits = bits if has_zeros else 0
    return WeightScheme(kind=kind, bits=bits, group=group, scale_bytes=2, zero_bits=zero_bits)


# What an engine's own quantization makes of a 16-bit checkpoint (engine.quantization).
SCHEMES: dict[Quantization, WeightScheme] = {
    "fp8": WeightScheme(kind="fp8", bits=8, rows=0, scale_bytes=0),  # a scale a channel: below 0.1 %
    "int8": WeightScheme(kind="int8", bits=8, rows=0, scale_bytes=0),
    "int4": grouped(4, 128, has_zeros=True),
    "mxfp4": MXFP4,
    "nvfp4": NVFP4,
}
