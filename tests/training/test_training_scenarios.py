"""Training scenarios from file to answer: what is refused and how, and what a run says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.kinds.registry import KINDS, kind_of
from sim.kinds.run import run_scenario
from sim.scenario.file import to_raw
from sim.scenario.shipped import scenario_paths

GOOD: dict[str, Any] = {
    "schema_version": 1,
    "question": "What does a straggler cost?",
    "kind": "training",
    "seeds": [1, 2],
    "hardware": "a100-sxm-80gb",
    "model": "llama-3.2-1b",
    "training": {"num_workers": 8, "num_steps": 40, "micro_batch_size": 2, "max_seq_len": 1024},
    "variation": {"distribution": "lognormal", "sigma": 0.1},
}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The good scenario with sections replaced key by key; None removes a key."""
    made = json.loads(json.dumps(GOOD))
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(made.get(name), dict):
            made[name] = {k: v for k, v in (made[name] | value).items() if v is not None}
        elif value is None:
            made.pop(name)
        else:
            made[name] = value
    return made


def load(tmp_path: Path, changes: dict[str, Any]) -> Any:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(changed(changes)), encoding="utf-8")
    return load_scenario(path)


BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"training": {"num_workers": 0}}, "training.num_workers", "out of bounds"),
    ({"training": {"num_steps": 0}}, "training.num_steps", "out of bounds"),
    ({"training": {"num_workers": 65_536, "num_steps": 10_000}}, "training.num_steps", "worker-steps"),
    ({"training": {"zero_stage": 4}}, "training.zero_stage", "unknown value"),
    ({"training": {"precision": "bf17"}}, "training.precision", "unknown precision"),
    ({"training": {"tensor_parallel_size": 3}}, "tensor_parallel_size", "3"),
    ({"training": {"pipeline_parallel_size": 64}}, "pipeline_parallel_size", "layers"),
    ({"training": {"checkpoint_every": 4}}, "training.checkpoint_every", "no effect"),
    ({"training": {"micro_batch_size": 4096}}, "training", "does not fit"),
    ({"model": "llama-3.1-405b"}, "training", "does not fit"),
    ({"model": None}, "model", "no step can be priced"),
    ({"hardware": "t4"}, "training.precision", "no bfloat16 rate"),
    ({"hardware": "no-such-gpu"}, "hardware", "no-such-gpu"),
    ({"sync": {"scheme": "spp"}}, "sync.scheme", "did you mean ssp"),
    ({"sync": {"scheme": "ssp"}}, "sync.staleness_bound", "missing"),
    ({"sync": {"scheme": "ssp", "staleness_bound": -1}}, "sync.staleness_bound", "out of bounds"),
    ({"sync": {"scheme": "bsp", "staleness_bound": 3}}, "sync.staleness_bound", "no effect"),
    ({"sync": {"scheme": "k_sync", "backup_workers": 8}}, "sync.backup_workers", "no gradient"),
    ({"sync": {"scheme": "k_async", "num_required": 9}}, "sync.num_required", "never comes"),
    ({"sync": {"scheme": "asp"}}, "exchange.algorithm", "every worker's gradient"),
    ({"exchange": {"bucket_cap_mb": 200_000}}, "exchange.bucket_cap_mb", "larger than the 85.0 GB"),
    ({"exchange": {"bucket_cap_mb": 0}}, "exchange.bucket_cap_mb", "out of bounds"),
    ({"exchange": {"num_servers": 4}}, "exchange.num_servers", "no effect"),
    ({"exchange": {"chunks": True}}, "exchange.chunks", "no effect"),
    ({"exchange": {"algorithm": "rign"}}, "exchange.algorithm", "did you mean ring"),
    (
        {"exchange": {"algorithm": "data_parallel_single_process"}, "training": {"num_workers": 16}},
        "exchange.algorithm",
        "one node",
    ),
    (
        {"training": {"zero_stage": 1}, "exchange": {"algorithm": "ring"}},
        "training.zero_stage",
        "exchanged by NCCL",
    ),
    ({"variation": {"sigma": None}}, "variation.sigma", "missing"),
    ({"variation": {"alpha": 2}}, "variation.alpha", "no effect"),
    (
        {"variation": {"distribution": "pareto", "sigma": None, "alpha": 1}},
        "variation.alpha",
        "out of bounds",
    ),
    (
        {"variation": {"slow_workers": [{"worker": 8, "slowdown": 2}]}},
        "variation.slow_workers[0].worker",
        "no worker 8",
    ),
    (
        {
            "variation": {
                "distribution": "none",
                "sigma": None,
                "recorded": {"path": "absent.csv", "columns": ["a"]},
            }
        },
        "variation.recorded.path",
        "absent.csv",
    ),
    ({"failures": {"mtbf_s": 100}}, "failures.interval_s", "missing"),
    ({"failures": {"mtbf_s": 100, "checkpoint_s": 20}}, "failures.checkpoint_s", "never gets on"),
    ({"devices": [{"hardware": "a100-sxm-40gb", "num_workers": 9}]}, "devices", "9 workers"),
    ({"devices": [{"hardware": "a100-sxm-4gb", "num_workers": 1}]}, "devices[0].hardware", "a100-sxm-4gb"),
    ({"compute": {"compute_s": "2 GB"}}, "compute.compute_s", "GB"),
    ({"thresholds": [{"metric": "p99_ttft_s", "max": 1}]}, "thresholds[0].metric", "unknown metric"),
    ({"engine": {"max_num_seqs": 4}}, "engine", "unknown field"),
    ({"kind": "training_"}, "kind", "did you mean training"),
]


@pytest.mark.parametrize(
    ("changes", "path", "said"), BROKEN, ids=[str(index) for index in range(len(BROKEN))]
)
def test_a_broken_training_scenario_says_what_is_wrong_and_where(
    tmp_path: Path, changes: dict[str, Any], path: str, said: str
) -> None:
    with pytest.raises(ScenarioError) as refused:
        load(tmp_path, changes)
    error = refused.value
    assert path in error.path, str(error)
    assert said in str(error)
    assert error.hint or error.allowed, str(error)


def test_a_model_that_fits_nowhere_comes_with_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as refused:
        load(tmp_path, {"model": "llama-3.1-8b"})
    assert "weights" in str(refused.value) and "zero_stage" in refused.value.hint


RUNS: dict[str, dict[str, Any]] = {
    "bsp": {},
    "tree": {"exchange": {"algorithm": "tree"}},
    "hierarchical": {"exchange": {"algorithm": "hierarchical"}},
    "ring chunk by chunk": {"exchange": {"algorithm": "ring", "chunks": True}},
    "server": {"exchange": {"algorithm": "parameter_server", "num_servers": 4}},
    "asp": {"sync": {"scheme": "asp"}, "exchange": {"algorithm": "parameter_server"}},
    "ssp": {"sync": {"scheme": "ssp", "staleness_bound": 3}, "exchange": {"algorithm": "none"}},
    "k_sync": {
        "sync": {"scheme": "k_sync", "backup_workers": 2},
        "exchange": {"algorithm": "parameter_server"},
    },
    "k_async": {"sync": {"scheme": "k_async", "num_required": 3}, "exchange": {"algorithm": "none"}},
    "local_sgd": {"sync": {"scheme": "local_sgd", "local_steps": 4}},
    "single process": {"exchange": {"algorithm": "data_parallel_single_process"}},
    "zero 2": {"training": {"zero_stage": 2}},
    "fsdp": {"training": {"zero_stage": 3, "gradient_accumulation_steps": 2}},
    "mixed devices": {"devices": [{"hardware": "a100-sxm-40gb", "num_workers": 2}]},
    "failures": {"failures": {"mtbf_s": 60, "checkpoint_s": 0.5, "restart_s": 2}},
    "lora": {"training": {"lora": {"r": 8}}},
    "packing": {
        "packing": {
            "strategy": "first_fit_decreasing",
            "lengths": {"distribution": "lognormal", "mean": 300},
            "num_documents": 500,
        }
    },
    "events too": {"training": {"stepping": "every_step"}},
}


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_job_runs_and_reports(tmp_path: Path, name: str) -> None:
    from sim.kinds.registry import report_of
    from sim.report.html import render_html
    from sim.report.markdown import render_markdown
    from sim.report.terminal import render_answer

    answer = run_scenario(load(tmp_path, RUNS[name]))
    summary = answer.summaries["base"][0]
    metrics = summary.metrics
    assert list(metrics) == list(KINDS["training"].metrics)
    assert set(summary.refused) == {key for key, value in metrics.items() if value is None}
    assert metrics["step_s"] and metrics["tokens_per_s"] and 0 < (metrics["mfu"] or 0) < 0.8
    assert metrics["slowdown"] and metrics["slowdown"] > 0.5
    assert "tokens" in render_answer(answer)
    assert "<svg" not in render_markdown(report_of(answer)) and "Decision table" in render_html(
        report_of(answer)
    )
    result: Any = answer.results["base"][0]
    kind = kind_of(result.scenario)
    assert all(columns(result) for columns in kind.record_tables.values())
    assert json.dumps(kind.trace_events(result), allow_nan=False)
    assert result.schedule().update_times_s.size == metrics["num_updates"]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    from sim.export.files import summary_json

    texts = {
        summary_json(answer.summaries, comparison=answer.comparison)
        for answer in (run_scenario(load(tmp_path, {})) for _ in range(2))
    }
    assert len(texts) == 1


def test_the_effective_scenario_loads_to_the_same_one(tmp_path: Path) -> None:
    file = load(tmp_path, {"devices": [{"hardware": "a100-sxm-40gb", "num_workers": 2}]})
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(to_raw(file)), encoding="utf-8")
    assert load_scenario(again).base == file.base


def test_workers_of_common_random_numbers_do_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few: Any = run_scenario(load(tmp_path, {"exchange": {"algorithm": "none"}})).results["base"][0]
    more = {"exchange": {"algorithm": "none"}, "training": {"num_workers": 12}}
    many: Any = run_scenario(load(tmp_path, more)).results["base"][0]
    compute = few.outcome.workers.compute_ps
    assert many.outcome.workers.compute_ps[:8].tolist() == compute.tolist()


def test_training_scenarios_are_shipped_and_small() -> None:
    shipped = [path for path in scenario_paths() if path.parent.name == "training"]
    assert len(shipped) >= 4
    for path in shipped:
        file: Any = load_scenario(path)
        assert file.base.training.num_workers * file.base.training.num_steps <= 200_000
