"""Checks between the fields of the engine."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path

from sim.errors import did_you_mean
from sim.hardware.vllm_releases import LATEST, allowed_releases, is_known_release, release_of
from sim.scenario.build import build
from sim.scenario.distribution import check_distribution
from sim.scenario.not_modelled import meant, unknown_word
from sim.scenario.place import Place
from sim.serving.batching.registry import BATCHING, known_batching
from sim.serving.scenario import ENGINE_CHOICES, EngineConfig
from sim.serving.vllm.config import POLICIES

_EXAMPLES = {"function": "plan", "class": "MyPolicy"}


def engine_of(given: Mapping[str, object]) -> EngineConfig:
    """An engine section that stands by itself, as a file's would be read."""
    return build(EngineConfig, given, file="", path="engine")


def check_engine(engine: EngineConfig, place: Place) -> None:
    """Limits that go together, and no key without effect."""
    _check_budget(engine, place)
    _check_belonging(engine, place)
    _check_without_kv_cache(engine, place)
    _check_service_time(engine, place)
    _check_overheads(engine, place)
    _check_account(engine, place)
    known_batching(engine.batching).check(engine, place)


def _check_budget(engine: EngineConfig, place: Place) -> None:
    tokens, seqs = engine.max_num_batched_tokens, engine.max_num_seqs
    if not known_batching(engine.batching).pads_batches and tokens < seqs:
        raise place.child("max_num_batched_tokens").error(
            f"max_num_batched_tokens {tokens:,} is below max_num_seqs {seqs:,}: "
            "one token per sequence does not fit",
            given=tokens,
            allowed=f"at least max_num_seqs ({seqs:,})",
            hint=f"max_num_seqs: {tokens}, or more tokens",
        )


def _check_belonging(engine: EngineConfig, place: Place) -> None:
    """Keys that say something for some ways to batch, or for some allocators, only."""
    defaults = EngineConfig(batching=engine.batching, runtime=engine.runtime)
    for field, problem in (("kv_allocator", "has no effect"), ("batching", "not possible")):
        chosen, choices = getattr(engine, field), ENGINE_CHOICES[field]
        for name in sorted(choices.foreign_keys(chosen)):
            value = getattr(engine, name)
            if value != getattr(defaults, name):
                names = choices.names_with(name)
                raise place.child(name).error(
                    f"{problem} with {field}: {chosen}",
                    given=name if is_dataclass(value) else value,
                    allowed=f"{name} with {field}: {' or '.join(names)}",
                    hint=f"{field}: {names[0]}, or remove it",
                )


def _check_without_kv_cache(engine: EngineConfig, place: Place) -> None:
    if engine.use_kv_cache:
        return
    beside = {
        "kv_allocator": engine.kv_allocator != "paged",
        "num_gpu_blocks_override": engine.num_gpu_blocks_override is not None,
        "kv_cache_dtype": engine.kv_cache_dtype != "auto",
        "watermark": engine.watermark != 0,
    }
    for name, is_given in beside.items():
        if is_given:
            raise place.child(name).error(
                "says how KV is kept, but use_kv_cache is false",
                given=getattr(engine, name),
                allowed=f"{name} with use_kv_cache: true",
                hint="remove it, or use_kv_cache: true",
            )


def _check_overheads(engine: EngineConfig, place: Place) -> None:
    """A measured table is of one engine's steps; how its launches overlap is part of what was measured."""
    for name in ("launch_per_layer_s", "per_prompt_token_s"):
        if engine.price_table and getattr(engine.overheads, name):
            raise (
                place.child("overheads")
                .child(name)
                .error(
                    "not possible with price_table",
                    given=getattr(engine.overheads, name),
                    allowed="the other overheads with price_table",
                    hint=f"{name}: 0 beside the profile, or no price_table"
                    if engine.profile
                    else "remove it, or price_table",
                )
            )


SHARES = {
    "vllm": "gpu_memory_utilization",
    "sglang": "mem_fraction_static",
    "tensorrt-llm": "free_gpu_memory_fraction",
}
"""By runtime: the share of the device's memory that it is told."""


def _check_account(engine: EngineConfig, place: Place) -> None:
    """A release whose account is known, and no share but the runtime's own."""
    if not is_known_release(engine.vllm_version):
        raise place.child("vllm_version").error(
            "not a vLLM release that is modelled",
            given=engine.vllm_version,
            allowed=allowed_releases(),
            hint=f'vllm_version: "{LATEST}"',
        )
    if engine.max_model_len == 0:
        raise place.child("max_model_len").error("no tokens", given=0, allowed="1 or more, or -1: what fits")
    _check_words_of_vllm(engine, place)
    unsaid = None, release_of(engine.vllm_version).gpu_memory_utilization
    for runtime, name in SHARES.items():
        given = getattr(engine, name)
        if runtime != engine.runtime and given not in unsaid:
            raise place.child(name).error(
                f"has no effect with runtime: {engine.runtime}",
                given=given,
                allowed=f"{name} with runtime: {runtime}",
                hint=f"{SHARES[engine.runtime]}, or runtime: {runtime}",
            )


def _check_words_of_vllm(engine: EngineConfig, place: Place) -> None:
    """No word that only vLLM's account and defaults understand."""
    for name, default in (("usage", "server"), ("performance_mode", "balanced"), ("sampler", "auto")):
        given = getattr(engine, name)
        if engine.runtime != "vllm" and given != default:
            raise place.child(name).error(
                f"has no effect with runtime: {engine.runtime}",
                given=given,
                allowed=f"{name} with runtime: vllm",
                hint="remove it, or runtime: vllm",
            )


def _check_service_time(engine: EngineConfig, place: Place) -> None:
    if engine.service_time is None:
        return
    there = place.child("service_time")
    if engine.max_num_seqs != 1:
        raise place.child("max_num_seqs").error(
            f"with service_time one request is served at a time; max_num_seqs is {engine.max_num_seqs}",
            given=engine.max_num_seqs,
            allowed="1 with service_time",
            hint="max_num_seqs: 1; for several servers (M/G/c) replicas: c with routing: shared_queue",
        )
    check_distribution(engine.service_time, there, Path(there.file).parent)


def check_policies(engine: EngineConfig, place: Place, base_dir: Path) -> None:
    """``batching`` and ``policy`` are known or name something that is there; its file is not run."""
    _check_policy(engine.batching, tuple(BATCHING), place.child("batching"), base_dir, "function")
    _check_policy(engine.policy, POLICIES, place.child("policy"), base_dir, "class")


def _check_policy(given: str, known: Sequence[str], place: Place, base_dir: Path, wanted: str) -> None:
    if given in known:
        return
    path, colon, name = given.rpartition(":")
    if not colon or not path or not name.isidentifier():
        raise place.error(
            unknown_word("policy", given, known),
            given=given,
            allowed=f"{', '.join(known)}, or PATH:{wanted} (./my_policy.py:{_EXAMPLES[wanted]})",
            hint=meant(given, known) or known[1],
        )
    from sim.scenario.csv_files import check_file
    from sim.scenario.place import code_path

    file = code_path(given, base_dir)
    if not file.is_file():
        check_file(path, place, base_dir)
    names = _names_in(file, place)
    if name not in names:
        raise place.error(
            f"{path} has no {wanted} {name}{did_you_mean(name, names)}",
            given=given,
            allowed=f"{path}: {', '.join(names) or f'no {wanted} at all'}",
            hint=f"define {name} in that file",
        )


def _names_in(path: Path, place: Place) -> list[str]:
    try:
        module = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise place.error(
            f"{path.name} cannot be read as Python: {error}",
            given=str(path),
            allowed="a Python file",
            hint="run python on it",
        ) from None
    names = []
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.extend((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.extend(target.id for target in node.targets if isinstance(target, ast.Name))
    return names
