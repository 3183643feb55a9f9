"""Traces: published facts about the real ones, then every layout, unit and cut on small files."""

from __future__ import annotations

import gzip
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from described_workload import describe
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.arrays import PS_PER_S
from sim.errors import ScenarioError
from sim.scenario.distribution import Distribution
from sim.serving.records import RequestTable
from sim.serving.scenario import Trace, Workload
from sim.serving.workload.arrivals import Arrivals
from sim.serving.workload.sources import draw_requests

SHARED = Path(__file__).resolve().parents[4] / "shared"


def shared_file(name: str) -> Path:
    """A file of the shared data, or a skip with the reason; absence fails where nothing may be skipped."""
    if not (SHARED / name).is_file():
        reason = f"needs {name} in the folder `shared` beside the checkout"
        if os.environ.get("GPUYARD_NO_SKIPS", "0") != "0":
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED / name


def read(path: Path, workload: Workload | None = None, **trace: object) -> RequestTable:
    base = workload or Workload()
    one = Trace(path=path.name, **trace)  # type: ignore[arg-type]
    return draw_requests(replace(base, trace=one), 1, path.parent)


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def seconds(table: RequestTable) -> list[float]:
    return [float(one) for one in table.arrival_ps / PS_PER_S]


@pytest.mark.parametrize(
    ("name", "rows", "prompt", "output", "per_s", "gap_cv"),
    [
        ("azure2023_conv.csv.gz", 19_366, 1155, 211, 5.53, 1.09),
        ("azure2023_code.csv.gz", 8_819, 2048, 28, 2.57, 13.2),
        ("mooncake_conversation.jsonl.gz", 12_031, 12_035, 343, 12_031 / (59 * 60), None),
        ("mooncake_synthetic.jsonl.gz", 3_993, 15_326, 149, 3_993 / (17 * 60), None),
        ("sharegpt_llama31_8b_300_sps10.csv.gz", 300, None, None, 10, None),
    ],
)
def test_real_traces_have_their_published_figures(
    name: str, rows: int, prompt: float | None, output: float | None, per_s: float, gap_cv: float | None
) -> None:
    described = describe(read(shared_file(f"traces/{name}")))
    assert described["num_requests"] == rows
    # The readme gives whole tokens (15,325.476 as 15,326, so 0.53) and rates to their last digit.
    if prompt is not None and output is not None:
        assert described["prompt_tokens"]["mean"] == pytest.approx(prompt, abs=0.53)
        assert described["output_tokens"]["mean"] == pytest.approx(output, abs=0.53)
    rounding = 0.005 / per_s if gap_cv else 0.05  # lengths in whole minutes
    assert described["requests_per_s"] == pytest.approx(per_s, rel=rounding)
    if gap_cv:
        assert described["gap_cv"] == pytest.approx(gap_cv, abs=0.05 if gap_cv > 2 else 0.005)


@pytest.mark.parametrize(("name", "hit"), [("conversation", 0.366), ("synthetic", 0.640)])
def test_mooncake_blocks_are_shared_as_published(name: str, hit: float) -> None:
    table = read(shared_file(f"traces/mooncake_{name}.jsonl.gz"))
    assert table.segment_offsets is not None and table.segment_stream is not None
    assert table.segment_length is not None and table.output_stream is not None
    seen: set[int] = set()
    hits = 0
    for first, end in zip(table.segment_offsets[:-1], table.segment_offsets[1:], strict=True):
        blocks = table.segment_stream[first:end].tolist()
        hits += next((k for k, block in enumerate(blocks) if block not in seen), len(blocks))
        seen.update(blocks)
    assert hits / len(table.segment_stream) == pytest.approx(hit, abs=0.0005)
    assert np.array_equal(
        np.add.reduceat(table.segment_length, table.segment_offsets[:-1]), table.prompt_tokens
    )
    assert not seen & set(table.output_stream.tolist())


def test_lengths_without_times_need_arrivals() -> None:
    path = shared_file("traces/vidur_arxiv_summarization_lengths.csv.gz")
    with pytest.raises(ScenarioError, match="no arrival times"):
        read(path)
    drawn = Workload(arrivals=Arrivals(process="poisson", requests_per_s=2))
    described = describe(read(path, drawn))
    assert described["num_requests"] == 28_257
    assert described["prompt_tokens"]["mean"] == pytest.approx(2588, abs=0.5)
    assert described["output_tokens"]["mean"] == pytest.approx(291, abs=0.5)
    assert described["requests_per_s"] == pytest.approx(2, abs=4 * 2 / math.sqrt(28_257))


def test_the_speed_workload_loads_once_and_ten_times_over() -> None:
    path = shared_file("workloads/speed_normal_512_256_rate20_n100000.csv.gz")
    for repeat in (1, 10):
        table = read(path, repeat=repeat)
        assert len(table.arrival_ps) == 100_000 * repeat
    assert describe(table)["requests_per_s"] == pytest.approx(20, rel=0.01)


def azure_text(rows: int = 40) -> str:
    lines = [f"2023-11-16 18:15:{46 + k // 5:02d}.{k % 5}805901,{374 + k},{44 + k}" for k in range(rows)]
    return "TIMESTAMP,ContextTokens,GeneratedTokens\r\n" + "\r\n".join(lines)


def test_azure_times_keep_their_seven_digits(tmp_path: Path) -> None:
    rows = ["2023-12-31 23:59:59.9999999,5,6", "2024-01-01 00:00:00.0000002,7,8"]
    text = "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows])
    table = read(written(tmp_path, "a.csv", text))
    assert table.arrival_ps.tolist() == [0, 300_000]
    assert table.prompt_tokens.tolist() == [5, 7] and table.output_tokens.tolist() == [6, 8]
    assert table.segment_offsets is None
    assert table.notes == (
        "Read from a.csv: 2 requests over 3e-07 s, 3.33e+06 requests/s; its times are dates.",
    )


@pytest.mark.parametrize("zone", ["", "Z", "+00:00", "-0800"])
def test_dates_with_a_time_zone_are_read(tmp_path: Path, zone: str) -> None:
    rows = [f"2024-05-10 00:00:00.5{zone},5,6", f"2024-05-10T00:00:02{zone},7,8"]
    text = "\n".join(["arrival,prompt_tokens,output_tokens", *rows])
    assert seconds(read(written(tmp_path, "a.csv", text))) == [0, 1.5]


def test_gzip_is_known_by_content_not_by_name(tmp_path: Path) -> None:
    plain = written(tmp_path, "plain.csv.gz", azure_text())
    packed = tmp_path / "packed.csv"
    packed.write_bytes(gzip.compress(azure_text().encode()))
    assert np.array_equal(read(plain).arrival_ps, read(packed).arrival_ps)


@pytest.mark.parametrize(
    "header", ["arrived_at,num_prefill_tokens,num_decode_tokens", "arrival_s,input_tokens,output_tokens"]
)
def test_known_names_need_no_mapping(tmp_path: Path, header: str) -> None:
    table = read(written(tmp_path, "a.csv", f"{header}\n0.5,10,3\n0.75,20,4\n\n"))
    assert seconds(table) == [0, 0.25]
    assert table.prompt_tokens.tolist() == [10, 20]


def test_columns_map_names_and_leave_the_others_unread(tmp_path: Path) -> None:
    text = 'when;model;in;out;note\n1.5;llama;10.0;3;a\n2.5;llama;20;4;"b;c"\n'
    columns = {"arrival": "when", "prompt_tokens": "in", "output_tokens": "out"}
    table = read(written(tmp_path, "a.csv", text), columns=columns)
    assert seconds(table) == [0, 1] and table.prompt_tokens.tolist() == [10, 20]


def test_json_lines_and_an_array_of_records(tmp_path: Path) -> None:
    records = [
        {"arrived_at": k / 4, "prompt_tokens": 10 + k, "output_tokens": 5, "x": None} for k in range(3)
    ]
    lines = read(written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, records)) + "\n\n"))
    array = read(written(tmp_path, "a.json", json.dumps(records, indent=1)))
    assert seconds(lines) == seconds(array) == [0, 0.25, 0.5]
    assert lines.prompt_tokens.tolist() == array.prompt_tokens.tolist() == [10, 11, 12]


def bench(**changes: object) -> dict[str, object]:
    result: dict[str, object] = {
        "backend": "vllm",
        "request_rate": 10.0,
        "input_lens": [100, 200, 300],
        "output_lens": [5, 0, 7],
        "start_times": [9000.25, 9000.5, 9001.0],
        "ttfts": [0.1, 0.0, 0.2],
        "errors": ["", "refused", ""],
    }
    return {name: value for name, value in {**result, **changes}.items() if value is not None}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("layout", ["auto", "vllm_bench"])
def test_a_vllm_benchmark_result_is_replayed(tmp_path: Path, layout: str, indent: int | None) -> None:
    table = read(written(tmp_path, "result.json", json.dumps(bench(), indent=indent)), format=layout)
    assert seconds(table) == [0, 0.75]  # the second one was refused: nobody served it
    assert table.prompt_tokens.tolist() == [100, 300] and table.output_tokens.tolist() == [5, 7]
    assert table.notes == (
        "Read from result.json: 2 requests over 0.75 s, 1.33 requests/s; "
        "its times are in s, as the file says.",
        "Left out: 1 of 3 requests of result.json (1 failed).",
    )


def test_an_older_vllm_result_has_no_start_times_and_says_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path, "result.json", json.dumps(bench(start_times=None)))
    with pytest.raises(ScenarioError, match=r"workload\.arrivals"):
        read(path)
    drawn = Workload(arrivals=Arrivals(process="constant", requests_per_s=10))
    assert seconds(read(path, drawn)) == [0, 0.1]


def mooncake_text() -> str:
    rows = [
        {"timestamp": 0, "input_length": 1100, "output_length": 9, "hash_ids": [7, 8, 30]},
        {"timestamp": 250, "input_length": 1024, "output_length": 9, "hash_ids": [7, 8]},
        {"timestamp": 250, "input_length": 513, "output_length": 9, "hash_ids": [7, 2**40]},
    ]
    return "\n".join(map(json.dumps, rows))


def test_mooncake_blocks_become_segments(tmp_path: Path) -> None:
    table = read(written(tmp_path, "m.jsonl", mooncake_text()))
    assert seconds(table) == [0, 0.25, 0.25]
    assert table.segment_offsets is not None and table.segment_stream is not None
    assert table.segment_length is not None and table.segment_start is not None
    assert table.segment_offsets.tolist() == [0, 3, 5, 7]
    assert table.segment_length.tolist() == [512, 512, 76, 512, 512, 512, 1]
    assert not table.segment_start.any()
    a, b, c, d, e, f, g = table.segment_stream.tolist()
    assert a == d == f and b == e and len({a, b, c, g}) == 4
    assert describe(table)["shared_token_fraction"] == pytest.approx((1024 + 512) / (1100 + 1024 + 513))


def test_a_repeated_mooncake_trace_shares_within_a_playing_only(tmp_path: Path) -> None:
    path = written(tmp_path, "m.jsonl", mooncake_text())
    once, thrice = read(path), read(path, repeat=3)
    assert describe(once)["shared_token_fraction"] == pytest.approx(describe(thrice)["shared_token_fraction"])
    assert thrice.output_stream is not None and thrice.segment_stream is not None
    assert len(set(thrice.output_stream.tolist())) == 9
    assert not set(thrice.output_stream.tolist()) & set(thrice.segment_stream.tolist())


def csv_of(times: list[float | int], name: str = "arrived_at") -> str:
    rows = [f"{one},{k + 1},{k + 2}" for k, one in enumerate(times)]
    return "\n".join([f"{name},prompt_tokens,output_tokens", *rows]) + "\n"


def test_rows_out_of_order_are_sorted_stably_with_a_note(tmp_path: Path) -> None:
    table = read(written(tmp_path, "a.csv", csv_of([3.0, 1.0, 3.0, 1.0, 2.5])))
    assert seconds(table) == [0, 0, 1.5, 2, 2]
    assert table.prompt_tokens.tolist() == [2, 4, 5, 1, 3]
    assert table.notes[1:] == ("Sorted by time: 2 of the rows came earlier than the row above.",)


def test_skip_scale_repeat_and_cut(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", csv_of([5.0, 6.0, 8.0, 12.0]))
    assert seconds(read(path, time_scale=0.5)) == [0, 0.5, 1.5, 3.5]
    assert seconds(read(path, skip_requests=1)) == [0, 2, 6]
    # Once more after its length (6) and mean gap (3).
    assert seconds(read(path, skip_requests=1, repeat=2)) == [0, 2, 6, 9, 11, 15]
    assert seconds(read(path, Workload(num_requests=5), repeat=3)) == [0, 1, 3, 7, pytest.approx(7 + 7 / 3)]
    assert seconds(read(path, Workload(duration_s=3))) == [0, 1]
    assert read(path, Workload(num_requests=2)).prompt_tokens.tolist() == [1, 2]
    short = read(path, Workload(num_requests=9))
    assert len(short.arrival_ps) == 4 and "4 of the 9" in short.notes[-1]
    assert read(path, Workload(timeout_s=2)).timeout_ps.tolist() == [2 * PS_PER_S] * 4  # type: ignore[union-attr]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=12).map(lambda times: [*times, 10**7 + 1, 0]),
    st.integers(1, 4),
    st.integers(1, 60),
    st.sampled_from([0.25, 1.0, 3.0]),
)
def test_a_played_trace_is_sorted_and_keeps_its_gaps(
    tmp_path_factory: pytest.TempPathFactory, times_us: list[int], repeat: int, cut: int, scale: float
) -> None:
    path = written(tmp_path_factory.mktemp("t"), "a.csv", csv_of(times_us, "arrival_us"))
    table = read(path, Workload(num_requests=cut), repeat=repeat, time_scale=scale, time_unit="us")
    count = min(cut, repeat * len(times_us))
    assert len(table.arrival_ps) == count and table.arrival_ps[0] == 0
    gaps = np.diff(table.arrival_ps)
    assert gaps.size == 0 or gaps.min() >= 0
    expected = np.diff(np.sort(times_us)) * 1_000_000 * scale
    assert np.array_equal(gaps[: len(expected)], expected[: len(gaps)])
    ranked = np.argsort(times_us, kind="stable")
    assert table.prompt_tokens.tolist() == [int(ranked[k % len(ranked)]) + 1 for k in range(count)]


def test_arrivals_beside_a_trace_replace_its_times(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", csv_of([5.0, 6.0, 8.0, 12.0]))
    loop = Workload(arrivals=Arrivals(process="closed_loop", concurrency=2))
    table = read(path, loop, repeat=2)
    assert table.closed_loop and table.arrival_ps.tolist() == [0, 0] + [-1] * 6
    assert table.prompt_tokens.tolist() == [1, 2, 3, 4] * 2
    assert "arrivals drawn in place of its own times" in table.notes[0]


@pytest.mark.parametrize(
    ("name", "times", "gap_s", "note"),
    [
        ("arrival_ms", [500 * k for k in range(20)], 0.5, "in ms, as the file says"),
        ("arrival_s", [0.5 * k for k in range(20)], 0.5, "in s, as the file says"),
        ("timestamp", [0.5 * k for k in range(20)], 0.5, "was taken as s,"),
        ("timestamp", [500 * k for k in range(20)], 0.5, "was taken as ms,"),
        ("timestamp", [1_700_000_000 + 7 * k for k in range(20)], 7, "was taken as s,"),
        ("timestamp", [1_700_000_000_000 + 250 * k for k in range(20)], 0.25, "was taken as ms,"),
        ("timestamp", [1_700_000_000_000_000 + 70_000 * k for k in range(20)], 0.07, "was taken as us,"),
        (
            "timestamp",
            [1_700_000_000_000_000_000 + 2**30 * k for k in range(20)],
            2**30 / 1e9,
            "was taken as ns,",
        ),
    ],
)
def test_units_are_told_by_name_or_size(
    tmp_path: Path, name: str, times: list[float], gap_s: float, note: str
) -> None:
    table = read(written(tmp_path, "a.csv", csv_of(times, name)))
    assert np.diff(table.arrival_ps) / PS_PER_S == pytest.approx(np.full(19, gap_s))
    [said] = table.notes
    assert note in said
    assert f"20 requests over {19 * gap_s:,.6g} s, {1 / gap_s:.3g} requests/s" in said


WRONG_UNITS = {
    "ms in a column of seconds": csv_of([180.5 * k for k in range(20)], "arrival_s"),
    "ms with fractions": csv_of([180.5 * k for k in range(20)], "timestamp"),
    "s in a column of ms": csv_of([0.18 * k for k in range(20)], "arrival_ms"),
    "whole numbers that could be either": csv_of([5 * k for k in range(20)], "timestamp"),
    "mooncake in seconds": "\n".join(
        json.dumps({"timestamp": 0.2 * k, "input_length": 5, "output_length": 5, "hash_ids": [k]})
        for k in range(20)
    ),
}


@pytest.mark.parametrize("name", WRONG_UNITS)
def test_seconds_taken_for_milliseconds_are_caught(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, "trace", WRONG_UNITS[name])
    with pytest.raises(ScenarioError, match="requests/s") as caught:
        read(path)
    assert "time_unit" in caught.value.hint
    assert len(read(path, time_unit="s").arrival_ps) == 20  # stated, it is believed


@pytest.mark.parametrize(
    ("times", "unit", "said"),
    [
        ([0.0, 1.5, 3.0, 59.0], "ms", "less than a second"),
        ([0, 1, 2, 999], "ms", "less than a second"),
        ([0, 1, 2, 4e10], "ms", "more than a year"),
        ([0, 1, 2, 4e7], "s", "more than a year"),
        ([0, 1, 2, 1e7], "s", "too long for a clock"),
    ],
)
def test_no_trace_is_over_within_a_second_or_lasts_a_year(
    tmp_path: Path, times: list[float], unit: str, said: str
) -> None:
    path = written(tmp_path, "a.csv", csv_of(times, "timestamp"))
    with pytest.raises(ScenarioError, match=said) as caught:
        read(path, time_unit=unit)
    assert "4 requests in" in str(caught.value) and f"taken as {unit}" in str(caught.value)


def test_requests_that_were_sent_at_once_are_no_wrong_unit(tmp_path: Path) -> None:
    table = read(written(tmp_path, "a.csv", csv_of([7.0] * 9, "arrival_s")))
    assert not table.arrival_ps.any()
    assert "9 requests over 0 s, all at once" in table.notes[0]


def test_empirical_lengths_come_from_a_column(tmp_path: Path) -> None:
    path = written(tmp_path, "lengths.csv", "prompt,answer\n10,1\n20,2\n40,3\n")
    workload = Workload(
        arrivals=Arrivals(process="all_at_once"),
        prompt_tokens=Distribution(distribution="empirical", file=path.name, column="prompt"),
        output_tokens=Distribution(distribution="fixed", value=1),
        num_requests=30_000,
    )
    counts = np.bincount(draw_requests(workload, 1, tmp_path).prompt_tokens)
    assert np.flatnonzero(counts).tolist() == [10, 20, 40]
    assert np.all(np.abs(counts[[10, 20, 40]] - 10_000) < 4 * math.sqrt(30_000 * 2 / 9))
