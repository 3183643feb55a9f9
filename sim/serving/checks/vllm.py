"""What vLLM refuses, what its named release does not have, and what is not modelled of it."""

from __future__ import annotations

from dataclasses import fields

from sim.scenario.place import Place
from sim.serving.scenario import EngineConfig
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.versions import VERSIONS, recorded_release


def check_vllm(engine: EngineConfig, place: Place) -> None:
    """The settings of ``batching: vllm`` against each other."""
    _check_pipeline(engine, place)
    if engine.async_scheduling and engine.speculative is not None:
        raise place.child("async_scheduling").error(
            "vLLM itself refuses asynchronous scheduling with n-gram drafts",
            given=True,
            allowed="async_scheduling: false with speculative: {method: ngram}",
            hint="remove async_scheduling (vLLM turns it off with n-gram drafts), or remove speculative",
        )
    blocks = engine.num_gpu_blocks_override
    if blocks is not None and blocks < 2:
        raise place.child("num_gpu_blocks_override").error(
            "vLLM keeps one block for itself", given=blocks, allowed="2 or more", hint="batching: continuous"
        )
    check_release(engine.vllm_version, engine, place)


def check_release(version: str, settings: EngineConfig | SchedulerConfig, place: Place) -> None:
    """A setting that the release does not have must be left at its default."""
    missing = VERSIONS[recorded_release(version)].missing
    for field in fields(settings):
        given = getattr(settings, field.name)
        if field.name in missing and given != field.default:
            raise place.child(field.name).error(
                f"vLLM {version} has no such setting", given=given, hint=f"leave it at {field.default!r}"
            )


def check_retention(limits: SchedulerConfig, place: Place) -> None:
    """Which blocks a window or a state leaves findable is said in whole blocks, and of nothing else."""
    interval, size = limits.prefix_cache_retention_interval, limits.block_size
    place = place.child("prefix_cache_retention_interval")
    if not interval:
        return
    if not any(group.kind in ("sliding", "state") for group in limits.groups):
        raise place.error(
            "vLLM refuses it where no layer has a sliding window or a state",
            given=interval,
            allowed="0, or null: every block",
        )
    if interval < 0 or interval % size:
        raise place.error(
            "no multiple of the block size", given=interval, allowed=f"0, {size}, {2 * size}, ..."
        )


def _check_pipeline(engine: EngineConfig, place: Place) -> None:
    """What a pipeline cannot be combined with here."""
    if engine.pipeline_parallel_size == 1:
        return
    beside = {
        "async_scheduling": (engine.async_scheduling, "false"),
        "speculative": (engine.speculative is not None, "no speculative"),
        "price_table": (engine.price_table is not None, "no price_table: it was measured on one stage"),
    }
    for name, (is_given, allowed) in beside.items():
        if is_given:
            raise place.child(name).error(
                "not modelled with pipeline_parallel_size",
                given=name if name != "async_scheduling" else True,
                allowed=f"{allowed}, with pipeline_parallel_size {engine.pipeline_parallel_size}",
                hint="remove it, or pipeline_parallel_size: 1",
            )
    if engine.overheads.schedules_ahead:
        raise (
            place.child("overheads")
            .child("schedules_ahead")
            .error(
                "not modelled with pipeline_parallel_size: as many batches are planned as there are stages",
                given=True,
                allowed="false with pipeline_parallel_size",
                hint="remove it",
            )
        )
