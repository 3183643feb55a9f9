"""Traces in JSON: a record per line (Mooncake among them), an array of records, or vLLM's benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from sim.errors import ScenarioError
from sim.scenario.csv_files import TextFile
from sim.serving.workload.trace_rows import (
    ARRIVAL,
    OUTPUT,
    PROMPT,
    RawTrace,
    TraceFormat,
    TraceKeys,
    drawn_alike,
    find_roles,
    is_json,
    numbers,
    require_json,
    unit_in_name,
)

_MOONCAKE = {ARRIVAL: "timestamp", PROMPT: "input_length", OUTPUT: "output_length"}
# What Qwen-Bailian's traces of Mooncake's layout have beside it; theirs are seconds, and blocks of 16 tokens.
_BAILIAN, _BAILIAN_BLOCK_TOKENS = ("chat_id", "parent_chat_id", "turn"), 16
# What a result of `vllm bench serve` or sglang.bench_serving has without its requests.
_TABLE = "Serving Benchmark Result"
_STATISTICS = ("total_input_tokens", "total_output_tokens", "output_throughput")
_VLLM_BENCH = {PROMPT: "input_lens", OUTPUT: "output_lens", ARRIVAL: "start_times"}


def first_record(file: TextFile) -> object:
    """The first record of a file of records, or the one object of a file; None where it is no JSON."""
    if not is_json(file):
        return None
    text = file.text.lstrip()
    start = len(text) - len(text[1:].lstrip()) if text.startswith("[") else 0
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def _is_mooncake(file: TextFile, trace: TraceKeys) -> bool:
    record = first_record(file) if trace.columns is None else None
    return isinstance(record, dict) and "hash_ids" in record and not set(_BAILIAN) & set(record)


def _is_bailian(file: TextFile, trace: TraceKeys) -> bool:
    record = first_record(file) if trace.columns is None else None
    return isinstance(record, dict) and "hash_ids" in record and bool(set(_BAILIAN) & set(record))


def _is_vllm_bench(file: TextFile, trace: TraceKeys) -> bool:
    if not is_json(file):
        return _TABLE in file.text
    record = first_record(file) if file.text.lstrip().startswith("{") else None
    if not isinstance(record, dict):
        return False
    is_summary = any(isinstance(record.get(name), (int, float)) for name in _STATISTICS)
    return is_summary or bool(set(record) & set(_VLLM_BENCH.values()))


def _is_any_json(file: TextFile, trace: TraceKeys) -> bool:
    return is_json(file)


def _read_records(file: TextFile, trace: TraceKeys) -> RawTrace:
    where, records = json_records(file)
    return _records(file, where, records, find_roles(file, where[0], list(records[0]), trace.columns))


def _read_mooncake(file: TextFile, trace: TraceKeys) -> RawTrace:
    where, records = json_records(file)
    raw = _records(file, where, records, _MOONCAKE, is_mooncake=True)
    assert raw.times is not None
    # Mooncake's are whole milliseconds: what has fractions is another's, and its unit is not known.
    return raw if np.all(raw.times == np.floor(raw.times)) else replace(raw, unit=None, is_unit_guessed=False)


def _read_bailian(file: TextFile, trace: TraceKeys) -> RawTrace:
    where, records = json_records(file)
    raw = _records(file, where, records, _MOONCAKE, is_mooncake=True)
    return replace(raw, unit="s", layout_block_tokens=_BAILIAN_BLOCK_TOKENS)


def whole_json(file: TextFile) -> Any:
    """The one value that a JSON file holds."""
    require_json(file)
    return _parse(file, file.text, "")


def _read_vllm_bench(file: TextFile, trace: TraceKeys) -> RawTrace:
    if not is_json(file) and _TABLE in file.text:
        raise file.error(
            "this is what the benchmark prints, not what it saves",
            allowed="its JSON file",
            hint="vllm bench serve --save-result --save-detailed writes it",
        )
    require_json(file)
    if not file.text.lstrip().startswith("{"):
        raise file.error(
            "not a result of vllm bench serve",
            allowed="one JSON object with input_lens, output_lens and start_times",
        )
    where, records = json_records(file)
    if len(records) > 1 and set(records[0]) & set(_VLLM_BENCH.values()):
        raise file.error(
            f"{len(records):,} results in one file: a trace is one of them",
            where[1],
            allowed="one JSON object",
            hint="put the line that you mean into a file of its own",
        )
    return _vllm_bench(file, records[0], trace.columns)


def json_records(file: TextFile) -> tuple[list[str], list[dict[str, Any]]]:
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
        role: numbers(file, [f"{one}: key {name}" for one in where], column(name))
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
    if not set(_VLLM_BENCH.values()) & set(result):
        raise _without_requests(file, result)
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
        arrays[role] = numbers(file, [f"{name}[{index}]" for index in range(len(values))], values)
    errors = result.get("errors")
    failed = np.zeros(len(arrays[PROMPT]), dtype=bool)
    if isinstance(errors, list) and len(errors) == len(failed):
        failed = np.array([bool(one) for one in errors])
    kept = np.flatnonzero(~failed)
    if not len(kept):
        raise file.error("every request in it failed", given=errors, allowed="at least one that did not")
    arrays = {role: column[kept] for role, column in arrays.items()}
    return RawTrace(
        file=file,
        where=lambda row: f"request {kept[row] + 1}",
        left_out={"failed": int(failed.sum())},
        names=roles,
        times=arrays.get(ARRIVAL),
        unit="s",
        prompt_tokens=arrays[PROMPT],
        output_tokens=arrays[OUTPUT],
    )


def _without_requests(file: TextFile, result: Mapping[str, Any]) -> ScenarioError:
    """A result that was saved without its requests: the flag that keeps them, and a workload like it."""
    is_sglang = "sglang" in str(result.get("backend", "")) or "sharegpt_output_len" in result
    flag = "--output-details" if is_sglang else "--save-result --save-detailed"
    served = result.get("completed")
    means = [
        total / served if isinstance(served, int) and served and isinstance(total, (int, float)) else None
        for total in (result.get("total_input_tokens"), result.get("total_output_tokens"))
    ]
    return file.error(
        "this result has statistics, not requests",
        allowed=f"one that was saved with {flag}: {', '.join(_VLLM_BENCH.values())}, a list each",
        hint=drawn_alike(
            (means[0], None),
            (means[1], None),
            rate=result.get("request_rate"),
            concurrency=result.get("max_concurrency"),
            num_requests=result.get("num_prompts", served),
        ),
    )


MOONCAKE = TraceFormat(
    doc="a JSON record per line: timestamp (ms), input_length, output_length, and hash_ids of blocks of "
    "hash_block_tokens tokens",
    recognises=_is_mooncake,
    read=_read_mooncake,
    takes_block_tokens=True,
)
BAILIAN = TraceFormat(
    doc="Qwen-Bailian's traces: Mooncake's layout with chat_id, parent_chat_id and turn; times in s, "
    "hash_ids of blocks of 16 tokens",
    recognises=_is_bailian,
    read=_read_bailian,
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
