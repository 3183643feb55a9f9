"""Scenarios broken by mutation: each gives one clear ScenarioError, never another exception."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading_fixtures import GOOD

from sim.errors import ScenarioError
from sim.kinds.load import load_scenario

Steps = tuple[str | int, ...]
GOOD_TREE = yaml.safe_load(GOOD)
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # every test process collects some hundred cases

# Leaves that a word or a number of another kind cannot break: any text is a question.
FREE_TEXT = {"question", "thresholds[0].metric"}
NOT_A_NUMBER = [float("nan"), float("inf"), "1e9", "3 apples", "7 GHz", "abc", "", True, [1], {"a": 1}]
NO_SUCH_NUMBER = [-1, -0.5, 10**30, 1e30, -float("inf")]
NOT_THE_WORD = ["zzz", "", 3, 2.5, True, [1], {"a": 1}]
NOT_A_MAPPING = [3, "abc", [1], True]
REQUIRED = [
    "schema_version", "question", "kind", "hardware", "model", "workload", "workload.arrivals",
    "workload.arrivals.process", "workload.arrivals.requests_per_s", "workload.prompt_tokens",
    "workload.prompt_tokens.distribution", "workload.prompt_tokens.mean", "workload.output_tokens",
    "workload.output_tokens.distribution", "workload.output_tokens.mean", "compare.reference",
    "compare.variants", "thresholds[0].metric", "thresholds[0].variant",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """One broken file, and the key that its error must name (empty: none)."""

    name: str
    content: bytes
    path: str = ""


def path_of(steps: Steps) -> str:
    """``("seeds", 0)`` as an error shows it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def nodes(tree: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Every node below the top, with its key path."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in items:
        yield (*steps, step), value
        yield from nodes(value, (*steps, step))


def with_value(steps: Steps, value: object) -> bytes:
    """The good scenario with another value at a key path."""
    tree = deepcopy(GOOD_TREE)
    holder = tree
    for step in steps[:-1]:
        holder = holder[step]
    holder[steps[-1]] = value
    return yaml.dump(tree, Dumper=DUMPER, sort_keys=False).encode()


def without(steps: Steps) -> bytes:
    """The good scenario without a key."""
    tree = deepcopy(GOOD_TREE)
    holder = tree
    for step in steps[:-1]:
        holder = holder[step]
    del holder[steps[-1]]
    return yaml.dump(tree, Dumper=DUMPER, sort_keys=False).encode()


def mutated_values() -> Iterator[Broken]:
    """Missing, mistyped, negative, huge, not finite, wrong unit."""
    for steps, value in nodes(GOOD_TREE):
        path = path_of(steps)
        is_quantity = isinstance(value, str) and re.match(r"\d+ m?s$", value)
        wrong: list[object] = []
        if path.startswith("compare.variants") or path in FREE_TEXT:
            wrong = [[1]] if not isinstance(value, dict) else NOT_A_MAPPING if len(steps) > 2 else []
        elif isinstance(value, dict):
            wrong = [one for one in NOT_A_MAPPING if path != "workload.prompt_tokens" or one != 3]
        elif isinstance(value, bool):
            wrong = [0, 1, "true", "yes please", [1], {"a": 1}]
        elif isinstance(value, (int, float)) or is_quantity:
            wrong = NOT_A_NUMBER + ([] if path.startswith("thresholds") else NO_SUCH_NUMBER)
        elif isinstance(value, str):
            wrong = NOT_THE_WORD
        for one in wrong:
            if one == 3 and path == "workload.output_tokens":
                continue
            if one == -1 and path == "engine.max_model_len":  # the longest that fits
                continue
            yield Broken(name=f"{path}={one!r}", content=with_value(steps, one), path=path)
        if path in REQUIRED:
            yield Broken(name=f"{path} missing", content=without(steps), path=path)
        if isinstance(value, dict) and path != "compare.variants":
            yield Broken(
                name=f"{path}.zzz unknown", content=with_value((*steps, "zzz"), 1), path=f"{path}.zzz"
            )


def mutated_text() -> Iterator[Broken]:
    """Duplicate keys, files cut off, bytes that are no text, YAML that cannot be."""
    lines = GOOD.splitlines(keepends=True)
    for number, line in enumerate(lines):
        key = re.match(r"\s*([a-z_]+): \S", line)
        if key:
            text = "".join([*lines[: number + 1], line, *lines[number + 1 :]])
            yield Broken(name=f"line {number + 1} twice", content=text.encode(), path=key[1])
    for bracket in re.finditer(r"[{\[]", GOOD):
        end = bracket.end()
        yield Broken(name=f"cut off at {end}", content=GOOD[:end].encode())
        yield Broken(name=f"bracket {end} missing", content=(GOOD[: end - 1] + GOOD[end:]).encode())
    for number in range(0, len(GOOD), 150):
        for junk in (b"\x00", b"\xff\xfe", b"\x1b[0m", b"\n\t@\n", b"\n}\n"):
            content = GOOD[:number].encode() + junk + GOOD[number:].encode()
            yield Broken(name=f"{junk!r} at {number}", content=content)
    packed = gzip.compress(GOOD.encode(), mtime=0)
    whole = {"gzip": packed, "half a gzip": packed[: len(packed) // 2], "elf": b"\x7fELF\x00\x01"}
    whole |= {"empty": b"", "list": b"- 1\n", "word": b"scenario\n"}
    for name, content in whole.items():
        yield Broken(name=name, content=content)


BROKEN = [*mutated_values(), *mutated_text()]


def test_there_are_many_and_the_good_one_is_good(tmp_path: Path) -> None:
    assert len(BROKEN) >= 200
    assert len({one.name for one in BROKEN}) == len(BROKEN)
    (tmp_path / "good.yaml").write_text(GOOD)
    assert load_scenario(tmp_path / "good.yaml").variants
    (tmp_path / "dumped.yaml").write_bytes(with_value(("schema_version",), 1))
    assert load_scenario(tmp_path / "dumped.yaml").variants


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name[:60])
def test_a_broken_scenario_gives_one_clear_error(broken: Broken, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(broken.content)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(file)
    shown = str(caught.value)
    assert shown.startswith(str(file)), shown
    assert broken.path in caught.value.path or broken.path in shown, shown
    assert "allowed: " in shown or "try: " in shown, shown
    assert len(shown) < 2000 and "Traceback" not in shown
