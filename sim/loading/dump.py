"""The effective scenario as a plain tree: every default written out, in base units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.scenario_file import AnyScenario, ScenarioFile


def to_raw(file: ScenarioFile[AnyScenario]) -> dict[str, Any]:
    """The question as understood: a tree that loads to the same scenario again.

    Hardware and model stand as they were given (a name, or differences from one). Optional keys
    that were not given are left out; all others show their value.
    """
    tree: dict[str, Any] = {}
    for one in fields(file.base):
        if one.name in ("hardware", "model", "devices"):
            tree[one.name] = file.raw.get(one.name, {})
        else:
            tree[one.name] = plain(getattr(file.base, one.name))
    if "compare" in file.raw:
        variants = {variant.name: plain(variant.differences) for variant in file.variants}
        tree["compare"] = {"reference": file.reference, "variants": variants}
    return {name: value for name, value in tree.items() if value not in ({}, [])}


def plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as dicts and lists, what is None left out."""
    if is_dataclass(value):
        given = {one.name: getattr(value, one.name) for one in fields(value)}
        return {name: plain(item) for name, item in given.items() if item is not None}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
