"""The gallery: one report per shipped scenario, under ``reports/``.

``python -m tools.gallery build`` makes every page and ``summary.json``; ``check`` runs the scenarios
again and compares with the committed ``summary.json``, metric by metric. A changed number is a line in
the changelog: run ``make gallery`` and commit it together with the change that made it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sim.cli import main as gpuyard
from sim.data import scenario_name, scenario_paths

REPORTS = Path(__file__).parent.parent / "reports"
# Sums of floats may differ in the last digits between processors; a real change is larger.
RELATIVE_TOLERANCE = 1e-9
MAX_LINES = 20


def run(path: Path, out: Path, *, jobs: int, only_summary: bool) -> None:
    """One scenario's report into ``out``. A missed threshold is an answer, not a failure."""
    arguments = ["run", scenario_name(path), "--out", str(out), "--jobs", str(jobs), "--quiet"]
    if only_summary:
        arguments.append("--no-report")
    code = gpuyard(arguments)
    if code not in (0, 1):
        raise SystemExit(code)


def build(jobs: int) -> int:
    """Rebuild every report."""
    for path in scenario_paths():
        print(f"{scenario_name(path)}", flush=True)
        run(path, REPORTS / path.stem, jobs=jobs, only_summary=False)
    return 0


def check(jobs: int) -> int:
    """1 where the code no longer gives what is committed, with the metrics that differ."""
    num_wrong = 0
    for path in scenario_paths():
        committed = REPORTS / path.stem / "summary.json"
        differences = list(_differences(path, committed, jobs))
        num_wrong += bool(differences)
        print(f"{'differs' if differences else 'same   '}  {scenario_name(path)}", flush=True)
        for line in differences[:MAX_LINES]:
            print(f"    {line}")
        if len(differences) > MAX_LINES:
            print(f"    and {len(differences) - MAX_LINES} more")
    if num_wrong:
        print(f"{num_wrong} differ; if that is meant: make gallery, commit, and a line in CHANGELOG.md")
    return 1 if num_wrong else 0


def _differences(path: Path, committed: Path, jobs: int) -> Iterator[str]:
    if not committed.is_file():
        yield f"{committed.relative_to(REPORTS.parent)} is not there: make gallery"
        return
    with tempfile.TemporaryDirectory() as folder:
        run(path, Path(folder) / "now", jobs=jobs, only_summary=True)
        now = json.loads((Path(folder) / "now" / "summary.json").read_text(encoding="utf-8"))
    yield from compare(json.loads(committed.read_text(encoding="utf-8")), now, "")


def compare(before: Any, now: Any, where: str) -> Iterator[str]:
    """A line per place where two JSON values differ by more than the tolerance."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            if key not in before or key not in now:
                yield f"{where}{key}: {'new' if key in now else 'gone'}"
            else:
                yield from compare(before[key], now[key], f"{where}{key}.")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from compare(old, new, f"{where}{index}.")
    elif not _same(before, now):
        yield f"{where.rstrip('.')}: was {before!r}, is {now!r}"


def _same(before: Any, now: Any) -> bool:
    both_numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (before, now))
    if both_numbers:
        return math.isclose(before, now, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-12)
    return bool(before == now)


def main() -> int:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["build", "check"])
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    return {"build": build, "check": check}[arguments.what](arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
