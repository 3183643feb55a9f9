"""The question as understood: what was simulated, on what, with which settings."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.arrays import PS_PER_S, Int64
from sim.records import RunResult
from sim.report.blocks import Facts, Section
from sim.report.figures import digits, percent
from sim.scenario import EngineConfig, Scenario, Slo
from sim.scenario_file import ScenarioFile
from sim.units import format_count, format_gb, format_gib, format_quantity, format_s
from sim.version import __version__

if TYPE_CHECKING:
    from sim.answer import Answer
    from sim.hardware import HardwareProfile

# Shown even at their default: the first things asked about an engine.
ALWAYS_SHOWN = (
    "batching",
    "kv_allocator",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
)


def question_section(answer: Answer[Scenario, RunResult]) -> Section:
    """Facts in the order in which a reader doubts them."""
    base = answer.file.base
    first = answer.results[answer.comparison.reference][0]
    rows = [
        ("Scenario", _source(answer.file)),
        ("Model", _model(base)),
        ("Hardware", _hardware(base)),
        ("Workload", _workload(first)),
        ("Engine", _engine(base.engine)),
        *((f"Variant {name}", text) for name, text in _variants(answer.file)),
        ("SLO", _slo(base.slo) or ("" if _class_slos(base) else "none given")),
        *((f"SLO of {name}", text) for name, text in _class_slos(base)),
        ("Seeds", ", ".join(map(str, base.seeds)) + "; the same requests in every variant"),
        ("Made by", f"gpuyard {__version__}"),
    ]
    return Section(
        title="The question as understood", blocks=(Facts(rows=tuple((a, b) for a, b in rows if b)),)
    )


def command(file: ScenarioFile[Scenario]) -> str:
    """The command line that gives this report again."""
    words = ["gpuyard", "run", scenario_word(file.path)]
    trace = file.base.workload.trace
    if trace is not None and Path(trace.path).is_absolute():
        words += ["--trace", trace.path]
    for override in file.overrides:
        words += ["--set", override]
    return shlex.join(words)


def scenario_word(path: str) -> str:
    """A shipped scenario's name, any other's path."""
    from sim.data import scenario_name, scenario_paths

    given = Path(path).resolve()
    return next((scenario_name(one) for one in scenario_paths() if one.resolve() == given), path)


def _source(file: ScenarioFile[Scenario]) -> str:
    overrides = f", with {', '.join(file.overrides)}" if file.overrides else ""
    return f"{scenario_word(file.path)}{overrides}"


def _model(base: Scenario) -> str:
    from sim.model import num_parameters

    shape = base.model
    heads = f"{shape.num_attention_heads} heads, {shape.num_key_value_heads} KV heads"
    return (
        f"{shape.name}: {digits(num_parameters(shape) / 1e9)} billion parameters, "
        f"{shape.num_hidden_layers} layers, {heads}, {base.engine.dtype.replace('auto', shape.dtype)}"
    )


def _hardware(base: Scenario) -> str:
    device = base.hardware
    memory = f"{format_gb(device.hbm_bytes)} ({format_gib(device.hbm_bytes)})"
    gpus = base.replicas * base.engine.gpus_per_replica
    count = f"{gpus} × " if gpus > 1 else ""
    replicas = f"; {base.replicas} replicas, {base.routing}" if base.replicas > 1 else ""
    return (
        f"{count}{device.name}: HBM {memory} at {format_quantity(device.hbm_bytes_per_s, 'bytes_per_s')}, "
        f"{device.sm_count} SMs{replicas} (profile {profile_hash(device)})"
    )


def profile_hash(profile: HardwareProfile) -> str:
    """Twelve digits that change with any number or source of the profile."""
    from sim.loading.dump import plain

    text = json.dumps(plain(profile), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _workload(run: RunResult) -> str:
    """What arrived, counted in the run itself (first seed), after what was asked for."""
    rows = run.requests
    arrived = np.sort(rows.arrival_ps[rows.arrival_ps >= 0])
    span_s = float(arrived[-1] - arrived[0]) / PS_PER_S if arrived.size > 1 else 0.0
    rate = f", {digits((arrived.size - 1) / span_s)} requests/s over {format_s(span_s)}" if span_s else ""
    workload = run.scenario.workload
    if workload.trace is not None:
        asked = f"trace {Path(workload.trace.path).name}"
    else:
        asked = f"{workload.arrivals.process} arrivals" if workload.arrivals is not None else "requests"
    warm = int(np.count_nonzero(~rows.is_measured))
    parts = [
        f"{asked}: {format_count(arrived.size)} requests{rate}",
        f"prompts {_lengths(rows.prompt_tokens)}",
        f"outputs {_lengths(rows.output_tokens)}",
        f"{format_count(warm)} of them warm-up" if warm else "",
        f"classes {', '.join(run.class_names)}" if len(run.class_names) > 1 else "",
    ]
    return "; ".join(part for part in parts if part)


def _lengths(tokens: Int64) -> str:
    middle, high = np.percentile(tokens, [50, 99]) if tokens.size else (0.0, 0.0)
    mean = float(tokens.mean()) if tokens.size else 0.0
    return f"of {digits(mean)} tokens on average (p50 {digits(float(middle))}, p99 {digits(float(high))})"


def _engine(engine: EngineConfig) -> str:
    """The settings that are not vLLM's default, and the first ones that anybody asks for."""
    default = EngineConfig(batching=engine.batching)
    changed = [one.name for one in fields(engine) if getattr(engine, one.name) != getattr(default, one.name)]
    names = [*ALWAYS_SHOWN, *(name for name in changed if name not in ALWAYS_SHOWN)]
    if engine.kv_allocator == "contiguous" and "kv_reservation" not in names:
        names.append("kv_reservation")
    if engine.kv_allocator == "paged" and "block_size" not in names:
        names.append("block_size")
    return ", ".join(setting_text({name: _plain(getattr(engine, name))}) for name in names)


def _plain(value: Any) -> Any:
    from sim.loading.dump import plain

    return plain(value)


def _variants(file: ScenarioFile[Scenario]) -> Iterator[tuple[str, str]]:
    """Each variant's differences from the file, exactly."""
    if len(file.variants) == 1 and not file.variants[0].differences:
        return
    for variant in file.variants:
        said = setting_text(_plain(variant.differences)) or "the file as it stands"
        yield variant.name, said + (" (reference)" if variant.name == file.reference else "")


def setting_text(tree: Mapping[str, Any], prefix: str = "") -> str:
    """A tree of settings on one line: ``engine.batching: static, engine.max_num_seqs: 8``."""
    parts = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            parts.append(setting_text(value, f"{prefix}{name}."))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            parts.append(f"{prefix}{name}: {json.dumps(value, default=str)}")
        else:
            shown = str(value).lower() if isinstance(value, bool) else value
            parts.append(f"{prefix}{name}: {shown}")
    return ", ".join(part for part in parts if part)


def _class_slos(base: Scenario) -> list[tuple[str, str]]:
    """The classes with bounds of their own."""
    classes = base.workload.classes or {}
    return [(name, _slo(one.slo)) for name, one in classes.items() if one.slo is not None]


def _slo(slo: Slo) -> str:
    bounds = {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s, "e2e_s": slo.e2e_s}
    given = [f"{name} within {format_s(value)}" for name, value in bounds.items() if value is not None]
    if not given:
        return ""
    return f"{', '.join(given)}, for at least {percent(slo.attainment_fraction)} of the offered requests"
