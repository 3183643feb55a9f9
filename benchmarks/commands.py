"""Times whole commands: CPU seconds of the command and all its processes, wall time, peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.workloads import COMMANDS, TRACES, Command, files

COLUMNS = ("command", "runs", "cpu_s", "median_cpu_s", "wall_s", "peak_memory_mb")


def command_rows(names: Sequence[str], runs: int, traces: Path = TRACES) -> Iterator[dict[str, Any]]:
    """A row per command; one whose trace is not there is left out, which is printed."""
    for name in names:
        command = COMMANDS[name]
        if command.trace and not (traces / command.trace).is_file():
            print(f"{name}: left out, {command.trace} is not in {traces}", file=sys.stderr)
            continue
        yield measured(command, runs, traces)


def measured(command: Command, runs: int, traces: Path) -> dict[str, Any]:
    """Best and median of several."""
    found = []
    for index in range(runs):
        print(f"{command.name}: run {index + 1} of {runs}", file=sys.stderr, end="\r", flush=True)
        found.append(once(command, traces))
    best = min(found)
    return {
        "command": command.name,
        "runs": runs,
        "cpu_s": round(best[0], 2),
        "median_cpu_s": round(median(one[0] for one in found), 2),
        "wall_s": round(min(one[1] for one in found), 2),
        "peak_memory_mb": round(max(one[2] for one in found) / 1e6),
    }


def once(command: Command, traces: Path) -> tuple[float, float, int]:
    """(CPU seconds, wall seconds, peak bytes of its largest process) of one command in an empty folder."""
    with tempfile.TemporaryDirectory() as place:
        for name, tree in files().items():
            Path(place, name).write_text(json.dumps(tree), encoding="utf-8")
        words = [word.format(here=place, traces=traces.resolve()) for word in command.words]
        if words[0] in ("run", "sweep"):
            words += ["--out", str(Path(place) / "out")]
        begun = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "sim", *words],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert child.stderr is not None
        said = child.stderr.read().decode()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - begun
    if child.returncode not in (0, 1):  # 1: a threshold is missed, which is an answer
        raise SystemExit(f"{command.name}: {said}")
    unit = 1 if sys.platform == "darwin" else 1024
    return used.ru_utime + used.ru_stime, wall_s, used.ru_maxrss * unit


def print_commands(rows: Iterable[dict[str, Any]]) -> None:
    """As Markdown, each line as soon as it is known."""
    print("\n| command | CPU s | median | wall s | peak memory |\n| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        print(
            f"| {row['command']} | {row['cpu_s']:.2f} | {row['median_cpu_s']:.2f} | {row['wall_s']:.2f} "
            f"| {row['peak_memory_mb']:,} MB |",
            flush=True,
        )
