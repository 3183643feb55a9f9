"""Whether a scenario leaves anything to chance: without, another seed gives the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from sim.scenario.distribution import Distribution


def has_drawn_values(content: object) -> bool:
    """Whether any distribution in a scenario, or in a part of one, gives more than a single value."""
    if isinstance(content, Distribution):
        return content.distribution != "fixed"
    if isinstance(content, Mapping):
        return any(has_drawn_values(one) for one in content.values())
    if isinstance(content, tuple):
        return any(has_drawn_values(one) for one in content)
    if is_dataclass(content):
        return any(has_drawn_values(getattr(content, one.name)) for one in fields(content))
    return False
