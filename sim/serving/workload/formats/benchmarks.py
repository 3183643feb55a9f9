"""What benchmarks keep of every request: GuideLLM, AIPerf, and AIPerf's predecessor genai-perf."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sim.errors import ScenarioError
from sim.scenario.csv_files import TextFile
from sim.serving.workload.formats.sharegpt import CHARACTERS_PER_TOKEN, estimated_tokens
from sim.serving.workload.json_files import first_record, json_records, whole_json
from sim.serving.workload.trace_rows import RawTrace, Row, TraceFormat, TraceKeys, drawn_alike, raw_of_rows

# --- GuideLLM: `guidellm benchmark --output-path report.json`, of versions 1 and 2 ---------------------

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


def _read_guidellm(file: TextFile, trace: TraceKeys) -> RawTrace:
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
    read=_read_guidellm,
)


# --- AIPerf -----------------------------------------------------------------------------------------

_LENGTHS = ("input_sequence_length", "output_sequence_length")
_ASKED, _ANSWERED = ("content", "prompt", "text_input", "text"), ("content", "text_output", "text")


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    inner = value.get(name) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _is_summary(record: object, which: str) -> bool:
    """Whether this is the file of statistics: genai-perf's configuration says ``subcommand``."""
    if not isinstance(record, dict) or not set(_LENGTHS) & set(record) or "input_config" not in record:
        return False
    is_genai = bool({"subcommand", "service_kind"} & set(_mapping(record, "input_config")))
    return is_genai == (which == "genai-perf")


def _is_aiperf(file: TextFile, trace: TraceKeys) -> bool:
    record = first_record(file)
    is_record = "request_start_ns" in _mapping(record, "metadata")
    return is_record or _is_summary(record, "AIPerf")


def _read_aiperf(file: TextFile, trace: TraceKeys) -> RawTrace:
    where, records = json_records(file)
    if _is_summary(records[0], "AIPerf"):
        raise _only_statistics(file, records[0], "profile_export.jsonl, which AIPerf writes beside it")
    rows, failed, warmup = [], 0, 0
    for place, record in zip(where, records, strict=True):
        about, metrics = _mapping(record, "metadata"), _mapping(record, "metrics")
        if about.get("benchmark_phase", "profiling") != "profiling":
            warmup += 1
        elif record.get("error") or about.get("was_cancelled"):
            failed += 1
        else:
            prompt, output = (_mapping(metrics, name).get("value") for name in _LENGTHS)
            rows.append(Row(place, about.get("request_start_ns"), prompt, output))
    left_out = {"failed or cancelled": failed, "of the warm-up": warmup}
    return raw_of_rows(file, rows, unit="ns", left_out=left_out)


def _only_statistics(file: TextFile, record: Mapping[str, Any], other: str) -> ScenarioError:
    """The refusal of a file that has no requests: which one has, and a workload that draws alike."""
    prompt, output = (_mapping(record, name) for name in _LENGTHS)
    config = _mapping(record, "input_config")
    load = {**config, **_mapping(config, "loadgen")}
    count = _mapping(record, "request_count").get("avg") or config.get("request_count")
    return file.error(
        "this file has statistics, not requests",
        allowed=other,
        hint=drawn_alike(
            (prompt.get("avg"), prompt.get("std")),
            (output.get("avg"), output.get("std")),
            rate=load.get("request_rate"),
            concurrency=load.get("concurrency"),
            num_requests=count,
        ),
    )


# --- genai-perf -------------------------------------------------------------------------------------


def _is_genai_perf(file: TextFile, trace: TraceKeys) -> bool:
    record = first_record(file)
    if _is_summary(record, "genai-perf"):
        return True
    return isinstance(record, dict) and isinstance(record.get("experiments"), list)


def _read_genai_perf(file: TextFile, trace: TraceKeys) -> RawTrace:
    whole = whole_json(file)
    if _is_summary(whole, "genai-perf"):
        raise _only_statistics(file, whole, "profile_export.json, which genai-perf writes beside it")
    experiments = whole.get("experiments") if isinstance(whole, dict) else None
    if not isinstance(experiments, list):
        raise file.error(
            "not a profile export of genai-perf", allowed='{"experiments": [{"requests": [...]}]}'
        )
    rows, failed = [], 0
    for index, experiment in enumerate(experiments):
        requests = experiment.get("requests") if isinstance(experiment, Mapping) else None
        for k, request in enumerate(requests if isinstance(requests, list) else ()):
            row = _request(f"experiments[{index}].requests[{k}]", request)
            failed += row is None
            rows += [row] if row is not None else []
    note = f"Lengths of {file.name} are estimated: a prompt's token is {CHARACTERS_PER_TOKEN} characters, an "
    return raw_of_rows(
        file,
        rows,
        unit="ns",
        left_out={"without an answer": failed},
        notes=[note + "answer's is a packet with text in it."],
    )


def _request(place: str, request: object) -> Row | None:
    """One request; None where no text came back."""
    if not isinstance(request, Mapping):
        return None
    outputs = request.get("response_outputs")
    answers = ["".join(_texts(_parsed(one), _ANSWERED)) for one in outputs or ()]
    answers = [text for text in answers if text]
    if not answers:
        return None
    asked = " ".join(_texts(_parsed(request.get("request_inputs")), _ASKED))
    streamed = len(answers) if len(answers) > 1 else estimated_tokens(answers[0])
    return Row(place, request.get("timestamp"), estimated_tokens(asked), streamed)


def _parsed(value: object) -> object:
    """A payload or a response, whose JSON is text inside JSON, after ``data: `` where it was streamed."""
    if isinstance(value, Mapping):
        return {name: _parsed(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_parsed(one) for one in value]
    if not isinstance(value, str):
        return value
    lines = [line.strip().removeprefix("data:").strip() for line in value.split("\n\n")]
    found = [_json(line) for line in lines if line and line != "[DONE]"]
    return found if any(isinstance(one, (dict, list)) for one in found) else value


def _json(text: str) -> object:
    try:
        return json.loads(text) if text[:1] in "{[" else text
    except (ValueError, RecursionError):
        return text


def _texts(value: object, names: tuple[str, ...]) -> Iterator[str]:
    """Every text below ``value`` that stands under one of the names."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            if isinstance(one, str) and name in names:
                yield one
            else:
                yield from _texts(one, names)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one, names)


AIPERF = TraceFormat(
    doc="profile_export.jsonl of AIPerf: a record per request, with its start (ns) and its lengths",
    recognises=_is_aiperf,
    read=_read_aiperf,
)
GENAI_PERF = TraceFormat(
    doc="profile_export.json of genai-perf: requests with their times (ns); lengths are estimated from text",
    recognises=_is_genai_perf,
    read=_read_genai_perf,
)
