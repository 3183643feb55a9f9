"""The gallery: every shipped scenario with its question, its answer and a picture.

``python -m tools.gallery build`` runs the scenarios, writes their reports under ``out/gallery`` and, to be
committed, ``reports/NAME.json`` (the answer, the headline metrics, the SHA-256 of the whole
``summary.json``), the pictures where a number changed, and the index. ``check`` runs them again and compares
the committed figures: results are the same bytes on every processor, so one hash holds all of them.
``since REVISION`` prints every value of the summaries that is not what that commit gives. A changed number is
a line in the changelog: run ``make gallery`` and commit it together with the change that made it. Names of
scenarios after the word restrict each of the three to these.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.cli.progress import Progress
from sim.export.files import summary_json, write_whole
from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.blocks import Report
from sim.report.html import render_html, render_index
from sim.report.markdown import render_markdown
from sim.results.answer import Answer, answer_line, headline_metric
from sim.results.summary import rounded
from sim.scenario.shipped import scenario_name, scenario_paths

CHECKOUT = Path(__file__).parent.parent
REPORTS = CHECKOUT / "reports"  # committed
PAGES = CHECKOUT / "out" / "gallery"  # built
MAX_LINES, MAX_WIDTH = 20, 300
Entry = dict[str, Any]  # what is committed of one scenario


def answered(path: Path, jobs: int) -> Answer:
    """The scenario's answer, as ``gpuyard run`` has it. A missed threshold is an answer too."""
    with Progress(path.stem) as progress:
        return run_scenario(load_scenario(path), jobs=jobs, progress=progress)


def summary_of(answer: Answer) -> str:
    """The text of its ``summary.json``."""
    return summary_json(answer.summaries, comparison=answer.comparison)


def sha256(summary: str) -> str:
    """The hash of a ``summary.json``."""
    return hashlib.sha256(summary.encode()).hexdigest()


def entry_of(path: Path, answer: Answer, summary: str) -> Entry:
    """What is committed of a scenario: its answer, and of every variant verdict and headline metrics."""
    comparison = answer.comparison
    names = dict.fromkeys([headline_metric(comparison), *comparison.kind.table])
    return {
        "scenario": scenario_name(path),
        "question": answer.file.base.question,
        "answer": answer_line(comparison),
        "summary_sha256": sha256(summary),
        "variants": {
            variant: {
                "verdict": comparison.verdicts(variant),
                **{name: rounded(cells[name].mean) for name in names if cells[name].mean is not None},
            }
            for variant, cells in comparison.cells.items()
        },
    }


def committed(path: Path) -> Entry | None:
    """What is committed of this scenario."""
    file = REPORTS / f"{path.stem}.json"
    if not file.is_file():
        return None
    entry: Entry = json.loads(file.read_text(encoding="utf-8"))
    return entry


def all_committed() -> list[Entry]:
    """What is committed, in the scenarios' order."""
    return [entry for path in scenario_paths() if (entry := committed(path))]


# --- build ---------------------------------------------------------------------------------------


def build(paths: Sequence[Path], jobs: int, *, draw: bool = True) -> int:
    """Run the scenarios; write their pages and what is committed of them, then both indexes of all."""
    for path in paths:
        answer = answered(path, jobs)
        summary, report = summary_of(answer), report_of(answer)
        folder = PAGES / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "summary.json", summary)
        write_whole(folder / "report.html", render_html(report))
        write_whole(folder / "report.md", render_markdown(report))
        before, entry = committed(path), entry_of(path, answer, summary)
        if draw:
            is_new = before is None or before["summary_sha256"] != entry["summary_sha256"]
            _draw(entry["scenario"], report, is_new=is_new)
        REPORTS.mkdir(exist_ok=True)
        write_whole(REPORTS / f"{path.stem}.json", f"{json.dumps(entry, indent=2, ensure_ascii=False)}\n")
        print(f"{entry['scenario']}\n    {entry['answer']}", flush=True)
    entries = all_committed()
    write_whole(REPORTS / "README.md", index_markdown(entries, CHECKOUT / "reports"))
    write_whole(PAGES / "index.html", render_index([_card(entry) for entry in entries]))
    print(f"\nThe gallery, to open in a browser: {PAGES / 'index.html'}")
    return 0


def _draw(scenario: str, report: Report, *, is_new: bool) -> None:
    """The picture, where a number changed: drawn for nothing it would have other bytes where fonts differ."""
    from tools.pictures import draw_for_gallery, gallery_picture

    if is_new or not gallery_picture(scenario).is_file():
        draw_for_gallery(scenario, report)


def index_markdown(entries: Sequence[Entry], folder: Path) -> str:
    """The index, as it stands in ``folder``: question, answer and picture of each scenario, by kind."""
    from tools.pictures import gallery_picture

    parts = [
        "# The gallery",
        "Every shipped scenario: its question, the answer, and a picture of its report. "
        "`gpuyard run NAME` writes the whole report; `make gallery` builds all of them, under `out/gallery`. "
        "That command writes this page, too. `make check-gallery` holds the code to what is in `reports`: "
        "answers, headline metrics, and the SHA-256 of every whole `summary.json`.",
    ]
    for kind in dict.fromkeys(_kind(entry) for entry in entries):
        parts.append(f"## {kind.capitalize()}")
        for entry in (one for one in entries if _kind(one) == kind):
            name = entry["scenario"]
            scenario = CHECKOUT / "scenarios" / f"{name}.yaml"
            scenario, picture = (os.path.relpath(file, folder) for file in (scenario, gallery_picture(name)))
            parts += [
                f"### [{name}]({scenario})",
                entry["question"],
                f"**{entry['answer']}**",
                f"![A figure of its report]({picture})",
            ]
    return "\n\n".join(parts) + "\n"


def _kind(entry: Entry) -> str:
    return str(entry["scenario"]).partition("/")[0]


def _card(entry: Entry) -> dict[str, str]:
    """A scenario on the built index, its picture inside the page."""
    from tools.pictures import gallery_picture

    name = entry["scenario"]
    file = gallery_picture(name)
    picture = base64.b64encode(file.read_bytes()).decode() if file.is_file() else ""
    return {
        "path": f"{name.partition('/')[2]}/report.html",
        "name": name,
        "question": entry["question"],
        "answer": entry["answer"],
        "picture": picture and f"data:image/webp;base64,{picture}",
    }


# --- check ---------------------------------------------------------------------------------------


def check(paths: Sequence[Path], jobs: int) -> int:
    """1 where the code no longer gives what is committed, with the figures that differ."""
    num_wrong = 0
    for path in paths:
        differences = list(_differences(path, jobs))
        num_wrong += bool(differences)
        _print(scenario_name(path), differences)
    stems = {path.stem for path in scenario_paths()}
    for left in sorted(file for file in REPORTS.glob("*.json") if file.stem not in stems):
        num_wrong += 1
        print(f"no scenario  {left.relative_to(REPORTS.parent)}")
    if num_wrong:
        print(
            f"{num_wrong} differ. Every value that does: python -m tools.gallery since REVISION NAME. "
            "If it is meant: make gallery, commit, and a line in CHANGELOG.md"
        )
    return 1 if num_wrong else 0


def _differences(path: Path, jobs: int) -> Iterator[str]:
    before = committed(path)
    if before is None:
        yield f"reports/{path.stem}.json is not there: make gallery"
        return
    answer = answered(path, jobs)
    summary = summary_of(answer)
    found = list(compare(before, entry_of(path, answer, summary), ""))
    yield from found
    if found and all(line.startswith("summary_sha256") for line in found):
        yield "its headline metrics are the same: another number, a note or a warning of summary.json is not"
    built = PAGES / path.stem / "summary.json"
    if found and built.is_file() and sha256(built.read_text(encoding="utf-8")) == before["summary_sha256"]:
        yield f"all that differs from {built.relative_to(PAGES.parent.parent)}, which is what is committed:"
        yield from compare(json.loads(built.read_text(encoding="utf-8")), json.loads(summary), "    ")


def since(paths: Sequence[Path], revision: str) -> int:
    """1 where summaries are not those that the commit ``revision`` gives, with every value that differs."""
    num_wrong = 0
    with tempfile.TemporaryDirectory() as name:
        before = Path(name) / "checkout"
        before.mkdir()
        archive = subprocess.run(
            ["git", "archive", revision, "sim", "scenarios", "hardware_profiles"],
            cwd=CHECKOUT, check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        subprocess.run(["tar", "-x"], cwd=before, input=archive.stdout, check=True)
        for path in paths:
            then, now = (
                _run_in(checkout, scenario_name(path), Path(name)) for checkout in (before, CHECKOUT)
            )
            differences = ["is new"] if then is None else list(compare(then, now, ""))
            num_wrong += bool(differences)
            _print(scenario_name(path), differences, max_lines=None)
    return 1 if num_wrong else 0


def _run_in(checkout: Path, name: str, folder: Path) -> Any:
    """The summary that the code of ``checkout`` gives for its scenario ``name``; None where it has none."""
    scenario = checkout / "scenarios" / f"{name}.yaml"
    if not scenario.is_file():
        return None
    out = Path(tempfile.mkdtemp(dir=folder))
    run = [sys.executable, "-m", "sim", "run", str(scenario), "--no-report", "--quiet", "--out", str(out)]
    # Where a module is looked for: PYTHONPATH, else an installed checkout would answer for the other one.
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(run, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1):
        sys.exit(f"{scenario} ended with {done.returncode}")
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))


def _print(name: str, differences: Sequence[str], max_lines: int | None = MAX_LINES) -> None:
    print(f"{'differs' if differences else 'same   '}  {name}", flush=True)
    for line in differences[:max_lines]:
        print(f"    {line[:MAX_WIDTH]}")
    if max_lines is not None and len(differences) > max_lines:
        print(f"    and {len(differences) - max_lines} more")


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
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("build", "check", "since"):
        arguments = verbs.add_parser(verb)
        if verb == "since":
            arguments.add_argument("revision", metavar="REVISION", help="a commit, as git names it")
        else:
            arguments.add_argument("--jobs", type=int, default=1)
        arguments.add_argument("names", nargs="*", metavar="SCENARIO", help="only these; default: all")
    given = parser.parse_args()
    paths = chosen(given.names)
    if given.verb == "since":
        return since(paths, given.revision)
    return {"build": build, "check": check}[given.verb](paths, given.jobs)


if __name__ == "__main__":
    sys.exit(main())
