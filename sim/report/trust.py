"""How far to trust the report: warnings, where the profile's numbers come from, where memory went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sim.hardware import HardwareProfile
from sim.loading.dump import plain
from sim.report.blocks import Block, Bullets, Prose, Section, text_table
from sim.report.figures import digits, percent
from sim.scenario import EngineOverheads
from sim.units import format_bytes, format_count, format_quantity, unit_of_name

if TYPE_CHECKING:
    from sim.answer import Answer
    from sim.records import RunResult
    from sim.scenario import Scenario

# First match wins: a number borrowed from a measurement elsewhere is not one measured here.
KINDS = (
    ("borrowed", ("borrowed",)),
    ("assumed", ("assumed", "assumption", "guess")),
    ("fitted", ("fitted", "fit ")),
    ("measured", ("measured", "nvidia-smi", "pytorch's total", "benchmark")),
    ("datasheet", ("datasheet", "data sheet", "whitepaper", "specification", "database", "arch_traits")),
)


def trust_section(answer: Answer[Scenario, RunResult]) -> Section:
    """Warnings first; a reader who stops there has read what matters."""
    blocks: list[Block] = [*_warnings(answer), *_notes(answer), *_provenance(answer), *_memory(answer)]
    return Section(title="How far to trust this", blocks=blocks)


def _warnings(answer: Answer[Scenario, RunResult]) -> list[Block]:
    warnings = answer.comparison.warnings
    if not warnings:
        return [Prose(text="No warning was raised.")]
    return [Bullets(items=tuple(f"{who}: {caution}" if who else str(caution) for who, caution in warnings))]


def _notes(answer: Answer[Scenario, RunResult]) -> list[Block]:
    """What the runs noted, each once."""
    notes = dict.fromkeys(
        f"{name}: {note}" for name, runs in answer.results.items() for run in runs[:1] for note in run.notes
    )
    return [Bullets(items=tuple(notes))] if notes else []


def _scenarios(answer: Answer[Scenario, RunResult]) -> list[Scenario]:
    return [runs[0].scenario for runs in answer.results.values() if runs]


def _provenance(answer: Answer[Scenario, RunResult]) -> list[Block]:
    """One table per profile in use."""
    profiles = {scenario.hardware.name: scenario.hardware for scenario in _scenarios(answer)}
    blocks: list[Block] = []
    for profile in profiles.values():
        rows = [*_sourced(profile), *_overheads(answer, profile)]
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


def _sourced(profile: HardwareProfile) -> Iterator[tuple[str, str, str, str]]:
    """(number, kind, value, source) of every field with a source, efficiency curves last."""
    for name, source in profile.sources.items():
        if not name.startswith("efficiency."):
            yield name, kind_of(source), _value(profile, name), source
    for name, curve in profile.efficiency.items():
        fractions = [fraction for _, fraction in curve.points]
        shown = f"{percent(min(fractions))} to {percent(max(fractions))} of peak" if fractions else ""
        yield f"efficiency.{name}", kind_of(curve.source), shown, curve.source


def _value(profile: HardwareProfile, name: str) -> str:
    """The profile's number under a dotted name, with its unit."""
    found: Any = plain(profile)
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
        blocks += [Bullets(items=tuple(map(str, plan["notes"])))] if plan.get("notes") else []
    return blocks


def _memory_results(plan: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is left for KV, and what fits into it."""
    if "kv_budget_bytes" in plan:
        tokens = format_count(plan.get("kv_budget_tokens", 0))
        blocks = f"{format_count(plan.get('num_gpu_blocks', 0))} blocks of {plan.get('block_size')} tokens"
        yield "left for KV", format_bytes(plan["kv_budget_bytes"]), f"{tokens} tokens: {blocks}"
    if "kv_bytes_per_token" in plan:
        yield "KV per token", format_bytes(plan["kv_bytes_per_token"]), str(plan.get("kv_formula", ""))


def _memory_row(line: Mapping[str, Any]) -> tuple[str, str, str]:
    size = line.get("bytes")
    shown = format_bytes(size) if isinstance(size, (int, float)) else str(size)
    return str(line.get("label", "")), shown, str(line.get("formula", ""))
