"""Recorded cases: the index of a folder, a case's workload and settings, the lines of its log."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.errors import ScenarioError
from sim.serving.vllm import Limits, Plan, Request

Record = dict[str, Any]

PACE = frozenset({"arrival", "step_cost"})
"""Settings of the recording rather than of the scheduler."""


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
            if request in plan.new:
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


def read_case(folder: Path, name: str, entry: Mapping[str, Any]) -> tuple[Limits, RecordedCase]:
    """The scheduler's settings and the workload of one case."""
    args = entry.get("args", {})
    requests: deque[Request] = deque()
    accepts: dict[Request, Sequence[int]] = {}
    try:
        limits = Limits(**{key: value for key, value in args.items() if key not in PACE})
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


def _request(row: Mapping[str, Any]) -> Request:
    return Request.of_segments(
        str(row["id"]),
        [(int(stream), int(start), int(length)) for stream, start, length in row["prompt"]],
        int(row["out"]),
        output_stream=int(row["ostream"]),
        priority=int(row.get("prio", 0)),
        arrival=row["arrive"] + 0,
    )
