"""How a scenario's fields are declared: ``key(...)`` states a field's meaning and bounds once.

The loader checks them and the JSON Schema prints them. A bare number is in the unit of its name (``_s``,
``_bytes``, ``_tokens``); code holds base units only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, field
from typing import Any

from sim.errors import InvariantError
from sim.scenario.dataclass import dataclass

SCHEMA_VERSION = 1


def key(
    doc: str,
    *,
    default: Any = MISSING,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Callable[[], Iterable[str]] | None = None,
    or_path: bool = False,
    or_like: str | None = None,
    like_said: str | None = None,
) -> Any:
    """A dataclass field with its meaning and its bounds (``ge``: at least, ``gt``: above, ...).

    ``choices`` names the values that a text field may take: a function, called each time a file is read or a
    schema is made, so that ``lambda: SYNC`` follows whatever is registered in ``SYNC``. With ``or_path``,
    ``PATH:NAME`` is allowed beside them, with ``or_like`` what a regular expression matches (``like_said`` in
    words, which then stand for the choices).
    """
    bounds: dict[str, object] = {
        "ge": ge,
        "gt": gt,
        "le": le,
        "lt": lt,
        "choices": choices,
        "or_path": or_path or None,
    }
    bounds |= {"or_like": or_like, "like_said": like_said}
    metadata = {"doc": doc, **{name: value for name, value in bounds.items() if value is not None}}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


class Announced:
    """Choices of a field that its own module cannot import, because their entries read that module's fields.

    The module that holds the dict announces it when it is imported; a kind imports it before a file is read.
    ``keys_of`` tells which keys beside the field a choice understands, of those that not all of them do.
    """

    def __init__(self) -> None:
        self._choices: Mapping[str, object] | None = None
        self.keys_of: Callable[[str], frozenset[str]] = lambda name: frozenset()

    def are(self, choices: Mapping[str, object], keys_of: Callable[[str], frozenset[str]]) -> None:
        """Said once, by the module of the dict."""
        self._choices, self.keys_of = choices, keys_of

    def __call__(self) -> Mapping[str, object]:
        if self._choices is None:
            raise InvariantError("a field's choices were asked for before their module was imported")
        return self._choices

    def names_with(self, key: str) -> list[str]:
        """The choices that understand a key."""
        return [name for name in self() if key in self.keys_of(name)]

    def foreign_keys(self, chosen: str) -> frozenset[str]:
        """Keys that some choice understands and this one does not."""
        return frozenset().union(*map(self.keys_of, self())) - self.keys_of(chosen)


# --- the whole ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A bound on a metric of one variant; a miss makes exit code 1."""

    metric: str = key("a metric of the summary, e.g. p99_ttft_s")
    variant: str | None = key("which variant; default: the scenario itself", default=None)
    max: float | None = key("at most", default=None)
    min: float | None = key("at least", default=None)
