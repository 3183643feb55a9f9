"""The accounts that ``gpuyard memory`` is asked for: from its options to a start, or why there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile
from sim.hardware.engine_profile import RUNTIMES, load_engine_profile
from sim.hardware.vllm_releases import OLDEST, allowed_releases, is_known_release
from sim.model.shape import ModelShape
from sim.plan.memory import engine_for
from sim.price.memory import FITTED, memory_plan
from sim.report.memory_table import Account
from sim.serving.checks.engine import SHARES

Given = Mapping[str, Any]


_OF_VLLM_ALONE = (
    "vllm_version", "usage", "performance_mode", "sampler", "async_scheduling", "enable_prefix_caching",
    "enable_chunked_prefill",
)  # fmt: skip
_BLOCKS_OF = 16
"""vLLM's attention kernels for CUDA take blocks of a multiple of so many tokens."""


def options_of(given: Given) -> dict[str, Any]:
    """What was typed, with what its engine profile says of the engine.

    Raises ScenarioError where an option says nothing for that engine, or contradicts the profile.
    """
    settings = {**given, **_of_profile(given)}
    runtime = settings.get("runtime", "vllm")
    _check_belonging(given, runtime)
    block = given.get("block_size")
    if runtime == "vllm" and block is not None and block % _BLOCKS_OF:
        raise ScenarioError(
            "vLLM's attention kernels take no such blocks",
            path="--block-size",
            given=block,
            allowed=f"multiples of {_BLOCKS_OF}",
            hint=f"--block-size {max(1, round(block / _BLOCKS_OF)) * _BLOCKS_OF}",
        )
    return settings


def _check_belonging(given: Given, runtime: str) -> None:
    """No option that changes nothing in the account of this engine."""
    owners = dict.fromkeys(_OF_VLLM_ALONE, "vllm") | {share: whose for whose, share in SHARES.items()}
    for name, owner in owners.items():
        if name in given and owner != runtime and runtime in SHARES:
            flag = name.replace("_", "-")
            raise ScenarioError(
                f"has no effect with runtime: {runtime}",
                path=f"--{flag}",
                given=given[name],
                allowed=f"--{flag} with --runtime {owner}",
                hint=f"--{SHARES[runtime].replace('_', '-')}, or --runtime {owner}"
                if name in SHARES.values()
                else f"leave it out, or --runtime {owner}",
            )


def _of_profile(given: Given) -> dict[str, Any]:
    """The engine of the profile, and its release where none was typed."""
    if given.get("profile") is None:
        return {}
    profile = load_engine_profile(given["profile"], path="--profile")
    runtime = given.get("runtime", profile.engine)
    if profile.engine in RUNTIMES and runtime != profile.engine:
        raise ScenarioError(
            f"{profile.name} is of {profile.engine}, and --runtime is {runtime}",
            path="--profile",
            given=given["profile"],
            allowed=f"a profile of {runtime} with --runtime {runtime}",
            hint="one of both alone",
        )
    if profile.engine not in RUNTIMES:
        return {}
    if runtime != "vllm" or "vllm_version" in given:
        return {"runtime": runtime}
    if not is_known_release(profile.version):
        raise ScenarioError(
            f"{profile.name} is of vLLM {profile.version}, whose memory account is not modelled",
            path="--profile",
            given=given["profile"],
            allowed=f"vLLM {allowed_releases()}",
            hint=f"--vllm-version {OLDEST[0]}.{OLDEST[1]} beside it, the oldest that is",
        )
    return {"runtime": runtime, "vllm_version": re.split(r"[,\s]", profile.version.strip())[0]}


def account_of(given: Given, hardware: HardwareProfile, model: ModelShape, *, fits: bool) -> Account:
    """The account of a start on this device. Raises ScenarioError where it would not start.

    ``fits``: a max_model_len that is too long is fitted, and said so.
    """
    engine = engine_for(given, hardware, model)
    notes: tuple[str, ...] = ()
    try:
        plan = memory_plan(model, hardware, engine)
    except ScenarioError as error:
        if not fits or not error.path.endswith("max_model_len"):
            raise
        plan = memory_plan(model, hardware, replace(engine, max_model_len=FITTED))
        asked = engine.max_model_len or model.max_position_embeddings
        notes = (f"max_model_len {asked:,} does not start: fitted to the longest that does",)
    return Account(
        model=model,
        hardware=hardware,
        tensor_parallel_size=engine.tensor_parallel_size,
        engine=engine,
        plan=plan,
        notes=notes,
    )


def account_or_refusal(given: Given, hardware: HardwareProfile, model: ModelShape, *, fits: bool) -> Account:
    """The same, but a start that fails is an answer: why, and the account without room."""
    try:
        return account_of(given, hardware, model, fits=fits)
    except ScenarioError as error:
        refusal = error.problem.replace("\n ", ":")
    engine = plan = None
    with suppress(ScenarioError):
        engine = engine_for(given, hardware, model)
        plan = memory_plan(model, hardware, engine, refuses=False)
    size = given.get("tensor_parallel_size", 1)
    return Account(
        model=model, hardware=hardware, tensor_parallel_size=size, engine=engine, plan=plan, refusal=refusal
    )
