"""Columns: the types of arrays, the picosecond clock's unit, and what a table is made of.

Times are kept in whole picoseconds, so that CSV prints seconds exactly (12 decimals) and nothing is rounded
but quotients. A moment that never came is an empty cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PS_PER_S = 1_000_000_000_000


def to_ps(seconds: float) -> int:
    """Seconds to integer picoseconds: the one place where a time is rounded to the clock."""
    return round(seconds * PS_PER_S)


class Column(NamedTuple):
    """One column: ``time`` in picoseconds (shown in seconds), ``count``, ``flag`` or ``text``."""

    name: str
    kind: Literal["time", "count", "flag", "text"]
    values: npt.NDArray[Any]
    is_missing: Bools | None = None


PART_BLOCKS = 4
_PIECES = ((32, np.uint32), (16, np.uint16), (8, np.uint8))  # bits
NONE_LARGE: Mapping[int, int] = {}


class Block:
    """Rows of a column of whole numbers in as few bytes as they need, for a long run's records.

    A run of a million requests leaves millions of rows, of which most columns vary by a few thousand from one
    to the next: kept are the smallest number and, of every row, what lies above it, in one to eight bytes
    (none where all are equal). Nothing is rounded. ``large``: numbers beyond 64 bits by row, where the packed
    number is 0.
    """

    __slots__ = ("_num_rows", "_pieces", "_smallest", "large")

    def __init__(self, rows: Int64, large: Mapping[int, int] = NONE_LARGE) -> None:
        self.large, self._num_rows, self._smallest = large, len(rows), int(rows.min())
        above = (rows - self._smallest).view(np.uint64)  # modulo 2**64: right for any two 64-bit numbers
        left, shift, pieces = int(above.max()).bit_length(), 0, list[npt.NDArray[Any]]()
        if left > 56:
            pieces, left = [above], 0
        for bits, kind in _PIECES:
            if left > bits - 8:
                pieces.append((above >> np.uint64(shift)).astype(kind))
                left, shift = left - bits, shift + bits
        self._pieces = tuple(pieces)

    def __len__(self) -> int:
        return self._num_rows

    def unpack(self, rows: npt.NDArray[Any]) -> None:
        """Writes the numbers there, 0 for those that are large."""
        if not self._pieces:
            rows[:] = self._smallest
            return
        rows[:], shift = self._pieces[0], 8 * self._pieces[0].itemsize
        for piece in self._pieces[1:]:
            rows |= piece.astype(np.int64) << shift
            shift += 8 * piece.itemsize
        rows += self._smallest


class PackedColumn:
    """Blocks one after another: a column of ``kind``, or of objects where a number is beyond 64 bits."""

    __slots__ = ("blocks", "kind")

    def __init__(self, kind: type[np.signedinteger[Any]], blocks: list[Block] | None = None) -> None:
        self.kind = kind
        self.blocks: list[Block] = [] if blocks is None else blocks

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def parts(self) -> list[PackedColumn]:
        """The same column in pieces of ``PART_BLOCKS`` blocks."""
        blocks = self.blocks
        starts = range(0, len(blocks), PART_BLOCKS)
        return [PackedColumn(self.kind, blocks[start : start + PART_BLOCKS]) for start in starts]

    def whole(self) -> npt.NDArray[Any]:
        """All rows, in an array of their own."""
        column: npt.NDArray[Any] = np.empty(len(self), dtype=np.int64)
        end = 0
        for block in self.blocks:
            start, end = end, end + len(block)
            block.unpack(column[start:end])
        if self.kind is not np.int64:
            return column.astype(self.kind)
        return self._with_large(column) if any(block.large for block in self.blocks) else column

    def _with_large(self, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        column, start = column.astype(object), 0
        for block in self.blocks:
            for row, value in block.large.items():
                column[start + row] = value
            start += len(block)
        return column
