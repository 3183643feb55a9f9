"""Times runs and commands, each in a process of its own, and the price of a step.

    python -m benchmarks [--workloads FOLDER] [--runs 5] [--csv FILE] [--only runs|commands|prices] [NAME ...]

Prints Markdown tables that README.md takes as they are. Runs are counted in requests per CPU second (loading
the trace or drawing, simulating, making the columns of the records; imports are not counted), as shares of
``continuous`` in the same call, and against what other simulators reached on the same requests (their figures
were measured once, on another machine, per wall second: read ratios, not times). Commands are counted whole.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.commands import command_rows, print_commands
from benchmarks.prices import print_prices
from benchmarks.workloads import BENCHMARKS, COMMANDS, SHARED, TRACES, YARDSTICK, Benchmark

COLUMNS = (
    "workload",
    "requests",
    "runs",
    "best_s",
    "median_s",
    "requests_per_s",
    "median_requests_per_s",
    "of_continuous",
    "of_fastest_other",
    "steps_per_s",
    "steps",
    "decisions",
    "us_per_decision",
    "peak_memory_mb",
)
PARTS = ("runs", "commands", "prices")


def main() -> None:
    """Reads the command line, runs, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"all, or of {', '.join((*BENCHMARKS, *COMMANDS))}")
    parser.add_argument("--workloads", type=Path, default=SHARED, help="folder of the three .csv.gz files")
    parser.add_argument("--traces", type=Path, default=TRACES, help="folder of the recorded traces")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="also write the rows of the runs there")
    parser.add_argument("--only", choices=PARTS, help="one of the three tables")
    parser.add_argument("--once", metavar="NAME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(one_run(BENCHMARKS[given.once], given.workloads)))
        return
    known = (*BENCHMARKS, *COMMANDS)
    if unknown := [name for name in given.names if name not in known]:
        parser.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(known)}")
    parts = (given.only,) if given.only else PARTS
    runs = [name for name in BENCHMARKS if name in (given.names or known) and "runs" in parts]
    if any(BENCHMARKS[name].file for name in runs) and not given.workloads.is_dir():
        parser.error(f"no folder {given.workloads}: give the workloads' with --workloads")
    rows: list[dict[str, Any]] = []
    for name in runs:
        print_runs_head(is_first=not rows)
        rows.append(with_share(measure(BENCHMARKS[name], given.workloads, given.runs), rows))
        print_run(rows[-1])
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    commands = [name for name in COMMANDS if name in (given.names or known) and "commands" in parts]
    if commands:
        print_commands(command_rows(commands, given.runs, given.traces))
    if "prices" in parts and not given.names:
        print_prices()


def measure(benchmark: Benchmark, folder: Path, runs: int) -> dict[str, Any]:
    """One row of the table: best and median CPU seconds of several processes."""
    command = [sys.executable, "-m", "benchmarks.speed", "--workloads", str(folder), "--once", benchmark.name]
    results = []
    for index in range(runs):
        print(f"{benchmark.name}: run {index + 1} of {runs}", file=sys.stderr, end="\r", flush=True)
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results.append(json.loads(output))
    times = [result["cpu_s"] for result in results]
    first, best = results[0], min(times)
    fastest = max((reached for _, reached in benchmark.others), default=None)
    return {
        "workload": benchmark.name,
        "requests": first["requests"],
        "runs": runs,
        "best_s": round(best, 3),
        "median_s": round(median(times), 3),
        "requests_per_s": round(first["requests"] / best),
        "median_requests_per_s": round(first["requests"] / median(times)),
        "of_continuous": None,
        "of_fastest_other": None if fastest is None else round(first["requests"] / best / fastest, 1),
        "steps_per_s": round(first["steps"] / best),
        "steps": first["steps"],
        "decisions": first["decisions"],
        "us_per_decision": round(1e6 * best / first["decisions"], 2),
        "peak_memory_mb": round(max(result["peak_memory_bytes"] for result in results) / 1e6),
    }


def with_share(row: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """The row, and its rate as a share of that of ``continuous``, where that was timed before."""
    rates = [one["requests_per_s"] for one in (*before, row) if one["workload"] == YARDSTICK]
    return {**row, "of_continuous": round(row["requests_per_s"] / rates[0], 3)} if rates else row


def one_run(benchmark: Benchmark, folder: Path) -> dict[str, Any]:
    """Loads the trace and simulates it, in this process; imports are not counted."""
    from sim.kinds.load import load_scenario
    from sim.kinds.run import run_one

    for module in (
        "sim.serving.checks.scenario",
        "sim.serving.run",
        "sim.serving.workload",
        "sim.model",
        "sim.hardware.load",
    ):
        import_module(module)  # some of them only wait for the first scenario

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "speed.yaml"
        path.write_text(json.dumps(benchmark.scenario(folder.resolve())))
        start = time.process_time()
        scenario = load_scenario(path).base
        result = run_one(scenario, base_dir=Path(place))
        cpu_s = time.process_time() - start
    return {
        "cpu_s": cpu_s,
        "requests": len(result.requests.status),
        "finished": int((result.requests.status == 1).sum()),
        "steps": int(result.segments.num_steps.sum()),
        "decisions": len(result.segments.num_steps),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def peak_memory_bytes() -> int:
    """Largest resident size of this process (ru_maxrss is in KiB on Linux, in bytes on macOS)."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def print_runs_head(*, is_first: bool) -> None:
    """The head of the table, as Markdown, once."""
    if is_first:
        print(
            "| workload | requests per CPU s | of `continuous` | times the fastest other | steps per CPU s "
            "| decisions | peak memory |\n| --- " + "| ---: " * 6 + "|",
            flush=True,
        )


def print_run(row: dict[str, Any]) -> None:
    """A line of it, as soon as it is known: the last ones take minutes."""
    share, times = row["of_continuous"], row["of_fastest_other"]
    print(
        f"| `{row['workload']}` | {row['requests_per_s']:,} | {'' if share is None else share} "
        f"| {'' if times is None else times} | {row['steps_per_s']:,} | {row['decisions']:,} "
        f"| {row['peak_memory_mb']:,} MB |",
        flush=True,
    )


if __name__ == "__main__":
    main()
