"""Grids, where they run, and that an interruption costs only what was in flight."""

from __future__ import annotations

import csv
import json
import sys
import types
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cli.command import main
from sim.cli.progress import Progress
from sim.errors import ScenarioError
from sim.kinds.executors import SerialExecutor, map_as_completed, open_executor
from sim.plan.evaluate import Point, evaluate, fingerprint
from sim.plan.sweep import Sweep, grid, parse_over, read_ledger, run_points, sweep_points
from sim.plan.sweep_pictures import sweep_pictures

TINY = """\
schema_version: 1
question: How many H100s keep the first token within half a second?
kind: serving
seeds: [1, 2]
hardware: h100-sxm-80gb
model: llama-3.1-8b
workload:
  arrivals: {process: poisson, requests_per_s: 20}
  prompt_tokens: {distribution: uniform, min: 100, max: 900}
  output_tokens: {distribution: fixed, value: 60}
  num_requests: 120
engine: {max_num_seqs: 4, max_model_len: 2048}
slo: {ttft_s: 500 ms}
"""


@pytest.fixture
def tiny(empty_folder: Path) -> Path:
    path = empty_folder / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("given_text", "key", "values"),
    [
        ("replicas=1:3", "replicas", ("1", "2", "3")),
        ("replicas=2:9:3", "replicas", ("2", "5", "8")),
        ("engine.watermark=0.1:0.4:0.1", "engine.watermark", ("0.1", "0.2", "0.3", "0.4")),
        ("hardware=h100-sxm-80gb,l4", "hardware", ("h100-sxm-80gb", "l4")),
        ("engine.max_num_seqs=64", "engine.max_num_seqs", ("64",)),
        ("a={x: 1, y: [2, 3]}, 5", "a", ("{x: 1, y: [2, 3]}", "5")),
    ],
)  # fmt: skip
def test_axes(given_text: str, key: str, values: tuple[str, ...]) -> None:
    assert parse_over(given_text) == (key, values)


@pytest.mark.parametrize(
    "wrong",
    ["replicas", "=1:2", "replicas=", "replicas=3:1", "replicas=1:9:0", "a=1,,2", "a=1,1", "a=0:9999999"],
)
def test_wrong_axes_are_refused_with_what_is_allowed(wrong: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_over(wrong)
    assert caught.value.path == "--over"
    assert caught.value.given == wrong


@given(low=st.integers(-50, 50), length=st.integers(0, 60), step=st.integers(1, 9))
def test_ranges_are_those_of_python_with_both_ends(low: int, length: int, step: int) -> None:
    _, values = parse_over(f"key={low}:{low + length}:{step}")
    assert [int(value) for value in values] == list(range(low, low + length + 1, step))


def test_a_grid_is_every_combination_the_last_axis_fastest() -> None:
    points = grid(["a=1:2", "b=x,y,z"])
    assert [(point["a"], point["b"]) for point in points] == list(product("12", "xyz"))
    with pytest.raises(ScenarioError, match="swept twice"):
        grid(["a=1:2", "a=3"])


def test_every_point_is_checked_before_any_runs(tiny: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        sweep_points(str(tiny), ["engine.max_num_seqs=4,0"])
    assert "max_num_seqs" in str(caught.value)


class CountingExecutor(SerialExecutor):
    """Counts submissions, and is interrupted at one of them."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.num_submitted, self.interrupt_at = 0, interrupt_at

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.num_submitted == self.interrupt_at:
            raise KeyboardInterrupt
        self.num_submitted += 1
        return super().submit(fn, *args, **kwargs)


def test_an_axis_that_a_variant_overrides_is_refused(tiny: Path) -> None:
    variants = "{a: {}, b: {engine: {max_num_seqs: 2}}, c: {replicas: 2}}"
    tiny.write_text(tiny.read_text() + f"compare: {{reference: a, variants: {variants}}}\n")
    with pytest.raises(ScenarioError) as caught:
        sweep_points(str(tiny), ["replicas=1:3", "engine.block_size=16,32"])
    error = caught.value
    assert (error.file, error.path) == ("--over", "replicas") and "variant c sets this key itself" in str(
        error
    )
    assert "--set compare.variants.c=null" in error.hint and "--set compare=null" in error.hint
    without_c = sweep_points(str(tiny), ["replicas=1:3"], overrides=["compare.variants.c=null"])
    assert [point.variant for point in without_c] == ["a", "b"] * 3
    assert len(sweep_points(str(tiny), ["replicas=1:3"], overrides=["compare=null"])) == 3
    of_c = sweep_points(str(tiny), ["compare.variants.c.replicas=2,3"])
    assert [one.scenario.replicas for one in of_c if one.variant == "c"] == [2, 3]
    one_value = sweep_points(str(tiny), ["replicas=3"])
    assert [one.kind for one in one_value[0].warnings] == ["variants_not_reached"]
    both = variants.replace("a: {}", "a: {replicas: 4}").replace("b: {", "b: {replicas: 5, ")
    tiny.write_text(tiny.read_text().replace(variants, both))
    with pytest.raises(ScenarioError, match="every variant of compare sets this key itself"):
        sweep_points(str(tiny), ["replicas=1:3"])


def test_an_interrupted_sweep_goes_on_where_it_stopped(tiny: Path, empty_folder: Path) -> None:
    points, ledger = sweep_points(str(tiny), ["replicas=1:5"]), empty_folder / "points.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_points(points, CountingExecutor(interrupt_at=3), in_flight=1, ledger=ledger)
    assert len(read_ledger(ledger)) == 3
    with ledger.open("a", encoding="utf-8") as lines:
        lines.write('{"key": "cut o')  # the process died while it wrote
    rest = CountingExecutor()
    rows = run_points(points, rest, in_flight=1, ledger=ledger)
    assert rest.num_submitted == 2
    fresh = run_points(points, SerialExecutor(), in_flight=1, ledger=empty_folder / "other.jsonl")
    assert rows == fresh
    again = CountingExecutor()
    assert run_points(points, again, in_flight=1, ledger=ledger) == fresh
    assert again.num_submitted == 0


def test_a_file_that_is_no_ledger_is_not_overwritten(empty_folder: Path) -> None:
    ledger = empty_folder / "points.jsonl"
    ledger.write_text("my notes\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="no ledger"):
        read_ledger(ledger)
    assert ledger.read_text(encoding="utf-8") == "my notes\n"


def test_a_point_is_new_when_the_scenario_or_a_file_it_reads_changes(empty_folder: Path) -> None:
    trace = empty_folder / "trace.csv"
    trace.write_text("arrived_at,prompt_tokens,output_tokens\n0,10,5\n1,10,5\n", encoding="utf-8")
    path = empty_folder / "replay.yaml"
    head = TINY.split("workload:")[0]
    path.write_text(
        f"{head}workload: {{trace: {{path: trace.csv, format: csv, time_unit: s, "
        "columns: {arrival: arrived_at, prompt_tokens: prompt_tokens, output_tokens: output_tokens}}}\n",
        encoding="utf-8",
    )
    one, two = sweep_points(str(path), ["engine.max_num_seqs=4,8"])
    before = fingerprint(one)
    assert before != fingerprint(two)
    assert before == fingerprint(sweep_points(str(path), ["engine.max_num_seqs=4"])[0])
    trace.write_text("arrived_at,prompt_tokens,output_tokens\n0,10,5\n1,10,6\n", encoding="utf-8")
    assert before != fingerprint(one)


def test_a_row_is_the_mean_over_the_seeds(tiny: Path) -> None:
    from sim.kinds.run import run_one
    from sim.serving.summary import summarize

    point = sweep_points(str(tiny), ["replicas=2"])[0]
    row = evaluate(point)
    each = [summarize(run_one(point.scenario, seed=seed)).metrics["mean_ttft_s"] for seed in (1, 2)]
    assert each[0] != each[1]
    assert row["mean_ttft_s"] == pytest.approx(sum(value for value in each if value) / 2, rel=1e-12)
    assert row["num_gpus"] == 2
    assert row["p99_ttft_s"] is None  # 120 requests do not carry it


def test_the_table_does_not_depend_on_what_finishes_first(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for jobs in ("1", "2"):
        axes = ["--over", "replicas=1:3", "--over", "engine.max_num_seqs=4,16"]
        assert main(["sweep", str(tiny), *axes, "--jobs", jobs, "--out", f"jobs{jobs}"]) == 0
    printed = capsys.readouterr().out
    for name in ("sweep.csv", "sweep.json", "sweep.html", "sweep.md"):
        assert Path("jobs1", name).read_bytes() == Path("jobs2", name).read_bytes(), name
    assert printed.count("The cheapest that meets the SLO") == 2


def test_sweep_marks_what_meets_the_slo_and_names_the_cheapest(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(tiny), "--over", "replicas=1:4", "--jobs", "1", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    rows = list(csv.DictReader(StringIO(Path("out/sweep.csv").read_text(encoding="utf-8"))))
    meets = [row["meets_slo"] for row in rows]
    assert meets == sorted(meets)  # more replicas never hurt here: false before true
    assert set(meets) == {"true", "false"}
    cheapest = rows[meets.index("true")]["replicas"]
    assert f"The cheapest that meets the SLO: {cheapest} GPU" in printed
    cells = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    marks = [cell for cell in cells if cell.startswith("*")]
    assert marks == ["**"] + ["*"] * (meets.count("true") - 1)
    content = json.loads(Path("out/sweep.json").read_text(encoding="utf-8"))
    [answer] = content["answers"]
    assert content["points"][answer["winner"]]["swept"] == {"replicas": cheapest}


def test_metrics_are_chosen_by_name_and_misspelt_ones_corrected(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(tiny), "--over", "replicas=1", "--jobs", "1", "--out", "out", "--metric"]
    assert main([*command, "mean_queue_s"]) == 0
    assert "mean_queue_s" in Path("out/sweep.csv").read_text(encoding="utf-8").splitlines()[0]
    assert main([*command, "mean_que_s"]) == 2
    assert "did you mean mean_queue_s" in capsys.readouterr().err


def double(number: int) -> int:
    return 2 * number


@pytest.mark.parametrize("jobs", [1, 2])
def test_executors_give_every_result_once(jobs: int) -> None:
    with open_executor(jobs) as executor:
        results = dict(map_as_completed(executor, double, range(20), in_flight=3))
    assert results == {index: 2 * index for index in range(20)}


def test_no_more_than_asked_for_is_in_flight() -> None:
    waiting, most = [0], [0]

    class Watching(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            waiting[0] += 1
            most[0] = max(most[0], waiting[0])
            return super().submit(fn, *args, **kwargs)

    with Watching(2) as executor:
        for _ in map_as_completed(executor, double, range(50), in_flight=4):
            waiting[0] -= 1
    assert most[0] == 4


def test_an_error_in_a_worker_reaches_the_caller() -> None:
    def fail(number: int) -> int:
        raise ScenarioError("no", path=f"point {number}")

    with pytest.raises(ScenarioError, match="no"), open_executor(1) as executor:
        list(map_as_completed(executor, fail, [1, 2], in_flight=1))


def test_dask_is_reached_through_its_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class ClientExecutor(SerialExecutor):
        def shutdown(self, wait: bool = True) -> None:  # type: ignore[override]
            """As Dask's: it takes no cancel_futures."""
            asked.append("shutdown")

    class Client:
        def __init__(self, address: str, timeout: str) -> None:
            asked.append(address)

        def get_executor(self) -> Executor:
            return ClientExecutor()

    fake = types.ModuleType("distributed")
    fake.Client = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "distributed", fake)
    with open_executor(4, "dask://scheduler:8786") as executor:
        assert dict(map_as_completed(executor, double, [3], in_flight=1)) == {0: 6}
    assert asked == ["tcp://scheduler:8786", "shutdown"]


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ScenarioError, match=r"not installed") as caught, open_executor(1, "dask://h:1"):
        pass
    assert "gpuyard[dask]" in str(caught.value)
    with pytest.raises(ScenarioError, match="unknown executor"), open_executor(1, "ray://h:1"):
        pass


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_a_terminal_only_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, quiet in ((StringIO(), False), (Terminal(), True)):
        with Progress("run", stream=stream, is_quiet=quiet) as progress:
            progress(1, 1)
        assert stream.getvalue() == ""
    with Progress("run", stream=(screen := Terminal())) as progress:
        progress(2, 4)
        progress(4, 4)
    assert "4/4" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")  # the line is wiped: what follows is the answer


def test_points_of_the_ledger_do_not_shorten_the_remaining_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with Progress("sweep", stream=(screen := Terminal())) as progress:
        progress(7, 8)
        assert progress._bar is not None
        assert progress._bar.tasks[0].speed is None  # seven steps in no time would be a speed
    assert "7/8" in screen.getvalue()
    assert "-:--:--" in screen.getvalue()


def test_a_point_is_picklable(tiny: Path) -> None:
    import pickle

    point = sweep_points(str(tiny), ["replicas=2"])[0]
    assert isinstance(point, Point)
    assert pickle.loads(pickle.dumps(point)) == point


def test_a_number_of_blocks_is_shown_as_the_memory_it_takes() -> None:
    points = sweep_points(
        "serving/prefix_cache_size", ["engine.num_gpu_blocks_override=500,1000,8000"], overrides=[]
    )
    same = {"meets_slo": None, "verdict": "STABLE", "num_gpus": 1, "usd_per_hour": 2.0}
    rows = tuple({"prefix_hit_fraction": value, **same} for value in (0.1, 0.2, 0.3))
    sweep = Sweep(
        question="", command="", keys=("engine.num_gpu_blocks_override",), points=tuple(points), rows=rows
    )
    [picture] = sweep_pictures(sweep, ["prefix_hit_fraction"])
    token_bytes = 2 * 32 * 8 * 128 * 2  # K and V, layers, KV heads, head size, bytes
    assert picture.traces[0]["x"] == [blocks * 512 * token_bytes / 1e9 for blocks in (500, 1000, 8000)]
    assert picture.layout["xaxis"]["title"]["text"] == "KV memory of a replica (GB)"
    assert picture.layout["xaxis"]["type"] == "log"
