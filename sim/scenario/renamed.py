"""Words that were renamed: scenarios written before are read for one release, with a warning.

Every renamed word of what users write or read stands here once: the loader reads ``KEYS`` and ``METRICS``,
``python -m tools.renamed`` applies ``METRICS`` and ``VERDICTS`` to summaries of an older version, and the
changelog lists them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sim.scenario.dataclass import dataclass
from sim.scenario.place import Place
from sim.scenario.variants import Override

if TYPE_CHECKING:
    from sim.scenario.caution import Caution


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    """One word: a key path of a scenario, a metric, a column or a verdict. ``since``: the first version."""

    old: str
    new: str
    since: str

    @property
    def new_key(self) -> str:
        """The last name of ``new``."""
        return self.new.rsplit(".", 1)[-1]

    @property
    def caution(self) -> Caution:
        """The warning that a scenario with the old word gets."""
        from sim.scenario.caution import Caution

        return Caution(
            kind="renamed",
            observation=f"{self.old} is called {self.new} since version {self.since}",
            meaning="the old name is read this once more, and refused in the next release",
            remedy=f"write {self.new}",
        )


KEYS: Mapping[str, Sequence[Renamed]] = {
    "serving": (),
    "kernel": (),
    "training": (Renamed(old="variation.law", new="variation.distribution", since="0.2.0"),),
}
"""By kind: key paths from the top of a scenario, ``*`` for any name. Only the last name differs."""

METRICS: Sequence[Renamed] = (Renamed(old="measured_s", new="makespan_s", since="0.2.0"),)
"""Metrics of summaries, thresholds, ``measured:`` lists and ``--metric``."""

VERDICTS: Sequence[Renamed] = (
    Renamed(old="COMPUTE-BOUND", new="COMPUTE_BOUND", since="0.2.0"),
    Renamed(old="MEMORY-BOUND", new="MEMORY_BOUND", since="0.2.0"),
    Renamed(old="LATENCY-BOUND", new="LATENCY_BOUND", since="0.2.0"),
    Renamed(old="LAUNCH-BOUND", new="LAUNCH_BOUND", since="0.2.0"),
    Renamed(old="LINK-BOUND", new="LINK_BOUND", since="0.2.0"),
    Renamed(old="OUT OF MEMORY", new="OUT_OF_MEMORY", since="0.2.0"),
)
"""What holds a run back, where a kernel's words were spelt unlike a training job's."""

COLUMNS: Sequence[Renamed] = (Renamed(old="lost_tokens", new="recompute_tokens", since="0.2.0"),)
"""Columns of records; nothing reads these back."""


def metric_name(name: str) -> tuple[str, tuple[Caution, ...]]:
    """A metric's name of today, and the warning that an old one gets."""
    found = next((one for one in METRICS if one.old == name), None)
    return (name, ()) if found is None else (found.new, (found.caution,))


def rename_tree(tree: Mapping[str, Any], kind: str, file: str) -> tuple[dict[str, Any], tuple[Caution, ...]]:
    """A scenario's mapping under today's names, its variants' too, and a warning per old name met."""
    place = Place(file=file)
    top, found = _rename_keys(tree, kind, place)
    compare = top.get("compare")
    if isinstance(compare, Mapping) and isinstance(compare.get("variants"), Mapping):
        variants = {}
        for name, differences in compare["variants"].items():
            variants[name] = differences
            if isinstance(differences, Mapping):
                there = place.child("compare").child("variants").child(str(name))
                variants[name], more = _rename_keys(differences, kind, there)
                found += more
        top["compare"] = {**compare, "variants": variants}
    if "thresholds" in top:
        top["thresholds"], more = rename_metrics(top["thresholds"])
        found += more
    return top, tuple(dict.fromkeys(found))


def rename_override(override: Override, kind: str) -> tuple[Override, tuple[Caution, ...]]:
    """``--set`` under today's names: its path, and the metric that it may set."""
    first = 3 if override.steps[:2] == ("compare", "variants") else 0
    head, steps, value = override.steps[:first], override.steps[first:], override.value
    found: tuple[Caution, ...] = ()
    for one in KEYS.get(kind, ()):
        old = one.old.split(".")
        met = zip(old, steps, strict=False)
        if len(steps) >= len(old) and all(part in ("*", step) for part, step in met):
            steps = (*steps[: len(old) - 1], one.new_key, *steps[len(old) :])
            found += (one.caution,)
    if steps[-1:] == ("metric",) and isinstance(value, str):
        value, more = metric_name(value)
        found += more
    return replace(override, steps=(*head, *steps), value=value), found


def _rename_keys(
    tree: Mapping[str, Any], kind: str, place: Place
) -> tuple[dict[str, Any], tuple[Caution, ...]]:
    renamed = dict(tree)
    found: tuple[Caution, ...] = ()
    for one in KEYS.get(kind, ()):
        renamed, is_there = _rename_key(renamed, one.old.split("."), one.new_key, place)
        if is_there:
            found += (one.caution,)
    return renamed, found


def _rename_key(
    tree: dict[str, Any], path: Sequence[str], new: str, place: Place
) -> tuple[dict[str, Any], bool]:
    """``tree`` with the last name of ``path`` replaced wherever the path leads; the order of keys stays."""
    first, rest = path[0], path[1:]
    if not rest:
        if first not in tree:
            return tree, False
        if new in tree:
            raise place.child(first).error(
                f"{first} is the old name of {new}, and both are given",
                given=tree[first],
                allowed=new,
                hint=f"keep {new} alone",
            )
        return {new if name == first else name: value for name, value in tree.items()}, True
    changed, is_there = dict(tree), False
    for name in _matching(tree, first):
        below = tree[name]
        if isinstance(below, Mapping):
            changed[name], hit = _rename_key(dict(below), rest, new, place.child(name))
            is_there = is_there or hit
    return changed, is_there


def _matching(tree: Mapping[str, Any], part: str) -> Iterator[str]:
    return (name for name in tree if part in ("*", name))


def rename_metrics(section: object) -> tuple[object, tuple[Caution, ...]]:
    """A section with the values of all keys ``metric`` under today's names."""
    if isinstance(section, Mapping):
        changed = dict(section)
        found: tuple[Caution, ...] = ()
        for name, value in section.items():
            more: tuple[Caution, ...]
            if name == "metric" and isinstance(value, str):
                changed[name], more = metric_name(value)
            else:
                changed[name], more = rename_metrics(value)
            found = (*found, *more)
        return changed, found
    if isinstance(section, list):
        pairs = [rename_metrics(item) for item in section]
        return [item for item, _ in pairs], tuple(caution for _, more in pairs for caution in more)
    return section, ()
