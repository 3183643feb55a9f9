"""vLLM's recorded decisions, replayed: the copied cases always, the whole collection where it lies beside."""

from __future__ import annotations

import gzip
import json
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest

from sim.cli.conformance import render, run
from sim.errors import ScenarioError
from sim.trust.conformance import CaseResult, replay_folder

HERE = Path(__file__).parent
COPIED = sorted((HERE / "cases").glob("vllm-*"))
SHARED = HERE.parents[2] / "shared" / "conformance"
DRAFTING = {"hyb_eagle", "hyb_eagle_drop", "hyb_mtp_async"}
"""Kinds that need a drafting model: refused by name."""


def main_conformance(folder: Path) -> int:
    return run(Namespace(folder=folder))


def modelled(results: Sequence[CaseResult]) -> list[CaseResult]:
    """All but the cases that need what is not modelled, each of which names it."""
    left_out = [result for result in results if result.not_modelled]
    assert {result.kind for result in left_out} <= DRAFTING
    assert all("spec_method" in result.not_modelled for result in left_out)
    return [result for result in results if not result.not_modelled]


def test_the_copied_cases_have_every_kind() -> None:
    kinds = {path.name: {case["kind"] for case in _index(path)["cases"]} for path in COPIED}
    assert {name: len(found) for name, found in kinds.items()} == {
        "vllm-0.20.0": 22, "vllm-0.33.0": 27, "vllm-0.33.0-hybrid": 16,
    }  # fmt: skip


@pytest.mark.parametrize("folder", COPIED, ids=lambda path: path.name)
def test_every_copied_decision_is_equal(folder: Path) -> None:
    results = modelled(replay_folder(folder))
    assert all(result.is_equal for result in results), render(results)
    assert sum(result.num_equal for result in results) == sum(r.num_steps for r in results) > 4000


@pytest.mark.parametrize("version, num_cases", [("0.33.0", 64), ("0.20.0", 52), ("0.33.0-hybrid", 13)])
def test_every_shared_decision_is_equal(version: str, num_cases: int) -> None:
    folder = SHARED / f"vllm-{version}" / "cases"
    if not folder.is_dir():
        pytest.skip(
            f"the whole collection of recorded decisions is not there ({folder.name} beside the checkout)"
        )
    results = modelled(replay_folder(folder))
    assert all(result.is_equal for result in results), render(results)
    assert len(results) == num_cases


def test_a_folder_of_recordings_may_be_named_by_its_parent(tmp_path: Path) -> None:
    case = _copy_one(tmp_path / "cases")
    assert [result.case for result in replay_folder(tmp_path)] == [case]


def test_settings_that_are_not_modelled_are_named(tmp_path: Path) -> None:
    _copy_one(tmp_path)
    index = _index(tmp_path)
    index["cases"][0]["args"] |= {"spec_method": "eagle", "connector": "cpu"}
    (tmp_path / "index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ScenarioError, match="not modelled yet: spec_method 'eagle', connector 'cpu'"):
        replay_folder(tmp_path)


def test_a_case_of_what_is_not_modelled_is_named_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = _copy_one(tmp_path)
    index = _index(tmp_path)
    index["cases"].append({"case": "other", "kind": "offload", "args": {"connector": "cpu"}})
    (tmp_path / "index.json").write_text(json.dumps(index), encoding="utf-8")
    assert main_conformance(tmp_path) == 1
    printed = capsys.readouterr().out
    assert "other not replayed, it was recorded with what is not modelled: connector 'cpu'" in printed
    assert "1/2 cases" in printed and "1 not replayed" in printed and f"{case} not" not in printed


@pytest.mark.parametrize(("wrong", "where"), [
    ({"groups": []}, "groups"),
    ({"groups": ["full", 0]}, "groups"),
    ({"groups": ["half"]}, "groups"),
    ({"groups": ["full", 8], "retention_interval": -16}, "prefix_cache_retention_interval"),
    ({"groups": ["full", 8], "retention_interval": 5}, "prefix_cache_retention_interval"),
    ({"groups": ["full"], "retention_interval": 64}, "prefix_cache_retention_interval"),
])  # fmt: skip
def test_impossible_groups_are_the_users_error(tmp_path: Path, wrong: dict[str, object], where: str) -> None:
    _copy_one(tmp_path)
    index = _index(tmp_path)
    index["cases"][0]["args"] = {**index["cases"][0]["args"], **wrong}  # type: ignore[dict-item]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ScenarioError) as told:
        replay_folder(tmp_path)
    assert told.value.path == f"args.{where}"


def test_a_wrong_recording_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = _copy_one(tmp_path)
    lines = gzip.decompress((tmp_path / f"{case}.log.jsonl.gz").read_bytes()).decode().splitlines()
    record = json.loads(lines[3])
    record["bcrc"] += 1
    lines[3] = json.dumps(record)
    (tmp_path / f"{case}.log.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    assert main_conformance(tmp_path) == 1
    printed = capsys.readouterr().out
    assert f"{case} step 3, bcrc: expected {record['bcrc']}, got {record['bcrc'] - 1}" in printed
    assert "0/1 cases" in printed


def test_a_recording_that_ends_too_early_is_found(tmp_path: Path) -> None:
    case = _copy_one(tmp_path)
    lines = gzip.decompress((tmp_path / f"{case}.log.jsonl.gz").read_bytes()).decode().splitlines()
    (tmp_path / f"{case}.log.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[:-1]).encode()))
    (result,) = replay_folder(tmp_path)
    assert result.difference is not None and result.difference.expected == "the end"


def test_equal_decisions_give_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _copy_one(tmp_path)
    assert main_conformance(tmp_path) == 0
    assert "1/1 cases" in capsys.readouterr().out


@pytest.mark.parametrize(
    "broken", ["absent", "not json", "no cases", "no version", "no log", "cut log", "unknown"]
)
def test_a_broken_folder_is_the_users_error(tmp_path: Path, broken: str) -> None:
    case = _copy_one(tmp_path)
    index, log = tmp_path / "index.json", tmp_path / f"{case}.log.jsonl.gz"
    if broken == "absent":
        index.unlink()
    elif broken == "not json":
        index.write_bytes(b"\xff\xfe{")
    elif broken == "no cases":
        index.write_text('{"vllm": "0.33.0", "cases": []}')
    elif broken == "no version":
        index.write_text(json.dumps({"cases": _index(tmp_path)["cases"]}))
    elif broken == "no log":
        log.unlink()
    elif broken == "cut log":
        log.write_bytes(log.read_bytes()[:-20])
    else:
        index.write_text(index.read_text().replace("0.33.0", "0.11.0"))
    with pytest.raises(ScenarioError):
        main_conformance(tmp_path)


@pytest.mark.parametrize("part", ["log", "workload"])
@pytest.mark.parametrize(
    "line", ["[1]", "{", '{"id": 3}', '{"id": "a", "arrive": "soon", "prompt": [[1, 2]]}']
)
def test_a_broken_line_is_the_users_error_or_a_difference(tmp_path: Path, part: str, line: str) -> None:
    case = _copy_one(tmp_path)
    (tmp_path / f"{case}.{part}.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    try:
        assert main_conformance(tmp_path) == 1
    except ScenarioError as error:
        assert case in error.file


def test_a_setting_that_nobody_knows_is_the_users_error(tmp_path: Path) -> None:
    _copy_one(tmp_path)
    index = _index(tmp_path)
    index["cases"][0]["args"]["max_num_sequences"] = 3
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ScenarioError, match="not modelled yet: max_num_sequences 3"):
        main_conformance(tmp_path)


@pytest.mark.parametrize(("wrong", "allowed"), [
    ({"max_num_seqs": 0}, "at least 1"),
    ({"max_num_seqs": "many"}, "a whole number"),
    ({"block_size": 0}, "at least 1"),
    ({"num_gpu_blocks": 1}, "at least 2"),
    ({"policy": "lifo"}, "fcfs, priority"),
    ({"policy": "user"}, "fcfs, priority"),
    ({"watermark": 1.0}, "below 1"),
    ({"prefill_schedule_interval": 0}, "at least 1"),
    ({"num_speculative_tokens": -1}, "at least 0"),
    ({"max_num_active_seqs": 0}, "at least 1"),
    ({"max_num_batched_tokens": 63, "max_model_len": 64, "enable_chunked_prefill": False}, "max_model_len"),
])  # fmt: skip
def test_an_impossible_setting_is_the_users_error(
    tmp_path: Path, wrong: dict[str, object], allowed: str
) -> None:
    case = _copy_one(tmp_path)
    index = _index(tmp_path)
    index["cases"][0]["args"] = {**index["cases"][0]["args"], **wrong}  # type: ignore[dict-item]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ScenarioError) as told:
        replay_folder(tmp_path)
    assert told.value.file == str(tmp_path / case) and told.value.path == f"args.{next(iter(wrong))}"
    assert allowed in told.value.allowed


def test_a_release_does_not_take_settings_it_lacks(tmp_path: Path) -> None:
    _copy_one(tmp_path)
    index = _index(tmp_path)
    index["cases"][0]["args"]["watermark"] = 0.1
    (tmp_path / "index.json").write_text(json.dumps(index).replace("0.33.0", "0.20.0"))
    with pytest.raises(ScenarioError, match=r"vLLM 0.20.0 has no such setting") as told:
        replay_folder(tmp_path)
    assert told.value.path == "args.watermark"


def test_a_case_that_no_pool_can_serve_is_refused(tmp_path: Path) -> None:
    _copy_one(tmp_path)
    index = _index(tmp_path)
    index["cases"][0]["args"]["num_gpu_blocks"] = 3
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ScenarioError, match="KV blocks"):
        replay_folder(tmp_path)


def _index(folder: Path) -> dict[str, list[dict[str, object]]]:
    return json.loads((folder / "index.json").read_text())  # type: ignore[no-any-return]


def _copy_one(target: Path) -> str:
    """One small case of 0.33.0 in a folder of its own; returns its name."""
    target.mkdir(exist_ok=True)
    folder = HERE / "cases" / "vllm-0.33.0"
    entry = _index(folder)["cases"][0]
    name = str(entry["case"])
    for part in ("log", "workload"):
        shutil.copyfile(folder / f"{name}.{part}.jsonl.gz", target / f"{name}.{part}.jsonl.gz")
    (target / "index.json").write_text(json.dumps({"vllm": "0.33.0", "cases": [entry]}))
    return name


def test_both_ways_of_planning_replay_the_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steady decode is used where it can be; planned request by request the decisions are the same."""
    monkeypatch.setattr("sim.serving.vllm.scheduler._why_unsteady", lambda limits: "for this test")
    for folder in COPIED:
        results = modelled(replay_folder(folder))
        assert all(result.is_equal for result in results), render(results)
