"""Times whole runs, load and simulation, each in a process of its own.

    python -m benchmarks.speed [--workloads FOLDER] [--runs 5] [--csv FILE] [NAME ...]

Prints a Markdown table. Per run: requests, engine steps and decisions per second, peak memory of the
process; then ratios to what other simulators reached on the same requests (their figures were measured
once, on another machine: read ratios, not times). The price of a step is timed by itself (``--prices``: only
that).
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

from benchmarks.prices import print_prices
from benchmarks.workloads import BENCHMARKS, SHARED, Benchmark

COLUMNS = (
    "workload",
    "requests",
    "runs",
    "best_s",
    "median_s",
    "requests_per_s",
    "median_requests_per_s",
    "steps_per_s",
    "steps",
    "decisions",
    "us_per_decision",
    "peak_memory_mb",
)


def main() -> None:
    """Reads the command line, runs, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(BENCHMARKS), help=", ".join(BENCHMARKS))
    parser.add_argument("--workloads", type=Path, default=SHARED, help="folder of the three .csv.gz files")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="also write the rows there")
    parser.add_argument("--prices", action="store_true", help="only time the price of a step by itself")
    parser.add_argument("--once", metavar="NAME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(one_run(BENCHMARKS[given.once], given.workloads)))
        return
    if given.prices:
        print_prices()
        return
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if not given.workloads.is_dir():
        parser.error(f"no folder {given.workloads}: give the workloads' with --workloads")
    rows = [measure(BENCHMARKS[name], given.workloads, given.runs) for name in given.names]
    print_tables(rows)
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    print_prices()


def measure(benchmark: Benchmark, folder: Path, runs: int) -> dict[str, Any]:
    """One row of the table: best and median of several processes."""
    command = [sys.executable, "-m", "benchmarks.speed", "--workloads", str(folder), "--once", benchmark.name]
    results = []
    for index in range(runs):
        print(f"{benchmark.name}: run {index + 1} of {runs}", file=sys.stderr, end="\r", flush=True)
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results.append(json.loads(output))
    times = [result["wall_s"] for result in results]
    first, best = results[0], min(times)
    return {
        "workload": benchmark.name,
        "requests": first["requests"],
        "runs": runs,
        "best_s": round(best, 3),
        "median_s": round(median(times), 3),
        "requests_per_s": round(first["requests"] / best),
        "median_requests_per_s": round(first["requests"] / median(times)),
        "steps_per_s": round(first["steps"] / best),
        "steps": first["steps"],
        "decisions": first["decisions"],
        "us_per_decision": round(1e6 * best / first["decisions"], 2),
        "peak_memory_mb": round(max(result["peak_memory_bytes"] for result in results) / 1e6),
    }


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
        start = time.perf_counter()
        scenario = load_scenario(path).base
        result = run_one(scenario, base_dir=Path(place))
        wall_s = time.perf_counter() - start
    return {
        "wall_s": wall_s,
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


def print_tables(rows: list[dict[str, Any]]) -> None:
    """The runs, and what others reached."""
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- " + "| ---: " * (len(COLUMNS) - 1) + "|")
    for row in rows:
        print(
            "| "
            + " | ".join(f"{row[name]:,}" if name != "workload" else row[name] for name in COLUMNS)
            + " |"
        )
    print("\n| workload | against | its requests_per_s | ratio (best) | ratio (median) |")
    print("| --- | --- | ---: | ---: | ---: |")
    for row in rows:
        for name, reached in BENCHMARKS[row["workload"]].others:
            best, middle = row["requests_per_s"] / reached, row["median_requests_per_s"] / reached
            print(f"| {row['workload']} | {name} | {reached:,.0f} | {best:.1f} | {middle:.1f} |")


if __name__ == "__main__":
    main()
