"""Where a run's time goes: within a step, over the first steps, and by cause and worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sim.arrays import PS_PER_S, Int64
from sim.report.blocks import Block, Prose, text_table
from sim.report.figures import (
    SCREEN_COLUMNS,
    Lane,
    Picture,
    Row,
    Trace,
    axis,
    bars_layout,
    digits,
    layout,
    percent,
    seconds,
    seconds_axis,
    stacked_bars,
)
from sim.scenario.dataclass import dataclass
from sim.training.cautions import STRAGGLES_FROM
from sim.training.records import Outcome, TrainingResult
from sim.training.scenario import ExchangeConfig
from sim.training.schedule.failures import with_failures
from sim.training.schedule.find import schedule
from sim.training.schedule.job import Job, plan_job
from sim.training.schedule.times import AlikeTimes
from sim.training.sync import SYNC
from sim.units import format_s

if TYPE_CHECKING:
    from sim.results.answer import Answer
    from sim.training.scenario import TrainingScenario


# (worker, what, from, to) in seconds
Span = tuple[int, str, float, float]


# What a worker does, its column and its ink: the same one in the bars and in the timelines.
PARTS = (
    ("compute", "compute_ps", "v0"),
    ("data loader", "data_stall_ps", "v4"),
    ("waits for others", "wait_ps", "waits"),
    ("exposed exchange", "exchange_ps", "v1"),
    ("optimizer", "optimizer_ps", "v2"),
    ("lost", "lost_ps", "limit"),
)


STANDS = "failures, checkpoints"  # while a failure or a checkpoint stops the whole job


MAX_TIMELINE_WORKERS = 16


MAX_TIMELINE_STEPS = 12


MAX_TIMELINES = 6


SEEN_OF_TIMELINE = 1 / SCREEN_COLUMNS  # shorter is no pixel, and a name in the legend that nobody finds


KINDS = (("compute", "v0"), ("data loader or pull", "v4"), ("exchange", "v1"), ("waits", "waits"))


def split_picture(results: Mapping[str, Sequence[TrainingResult]], lanes: Sequence[Lane]) -> Picture:
    """Stacked bars: seconds of one worker's step, by what it does, mean over workers, steps and seeds."""
    spent = {lane.name: _split(results[lane.name]) for lane in lanes}
    inks = [(part, ink) for part, _, ink in PARTS] + [(STANDS, "v3")]
    parts = {part: (ink, [spent[lane.name][part] for lane in lanes]) for part, ink in inks}
    longest = max(sum(one.values()) for one in spent.values())
    rows: list[Row] = [
        (part, *values) for part, (_, values) in parts.items() if part != STANDS or any(values)
    ]
    return Picture(
        key="step-split",
        title="Where a worker's step goes",
        reading="; ".join(_reading(name, parts) for name, parts in spent.items()) + ".",
        traces=stacked_bars(parts, [lane.label for lane in lanes], "s"),
        layout=bars_layout(seconds_axis("a step of a worker", longest)),
        header=("part", *(f"{lane.name} s per step" for lane in lanes)),
        rows=rows,
        sketch="\n".join(
            f"{part:24} " + "  ".join(f"{digits(value):>10}" for value in values)
            for part, (_, values) in parts.items()
            if part != STANDS or any(values)
        ),
        height_px=170 + 52 * len(lanes),
    )


def _split(runs: Sequence[TrainingResult]) -> dict[str, float]:
    workers = [run.outcome.measured.workers for run in runs]
    steps = sum(float(one.num_steps.sum()) for one in workers) or 1.0
    spent = {
        part: sum(float(getattr(one, name).sum(dtype=np.float64)) for one in workers) / steps / PS_PER_S
        for part, name, _ in PARTS
    }
    stood = sum(
        sum(lost_ps(run).values()) * len(run.outcome.slowdown_by_worker) for run in runs if is_stopped(run)
    )
    return spent | {STANDS: stood / steps / PS_PER_S}


def is_stopped(run: TrainingResult) -> bool:
    """Whether a failure stops the whole job; else it is in the time that its worker lost."""
    return not SYNC[run.scenario.sync.scheme].is_asynchronous


def lost_ps(run: TrainingResult) -> dict[str, float]:
    """What failures and checkpoints took, by what it was: of the job's time, or of all its workers'."""
    ledger = run.failures
    return {
        "checkpoints": float(run.checkpoint_ps),
        "work done again": float(ledger.lost_ps.sum()),
        "restarts": float(ledger.restart_ps.sum()),
    }


def _reading(name: str, parts: Mapping[str, float]) -> str:
    whole = sum(parts.values()) or 1.0
    largest = sorted(parts, key=lambda part: -parts[part])[:3]
    shares = ", ".join(f"{percent(parts[part] / whole)} {part}" for part in largest if parts[part] > 0)
    return f"{name}: {seconds(whole)} a step ({shares})"


def timeline_pictures(
    results: Mapping[str, Sequence[TrainingResult]], lanes: Sequence[Lane]
) -> list[Picture]:
    """The first steps of the first workers, first seed; one for all variants that spend them alike."""
    alike: dict[tuple[Span, ...], list[Lane]] = {}
    for lane in lanes:
        spans = until_the_first_is_done(worker_spans(results[lane.name][0]))
        alike.setdefault(tuple(spans), []).append(lane)
    drawn = list(alike.items())[:MAX_TIMELINES]
    return [_timeline(results[same[0].name][0], same, spans) for spans, same in drawn]


def _timeline(run: TrainingResult, alike: Sequence[Lane], spans: Sequence[Span]) -> Picture:
    slow = stragglers(run)
    names = {
        worker: f"<b>▸ worker {worker}</b>" if worker in slow else f"worker {worker}" for worker, *_ in spans
    }
    last = max((end for _, _, _, end in spans), default=0.0)
    traces: list[Trace] = []
    for kind, ink in KINDS:
        bars = [span for span in spans if span[1] == kind]
        if any(end - begin > SEEN_OF_TIMELINE * last for _, _, begin, end in bars):
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": kind,
                    "y": [names[worker] for worker, _, _, _ in bars],
                    "base": [begin for _, _, begin, _ in bars],
                    "x": [end - begin for _, _, begin, end in bars],
                    "marker": {"color": f"@{ink}", "line": {"color": "@paper", "width": 0.5}},
                }
            )
    workers = sorted(names)
    shown = layout(
        seconds_axis("since the start", last, range=[0, last]),
        axis("", autorange="reversed", type="category"),
        barmode="overlay",
        bargap=0.2,
    )
    rows: list[Row] = [(worker, kind, begin, end) for worker, kind, begin, end in spans]
    busy = sum(end - begin for _, kind, begin, end in spans if kind == "compute")
    length = last * max(1, len(workers))
    share = percent(busy / length) if length else "0 %"
    return Picture(
        key=f"timeline-{alike[0].index}",
        title=f"The first steps of {', '.join(lane.name for lane in alike)}",
        reading=f"Until the first is done the {len(workers)} workers shown compute {share} of the time."
        + _marked(slow),
        traces=traces,
        layout=shown,
        header=("worker", "what", "from s", "to s"),
        rows=rows,
        sketch="",
        height_px=140 + 22 * len(workers),
        group="timelines",
    )


def stragglers(run: TrainingResult) -> dict[int, str]:
    """Worker -> why it is marked: a slow link, or steps that alone make the job longer."""
    slowdown = run.outcome.slowdown_by_worker
    worst = max(range(len(slowdown)), key=lambda worker: slowdown[worker])
    usual = float(np.median(slowdown))
    found = {}
    if slowdown[worst] > STRAGGLES_FROM * usual:
        found[worst] = f"worker {worst} is the slowest, {digits(slowdown[worst])} × the fleet's mean"
    for link in run.scenario.exchange.slow_links:
        found[link.worker] = f"worker {link.worker} has a link {digits(link.slowdown)} × slower"
    return found


def _marked(slow: Mapping[int, str]) -> str:
    return f" Marked: {'; '.join(slow.values())}." if slow else ""


def shown_workers(run: TrainingResult) -> list[int]:
    """The first workers; of many those that slow the job most in place of the last."""
    slowdown = run.outcome.slowdown_by_worker
    worst = max(range(len(slowdown)), key=lambda worker: slowdown[worker])
    first = list(range(min(len(slowdown), MAX_TIMELINE_WORKERS)))
    wanted = sorted({worst, *stragglers(run)} - set(first))[: len(first)]
    return [*first[: len(first) - len(wanted)], *wanted]


def until_the_first_is_done(spans: Sequence[Span]) -> list[Span]:
    """The spans, cut where the first worker has done its steps: beyond, faster ones would seem to stand."""
    ends = {worker: end for worker, _, _, end in spans}
    steps = {worker: sum(one[0] == worker and one[1] == "compute" for one in spans) for worker in ends}
    most = max(steps.values(), default=0)
    cut = min((end for worker, end in ends.items() if steps[worker] == most), default=0.0)
    return [(worker, what, begin, min(end, cut)) for worker, what, begin, end in spans if begin < cut]


def worker_spans(run: TrainingResult) -> list[Span]:
    """(worker, what, from, to) in seconds, of the first steps of the workers shown."""
    rows = run.timeline
    spans: list[Span] = []
    is_shown = np.isin(rows.worker, shown_workers(run)) & (rows.step < MAX_TIMELINE_STEPS)
    chosen = np.flatnonzero(is_shown)
    until: dict[int, float] = {}
    for row in chosen.tolist():
        worker = int(rows.worker[row])
        moments = (
            rows.release_ps[row],
            rows.compute_start_ps[row],
            rows.compute_end_ps[row],
            rows.done_ps[row],
        )
        release, start, end, done = (float(moment) / PS_PER_S for moment in moments)
        pieces = (
            ("waits", until.get(worker, release), release),
            ("data loader or pull", release, start),
            ("compute", start, end),
            ("exchange", end, done),
        )
        spans += [(worker, what, a, b) for what, a, b in pieces if b > a]
        until[worker] = done
    return spans


# Who and what makes a run longer than it need be: parts that add up to its time, to the picosecond.
#
# One cause after another is taken out of the run and the schedule found again; what a cause is charged with
# is the difference it makes:
#
#     as it was -> no failures -> data at once -> all workers alike -> links healthy -> nobody queues at the
#     servers -> exchange free
#
# What stays is computing (and updating) at the fleet's mean pace. The order matters where causes hide each
# other (a slow link behind a slow worker); it is this one, always. A part can be below 0: step times that
# differ spread the pushes to a server, and shorten its queue.

MAX_WORKER_STEPS = 200_000


OPERATIONS = (
    "computing, all alike",
    "exchange that nothing hides",
    "queueing at the servers",
    "slow links",
    "slower workers",
    "data loader",
    "failures and checkpoints",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Picoseconds of a run's first ``num_steps`` steps. ``by_operation`` adds up to ``total_ps``.

    ``by_worker``: what the worker that a synchronous step waited for added to it, over a step of workers that
    are alike, with healthy links and data at once; adds up to the operations from "slow links" to "data
    loader". None where nobody waits for one worker (SSP, ASP, K-async).
    """

    num_steps: int
    total_ps: int
    ideal_ps: int
    by_operation: Mapping[str, int]
    by_worker: tuple[int, ...] | None

    @property
    def slowdown(self) -> float:
        """S: the time over that of workers that are alike, with healthy links, data at once, no failure."""
        return self.total_ps / max(1, self.ideal_ps)


def attribute(
    scenario: TrainingScenario, seed: int, base_dir: Path, known: Outcome | None = None
) -> Attribution:
    """The run's parts, over as many of its steps as are quick to schedule seven times.

    ``known``: what came out of the run itself, if nobody died in it.
    """
    most = max(1, MAX_WORKER_STEPS // scenario.training.num_workers)
    steps = min(scenario.training.num_steps, most)
    short = replace(scenario, training=replace(scenario.training, num_steps=steps))
    job = plan_job(short, seed, base_dir)
    is_whole = not job.scheme.is_asynchronous
    jobs = _rungs(short, job, lambda one: plan_job(one, seed, base_dir))
    found = {id(job): known} if known is not None and steps == scenario.training.num_steps else {}
    for one in jobs:  # a cause that the run is without leaves the job as it was
        if id(one) not in found:
            found[id(one)] = schedule(one)[0]
    rungs = [found[id(one)] for one in jobs]
    ends = [int(outcome.update_ps[-1]) for outcome in rungs]
    if is_whole and job.failures is not None:
        wall = with_failures(rungs[0].update_ps, job.failures, job.num_workers, seed)
        ends[0] = int(wall.update_ps[-1])
    parts = [before - after for before, after in zip(ends, [*ends[1:], 0], strict=True)]
    return Attribution(
        num_steps=steps,
        total_ps=ends[0],
        ideal_ps=ends[4],
        by_operation=dict(zip(OPERATIONS, reversed(parts), strict=True)),
        by_worker=_by_worker(scenario, rungs) if is_whole else None,
    )


def _rungs(scenario: TrainingScenario, job: Job, plan: Callable[[TrainingScenario], Job]) -> list[Job]:
    """The job, and the job without one cause more at a time, in the order of the module's docstring."""
    steady = replace(job, failures=None) if job.failures else job
    prompt = replace(steady, times=steady.times.without_stalls()) if job.times.has_stalls else steady
    alike = replace(prompt, times=AlikeTimes(prompt.times))
    healthy = alike
    if scenario.exchange.slow_links:
        exchange = replace(scenario.exchange, slow_links=())
        healthy = replace(alike, exchange=plan(replace(scenario, exchange=exchange)).exchange)
    unqueued = healthy
    if healthy.exchange.occupies_ps:
        unqueued = replace(healthy, exchange=replace(healthy.exchange, occupies_ps=0))
    free = plan(replace(scenario, exchange=ExchangeConfig(algorithm="none")))
    free = replace(free, failures=None, times=AlikeTimes(free.times))
    return [job, steady, prompt, alike, healthy, unqueued, free]


def _by_worker(scenario: TrainingScenario, rungs: list[Outcome]) -> tuple[int, ...]:
    """Every step's excess over alike workers, to the worker it waited for; slow links, to the slowest."""
    _, steady, _, alike, healthy, *_ = rungs
    blamed: Int64 = np.zeros(scenario.training.num_workers, dtype=np.int64)
    excess = np.diff(steady.update_ps, prepend=0) - np.diff(alike.update_ps, prepend=0)
    assert steady.slowest is not None
    np.add.at(blamed, steady.slowest, excess)
    if scenario.exchange.slow_links:
        slowest = max(scenario.exchange.slow_links, key=lambda one: one.slowdown)
        blamed[slowest.worker] += int(alike.update_ps[-1]) - int(healthy.update_ps[-1])
    return tuple(blamed.tolist())


MOST_WORKERS = 4


EXPLAINED = (
    "Slowdown S: the run's time over that of the same run in which every worker takes the fleet's mean "
    "compute time in each step, links are healthy, batches are there and nobody dies (first seed). By "
    "operation: causes are taken out one after another, from the last column to the second, and each is "
    "charged with the difference that it makes; together they are the time. A part below 0 helped: step "
    "times that differ spread the load on a server. A slow worker is in the fleet's mean: what it costs "
    "against a healthy fleet a variant without it shows."
)


BY_WORKER = (
    "By worker: what the worker that each step waited for added to it, its share of all that slower workers, "
    "slow links and late data cost. Under SSP, ASP and K-async no step waits for one worker."
)


def blame(answer: Answer[TrainingScenario, TrainingResult]) -> list[Block]:
    """S, its parts by operation, and the workers that steps waited for."""
    base_dir = Path(answer.file.path).resolve().parent
    found = {
        name: attribute(one.scenario, one.seed, base_dir, None if one.scenario.failures else one.outcome)
        for name, (one, *_) in answer.results.items()
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
        Prose(text=EXPLAINED + _with_start_up(answer) + _cut(answer, found)),
        text_table(("variant", "S", "time", *(f"{one} s" for one in shown)), rows, "Time by operation"),
    ]
    workers = [(name, _workers(parts)) for name, parts in found.items() if parts.by_worker is not None]
    if any(said for _, said in workers):
        blocks += [Prose(text=BY_WORKER), text_table(("variant", "waited for"), workers, "Time by worker")]
    return blocks


def _with_start_up(answer: Answer[TrainingScenario, TrainingResult]) -> str:
    """That S is of the whole run where the metric of that name is not."""
    names = [name for name, runs in answer.results.items() if runs[0].outcome.steady is not None]
    if not names:
        return ""
    return (
        f" S is of the whole run; the metric slowdown of {', '.join(names)} leaves out the start-up, in "
        "which nobody is held back yet."
    )


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
