"""The gallery's check sees what changed, and every scenario has its committed summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.scenario.shipped import scenario_paths
from tools import check_files
from tools.gallery import REPORTS, check, chosen, compare


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


def test_a_check_of_one_scenario_compares_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = REPORTS / "mm1_queue" / "summary.json"
    (tmp_path / "mm1_queue").mkdir()
    text = committed.read_text(encoding="utf-8")
    monkeypatch.setattr("tools.gallery.REPORTS", tmp_path)
    paths = chosen(["serving/mm1_queue"])
    for content, code in [(text, 0), (text.rstrip("\n"), 1)]:
        (tmp_path / "mm1_queue" / "summary.json").write_text(content, encoding="utf-8")
        assert check(paths, 1) == code
    assert "written or ordered differently" in capsys.readouterr().out


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(SystemExit, match="no such scenario: nothing"):
        chosen(["nothing"])


def test_every_scenario_has_its_summary_and_no_other_is_left() -> None:
    summaries = {path.parent.name: json.loads(path.read_text()) for path in REPORTS.glob("*/summary.json")}
    assert set(summaries) == {path.stem for path in scenario_paths()}
    assert all(summary["runs"] for summary in summaries.values())


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
