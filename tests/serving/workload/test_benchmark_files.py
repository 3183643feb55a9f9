"""Files of benchmarks and public data sets as they are: what is played, what is left out, what is said."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim.arrays import PS_PER_S
from sim.errors import ScenarioError
from sim.scenario.csv_files import read_text_file
from sim.scenario.strict_yaml import parse_value
from sim.serving.records import RequestTable
from sim.serving.scenario import Trace, Workload
from sim.serving.workload.arrivals import Arrivals
from sim.serving.workload.sources import draw_requests
from sim.serving.workload.trace_formats import TRACE_FORMATS

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
DRAWN = Workload(arrivals=Arrivals(process="constant", requests_per_s=2))


def case(name: str) -> Path:
    """A file of the shared cases, or a skip with the reason; absence fails where nothing may be skipped."""
    if not (CASES / name).is_file():
        reason = f"needs cases/{name} in the folder `shared` beside the checkout"
        if os.environ.get("GPUYARD_NO_SKIPS", "0") != "0":
            pytest.fail(reason)
        pytest.skip(reason)
    return CASES / name


def read(path: Path, workload: Workload | None = None, **trace: Any) -> RequestTable:
    one = Trace(path=path.name, **trace)
    return draw_requests(replace(workload or Workload(), trace=one), 1, path.parent)


def written(folder: Path, content: object, name: str = "a.json") -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def recognised(path: Path) -> str:
    """The format that ``auto`` takes: the first that knows the file, those that take any file last."""
    file = read_text_file(path.parent, path.name, "")
    asked = sorted(TRACE_FORMATS, key=lambda name: TRACE_FORMATS[name].takes_any)
    return next(name for name in asked if TRACE_FORMATS[name].recognises(file, Trace(path=path.name)))


@pytest.mark.parametrize(
    ("name", "layout", "count", "span_s", "left_out"),
    [
        ("serving/traces/azure2024.csv", "azure", 60, 59.1615, ""),
        ("serving/traces/burstgpt.csv", "burstgpt", 56, 285, "4 of 60 requests of {} (4 of 0 tokens)"),
        ("serving/traces/qwen_bailian.jsonl", "qwen_bailian", 40, 59.163, ""),
        ("serving/traces/bench_detailed.json", "vllm_bench", 5, 5, "1 of 6 requests of {} (1 failed)"),
        ("serving/traces/guidellm.json", "guidellm", 10, 9, ""),
        ("engines/results/09.jsonl", "aiperf", 4, 3.855044845, ""),
    ],
)  # fmt: skip
def test_a_file_is_played_as_it_was_recorded(
    name: str, layout: str, count: int, span_s: float, left_out: str
) -> None:
    path = case(name)
    table = read(path)
    assert len(table.arrival_ps) == count
    assert table.arrival_ps[-1] / PS_PER_S == pytest.approx(span_s, abs=1e-4)
    said = f"Read from {path.name}: {count} requests over {table.arrival_ps[-1] / PS_PER_S:,.6g} s, "
    assert table.notes[0].startswith(said)
    assert table.notes[1:] == ((f"Left out: {left_out.format(path.name)}.",) if left_out else ())
    assert recognised(path) == layout


def test_sharegpt_is_read_once_it_is_said_when_requests_come() -> None:
    path = case("serving/traces/sharegpt.json")
    with pytest.raises(ScenarioError, match="no arrival times"):
        read(path)
    table = read(path, DRAWN)
    assert len(table.arrival_ps) == 10
    assert "estimated from its text" in "".join(table.notes)
    assert recognised(path) == "sharegpt"


def test_sharegpt_plays_the_first_question_and_its_answer(tmp_path: Path) -> None:
    records = [
        {"conversations": [{"from": "human", "value": "a" * 41}, {"from": "gpt", "value": "b" * 8}]},
        {"conversations": [{"from": "gpt", "value": "hello"}]},
        {"conversations": []},
        {
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": "c" * 12},
                {"role": "assistant", "content": "d" * 4},
                {"role": "user", "content": "more"},
            ]
        },
        {"conversations": [{"from": "human", "value": "e"}, {"from": "gpt", "value": ""}]},
    ]
    table = read(written(tmp_path, records), DRAWN)
    assert table.prompt_tokens.tolist() == [11, 3]
    assert table.output_tokens.tolist() == [2, 1]
    left_out = "Left out: 3 of 5 requests of a.json (2 without question and answer, 1 of 0 tokens)."
    assert left_out in table.notes
    assert "Of 1 conversations the first question and answer alone are played." in table.notes


@pytest.mark.parametrize("engine_flag", [("vllm", "--save-detailed"), ("sglang", "--output-details")])
def test_a_result_without_requests_names_the_flag(tmp_path: Path, engine_flag: tuple[str, str]) -> None:
    backend, flag = engine_flag
    result = {"backend": backend, "completed": 10, "total_input_tokens": 1000, "total_output_tokens": 505,
              "request_rate": "inf", "max_concurrency": 8, "output_throughput": 5.0}  # fmt: skip
    with pytest.raises(ScenarioError, match="statistics, not requests") as caught:
        read(written(tmp_path, result))
    assert flag in caught.value.allowed
    drawn = caught.value.hint.removeprefix("or draw requests like them: workload: ")
    assert parse_value(drawn, file="") == {
        "arrivals": {"process": "closed_loop", "concurrency": 8},
        "prompt_tokens": 100,
        "output_tokens": 50,
        "num_requests": 10,
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("serving/traces/bench_plain.json", "--save-detailed"),
        ("engines/results/01.json", "--save-detailed"),
        ("engines/results/02.txt", "--save-detailed"),
        ("engines/results/03.json", "--save-detailed"),
        ("engines/results/06.jsonl", "--output-details"),
        ("engines/results/07.jsonl", "--output-details"),
        ("engines/results/08.json", "profile_export.jsonl"),
        ("engines/results/12.json", "profile_export.json,"),
        ("engines/results/13.json", "profile_export.json,"),
        ("engines/results/14.json", "requests.successful"),
    ],
)
def test_a_summary_says_which_file_has_the_requests(name: str, said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        read(case(name))
    assert said in str(caught.value)
    if "workload: {" in caught.value.hint:
        drawn = parse_value(caught.value.hint.partition("workload: ")[2], file="")
        assert {"arrivals", "prompt_tokens", "output_tokens"} <= set(drawn)


def guidellm_request(start: float, version: int, k: int = 0) -> dict[str, Any]:
    if version == 1:
        return {"prompt_tokens": 10 + k, "output_tokens": 5, "start_time": start, "end_time": start + 1}
    return {
        "request_id": str(k),
        "input_metrics": {"text_tokens": 10 + k, "total_tokens": None},
        "output_metrics": {"text_tokens": 5},
        "info": {"timings": {"request_start": start}},
    }


@pytest.mark.parametrize("version", [1, 2])
def test_guidellm_of_both_versions_without_what_failed(tmp_path: Path, version: int) -> None:
    def benchmark(start: float, bad: int) -> dict[str, Any]:
        served = [guidellm_request(start + k, version, k) for k in range(3)]
        failed = [guidellm_request(start, version)] * bad
        return {"requests": {"successful": served, "errored": failed, "incomplete": failed[:1]}}

    report = {"metadata": {"version": version}, "benchmarks": [benchmark(100.0, 2), benchmark(200.0, 0)]}
    table = read(written(tmp_path, report))
    assert (table.arrival_ps / PS_PER_S).tolist() == [0, 1, 2, 100, 101, 102]
    assert table.prompt_tokens.tolist() == [10, 11, 12] * 2
    assert "Left out: 3 of 9 requests of a.json (2 failed, 1 cut off)." in table.notes
    assert "2 benchmarks of a.json are played at their own times, as one trace." in table.notes


def aiperf_record(start_ns: int, **more: Any) -> dict[str, Any]:
    about = {"request_start_ns": start_ns, "benchmark_phase": "profiling", "was_cancelled": False}
    metrics = {"input_sequence_length": {"value": 100}, "output_sequence_length": {"value": 20}}
    return {"metadata": {**about, **more.pop("metadata", {})}, "metrics": metrics, **more}


def test_aiperf_keeps_its_nanoseconds_and_leaves_out_warm_up_and_errors(tmp_path: Path) -> None:
    start = 1_762_551_801_663_056_063
    records = [
        aiperf_record(start + 2_000_000_001),
        aiperf_record(start),
        aiperf_record(start, metadata={"benchmark_phase": "warmup"}),
        {**aiperf_record(start, error={"code": 500}), "metrics": {}},
        aiperf_record(start, metadata={"was_cancelled": True}),
    ]
    table = read(written(tmp_path, "\n".join(map(json.dumps, records)), "p.jsonl"))
    assert table.arrival_ps.tolist() == [0, 2_000_000_001_000]
    assert "Left out: 3 of 5 requests of p.jsonl (2 failed or cancelled, 1 of the warm-up)." in table.notes


def test_genai_perf_is_read_from_its_profile_export(tmp_path: Path) -> None:
    def request(start: int, packets: list[str]) -> dict[str, Any]:
        asked = {"payload": json.dumps({"messages": [{"role": "user", "content": "x" * 40}], "model": "m"})}
        answers = [
            {"response": "data: " + json.dumps({"choices": [{"delta": {"content": one}}]}) + "\n\n"}
            for one in packets
        ]
        return {
            "timestamp": start,
            "request_inputs": asked,
            "response_timestamps": [start + 1] * len(packets),
            "response_outputs": [*answers, {"response": "data: [DONE]\n\n"}],
        }

    start = 1_724_100_000_000_000_000
    requests = [
        request(start, ["a", "b", ""]),
        request(start + 1_500_000_000, ["c" * 12]),
        request(start, []),
    ]
    export = {"service_kind": "openai", "experiments": [{"experiment": {}, "requests": requests}]}
    table = read(written(tmp_path, export))
    assert table.arrival_ps.tolist() == [0, 1_500_000_000_000]
    assert table.prompt_tokens.tolist() == [10, 10]
    assert table.output_tokens.tolist() == [2, 3]
    assert "Left out: 1 of 3 requests of a.json (1 without an answer)." in table.notes


def test_bailian_blocks_have_16_tokens_and_its_times_are_seconds(tmp_path: Path) -> None:
    rows = [
        {"chat_id": k, "parent_chat_id": -1, "timestamp": 1.5 * k, "input_length": 33, "output_length": 4,
         "type": "text", "turn": 1, "hash_ids": [7, 8, 100 + k]}
        for k in range(4)
    ]  # fmt: skip
    table = read(written(tmp_path, "\n".join(map(json.dumps, rows)), "q.jsonl"))
    assert (table.arrival_ps / PS_PER_S).tolist() == [0, 1.5, 3, 4.5]
    assert table.segment_length is not None
    assert table.segment_length.tolist() == [16, 16, 1] * 4
    rows[2]["hash_ids"] = [7]
    with pytest.raises(ScenarioError, match="1 hash ids for 33 tokens"):
        read(written(tmp_path, "\n".join(map(json.dumps, rows)), "q.jsonl"))


def test_rows_of_no_tokens_are_not_played_whatever_the_layout(tmp_path: Path) -> None:
    text = "arrival_s,prompt_tokens,output_tokens\n0,0,5\n1,10,0\n2,10,5\n4,10,6\n"
    table = read(written(tmp_path, text, "a.csv"))
    assert (table.arrival_ps / PS_PER_S).tolist() == [0, 2]  # from the first that was served
    assert table.output_tokens.tolist() == [5, 6]
    assert table.notes[-1] == "Left out: 2 of 4 requests of a.csv (2 of 0 tokens)."
    with pytest.raises(ScenarioError, match="no request in it was served"):
        read(written(tmp_path, text[: text.index("2,10")], "b.csv"))


def test_a_result_in_which_everything_failed_is_refused(tmp_path: Path) -> None:
    result = {"input_lens": [1, 2], "output_lens": [0, 0], "start_times": [1.0, 2.0], "errors": ["x", "y"]}
    with pytest.raises(ScenarioError, match="every request in it failed"):
        read(written(tmp_path, result))


def test_a_layout_like_mooncake_s_with_fractions_must_state_its_unit(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 1.25 * k, "input_length": 5, "output_length": 4, "hash_ids": [k]} for k in range(20)
    ]
    path = written(tmp_path, "\n".join(map(json.dumps, rows)), "m.jsonl")
    with pytest.raises(ScenarioError, match="unit of the times cannot be told") as caught:
        read(path)
    assert "workload.trace.time_unit: s" in caught.value.hint
    assert read(path, time_unit="s").arrival_ps[-1] == 23_750_000_000_000
