"""Traces in JSON: a record per line (Mooncake among them), an array of records, or vLLM's benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from sim.arrays import Float64
from sim.scenario.csv_files import TextFile
from sim.serving.workload.trace_rows import (
    ARRIVAL,
    OUTPUT,
    PROMPT,
    RawTrace,
    TraceFormat,
    TraceKeys,
    find_roles,
    is_json,
    require_json,
    unit_in_name,
)

_MOONCAKE = {ARRIVAL: "timestamp", PROMPT: "input_length", OUTPUT: "output_length"}
_VLLM_BENCH = {PROMPT: "input_lens", OUTPUT: "output_lens", ARRIVAL: "start_times"}


def _first_record(file: TextFile) -> object:
    """The first record of a file of records, or the one object of a file; None where it is no JSON."""
    text = file.text.lstrip()
    start = len(text) - len(text[1:].lstrip()) if text.startswith("[") else 0
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def _is_mooncake(file: TextFile, trace: TraceKeys) -> bool:
    record = _first_record(file) if is_json(file) and trace.columns is None else None
    return isinstance(record, dict) and "hash_ids" in record


def _is_vllm_bench(file: TextFile, trace: TraceKeys) -> bool:
    record = _first_record(file) if file.text.lstrip().startswith("{") else None
    return isinstance(record, dict) and bool(set(record) & set(_VLLM_BENCH.values()))


def _is_any_json(file: TextFile, trace: TraceKeys) -> bool:
    return is_json(file)


def _read_records(file: TextFile, trace: TraceKeys) -> RawTrace:
    where, records = _checked_records(file)
    return _records(file, where, records, find_roles(file, where[0], list(records[0]), trace.columns))


def _read_mooncake(file: TextFile, trace: TraceKeys) -> RawTrace:
    where, records = _checked_records(file)
    return _records(file, where, records, _MOONCAKE, is_mooncake=True)


def _read_vllm_bench(file: TextFile, trace: TraceKeys) -> RawTrace:
    require_json(file)
    whole = _parse(file, file.text, "")
    if not isinstance(whole, dict):
        raise file.error(
            "not a result of vllm bench serve",
            given=type(whole).__name__,
            allowed="one JSON object with input_lens, output_lens and start_times",
        )
    return _vllm_bench(file, whole, trace.columns)


def _checked_records(file: TextFile) -> tuple[list[str], list[dict[str, Any]]]:
    """Where each record stands, and the records: one a line, an array of them, or a single one."""
    require_json(file)
    if _is_one_record_a_line(file.text):
        where, records = _lines(file)
    else:
        whole = _parse(file, file.text, "")
        records = whole if isinstance(whole, list) else [whole]
        where = [f"record {index + 1}" for index in range(len(records))]
    if not records:
        raise file.error("the array is empty", allowed="at least one record")
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise file.error(
                "not a JSON object",
                where[row],
                given=record,
                allowed='{"timestamp": 0, "input_length": 6758, "output_length": 500}',
            )
    return where, records


def _is_one_record_a_line(text: str) -> bool:
    """Whether the first line is a whole JSON object."""
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("{"):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return bool(rest.lstrip().startswith("{"))  # a broken first record, or one spread over lines
    return True


def _parse(file: TextFile, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where or f"line {error.lineno}"
        raise file.error(
            f"not JSON: {error.msg}",
            f"{place}: character {error.colno}",
            given=text[:200],
            hint="was the file cut off?" if error.pos >= len(text.rstrip()) - 1 else "",
        ) from None
    except (ValueError, RecursionError) as error:
        raise file.error(f"not JSON that can be read: {error}", where, given=text[:60]) from None


def _lines(file: TextFile) -> tuple[list[str], list[Any]]:
    where, records = [], []
    for number, line in enumerate(file.text.split("\n"), start=1):
        if line.strip():
            where.append(f"line {number}")
            records.append(_parse(file, line, where[-1]))
    return where, records


def _records(
    file: TextFile,
    where: Sequence[str],
    records: Sequence[dict[str, Any]],
    roles: Mapping[str, str],
    *,
    is_mooncake: bool = False,
) -> RawTrace:
    def column(name: str) -> list[Any]:
        try:
            return [record[name] for record in records]
        except KeyError:
            row = next(row for row, record in enumerate(records) if name not in record)
        raise file.error(
            f"the record has no {name}",
            where[row],
            given=", ".join(records[row]),
            allowed=", ".join(roles.values()),
            hint="" if is_mooncake else "workload.trace.columns says which keys to read",
        )

    arrays = {
        role: _numbers(file, [f"{one}: key {name}" for one in where], column(name))
        for role, name in roles.items()
    }
    hash_ids = None
    if is_mooncake:
        hash_ids = column("hash_ids")
        _check_hash_ids(file, where, hash_ids)
    unit = "ms" if is_mooncake else unit_in_name(roles[ARRIVAL]) if ARRIVAL in roles else None
    return RawTrace(
        file=file,
        where=lambda row: where[row],
        names=roles,
        times=arrays.get(ARRIVAL),
        unit=unit,
        prompt_tokens=arrays[PROMPT],
        output_tokens=arrays[OUTPUT],
        hash_ids=hash_ids,
    )


def _numbers(file: TextFile, where: Sequence[str], values: Sequence[Any]) -> Float64:
    """Numbers of a JSON file; text, booleans, null and lists are refused. NaN passes on."""
    if set(map(type, values)) <= {int, float}:
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            pass  # an int beyond float: found below
    for place, value in zip(where, values, strict=True):
        if type(value) not in (int, float) or abs(value) > 1e300:
            raise file.error("not a number", place, given=value, allowed="a number of 0 or more")
    return np.array(values, dtype=np.float64)


def _check_hash_ids(file: TextFile, where: Sequence[str], hash_ids: Sequence[Any]) -> None:
    if set(map(type, hash_ids)) == {list} and set(map(type, chain.from_iterable(hash_ids))) <= {int}:
        flat = list(chain.from_iterable(hash_ids))
        if not flat or (min(flat) >= 0 and max(flat) < 2**63):
            return
    for place, ids in zip(where, hash_ids, strict=True):
        if type(ids) is not list or any(type(one) is not int or not 0 <= one < 2**63 for one in ids):
            raise file.error(
                "not a list of hash ids",
                f"{place}: key hash_ids",
                given=ids,
                allowed="whole numbers from 0 to 2^63 - 1",
            )


def _vllm_bench(file: TextFile, result: dict[str, Any], columns: Mapping[str, str] | None) -> RawTrace:
    """``vllm bench serve --save-result --save-detailed``: one object with a list per column."""
    if columns:
        raise file.error("columns are for csv and jsonl; a vllm_bench result has its own names")
    for name in (_VLLM_BENCH[PROMPT], _VLLM_BENCH[OUTPUT]):
        if not isinstance(result.get(name), list) or not result[name]:
            raise file.error(
                f"{name} is missing, or no list with something in it",
                given=", ".join(result),
                allowed="input_lens, output_lens and start_times, a list each",
                hint="vllm bench serve --save-result --save-detailed writes them",
            )
    roles = {role: name for role, name in _VLLM_BENCH.items() if name in result}
    arrays = {}
    for role, name in roles.items():
        values = result[name]
        if not isinstance(values, list) or len(values) != len(result["input_lens"]):
            raise file.error(
                f"{name} is not a list as long as input_lens",
                given=values,
                allowed=f"{len(result['input_lens']):,} numbers",
            )
        arrays[role] = _numbers(file, [f"{name}[{index}]" for index in range(len(values))], values)
    return RawTrace(
        file=file,
        where=lambda row: f"request {row + 1}",
        names=roles,
        times=arrays.get(ARRIVAL),
        unit="s",
        prompt_tokens=arrays[PROMPT],
        output_tokens=arrays[OUTPUT],
    )


MOONCAKE = TraceFormat(
    doc="a JSON record per line: timestamp (ms), input_length, output_length, and hash_ids of blocks of "
    "hash_block_tokens tokens",
    recognises=_is_mooncake,
    read=_read_mooncake,
    takes_block_tokens=True,
)
VLLM_BENCH = TraceFormat(
    doc="what `vllm bench serve --save-result --save-detailed` writes: input_lens, output_lens, start_times",
    recognises=_is_vllm_bench,
    read=_read_vllm_bench,
)
JSONL = TraceFormat(
    doc="a JSON record per line, or an array of them, with columns as in csv",
    recognises=_is_any_json,
    read=_read_records,
    takes_any=True,
    takes_columns=True,
)
