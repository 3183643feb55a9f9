"""``engine serve`` and ``engine parity`` with a told clock in the GPU's place. Run by test_kernels.py.

The engine's own scheduler, KV pool and records run; a forward pass only tells the clock how long it took, by
kernel times of a profile and host times that are written here. What is recorded is then simulated with the
same profile and with the host times that a fit finds: scheduler and simulator must tell the same story.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from calibrate.commands import main
from calibrate.engine import serve
from calibrate.engine.host_times import fit_host_times
from calibrate.engine.llama import Batch
from calibrate.engine.runs import EngineRun, engine_runs, read_run
from calibrate.engine.serving import Clock, RealEngine
from sim.arrays import PS_PER_S
from sim.hardware.engine_profile import EngineOverheads
from sim.price.step import CompiledPrice
from sim.serving.batching.continuous import continuous
from sim.serving.batching.plan import limits_of
from sim.serving.scheduler import is_decode

HOST = EngineOverheads(step_s=1.5e-3, per_sequence_s=2e-5, per_prompt_token_s=6e-7, launch_per_layer_s=3.2e-4)
FEW = ["--set", "workload.num_requests=60", "--set", "engine.num_gpu_blocks_override=1500"]


class ToldClock(Clock):
    """Stands still but for what it is told; ``last_s`` is when a slot ends."""

    def __init__(self, last_s: float = float("inf")) -> None:
        self.moment_s, self.last_s = 0.0, last_s

    def now_s(self) -> float:
        return self.moment_s

    def wait_until(self, moment_s: float) -> None:
        self.moment_s = max(self.moment_s, moment_s)

    @property
    def is_over(self) -> bool:
        return self.moment_s > self.last_s


@dataclass
class ToldModel:
    """A forward pass that takes the longer of its kernels and their launches."""

    run: EngineRun
    clock: ToldClock

    def __post_init__(self) -> None:
        engine = self.run.scenario.engine
        pool = torch.zeros((engine.num_gpu_blocks_override or 0, engine.block_size, 1, 1))
        self.layers = [SimpleNamespace(cache=(pool, pool))]
        self.price = CompiledPrice(self.run.scenario)

    def forward(self, batch: Batch) -> Any:
        chunks = [
            (chunk.stop - chunk.start, chunk.context - (chunk.stop - chunk.start), False, None)
            for chunk in batch.chunks
        ]
        num_decode, ends = len(batch.context_B), len(batch.sampled) - len(batch.context_B)
        chunks = [(q, cached, index < ends, None) for index, (q, cached, _, _) in enumerate(chunks)]
        context = int(batch.context_B.sum())
        decodes = [cached + 1 for queries, cached, _, _ in chunks if is_decode(queries, cached)]
        chunks = [chunk for chunk in chunks if not is_decode(chunk[0], chunk[1])]
        kernels_s = self.price.step_ps(num_decode + len(decodes), context + sum(decodes), chunks) / PS_PER_S
        self.clock.moment_s += max(kernels_s, HOST.launch_per_layer_s * 32)
        return torch.zeros((len(batch.sampled), 4))


def told_engine(run: EngineRun, clock: ToldClock) -> RealEngine:
    """The real engine, its host's work told to the clock as the policy decides."""

    def policy(waiting: Any, running: Any, kv: Any, limits: Any) -> Any:
        plan = continuous(waiting, running, kv, limits)
        sequences = len(plan.decoding(running)) + len(plan.prefill)
        tokens = sum(queries for _, queries in plan.prefill)
        clock.moment_s += HOST.step_s + HOST.per_sequence_s * sequences + HOST.per_prompt_token_s * tokens
        return plan

    model: Any = ToldModel(run, clock)
    return RealEngine(model, limits_of(run.scenario), policy=policy, clock=clock)


def tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """``serve`` runs the told engine, however the slot's end is given."""
    monkeypatch.setattr(serve, "model_of", lambda run, *, is_dry: None)
    monkeypatch.setattr(serve, "warm_up", lambda run, model, requests: None)
    monkeypatch.setattr(serve.device, "device_name", lambda: "a told clock")
    monkeypatch.setattr(serve, "engine_of", lambda run, model, deadline_s: told_engine(run, ToldClock()))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch)


def few_runs() -> list[EngineRun]:
    return engine_runs([], FEW[1::2])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All six runs, served once."""
    folder = tmp_path_factory.mktemp("engine")
    with pytest.MonkeyPatch.context() as monkeypatch:
        tell(monkeypatch)
        assert serve.serve_runs(few_runs(), folder, float("inf"), is_dry=False) == 0
    return folder


def test_a_recorded_engine_is_simulated_to_the_same_times(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same profile, host times as fitted to one run: means of all the others within 1 %."""
    assert main(["engine", "parity", "--data", str(recorded), *FEW]) == 0
    lines = (recorded / "engine_runs.csv").read_text(encoding="utf-8").splitlines()
    means = [line.split(",") for line in lines[1:] if "mean" in line]
    assert len(means) == 18 and sum("tuned nothing" in line[1] for line in means) == 15
    for line in means:
        assert abs(float(line[5].rstrip("%"))) <= 1.0, line
    page = (recorded / "engine_parity.html").read_text(encoding="utf-8")
    assert "chat-overload" in page and "TTFT" in page


def test_another_profile_is_seen_in_the_report(recorded: Path) -> None:
    """An A100's kernels under the same host: means of runs that tuned nothing are off, and 1 says so."""
    command = ["engine", "parity", "--data", str(recorded), "--hardware", "a100-sxm-80gb", *FEW]
    assert main([*command, "--out", str(recorded / "a100")]) == 1


def test_host_times_are_found_again(recorded: Path) -> None:
    found = fit_host_times(read_run(recorded / "chat-medium"), 32)
    assert found.step_s == pytest.approx(HOST.step_s, rel=0.01)
    assert found.per_sequence_s == pytest.approx(HOST.per_sequence_s, rel=0.05)
    assert found.per_prompt_token_s == pytest.approx(HOST.per_prompt_token_s, rel=0.05)
    assert found.launch_per_layer_s == pytest.approx(HOST.launch_per_layer_s, rel=0.01)
    assert "chat-medium" in found.source


def test_a_run_that_is_cut_off_keeps_its_rows_and_is_served_again(
    told: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = few_runs()[1]
    whole = serve.engine_of
    monkeypatch.setattr(serve, "engine_of", lambda run, model, _: told_engine(run, ToldClock(last_s=2.0)))
    assert serve.serve_runs([run], tmp_path, float("inf"), is_dry=False) == 1
    cut = read_run(tmp_path / run.name)
    assert cut.about["is_whole"] is False and cut.steps and float(cut.steps[-1]["started_s"]) <= 2.0
    assert min(float(row["finished_s"]) for row in cut.requests) == -1.0
    monkeypatch.setattr(serve, "engine_of", whole)
    assert serve.serve_runs([run], tmp_path, float("inf"), is_dry=False) == 0
    steps = len(read_run(tmp_path / run.name).steps)
    assert steps > len(cut.steps)
    monkeypatch.setattr(serve, "engine_of", None)  # a whole run is not served again
    assert serve.serve_runs([run], tmp_path, float("inf"), is_dry=False) == 0


def test_a_run_that_would_end_late_is_left_for_the_next_slot(told: None, tmp_path: Path) -> None:
    assert serve.serve_runs(few_runs(), tmp_path, time.monotonic() + 30, is_dry=False) == 6
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_workload_are_refused(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [*FEW[:1], "workload.num_requests=59", *FEW[2:]]
    assert main(["engine", "parity", "--data", str(recorded), *other]) == 2
    assert "other prompt_tokens than the scenario draws" in capsys.readouterr().err


def test_a_dry_run_is_no_measurement(told: None, tmp_path: Path) -> None:
    runs = [replace(run) for run in few_runs()[:2]]
    assert serve.serve_runs(runs, tmp_path, float("inf"), is_dry=True) == 0
    about = yaml.safe_load((tmp_path / runs[0].name / "run.yaml").read_text(encoding="utf-8"))
    assert about["is_dry"] and "times mean nothing" in about["measured_on"]
    assert len(read_run(tmp_path / runs[0].name).requests) == serve.DRY_REQUESTS
