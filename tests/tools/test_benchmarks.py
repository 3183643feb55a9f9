"""What `python -m benchmarks` times can be loaded, and what it prints can be pasted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.commands import command_rows, once, print_commands
from benchmarks.speed import measure, print_run, print_runs_head, with_share
from benchmarks.workloads import BENCHMARKS, COMMANDS, SHARED, YARDSTICK, Benchmark, Command, drawn, files
from sim.cli.command import build_parser
from sim.kinds.load import load_scenario
from sim.plan.sweep import grid


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_workload_loads_without_a_warning(name: str, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(json.dumps(BENCHMARKS[name].scenario(SHARED.resolve())))
    assert load_scenario(path).warnings == ()


def test_the_default_says_nothing_of_its_engine() -> None:
    assert BENCHMARKS["default"].scenario(Path())["engine"] == {}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_is_one_that_there_is(command: Command, tmp_path: Path) -> None:
    for name, tree in files().items():
        (tmp_path / name).write_text(json.dumps(tree))
        load_scenario(tmp_path / name)
    if command.words[0].startswith("-"):
        return
    words = [word.format(here=tmp_path, traces=tmp_path) for word in command.words]
    given = build_parser(words[0]).parse_args(words)
    if words[0] in ("run", "sweep"):
        load_scenario(given.scenario)
    if words[0] == "sweep":
        assert len(grid(given.over)) == 500


def columns_of(table: str) -> set[int]:
    """Cells of each line, of the lines of a Markdown table."""
    return {line.count("|") for line in table.splitlines() if line.startswith("|")}


def test_runs_are_printed_as_shares_of_continuous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {name: Benchmark(name=name, engine={}, workload=drawn(8, 20)) for name in (YARDSTICK, "other")}
    results = iter([{"cpu_s": 2.0}, {"cpu_s": 1.0}, {"cpu_s": 4.0}, {"cpu_s": 5.0}])

    def run(*_: object, **__: object) -> Any:
        rest = {"requests": 20, "steps": 100, "decisions": 10, "peak_memory_bytes": 5e6}
        return type("Finished", (), {"stdout": json.dumps({**next(results), **rest})})

    monkeypatch.setattr("benchmarks.speed.subprocess.run", run)
    rows: list[dict[str, Any]] = []
    print_runs_head(is_first=True)
    for one in small.values():
        rows.append(with_share(measure(one, tmp_path, 2), rows))
        print_run(rows[-1])
    assert [row["requests_per_s"] for row in rows] == [20, 5]
    assert [row["of_continuous"] for row in rows] == [1.0, 0.25]
    assert columns_of(capsys.readouterr().out) == {8}


def test_commands_are_counted_whole(capsys: pytest.CaptureFixture[str]) -> None:
    cpu_s, wall_s, peak = once(COMMANDS["start-up: --help"], Path())
    assert 0 < cpu_s < 60 and 0 < wall_s < 60 and peak > 1e6
    row = {"command": "one", "cpu_s": 1.0, "median_cpu_s": 1.5, "wall_s": 2.0, "peak_memory_mb": 30}
    print_commands([row])
    assert columns_of(capsys.readouterr().out) == {6}


def test_a_trace_that_is_not_there_leaves_its_command_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(command_rows(["Mooncake's trace with report"], 1, tmp_path)) == []
    assert "left out" in capsys.readouterr().err
