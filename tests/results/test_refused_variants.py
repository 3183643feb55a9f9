"""A variant that its device cannot do is an answer beside the others; a mistake is none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.cli.command import main
from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.kinds.run import run_scenario
from sim.results.answer import answer_line

ATTENTION = {"algorithm": "flash_attention_2", "batch": 1, "num_heads": 8, "head_dim": 128, "seqlen": 1024}
KERNEL: dict[str, Any] = {"kind": "kernel", "hardware": "a100-sxm-80gb", "kernel": {"attention": ATTENTION}}
TRAINING: dict[str, Any] = {
    "kind": "training",
    "hardware": "a100-sxm-80gb",
    "model": "llama-3.1-8b",
    "training": {"num_workers": 8, "num_steps": 20, "zero_stage": 3},
}
SERVING: dict[str, Any] = {
    "kind": "serving",
    "hardware": "h100-sxm-80gb",
    "model": "llama-3.1-8b",
    "workload": {
        "num_requests": 120,
        "arrivals": {"process": "poisson", "requests_per_s": 4},
        "prompt_tokens": {"distribution": "fixed", "value": 256},
        "output_tokens": {"distribution": "fixed", "value": 16},
    },
    "engine": {"max_model_len": 2048, "max_num_seqs": 32},
}
LARGE_TILE = {"kernel": {"tile": {"block_m": 256, "block_n": 128}}}
CASES = [
    (KERNEL, LARGE_TILE, "a thread cannot hold its part of the accumulators"),
    (
        KERNEL,
        {"kernel": {"tile": {"block_m": 128, "block_n": 128, "num_stages": 8}}},
        "a tile needs more SRAM",
    ),
    (KERNEL, {"kernel": {"attention": {"algorithm": "flash_attention_3"}}}, "this kernel does not exist for"),
    (KERNEL, {"kernel": {"attention": {"dtype": "float8"}}}, "a100-sxm-80gb has no float8 rate"),
    (TRAINING, {"training": {"zero_stage": 0}}, "llama-3.1-8b does not fit: "),
    (TRAINING, {"training": {"precision": "fp8"}}, "a100-sxm-80gb has no float8 rate"),
    (SERVING, {"model": "llama-3.1-70b"}, "the model leaves no room for KV cache"),
    (
        SERVING,
        {"hardware": "a100-sxm-80gb", "engine": {"quantization": "fp8"}},
        "has no peak rate for float8",
    ),
]


def written(tmp_path: Path, base: dict[str, Any], variants: dict[str, Any], **keys: Any) -> str:
    path = tmp_path / "scenario.yaml"
    compare = {"reference": next(iter(variants)), "variants": variants}
    whole = {"schema_version": 1, "question": "Which?", **base, "compare": compare, **keys}
    path.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("base", "differences", "said"), CASES)
def test_the_others_are_answered_as_without_it(
    base: dict[str, Any], differences: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with_it = load_scenario(written(tmp_path, base, {"plain": {}, "other": {}, "refused": differences}))
    answer = run_scenario(with_it)
    without = run_scenario(load_scenario(written(tmp_path, base, {"plain": {}, "other": {}})))
    assert answer.comparison.variants == ("plain", "other")
    assert answer.comparison.cells == without.comparison.cells
    (refusal,) = answer.comparison.refused.values()
    assert said in refusal.reason
    assert "compare.variants" not in refusal.reason
    assert "(in variant" not in refusal.reason
    assert answer_line(answer.comparison).count("refused cannot run: ") == 1
    assert said in answer_line(answer.comparison)


@pytest.mark.parametrize("others", [{}, {"second": {"kernel": {"attention": {"seqlen": 2048}}}}])
def test_every_view_of_a_run_has_it_with_its_reason(
    others: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the column of a small table and as the row of a compact one."""
    path, out = written(tmp_path, KERNEL, {"own": {}, **others, "256_x_128": LARGE_TILE}), tmp_path / "out"
    files = ["--out", str(out), "--csv", str(out / "runs.csv"), "--json", str(out / "again.json")]
    out.mkdir()
    assert main(["run", path, "--jobs", "1", *files]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    reason = "kernel.tile: flash_attention_2 forward: a thread cannot hold its part of the accumulators"
    assert f"256_x_128 cannot run (CANNOT_RUN): {reason}" in printed
    assert "try smaller block_m or block_n" in printed
    assert "| cannot run |" in printed
    for name in ("report.html", "report.md"):
        view = (out / name).read_text(encoding="utf-8")
        assert reason in view
        assert "256_x_128: cannot run (CANNOT_RUN)" in view.replace("\\_", "_")
        assert "cannot run" in view
    for name in ("summary.json", "again.json"):
        (told,) = json.loads((out / name).read_text(encoding="utf-8"))["cannot_run"]
        assert told["variant"] == "256_x_128"
        assert told["reason"].startswith(reason)
        assert told["remedy"].startswith("smaller block_m")
    rows = list(csv.DictReader((out / "runs.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["variant"] for row in rows] == ["own", *others, "256_x_128"]
    assert rows[-1]["verdict"] == "CANNOT_RUN"
    assert rows[-1]["cannot_run"].startswith(reason)
    assert rows[-1]["time_s"] == rows[0]["cannot_run"] == ""


def test_the_reference_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, KERNEL, {"256_x_128": LARGE_TILE, "own": {}})
    assert main(["run", path, "--out", str(tmp_path / "out")]) == 2
    assert "compare.variants.256_x_128.kernel.tile: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "mistake",
    [
        {"kernel": {"tile": {"block_q": 64}}},  # no such key
        {"kernel": {"tile": {"block_m": "wide"}}},  # not a number
        {"kernel": {"attention": {"num_heads": 9, "num_kv_heads": 8}}},  # they do not go together
        {"kernel": {"tile": {"block_k": 64}}},  # a size that this operation never reads
        {"hardware": "a100-sxm-60gb"},  # no such device
    ],
)
def test_a_mistake_in_a_variant_stays_an_error(mistake: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r".") as caught:
        load_scenario(written(tmp_path, KERNEL, {"own": {}, "other": mistake}))
    assert caught.value.path.startswith("compare.variants.other.")


def test_a_base_that_no_variant_is_like_need_not_run(tmp_path: Path) -> None:
    tiles = {size: {"kernel": {"tile": {"block_m": 64, "block_n": size}}} for size in (64, 128)}
    base = {**KERNEL, "kernel": {"attention": ATTENTION, "tile": {"block_m": 256, "block_n": 128}}}
    file = load_scenario(written(tmp_path, base, {f"of_{size}": tile for size, tile in tiles.items()}))
    assert [one.name for one in file.variants] == ["of_64", "of_128"]
    assert file.refused == ()


def test_its_threshold_is_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threshold = {"metric": "time_s", "variant": "256_x_128", "max": 1}
    path = written(tmp_path, KERNEL, {"own": {}, "256_x_128": LARGE_TILE}, thresholds=[threshold])
    assert main(["run", path, "--jobs", "1", "--no-report", "--out", str(tmp_path / "out")]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "MISSED: 256_x_128 time_s max 1: it cannot run: kernel.tile: " in printed


def test_check_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written(tmp_path, KERNEL, {"own": {}, "256_x_128": LARGE_TILE})]) == 0
    assert "1 seeds x 1 variants (own); 256_x_128 cannot run: kernel.tile: " in capsys.readouterr().out
