"""Traces in CSV: Azure's layout, and any header whose columns are known or named; with block hashes or not.

A column named ``prefix_block_hashes16_first64`` says which requests share how much of their beginning: it has
the chained hashes of the first 64 whole blocks of 16 tokens, in hexadecimal, separated by spaces. What comes
after them, and a last block that is not full, nobody else is taken to share: sharing beyond the first 64
blocks is not in the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sim.arrays import Float64, Int64
from sim.scenario.csv_files import CsvFile, TextFile, open_csv
from sim.scenario.dataclass import dataclass
from sim.serving.workload.trace_rows import (
    ARRIVAL,
    OUTPUT,
    PROMPT,
    RawTrace,
    TraceFormat,
    TraceKeys,
    find_roles,
    is_json,
    refuse_json,
    unit_in_name,
)

_BURSTGPT = {ARRIVAL: "Timestamp", PROMPT: "Request tokens", OUTPUT: "Response tokens"}
_AZURE = {ARRIVAL: "TIMESTAMP", PROMPT: "ContextTokens", OUTPUT: "GeneratedTokens"}
_NAME = re.compile(r"prefix_block_hashes([1-9]\d{0,5})_first([1-9]\d{0,5})", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{1,15}", re.IGNORECASE)
_MAX_TOKENS = 1e15  # impossible lengths are refused where all lengths are


def _is_azure(file: TextFile, trace: TraceKeys) -> bool:
    """Azure's three columns with a date in the first: with numbers there it is another CSV."""
    if is_json(file) or trace.columns is not None:
        return False
    header = [name.strip() for name in file.text.partition("\n")[0].split(",")]
    if not set(_AZURE.values()) <= set(header):
        return False
    table = open_csv(file)
    return table.is_dates(table.header.index(_AZURE[ARRIVAL]))


def _is_burstgpt(file: TextFile, trace: TraceKeys) -> bool:
    if is_json(file) or trace.columns is not None:
        return False
    header = {name.strip() for name in file.text.partition("\n")[0].split(",")}
    return set(_BURSTGPT.values()) <= header


def _read_burstgpt(file: TextFile, trace: TraceKeys) -> RawTrace:
    refuse_json(file)
    table = open_csv(file)
    missing = [name for name in _BURSTGPT.values() if name not in table.header]
    if missing:
        raise file.error(
            f"no column {missing[0]}, which BurstGPT's layout has",
            "line 1",
            given=", ".join(table.header),
            allowed=", ".join(_BURSTGPT.values()),
            hint="workload.trace.format: csv",
        )
    return replace(_columns(table, _BURSTGPT, is_dated=False), unit="s")


def _is_any_csv(file: TextFile, trace: TraceKeys) -> bool:
    return not is_json(file)


def _read_azure(file: TextFile, trace: TraceKeys) -> RawTrace:
    refuse_json(file)
    table = open_csv(file)
    missing = [name for name in _AZURE.values() if name not in table.header]
    if missing:
        raise file.error(
            f"no column {missing[0]}, which the Azure layout has",
            "line 1",
            given=", ".join(table.header),
            allowed=", ".join(_AZURE.values()),
            hint="workload.trace.format: csv",
        )
    return _columns(table, _AZURE, is_dated=True)


def _read_csv(file: TextFile, trace: TraceKeys) -> RawTrace:
    refuse_json(file)
    table = open_csv(file)
    roles = find_roles(file, "line 1", table.header, trace.columns)
    is_dated = ARRIVAL in roles and table.is_dates(table.header.index(roles[ARRIVAL]))
    return _columns(table, roles, is_dated=is_dated)


def _columns(table: CsvFile, roles: Mapping[str, str], *, is_dated: bool) -> RawTrace:
    at = {role: table.header.index(name) for role, name in roles.items()}
    times: Float64 | Int64 | None = None
    if ARRIVAL in at:
        times = table.dates_ns(at[ARRIVAL]) if is_dated else table.numbers(at[ARRIVAL])
    prompt_tokens = table.numbers(at[PROMPT])
    hashes = read_prefix_hashes(table, prompt_tokens)
    return RawTrace(
        file=table.file,
        where=table.line_of,
        names=roles,
        times=times,
        unit="ns" if is_dated else unit_in_name(roles[ARRIVAL]) if ARRIVAL in roles else None,
        prompt_tokens=prompt_tokens,
        output_tokens=table.numbers(at[OUTPUT]),
        hash_ids=None if hashes is None else hashes.ids,
        hash_block_tokens=None if hashes is None else hashes.block_tokens,
        is_dated=is_dated,
    )


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


AZURE = TraceFormat(
    doc="CSV of Azure's LLM inference traces: TIMESTAMP (a date), ContextTokens, GeneratedTokens",
    recognises=_is_azure,
    read=_read_azure,
)
BURSTGPT = TraceFormat(
    doc="CSV of BurstGPT: Timestamp (s), Request tokens, Response tokens; rows that failed have 0 of these",
    recognises=_is_burstgpt,
    read=_read_burstgpt,
)
CSV = TraceFormat(
    doc="a header, then a row per request: arrival, prompt_tokens, output_tokens, under names that are known "
    "(Vidur's, vLLM's) or given as columns; prefix_block_hashes16_first64 for shared prefixes",
    recognises=_is_any_csv,
    read=_read_csv,
    takes_any=True,
    takes_columns=True,
)
