"""What is shipped, as text tables and as plain dictionaries: devices, engines, models, scenarios.

Sizes are shown in the vendor's units: GB = 10^9 bytes, GiB = 2^30 bytes; link rates are per direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import ScenarioError
from sim.hardware import EfficiencyCurve, HardwareProfile, Link, hardware_names, load_hardware
from sim.hardware.engine_profile import EngineProfile, engine_profile_names, load_engine_profile
from sim.hardware.load import QUANTITIES
from sim.hardware.profile import cards_meant
from sim.scenario.strict_yaml import load_yaml
from sim.units import format_bytes, format_quantity

if TYPE_CHECKING:
    from sim.model.shape import ModelShape

Row = dict[str, Any]


def hardware_rows() -> list[Row]:
    """One row per shipped device, in base units; None where a number is unknown."""
    return [_hardware_row(load_hardware(name)) for name in hardware_names()]


def _hardware_row(profile: HardwareProfile) -> Row:
    peaks = profile.peak_flops_per_s
    return {
        "name": profile.name,
        "architecture": profile.architecture,
        "sm_count": profile.sm_count,
        "hbm_bytes": profile.hbm_bytes,
        "hbm_bytes_per_s": profile.hbm_bytes_per_s,
        "float16_flops_per_s": peaks.get("float16"),
        "float8_flops_per_s": peaks.get("float8"),
        "intra_node_bytes_per_s": profile.intra_node.bytes_per_s if profile.intra_node else None,
        "tdp_w": profile.tdp_w,
        "usd_per_hour": profile.usd_per_hour,
    }


def model_rows() -> list[Row]:
    """One row per shipped model shape."""
    from sim.model.catalogue import hugging_face_names, model_names
    from sim.model.config import load_model
    from sim.model.counts import kv_bytes_per_token, num_parameters

    rows, names = [], hugging_face_names()
    for name in model_names():
        model = load_model(name)
        rows.append(
            {
                "name": name,
                "num_parameters": num_parameters(model),
                "num_hidden_layers": model.num_hidden_layers,
                "num_attention_heads": model.num_attention_heads,
                "num_key_value_heads": None if model.mla else model.num_key_value_heads,
                "kv_bytes_per_token": kv_bytes_per_token(model, 2),
                "max_position_embeddings": model.max_position_embeddings,
                # Each with its longest context, in which instruct models differ from their bases.
                "on_hugging_face": {
                    one: load_model(one).max_position_embeddings
                    for one, stem in names.items()
                    if stem == name
                },
            }
        )
    return rows


def scenario_rows() -> list[Row]:
    """One row per shipped scenario: its name and its question."""
    from sim.scenario.shipped import scenario_name, scenario_paths

    paths = scenario_paths()
    return [{"name": scenario_name(path), "question": load_yaml(path).get("question", "")} for path in paths]


def hardware_table() -> str:
    """The shipped devices as text."""
    head = ("name", "architecture", "SMs", "HBM", "HBM rate", "float16", "float8", "link", "TDP", "USD/h")
    lines = [
        (
            row["name"],
            row["architecture"],
            str(row["sm_count"]),
            f"{row['hbm_bytes'] / 2**30:.1f} GiB",
            _shown(row["hbm_bytes_per_s"], "bytes_per_s"),
            _shown(row["float16_flops_per_s"], "flops_per_s"),
            _shown(row["float8_flops_per_s"], "flops_per_s", absent="-"),
            _shown(row["intra_node_bytes_per_s"], "bytes_per_s"),
            _shown(row["tdp_w"], "w"),
            _shown(row["usd_per_hour"], "usd"),
        )
        for row in hardware_rows()
    ]
    note = "Per GPU; peaks dense; link: to a GPU of the same node, per direction. More: gpuyard show NAME"
    return f"{aligned([head, *lines])}\n  {note}"


def engine_table() -> str:
    """The shipped engine profiles as text."""
    head = ("name", "engine", "host", "per step", "per sequence", "before the scheduler")
    rows = []
    for name in engine_profile_names():
        one = load_engine_profile(name)
        times = (one.overheads.step_s, one.overheads.per_sequence_s, one.overheads.frontend_s)
        shown = (_shown(time_s, "s") for time_s in times)
        rows.append((name, f"{one.engine} {one.version}", one.host, *shown))
    return aligned([head, *rows])


def show_engine(profile: EngineProfile) -> str:
    """Every number of an engine profile that it states, and its source."""
    lines = [f"{profile.name} (engine profile, {profile.engine} {profile.version}, {profile.host})"]
    for name, source in profile.sources.items():
        value = getattr(profile.overheads, name, profile.async_scheduling)
        shown = _shown(value, "s") if name.endswith("_s") else str(value)
        lines += [f"  {name:<28}  {shown}", f"      {source}"]
    return "\n".join([*lines, *([f"  {profile.notes}"] if profile.notes else [])])


def model_table() -> str:
    """The shipped model shapes as text."""
    head = (
        *("name", "parameters", "layers", "heads", "KV heads", "KV a token (16 bit)", "longest"),
        "on Hugging Face",
    )
    lines = [
        (
            row["name"],
            f"{row['num_parameters'] / 1e9:.2f} B",
            str(row["num_hidden_layers"]),
            str(row["num_attention_heads"]),
            "latent" if row["num_key_value_heads"] is None else str(row["num_key_value_heads"]),
            f"{row['kv_bytes_per_token'] / 1024:.1f} KiB",
            f"{row['max_position_embeddings']:,}",
            ", ".join(_name_there(one, longest, row) for one, longest in row["on_hugging_face"].items()),
        )
        for row in model_rows()
    ]
    return aligned([head, *lines])


def _name_there(name: str, longest: int, row: Row) -> str:
    return name if longest == row["max_position_embeddings"] else f"{name} ({longest:,})"


def scenario_table() -> str:
    """The shipped scenarios and their questions as text."""
    return aligned([(row["name"], str(row["question"])) for row in scenario_rows()])


def trace_format_table() -> str:
    """The layouts of trace files, ``trace.format``, as text."""
    from sim.serving.workload.trace_formats import format_docs

    return aligned(list(format_docs().items()))


def describe(name: str) -> Row:
    """A device or a model by name or path, as a dictionary that JSON can hold."""
    found = _find(name)
    if isinstance(found, HardwareProfile):
        return {"kind": "hardware", **asdict(found)}
    if isinstance(found, EngineProfile):
        return {"kind": "engine_profile", **asdict(found)}
    return {"kind": "model", **_model_facts(found), **asdict(found)}


def show(name: str) -> str:
    """Every field of a device (with its source) or of a model, as text."""
    found = _find(name)
    if isinstance(found, HardwareProfile):
        return show_hardware(found)
    if isinstance(found, EngineProfile):
        return show_engine(found)
    facts = {**_model_facts(found), **asdict(found)}
    rows = [(key, _plain(value)) for key, value in facts.items() if value not in (None, "", ())]
    return f"{found.name} (model)\n{aligned(rows)}"


def show_hardware(profile: HardwareProfile) -> str:
    """Every field of a profile in readable units, and its source."""
    lines = [f"{profile.name} (hardware, {profile.vendor} {profile.architecture})"]
    for field in fields(profile):
        if field.name in ("name", "vendor", "architecture", "efficiency", "kernels", "sources", "notes"):
            continue
        for label, value in _flat(field.name, getattr(profile, field.name)):
            lines.append(f"  {label:<28}  {value}")
            lines += _source_lines(profile, label)
    for which, curve in profile.efficiency.items():
        lines.append(f"  efficiency.{which}")
        lines.append(f"      {_points(curve)}")
        lines += _source_lines(profile, f"efficiency.{which}")
    for operator, fit in profile.kernels.items():
        lent = f" (borrowed from {fit.borrowed_from})" if fit.borrowed_from else ""
        errors = f"median error {fit.median_error_fraction:.1%}, p90 {fit.p90_error_fraction:.1%}"
        lines.append(f"  kernels.{operator:<20}  {fit.law}: {errors}{lent}")
        lines += _source_lines(profile, f"kernels.{operator}")
    return "\n".join([*lines, *([f"  {profile.notes}"] if profile.notes else [])])


def _flat(name: str, value: object) -> list[tuple[str, str]]:
    """(label, text) of a field; one per dtype where it is a table."""
    if value is None:
        return [(name, "unknown")]
    if isinstance(value, Link):
        latency = "latency unknown" if value.latency_s is None else _shown(value.latency_s, "s")
        return [(name, f"{_shown(value.bytes_per_s, 'bytes_per_s')} per direction, {latency}")]
    if isinstance(value, Mapping):
        return [(f"{name}.{key}", _shown(one, "flops_per_s")) for key, one in value.items()]
    if name in QUANTITIES and isinstance(value, (int, float)):
        return [(name, _shown(value, QUANTITIES[name].unit))]
    return [(name, str(value))]


def _points(curve: EfficiencyCurve) -> str:
    return "  ".join(f"{_size(size, curve.size_unit)}: {fraction:.3g}" for size, fraction in curve.points)


def _size(size: float, unit: str) -> str:
    prefix, factor = next(
        ((p, f) for p, f in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)) if size >= f), ("", 1.0)
    )
    return f"{size / factor:.3g} {prefix}{'B' if unit == 'bytes' else 'FLOP'}"


def _source_lines(profile: HardwareProfile, label: str) -> list[str]:
    return [f"      {profile.sources[label]}"] if label in profile.sources else []


def _shown(value: float | None, unit: str, absent: str = "unknown") -> str:
    """A number with its unit; bytes in both kinds of unit."""
    if value is None:
        return absent
    if unit == "bytes":
        return format_bytes(value)
    if unit == "count":
        return f"{value:,}"
    if unit in ("w", "usd"):
        return f"{value:g} W" if unit == "w" else f"{value:.2f}"
    return format_quantity(value, unit)


def _model_facts(model: ModelShape) -> Row:
    """What follows from a model's sizes."""
    from sim.model.counts import kv_bytes_per_token, num_active_parameters, num_parameters

    return {
        "num_parameters": num_parameters(model),
        "num_active_parameters": num_active_parameters(model),
        "kv_bytes_per_token_16_bit": kv_bytes_per_token(model, 2),
    }


def _plain(value: object) -> str:
    """A model's field as text; equal layers are counted, not listed."""
    if isinstance(value, tuple) and value and all(isinstance(one, str) for one in value) and len(value) > 3:
        return ", ".join(f"{value.count(kind)} x {kind}" for kind in dict.fromkeys(value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _find(name: str) -> HardwareProfile | EngineProfile | ModelShape:
    """The device or the model of that name or path."""
    from sim.model.catalogue import by_hugging_face_name, model_names
    from sim.model.config import load_model

    if name in model_names() or Path(name).suffix == ".json" or by_hugging_face_name(name):
        return load_model(name, path="")
    if name in engine_profile_names() or _is_engine_file(Path(name)):
        return load_engine_profile(name, path="")
    if name in hardware_names() or Path(name).suffix in (".yaml", ".yml"):
        return load_hardware(name, path="")
    from sim.errors import closest

    near = cards_meant(name, hardware_names())
    other = closest(name, [*engine_profile_names(), *model_names()])
    near = near or ([other] if other else [])
    raise ScenarioError(
        "no hardware or engine profile and no model of this name"
        + (f"; did you mean {' or '.join(near)}?" if near else ""),
        given=name,
        allowed="a name from gpuyard list, or a path to a .yaml profile or a config.json",
    )


def _is_engine_file(path: Path) -> bool:
    """Whether a YAML file is an engine profile: nothing else has overheads at its top."""
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    tree = load_yaml(path)
    return isinstance(tree, Mapping) and "overheads" in tree


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, the first row being the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join("  " + line.rstrip() for line in lines)
