"""The preemption ledger, summed up: who was evicted, what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.arrays import PS_PER_S
from sim.metric import format_metric
from sim.metric_table import METRICS
from sim.records import RunResult
from sim.report.blocks import Cell, Section, Table
from sim.units import format_count, format_s

if TYPE_CHECKING:
    from sim.answer import Answer
    from sim.scenario import Scenario

MAX_VICTIMS = 3
HEADER = (
    "variant",
    "evictions",
    "requests hit",
    "tokens lost",
    "re-spent",
    "first",
    "most often (first seed)",
)


def preemption_section(answer: Answer[Scenario, RunResult]) -> Section | None:
    """Per variant, over all seeds; None where nobody was evicted."""
    results = answer.results
    if not any(run.preemptions.time_ps.size for runs in results.values() for run in runs):
        return None
    rows = [
        _row(variant, list(results[variant]), answer.comparison.cells[variant]["recompute_s"].mean)
        for variant in answer.comparison.variants
    ]
    note = (
        "Sums over all seeds and the whole run; seconds re-spent are the mean of a run's measured time. "
        "A preempted request loses its KV entries and computes them again."
    )
    return Section(title="Preemptions", blocks=(Table(header=HEADER, rows=tuple(rows), notes=(note,)),))


def _row(variant: str, runs: list[RunResult], respent_s: float | None) -> tuple[Cell, ...]:
    ledgers = [run.preemptions for run in runs]
    total = sum(ledger.time_ps.size for ledger in ledgers)
    hit = sum(np.unique(ledger.request).size for ledger in ledgers)
    lost = sum(int(ledger.recompute_tokens.sum()) for ledger in ledgers)
    moments = [int(ledger.time_ps.min()) for ledger in ledgers if ledger.time_ps.size]
    victims, counts = np.unique(ledgers[0].request, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_VICTIMS]
    often = ", ".join(f"request {victims[i]}: {counts[i]}" for i in order)
    texts = (
        variant,
        format_count(total),
        format_count(hit),
        format_count(lost),
        "–" if respent_s is None else format_metric(respent_s, METRICS["recompute_s"]),
        format_s(min(moments) / PS_PER_S) if moments else "–",
        often or "–",
    )
    return tuple(Cell(text=text) for text in texts)
