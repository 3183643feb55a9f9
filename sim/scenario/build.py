"""A mapping becomes a frozen dataclass, driven by type hints and by the bounds of ``key()``."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from functools import cache
from math import inf
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from sim.errors import ScenarioError, some_of, told_together
from sim.scenario.distribution import Distribution
from sim.scenario.fields import Threshold
from sim.scenario.not_modelled import asked_by, meant, not_modelled, unknown_word
from sim.scenario.place import Place
from sim.scenario.scalars import SCALARS, check_bounds
from sim.units import LARGEST_BARE_S, example, unit_of_name

T = TypeVar("T")

# Names from other engines, and what they are called here.
SYNONYMS = {
    "batch_size": "max_num_seqs",
    "max_batch_size": "max_num_seqs",
    "max_seq_len": "max_model_len",
    "tp": "tensor_parallel_size",
    "tp_size": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "pp_size": "pipeline_parallel_size",
    "gpu": "hardware",
    "device": "hardware",
    "rate": "requests_per_s",
    "qps": "requests_per_s",
    "rps": "requests_per_s",
    "request_rate": "requests_per_s",
    "page_size": "block_size",
    "allocator": "kv_allocator",
    "input_tokens": "prompt_tokens",
    "scheduler": "batching",
    "num_prompts": "num_requests",
    "max_concurrency": "concurrency",
    "max_running_requests": "max_num_seqs",
    "context_length": "max_model_len",
    "max_num_tokens": "max_num_batched_tokens",
    "tensor_model_parallel_size": "tensor_parallel_size",
    "pipeline_model_parallel_size": "pipeline_parallel_size",
    "num_pipeline_stages": "pipeline_parallel_size",
    "speculative_config": "speculative",
    "chunked_prefill_size": "max_num_batched_tokens",
    "router": "routing",
    "router_mode": "routing",
    "router_policy": "routing",
    "routing_policy": "routing",
    "load_balance_method": "routing",
    "load_balancing_policy": "routing",
    "world_size": "num_workers",
    "dp": "num_workers",
    "dp_size": "num_workers",
    "data_parallel_size": "num_workers",
    "seq_len": "max_seq_len",
    "seq_length": "max_seq_len",
    "per_device_train_batch_size": "micro_batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch_size",
    "gradient_checkpointing": "activation_checkpointing",
    "zero": "zero_stage",
    "fsdp": "zero_stage",
    "torch_compile": "fused_kernels",
}

# Values of other programs that mean exactly one of ours.
VALUE_SYNONYMS = {
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "float": "float32",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "awq": "int4",
    "gptq": "int4",
    "w4a16": "int4",
    "w8a8": "int8",
    "inflight": "continuous",
    "inflight_batching": "continuous",
    "inference": "serving",
    "adam": "adamw",
    "least_outstanding": "least_loaded",
    "ngram_gpu": "ngram",
}

# A distribution's numbers are in the unit of the key that holds it, a threshold's in its metric's.
_NUMBERS_IN_CONTEXT = {
    "Distribution": frozenset({"value", "mean", "stddev", "min", "max", "values"}),
    "Threshold": frozenset({"min", "max"}),
}

_LEAVE_OUT = "give a value, or leave the key out"


def build(cls: type[T], mapping: object, *, file: str, path: str = "") -> T:
    """The dataclass ``cls`` that ``mapping`` describes.

    Keys that nobody knows are one ScenarioError, all of them; else the first thing wrong is.
    """
    place = Place(file=file, path=path, unit=unit_of_name(path.rsplit(".", 1)[-1]))
    unknown = list(_unknown_keys(cls, mapping, place))
    if unknown:
        raise told_together(unknown, UnknownKeys)
    return typing.cast(T, _build(cls, mapping, place))


class UnknownKeys(ScenarioError):
    """Every key of a file that nobody knows, told together."""


@contextmanager
def keeping(found: list[ScenarioError]) -> Iterator[None]:
    """Keeps unknown keys for later, so that those that come after them are found too."""
    try:
        yield
    except UnknownKeys as error:
        found.append(error)


def _unknown_keys(hint: Any, value: object, place: Place) -> Iterator[ScenarioError]:
    """An error per key, at any depth, that is no field of the dataclass in whose place it stands."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for one in inner:
            yield from _unknown_keys(one, value, place)
    elif origin is tuple and isinstance(value, (list, tuple)) and inner[1:] == (Ellipsis,):
        for index, item in enumerate(value):
            yield from _unknown_keys(inner[0], item, place.item(index))
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        for name, item in value.items():
            yield from _unknown_keys(inner[1], item, place.child(str(name)))
    elif isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        known = field_hints(hint)
        for name, item in value.items():
            if name in known:
                yield from _unknown_keys(known[name][1], item, place.child(name))
            else:
                yield _unknown_key(hint, name, item, place)


@cache
def field_hints(cls: type) -> dict[str, tuple[Field[Any], Any]]:
    """Each field of a dataclass with its resolved type."""
    hints = typing.get_type_hints(cls)
    return {one.name: (one, hints[one.name]) for one in fields(cls)}


def takes_number(cls: object) -> bool:
    """Whether a bare number or quantity may stand for ``cls``: a fixed distribution."""
    return cls is Distribution


_SCHEMA = "`gpuyard schema` prints all"


def unit_in(cls: object, name: str, around: str | None) -> str | None:
    """The unit of field ``name`` of ``cls``, whose surroundings give the unit ``around``."""
    if name in _NUMBERS_IN_CONTEXT.get(getattr(cls, "__name__", ""), ()):
        return around
    return unit_of_name(name)


def _build(cls: Any, value: object, place: Place) -> Any:
    if isinstance(value, cls):
        return value
    if takes_number(cls) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        value = {"distribution": "fixed", "value": value}
    if not isinstance(value, Mapping):
        keys = some_of(value, field_hints(cls), _SCHEMA)
        also = f", or {example(place.unit)} for a fixed value" if takes_number(cls) else ""
        raise place.error(
            "expected a mapping of keys to values",
            given=value,
            allowed=f"a mapping with keys of {keys}{also}",
        )
    known = field_hints(cls)
    around = unit_of_name(str(value.get("metric", ""))) if cls is Threshold else place.unit
    given = {}
    for name, (one, hint) in known.items():
        if name in value:
            there = replace(place.child(name), unit=unit_in(cls, name, around))
            _refuse_bare(value[name], str(value.get("metric", "")) if cls is Threshold else name, there)
            given[name] = _value(one.metadata, hint, value[name], there)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise _missing_key(one, hint, place)
    return cls(**given)


def _refuse_bare(value: object, name: str, place: Place) -> None:
    """A limit of 500 is 500 s, and most likely meant as milliseconds: so large a one must state its unit."""
    end = "_".join(name.rsplit("_", 2)[-2:])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if place.unit == "s" and LARGEST_BARE_S.get(end, inf) < value < inf:
        raise place.error(
            f"a number without a unit is in seconds, and {value:g} s is long for it",
            given=value,
            allowed=f"a number up to {LARGEST_BARE_S[end]:g}, or a string with a unit",
            hint=f"'{value:g} ms', or '{value:g} s' if it is meant so",
        )


def _value(metadata: Mapping[str, Any], hint: Any, value: object, place: Place) -> Any:
    """One field's value: of its type, within its bounds, one of its choices where it names any."""
    if "choices" not in metadata or (value is None and hint is not str):
        return check_bounds(convert(hint, value, place), metadata, place, value)
    words, or_path = tuple(metadata["choices"]()), "or_path" in metadata
    also = ", PATH:NAME" if or_path else ""
    if value is None:
        raise place.error("is empty", allowed=some_of("", words, _SCHEMA) + also, hint=_LEAVE_OUT)
    like = ":" if or_path else metadata.get("or_like")
    if like and isinstance(value, str) and re.search(like, value):
        return convert(hint, value, place)
    return _choice(words, value, place, also, metadata.get("like_said", ""))


def _unknown_key(cls: Any, name: object, value: object, place: Place) -> ScenarioError:
    known, there, section = field_hints(cls), place.child(str(name)), place.name
    if asked := asked_by(value, str(name)):
        return there.error(str(asked))
    word = SYNONYMS.get(str(name).lower().replace("-", "_"), "")
    allowed = some_of(name, known, _SCHEMA)
    if word in known:
        return there.error(
            f"unknown field; did you mean {word}?", allowed=allowed, hint=place.child(word).path
        )
    deeper = _found_deeper(cls, {str(name), word}, place)
    if deeper:
        return there.error("unknown field", allowed=allowed, hint=deeper)
    near = meant(name, known, section)
    if not near and (asked := not_modelled(name, section)):
        return there.error(str(asked))
    hint = place.child(near).path if near else "remove it; `gpuyard schema` prints every key and its meaning"
    return there.error(unknown_word("field", name, known, section), allowed=allowed, hint=hint)


def _found_deeper(cls: Any, words: set[str], place: Place) -> str:
    """The path of a key that was written one level too high, or nothing."""
    for name, (_, hint) in field_hints(cls).items():
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner) and isinstance(inner, type):
                for word in words & set(field_hints(inner)):
                    return place.child(name).child(word).path
    return ""


def _missing_key(one: Field[Any], hint: Any, place: Place) -> Exception:
    meaning = one.metadata.get("doc", "")
    return place.child(one.name).error(
        "missing",
        allowed=f"{one.name}: {meaning}" if meaning else one.name,
        hint=f"add {one.name}: {_example_of(one, hint)}",
    )


def _example_of(one: Field[Any], hint: Any) -> str:
    unit = unit_of_name(one.name)
    if "choices" in one.metadata:
        return str(next(iter(one.metadata["choices"]())))
    if get_origin(hint) is Literal:
        return str(get_args(hint)[0])
    if takes_number(hint):
        return f"{{distribution: exponential, mean: {example(unit)}}}"
    if is_dataclass(hint):
        return "{...}"
    if hint in (int, float):
        return "1" if unit is None else example(unit)
    return "..."


def convert(hint: Any, value: object, place: Place) -> Any:
    """``value`` as the type ``hint`` wants it."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _optional(hint, value, place)
    if value is None:
        raise place.error("is empty", allowed=_wanted(hint), hint=_LEAVE_OUT)
    if origin is Literal:
        return _choice(get_args(hint), value, place)
    if origin is tuple:
        return _items(get_args(hint), value, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _entries(get_args(hint)[1], value, place)
    if is_dataclass(hint):
        return _build(hint, value, place)
    if hint in SCALARS and (asked := None if isinstance(value, str) else asked_by(value, place.name)):
        raise place.error(str(asked), given=value)
    return SCALARS[hint](value, place) if hint in SCALARS else value


def _optional(hint: Any, value: object, place: Place) -> Any:
    if value is None:
        return None
    inner = [one for one in get_args(hint) if one is not types.NoneType]
    return convert(inner[0], value, place)


def _choice(choices: tuple[Any, ...], value: object, place: Place, also: str = "", said: str = "") -> Any:
    for choice in choices:
        if choice == value and type(choice) is type(value):
            return choice
    allowed = said or some_of(value, choices, _SCHEMA) + also
    if isinstance(value, bool):
        problem = (
            f"YAML reads no, off, false as false and yes, on, true as true; here it is {str(value).lower()}"
        )
        raise place.error(problem, given=value, allowed=allowed, hint="one of the words allowed")
    words = [str(choice) for choice in choices]
    same = VALUE_SYNONYMS.get(str(value).lower().replace("-", "_"), "")
    problem = unknown_word("value", value, words, place.name)
    if same in words:
        problem = f"unknown value; did you mean {same}?"
    hint = same if same in words else meant(value, words, place.name)
    raise place.error(problem, given=value, allowed=allowed, hint=hint)


def _items(kinds: tuple[Any, ...], value: object, place: Place) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        hint = "[1, 2, 3, 4, 5] for five runs" if place.name == "seeds" else f"[{_short(value)}]"
        raise place.error("expected a list", given=value, allowed="a list: [...]", hint=hint)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(convert(kinds[0], item, place.item(index)) for index, item in enumerate(value))
    if len(value) != len(kinds):
        raise place.error(f"expected {len(kinds)} items", given=value, allowed=f"a list of {len(kinds)}")
    return tuple(
        convert(kind, item, place.item(index))
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _entries(kind: Any, value: object, place: Place) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise place.error("expected a mapping of names to values", given=value, allowed="{name: value, ...}")
    for name in value:
        if not isinstance(name, str):
            raise place.error(
                "a name is not text", given=name, allowed="text as name", hint=f'"{name}" in quotes'
            )
    return {name: convert(kind, item, place.child(name)) for name, item in value.items()}


def _wanted(hint: object) -> str:
    if get_origin(hint) is Literal:
        return some_of("", get_args(hint), _SCHEMA)
    if is_dataclass(hint) and isinstance(hint, type):
        return f"a mapping with keys of {some_of('', field_hints(hint), _SCHEMA)}"
    words: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words.get(hint, "a list" if get_origin(hint) is tuple else "a mapping")


def _short(value: object) -> str:
    shown = str(value)
    return shown if len(shown) <= 40 else "..."
