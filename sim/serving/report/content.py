"""The sections of a serving report in their order, with what to trust in it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.arrays import PS_PER_S, Int64
from sim.hardware import HardwareProfile
from sim.hardware.engine_profile import EngineOverheads
from sim.report.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Facts,
    Prose,
    Report,
    Section,
    Table,
    profile_hash,
    setting_text,
    text_table,
    what_decides_first,
)
from sim.report.decision import class_section, decision_section, report_with, warning_section
from sim.report.figures import Lane, Picture, digits, lanes, percent
from sim.report.terminal import run_notes
from sim.results.answer import headline_metric
from sim.results.metric import format_metric
from sim.scenario.file import ScenarioFile, plain, scenario_word
from sim.scenario.variants import flattened
from sim.serving.metrics import METRICS
from sim.serving.records import RunResult
from sim.serving.report.block_map import block_map_pictures
from sim.serving.report.latency import arrival_picture, cdf_picture, hits_picture, kv_picture
from sim.serving.report.load import has_kv, load_pictures, operator_picture
from sim.serving.scenario import EngineConfig, Scenario, Slo
from sim.units import (
    format_bytes,
    format_count,
    format_gb,
    format_gib,
    format_quantity,
    format_s,
    unit_of_name,
)
from sim.version import __version__

if TYPE_CHECKING:
    from sim.results.answer import Answer


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
        ("Measured", _measured(answer)),
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


def _measured(answer: Answer[Scenario, RunResult]) -> str:
    """The windows of the first seeds: once where they are the same for all variants."""
    said = {name: answer.summaries[name][0].window for name in answer.comparison.variants}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{name}: {window}" for name, window in said.items())


def command(file: ScenarioFile[Scenario]) -> str:
    """The command line that gives this report again."""
    words = ["gpuyard", "run", scenario_word(file.path)]
    trace = file.base.workload.trace
    if trace is not None and Path(trace.path).is_absolute():
        words += ["--trace", trace.path]
    for override in file.overrides:
        words += ["--set", override]
    return shlex.join(words)


def _source(file: ScenarioFile[Scenario]) -> str:
    overrides = f", with {', '.join(file.overrides)}" if file.overrides else ""
    return f"{scenario_word(file.path)}{overrides}"


def _model(base: Scenario) -> str:
    from sim.model.counts import num_parameters

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
    from sim.scenario.file import plain

    return plain(value)


def _variants(file: ScenarioFile[Scenario]) -> Iterator[tuple[str, str]]:
    """Each variant's differences from the file, exactly."""
    if len(file.variants) == 1 and not file.variants[0].differences:
        return
    for variant in file.variants:
        said = setting_text(_plain(variant.differences)) or "the file as it stands"
        yield variant.name, said + (" (reference)" if variant.name == file.reference else "")


def _class_slos(base: Scenario) -> list[tuple[str, str]]:
    """The classes with bounds of their own."""
    classes = base.workload.classes or {}
    return [(name, _slo(one.slo)) for name, one in classes.items() if one.slo is not None]


def _slo(slo: Slo) -> str:
    limits = [f"{name} at most {format_s(value)}" for name, value in slo.limits.items()]
    given = [f"{name}_s within {format_s(value)}" for name, value in slo.bounds.items()]
    if limits or not given:
        return ", ".join(limits)
    return f"{', '.join(given)}, for at least {percent(slo.attainment_fraction)} of the offered requests"


MAX_VICTIMS = 3


HEADER = (
    "variant",
    "evictions",
    "requests hit",
    "tokens lost",
    "re-spent",
    "first",
    "most often (first seed)",
)


def preemption_section(answer: Answer[Scenario, RunResult]) -> Section | None:
    """Per variant, over all seeds; None where nobody was evicted."""
    results = answer.results
    if not any(run.preemptions.time_ps.size for runs in results.values() for run in runs):
        return None
    rows = [
        _row(variant, list(results[variant]), answer.comparison.cells[variant]["recompute_s"].mean)
        for variant in answer.comparison.variants
    ]
    note = (
        "Sums over all seeds and the whole run; seconds re-spent are the mean of a run's window. "
        "A preempted request loses its KV entries and computes them again."
    )
    return Section(title="Preemptions", blocks=(Table(header=HEADER, rows=tuple(rows), notes=(note,)),))


def _row(variant: str, runs: list[RunResult], respent_s: float | None) -> tuple[Cell, ...]:
    ledgers = [run.preemptions for run in runs]
    total = sum(ledger.time_ps.size for ledger in ledgers)
    hit = sum(np.unique(ledger.request).size for ledger in ledgers)
    lost = sum(int(ledger.recompute_tokens.sum()) for ledger in ledgers)
    moments = [int(ledger.time_ps.min()) for ledger in ledgers if ledger.time_ps.size]
    victims, counts = np.unique(ledgers[0].request, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_VICTIMS]
    often = ", ".join(f"request {victims[i]}: {counts[i]}" for i in order)
    texts = (
        variant,
        format_count(total),
        format_count(hit),
        format_count(lost),
        "–" if respent_s is None else format_metric(respent_s, METRICS["recompute_s"]),
        format_s(min(moments) / PS_PER_S) if moments else "–",
        often or "–",
    )
    return tuple(Cell(text=text) for text in texts)


# First match wins: a number borrowed from a measurement elsewhere is not one measured here.
KINDS = (
    ("borrowed", ("borrowed",)),
    ("assumed", ("assumed", "assumption", "guess")),
    ("fitted", ("fitted", "fit ")),
    ("measured", ("measured", "nvidia-smi", "pytorch's total", "benchmark")),
    ("datasheet", ("datasheet", "data sheet", "whitepaper", "specification", "database", "arch_traits")),
)


def trust_section(answer: Answer[Scenario, RunResult]) -> Section:
    """What was assumed and read, and where every number comes from; warnings stand with the answer."""
    blocks: list[Block] = [
        *_notes(answer),
        *_provenance(answer),
        *_memory(answer),
    ]
    return Section(title="How far to trust this", blocks=blocks)


def _notes(answer: Answer[Scenario, RunResult]) -> list[Block]:
    """What the runs noted, each once."""
    notes = run_notes(answer)
    return [Bullets(items=tuple(notes))] if notes else []


def _scenarios(answer: Answer[Scenario, RunResult]) -> list[Scenario]:
    return [runs[0].scenario for runs in answer.results.values() if runs]


def _provenance(answer: Answer[Scenario, RunResult]) -> list[Block]:
    """One table per profile in use."""
    profiles = {scenario.hardware.name: scenario.hardware for scenario in _scenarios(answer)}
    blocks: list[Block] = []
    for profile in profiles.values():
        rows = [*sourced(profile), *_overheads(answer, profile)]
        counts = {kind: sum(row[1] == kind for row in rows) for kind in dict.fromkeys(row[1] for row in rows)}
        summed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        blocks.append(Prose(text=f"Numbers behind the seconds, {profile.name}: {summed}."))
        blocks.append(
            text_table(
                ("number", "kind", "value", "source"), rows, f"Where the numbers of {profile.name} come from"
            )
        )
    return blocks


def kind_of(source: str) -> str:
    """What stands behind a number, by the words of its source."""
    words = source.lower()
    return next((kind for kind, signs in KINDS if any(sign in words for sign in signs)), "cited")


def sourced(profile: HardwareProfile) -> Iterator[tuple[str, str, str, str]]:
    """(number, kind, value, source) of every field with a source, efficiency curves last."""
    numbers = plain(profile)
    for name, source in profile.sources.items():
        if not name.startswith("efficiency."):
            yield name, kind_of(source), _value(numbers, name), source
    for name, curve in profile.efficiency.items():
        fractions = [fraction for _, fraction in curve.points]
        shown = f"{percent(min(fractions))} to {percent(max(fractions))} of peak" if fractions else ""
        yield f"efficiency.{name}", kind_of(curve.source), shown, curve.source


def _value(numbers: Mapping[str, Any], name: str) -> str:
    """A profile's number under a dotted name, with its unit."""
    found: Any = numbers
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, Mapping):
        return ", ".join(_quantity(key, value) for key, value in found.items())
    return "unknown" if found is None else _quantity(name.split(".")[0], found)


def _quantity(name: str, value: object) -> str:
    if not isinstance(value, (int, float)):
        return str(value)
    unit = "flops_per_s" if name.endswith("flops_per_s") else unit_of_name(name)
    return digits(value) if unit is None else format_quantity(value, unit)


def _overheads(
    answer: Answer[Scenario, RunResult], hardware: HardwareProfile
) -> Iterator[tuple[str, str, str, str]]:
    """The engines' host times on this device, each once, with the variants that have it if not all do."""
    runs = {name: runs[0].scenario for name, runs in answer.results.items() if runs}
    engines = {name: one.engine.overheads for name, one in runs.items() if one.hardware.name == hardware.name}
    for field in fields(EngineOverheads):
        names: dict[tuple[str, str], list[str]] = {}
        for name, overheads in engines.items():
            value = getattr(overheads, field.name)
            if field.name != "source" and value != field.default:
                found = _overhead(field.name, value), overheads.source or "no source given"
                names.setdefault(found, []).append(name)
        for (shown, source), having in names.items():
            whose = "" if len(having) == len(engines) else f" ({', '.join(having)})"
            yield f"engine.overheads.{field.name}{whose}", kind_of(source), shown, source


def _overhead(name: str, value: float | bool | tuple[int, ...]) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} sizes to {max(value)}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_quantity(value, "s") if name.endswith("_s") else digits(value)


def _memory(answer: Answer[Scenario, RunResult]) -> list[Block]:
    """Where each GPU's memory goes, with the formulas; variants with the same plan share a table."""
    plans: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for variant, runs in answer.results.items():
        plan = runs[0].explain.get("memory") if runs else None
        if isinstance(plan, Mapping):
            plans.setdefault(repr(plan), ([], plan))[0].append(variant)
    blocks: list[Block] = []
    for names, plan in plans.values():
        whose = "" if len(plans) == 1 else f" ({', '.join(names)})"
        rows = [_memory_row(line) for line in plan.get("lines", ())]
        rows += _memory_results(plan)
        blocks.append(Prose(text=f"Where the memory of each GPU goes{whose}:"))
        blocks.append(text_table(("", "size", "formula"), rows))
        told = (*plan.get("warnings", ()), *plan.get("notes", ()))
        blocks += [Bullets(items=tuple(map(str, told)))] if told else []
    return blocks


def _memory_results(plan: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is left for KV, and what fits into it."""
    if "kv_budget_bytes" in plan:
        size = f"{format_count(plan['num_gpu_blocks'])} blocks of {format_bytes(plan['block_bytes'])}"
        yield "left for KV", format_bytes(plan["kv_budget_bytes"]), f"{plan['kv_budget_formula']}: {size}"
        yield "KV tokens", format_count(plan["kv_budget_tokens"]), plan["kv_tokens_formula"]
        yield "full-length requests", f"{plan['max_concurrency']:.2f}", _full_requests(plan)
    if "kv_bytes_per_token" in plan:
        yield "KV per token", format_bytes(plan["kv_bytes_per_token"]), str(plan.get("kv_formula", ""))


def _full_requests(plan: Mapping[str, Any]) -> str:
    """What the number of requests is of, and what decodes at once where windows and states let go."""
    told = f"of {format_count(plan['max_model_len'])} tokens"
    if plan["account"].startswith("vllm"):
        told = f"vLLM's own maximum concurrency: {told}, each with what its prompt takes while it is computed"
    if plan["decoding_requests"] is not None:
        told += f"; while they decode up to {format_count(plan['decoding_requests'])}"
    return told


def _memory_row(line: Mapping[str, Any]) -> tuple[str, str, str]:
    size = line.get("bytes")
    shown = format_bytes(size) if isinstance(size, (int, float)) else str(size)
    formula, basis = str(line.get("formula", "")), line.get("basis")
    return str(line.get("label", "")), shown, f"{formula} [{basis}]" if basis else formula


# Printed in every report of serving.
NOT_MODELLED = (
    "The network between client and engine, HTTP, tokenisation and detokenisation, except as the named "
    "engine overheads.",
    "Token content: lengths are given, no request stops early or loops, and sampling costs the same for all.",
    "Draft models (EAGLE, MTP), LoRA adapters, multi-modal inputs, structured output; n-gram drafts are "
    "right at a given rate.",
    "Expert and data parallelism inside one replica; pipelines with asynchronous "
    "scheduling or drafts; disaggregated prefill and decode.",
    "KV offload to host memory or disk, and swapping: a preempted request is recomputed.",
    "Clock changes with power and temperature, other tenants of the GPU, ECC and failures.",
    "Overlap of kernels on different streams; asynchronous scheduling hides all host time that fits behind "
    "the kernels.",
    "Imbalance: all tensor-parallel ranks take the same time; experts receive tokens evenly.",
    "Start-up, but for overheads.cold_start_s: model loading, graph capture, autoscaling.",
)


def build_report(answer: Answer[Scenario, RunResult]) -> Report:
    """The whole report of an answered scenario."""
    sections = what_decides_first(
        (decision_section(answer), class_section(answer), warning_section(answer.comparison)),
        (
            question_section(answer),
            Section(title="Why", pictures=report_pictures(answer)),
            preemption_section(answer),
            trust_section(answer),
            Section(title="What is not modelled", blocks=(Bullets(items=NOT_MODELLED),)),
            Section(title="Reproduce", blocks=_reproduce(answer)),
        ),
        (*_deciding_by_order(answer), *_deciding(headline_metric(answer.comparison))),
    )
    return report_with(answer, sections)


def _deciding(headline: str) -> tuple[str, ...]:
    """Which picture shows what the answer is about; the first of them that there is."""
    times = [f"cdf_{metric}" for metric in ("ttft_s", "tpot_s", "e2e_s")]
    if headline.startswith("kv_"):
        return ("kv_budget", *times)
    own = [key for key in times if headline.endswith(key.removeprefix("cdf_"))]
    return (*own, "ttft_by_arrival", *times)


_ORDER = ("engine.policy", "routing")  # who is served first, and where


def _deciding_by_order(answer: Answer[Scenario, RunResult]) -> tuple[str, ...]:
    """Of variants that differ in nothing but the order in which they serve what may be cached."""
    keys = {key for one in answer.file.variants for key in flattened(one.differences)}
    return ("hits-and-ttft",) if keys and keys <= {*_ORDER} else ()


def report_pictures(answer: Answer[Scenario, RunResult]) -> list[Picture]:
    """All pictures, in the order in which they are read; what has nothing to show is left out."""
    shown = lanes(answer.comparison.variants)
    slo = answer.file.base.slo
    bounds = {name: slo.bounds.get(name.removesuffix("_s")) for name in ("ttft_s", "tpot_s", "e2e_s")}
    pictures = [
        *(cdf_picture(answer.results, shown, metric, bound) for metric, bound in bounds.items()),
        arrival_picture(answer.results, shown),
        hits_picture(answer.comparison, shown),
        *load_pictures(answer.results, shown),
        *_kv_pictures(answer, shown),
        operator_picture(answer.results, shown),
    ]
    return [picture for picture in pictures if picture is not None]


def _kv_pictures(answer: Answer[Scenario, RunResult], shown: Sequence[Lane]) -> list[Picture]:
    """The KV budget and the block maps of the variants that have KV memory."""
    holders = [lane for lane in shown if all(has_kv(run) for run in answer.results[lane.name])]
    if not holders:
        return []
    return [kv_picture(answer.results, holders), *block_map_pictures(answer.results, holders)]


def _reproduce(answer: Answer[Scenario, RunResult]) -> tuple[Block, ...]:
    """The command, and the scenario it runs with every default written out."""
    import yaml

    from sim.scenario.file import to_raw

    full = yaml.safe_dump(to_raw(answer.file), sort_keys=False, allow_unicode=True, width=100)
    return (
        Code(text=command(answer.file)),
        Code(text=full, summary="The scenario as it was run, defaults written out"),
    )
