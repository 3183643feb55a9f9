"""Packed columns give back every number, also those at the edges of 64 bits and beyond."""

from __future__ import annotations

import pickle
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sim.arrays import Block, PackedColumn
from sim.serving.recorder import MAX_GROWN, SEGMENT_BYTES, SEGMENT_FIELDS, SegmentRows
from sim.serving.records import SegmentColumns

LOWEST, HIGHEST = -(2**63), 2**63 - 1


def unpacked(block: Block) -> list[int]:
    rows = np.empty(len(block), dtype=np.int64)
    block.unpack(rows)
    return rows.tolist()


@given(
    st.lists(st.integers(LOWEST, HIGHEST), min_size=1, max_size=20),
    st.integers(0, 63),
)
@example([LOWEST, HIGHEST], 0)
@example([-1], 63)
def test_a_block_gives_back_what_it_got(numbers: list[int], shift: int) -> None:
    column = np.array(numbers, dtype=np.int64) >> shift
    assert unpacked(Block(column)) == column.tolist()


@pytest.mark.parametrize("bits", range(1, 65))
def test_a_row_takes_no_more_bytes_than_its_number_needs(bits: int) -> None:
    rows = np.array([0, (1 << bits) - 1], dtype=np.uint64).view(np.int64) + 5
    block = Block(rows)
    assert unpacked(block) == rows.tolist()
    needed = -(-bits // 8) if 0 <= (1 << bits) - 1 <= HIGHEST else 8
    assert sum(piece.itemsize for piece in block._pieces) <= needed


def test_equal_numbers_take_none() -> None:
    assert not Block(np.full(9, 2**60))._pieces


def test_numbers_beyond_64_bits_make_a_column_of_objects() -> None:
    plain, large = Block(np.arange(3)), Block(np.array([4, 0, 6]), {1: 2**70})
    column = PackedColumn(np.int64, [plain, large]).whole()
    assert column.dtype == object and column.tolist() == [0, 1, 2, 4, 2**70, 6]
    assert PackedColumn(np.int64, [plain]).whole().dtype == np.int64


def recorded(num_rows: int, *, has_drafts: bool) -> tuple[SegmentColumns, dict[str, list[int]]]:
    """Rows with numbers of every size, and what should come back."""
    draws, rows = np.random.default_rng(num_rows), SegmentRows()
    want: dict[str, list[int]] = {name: [] for name in SEGMENT_FIELDS}
    drafts: dict[str, list[int]] = {"num_draft_tokens": [], "num_accepted_tokens": []}
    for row in range(num_rows):
        numbers = draws.integers(0, 1 << (row % 40 + 1), len(SEGMENT_FIELDS)).tolist()
        numbers[0] %= 9
        if row % 997 == 5:
            numbers[-1] = MAX_GROWN + row
        rows.add(*numbers)
        for name, number in zip(SEGMENT_FIELDS, numbers, strict=True):
            want[name].append(number)
        is_noted = has_drafts and row % 3 == 0
        if is_noted:
            rows.note_drafts(row, row // 2)
        for name, number in zip(drafts, (row, row // 2), strict=True):
            drafts[name].append(number if is_noted else 0)
    wanted, tokens = want["kv_reserved"], want["kv_tokens"]
    want["kv_internal"] = [given - one for given, one in zip(want["kv_internal"], wanted, strict=True)]
    want["kv_reserved"] = [one - held for one, held in zip(wanted, tokens, strict=True)]
    return rows.columns(), want | (drafts if has_drafts and num_rows else {})


@pytest.mark.parametrize("has_drafts", [False, True])
@pytest.mark.parametrize(
    ("num_rows", "num_parts"), [(0, 1), (7, 1), (1000, 1), (1001, 1), (1200, 1), (1201, 2), (2345, 4)]
)
def test_segments_come_back_whole_and_in_parts(
    num_rows: int, num_parts: int, has_drafts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.arrays.PART_BLOCKS", 2)
    monkeypatch.setattr("sim.serving.recorder.FIRST_BYTES", 1000 * SEGMENT_BYTES)
    monkeypatch.setattr("sim.serving.recorder.BLOCK_BYTES", 200 * SEGMENT_BYTES)
    columns, want = recorded(num_rows, has_drafts=has_drafts)
    assert columns.num_rows == num_rows
    parts = list(columns.parts())
    assert len(parts) == num_parts
    again = pickle.loads(pickle.dumps(columns))
    for name in (field.name for field in fields(SegmentColumns)):
        if name not in want:
            assert getattr(columns, name) is None
            continue
        assert getattr(columns, name).tolist() == want[name] == getattr(again, name).tolist()
        assert np.concatenate([getattr(part, name) for part in parts]).tolist() == want[name]
    assert columns.replica.dtype == np.int16
    end = columns.start_ps + columns.duration_ps
    assert columns.end_ps.tolist() == end.tolist()
    odd = columns.of_parts(lambda part: part.num_decode[part.num_decode % 2 == 1])
    assert odd.tolist() == [number for number in want["num_decode"] if number % 2]
