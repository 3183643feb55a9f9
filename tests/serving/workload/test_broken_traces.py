"""Broken traces: each gives one ScenarioError that names the file and the place, and nothing else."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.errors import ScenarioError
from sim.serving.scenario import Trace, Workload
from sim.serving.workload.sources import draw_requests
from sim.serving.workload.trace_formats import load_raw

HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens"


def csv_text(rows: int = 30) -> str:
    return "\n".join([HEADER, *(f"{0.5 * k},{100 + k},{10 + k}" for k in range(rows))]) + "\n"


def azure_text(rows: int = 30) -> str:
    lines = [f"2023-11-16 18:15:{k:02d}.6805900,{374 + k},{44 + k}" for k in range(rows)]
    return "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n"


def mooncake_records(rows: int = 30) -> list[dict[str, object]]:
    return [
        {"timestamp": 400 * k, "input_length": 1000 + k, "output_length": 9, "hash_ids": [k, k + 100]}
        for k in range(rows)
    ]


def hashed(*cells: str) -> str:
    """Prompts of 40 tokens with the hashes of their two whole blocks of 16."""
    lines = [f"{k},40,9,{text}" for k, text in enumerate(cells)]
    return "\n".join([f"{HEADER},prefix_block_hashes16_first2", *lines]) + "\n"


def json_lines(records: list[dict[str, object]]) -> str:
    return "\n".join(map(json.dumps, records)) + "\n"


def cell(text: str, line: int, column: int, value: str) -> str:
    """The CSV text with one cell replaced; ``line`` counts from 1, the header being line 1."""
    lines = text.split("\n")
    cells = lines[line - 1].split(",")
    cells[column] = value
    lines[line - 1] = ",".join(cells)
    return "\n".join(lines)


def line(text: str, number: int, value: str) -> str:
    lines = text.split("\n")
    lines[number - 1] = value
    return "\n".join(lines)


def record(row: int, **changes: object) -> str:
    """Mooncake lines with one record changed; a change to ``...`` leaves the key out."""
    records = mooncake_records()
    changed = {**records[row], **changes}
    records[row] = {name: value for name, value in changed.items() if value is not ...}
    return json_lines(records)


def bench(**changes: object) -> str:
    result = {
        "input_lens": [100, 200],
        "output_lens": [5, 7],
        "start_times": [9000.25, 9000.5],
        **changes,
    }
    return json.dumps({name: value for name, value in result.items() if value is not ...})


PACKED = gzip.compress(csv_text(2000).encode(), mtime=0)
DAMAGED = PACKED[:200] + bytes(255 - one for one in PACKED[200:240]) + PACKED[240:]

# name: (content, keys of `trace`, what the message must say)
BROKEN: dict[str, tuple[str | bytes, dict[str, object], str]] = {
    "empty": ("", {}, "empty"),
    "blank": (" \n\n\t\n", {}, "empty"),
    "empty gzip": (gzip.compress(b""), {}, "empty"),
    "gzip cut off": (PACKED[: len(PACKED) // 2], {}, "cut off"),
    "gzip of ten bytes": (PACKED[:10], {}, "cut off"),
    "gzip magic alone": (b"\x1f\x8b", {}, "gzip"),
    "gzip damaged": (DAMAGED, {}, "damaged"),
    "gzip, wrong checksum": (PACKED[:-8] + b"\0" * 8, {}, "damaged"),
    "gzip with rubbish behind": (PACKED + b"rubbish", {}, "damaged"),
    "gzip of a gzip": (gzip.compress(PACKED), {}, "not"),
    "binary": (bytes(range(256)) * 40, {}, "not a text file"),
    "zero bytes": (csv_text().replace(",", "\0", 1), {}, "zero byte"),
    "latin-1": (csv_text().encode() + "0.5,é,3\n".encode("latin-1"), {}, "UTF-8"),
    "utf-16": (csv_text().encode("utf-16"), {}, "UTF-16"),
    "parquet": (b"PAR1" + b"rest of it", {}, "Parquet"),
    "zip": (b"PK\x03\x04rest of it", {}, "zip"),
    "sqlite": (b"SQLite format 3", {}, "SQLite"),
    "header alone": (HEADER + "\n", {}, "no row"),
    "no header": (csv_text().partition("\n")[2], {}, "no header"),
    "prose": ("This is not a trace.\nIt is prose.\n", {}, "no column for prompt_tokens"),
    "HTML": ("<!DOCTYPE html>\n<html><body>404: Not Found</body></html>\n", {}, "no column"),
    "missing prompt column": (csv_text().replace("num_prefill_tokens", "model"), {}, "prompt_tokens"),
    "missing output column": (csv_text().replace("num_decode_tokens", "model"), {}, "output_tokens"),
    "missing arrivals": (csv_text().replace("arrived_at", "model"), {}, "no arrival times"),
    "doubled column": (csv_text().replace("arrived_at", "num_decode_tokens"), {}, "one name"),
    "two candidates": (csv_text().replace("arrived_at", "prompt_tokens"), {}, "several columns"),
    "column shifted": (csv_text().replace(HEADER, HEADER.partition(",")[2]), {}, "3 cells"),
    "text cell": (cell(csv_text(), 7, 1, "many"), {}, "line 7: column num_prefill_tokens"),
    "empty cell": (cell(csv_text(), 7, 2, ""), {}, "line 7: column num_decode_tokens"),
    "text time": (cell(csv_text(), 9, 0, "noon"), {}, "line 9: column arrived_at"),
    "thousands": (cell(csv_text(), 5, 1, "1_000"), {}, "line 5"),
    "unit in a cell": (cell(csv_text(), 5, 0, "5 s"), {}, "line 5"),
    "hexadecimal": (cell(csv_text(), 5, 1, "0x20"), {}, "line 5"),
    "negative tokens": (cell(csv_text(), 12, 1, "-3"), {}, "line 12: column num_prefill_tokens"),
    "negative output": (cell(csv_text(), 12, 2, "-1"), {}, "line 12: column num_decode_tokens"),
    "negative time": (cell(csv_text(), 2, 0, "-0.5"), {}, "line 2: column arrived_at"),
    "NaN tokens": (cell(csv_text(), 4, 1, "NaN"), {}, "line 4: column num_prefill_tokens"),
    "NaN time": (cell(csv_text(), 4, 0, "nan"), {}, "line 4: column arrived_at"),
    "infinite time": (cell(csv_text(), 4, 0, "inf"), {}, "line 4: column arrived_at"),
    "infinite tokens": (cell(csv_text(), 4, 2, "1e999"), {}, "line 4: column num_decode_tokens"),
    "half a token": (cell(csv_text(), 4, 1, "12.5"), {}, "line 4: column num_prefill_tokens"),
    "ten million and one": (cell(csv_text(), 4, 1, "10000001"), {}, "10,000,000"),
    "a number of 400 digits": (cell(csv_text(), 4, 1, "9" * 400), {}, "line 4"),
    "a time in the far future": (cell(csv_text(), 31, 0, "1e30"), {"time_unit": "s"}, "too long"),
    "short row": (line(csv_text(), 20, "9.0,118"), {}, "line 20"),
    "long row": (line(csv_text(), 20, "9.0,118,28,4"), {}, "line 20"),
    "short and long rows": (line(line(csv_text(), 20, "9.0,118"), 8, "3.0,106,16,1"), {}, "line 8"),
    "last row cut off": (csv_text()[:-7], {}, "line 31"),
    "open quote": (cell(csv_text(), 6, 1, '"105'), {}, "line"),
    "quote in a cell": (cell(csv_text(), 6, 1, '"1"05'), {}, "line 6"),
    "unknown role": (csv_text(), {"columns": {"prompt": "num_prefill_tokens"}}, "unknown role"),
    "mapped to nowhere": (csv_text(), {"columns": {"arrival": "arived_at"}}, "did you mean arrived_at"),
    "csv said to be JSON": (csv_text(), {"format": "jsonl"}, "not JSON"),
    "csv said to be mooncake": (csv_text(), {"format": "mooncake"}, "not JSON"),
    "csv said to be azure": (csv_text(), {"format": "azure"}, "no column TIMESTAMP"),
    "JSON said to be csv": (json_lines(mooncake_records()), {"format": "csv"}, "this is JSON"),
    "nothing left": (csv_text(), {"skip_requests": 30}, "nothing is left"),
    "too often": (csv_text(), {"repeat": 10**9}, "too many requests"),
    "stretched too far": (csv_text(), {"time_scale": 1e9}, "too long"),
    "azure, no date": (cell(azure_text(), 8, 0, "yesterday"), {}, "line 8: column TIMESTAMP"),
    "azure, month 13": (cell(azure_text(), 8, 0, "2023-13-16 18:15:46.6"), {}, "line 8: column TIMESTAMP"),
    "azure, 30 February": (cell(azure_text(), 8, 0, "2023-02-30 18:15:46.6"), {}, "line 8"),
    "azure, empty date": (cell(azure_text(), 8, 0, ""), {}, "line 8: column TIMESTAMP"),
    "azure, NaT": (cell(azure_text(), 8, 0, "NaT"), {}, "line 8: column TIMESTAMP"),
    "azure, number as date": (
        cell(azure_text(), 2, 0, "0.5"),
        {"format": "azure"},
        "line 2: column TIMESTAMP",
    ),
    "azure, another zone": (cell(azure_text(), 8, 0, "2023-11-16 18:15:46+02:00"), {}, "line 8"),
    "azure, dates in ms": (azure_text(), {"time_unit": "ms"}, "need no unit"),
    "azure, year 9999": (cell(azure_text(), 8, 0, "9999-01-01 00:00:00"), {}, "line 8"),
    "azure, a century between": (cell(azure_text(), 8, 0, "1923-11-16 18:15:46"), {}, "line 8"),
    "azure, thirty years between": (cell(azure_text(), 8, 0, "1993-11-16 18:15:46"), {}, "too long"),
    "JSON cut off": (json_lines(mooncake_records())[:-30], {}, "line 30"),
    "JSON, one line": ('{"timestamp": 0, "input_len', {}, "line 1"),
    "JSON, a line of prose": (line(json_lines(mooncake_records()), 4, "oops"), {}, "line 4"),
    "JSON, a list as a record": (line(json_lines(mooncake_records()), 4, "[1, 2]"), {}, "line 4"),
    "JSON, an empty object": ("{}", {}, "no column for prompt_tokens"),
    "JSON, an empty array": ("[]", {}, "array is empty"),
    "JSON, an array of numbers": ("[1, 2, 3]", {}, "record 1"),
    "JSON, nested without end": ("[" * 100_000, {}, "not JSON"),
    "JSON, an integer of 5,000 digits": (
        json_lines(mooncake_records()).replace("1003", "9" * 5000),
        {},
        "line 4",
    ),
    "JSON, text for a number": (record(3, input_length="1003"), {}, "line 4: key input_length"),
    "JSON, null for a number": (record(3, output_length=None), {}, "line 4: key output_length"),
    "JSON, true for a number": (record(3, output_length=True), {}, "line 4: key output_length"),
    "JSON, a list for a number": (record(3, timestamp=[5]), {}, "line 4: key timestamp"),
    "JSON, NaN": (record(3, output_length=float("nan")), {}, "line 4: column output_length"),
    "JSON, an integer of 400 digits": (record(3, output_length=10**400), {}, "line 4: key output_length"),
    "mooncake, no timestamp": (record(3, timestamp=...), {}, "line 4: the record has no timestamp"),
    "mooncake, no hash ids": (record(3, hash_ids=...), {}, "line 4: the record has no hash_ids"),
    "mooncake, no hash ids at first": (record(0, hash_ids=...), {"format": "mooncake"}, "line 1"),
    "mooncake, one id too few": (record(3, hash_ids=[3]), {}, "line 4: key hash_ids: 1 hash ids"),
    "mooncake, one id too many": (record(3, hash_ids=[1, 2, 3]), {}, "line 4: key hash_ids: 3 hash ids"),
    "mooncake, other blocks": (
        json_lines(mooncake_records()),
        {"hash_block_tokens": 16},
        "hash_block_tokens",
    ),
    "mooncake, text ids": (record(3, hash_ids=["a", "b"]), {}, "line 4: key hash_ids"),
    "mooncake, negative id": (record(3, hash_ids=[-1, 2]), {}, "line 4: key hash_ids"),
    "mooncake, huge id": (record(3, hash_ids=[2**63, 2]), {}, "line 4: key hash_ids"),
    "mooncake, a number for ids": (record(3, hash_ids=7), {}, "line 4: key hash_ids"),
    "hashes, a word": (hashed("0a 0b", "0a zz"), {}, "hashes16_first2: not a hash"),
    "hashes, one too few": (hashed("0a 0b", "0a"), {}, "line 3: column prefix_block_hashes16_first2: 1"),
    "hashes, one too many": (hashed("0a 0b", "1 2 3"), {}, "3 hashes for 40 tokens"),
    "hashes, endless prompt": (hashed("0a 0b", "0a 0b").replace("40", "inf"), {}, "not a number of tokens"),
    "mooncake, negative length": (record(3, input_length=-5), {}, "line 4: column input_length"),
    "vllm, no input_lens": (bench(input_lens=...), {}, "input_lens is missing"),
    "vllm, no output_lens": (bench(output_lens=...), {}, "--save-detailed"),
    "vllm, empty": (bench(input_lens=[], output_lens=[], start_times=[]), {}, "input_lens is missing"),
    "vllm, no start_times": (bench(start_times=...), {}, "no arrival times"),
    "vllm, short start_times": (bench(start_times=[1.0]), {}, "as long as input_lens"),
    "vllm, text": (bench(output_lens=["5", 7]), {}, "output_lens[0]"),
    "vllm, columns": (bench(), {"columns": {"arrival": "start_times"}}, "own names"),
    "vllm, an array": ("[1]", {"format": "vllm_bench"}, "not a result"),
    "vllm, summary only": (json.dumps({"duration": 5.0}), {"format": "vllm_bench"}, "--save-detailed"),
}


def message_of(folder: Path, name: str, trace: dict[str, object]) -> str:
    with pytest.raises(ScenarioError) as caught:
        draw_requests(Workload(trace=Trace(path=name, **trace)), 1, folder)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trace_gives_one_clear_error(tmp_path: Path, name: str) -> None:
    content, trace, said = BROKEN[name]
    (tmp_path / "trace").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = message_of(tmp_path, "trace", trace)
    assert said in message
    assert message.startswith(("trace: ", "workload."))
    assert len(message) < 1000 and "Traceback" not in message


def test_there_are_at_least_fifty() -> None:
    assert len(BROKEN) >= 50


def test_a_missing_file_and_a_folder_name_what_is_near(tmp_path: Path) -> None:
    (tmp_path / "azure2023_conv.csv").write_text(csv_text())
    assert "azure2023_conv.csv" in message_of(tmp_path, "azure_conv.csv", {})
    assert "folder" in message_of(tmp_path, "no/such/trace.csv", {})
    (tmp_path / "sub").mkdir()
    assert "this is a folder" in message_of(tmp_path, "sub", {})
    assert "no file name" in message_of(tmp_path, "", {})
    assert "no file name" in message_of(tmp_path, "a\0b", {})
    assert message_of(tmp_path, "x" * 5000, {})


@pytest.mark.parametrize("key", ["prompt_tokens", "classes"])
def test_a_trace_beside_drawn_lengths_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "trace").write_text(csv_text())
    drawn = Workload(trace=Trace(path="trace"), **{key: {"chat": None}})  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match=f"workload.{key}"):
        draw_requests(drawn, 1, tmp_path)


TEXTS: dict[str, Callable[[], str]] = {
    "csv": csv_text,
    "azure": azure_text,
    "mooncake": lambda: json_lines(mooncake_records()),
    "vllm_bench": bench,
}


@pytest.mark.parametrize("layout", TEXTS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_random_damage_is_read_or_refused_but_never_a_traceback(
    tmp_path: Path, layout: str, is_packed: bool
) -> None:
    """150 files each with a few bytes changed, cut, doubled or put in: a table or a ScenarioError."""
    whole = TEXTS[layout]().encode()
    whole = gzip.compress(whole, mtime=0) if is_packed else whole
    rng = random.Random(f"{layout} {is_packed}")
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(content))
            kind = rng.choice(["change", "cut", "double", "insert"])
            if kind == "change":
                content[at] = rng.choice(b'0123456789-,.{}[]":eEnNaI \n\0\xff')
            elif kind == "cut":
                del content[at : at + rng.randint(1, 40)]
            elif kind == "double":
                content[at:at] = content[at : at + rng.randint(1, 40)]
            else:
                content[at:at] = rng.choice([b"\n", b",", b'"', b"\r", b"1e309", b"\xef\xbb\xbf", b"null"])
            content = content or bytearray(b" ")
        (tmp_path / "trace").write_bytes(content)
        try:
            table = draw_requests(Workload(trace=Trace(path="trace")), 1, tmp_path)
        except ScenarioError as error:
            refused += 1
            assert str(error)
        else:
            assert len(table.arrival_ps) == len(table.prompt_tokens) >= 1
            assert table.prompt_tokens.min() >= 1 and table.output_tokens.min() >= 1
    assert refused > 30


AZURE_ROWS = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,10,5\n"
MOONCAKE_ROW = '{"timestamp": 0, "input_length": 10, "output_length": 5, "hash_ids": [0]}\n'


@pytest.mark.parametrize(
    ("text", "given", "found"),
    [
        (MOONCAKE_ROW, "azure", "mooncake"),
        (MOONCAKE_ROW, "burstgpt", "mooncake"),
        (MOONCAKE_ROW, "csv", "mooncake"),
        (AZURE_ROWS, "mooncake", "azure"),
        (AZURE_ROWS, "burstgpt", "azure"),
        (AZURE_ROWS, "jsonl", "azure"),
        ("at,prompt_tokens,output_tokens\n0,1,2\n", "azure", "csv"),
        ('{"arrival_time": 0, "prompt_tokens": 3, "output_tokens": 4}\n', "azure", "jsonl"),
    ],
)
def test_the_hint_names_the_format_that_a_file_has(tmp_path: Path, text: str, given: str, found: str) -> None:
    (tmp_path / "trace.txt").write_text(text)
    with pytest.raises(ScenarioError) as told:
        load_raw(Trace(path="trace.txt", format=given), tmp_path)
    assert told.value.hint == f"workload.trace.format: {found}, whose layout this file has; or auto"


def test_a_mistake_inside_a_file_of_the_right_format_keeps_its_own_hint(tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text(MOONCAKE_ROW + '{"timestamp": 1}\n')
    with pytest.raises(ScenarioError) as told:
        load_raw(Trace(path="trace.txt", format="mooncake"), tmp_path)
    assert "whose layout this file has" not in told.value.hint
