"""Our scheduler's decisions for a recorded workload, against the recorded ones."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.conformance.cases import Record, RecordedCase, read_case, read_index, read_lines, recorded_version
from sim.errors import ScenarioError
from sim.serving.vllm import EngineLoop, Plan, Request, Scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where a replay first leaves the recording."""

    step: int
    field: str
    expected: object
    got: object


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One case replayed."""

    case: str
    kind: str
    num_steps: int
    num_equal: int
    """Steps before the first difference, and those after it that are equal again."""
    difference: Difference | None = None

    @property
    def is_equal(self) -> bool:
        return self.difference is None


def replay_case(case_dir: Path | str, entry: Mapping[str, Any], *, version: str | None = None) -> CaseResult:
    """Replays one case of a folder; ``version`` is the folder's own unless given."""
    folder = Path(case_dir)
    version = version or recorded_version(read_index(folder), folder)
    name = str(entry.get("case", ""))
    expected = read_lines(folder / f"{name}.log.jsonl.gz")
    num_steps = num_equal = 0
    difference = None
    got = _replay(folder, name, entry, version)
    for want in expected:
        have = next(got, {})
        num_steps += 1
        found = _compare(want, have)
        num_equal += found is None
        difference = difference or found
    extra = next(got, None)
    if extra is not None and difference is None:
        difference = Difference(step=extra["step"], field="step", expected="the end", got=extra["step"])
    return CaseResult(
        case=name,
        kind=str(entry.get("kind", name)),
        num_steps=num_steps,
        num_equal=num_equal,
        difference=difference,
    )


def _compare(want: Record, have: Record) -> Difference | None:
    for name, expected in want.items():
        got = have.get(name)
        if got != expected:
            return Difference(step=want.get("step", -1), field=name, expected=expected, got=got)
    return None


def _replay(folder: Path, name: str, entry: Mapping[str, Any], version: str) -> Iterator[Record]:
    """The log of our scheduler for this workload, a record per ``schedule()`` call, in order."""
    limits, case = read_case(folder, name, entry)
    scheduler = Scheduler(limits, version)
    loop = EngineLoop(scheduler, async_scheduling=limits.async_scheduling)
    open_records: deque[tuple[Plan, Record]] = deque()
    while case.requests or not loop.is_idle:
        if loop.is_idle:
            case.jump()
        added = case.due()
        for request in added:
            if not scheduler.add(request):
                raise ScenarioError(
                    "a request that can never be served",
                    file=str(folder / name),
                    path=request.request_id,
                    hint=scheduler.refusal(request),
                )
        planned, completed = loop.plan()
        if planned is not None:
            open_records.append((planned, _decision(scheduler, case, planned, added)))
            case.count(planned)
        if completed is not None:
            yield _outcome(loop, case, completed, open_records.popleft()[1])


def _decision(scheduler: Scheduler, case: RecordedCase, plan: Plan, added: Iterable[Request]) -> Record:
    state = scheduler.state
    record: Record = {
        "step": case.step,
        "add": [request.request_id for request in added],
        "sched": _pairs(plan.scheduled),
        "new": _pairs(plan.new),
        "preempted": [request.request_id for request in plan.preempted],
        "alloc": [[request.request_id, len(blocks)] for request, blocks in plan.fresh.items()],
        "free": state.kv.pool.num_free,
        "bcrc": _blocks_crc(plan),
        "nrun": len(state.running),
        "nwait": len(state.waiting),
        "spec": _pairs(plan.drafts),
        "t": case.clock,
    }
    return record


def _outcome(loop: EngineLoop, case: RecordedCase, plan: Plan, record: Record) -> Record:
    before = {request: request.num_tokens for request in plan.chosen}
    finished = loop.complete(plan, case.accepted(plan))
    record["finished"] = [request.request_id for request in finished]
    made = {request: request.num_tokens - tokens for request, tokens in before.items()}
    record["ntok"] = _pairs({request: tokens for request, tokens in made.items() if tokens})
    record["free_end"] = loop.scheduler.state.kv.pool.num_free
    return record


def _pairs(counts: Mapping[Request, int]) -> list[list[object]]:
    return [[request.request_id, count] for request, count in counts.items()]


def _blocks_crc(plan: Plan) -> int:
    """CRC-32 of the block ids: an admission's whole table, a running request's fresh blocks."""
    text = []
    for request in plan.scheduled:
        blocks = request.blocks if request in plan.new else plan.fresh.get(request)
        if blocks:
            text.append(f"{request.request_id}:{','.join(map(str, blocks))};")
    return zlib.crc32("".join(text).encode())


def replay_folder(path: Path | str, progress: Callable[[CaseResult], None] | None = None) -> list[CaseResult]:
    """Replays every case of a folder, in the order of its index."""
    folder = Path(path)
    index = read_index(folder)
    version = recorded_version(index, folder)
    results = []
    for entry in index["cases"]:
        result = replay_case(folder, entry, version=version)
        results.append(result)
        if progress is not None:
            progress(result)
    return results
