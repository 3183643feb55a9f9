"""Files: exact, whole or absent, deterministic, and laid out as vLLM's own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_results import (
    HARDWARE,
    fake_result,
    preemption_columns,
    ps,
    queue_result,
    replace,
    scenario,
    three_requests,
)
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import plain_engine

from sim.arrays import Column
from sim.errors import ScenarioError
from sim.export import records
from sim.export.files import (
    preemptions_dataframe,
    requests_dataframe,
    segments_dataframe,
    summary_json,
    write_parquet,
    write_table,
    write_whole,
)
from sim.export.records import csv_text, preemptions_csv, requests_csv, segments_csv
from sim.export.vllm_bench import vllm_bench_block, vllm_bench_json
from sim.kinds.run import compare
from sim.serving.metrics import METRICS
from sim.serving.scenario import Slo, Workload
from sim.serving.summary import summarize
from sim.serving.workload.arrivals import Arrivals


def rows_of(text: Iterator[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(text))))


@given(st.lists(st.integers(-(10**18), 9 * 10**18), min_size=1))
def test_seconds_are_exact(times: list[int]) -> None:
    column = Column(name="time_s", kind="time", values=np.array(times, dtype=np.int64))
    shown = [row["time_s"] for row in rows_of(csv_text([column]))]
    assert [int(Decimal(text).scaleb(12)) for text in shown] == times
    assert all(len(text.partition(".")[2]) == 12 for text in shown)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8)


@given(st.data())
def test_columns_are_written_as_their_cells_would_be_one_by_one(data: st.DataObject) -> None:
    """Whatever the widths, signs and gaps; across the border of two chunks."""
    size = data.draw(st.integers(1, 12))

    def some(cells: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(cells, min_size=size, max_size=size))

    whole, texts = some(st.integers(-(10**18), 10**18)), some(CELLS)
    small, flags, gaps = some(st.integers(-99, 999)), some(st.booleans()), some(st.booleans())
    numbers = some(st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0]))
    columns = [
        Column(name="text", kind="text", values=np.array(texts, dtype=object)),
        Column(name="whole", kind="count", values=np.array(whole, dtype=np.int64)),
        Column(name="gaps", kind="count", values=np.array(small, dtype=np.int16), is_missing=np.array(gaps)),
        Column(name="flag", kind="flag", values=np.array(flags)),
        Column(name="number", kind="count", values=np.array(numbers)),
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(records, "_ROWS_PER_CHUNK", 5)
        lines = "".join(csv_text(columns))
    expected = [
        {
            "text": text,
            "whole": str(count),
            "gaps": "" if is_gap else str(few),
            "flag": "true" if flag else "false",
            "number": str(number),
        }
        for text, count, few, is_gap, flag, number in zip(
            texts, whole, small, gaps, flags, numbers, strict=True
        )
    ]
    assert list(csv.DictReader(io.StringIO(lines, newline=""))) == expected


def test_the_requests_csv_by_head() -> None:
    rows = rows_of(requests_csv(three_requests(scenario=scenario(slo=Slo(e2e_s=0.25)))))
    assert [row["e2e_s"] for row in rows] == ["0.200000000000", "0.300000000000", "0.100000000000"]
    assert [row["tpot_s"] for row in rows] == ["0.100000000000", "0.100000000000", ""]
    assert [row["meets_slo"] for row in rows] == ["true", "false", "true"]
    assert rows[1]["arrival_s"] == "0.100000000000"
    assert rows[1]["status"] == "finished"


def test_what_never_happened_is_an_empty_cell() -> None:
    never = {"arrival": -1, "scheduled": -1, "status": "unfinished", "replica": -1}
    (row,) = rows_of(requests_csv(fake_result([never])))
    empty = ("arrival_s", "queue_s", "ttft_s", "tpot_s", "e2e_s", "replica")
    assert all(row[name] == "" for name in empty)
    assert "meets_slo" not in row  # no SLO is given


def test_names_with_commas_survive() -> None:
    result = replace(three_requests(), class_names=('chat, "long"',))
    assert {row["class"] for row in rows_of(requests_csv(result))} == {'chat, "long"'}


def test_segments_and_ledger() -> None:
    steps = [{"start": 0.5, "steps": 3, "first": 0.1, "growth": 0.01, "decode": 2, "kv": (1, 2, 3, 4)}]
    ledger = preemption_columns([(0.6, 0, 0, 7)])
    result = fake_result([{"first": 1.0, "finish": 1.0}], steps, preemptions=ledger)
    (row,) = rows_of(segments_csv(result))
    assert (row["end_s"], row["num_steps"], row["kv_external"]) == ("0.830000000000", "3", "4")
    assert rows_of(preemptions_csv(result)) == [
        {"time_s": "0.600000000000", "request": "0", "replica": "0", "recompute_tokens": "7"}
    ]
    assert preemptions_dataframe(result)["recompute_tokens"].tolist() == [7]
    assert segments_dataframe(result)["end_s"].tolist() == [0.83]


def test_frames_have_the_columns_of_the_csv() -> None:
    result = three_requests()
    frame = requests_dataframe(result)
    assert list(frame.columns) == list(rows_of(requests_csv(result))[0])
    assert frame["e2e_s"].tolist() == [0.2, 0.3, 0.1]
    assert np.isnan(frame["tpot_s"].tolist()[2])


def test_parquet_reads_back(tmp_path: Path) -> None:
    import pandas as pd

    frame = requests_dataframe(three_requests())
    write_parquet(frame, tmp_path / "requests.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "requests.parquet"), frame, check_dtype=False)
    assert [path.name for path in tmp_path.iterdir()] == ["requests.parquet"]


def test_parquet_without_its_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ScenarioError, match=r"gpuyard\[parquet\]"):
        write_parquet(requests_dataframe(three_requests()), tmp_path / "requests.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    target.write_text("before")

    def failing() -> Iterator[str]:
        yield "half"
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_whole(target, failing())
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]
    write_whole(target, ["a", "b"])
    assert target.read_text() == "ab"


def test_places_that_cannot_be_written_are_the_users_error(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent" / "rows.csv"):
        with pytest.raises(ScenarioError):
            write_whole(place, "text")


def test_tables_as_csv_and_json(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"replicas": 1, "p99_ttft_s": 0.1 + 0.2, "note": "a, b"},
        {"replicas": np.int64(2), "p99_ttft_s": float("nan"), "meets_slo": np.bool_(True)},
    ]
    write_table(rows, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == (
        'replicas,p99_ttft_s,note,meets_slo\n1,0.30000000000000004,"a, b",\n2,,,true\n'
    )
    write_table(rows, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == [
        {"replicas": 1, "p99_ttft_s": 0.1 + 0.2, "note": "a, b", "meets_slo": None},
        {"replicas": 2, "p99_ttft_s": None, "note": None, "meets_slo": True},
    ]
    with pytest.raises(ScenarioError, match=r"\.csv, \.json"):
        write_table(rows, tmp_path / "t.xlsx")


def test_summary_json_is_the_same_twice_and_says_where_it_comes_from() -> None:
    def text() -> str:
        found = {name: [summarize(three_requests(variant=name))] for name in ("static", "paged")}
        return summary_json(found, comparison=compare(found, "static"))

    assert text() == text()
    content = json.loads(text())
    assert (content["schema_version"], content["question"]) == (1, "Is it fast?")
    assert (content["hardware"], content["model"]) == (HARDWARE.name, "tiny")
    assert [(run["variant"], run["seed"]) for run in content["runs"]] == [("static", 1), ("paged", 1)]
    assert list(content["runs"][0]["metrics"]) == list(METRICS)
    assert content["comparison"]["variants"]["paged"]["requests_per_s"]["ratio"] == [1, None, None]


BLOCK = """\
============ Serving Benchmark Result ============
Successful requests:                     3         
Failed requests:                         0         
Request rate configured (RPS):           1.00      
Benchmark duration (s):                  0.40      
Total input tokens:                      30        
Total generated tokens:                  6         
Request throughput (req/s):              7.50      
Request goodput (req/s):                 5.00      
Output token throughput (tok/s):         15.00     
Peak output token throughput (tok/s):    6.00      
Peak concurrent requests:                3.00      
Total token throughput (tok/s):          90.00     
---------------Time to First Token----------------
Mean TTFT (ms):                          100.00    
Median TTFT (ms):                        100.00    
P99 TTFT (ms):                           100.00    
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          100.00    
Median TPOT (ms):                        100.00    
P99 TPOT (ms):                           100.00    
---------------Inter-token Latency----------------
Mean ITL (ms):                           100.00    
Median ITL (ms):                         100.00    
P99 ITL (ms):                            100.00    
==================================================
"""  # noqa: W291 - vLLM pads its values to ten columns


def test_the_console_block_is_vllms_letter_by_letter() -> None:
    assert vllm_bench_block(three_requests(scenario=scenario(slo=Slo(e2e_s=0.25)))) == BLOCK


def test_optional_lines_of_the_block_come_and_go_as_vllms() -> None:
    plain = vllm_bench_block(three_requests())
    assert "Request goodput" not in plain
    assert "End-to-end Latency" not in plain
    closed = Workload(arrivals=Arrivals(process="closed_loop", concurrency=4))
    block = vllm_bench_block(three_requests(scenario=scenario(workload=closed)), percentile_metrics=("e2el",))
    assert "Maximum request concurrency:             4         \n" in block
    assert "Request rate configured" not in block
    assert "----------------End-to-end Latency----------------\nMean E2EL (ms):" in block
    assert "TTFT" not in block


def test_the_json_has_vllms_keys_and_units() -> None:
    content = vllm_bench_json(three_requests(), detailed=True)
    expected = {
        "duration": 0.4, "completed": 3, "failed": 0, "total_input_tokens": 30, "total_output_tokens": 6,
        "request_throughput": 7.5, "request_goodput": None, "output_throughput": 15.0,
        "total_token_throughput": 90.0, "input_lens": [10, 10, 10], "output_lens": [2, 3, 1],
        "ttfts": [0.1, 0.1, 0.1], "itls": [[0.1], [0.1, 0.1], []], "start_times": [0.0, 0.1, 0.2],
        "errors": ["", "", ""], "max_output_tokens_per_s": 6.0, "max_concurrent_requests": 3,
        "mean_ttft_ms": 100.0, "median_e2el_ms": 200.0, "p99_e2el_ms": 298.0, "std_itl_ms": 0.0,
    }  # fmt: skip
    assert {name: content[name] for name in expected} == expected
    json.dumps(content, allow_nan=False)
    short = vllm_bench_json(three_requests())
    assert set(content) - set(short) == {
        "input_lens", "output_lens", "ttfts", "itls", "start_times", "errors"
    }  # fmt: skip


def test_failed_requests_are_zeros_and_a_word() -> None:
    rows = [
        {"arrival": 0.0, "first": 1.0, "finish": 2.0, "output": 2},
        {"arrival": 0.0, "first": 1.0, "finish": 1.5, "output": 5, "generated": 2, "status": "aborted"},
    ]
    content = vllm_bench_json(fake_result(rows), detailed=True)
    assert (content["completed"], content["failed"], content["errors"]) == (1, 1, ["", "aborted"])
    assert (content["output_lens"], content["ttfts"]) == ([2, 0], [1.0, 0.0])
    assert vllm_bench_json(fake_result([]))["mean_ttft_ms"] == 0.0


def test_peaks_are_counted_by_whole_seconds() -> None:
    """Two requests overlap in second 1 only; request 1 brings its tokens there, 0.1 s apart."""
    rows = [
        {"arrival": 0.0, "first": 0.5, "finish": 1.0, "output": 2},
        {"arrival": 1.1, "first": 1.2, "finish": 1.5, "output": 4},
    ]
    steps = [
        {"start": 0.5, "first": 0.5, "decode": 1},
        {"start": 1.2, "first": 0.1, "steps": 3, "decode": 1},
    ]
    content = vllm_bench_json(fake_result(rows, steps))
    assert content["max_concurrent_requests"] == 2
    assert content["max_output_tokens_per_s"] == 1 + 4  # the last token of request 0 at 1.0 s


def test_itls_that_cannot_be_rebuilt_are_left_empty() -> None:
    result = three_requests()
    once = replace(result.requests, num_preemptions=np.array([0, 1, 0]))
    assert vllm_bench_json(replace(result, requests=once), detailed=True)["itls"] == [[0.1], [], []]
    at_end = {"arrival": 0.0, "first": 1.0, "finish": 1.0, "output": 3}
    engine = plain_engine(batching="static", static_returns="at_end")
    together = vllm_bench_json(fake_result([at_end], scenario=scenario(engine=engine)), detailed=True)
    assert together["itls"] == [[0.0, 0.0]]
    assert together["max_output_tokens_per_s"] == 3


def test_gamma_arrivals_have_vllms_burstiness() -> None:
    gamma = Workload(arrivals=Arrivals(process="gamma", requests_per_s=4.0, cv=2.0))
    content = vllm_bench_json(three_requests(scenario=scenario(workload=gamma)))
    assert (content["burstiness"], content["request_rate"]) == (0.25, 4.0)


def test_a_hundred_thousand_requests_are_written_whole(tmp_path: Path) -> None:
    arrival = np.arange(100_000) / 20
    result = queue_result(arrival, arrival * 0, arrival * 0 + 3.21)
    write_whole(tmp_path / "requests.csv", requests_csv(result))
    assert sum(1 for _ in (tmp_path / "requests.csv").open()) == 100_001


def test_times_beyond_2_53_picoseconds_stay_exact() -> None:
    late = ps(100_000.0) + 1
    result = three_requests()
    moved = replace(result.requests, arrival_ps=result.requests.arrival_ps + late)
    (first, *_) = rows_of(requests_csv(replace(result, requests=moved)))
    assert first["arrival_s"] == "100000.000000000001"
