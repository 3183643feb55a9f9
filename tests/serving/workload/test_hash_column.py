"""Block hashes in a CSV's column: the same token identity as Mooncake's ids, in 16-token blocks."""

from __future__ import annotations

import csv
import gzip
import io
from itertools import pairwise
from pathlib import Path

import pytest
from described_workload import describe

from sim.serving.records import RequestTable
from sim.serving.scenario import Trace, Workload
from sim.serving.workload.sources import draw_requests

HEADER = "arrival_s,input_tokens,output_tokens,prefix_block_hashes16_first3"


def read(path: Path) -> RequestTable:
    return draw_requests(Workload(trace=Trace(path=path.name)), 1, path.parent)


def segments_of(table: RequestTable) -> list[list[tuple[int, int]]]:
    """By request: (stream, tokens) of its prompt's pieces."""
    assert table.segment_offsets is not None and table.segment_stream is not None
    assert table.segment_length is not None
    offsets = table.segment_offsets.tolist()
    pairs = list(zip(table.segment_stream.tolist(), table.segment_length.tolist(), strict=True))
    return [pairs[a:b] for a, b in pairwise(offsets)]


def test_equal_hashes_are_shared_and_the_rest_is_the_request_s_own(tmp_path: Path) -> None:
    rows = ["0,200,9,0a 0b 0c", "1,48,9,0a 0b 0c", "2,200,9,0A 0b 0d", "3,15,9,"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    table = read(path)
    first, second, third, fourth = segments_of(table)
    assert [tokens for _, tokens in first] == [tokens for _, tokens in third] == [16, 16, 16, 152]
    assert second == first[:3]
    assert third[:2] == first[:2] and fourth[0][1] == 15
    streams = [stream for part in (first[2:], third[2:], fourth) for stream, _ in part]
    assert len(set(streams)) == len(streams)
    assert describe(table)["shared_token_fraction"] == pytest.approx((48 + 32) / (200 + 48 + 200 + 15))


def test_a_real_trace_shares_what_its_hashes_say(shared: Path) -> None:
    path = shared / "traces" / "sharegpt_llama31_8b_300_sps10.csv.gz"
    seen: set[str] = set()
    shared_blocks = prompt_tokens = 0
    for row in csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode())):
        hashes = row["prefix_block_hashes16_first64"].split()
        shared_blocks += next((k for k, one in enumerate(hashes) if one not in seen), len(hashes))
        seen.update(hashes)
        prompt_tokens += int(row["input_tokens"])
    assert shared_blocks > 1000
    described = describe(read(path))
    assert described["shared_token_fraction"] == pytest.approx(16 * shared_blocks / prompt_tokens)
