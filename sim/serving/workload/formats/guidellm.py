"""GuideLLM's report (``guidellm benchmark --output-path report.json``), of versions 1 and 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.scenario.csv_files import TextFile
from sim.serving.workload.json_files import first_record, whole_json
from sim.serving.workload.trace_rows import RawTrace, Row, TraceFormat, TraceKeys, raw_of_rows

# The same number under the names of GuideLLM 0.2, 0.3 and 0.4 on.
_START = (("start_time",), ("request_start_time",), ("info", "timings", "request_start"),
          ("scheduler_info", "request_timings", "request_start"))  # fmt: skip
_PROMPT = (("prompt_tokens",), ("input_metrics", "total_tokens"), ("input_metrics", "text_tokens"))
_OUTPUT = (("output_tokens",), ("output_metrics", "total_tokens"), ("output_metrics", "text_tokens"))


def _at(record: object, paths: tuple[tuple[str, ...], ...]) -> Any:
    """What stands at the first of the paths that leads somewhere."""
    for path in paths:
        value: Any = record
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def _is_guidellm(file: TextFile, trace: TraceKeys) -> bool:
    record = first_record(file)
    return isinstance(record, dict) and isinstance(record.get("benchmarks"), list)


def _read(file: TextFile, trace: TraceKeys) -> RawTrace:
    whole = whole_json(file)
    benchmarks = whole.get("benchmarks") if isinstance(whole, dict) else None
    if not isinstance(benchmarks, list):
        raise file.error("not a report of GuideLLM", allowed='{"benchmarks": [{"requests": {...}}]}')
    rows, failed, cut = [], 0, 0
    for index, one in enumerate(benchmarks):
        requests = _at(one, (("requests",),))
        if not isinstance(requests, Mapping):
            raise file.error("a benchmark without requests", f"benchmarks[{index}]", given=type(one).__name__)
        failed += len(requests.get("errored") or ())
        cut += len(requests.get("incomplete") or ())
        for k, request in enumerate(requests.get("successful") or ()):
            place = f"benchmarks[{index}].requests.successful[{k}]"
            rows.append(Row(place, _at(request, _START), _at(request, _PROMPT), _at(request, _OUTPUT)))
    if not rows:
        raise file.error(
            "this report has no requests, only their statistics"
            + (f"; {failed + cut:,} failed or were cut off" if failed + cut else ""),
            allowed="a report whose benchmarks[].requests.successful has records",
            hint="save it with its requests, or draw some: workload.arrivals, prompt_tokens, output_tokens",
        )
    several = [f"{len(benchmarks)} benchmarks of {file.name} are played at their own times, as one trace."]
    return raw_of_rows(
        file,
        rows,
        unit="s",
        left_out={"failed": failed, "cut off": cut},
        notes=several if len(benchmarks) > 1 else (),
    )


GUIDELLM = TraceFormat(
    doc="a report of GuideLLM: the successful requests of its benchmarks, at their start times (s)",
    recognises=_is_guidellm,
    read=_read,
)
