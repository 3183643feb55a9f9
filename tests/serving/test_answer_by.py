"""What a serving scenario is answered by: the metric that it names, else what fits; no price of a queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.cli.command import main
from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario
from sim.results.answer import answer_line, headline_metric
from sim.results.comparison import Comparison
from sim.serving.metrics import METRICS

FEW = "workload.num_requests=200"


def shipped(name: str, *overrides: str) -> Comparison:
    return run_scenario(load_scenario(name, overrides=overrides)).comparison


def test_the_cache_is_answered_for_by_what_it_finds() -> None:
    assert answer_line(shipped("serving/prefix_cache_size", FEW)).startswith("Prefix cache hit rate is ")


def test_a_scenario_is_answered_by_the_metric_that_it_names() -> None:
    found = shipped("serving/multi_turn_sessions", FEW, "seeds=[1]", "answer_by=kv_used_fraction")
    assert headline_metric(found) == "kv_used_fraction"


def test_only_metrics_answer() -> None:
    with pytest.raises(ScenarioError) as told:
        load_scenario("serving/mm1_queue", overrides=["answer_by=mean_wait_s"])
    assert told.value.path.endswith("answer_by")
    load_scenario("serving/mm1_queue", overrides=[f"answer_by={next(iter(METRICS))}"])


def test_a_sweep_looks_for_what_the_scenario_answers_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axis = "engine.num_gpu_blocks_override=400,1000,2000"
    given = ["sweep", "serving/prefix_cache_size", "--over", axis, "--set", FEW, "--out", str(tmp_path)]
    assert main([*given, "--quiet"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("The highest prefix cache hit rate: ") and "No SLO" not in said


def test_a_plain_queue_has_no_tokens_to_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = shipped("serving/mm1_queue", "workload.num_requests=3000", "seeds=[1]")
    [run] = found.summaries["base"]
    for name in ("cost_per_million_output_tokens", "energy_j_per_token"):
        assert run.metrics[name] is None
        assert run.refused[name] == "a drawn service time has no tokens to price"
    given = ["run", "serving/mm1_queue", "--set", "workload.num_requests=3000", "--seeds", "1"]
    main([*given, "--out", str(tmp_path)])
    for text in (capsys.readouterr().out, (tmp_path / "report.md").read_text()):
        assert "cost per million" not in text and "energy per output token" not in text
