"""vLLM's entry in ``BATCHING``: from a scenario's settings to its scheduler."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from sim.model.kv_groups import KvGroup
from sim.model.kv_layers import kv_groups
from sim.price.memory import kv_settings, memory_plan
from sim.scenario.place import Place
from sim.serving.batching.entry import Batching, Replica
from sim.serving.checks.vllm import check_vllm
from sim.serving.scenario import EngineConfig, Scenario, max_model_len
from sim.serving.scheduler import Scheduler
from sim.serving.vllm.config import ONE_FULL_GROUP, POLICIES, KVCacheGroup, SchedulerConfig
from sim.serving.vllm.group_kinds import CHUNKS_NOT_CUT

VLLM_KEYS = frozenset([
    "policy", "enable_prefix_caching", "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive", "scheduler_reserve_full_isl", "prefill_schedule_interval",
    "max_num_active_seqs", "async_scheduling", "speculative", "pipeline_parallel_size",
])  # fmt: skip


def scheduler_config(engine: EngineConfig, num_gpu_blocks: int, max_model_len: int) -> SchedulerConfig:
    """The engine section in the scheduler's words: most of them are the same."""
    others: dict[str, Any] = {
        "num_gpu_blocks": num_gpu_blocks,
        "max_model_len": max_model_len,
        "policy": engine.policy if engine.policy in POLICIES else "user",
        "num_speculative_tokens": engine.speculative.num_speculative_tokens if engine.speculative else 0,
        "groups": ONE_FULL_GROUP,
        "prefix_cache_retention_interval": 0,
    }
    same = [one.name for one in fields(SchedulerConfig) if one.name not in others]
    return SchedulerConfig(**others, **{name: getattr(engine, name) for name in same})


def with_groups(config: SchedulerConfig, scenario: Scenario) -> tuple[SchedulerConfig, tuple[str, ...]]:
    """The same scheduler over the KV-cache groups of the model, where one of full attention is not all.

    The notes say what of it nobody has recorded, or is not modelled.
    """
    engine = scenario.engine
    if not engine.has_kv_budget or engine.runtime != "vllm":
        return config, ()
    if _is_plain(kv_groups(scenario.model, kv_settings(scenario.hardware, engine))):
        return config, ()
    pool = memory_plan(scenario.model, scenario.hardware, engine).pool
    sizes = sorted({group.block_size for group in pool.groups})
    if len(sizes) > 1:
        said = f"KV-cache groups with blocks of {' and '.join(map(str, sizes))} tokens are not modelled"
        return config, (f"{said}: scheduled as one group that holds as many requests of max_model_len",)
    notes = [
        f"KV-cache groups of {GROUP_WORDS[kind]}: as vLLM 0.33.0 is described, not recorded"
        for kind in sorted({group.kind for group in pool.groups} & GROUP_WORDS.keys())
    ]
    if len(pool.groups) > 1:
        notes.append(
            f"KV memory is counted in places for tokens: a token has one in each of {len(pool.groups)} "
            "KV-cache groups, and none where it has left a window"
        )
    caches = config.enable_prefix_caching and all(group.caches_prefixes for group in pool.groups)
    notes += [CHUNKS_NOT_CUT for group in pool.groups if caches and group.kind == "state"][:1]
    return replace(
        config,
        groups=tuple(map(_group, pool.groups)),
        num_gpu_blocks=pool.num_blocks,
        block_size=sizes[0],
        enable_prefix_caching=caches,
    ), tuple(notes)


GROUP_WORDS = {"chunked": "chunked local attention", "state": "recurrent states"}


def _is_plain(groups: tuple[KvGroup, ...]) -> bool:
    return [group.kind for group in groups] in ([], ["full"])


def _group(group: KvGroup) -> KVCacheGroup:
    pages = group.layers[0].pages_per_request
    return KVCacheGroup(kind=group.kind, window_tokens=group.window_tokens or 0, pages_per_request=pages or 1)


class VllmBatching(Batching):
    """vLLM's scheduler over its own pool, whose blocks are shared and cached."""

    def make(self, replica: Replica) -> Scheduler:
        from sim.serving.user_policy import load_scheduling_policy
        from sim.serving.vllm.scheduler import Scheduler as VllmScheduler
        from sim.serving.vllm_block_map import VllmBlockMapRecorder

        engine = replica.scenario.engine
        config = scheduler_config(engine, replica.num_blocks, max_model_len(replica.scenario))
        config, notes = with_groups(config, replica.scenario)
        is_users = config.policy == "user"
        scheduler = VllmScheduler(
            config,
            engine.vllm_version,
            steady=engine.stepping == "skip" and engine.pipeline_parallel_size == 1,
            policy=load_scheduling_policy(engine.policy, replica.base_dir) if is_users else None,
            are_alone=replica.are_alone,
            block_map=VllmBlockMapRecorder(replica.index) if replica.keeps_block_map else None,
        )
        scheduler.notes = notes
        return scheduler

    def check(self, engine: EngineConfig, place: Place) -> None:
        check_vllm(engine, place)


VLLM = VllmBatching(doc="vLLM V1's scheduler, decision for decision (the default)", keys=VLLM_KEYS)
