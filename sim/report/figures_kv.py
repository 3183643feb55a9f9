"""Where the KV budget goes, averaged over time: the picture of PagedAttention's Fig. 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.records import KV_KINDS, RunResult
from sim.report.figures import Lane, Picture, Row, Trace, axis, layout, percent

MEANINGS = {
    "tokens": "hold a token",
    "reserved": "not yet used, but this request will use it",
    "internal": "requested beyond the request's final length, or the rest of its last block",
    "external": "the allocator's rounding, and free memory too fragmented for the head of the queue",
    "free": "free",
}


def kv_fractions(result: RunResult) -> dict[str, float]:
    """Shares of the KV budget by kind, averaged over the measured time; what is left is free."""
    window = result.window_ps[1] - result.window_ps[0]
    budget = result.kv_budget_tokens * max(1, result.scenario.replicas) * window
    if budget <= 0:
        return dict.fromkeys(KV_KINDS, 0.0) | {"free": 1.0}
    shares = {kind: int(result.kv_time_tokens_ps.get(kind, 0)) / budget for kind in KV_KINDS}
    return shares | {"free": max(0.0, 1 - sum(shares.values()))}


def mean_kv_fractions(results: Sequence[RunResult]) -> dict[str, float]:
    """The same, averaged over seeds."""
    runs = [kv_fractions(result) for result in results]
    return {kind: sum(run[kind] for run in runs) / len(runs) for kind in MEANINGS}


def kv_picture(results: Mapping[str, Sequence[RunResult]], lanes: Sequence[Lane]) -> Picture:
    """A stacked bar per variant."""
    shares = {lane.name: mean_kv_fractions(results[lane.name]) for lane in lanes}
    labels = [lane.label for lane in lanes]
    traces: list[Trace] = [
        _bar(kind, labels, [shares[lane.name][kind] for lane in lanes]) for kind in MEANINGS
    ]
    shown = layout(
        axis("share of the KV budget", range=[0, 1], tickformat=".0%", dtick=0.2),
        axis("", autorange="reversed", type="category"),
        barmode="stack",
    )
    shown["legend"]["traceorder"] = "normal"
    shown["bargap"] = 0.35
    rows: list[Row] = [(lane.name, *(shares[lane.name][kind] for kind in MEANINGS)) for lane in lanes]
    return Picture(
        key="kv_budget",
        title="Where the KV budget goes",
        reading=_reading(shares),
        traces=traces,
        layout=shown,
        header=("variant", *(f"kv_{kind}_fraction" for kind in MEANINGS)),
        rows=rows,
        sketch=_sketch(shares),
        height_px=140 + 52 * len(lanes),
    )


def _bar(kind: str, labels: Sequence[str], values: Sequence[float]) -> Trace:
    """One kind's part of every bar, its share written inside where there is room."""
    return {
        "type": "bar",
        "orientation": "h",
        "name": kind,
        "y": list(labels),
        "x": [round(x, 6) for x in values],
        "marker": {"color": f"@{kind}", "line": {"color": "@paper", "width": 1}},
        "text": [percent(x) if x >= 0.06 else "" for x in values],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "constraintext": "none",
        "hovertemplate": "%{y}: %{x:.1%} " + MEANINGS[kind] + "<extra></extra>",
    }


def _reading(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Who holds how many tokens, and the largest waste of each."""
    parts = []
    for name, share in shares.items():
        waste = max(KV_KINDS[1:], key=lambda kind: share[kind])
        tail = f"largest waste: {waste}, {percent(share[waste])}" if share[waste] > 0 else "nothing wasted"
        parts.append(
            f"{name}: {percent(share['tokens'])} holds tokens ({tail}, {percent(share['free'])} free)"
        )
    kinds = "; ".join(f"{kind}: {MEANINGS[kind]}" for kind in KV_KINDS)
    return "; ".join(parts) + f". Of the budget, {kinds}."


def _sketch(shares: Mapping[str, Mapping[str, float]], width: int = 50) -> str:
    """Bars of letters: T tokens, r reserved, i internal, x external, dots free."""
    letters = {"tokens": "T", "reserved": "r", "internal": "i", "external": "x"}
    margin = max(len(name) for name in shares)
    lines = []
    for name, share in shares.items():
        bar = "".join(letters[kind] * round(share[kind] * width) for kind in letters)
        lines.append(f"{name:{margin}}  |{bar[:width]:.<{width}}|")
    return "\n".join([*lines, f"{'':{margin}}   T tokens, r reserved, i internal, x external, . free"])
