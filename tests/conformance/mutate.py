"""Breaks the scheduler's rules one at a time and tells which breaks the tests notice.

    python -m tests.conformance.mutate [PART OF A RULE'S NAME]

A few minutes on two cores; not part of the test suite. Each rule is broken in a copy of ``sim`` in a
temporary folder; noticed means that the copied recorded cases or the unit tests fail (or never end).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
TESTS = ("test_recorded.py", "test_rules.py", "test_steady.py", "test_prefix_tree.py", "test_groups.py")
PATIENCE_S = 120
NUM_AT_ONCE = 2
FLOOR = 128


@dataclass(frozen=True)
class Mutation:
    """``old`` occurs once in ``<file>.py``, looked for from ``sim/serving/vllm``; ``new`` breaks ``rule``."""

    rule: str
    file: str
    old: str
    new: str


def mutations() -> list[Mutation]:
    """Every edit of ``mutations.txt``."""
    _, *entries = (Path(__file__).parent / "mutations.txt").read_text(encoding="utf-8").split("\n# ")
    found = []
    for entry in entries:
        rule, place, *lines = entry.rstrip().split("\n")
        old, new = ("\n".join(line[2:] for line in lines if line.startswith(sign)) for sign in "-+")
        found.append(Mutation(rule, place.removeprefix("@ "), old, new))
    return found


def verdicts(mutation: Mutation) -> list[str]:
    """Per test file: ``noticed``, ``hangs`` (noticed as well) or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(CHECKOUT / "sim", copy / "sim", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(CHECKOUT / "tests" / "conformance", copy / "tests" / "conformance")
        for name in ("pyproject.toml", "tests/conftest.py"):
            shutil.copyfile(CHECKOUT / name, copy / name)
        _break(copy / "sim" / "serving" / "vllm" / f"{mutation.file}.py", mutation)
        return [_verdict(copy, name) for name in TESTS]


def _break(file: Path, mutation: Mutation) -> None:
    source = file.read_text(encoding="utf-8")
    if source.count(mutation.old) != 1:
        raise SystemExit(f"{file.name} has {source.count(mutation.old)} places for: {mutation.rule}")
    file.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")


def _verdict(copy: Path, name: str) -> str:
    options = ["-x", "-q", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, f"tests/conformance/{name}"]
    try:
        done = subprocess.run(command, cwd=copy, capture_output=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return "hangs"
    return "noticed" if done.returncode else ""


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [mutation for mutation in mutations() if wanted in mutation.rule]
    width = max(len(mutation.rule) for mutation in chosen)
    print("  ".join(["broken rule".ljust(width), *(name.ljust(16) for name in TESTS)]))
    num_noticed = 0
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        for mutation, found in zip(chosen, pool.map(verdicts, chosen), strict=True):
            num_noticed += any(found)
            marks = [*(mark.ljust(16) for mark in found), "" if any(found) else "NOT NOTICED"]
            print("  ".join([mutation.rule.ljust(width), *marks]).rstrip(), flush=True)
    print(f"{num_noticed} of {len(chosen)} broken rules noticed")
    return 0 if num_noticed >= min(FLOOR, len(chosen)) else 1


if __name__ == "__main__":
    sys.exit(main())
