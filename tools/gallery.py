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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sim.answer_line import answer_line
from sim.data import scenario_name, scenario_paths
from sim.export import summary_json, write_whole
from sim.loading import load_scenario
from sim.plan.progress import Progress
from sim.report.html import render_html, render_index
from sim.report.markdown import render_markdown
from sim.run import Answer, run_scenario

REPORTS = Path(__file__).parent.parent / "reports"
# Sums of floats may differ in the last digits between processors; a real change is larger.
RELATIVE_TOLERANCE = 1e-9
MAX_LINES, MAX_WIDTH = 20, 300


def answered(path: Path, jobs: int) -> Answer:
    """The scenario's answer, as ``gpuyard run`` has it. A missed threshold is an answer too."""
    with Progress(path.stem) as progress:
        return run_scenario(load_scenario(path), jobs=jobs, progress=progress)


def build(jobs: int) -> int:
    """Rebuild every report, and the page that leads to them."""
    entries: list[dict[str, str]] = []
    for path in scenario_paths():
        answer = answered(path, jobs)
        folder = REPORTS / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "summary.json", summary_json(answer.summaries, comparison=answer.comparison))
        write_whole(folder / "report.html", render_html(answer))
        write_whole(folder / "report.md", render_markdown(answer))
        entry = {"path": f"{path.stem}/report.html", "name": scenario_name(path)}
        line = answer_line(answer.comparison)
        entries.append(entry | {"question": answer.file.base.question, "answer": line})
        print(f"{entry['name']}\n    {line}", flush=True)
    write_whole(REPORTS / "index.html", render_index(entries))
    print(f"\nThe gallery, to open in a browser: {REPORTS / 'index.html'}")
    return 0


def check(jobs: int) -> int:
    """1 where the code no longer gives what is committed, with the metrics that differ."""
    num_wrong = 0
    for path in scenario_paths():
        differences = list(_differences(path, REPORTS / path.stem / "summary.json", jobs))
        num_wrong += bool(differences)
        print(f"{'differs' if differences else 'same   '}  {scenario_name(path)}", flush=True)
        for line in differences[:MAX_LINES]:
            print(f"    {line[:MAX_WIDTH]}")
        if len(differences) > MAX_LINES:
            print(f"    and {len(differences) - MAX_LINES} more")
    stems = {path.stem for path in scenario_paths()}
    for left in sorted(path for path in REPORTS.glob("*/summary.json") if path.parent.name not in stems):
        num_wrong += 1
        print(f"no scenario  {left.relative_to(REPORTS.parent)}")
    if num_wrong:
        print(f"{num_wrong} differ; if that is meant: make gallery, commit, and a line in CHANGELOG.md")
    return 1 if num_wrong else 0


def _differences(path: Path, committed: Path, jobs: int) -> Iterator[str]:
    if not committed.is_file():
        yield f"{committed.relative_to(REPORTS.parent)} is not there: make gallery"
        return
    answer = answered(path, jobs)
    now = json.loads(summary_json(answer.summaries, comparison=answer.comparison))
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
    return isinstance(before, bool) == isinstance(now, bool) and bool(before == now)


def main() -> int:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["build", "check"])
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    return {"build": build, "check": check}[arguments.what](arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
