"""``gpuyard conformance``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.trust.conformance import CaseResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder of recorded cases."""
    parser.add_argument("folder", metavar="DIR", help="a folder with index.json and its cases")


def run(arguments: argparse.Namespace) -> int:
    """Replay every case and print the table by kind; 1 where any decision differs, or was not replayed."""
    from sim.trust.conformance import replay_folder

    results = replay_folder(arguments.folder)
    sys.stdout.write(render(results) + "\n")
    return 0 if all(result.is_equal for result in results) else 1


def render(results: Sequence[CaseResult]) -> str:
    """A table: per kind its cases, steps and equal decisions; then each case that is not equal, and where."""
    rows = [("kind", "cases", "steps", "equal")]
    for kind in dict.fromkeys(result.kind for result in results):
        mine = [result for result in results if result.kind == kind]
        num_equal = sum(result.is_equal for result in mine)
        num_steps, num_equal_steps = (
            sum(getattr(r, name) for r in mine) for name in ("num_steps", "num_equal")
        )
        rows.append((kind, f"{num_equal}/{len(mine)}", str(num_steps), str(num_equal_steps)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(row[c].rjust(widths[c]) for c in (1, 2, 3))]) for row in rows
    ]
    lines += [_what_differs(result) for result in results if not result.is_equal]
    num_left_out = sum(bool(result.not_modelled) for result in results)
    num_steps = sum(result.num_steps for result in results)
    lines.append(
        f"{sum(result.is_equal for result in results)}/{len(results)} cases, {num_steps} steps, "
        f"{sum(result.num_equal for result in results)} with every decision equal"
        + (f"; {num_left_out} not replayed" if num_left_out else "")
    )
    return "\n".join(lines)


def _what_differs(result: CaseResult) -> str:
    difference = result.difference
    if difference is None:
        return f"{result.case} not replayed, it was recorded with what is not modelled: {result.not_modelled}"
    return (
        f"{result.case} step {difference.step}, {difference.field}: "
        f"expected {_short(difference.expected)}, got {_short(difference.got)}"
    )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
