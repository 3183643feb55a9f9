"""The scenario format as a JSON Schema (2020-12), made from the dataclasses: for editors.

It holds what one key at a time can say: names, kinds, units, bounds. What must hold between keys
is ``sim.serving.checks.scenario``'s, and ``gpuyard check`` says it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

from sim.errors import MANY_WORDS
from sim.hardware import HardwareProfile
from sim.kinds.registry import KINDS
from sim.model.shape import ModelShape
from sim.scenario.build import field_hints, takes_number, unit_in
from sim.scenario.fields import SCHEMA_VERSION, Threshold
from sim.scenario.file import Measured
from sim.scenario.measured import MeasuredColumn, MeasuredTable
from sim.scenario.not_modelled import not_modelled_text
from sim.scenario.scalars import LIMITS, MAX_PLAIN
from sim.units import UNITS, allowed_units, unit_of_name

JsonSchema = dict[str, Any]

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_NUMBER = r"^\s*[+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][+-]?[0-9]{1,3})?\s*"
# Sections that say the same for all variants (sim.scenario.variants refuses them there).
_NOT_IN_VARIANTS = ("schema_version", "question", "kind", "seeds", "thresholds")


def scenario_schema() -> JsonSchema:
    """The JSON Schema of a scenario file."""
    made = Definitions()
    kinds = {name: _of_kind(name, kind.scenario, made) for name, kind in KINDS.items()}
    for name, one in kinds.items():
        made.by_name[f"{name.capitalize()}Scenario"] = one
    choice = [
        {
            "if": {"properties": {"kind": {"const": name}}, "required": ["kind"]},
            "then": {"$ref": f"#/$defs/{name.capitalize()}Scenario"},
        }
        for name in kinds
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Gpuyard scenario",
        "description": not_modelled_text(),
        "type": "object",
        "properties": {"kind": {"description": "what is simulated", "enum": list(kinds)}},
        "required": ["kind"],
        "allOf": choice,
        "$defs": dict(sorted(made.by_name.items())),
    }


def _of_kind(name: str, cls: type, made: Definitions) -> JsonSchema:
    """The scenario of one kind, its variants' differences as a definition of their own."""
    top = made.object_of(cls, None, is_partial=False)
    variant = made.object_of(cls, None, is_partial=True)
    reference = f"#/$defs/{name.capitalize()}Variant"
    for key in _NOT_IN_VARIANTS:
        del variant["properties"][key]
    made.by_name[f"{name.capitalize()}Variant"] = variant
    top["properties"]["schema_version"] = {"const": SCHEMA_VERSION, "description": "format of this file"}
    top["properties"]["compare"] = {
        "description": "variants, each with its differences from the file, compared with the reference",
        "type": "object",
        "properties": {
            "reference": {"type": "string", "description": "the variant that the others are compared with"},
            "variants": {
                "type": "object",
                "minProperties": 2,
                "additionalProperties": {"anyOf": [{"$ref": reference}, {"type": "null"}]},
            },
        },
        "required": ["reference", "variants"],
        "additionalProperties": False,
    }
    top["properties"]["measured"] = _measured(made)
    return top


def _measured(made: Definitions) -> JsonSchema:
    """What `gpuyard validate` compares a run with: values, or tables of them."""
    one = made.object_of(Measured, None, is_partial=False)
    for name in ("value", "at_least", "at_most"):  # in the unit of the metric, which the schema cannot know
        doc = one["properties"][name]["description"]
        one["properties"][name] = {"description": doc, "type": ["number", "string"]}
    table = made.object_of(MeasuredTable, None, is_partial=False)
    made.by_name["MeasuredColumn"] = made.object_of(MeasuredColumn, None, is_partial=False)
    paths = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    table["properties"]["columns"]["additionalProperties"] = _any_of(
        {"type": "string"}, paths, {"$ref": "#/$defs/MeasuredColumn"}
    )
    made.by_name |= {"Measured": one, "MeasuredTable": table}
    return {
        "description": "measured values that `gpuyard validate` compares the run with",
        "type": "array",
        "minItems": 1,
        "items": _any_of({"$ref": "#/$defs/Measured"}, {"$ref": "#/$defs/MeasuredTable"}),
    }


@dataclass(slots=True)
class Definitions:
    """Named parts of the schema, made as they are met."""

    by_name: dict[str, JsonSchema] = field(default_factory=dict)

    def object_of(self, cls: type, unit: str | None, *, is_partial: bool) -> JsonSchema:
        """The schema of a dataclass's mapping; ``is_partial``: of differences, where nothing is required."""
        properties, required = {}, []
        for name, (one, hint) in field_hints(cls).items():
            described = self.value_of(hint, one.metadata, unit_in(cls, name, unit), is_partial)
            properties[name] = {**_doc(one), **described}
            if "choices" in one.metadata:
                properties[name]["description"] += _choice_docs(one.metadata["choices"]())
            if one.default is MISSING and one.default_factory is MISSING:
                required.append(name)
        made: JsonSchema = {"type": "object", "description": _first_line(cls), "properties": properties}
        if required and not is_partial:
            made["required"] = required
        return {**made, "additionalProperties": False}

    def value_of(
        self, hint: object, bounds: Mapping[str, Any], unit: str | None, is_partial: bool
    ) -> JsonSchema:
        """The schema of one value of type ``hint``."""
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            inner = next(one for one in get_args(hint) if one is not types.NoneType)
            return _any_of(self.value_of(inner, bounds, unit, is_partial), {"type": "null"})
        if origin is Literal:
            return {"enum": list(get_args(hint))}
        if origin is tuple:
            return {"type": "array", "items": self.value_of(get_args(hint)[0], bounds, unit, is_partial)}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            inner = self.value_of(get_args(hint)[1], {}, unit, is_partial)
            return {"type": "object", "additionalProperties": inner}
        if hint in (HardwareProfile, ModelShape):
            return _any_of({"type": "string"}, {"type": "object"})
        if isinstance(hint, type) and is_dataclass(hint):
            return self._reference(hint, unit, is_partial)
        return _scalar(hint, bounds, unit)

    def _reference(self, cls: type, unit: str | None, is_partial: bool) -> JsonSchema:
        name = cls.__name__ + (f"In_{unit or 'count'}" if takes_number(cls) else "")
        name += "Differences" if is_partial else ""
        if name not in self.by_name:
            self.by_name[name] = {}
            if cls is Threshold:
                self.by_name[name] = self._threshold()
            else:
                self.by_name[name] = self.object_of(cls, unit, is_partial=is_partial)
        reference = {"$ref": f"#/$defs/{name}"}
        return _any_of(reference, _number(float, {"ge": 0}, unit)) if takes_number(cls) else reference

    def _threshold(self) -> JsonSchema:
        """A threshold's bounds are in the unit of its metric's name: a number, or text with any unit."""
        made = self.object_of(Threshold, None, is_partial=False)
        for name in ("min", "max"):
            doc = made["properties"][name]["description"]
            made["properties"][name] = {"description": doc, "type": ["number", "string", "null"]}
        return made


def _scalar(hint: object, bounds: Mapping[str, Any], unit: str | None) -> JsonSchema:
    """A number, a switch, or text, which may have to be one of its choices."""
    if hint in (int, float):
        return _number(hint, bounds, unit)
    if "choices" in bounds:
        words: JsonSchema = {"enum": list(bounds["choices"]())}
        like = ":" if "or_path" in bounds else bounds.get("or_like")
        return _any_of(words, {"type": "string", "pattern": like}) if like else words
    return {} if hint is Any else {"type": "boolean" if hint is bool else "string"}


def _choice_docs(choices: Iterable[str]) -> str:
    """A line per choice, where the dict that they stand in says what each means."""
    if not isinstance(choices, Mapping):
        return ""
    docs = {name: one if isinstance(one, str) else getattr(one, "doc", "") for name, one in choices.items()}
    return "".join(f"\n{name}: {doc}" for name, doc in docs.items() if doc)


def _number(kind: object, bounds: Mapping[str, Any], unit: str | None) -> JsonSchema:
    limits = {word: bounds[name] for name, word in _BOUNDS.items() if name in bounds}
    limits.setdefault("maximum", LIMITS.get(unit or "", MAX_PLAIN))
    plain = {"type": "integer" if kind is int else "number", **limits}
    if unit is None:
        return plain
    units = "|".join(re.escape(name) for name in sorted(UNITS[unit], key=len, reverse=True))
    text = {"type": "string", "pattern": f"{_NUMBER}({units})\\s*$", "description": allowed_units(unit)}
    return _any_of(plain, text)


def _any_of(*options: JsonSchema) -> JsonSchema:
    flat: list[JsonSchema] = []
    for option in options:
        flat.extend(option["anyOf"] if set(option) == {"anyOf"} else [option])
    return {"anyOf": flat}


def _doc(one: Field[Any]) -> JsonSchema:
    doc = one.metadata.get("doc")
    unit = unit_of_name(one.name)
    shown: JsonSchema = {"title": one.name}
    if doc:
        shown["description"] = (f"{doc} [{unit}]" if unit else doc) + _meanings(one)
    if isinstance(one.default, (bool, int, float, str)):
        shown["default"] = one.default
    return shown


def _meanings(one: Field[Any]) -> str:
    """What each choice means, where the entries of the dict that names them say so, and are few."""
    choices = one.metadata["choices"]() if "choices" in one.metadata else None
    if not isinstance(choices, Mapping) or len(choices) > MANY_WORDS:
        return ""
    said = [f"{name}: {entry.meaning}" for name, entry in choices.items() if hasattr(entry, "meaning")]
    return f" ({'; '.join(said)})" if said else ""


def _first_line(cls: type) -> str:
    return str(cls.__doc__ or cls.__name__).strip().splitlines()[0]
