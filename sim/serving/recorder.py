"""Collects what an engine does, as flat columns; statistics are made elsewhere."""

from __future__ import annotations

from array import array
from struct import Struct
from typing import Any

import numpy as np

from sim.arrays import Block, Int64, PackedColumn
from sim.errors import InvariantError
from sim.serving.records import (
    ABORTED,
    FINISHED,
    MAX_RECTANGLES,
    OWNED,
    REFUSED,
    STATUS_NAMES,
    BlockMap,
    PreemptionColumns,
    RequestColumns,
    RequestTable,
    SegmentColumns,
)
from sim.serving.request import Request
from sim.serving.scheduler import Step

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


class Recorder:
    """The columns of one run, shared by its replicas."""

    def __init__(self, table: RequestTable) -> None:
        size = len(table.arrival_ps)
        self.table = table
        self.arrival_ps = filled(size, -1)
        self.first_scheduled_ps = filled(size, -1)
        self.first_token_ps = filled(size, -1)
        self.finish_ps = filled(size, -1)
        self.generated_tokens = filled(size, 0)
        self.status = bytearray(size)
        self.num_preemptions = rare(size)
        self.recompute_tokens = rare(size)
        self.cached_tokens = rare(size)
        self.replica = array("h", [-1]) * size
        self.segments = SegmentRows()
        self.preemptions = array("q")
        self.refusals: dict[str, int] = {}

    def admit(self, request: Request, now_ps: int, num_hit_tokens: int) -> None:
        """It runs from now on, with so many tokens found in the prefix cache; again, after a preemption."""
        row = request.id
        if self.first_scheduled_ps[row] < 0:
            self.first_scheduled_ps[row] = now_ps
            self.cached_tokens[row] = num_hit_tokens

    def note_step(self, step: Step, replica: int, num_running: int, num_waiting: int) -> None:
        """A row: a step, or a jump over equal ones."""
        self.segments.add(
            replica, step.started_ps, step.num_steps, step.first_ps, step.growth_ps, step.num_decode,
            step.context_tokens, step.num_prefill, step.prefill_tokens, num_running, num_waiting,
            step.num_padded, *step.levels, step.grown_tokens_ps,
        )  # fmt: skip

    def finish(self, request: Request, now_ps: int) -> None:
        """Its last token came at ``now_ps``."""
        self.finish_ps[request.id] = now_ps
        self.generated_tokens[request.id] = request.num_tokens - request.num_prompt_tokens
        self._end(request, FINISHED)

    def refuse(self, request: Request, reason: str) -> None:
        """It can never be served, which is known at its arrival."""
        self.finish_ps[request.id] = request.arrival
        self._end(request, REFUSED)
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def abort(self, request: Request, generated: int) -> None:
        """The client left at its deadline, with ``generated`` tokens delivered."""
        self.finish_ps[request.id] = request.deadline_ps
        self.generated_tokens[request.id] = generated
        self._end(request, ABORTED)

    def _end(self, request: Request, status: int) -> None:
        if request.is_ended:
            raise InvariantError(f"{request!r} ends as {STATUS_NAMES[status]} after it has ended")
        self.status[request.id] = status
        request.is_ended = True

    def preempt(self, request: Request, now_ps: int, replica: int, recompute_tokens: int) -> None:
        """Adds a row to the ledger of preemptions."""
        self.num_preemptions[request.id] += 1
        self.recompute_tokens[request.id] += recompute_tokens
        self.preemptions.extend((now_ps, request.id, replica, recompute_tokens))

    def request_columns(self) -> RequestColumns:
        """Everything about the requests, by id."""
        table = self.table
        size = len(table.arrival_ps)
        arrival = as_int64(self.arrival_ps)
        measured = (np.arange(size) >= table.num_warmup) & (arrival >= table.warmup_ps)
        return RequestColumns(
            arrival_ps=arrival,
            first_scheduled_ps=as_int64(self.first_scheduled_ps),
            first_token_ps=as_int64(self.first_token_ps),
            finish_ps=as_int64(self.finish_ps),
            status=np.frombuffer(self.status, dtype=np.uint8),
            prompt_tokens=table.prompt_tokens,
            output_tokens=table.output_tokens,
            generated_tokens=as_int64(self.generated_tokens),
            cached_tokens=as_int64(self.cached_tokens),
            num_preemptions=as_int64(self.num_preemptions),
            recompute_tokens=as_int64(self.recompute_tokens),
            class_id=np.zeros(size, dtype=np.int16) if table.class_id is None else table.class_id,
            replica=np.frombuffer(self.replica, dtype=np.int16),
            is_measured=measured,
        )

    def preemption_columns(self) -> PreemptionColumns:
        """The ledger."""
        rows = np.frombuffer(self.preemptions, dtype=np.int64).reshape(-1, 4)
        return PreemptionColumns(
            time_ps=rows[:, 0], request=rows[:, 1], replica=rows[:, 2], recompute_tokens=rows[:, 3]
        )


class BlockMapRecorder:
    """KV memory as rectangles (address × time), the first ``limit`` of them."""

    def __init__(self, replica: int, limit: int = MAX_RECTANGLES) -> None:
        self.replica = replica
        self.limit = limit
        self.is_truncated = False
        self._open: dict[int, int] = {}
        self.rows: list[list[int]] = []

    def take(self, address: int, size: int, request: int, now_ps: int) -> None:
        """``size`` tokens from ``address`` on now belong to ``request``."""
        if self.is_truncated:
            return
        if len(self.rows) >= self.limit:  # from here on nobody follows the blocks
            self.is_truncated = True
            for row in self._open.values():
                self.rows[row][3] = now_ps
            self._open.clear()
            return
        self._open[address] = len(self.rows)
        self.rows.append([address, size, now_ps, -1, request])

    def give(self, address: int, now_ps: int) -> None:
        """What began at ``address`` is free again."""
        row = self._open.pop(address, -1)
        if row >= 0:
            self.rows[row][3] = now_ps

    def block_map(self, capacity_tokens: int, block_size: int, end_ps: int) -> BlockMap:
        """The rectangles; those still open end at ``end_ps``."""
        rows = np.array(self.rows, dtype=np.int64).reshape(-1, 5)
        ends = np.where(rows[:, 3] < 0, end_ps, rows[:, 3])
        return BlockMap(
            capacity_tokens=capacity_tokens,
            block_size=block_size,
            replica=self.replica,
            address_tokens=rows[:, 0],
            size_tokens=rows[:, 1],
            start_ps=rows[:, 2],
            end_ps=ends,
            request=rows[:, 4],
            kind=np.full(len(rows), OWNED, dtype=np.int64),
            is_truncated=self.is_truncated,
        )


def filled(size: int, value: int) -> array[int]:
    """A column of 64-bit integers."""
    return array("q", [value]) * size


def rare(size: int) -> memoryview:
    """The same of zeros, of which few change: memory that nobody wrote to takes no room."""
    return np.zeros(size, dtype=np.int64).data


def as_int64(column: array[int] | memoryview) -> Int64:
    """The same memory as a NumPy column."""
    return np.frombuffer(column, dtype=np.int64)
