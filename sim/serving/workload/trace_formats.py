"""The layouts of trace files. A new one is a module that makes a ``TraceFormat``, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sim.errors import ScenarioError
from sim.scenario.csv_files import TextFile, read_text_file
from sim.serving.workload.csv_traces import AZURE, BURSTGPT, CSV
from sim.serving.workload.formats.benchmarks import AIPERF, GENAI_PERF, GUIDELLM
from sim.serving.workload.formats.sharegpt import SHAREGPT
from sim.serving.workload.json_files import BAILIAN, JSONL, MOONCAKE, VLLM_BENCH
from sim.serving.workload.trace_rows import RawTrace, TraceFormat, TraceKeys

AUTO = "auto"

TRACE_FORMATS: Mapping[str, TraceFormat] = {
    "azure": AZURE,
    "burstgpt": BURSTGPT,
    "mooncake": MOONCAKE,
    "qwen_bailian": BAILIAN,
    "csv": CSV,
    "jsonl": JSONL,
    "vllm_bench": VLLM_BENCH,
    "sharegpt": SHAREGPT,
    "guidellm": GUIDELLM,
    "aiperf": AIPERF,
    "genai_perf": GENAI_PERF,
}
"""What ``trace.format`` may be: loader, schema, checks, errors and documentation read it here."""


def format_docs() -> dict[str, str]:
    """What may be written as ``format``, each with its line of documentation."""
    docs = {name: one.doc for name, one in TRACE_FORMATS.items()}
    return {AUTO: "the first of the others that recognises the file", **docs}


def load_raw(trace: TraceKeys, base_dir: Path) -> RawTrace:
    """The file's columns, read by its format."""
    file = read_text_file(base_dir, trace.path, "workload.trace.path")
    if trace.format != AUTO:
        try:
            return TRACE_FORMATS[trace.format].read(file, trace)
        except ScenarioError as error:
            raise _with_its_format(error, file, trace) from None
    for one in _most_telling_first().values():
        if one.recognises(file, trace):
            return one.read(file, trace)
    raise file.error(
        "no format recognises this file",
        "line 1",
        given=file.text[:60].partition("\n")[0],
        allowed=", ".join(TRACE_FORMATS),
        hint="workload.trace.format",
    )


def _most_telling_first() -> dict[str, TraceFormat]:
    """Those that take any CSV or JSON come last."""
    return dict(sorted(TRACE_FORMATS.items(), key=lambda pair: pair[1].takes_any))


def _with_its_format(error: ScenarioError, file: TextFile, trace: TraceKeys) -> ScenarioError:
    """The error, with the format that the file has as its hint where that is another than was given."""
    for name, one in _most_telling_first().items():
        try:
            is_it = one.recognises(file, trace)
        except ScenarioError:
            is_it = False
        if is_it:
            hint = f"workload.trace.format: {name}, whose layout this file has; or auto"
            return error if name == trace.format else error.told(hint=hint)
    return error
