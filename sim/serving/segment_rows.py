"""An engine's jumps as they are recorded: rows of whole numbers, packed block by block."""

from __future__ import annotations

from array import array
from struct import Struct
from typing import Any

import numpy as np

from sim.arrays import Int64
from sim.serving.packed import Block, PackedColumn
from sim.serving.records import SegmentColumns

SEGMENT_FIELDS = (
    "replica",
    "start_ps",
    "num_steps",
    "first_step_ps",
    "step_growth_ps",
    "num_decode",
    "decode_context_tokens",
    "num_prefill",
    "prefill_tokens",
    "num_running",
    "num_waiting",
    "num_padded",
    "kv_tokens",
    "kv_reserved",  # in a row: what is wanted, those tokens included
    "kv_internal",  # in a row: what is given out, what is wanted included
    "kv_external",
    "kv_grown_tokens_ps",
)
DRAFT_FIELDS = ("num_draft_tokens", "num_accepted_tokens")
_ROW = Struct(f"{len(SEGMENT_FIELDS)}q")
pack_segment = _ROW.pack
SEGMENT_BYTES = _ROW.size
FIRST_BYTES = (1 << 17) * SEGMENT_BYTES  # a shorter run is not packed at all
BLOCK_BYTES = (1 << 15) * SEGMENT_BYTES
MAX_GROWN = (1 << 63) - 1  # what a row's 64 bits hold


class SegmentRows:
    """The segments of one run. The newest are in ``rows``, to be packed when these have ``full_bytes``."""

    def __init__(self) -> None:
        self.rows = bytearray()
        self.full_bytes = FIRST_BYTES
        self._packed: dict[str, PackedColumn] = {}
        self._large_growth: dict[int, int] = {}  # by row in ``rows``: what does not fit into its 64 bits
        self._drafts = array("q")  # (row in ``rows``, verified, accepted)
        self._has_drafts = False

    def add(self, *numbers: int) -> None:
        """A row, in the order of ``SEGMENT_FIELDS``."""
        self.pack_if_full()
        *others, grown = numbers
        self.rows += pack_segment(*others, grown if grown <= MAX_GROWN else self.keep(grown))

    def keep(self, grown_tokens_ps: int) -> int:
        """Keeps what KV grew in the next row and is too large for it: the row gets 0."""
        self._large_growth[len(self.rows) // SEGMENT_BYTES] = grown_tokens_ps
        return 0

    def note_drafts(self, verified: int, accepted: int) -> None:
        """What the newest row's step verified of drafts, and how many of them became tokens."""
        self._drafts.extend((len(self.rows) // SEGMENT_BYTES - 1, verified, accepted))
        self._has_drafts = True

    def pack_if_full(self) -> None:
        """To be asked every few thousand rows."""
        if len(self.rows) >= self.full_bytes:
            self.pack()

    def pack(self) -> None:
        """Packs the rows so far as a block."""
        if not self._packed:
            self._packed = {
                name: PackedColumn(np.int16 if name == "replica" else np.int64)
                for name in (*SEGMENT_FIELDS, *DRAFT_FIELDS)
            }
        large, self._large_growth = self._large_growth, {}
        for name, rows in self._unpacked().items():
            block = Block(rows, large) if name == "kv_grown_tokens_ps" else Block(rows)
            self._packed[name].blocks.append(block)
        self.full_bytes = BLOCK_BYTES

    def _unpacked(self) -> dict[str, Int64]:
        """The columns of ``rows``, which are given up for them."""
        rows = np.frombuffer(self.rows, dtype=np.int64).reshape(-1, len(SEGMENT_FIELDS))
        columns = dict(zip(SEGMENT_FIELDS, rows.T.copy(), strict=True))
        num_rows = len(rows)
        del rows
        self.rows.clear()
        columns["kv_internal"] -= columns["kv_reserved"]
        columns["kv_reserved"] -= columns["kv_tokens"]
        if self._packed or self._has_drafts:
            drafts = np.zeros((2, num_rows), dtype=np.int64)
            noted = np.array(self._drafts, dtype=np.int64).reshape(-1, 3)
            drafts[:, noted[:, 0]] = noted[:, 1:].T
            self._drafts = array("q")
            columns |= dict(zip(DRAFT_FIELDS, drafts, strict=True))
        return columns

    def columns(self) -> SegmentColumns:
        """All of them, in the order in which they began; none is left here."""
        columns: dict[str, Any]
        if self._packed:
            if self.rows:
                self.pack()
            columns, self._packed = self._packed, {}
        else:
            columns = self._unpacked()
            columns["replica"] = columns["replica"].astype(np.int16)
            if large := self._large_growth:
                grown = columns["kv_grown_tokens_ps"] = columns["kv_grown_tokens_ps"].astype(object)
                grown[list(large)] = list(large.values())
        if not self._has_drafts:
            columns = {name: column for name, column in columns.items() if name not in DRAFT_FIELDS}
        return SegmentColumns(**columns)
