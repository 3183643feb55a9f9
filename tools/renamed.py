"""Is a gallery the same but for renamed words? ``python -m tools.renamed OLD NEW``.

OLD and NEW are a ``summary.json`` or a folder of ``*/summary.json``. The words of
``sim.scenario.renamed`` are applied to the old one, then both must be equal, value by value and without
tolerance. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sim.scenario import renamed
from tools.gallery import compare


def under_new_names(summary: Any) -> Any:
    """A summary's content with its metrics and verdicts under today's names; the order of keys stays."""
    metrics = {one.old: one.new for one in renamed.METRICS}
    verdicts = {one.old: one.new for one in renamed.VERDICTS}
    if isinstance(summary, Mapping):
        return {
            metrics.get(name, name): verdicts.get(value, value)
            if name == "verdict" and isinstance(value, str)
            else under_new_names(value)
            for name, value in summary.items()
        }
    return [under_new_names(item) for item in summary] if isinstance(summary, list) else summary


def summaries(path: Path) -> dict[str, Path]:
    """The summaries meant, by the name of their scenario."""
    if path.is_dir():
        return {found.parent.name: found for found in sorted(path.glob("*/summary.json"))}
    return {"": path}


def differences(old: Path, new: Path) -> Iterator[str]:
    """A line per value that is not equal."""
    before = under_new_names(json.loads(old.read_text(encoding="utf-8")))
    yield from compare(before, json.loads(new.read_text(encoding="utf-8")), "")


def main(arguments: list[str] | None = None) -> int:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--lines", type=int, default=20, help="differences printed of each summary")
    given = parser.parse_args(arguments)
    old, new = summaries(given.old), summaries(given.new)
    num_wrong = 0
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            found = ["is new" if name in new else "is gone"]
        else:
            found = list(differences(old[name], new[name]))
        num_wrong += bool(found)
        print(f"{'differs' if found else 'same   '}  {name or given.new}")
        for line in found[: given.lines]:
            print(f"    {line[:300]}")
        if len(found) > given.lines:
            print(f"    and {len(found) - given.lines} more")
    return 1 if num_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
