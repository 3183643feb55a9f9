"""The layouts of trace files. A new one is a module that makes a ``TraceFormat``, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sim.scenario.csv_files import read_text_file
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
        return TRACE_FORMATS[trace.format].read(file, trace)
    for one in sorted(TRACE_FORMATS.values(), key=lambda one: one.takes_any):
        if one.recognises(file, trace):
            return one.read(file, trace)
    raise file.error(
        "no format recognises this file",
        "line 1",
        given=file.text[:60].partition("\n")[0],
        allowed=", ".join(TRACE_FORMATS),
        hint="workload.trace.format",
    )
