"""Engine profiles: the host times of one engine and version that no kernel shows, with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args

from sim.errors import ScenarioError, did_you_mean, some_of, told_together
from sim.hardware.load import check_keys, read_source
from sim.scenario.build import UnknownKeys, build, field_hints, keeping
from sim.scenario.dataclass import dataclass
from sim.scenario.fields import key
from sim.scenario.place import Place
from sim.scenario.shipped import data_dir
from sim.scenario.strict_yaml import load_yaml

# --- engine -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOverheads:
    """Time that no kernel explains, per engine step. Named, so that it can be calibrated.

    Launches run ahead of the GPU, so a step takes the longer of its launches and its kernels. The rest is
    added, unless ``async_scheduling`` hides it: then a step takes the longer of all host work and kernels.
    """

    frontend_s: float = key(
        "HTTP and tokeniser: a request reaches the scheduler this long after it was sent", default=0.0, ge=0
    )
    output_s: float = key(
        "detokenising and streaming: a token reaches the client this long after its step", default=0.0, ge=0
    )
    step_s: float = key("scheduler, input preparation and sampling, per step", default=0.0, ge=0)
    per_sequence_s: float = key("the same, per sequence of the step", default=0.0, ge=0)
    cold_start_s: float = key(
        "an engine's first step takes so much longer: kernels compiled, loaded or tuned at their first use",
        default=0.0,
        ge=0,
    )
    per_prompt_token_s: float = key(
        "input preparation and copies, per prompt token of the step, however many GPUs", default=0.0, ge=0
    )
    launch_per_layer_s: float = key(
        "launching a layer's kernels without CUDA graphs; a step is no shorter than that of all layers",
        default=0.0,
        ge=0,
    )
    cudagraph_capture_sizes: tuple[int, ...] = key(
        "steps of no more tokens than the largest run in a CUDA graph, without launch_per_layer_s, padded to "
        "the next of these sizes; empty: as they are",
        default=(),
        ge=1,
        le=1_000_000,
    )
    schedules_ahead: bool = key(
        "the next step is scheduled already when a request arrives, which so waits one step longer "
        "(batching: vllm; async_scheduling does this by itself)",
        default=False,
    )
    decode_attention_fraction: float = key(
        "speed of this engine's decode attention kernel, as a fraction of the one that was priced",
        default=1.0,
        gt=0,
        le=10,
    )
    fp8_kv_attention_fraction: float = key(
        "the same, once more, where the KV cache is FP8: what its conversion leaves of the speed",
        default=1.0,
        gt=0,
        le=1,
    )
    measured_on: tuple[str, ...] = key(
        "the devices on whose hosts these were measured; a run on another one is warned of it", default=()
    )
    source: str = key("where these come from", default="")

    @property
    def are_zero(self) -> bool:
        """Whether no host time is counted at all."""
        return not any(getattr(self, one.name) for one in fields(self) if one.name.endswith("_s"))


ASYNC = "async_scheduling"


Runtime = Literal["vllm", "sglang", "tensorrt-llm"]
RUNTIMES = get_args(Runtime)
"""Whose memory account is known, as ``engine`` of a profile names them."""


TEXTS = ("name", "engine", "version", "host")


KEYS = (*TEXTS, "hardware", "base", "overheads", ASYNC, "notes")


FIELDS = tuple(name for name in field_hints(EngineOverheads) if name not in ("source", "measured_on"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """Host time of an engine. ``overheads`` are in base units; their ``source`` names the profile."""

    name: str
    engine: str
    version: str
    host: str
    overheads: EngineOverheads
    given: Mapping[str, Any]  # the fields that it states, as they stand in the file
    sources: Mapping[str, str]  # by field
    hardware: tuple[str, ...] = ()  # the devices of its host; empty: not said
    async_scheduling: bool | None = None  # whether it hid host time; None: not said
    notes: str = ""


def engine_profile_names() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(one.stem for one in data_dir("engine_profiles").glob("*.yaml"))


def load_engine_profile(given: object, *, file: str = "", path: str = "engine.profile") -> EngineProfile:
    """The shipped profile of that name, or the one in that file (beside the scenario, or from here)."""
    return _find(given, Place(file=file, path=path), above=())


def with_profile(engine: Mapping[str, Any], *, file: str) -> Mapping[str, Any]:
    """A scenario's engine section with its profile's numbers where ``overheads`` says nothing."""
    overheads = engine.get("overheads", {})
    if engine.get("profile") is None or not isinstance(overheads, Mapping):
        return engine
    profile = load_engine_profile(engine["profile"], file=file)
    own = ", and the scenario" if overheads else ""
    sources = [profile.sources[name] for name in profile.given]
    source = f"engine profile {profile.name}{own}: {'; '.join(dict.fromkeys(sources))}"
    whose = {"measured_on": list(profile.hardware)} if profile.hardware else {}
    added: dict[str, Any] = {"overheads": {**profile.given, **whose, "source": source, **overheads}}
    if profile.engine in RUNTIMES and "runtime" not in engine:
        added["runtime"] = profile.engine
    if profile.async_scheduling is False:  # true is what vLLM does unless told otherwise, where it can
        added["async_scheduling"] = engine.get("async_scheduling", False)
    return {**engine, **added}


def _find(given: object, place: Place, *, above: tuple[Path, ...]) -> EngineProfile:
    names = engine_profile_names()
    allowed = some_of(given, names, "`gpuyard list` prints all") + ", or a path to a .yaml file"
    if not isinstance(given, str):
        raise place.error("expected an engine profile", given=given, allowed=allowed)
    if given in names:
        return _read(data_dir("engine_profiles") / f"{given}.yaml", above=above)
    if given.endswith((".yaml", ".yml")):
        beside = Path(place.file).parent if place.file else Path()
        for folder in (beside, Path()):
            if (folder / given).is_file():
                return _read(folder / given, above=above)
        raise place.error("no such file", given=given, hint=f"looked in {beside} and in the current folder")
    problem = f"no such engine profile{did_you_mean(given, names)}"
    raise place.error(problem, given=given, allowed=allowed, hint="gpuyard list engines")


def _read(file: Path, *, above: tuple[Path, ...]) -> EngineProfile:
    place = Place(file=str(file))
    if file.resolve() in above:
        raise place.child("base").error("a profile cannot be its own base", given=above[-1].name)
    tree, unknown = load_yaml(file), list[ScenarioError]()
    with keeping(unknown):
        check_keys(tree, KEYS, place, what="an engine profile")
    base = None
    if "base" in tree:
        base = _find(tree["base"], place.child("base"), above=(*above, file.resolve()))
    texts = {name: _text(tree, name, base, place) for name in TEXTS}
    given = dict(base.given) if base else {}
    sources = dict(base.sources) if base else {}
    below = place.child("overheads")
    with keeping(unknown):
        for name, one in check_keys(tree.get("overheads", {}), FIELDS, below, what="host times").items():
            given[name], sources[name] = _sourced(one, below.child(name))
    if unknown:
        raise told_together(unknown, UnknownKeys)
    hides = base.async_scheduling if base else None
    if ASYNC in tree:
        hides, sources[ASYNC] = _sourced(tree[ASYNC], place.child(ASYNC))
        if not isinstance(hides, bool):
            raise place.child(ASYNC).error("expected true or false", given=hides)
    return EngineProfile(
        **texts,
        overheads=build(EngineOverheads, given, file=str(file), path="overheads"),
        given=given,
        sources=sources,
        hardware=_devices(tree, base, place),
        async_scheduling=hides,
        notes=" ".join(str(tree.get("notes", base.notes if base else "")).split()),
    )


def _sourced(one: object, place: Place) -> tuple[Any, str]:
    """A value and where it stands."""
    both = check_keys(one, ("value", "source"), place, what="a value and its source")
    if "value" not in both:
        raise place.child("value").error("value is missing", allowed="{value: ..., source: ...}")
    return both["value"], read_source(both.get("source"), place.child("source"))


def _devices(tree: Mapping[str, Any], base: EngineProfile | None, place: Place) -> tuple[str, ...]:
    """Names of hardware profiles, shipped or not; the base's where the file has none."""
    if "hardware" not in tree:
        return base.hardware if base else ()
    given = tree["hardware"]
    if not isinstance(given, list) or not all(isinstance(one, str) and one.strip() for one in given):
        raise place.child("hardware").error(
            "expected the devices of the host", given=given, allowed="hardware profiles: [h100-sxm-80gb]"
        )
    return tuple(given)


def _text(tree: Mapping[str, Any], name: str, base: EngineProfile | None, place: Place) -> str:
    """One of the texts that say whose times these are."""
    given = tree.get(name, getattr(base, name) if base and name != "name" else None)
    if not isinstance(given, str) or not given.strip():
        hint = 'write it in quotes: "0.15"' if name == "version" else ""
        raise place.child(name).error("expected a text", given=given, hint=hint)
    return given.strip()


def with_engine_defaults(tree: Mapping[str, Any], *, file: str) -> Mapping[str, Any]:
    """A serving scenario's mapping, its engine section with what its profile says."""
    engine = tree.get("engine", {})
    if not isinstance(engine, Mapping):
        return tree  # the builder says what is wrong
    return {**tree, "engine": with_profile(engine, file=file)}
