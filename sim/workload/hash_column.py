"""Hashes of a prompt's first blocks in a CSV trace: which requests share how much of their beginning.

The column's name says how to read it: ``prefix_block_hashes16_first64`` has the chained hashes of the first
64 whole blocks of 16 tokens, in hexadecimal, separated by spaces. What comes after them, and a last block
that is not full, nobody else is taken to share: sharing beyond the first 64 blocks is not in the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sim.workload.csv_files import CsvFile
from sim.workload.distributions import Float64

_NAME = re.compile(r"prefix_block_hashes([1-9]\d{0,5})_first([1-9]\d{0,5})", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{1,15}", re.IGNORECASE)
_MAX_TOKENS = 1e15  # impossible lengths are refused where all lengths are


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixHashes:
    """Ids of every row's first blocks; a row whose prompt goes on after them ends with an id of its own."""

    block_tokens: int
    ids: Sequence[Sequence[int]]


def read_prefix_hashes(table: CsvFile, prompt_tokens: Float64) -> PrefixHashes | None:
    """The column of block hashes, if the file has one."""
    for column, name in enumerate(table.header):
        match = _NAME.fullmatch(name)
        if match:
            block_tokens, most = int(match[1]), int(match[2])
            cells = table.cells(column)
            ids = [
                _row_ids(table, column, (row, cell), tokens, (block_tokens, most))
                for row, (cell, tokens) in enumerate(zip(cells, prompt_tokens.tolist(), strict=True))
            ]
            return PrefixHashes(block_tokens=block_tokens, ids=ids)
    return None


def _row_ids(
    table: CsvFile, column: int, cell: tuple[int, str], tokens: float, shape: tuple[int, int]
) -> list[int]:
    row, text = cell
    block_tokens, most = shape
    words = text.split()
    where = f"{table.line_of(row)}: column {table.header[column]}"
    bad = [word for word in words if not _HASH.fullmatch(word)]
    if bad:
        raise table.file.error(
            "not a hash", where, given=bad[0], allowed="up to 15 hexadecimal digits, separated by spaces"
        )
    if 0 <= tokens < _MAX_TOKENS and len(words) != (expected := min(most, int(tokens // block_tokens))):
        raise table.file.error(
            f"{len(words):,} hashes for {tokens:,.0f} tokens",
            where,
            allowed=f"{expected:,}: one for each whole block of {block_tokens} tokens, {most} at most",
        )
    ids = [int(word, 16) for word in words]
    return ids if len(ids) * block_tokens == tokens and ids else [*ids, -1 - row]
