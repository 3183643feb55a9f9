"""A scenario file, its overrides and its variants, loaded and checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import ScenarioError
from sim.kinds import KINDS, unknown_kind
from sim.loading.build import build
from sim.loading.compare import Compare, blame, split_compare
from sim.loading.place import Place
from sim.loading.renamed import rename_metrics, rename_override, rename_tree
from sim.loading.strict_yaml import load_yaml
from sim.loading.tree import Override, apply_override, has_path, merge, parse_override, with_trace
from sim.scenario import SCHEMA_VERSION
from sim.scenario_file import AnyScenario, ScenarioFile, Variant
from sim.suggest import closest

if TYPE_CHECKING:
    from sim.cautions import Caution
    from sim.kinds import AnyKind

MEASURED = "measured"  # beside the scenario: what `gpuyard validate` compares its run with


def load_scenario(
    path: str | Path, *, overrides: Sequence[str] = (), trace: str | None = None
) -> ScenarioFile[AnyScenario]:
    """The scenario at ``path`` (or the shipped one of that name), every variant of it checked.

    ``overrides`` are ``--set`` arguments, laid over the file before its variants. ``trace`` is a
    trace's file, relative to the current folder; all paths inside the file are relative to it.
    """
    found = _find(path)
    tree = load_yaml(found)
    parsed = [parse_override(text) for text in overrides]
    loaded = load_tree(tree, str(found), overrides=parsed, trace=trace)
    if MEASURED in tree:
        from sim.trust.measured import check_measured

        metrics = KINDS[loaded.base.kind].metrics
        given, renamed = rename_metrics(tree[MEASURED])
        measured = tuple(check_measured(given, loaded, metrics))
        return replace(loaded, measured=measured, warnings=(*loaded.warnings, *renamed))
    return loaded


def load_tree(
    tree: dict[str, Any], file: str, *, overrides: Sequence[Override] = (), trace: str | None = None
) -> ScenarioFile[AnyScenario]:
    """The scenario that the mapping of ``file`` holds: a file read once may be loaded many times.

    What was measured is no part of the question, and left out.
    """
    _check_version(tree, file)
    tree = {name: value for name, value in tree.items() if name != MEASURED}
    tree, overrides, warnings = _renamed(tree, overrides, file)
    try:
        _check_version(tree, file)
    except ScenarioError as error:
        raise blame(error, file, overrides) from None
    if trace is not None:
        _refuse_trace_of(_kind(tree, file), file)
        tree = with_trace(tree, str(_existing_trace(trace)))
    base_tree, compare = split_compare(tree, file)
    for override in overrides:
        _refuse_if_unused(override, compare)
    base = _load_one(base_tree, file, overrides, compare.names)
    return ScenarioFile(
        path=file,
        base=base,
        reference=compare.reference,
        raw=tree,
        warnings=warnings,
        overrides=tuple(override.text for override in overrides),
        variants=tuple(
            _load_variant(name, base, base_tree, compare, (file, overrides)) for name in compare.names
        ),
    )


def _renamed(
    tree: dict[str, Any], overrides: Sequence[Override], file: str
) -> tuple[dict[str, Any], Sequence[Override], tuple[Caution, ...]]:
    """The tree with the overrides laid over it, under today's names, and warnings of old names met."""
    kind = str(tree.get("kind", "serving"))
    tree, warnings = rename_tree(tree, kind, file)
    under_new_names = []
    for given in overrides:
        override, more = rename_override(given, kind)
        under_new_names.append(override)
        before, tree = tree, apply_override(tree, override)
        if override.value == {} and tree == before:
            raise _empty_merge(override)
        warnings += more
    tree, more = rename_tree(tree, kind, file)  # an override's value may be a mapping
    return tree, under_new_names, tuple(dict.fromkeys((*warnings, *more)))


def _find(path: str | Path) -> Path:
    from sim.data import find_scenario, scenario_name, scenario_paths

    if not str(path) or "\0" in str(path):
        raise ScenarioError(
            "no such scenario", file="scenario", given=str(path), allowed="a path or a shipped name"
        )
    try:
        found = find_scenario(str(path))
        is_there = found.exists()
    except (OSError, ValueError) as error:
        raise ScenarioError(
            "cannot be read", file=str(path)[:120], hint=f"check the path ({error})"[:200]
        ) from None
    if not is_there and found.suffix not in (".yaml", ".yml"):
        names = [scenario_name(one) for one in scenario_paths()]
        near = closest(str(path), names)
        raise ScenarioError(
            "neither a file nor a shipped scenario" + (f"; did you mean {near}?" if near else ""),
            file=str(path),
            allowed="a path to a .yaml file, or " + ", ".join(names),
            hint=near or "",
        )
    return found


def _check_version(tree: Mapping[str, Any], file: str) -> None:
    place = Place(file=file, path="schema_version")
    supported = SCHEMA_VERSION
    if "schema_version" not in tree:
        raise place.error(
            "missing: every scenario states the format that it is written in",
            allowed=str(supported),
            hint=f"schema_version: {supported} as the first line",
        )
    version = tree["schema_version"]
    if type(version) is not int or version != supported:
        newer = isinstance(version, (int, float)) and version > supported
        hint = "a newer gpuyard, or the format of this one" if newer else f"schema_version: {supported}"
        raise place.error(
            "this version of the format is not supported", given=version, allowed=str(supported), hint=hint
        )


def _refuse_trace_of(kind: AnyKind, file: str) -> None:
    if not kind.takes_trace:
        raise ScenarioError(
            "a trace of requests goes with serving only", file="--trace", given=file, allowed="kind: serving"
        )


def _existing_trace(trace: str) -> Path:
    path = Path(trace)
    try:
        if path.is_file():
            return path.absolute()
        if path.exists():
            raise ScenarioError(
                "this is a folder" if path.is_dir() else "this is no regular file",
                file="--trace",
                given=trace,
                allowed="the path of a file",
                hint="the file inside it" if path.is_dir() else "a copy on disk",
            )
    except (OSError, ValueError):
        pass
    near = closest(path.name, [one.name for one in path.parent.glob("*")] if path.parent.is_dir() else [])
    hint = str(path.parent / near) if near else "a path from the current folder"
    raise ScenarioError(
        "no such trace file", file="--trace", given=trace, allowed="the path of a file", hint=hint
    )


def _empty_merge(override: Override) -> ScenarioError:
    """``--set`` lays a mapping over the one that is there: an empty one would change nothing, in silence."""
    return ScenarioError(
        "an empty mapping is laid over what the file says, and changes nothing",
        file="--set",
        path=override.path,
        given=override.text,
        allowed="a mapping with keys, or null for the key's default",
    )


def _refuse_if_unused(override: Override, compare: Compare) -> None:
    """An override that every variant overrides again would change nothing, in silence."""
    if compare.is_given and all(
        has_path(compare.differences[name], override.steps) for name in compare.names
    ):
        raise ScenarioError(
            "has no effect: every variant of compare sets this key itself",
            file="--set",
            path=override.path,
            given=override.text,
            allowed="keys that some variant takes from the file",
            hint=f"--set compare.variants.{compare.names[0]}.{override.text}",
        )


def _load_one(
    tree: Mapping[str, Any], file: str, overrides: Sequence[Override], names: Sequence[str]
) -> AnyScenario:
    try:
        return _build_checked(tree, file, names)
    except ScenarioError as error:
        raise blame(error, file, overrides) from None


def _load_variant(
    name: str,
    base: AnyScenario,
    base_tree: Mapping[str, Any],
    compare: Compare,
    source: tuple[str, Sequence[Override]],
) -> Variant[AnyScenario]:
    file, overrides = source
    differences = compare.differences[name]
    if not differences:
        return Variant(name=name, differences={}, scenario=base)
    try:
        scenario = _build_checked(merge(base_tree, differences), file, compare.names)
    except ScenarioError as error:
        raise blame(error, file, overrides, variant=name, differences=differences) from None
    return Variant(name=name, differences=differences, scenario=scenario)


def _build_checked(tree: Mapping[str, Any], file: str, names: Sequence[str]) -> AnyScenario:
    kind = _kind(tree, file)
    resolved = dict(tree)
    for name in ("hardware", "model"):
        if resolved.get(name) is not None:
            resolved[name] = _named(name, resolved[name], Place(file=file, path=name))
    if kind.has_devices and isinstance(resolved.get("devices"), list):
        resolved["devices"] = [
            _device(one, Place(file=file, path="devices").item(index))
            for index, one in enumerate(resolved["devices"])
        ]
    scenario = build(kind.scenario, kind.completed(resolved, file=file), file=file)
    _check(scenario, kind, file, names)
    return scenario


def _check(scenario: AnyScenario, kind: AnyKind, file: str, variants: Sequence[str]) -> None:
    """Refuse a scenario whose parts do not go together; ``file`` is where it was read from."""
    from sim.checks.common import check_head, check_thresholds

    top = Place(file=file)
    check_head(scenario, top)
    kind.check(scenario, file=file)
    check_thresholds(scenario, top, variants, kind.metrics)


def _kind(tree: Mapping[str, Any], file: str) -> AnyKind:
    """The kind that the file says; a missing one is refused by the builder, with its meaning."""
    given = tree.get("kind", "serving")
    if not isinstance(given, str) or given not in KINDS:
        place = Place(file=file, path="kind")
        near = closest(given, KINDS)
        raise place.error(unknown_kind(given), given=given, allowed=", ".join(KINDS), hint=near or "serving")
    return KINDS[given]


def _named(name: str, given: object, place: Place) -> object:
    """The hardware profile or model that a name, a path or a mapping means."""
    from sim.hardware import load_hardware
    from sim.model import load_model

    if not isinstance(given, (str, Mapping)):
        raise place.error(
            f"expected a {name}",
            given=given,
            allowed="a shipped name, a path, or {base: name, ...}",
            hint="gpuyard list prints the names",
        )
    load = {"hardware": load_hardware, "model": load_model}[name]
    return load(given, file=place.file, path=place.path)


def _device(given: object, place: Place) -> object:
    """A group of workers, its hardware loaded."""
    if not isinstance(given, Mapping) or given.get("hardware") is None:
        return given
    return {**given, "hardware": _named("hardware", given["hardware"], place.child("hardware"))}
