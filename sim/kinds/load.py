"""From a file to a checked scenario with its variants, of whatever kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import CannotRun, NoSuchFile, ScenarioError, closest, did_you_mean, nearest, told_together
from sim.kinds.registry import KINDS, unknown_kind
from sim.scenario.build import UnknownKeys, build, keeping
from sim.scenario.fields import SCHEMA_VERSION, Threshold
from sim.scenario.file import AnyScenario, Refusal, ScenarioFile, Variant
from sim.scenario.place import Place
from sim.scenario.renamed import rename_metrics, rename_override, rename_tree
from sim.scenario.strict_yaml import load_yaml
from sim.scenario.variants import (
    Compare,
    Override,
    apply_override,
    blame,
    check_reach,
    dropped_keys,
    empty_merge,
    has_path,
    merge,
    parse_override,
    split_compare,
    taken_away,
    with_trace,
)

if TYPE_CHECKING:
    from sim.kinds.registry import AnyKind
    from sim.scenario.caution import Caution
    from sim.scenario.variants import Choices


MAX_SEEDS = 1000


def check_head(scenario: AnyScenario, top: Place) -> None:
    """Require a question, and seeds that all differ."""
    if not scenario.question.strip():
        raise top.child("question").error(
            "is empty",
            allowed="the question that the report answers",
            hint="question: What does continuous batching gain over static?",
        )
    seeds = scenario.seeds
    if not 1 <= len(seeds) <= MAX_SEEDS:
        raise top.child("seeds").error(
            "a run per seed",
            given=len(seeds),
            allowed=f"1 to {MAX_SEEDS} seeds",
            hint="seeds: [1, 2, 3, 4, 5]",
        )
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise top.child("seeds").error(
            f"seed {twice} is given twice: the same run would be counted as two",
            given=list(seeds),
            allowed="different whole numbers",
        )


def check_thresholds(scenario: AnyScenario, top: Place, variants: Sequence[str], kind: AnyKind) -> None:
    """Require that thresholds name metrics and variants that exist."""
    for index, threshold in enumerate(scenario.thresholds):
        there = top.child("thresholds").item(index)
        _check_threshold(threshold, there, variants)
        _check_metric(threshold, there, kind.metrics)


def _check_metric(threshold: Threshold, place: Place, metrics: Collection[str]) -> None:
    if threshold.metric not in metrics:
        raise place.child("metric").error(
            f"unknown metric{did_you_mean(threshold.metric, metrics)}",
            given=threshold.metric,
            hint="summary.json of any run of this kind has every metric",
        )


def _check_threshold(threshold: Threshold, place: Place, names: Sequence[str]) -> None:
    listed = ", ".join(names)
    if threshold.variant is not None and threshold.variant not in names:
        raise place.child("variant").error(
            f"no such variant{did_you_mean(threshold.variant, names)}",
            given=threshold.variant,
            allowed=listed,
            hint="another variant, or --set thresholds=null",
        )
    if threshold.variant is None and len(names) > 1:
        raise place.child("variant").error(
            "missing: with compare, a threshold is on one variant",
            allowed=listed,
            hint=f"variant: {names[0]}",
        )
    low, high = threshold.min, threshold.max
    if low is None and high is None:
        raise place.error(
            "a threshold without a bound",
            allowed="max, min or both",
            hint=f"{{metric: {threshold.metric}, max: ...}}",
        )
    if low is not None and high is not None and low > high:
        raise place.error(f"min {low:g} is above max {high:g}: nothing can meet both", allowed="min <= max")


LEAST_SEEDS = 3


def check_precision(scenario: AnyScenario, top: Place, kind: AnyKind) -> None:
    """Require, where ``precision`` chooses the length, that chance plays a part and seeds tell how much."""
    length = kind.chosen_length(scenario)
    if length is None:
        return
    why = length.why_not
    if why is None and not kind.draws(scenario):
        why = "nothing is drawn: every run gives the same numbers, however long it is"
    if why is not None:
        raise top.child("precision").error(
            f"the length of this run cannot be chosen: {why}",
            given=length.precision,
            allowed="precision where arrivals, lengths or step times are drawn without end",
            hint="remove precision",
        )
    if len(scenario.seeds) < LEAST_SEEDS:
        raise top.child("seeds").error(
            "precision is that of the interval over the seeds",
            given=list(scenario.seeds),
            allowed=f"at least {LEAST_SEEDS} seeds with precision",
            hint="seeds: [1, 2, 3, 4, 5]",
        )


MEASURED = "measured"  # beside the scenario: what `gpuyard validate` compares its run with


Refused = dict[str, ScenarioError]
"""By variant: what does not go together, of a scenario that was read without a fault."""


def load_scenario(
    path: str | Path, *, overrides: Sequence[str] = (), trace: str | None = None
) -> ScenarioFile[AnyScenario]:
    """The scenario at ``path`` (or the shipped one of that name), every variant of it checked.

    A variant that its device cannot do is set aside with its reason (``refused``) where the reference can
    run; every mistake is a ScenarioError.

    ``overrides`` are ``--set`` arguments, laid over the file before its variants. ``trace`` is a
    trace's file, relative to the current folder; all paths inside the file are relative to it.
    """
    found = _find(path)
    parsed = [parse_override(text) for text in overrides]
    return load_measured_tree(load_yaml(found), str(found), overrides=parsed, trace=trace)


_READ: ContextVar[dict[tuple[str, str, str], Any] | None] = ContextVar("_READ", default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Inside, files, devices and models are read once: the points of a sweep have most of them in common."""
    token = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(token)


def _once(asked: tuple[str, str, str], read: Callable[[], Any]) -> Any:
    found = _READ.get()
    if found is None:
        return read()
    if asked not in found:
        found[asked] = read()
    return found[asked]


def load_point(
    path: str | Path, overrides: Sequence[str], trace: str | None = None
) -> tuple[ScenarioFile[AnyScenario], Refused]:
    """The same for one point of many: what cannot run there is told beside the scenario, not raised.

    A model that does not fit or a device that lacks the precision is an answer about that point. A key that
    nobody knows, a value out of its bounds or a file that is not there is a mistake, and is raised.
    """
    found = _find(path)
    parsed = [parse_override(text) for text in overrides]
    refused: Refused = {}
    tree = _once(("file", str(found), ""), lambda: load_yaml(found))
    file = load_tree(tree, str(found), overrides=parsed, trace=trace, refused=refused)
    return file, refused


def load_measured_tree(
    tree: dict[str, Any], file: str, *, overrides: Sequence[Override] = (), trace: str | None = None
) -> ScenarioFile[AnyScenario]:
    """The scenario that the whole mapping of ``file`` holds, with the values measured of it."""
    refused: Refused = {}
    whole = load_tree(tree, file, overrides=overrides, trace=trace, refused=refused, refusable=CannotRun)
    if whole.reference in refused:
        raise refused[whole.reference]
    loaded = replace(
        whole,
        variants=tuple(one for one in whole.variants if one.refusal is None),
        refused=tuple(one for one in whole.variants if one.refusal is not None),
    )
    if MEASURED in tree:
        from sim.scenario.measured import check_measured

        metrics = KINDS[loaded.base.kind].metrics
        given, renamed = rename_metrics(tree[MEASURED])
        measured = tuple(check_measured(given, loaded, metrics))
        return replace(loaded, measured=measured, warnings=(*loaded.warnings, *renamed))
    return loaded


def load_tree(
    tree: dict[str, Any],
    file: str,
    *,
    overrides: Sequence[Override] = (),
    trace: str | None = None,
    refused: Refused | None = None,
    refusable: type[ScenarioError] = ScenarioError,
) -> ScenarioFile[AnyScenario]:
    """The scenario that the mapping of ``file`` holds: a file read once may be loaded many times.

    The ``measured:`` list is not part of the question and is left out. ``refused`` takes what the checks of a
    variant refuse, in place of an error, where it is ``refusable``.
    """
    _check_version(tree, file)
    written = {name: value for name, value in tree.items() if name != MEASURED}
    written, warnings = rename_tree(written, _kind_named(written), file)
    tree, overrides, more = _with_overrides(written, overrides, file)
    warnings = tuple(dict.fromkeys((*warnings, *more)))
    try:
        _check_version(tree, file)
    except ScenarioError as error:
        raise blame(error, file, overrides) from None
    if trace is not None:
        _refuse_trace_of(_kind(tree, file), file)
        tree = with_trace(tree, str(_existing_trace(trace)))
    base_tree, compare = split_compare(tree, file)
    reached, unreached = check_reach(written, overrides, compare, _choices_of(written))
    warnings += unreached
    base, why_not = _load_base(base_tree, compare, (file, overrides))
    if why_not is not None and (refused is None or not isinstance(why_not, refusable)):
        raise why_not
    variants = []
    for name in compare.names:
        variant, why = _load_variant(name, (base, base_tree), compare, (file, overrides))
        why = why if variant.differences else why_not
        if why is not None:
            if refused is None or not isinstance(why, refusable):
                raise why
            refused[name] = why
            variant = replace(variant, refusal=Refusal.of(why, name))
        variants.append(variant)
    return ScenarioFile(
        path=file,
        base=base,
        reference=compare.reference,
        raw=tree,
        warnings=warnings,
        trace=trace,
        reached=reached,
        overrides=tuple(override.text for override in overrides),
        variants=tuple(variants),
    )


def _kind_named(tree: Mapping[str, Any]) -> str:
    return str(tree.get("kind", "serving"))


def _choices_of(tree: Mapping[str, Any]) -> Choices:
    kind = _kind_named(tree)
    return KINDS[kind].choices if kind in KINDS else {}


def _with_overrides(
    tree: dict[str, Any], overrides: Sequence[Override], file: str
) -> tuple[dict[str, Any], Sequence[Override], tuple[Caution, ...]]:
    """The tree with the overrides laid over it, under today's names; of old names and lost keys a warning."""
    kind, choices = _kind_named(tree), _choices_of(tree)
    warnings: tuple[Caution, ...] = ()
    under_new_names = []
    for given in overrides:
        override, more = rename_override(given, kind)
        under_new_names.append(override)
        before, tree = tree, apply_override(tree, override, choices)
        if override.value == {} and tree == before:
            raise empty_merge(override)
        dropped = dropped_keys(before, tree, override)
        warnings += (*more, *([dropped] if dropped else []))
    for override in under_new_names:
        if override.value is not None and not has_path(tree, override.steps):
            raise taken_away(override)
    tree, more = rename_tree(tree, kind, file)  # an override's value may be a mapping
    return tree, under_new_names, (*warnings, *more)


def _find(path: str | Path) -> Path:
    from sim.scenario.shipped import find_scenario, scenario_name, scenario_paths

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
        near = nearest(str(path), [scenario_name(one) for one in scenario_paths()])
        raise ScenarioError(
            "neither a file nor a shipped scenario" + (f"; did you mean {near[0]}?" if near else ""),
            file=str(path),
            allowed="a path to a .yaml file, or a name that `gpuyard list scenarios` prints",
            hint=" or ".join(near) or "gpuyard list scenarios",
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


Source = tuple[str, Sequence[Override]]
"""The file, and what ``--set`` laid over it."""
Checked = tuple[AnyScenario, ScenarioError | None]
"""A scenario that was read without a fault, and why it cannot run all the same, if so."""


def _load_base(tree: Mapping[str, Any], compare: Compare, source: Source) -> Checked:
    """The scenario without its variants. Keys that nobody knows are told together, the variants' too."""
    file, overrides = source
    try:
        scenario, why_not = _build_checked(tree, file, compare.names)
        return scenario, why_not and blame(why_not, file, overrides)
    except UnknownKeys as error:
        found: list[ScenarioError] = [blame(error, file, overrides)]
        own: list[ScenarioError] = []
        for name, differences in compare.differences.items():
            with suppress(ScenarioError), keeping(own):  # other faults of a variant are told later
                if differences:
                    _build_variant(name, tree, compare, source)
        everywhere = (one for error in own for one in (error, *error.others))
        found += (one for one in everywhere if one.path.startswith("compare.variants."))
        raise told_together(found) from None
    except ScenarioError as error:
        raise blame(error, file, overrides) from None


def _load_variant(
    name: str, base: tuple[AnyScenario, Mapping[str, Any]], compare: Compare, source: Source
) -> tuple[Variant[AnyScenario], ScenarioError | None]:
    scenario, tree = base
    differences, why_not = compare.differences[name], None
    if differences:
        scenario, why_not = _build_variant(name, tree, compare, source)
    return Variant(name=name, differences=differences, scenario=scenario), why_not


def _build_variant(name: str, base_tree: Mapping[str, Any], compare: Compare, source: Source) -> Checked:
    file, overrides = source
    differences = compare.differences[name]
    try:
        choices = _kind(base_tree, file).choices
        merged = merge(base_tree, differences, choices)
        scenario, why_not = _build_checked(merged, file, compare.names)
    except ScenarioError as error:
        raise blame(error, file, overrides, variant=name, differences=differences) from None
    return scenario, why_not and blame(why_not, file, overrides, variant=name, differences=differences)


def _build_checked(tree: Mapping[str, Any], file: str, names: Sequence[str]) -> Checked:
    kind = _kind(tree, file)
    if "precision" in tree and not kind.can_draw:
        raise Place(file=file, path="precision").error(
            f"a {kind.name} run draws nothing: it gives the same numbers whatever its length",
            given=tree["precision"],
            allowed="precision with kind: serving or training; number formats are dtype",
            hint="remove precision",
        )
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
    return scenario, _check(scenario, kind, file, names)


def _check(scenario: AnyScenario, kind: AnyKind, file: str, variants: Sequence[str]) -> ScenarioError | None:
    """Why the parts of a scenario do not go together, if so; ``file`` is where it was read from."""
    top = Place(file=file)
    check_head(scenario, top)
    try:
        kind.check(scenario, file=file)
    except NoSuchFile:
        raise
    except ScenarioError as error:
        return error
    check_thresholds(scenario, top, variants, kind)
    check_precision(scenario, top, kind)
    return None


def _kind(tree: Mapping[str, Any], file: str) -> AnyKind:
    """The kind that the file names; a missing one is left to the builder, whose error explains the key."""
    given = tree.get("kind", "serving")
    if not isinstance(given, str) or given not in KINDS:
        place = Place(file=file, path="kind")
        near = closest(given, KINDS)
        raise place.error(unknown_kind(given), given=given, allowed=", ".join(KINDS), hint=near or "serving")
    return KINDS[given]


def _named(name: str, given: object, place: Place) -> object:
    """The hardware profile or model that a name, a path or a mapping means."""
    from sim.hardware import load_hardware
    from sim.model.config import load_model

    if not isinstance(given, (str, Mapping)):
        raise place.error(
            f"expected a {name}",
            given=given,
            allowed="a shipped name, a path, or {base: name, ...}",
            hint="gpuyard list prints the names",
        )
    load = {"hardware": load_hardware, "model": load_model}[name]
    asked = (name, repr(given), f"{place.file}: {place.path}")
    return _once(asked, lambda: load(given, file=place.file, path=place.path))


def _device(given: object, place: Place) -> object:
    """A group of workers, its hardware loaded."""
    if not isinstance(given, Mapping) or given.get("hardware") is None:
        return given
    return {**given, "hardware": _named("hardware", given["hardware"], place.child("hardware"))}
