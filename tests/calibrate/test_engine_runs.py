"""``calibrate engine`` without torch: its runs, what it refuses, and what it says without a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from calibrate.commands import main
from calibrate.engine.host_times import fit_host_times, not_negative_fit
from calibrate.engine.parity import chunks_of, metrics_of
from calibrate.engine.runs import (
    REQUEST_COLUMNS,
    STEP_COLUMNS,
    Recorded,
    engine_runs,
    expected_s,
    read_run,
    write_rows,
)  # fmt: skip
from sim.errors import ScenarioError

CHECKOUT = Path(__file__).parent.parent.parent


def test_two_workloads_at_three_loads_of_200_to_500_requests() -> None:
    runs = engine_runs([], [])
    assert [run.name.split("-")[1] for run in runs] == ["light", "medium", "overload"] * 2
    for run in runs:
        assert 200 <= len(run.requests().arrival_ps) <= 500
        assert expected_s(run) < 500  # of a slot of ten minutes
    rates = [run.scenario.workload.arrivals.requests_per_s for run in runs[:3]]
    assert rates == sorted(rates)


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("engine.batching=static", "engine.batching"),
        ("engine.kv_allocator=contiguous", "engine.kv_allocator"),
        ("replicas=2", "replicas"),
        ("model=opt-13b", "model"),
    ],
)
def test_what_the_real_engine_has_not_is_refused(override: str, path: str) -> None:
    given = ["--set", override, *(["--set", "engine.max_model_len=2048"] if "opt" in override else [])]
    with pytest.raises(ScenarioError) as refused:
        engine_runs([], given[1::2])
    assert refused.value.path == path and refused.value.allowed


def test_requests_beyond_the_model_s_length_are_refused() -> None:
    with pytest.raises(ScenarioError, match="longer than max_model_len"):
        engine_runs([], ["engine.max_model_len=1024"])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    step: dict[str, object] = dict.fromkeys(STEP_COLUMNS, 1.0) | {"chunks": "16@0+"}
    write_rows(tmp_path / "steps.csv", STEP_COLUMNS, [step, step])
    write_rows(tmp_path / "requests.csv", REQUEST_COLUMNS, [dict.fromkeys(REQUEST_COLUMNS, 1.0)])
    (tmp_path / "run.yaml").write_text("run: made up\nmeasured_on: nothing\n", encoding="utf-8")
    return tmp_path


def test_a_bad_row_is_named(run_folder: Path) -> None:
    assert len(read_run(run_folder).steps) == 2
    file = run_folder / "steps.csv"
    good = file.read_text(encoding="utf-8")
    file.write_text(good.replace("1.000000", "slow", 1), encoding="utf-8")
    with pytest.raises(ScenarioError, match="expected a number") as refused:
        read_run(run_folder)
    assert (refused.value.file, refused.value.path) == (f"{file}:2", "started_s")
    file.write_text(good.replace("model_s", "gpu_s"), encoding="utf-8")
    with pytest.raises(ScenarioError, match="wrong header"):
        read_run(run_folder)
    with pytest.raises(ScenarioError, match="no recorded run here"):
        read_run(run_folder / "none")


@pytest.mark.parametrize(
    ("name", "old", "new", "column", "message"),
    [
        ("steps.csv", b"16@0+", b"16@x", "chunks", "not chunks"),
        ("steps.csv", b"16@0+", b"16 0", "chunks", "not chunks"),
        ("steps.csv", b",1.000000,1.000000,1.000000", b",0,1.000000,1.000000", "step_s", "expected a number"),
        ("steps.csv", b",1.000000,16@0+", b",-1,16@0+", "num_waiting", "expected a number"),
        (
            "requests.csv",
            b"\n1.000000,1.000000,1.000000",
            b"\n1.000000,1.000000,1.5",
            "prompt_tokens",
            "number",
        ),
        ("requests.csv", b",1.000000\n", b",inf\n", "num_preemptions", "expected a number"),
        ("requests.csv", b",1.000000\n", b"\n", "", "7 columns where the header has 8"),
        ("requests.csv", b",1.000000\n", b',"1.000000\n', "", "not a line of CSV"),
        ("steps.csv", b"16@0+", b"16@\xff", "", "not UTF-8"),
    ],
)
def test_what_no_engine_has_written_is_named(
    run_folder: Path, name: str, old: bytes, new: bytes, column: str, message: str
) -> None:
    file = run_folder / name
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ScenarioError, match=message) as refused:
        read_run(run_folder)
    assert (refused.value.file, refused.value.path) == (f"{file}:2", column)
    assert refused.value.allowed and "engine serve" in refused.value.hint


@pytest.mark.parametrize("text", ["run: x\n", "- 1\n", "", "run: [\n"])
def test_a_run_that_does_not_say_what_it_is_is_refused(run_folder: Path, text: str) -> None:
    (run_folder / "run.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as refused:
        read_run(run_folder)
    assert "run.yaml" in refused.value.file


def test_too_few_steps_tune_nothing(run_folder: Path) -> None:
    with pytest.raises(ScenarioError, match="too few steps"):
        fit_host_times(read_run(run_folder), 32)


def test_a_fit_of_host_times_has_no_negative_term() -> None:
    """The truth has none per sequence, and one step in twenty is ten times as long (a garbage collection)."""
    rng = np.random.default_rng(5)
    sequences, tokens = rng.integers(1, 64, 400).astype(float), rng.integers(0, 2048, 400).astype(float)
    target = (2e-3 + 4e-7 * tokens) * np.exp(0.02 * rng.standard_normal(400))
    target[::20] *= 10
    step_s, sequence_s, token_s = not_negative_fit([np.ones(400), sequences, tokens], target)
    assert step_s == pytest.approx(2e-3, rel=0.02) and token_s == pytest.approx(4e-7, rel=0.05)
    assert 0.0 <= sequence_s < 1e-6


def test_launches_are_those_of_few_sequences() -> None:
    base: dict[str, float | str] = {"num_prefill": 0.0, "prefill_tokens": 0.0}
    steps = [
        {**base, "num_decode": float(n), "model_s": max(8e-3, n * 2e-4), "step_s": max(8e-3, n * 2e-4) + 1e-3}
        for n in (1, 2, 4, 8, 64, 100) * 10
    ]
    run = Recorded(folder=Path("."), steps=steps, requests=[], about={"run": "r", "measured_on": "m"})
    assert fit_host_times(run, 32).launch_per_layer_s == pytest.approx(8e-3 / 32)


def test_metrics_are_those_of_the_glossary() -> None:
    """Two requests by hand; one token has no TPOT."""
    arrival, first, finished = np.array([1.0, 2.0]), np.array([1.5, 3.0]), np.array([3.5, 3.0])
    found = metrics_of(arrival, first, finished, np.array([5.0, 1.0]))
    assert found["ttft_s"].tolist() == [0.5, 1.0] and found["tpot_s"].tolist() == [0.5]
    assert found["e2e_s"].tolist() == [2.5, 1.0]
    assert chunks_of({"chunks": "512@0+ 128@1024"}) == [(512, 0, True, None), (128, 1024, False, None)]


def test_parity_without_records_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "parity", "--data", str(tmp_path)]) == 2
    assert "python -m calibrate engine serve" in capsys.readouterr().err
    assert main(["engine", "parity", "--data", str(tmp_path), "--development", "chat"]) == 2
    assert "chat-medium" in capsys.readouterr().err


def test_without_a_gpu_one_line_and_3(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("torch") and importlib.util.find_spec("triton"):
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    monkeypatch.chdir(CHECKOUT)
    assert main(["engine", "serve"]) == 3
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("no GPU to serve on: ") and said.err.count("\n") == 1
