"""Where the GPU's busy time goes, by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sim.records import RunResult
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, layout, percent, seconds

MAX_OPERATORS = 7
OTHER = "other operators"


def operator_s_per_1000_tokens(results: Sequence[RunResult]) -> dict[str, float]:
    """Busy seconds by operator per 1,000 generated tokens, over all seeds."""
    tokens = sum(int(np.sum(result.requests.generated_tokens)) for result in results)
    names = dict.fromkeys(name for result in results for name in result.operator_s)
    totals = {name: sum(result.operator_s.get(name, 0.0) for result in results) for name in names}
    return {name: 1000 * total / max(1, tokens) for name, total in totals.items()}


def operator_picture(results: Mapping[str, Sequence[RunResult]], lanes: Sequence[Lane]) -> Picture | None:
    """Stacked bars: seconds of GPU time per 1,000 output tokens, by operator."""
    every = {lane.name: operator_s_per_1000_tokens(results[lane.name]) for lane in lanes}
    names = _largest(every)
    if not names:
        return None
    spent = {name: _folded(operators, names) for name, operators in every.items()}
    order = [*names, OTHER]
    traces = [_bar(index, operator, spent, lanes) for index, operator in enumerate(order)]
    shown = layout(
        axis("s per 1,000 output tokens", rangemode="tozero"),
        axis("", autorange="reversed", type="category"),
        barmode="stack",
        bargap=0.35,
    )
    shown["legend"]["traceorder"] = "normal"
    operators = list(dict.fromkeys(name for one in every.values() for name in one))
    rows: list[Row] = [(op, *(every[lane.name].get(op, 0.0) for lane in lanes)) for op in operators]
    return Picture(
        key="operators",
        title="What the GPU's time is spent on",
        reading=_reading(every),
        traces=[bar for bar in traces if any(bar["x"])],
        layout=shown,
        header=("operator", *(f"{lane.name} s per 1000 output tokens" for lane in lanes)),
        rows=rows,
        sketch=_sketch(spent),
        height_px=170 + 52 * len(lanes),
    )


def _bar(index: int, operator: str, spent: Mapping[str, Mapping[str, float]], lanes: Sequence[Lane]) -> Trace:
    """One operator's part of every variant's bar."""
    return {
        "type": "bar",
        "orientation": "h",
        "name": operator,
        "y": [lane.label for lane in lanes],
        "x": [round(spent[lane.name].get(operator, 0.0), 9) for lane in lanes],
        "marker": {"color": f"@v{index % 8}", "line": {"color": "@paper", "width": 1}},
        "hovertemplate": "%{y}: " + operator + " %{x:.4g} s<extra></extra>",
    }


def _largest(every: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The operators worth a colour of their own, largest first."""
    peak: dict[str, float] = {}
    for operators in every.values():
        for name, spent in operators.items():
            peak[name] = max(peak.get(name, 0.0), spent)
    return sorted((name for name in peak if peak[name] > 0), key=lambda name: -peak[name])[:MAX_OPERATORS]


def _folded(operators: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The named operators, and the sum of the rest."""
    kept = {name: operators.get(name, 0.0) for name in names}
    return kept | {OTHER: sum(spent for name, spent in operators.items() if name not in kept)}


def _reading(every: Mapping[str, Mapping[str, float]]) -> str:
    """The total per variant, and its two largest operators."""
    parts = []
    for name, operators in every.items():
        total = sum(operators.values())
        if total <= 0:
            parts.append(f"{name}: no time")
            continue
        first = sorted(operators, key=lambda op: -operators[op])[:2]
        shares = ", ".join(f"{percent(operators[op] / total)} {op}" for op in first)
        parts.append(f"{name}: {seconds(total)} per 1,000 output tokens ({shares})")
    return "; ".join(parts) + "."


def _sketch(spent: Mapping[str, Mapping[str, float]]) -> str:
    """The operators in text, one line each."""
    names = list(dict.fromkeys(op for one in spent.values() for op in one))
    margin = max(len(op) for op in names)
    head = f"{'s per 1,000 output tokens':{margin}}  " + "  ".join(f"{name:>12}" for name in spent)
    lines = [
        f"{op:{margin}}  "
        + "  ".join(f"{digits(one.get(op, 0.0)):>{max(12, len(name))}}" for name, one in spent.items())
        for op in names
    ]
    return "\n".join([head, *lines])
