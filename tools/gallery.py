"""The gallery: one report per shipped scenario, under ``reports/``.

``python -m tools.gallery build`` makes every page and ``summary.json``; ``check`` runs the scenarios
again and compares with the committed ``summary.json``, byte by byte: results depend on no processor. A
changed number is a line in the changelog: run ``make gallery`` and commit it together with the change that
made it. Names of scenarios after the word restrict either to these.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.cli.progress import Progress
from sim.export.files import summary_json, write_whole
from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.html import render_html, render_index
from sim.report.markdown import render_markdown
from sim.results.answer import Answer, answer_line
from sim.scenario.shipped import scenario_name, scenario_paths

REPORTS = Path(__file__).parent.parent / "reports"
MAX_LINES, MAX_WIDTH = 20, 300


def answered(path: Path, jobs: int) -> Answer:
    """The scenario's answer, as ``gpuyard run`` has it. A missed threshold is an answer too."""
    with Progress(path.stem) as progress:
        return run_scenario(load_scenario(path), jobs=jobs, progress=progress)


def build(paths: Sequence[Path], jobs: int) -> int:
    """Rebuild the reports, and with all of them the page that leads to them."""
    entries: list[dict[str, str]] = []
    for path in paths:
        answer = answered(path, jobs)
        folder = REPORTS / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "summary.json", summary_json(answer.summaries, comparison=answer.comparison))
        report = report_of(answer)
        write_whole(folder / "report.html", render_html(report))
        write_whole(folder / "report.md", render_markdown(report))
        entry = {"path": f"{path.stem}/report.html", "name": scenario_name(path)}
        line = answer_line(answer.comparison)
        entries.append(entry | {"question": answer.file.base.question, "answer": line})
        print(f"{entry['name']}\n    {line}", flush=True)
    if len(paths) == len(scenario_paths()):
        write_whole(REPORTS / "index.html", render_index(entries))
        print(f"\nThe gallery, to open in a browser: {REPORTS / 'index.html'}")
    return 0


def check(paths: Sequence[Path], jobs: int) -> int:
    """1 where the code no longer gives what is committed, with the values that differ."""
    num_wrong = 0
    for path in paths:
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
    before, now = (
        committed.read_text(encoding="utf-8"),
        summary_json(answer.summaries, comparison=answer.comparison),
    )
    if before != now:
        found = list(compare(json.loads(before), json.loads(now), ""))
        yield from found or ["the same values, written or ordered differently"]


def compare(before: Any, now: Any, where: str) -> Iterator[str]:
    """A line per place where two JSON values differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            if key not in before or key not in now:
                yield f"{where}{key}: {'new' if key in now else 'gone'}"
            else:
                yield from compare(before[key], now[key], f"{where}{key}.")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from compare(old, new, f"{where}{index}.")
    elif type(before) is not type(now) or before != now:
        yield f"{where.rstrip('.')}: was {before!r}, is {now!r}"


def chosen(names: Sequence[str]) -> list[Path]:
    """The shipped scenarios of these names (``kind/name``, or the name alone); all, where none is given."""
    known = scenario_paths()
    paths = [path for path in known if not names or {scenario_name(path), path.stem} & set(names)]
    missing = set(names) - {name for path in paths for name in (scenario_name(path), path.stem)}
    if missing:
        sys.exit(f"no such scenario: {', '.join(sorted(missing))}")
    return paths


def main() -> int:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["build", "check"])
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help="only these; default: all")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    return {"build": build, "check": check}[arguments.what](chosen(arguments.names), arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
