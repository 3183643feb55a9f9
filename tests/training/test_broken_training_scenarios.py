"""Training scenarios broken by mutation: one clear ScenarioError each, exit code 2, nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.cli.command import main
from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario

GOOD: dict[str, Any] = {
    "schema_version": 1,
    "question": "What does a straggler cost?",
    "kind": "training",
    "seeds": [1, 2],
    "hardware": "a100-sxm-80gb",
    "model": "llama-3.2-1b",
    "training": {
        "num_workers": 8, "num_steps": 40, "micro_batch_size": 2, "gradient_accumulation_steps": 2,
        "max_seq_len": 1024, "precision": "bf16_mixed", "optimizer": "adamw", "zero_stage": 0,
        "activation_checkpointing": "every_k", "checkpoint_every": 2, "attention": "flash",
        "dropout": False, "tensor_parallel_size": 2, "pipeline_parallel_size": 1, "gpus_per_node": 8,
        "lora": {"r": 8, "targets": "attention", "is_quantized": False},
    },
    "compute": {"gradient_bytes": "20 MB"},
    "sync": {"scheme": "ssp", "staleness_bound": 2},
    "exchange": {
        "algorithm": "parameter_server", "num_servers": 4, "bucket_cap_mb": 25, "first_bucket_mb": 1,
    },
    "variation": {
        "distribution": "lognormal", "sigma": 0.1,
        "markov": {"slowdown": 2, "mean_slow_steps": 3, "mean_fast_steps": 20},
        "slow_workers": [{"worker": 3, "slowdown": 2}],
        "data_loader": {"probability": 0.1, "stall_s": {"distribution": "fixed", "value": 1}},
    },
    "packing": {
        "strategy": "best_fit", "lengths": {"distribution": "lognormal", "mean": 300},
        "num_documents": 500, "attention": "block_diagonal",
    },
    "devices": [{"hardware": "a100-sxm-40gb", "num_workers": 2}],
    "failures": {"mtbf_s": 5000, "restart_s": "2 s", "checkpoint_s": "1 s", "interval_s": "60 s"},
    "learning": {"problem": "noisy_quadratic", "learning_rate": 0.05},
}  # fmt: skip

Steps = tuple[str | int, ...]
NO_NUMBER: list[object] = [float("nan"), float("inf"), -1, -0.5, 1e30, "7 GHz", "abc", True, [1], {"a": 1}]
NO_WORD: list[object] = ["zzz", "", 3, 2.5, [1]]
REQUIRED = (
    "schema_version", "question", "kind", "hardware", "training", "training.num_workers",
    "training.num_steps", "sync.staleness_bound", "variation.sigma", "packing.strategy", "packing.lengths",
    "variation.data_loader.probability", "variation.data_loader.stall_s", "devices[0].hardware",
    "failures.mtbf_s",
)  # fmt: skip


def nodes(tree: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Every node below the top, with its keys."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in items:
        yield (*steps, step), value
        yield from nodes(value, (*steps, step))


def path_of(steps: Steps) -> str:
    """``("seeds", 0)`` as an error shows it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def put(steps: Steps, *value: object) -> dict[str, Any]:
    """The good scenario with another value at ``steps``, or without it."""
    tree = json.loads(json.dumps(GOOD))
    holder = tree
    for step in steps[:-1]:
        holder = holder[step]
    if value:
        holder[steps[-1]] = value[0]
    else:
        del holder[steps[-1]]
    return dict(tree)


def mutations() -> Iterator[tuple[str, dict[str, Any], str]]:
    """(name, content, key that the error names): mistyped, not finite, negative, huge, unknown."""
    for steps, value in nodes(GOOD):
        path = path_of(steps)
        if path == "question":
            continue
        is_number = isinstance(value, (int, float)) or (isinstance(value, str) and value[0].isdigit())
        wrong: list[object] = []
        if isinstance(value, bool):
            wrong = [3, "perhaps", [1]]
        elif is_number:
            wrong = [one for one in NO_NUMBER if path != "schema_version" or one is not True]
        elif isinstance(value, str):
            wrong = NO_WORD
        elif isinstance(value, dict):
            wrong = ["abc", [1]]
            yield f"{path}.zzz", put((*steps, "zzz"), 1), f"{path}.zzz"
        for one in wrong:
            yield f"{path}={one!r}", put(steps, one), path
        if path in REQUIRED:
            yield f"{path} missing", put(steps), path


BROKEN = list(mutations())


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "broken.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_there_are_many_and_the_good_one_is_good(tmp_path: Path) -> None:
    assert len(BROKEN) >= 200
    assert load_scenario(write(tmp_path, GOOD)).variants


@pytest.mark.parametrize(("name", "content", "path"), BROKEN, ids=[name[:60] for name, _, _ in BROKEN])
def test_a_broken_training_scenario_gives_one_clear_error(
    name: str, content: dict[str, Any], path: str, tmp_path: Path
) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(write(tmp_path, content))
    shown = str(caught.value)
    assert path in shown, shown
    assert "allowed: " in shown or "try: " in shown, shown
    assert len(shown) < 2000 and "Traceback" not in shown


GIVEN = {"schema_version": 1, "question": "q?", "kind": "training", "hardware": "a100-sxm-80gb"} | {
    "training": {"num_workers": 4, "num_steps": 10},
    "compute": {"compute_s": 1, "gradient_bytes": "1 MB"},
}
# Impossible together, though each field alone is fine: (what differs, key of the error, what it says).
TOGETHER: list[tuple[dict[str, Any], str, str]] = [
    ({"compute": {"compute_s": 0}, "exchange": {"algorithm": "none"}}, "compute.compute_s", "nothing takes"),
    ({"training": {"num_workers": 4, "num_steps": 5_000_000}}, "training.num_steps", "at most 4,000,000 s"),
    ({"compute": {"compute_s": 1, "gradient_bytes": 10**18}}, "training.num_steps", "10 steps of about"),
    (
        {"variation": {"slow_workers": [{"worker": 0, "slowdown": 1e6}, {"worker": 0, "slowdown": 1e6}]}},
        "training.num_steps",
        "10 steps of about",
    ),
    (
        {"variation": {"slow_workers": [{"worker": 0, "slowdown": 0.5}]}},
        "variation.slow_workers[0].slowdown",
        "slowdown: 2 is 50% of the speed",
    ),
    ({"failures": {"mtbf_s": 1e-6, "interval_s": 1}}, "failures.mtbf_s", "does not get on"),
    (
        {"failures": {"mtbf_s": 0.001}, "sync": {"scheme": "asp"}, "exchange": {"algorithm": "none"}},
        "failures.mtbf_s",
        "does not get on",
    ),
    (
        {"hardware": "rtx-4090", "model": "gpt2-large", "training": {"num_workers": 2, "num_steps": 9}},
        "training.gpus_per_node",
        "how many rtx-4090 share a node",
    ),
    ({"compute": {"compute_s": 1, "gradient_bytes": 1, "host_s": 1}}, "compute.host_s", "no effect"),
    ({"model": "gpt2-large", "compute": {"optimizer_s": 1}}, "compute.optimizer_s", "no effect"),
    ({"model": "gpt2-large", "compute": {"forward_fraction": 0.9}}, "compute.forward_fraction", "no effect"),
]


@pytest.mark.parametrize(("changes", "path", "said"), TOGETHER, ids=range(len(TOGETHER)))
def test_what_cannot_run_says_so(changes: dict[str, Any], path: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        run_scenario(load_scenario(write(tmp_path, GIVEN | changes)))
    shown = str(caught.value)
    assert path in shown and said in shown, shown
    assert "allowed: " in shown


@pytest.mark.parametrize("name", ["training.num_workers=-1", "failures.mtbf_s=nan", "training.lora.zzz"])
def test_the_command_line_ends_with_2_and_writes_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = next(content for one, content, _ in BROKEN if one == name)
    out = tmp_path / "out"
    assert main(["run", str(write(tmp_path, content)), "--out", str(out)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not out.exists()
