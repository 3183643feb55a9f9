"""What a replay found, as text."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sim.conformance.replay import CaseResult


def render(results: Sequence[CaseResult]) -> str:
    """A table: per kind its cases, steps and equal decisions, and the first difference."""
    rows = [("kind", "cases", "steps", "equal", "first difference")]
    for kind in dict.fromkeys(result.kind for result in results):
        mine = [result for result in results if result.kind == kind]
        first = next((result for result in mine if result.difference), None)
        rows.append(
            (
                kind,
                f"{sum(result.is_equal for result in mine)}/{len(mine)}",
                str(sum(result.num_steps for result in mine)),
                str(sum(result.num_equal for result in mine)),
                _first_difference(first) if first else "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(row[c].rjust(widths[c]) for c in (1, 2, 3)), row[4]]).rstrip()
        for row in rows
    ]
    num_steps = sum(result.num_steps for result in results)
    lines.append(
        f"{sum(result.is_equal for result in results)}/{len(results)} cases, {num_steps} steps, "
        f"{sum(result.num_equal for result in results)} with every decision equal"
    )
    return "\n".join(lines)


def _first_difference(result: CaseResult) -> str:
    difference = result.difference
    if difference is None:
        return ""
    return (
        f"{result.case} step {difference.step}, {difference.field}: "
        f"expected {_short(difference.expected)}, got {_short(difference.got)}"
    )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
