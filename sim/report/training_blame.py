"""Who is to blame: what a run's time is charged to, by operation and by worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sim.records import PS_PER_S
from sim.report.blocks import Block, Prose, text_table
from sim.report.figures import digits, percent
from sim.training.attribution import OPERATIONS, Attribution, attribute
from sim.units import format_s

if TYPE_CHECKING:
    from sim.answer import Answer
    from sim.training.records import TrainingResult
    from sim.training.scenario import TrainingScenario

MOST_WORKERS = 4

EXPLAINED = (
    "Slowdown S: the run's time over that of the same run in which every worker takes the fleet's mean "
    "compute time in each step, links are healthy, batches are there and nobody dies (first seed). By "
    "operation: causes are taken out one after another, from the last column to the second, and each is "
    "charged with the difference that it makes; together they are the time. A part below 0 helped: step "
    "times that differ spread the load on a server."
)
BY_WORKER = (
    "By worker: what the worker that each step waited for added to it, its share of all that slower workers, "
    "slow links and late data cost. Under SSP, ASP and K-async no step waits for one worker."
)


def blame(answer: Answer[TrainingScenario, TrainingResult]) -> list[Block]:
    """S, its parts by operation, and the workers that steps waited for."""
    base_dir = Path(answer.file.path).resolve().parent
    found = {
        name: attribute(results[0].scenario, results[0].seed, base_dir)
        for name, results in answer.results.items()
    }
    shown = [one for one in OPERATIONS if any(parts.by_operation[one] for parts in found.values())]
    rows = [
        (
            name,
            digits(parts.slowdown),
            format_s(parts.total_ps / PS_PER_S),
            *(digits(parts.by_operation[one] / PS_PER_S) for one in shown),
        )
        for name, parts in found.items()
    ]
    blocks: list[Block] = [
        Prose(text=EXPLAINED + _cut(answer, found)),
        text_table(("variant", "S", "time", *(f"{one} s" for one in shown)), rows, "Time by operation"),
    ]
    workers = [(name, _workers(parts)) for name, parts in found.items() if parts.by_worker is not None]
    if any(said for _, said in workers):
        blocks += [Prose(text=BY_WORKER), text_table(("variant", "waited for"), workers, "Time by worker")]
    return blocks


def _cut(answer: Answer[TrainingScenario, TrainingResult], found: dict[str, Attribution]) -> str:
    steps = {name: results[0].scenario.training.num_steps for name, results in answer.results.items()}
    short = [name for name, parts in found.items() if parts.num_steps < steps[name]]
    if not short:
        return ""
    return f" Of the first {found[short[0]].num_steps:,} steps only: {', '.join(short)}."


def _workers(parts: Attribution) -> str:
    """The most blamed workers, with their shares."""
    blamed = parts.by_worker or ()
    whole = sum(blamed)
    if whole <= 0:
        return ""
    order = sorted(range(len(blamed)), key=lambda worker: -blamed[worker])[:MOST_WORKERS]
    return ", ".join(f"worker {w}: {percent(blamed[w] / whole)}" for w in order if blamed[w] > 0)
