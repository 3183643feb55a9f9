"""The gallery's check sees what changed, and every scenario has its answer and picture in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim.scenario.shipped import scenario_name, scenario_paths
from tools import check_files, gallery
from tools.gallery import CHECKOUT, REPORTS, all_committed, check, chosen, compare, index_markdown, since
from tools.pictures import FIGURES, MAX_BYTES, gallery_picture


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"a": 1.0}, {"a": 1.0}, []),
        ({"a": 1.0}, {"a": 1.0 + 2**-52}, ["a: was 1.0, is 1.0000000000000002"]),
        ({"a": 1}, {"a": 1.0}, ["a: was 1, is 1.0"]),
        ({"a": 1.0}, {"a": 1.0 + 1e-6}, ["a: was 1.0, is 1.000001"]),
        ({"a": 0}, {"a": False}, ["a: was 0, is False"]),
        ({"a": None}, {"a": 0.0}, ["a: was None, is 0.0"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ["a.b.1: was 2, is 3"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a: was [1], is [1, 2]"]),
        ({"a": 1, "b": 2}, {"b": 2, "c": 3}, ["a: gone", "c: new"]),
        ({"a": "STABLE"}, {"a": "OVERLOADED"}, ["a: was 'STABLE', is 'OVERLOADED'"]),
    ],
)
def test_differences_are_named_by_their_path(before: object, now: object, said: list[str]) -> None:
    assert list(compare(before, now, "")) == said


@pytest.fixture
def one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What is committed of one scenario, alone in a folder; nothing is built."""
    path = tmp_path / "reports" / "fused_norm.json"
    path.parent.mkdir()
    path.write_bytes((REPORTS / path.name).read_bytes())
    monkeypatch.setattr("tools.gallery.REPORTS", path.parent)
    monkeypatch.setattr("tools.gallery.PAGES", tmp_path / "out" / "gallery")
    return path


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what is committed in ``path``."""
    entry = json.loads(path.read_text(encoding="utf-8"))
    change(entry)
    path.write_text(json.dumps(entry), encoding="utf-8")


def test_a_check_of_one_scenario_compares_answer_metrics_and_hash(
    one_entry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = chosen(["kernel/fused_norm"])
    assert check(paths, 1) == 0
    changed(one_entry, lambda entry: entry.update(summary_sha256="0" * 64))
    assert check(paths, 1) == 1
    assert "its headline metrics are the same" in capsys.readouterr().out
    changed(one_entry, lambda entry: entry["variants"]["fused"].update(time_s=7, verdict="IDLE"))
    assert check(paths, 1) == 1
    said = capsys.readouterr().out
    assert "variants.fused.time_s: was 7, is " in said
    assert "variants.fused.verdict: was 'IDLE', is " in said
    assert "headline metrics are the same" not in said
    one_entry.unlink()
    assert check(paths, 1) == 1
    assert "fused_norm.json is not there: make gallery" in capsys.readouterr().out


def test_what_was_built_before_names_every_value_that_differs(
    one_entry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = gallery.PAGES / "fused_norm" / "summary.json"
    built.parent.mkdir(parents=True)
    paths = chosen(["kernel/fused_norm"])
    before = json.loads(gallery.summary_of(gallery.answered(paths[0], 1)))
    before["runs"][0]["metrics"]["num_launches"] = -7
    built.write_text(json.dumps(before), encoding="utf-8")
    assert check(paths, 1) == 0  # what was built is nobody's reference
    changed(one_entry, lambda entry: entry.update(summary_sha256=gallery.sha256(json.dumps(before))))
    assert check(paths, 1) == 1
    assert "runs.0.metrics.num_launches: was -7, is " in capsys.readouterr().out


def test_every_value_that_another_commit_gives_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = tmp_path / "checkout"
    for folder in ("sim", "scenarios", "hardware_profiles"):
        shutil.copytree(CHECKOUT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "before"]):
        subprocess.run([*git, *words], cwd=checkout, check=True)
    (shipped,) = chosen(["kernel/fused_norm"])
    monkeypatch.setattr("tools.gallery.CHECKOUT", checkout)
    assert since([shipped], "HEAD") == 0
    path = checkout / "scenarios" / "kernel" / "fused_norm.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("question: ", "question: Today, "), encoding="utf-8"
    )
    assert since([shipped], "HEAD") == 1
    assert "question: was " in capsys.readouterr().out


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(SystemExit, match="no such scenario: nothing"):
        chosen(["nothing"])


def test_every_scenario_is_in_the_gallery_and_no_other_is_left() -> None:
    entries = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in REPORTS.glob("*.json")}
    assert {one["scenario"] for one in entries.values()} == {scenario_name(path) for path in scenario_paths()}
    assert (REPORTS / "README.md").read_text(encoding="utf-8") == index_markdown(all_committed(), REPORTS)
    for entry in entries.values():
        assert entry["question"] and entry["answer"] and len(entry["summary_sha256"]) == 64
        assert all(len(metrics) > 1 for metrics in entry["variants"].values())


def test_every_scenario_has_one_small_picture() -> None:
    pictures = {gallery_picture(scenario_name(path)) for path in scenario_paths()}
    assert len(pictures) == len(scenario_paths())
    assert {path for path in pictures if not 0 < path.stat().st_size <= MAX_BYTES} == set()
    assert set((CHECKOUT / "docs" / "pictures").iterdir()) == pictures
    assert FIGURES.keys() <= {scenario_name(path) for path in scenario_paths()}


def test_broken_and_large_files_do_not_get_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, broken, large = tmp_path / "a.yaml", tmp_path / "b.toml", tmp_path / "c.csv"
    good.write_text("a: 1\n", encoding="utf-8")
    broken.write_text("a = \n", encoding="utf-8")
    large.write_bytes(b"0" * (check_files.MAX_BYTES + 1))
    assert check_files.main(["syntax", str(good)]) == 0
    assert check_files.main(["syntax", str(good), str(broken)]) == 1
    assert check_files.main(["size", str(good), str(large)]) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith(str(broken))
    assert "500,001 bytes" in printed
