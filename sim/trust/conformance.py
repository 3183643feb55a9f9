"""Replays recorded decisions of vLLM's own scheduler and reports the first difference, if any.

A folder holds ``index.json`` (all settings of each case) and, per case, its workload and the log of every
``schedule()`` call. Every logged field is compared, the physical block ids (``bcrc``) included. The
replayed code is the simulator's own (``sim.serving.vllm``); timed cases use a clock in floats, as the
recording did, while the simulator's clock stays integer.

Not replayed, and refused by name: drafting models (EAGLE, MTP), KV connectors, groups of different block
sizes. Not in any recording, so not shown equal: chunked local attention, groups of recurrent states.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Any

from sim.errors import ScenarioError
from sim.scenario.build import build
from sim.scenario.dataclass import dataclass
from sim.scenario.place import Place
from sim.scenario.scalars import check_bounds
from sim.serving.checks.scenario import check_whole_prompts_fit
from sim.serving.checks.vllm import check_release, check_retention
from sim.serving.in_flight import InFlight, queue_length
from sim.serving.request import Request, Segment
from sim.serving.scenario import EngineConfig
from sim.serving.scheduler import NOBODY
from sim.serving.vllm.config import POLICIES, KVCacheGroup, SchedulerConfig
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.scheduler import Scheduler
from sim.serving.vllm.versions import VERSIONS

Record = dict[str, Any]


PACE = frozenset({"arrival", "step_cost"})
"""Settings of the recording rather than of the scheduler."""
RENAMED: Mapping[str, str] = {"retention_interval": "prefix_cache_retention_interval"}
"""Recordings' words for settings of the scheduler."""
ABSENT: Mapping[str, object] = {
    "spec_method": None,
    "connector": None,
    "group_block_sizes": None,
    "draft_schedule": None,
}
"""What is not modelled, as a recording without it says so."""
OF_WHAT_IS_ABSENT: Mapping[str, frozenset[str]] = {
    "spec_method": frozenset({"eagle_block_drop", "lookahead_block_hashes"}),
    "connector": frozenset({
        "cpu_chunks", "blocks_per_chunk", "cpu_policy", "store_threshold", "offload_prompt_only",
        "load_steps", "store_steps", "pd_role",
    }),
}  # fmt: skip
"""Settings that mean nothing without it."""
BLOCKS_AND_DRAFTS: Mapping[str, Mapping[str, int]] = {
    "num_gpu_blocks": {"ge": 2},  # block 0 is never handed out
    "num_speculative_tokens": {"ge": 0},
}
"""Bounds of the settings that an engine's keys have under other names."""


class NotModelled(ScenarioError):
    """A case was recorded with settings that are not modelled: ``given`` names them."""


@dataclass(slots=True)
class RecordedCase:
    """A case's workload, as the replay plays it."""

    requests: deque[Request]
    accepts: dict[Request, Sequence[int]]
    is_timed: bool
    step_cost: tuple[float, float, float]
    clock: float = 0.0
    step: int = 0
    verified: dict[Request, int] = field(default_factory=dict)

    def due(self) -> list[Request]:
        """Takes the requests that have arrived by now."""
        now = self.clock if self.is_timed else self.step
        arrived = []
        while self.requests and self.requests[0].arrival <= now:
            arrived.append(self.requests.popleft())
        return arrived

    def jump(self) -> None:
        """The engine is idle: the next thing to happen is the next arrival."""
        if self.is_timed:
            self.clock = max(self.clock, self.requests[0].arrival)
        else:
            self.step = max(self.step, int(self.requests[0].arrival))

    def count(self, plan: Plan) -> None:
        """Moves the step index and the clock past this step, in the recording's order of operations."""
        per_step, per_token, per_request = self.step_cost
        self.step += 1
        self.clock += per_step + per_token * plan.num_tokens + per_request * plan.num_requests

    def accepted(self, plan: Plan) -> dict[Request, int]:
        """How many drafts of each request are right: its list over and over, one entry a verification."""
        result = {}
        for request, num_drafts in plan.drafts.items():
            if request in plan.admitted:
                continue
            pattern, turn = self.accepts[request], self.verified.get(request, 0)
            self.verified[request] = turn + 1
            result[request] = min(pattern[turn % len(pattern)], num_drafts) if pattern else 0
        return result


def read_index(folder: Path) -> dict[str, Any]:
    """The folder's index: at least one case, each with a name."""
    file = folder / "index.json"
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScenarioError(
            "no readable index of recorded cases",
            file=str(file),
            given=str(error),
            hint="give the folder that holds index.json and the *.log.jsonl.gz files",
        ) from error
    if not isinstance(index, dict) or not isinstance(index.get("cases"), list) or not index["cases"]:
        raise ScenarioError("the index lists no cases", file=str(file), path="cases")
    for entry in index["cases"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("case"), str):
            raise ScenarioError("a case without a name", file=str(file), path="cases", given=entry)
    return index


def recorded_version(index: Mapping[str, Any], folder: Path) -> str:
    """The vLLM release whose decisions were recorded."""
    meta = index.get("meta")
    version = index.get("vllm") or (meta.get("vllm") if isinstance(meta, dict) else None)
    if not isinstance(version, str):
        raise ScenarioError(
            "the index does not say which vLLM was recorded",
            file=str(folder / "index.json"),
            path="vllm",
            allowed='"vllm": "0.33.0"',
        )
    return version


def read_lines(file: Path) -> Iterator[Record]:
    """The JSON objects of a compressed file, one a line."""
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError(f"a line is no object: {line.strip()[:40]}")
                yield record
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ScenarioError("not a readable recording", file=str(file), given=str(error)) from error


def read_case(folder: Path, name: str, entry: Mapping[str, Any]) -> tuple[SchedulerConfig, RecordedCase]:
    """The scheduler's settings and the workload of one case."""
    args = entry.get("args", {})
    limits = _limits(args if isinstance(args, dict) else {}, str(folder / name))
    requests: deque[Request] = deque()
    accepts: dict[Request, Sequence[int]] = {}
    try:
        for row in read_lines(folder / f"{name}.workload.jsonl.gz"):
            request = _request(row)
            requests.append(request)
            accepts[request] = [int(count) for count in row.get("accept", ())]
        costs = tuple(float(cost) for cost in args.get("step_cost", (0, 0, 0)))
        per_step, per_token, per_request = costs
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScenarioError(
            "not a recorded case that can be replayed", file=str(folder / name), given=str(error)
        ) from error
    return limits, RecordedCase(
        requests=requests,
        accepts=accepts,
        is_timed=args.get("arrival") == "time",
        step_cost=(per_step, per_token, per_request),
    )


def _limits(args: Mapping[str, Any], file: str) -> SchedulerConfig:
    """The scheduler's settings; what a recording says of things that it is without is left out."""
    absent = {key for key, value in ABSENT.items() if key in args and args[key] == value}
    left_out = {*PACE, *absent, *(key for one in absent for key in OF_WHAT_IS_ABSENT.get(one, ()))}
    settings = {RENAMED.get(key, key): value for key, value in args.items() if key not in left_out}
    known = [one.name for one in fields(SchedulerConfig)]
    unknown = [f"{key} {value!r}" for key, value in settings.items() if key not in known]
    if unknown:
        raise NotModelled(
            f"recorded with what is not modelled yet: {', '.join(unknown)}",
            file=file,
            given=", ".join(unknown),
            allowed=", ".join(known),
        )
    groups = settings.pop("groups", ["full"])
    limits = build(SchedulerConfig, settings, file=file, path="args")
    return replace(limits, groups=_groups(groups, Place(file=file, path="args").child("groups")))


def _groups(said: Any, place: Place) -> tuple[KVCacheGroup, ...]:
    """``"full"``, or a window in tokens, in the order of the block tables."""
    if not isinstance(said, list) or not said:
        raise place.error("no list of KV-cache groups", given=said, allowed='["full", 128]')
    for one in said:
        if one != "full" and (type(one) is not int or one < 1):
            raise place.error(
                "no KV-cache group", given=one, allowed='"full", or a window of at least 1 token'
            )
    return tuple(
        KVCacheGroup() if one == "full" else KVCacheGroup(kind="sliding", window_tokens=one) for one in said
    )


def check_recorded(limits: SchedulerConfig, version: str, place: Place) -> None:
    """A recording keeps to the bounds of the engine's keys, and to what its release has."""
    if version not in VERSIONS:
        raise Place(file=place.file, path="vllm").error(
            "unknown vLLM version", given=version, allowed=", ".join(VERSIONS)
        )
    bounds = {**{one.name: one.metadata for one in fields(EngineConfig)}, **BLOCKS_AND_DRAFTS}
    for one in fields(limits):
        value = getattr(limits, one.name)
        check_bounds(value, bounds.get(one.name, {}), place.child(one.name), value)
    check_retention(limits, place)
    if limits.policy not in POLICIES:
        raise place.child("policy").error(
            "not one of vLLM's", given=limits.policy, allowed=", ".join(POLICIES)
        )
    if not limits.enable_chunked_prefill:
        check_whole_prompts_fit(limits.max_num_batched_tokens, limits.max_model_len, place)
    check_release(version, limits, place)


def named_request(
    name: str,
    segments: Sequence[Segment],
    max_tokens: int,
    *,
    output_stream: int = -1,
    priority: int = 0,
    arrival: int = 0,
) -> Request:
    """A request with a name of its own and known tokens, as recordings have them."""
    request = Request(-1, arrival, sum(length for _, _, length in segments), max_tokens)
    request.name = name
    request.segments, request.output_stream, request.priority = segments, output_stream, priority
    return request


def _request(row: Mapping[str, Any]) -> Request:
    return named_request(
        str(row["id"]),
        [(int(stream), int(start), int(length)) for stream, start, length in row["prompt"]],
        int(row["out"]),
        output_stream=int(row["ostream"]),
        priority=int(row.get("prio", 0)),
        arrival=row["arrive"] + 0,
    )


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
    num_steps: int = 0
    num_equal: int = 0
    """Steps before the first difference, and those after it that are equal again."""
    difference: Difference | None = None
    not_modelled: str = ""
    """The settings because of which it was not replayed."""

    @property
    def is_equal(self) -> bool:
        return self.difference is None and not self.not_modelled


def replay_case(case_dir: Path | str, entry: Mapping[str, Any], *, version: str | None = None) -> CaseResult:
    """Replays one case of a folder; ``version`` is the folder's own unless given."""
    folder = Path(case_dir)
    version = version or recorded_version(read_index(folder), folder)
    name = str(entry.get("case", ""))
    limits, case = read_case(folder, name, entry)
    check_recorded(limits, version, Place(file=str(folder / name), path="args"))
    expected = read_lines(folder / f"{name}.log.jsonl.gz")
    num_steps = num_equal = 0
    difference = None
    got = _replay(Scheduler(limits, version), case, str(folder / name))
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


class EngineLoop:
    """The engine without a clock: plan, then take in what is due, as many steps in flight as there may be."""

    def __init__(
        self, scheduler: Scheduler, *, async_scheduling: bool, pipeline_parallel_size: int = 1
    ) -> None:
        self.scheduler = scheduler
        self._in_flight: InFlight[Plan] = InFlight(
            queue_length(async_scheduling=async_scheduling, pipeline_parallel_size=pipeline_parallel_size)
        )

    @property
    def is_idle(self) -> bool:
        """Nothing to plan and nothing under way."""
        return self._in_flight.is_idle(self.scheduler.num_unfinished)

    def plan(self) -> tuple[Plan | None, Plan | None]:
        """See ``InFlight.plan``."""
        return self._in_flight.plan(self.scheduler.plan_step, self.scheduler.num_unfinished)

    def complete(self, plan: Plan, accepted: Mapping[Request, int] = NOBODY) -> list[Request]:
        """Takes a step's tokens in; returns the requests that finished."""
        finished = self.scheduler.update(plan, accepted)
        self._in_flight.note_finished(bool(finished))
        return finished


def _replay(scheduler: Scheduler, case: RecordedCase, file: str) -> Iterator[Record]:
    """The log of our scheduler for this workload, a record per ``schedule()`` call, in order."""
    loop = EngineLoop(scheduler, async_scheduling=scheduler.limits.async_scheduling)
    open_records: deque[tuple[Plan, Record]] = deque()
    while case.requests or not loop.is_idle:
        if loop.is_idle:
            case.jump()
        added = case.due()
        for request in added:
            refusal = scheduler.refusal(request)
            if refusal:
                raise ScenarioError(
                    "a request that can never be served",
                    file=file,
                    path=request.request_id,
                    hint=refusal,
                )
            scheduler.add(request)
        planned, completed = loop.plan()
        if planned is not None:
            open_records.append((planned, _decision(scheduler, case, planned, added)))
            case.count(planned)
        if completed is not None:
            yield _outcome(loop, case, completed, open_records.popleft()[1])


def _decision(scheduler: Scheduler, case: RecordedCase, plan: Plan, added: Iterable[Request]) -> Record:
    record: Record = {
        "step": case.step,
        "add": [request.request_id for request in added],
        "sched": _pairs(plan.scheduled),
        "new": _pairs(plan.admitted),
        "preempted": [request.request_id for request in plan.preempted],
        "alloc": [[request.request_id, len(blocks)] for request, blocks in plan.fresh.items()],
        "free": scheduler.kv.pool.num_free,
        "bcrc": _blocks_crc(plan),
        "nrun": len(scheduler.running),
        "nwait": len(scheduler.waiting),
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
    record["free_end"] = loop.scheduler.kv.pool.num_free
    return record


def _pairs(counts: Mapping[Request, int]) -> list[list[object]]:
    return [[request.request_id, count] for request, count in counts.items()]


def _blocks_crc(plan: Plan) -> int:
    """CRC-32 of the block ids, by group: an admission's whole tables, a running request's fresh blocks."""
    text = []
    for request in plan.scheduled:
        tables = request.tables or (request.blocks,)
        if request not in plan.admitted:  # (what each group has taken stands at the end of its table)
            num_fresh = len(plan.fresh.get(request, ())) // len(tables)
            tables = tuple(table[len(table) - num_fresh :] for table in tables)
        if any(tables):
            blocks = "/".join(",".join(map(str, table)) for table in tables)
            text.append(f"{request.request_id}:{blocks};")
    return zlib.crc32("".join(text).encode())


def replay_folder(path: Path | str, progress: Callable[[CaseResult], None] | None = None) -> list[CaseResult]:
    """Replays every case of a folder, in the order of its index.

    A case that was recorded with what is not modelled is named in its result; ``NotModelled`` is raised where
    that is so of all of them.
    """
    folder = Path(path)
    if not (folder / "index.json").is_file() and (folder / "cases" / "index.json").is_file():
        folder = folder / "cases"
    index = read_index(folder)
    version = recorded_version(index, folder)
    results: list[CaseResult] = []
    refused: NotModelled | None = None
    for entry in index["cases"]:
        try:
            result = replay_case(folder, entry, version=version)
        except NotModelled as error:
            refused = refused or error
            name = str(entry["case"])
            result = CaseResult(case=name, kind=str(entry.get("kind", name)), not_modelled=str(error.given))
        results.append(result)
        if progress is not None:
            progress(result)
    if refused is not None and all(result.not_modelled for result in results):
        raise refused
    return results
