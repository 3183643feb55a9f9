"""The sizes that each engine takes where none are said: vLLM's by release and device, and the others' own.

SGLang's are those of its ``server_args`` of September 2026 (0.5.20), by the device's memory; its offline
engine takes the same. TensorRT-LLM's are those of ``LlmArgs`` and ``KvCacheConfig`` 1.x. Not modelled: what
back ends raise a page to, and what SGLang's number of requests grows to where the cache is large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sim.hardware.engine_profile import Runtime
from sim.hardware.profile import HardwareProfile
from sim.hardware.vllm_releases import (
    DeviceDefault,
    PerformanceMode,
    Usage,
    default_sizes,
    release_of,
)
from sim.scenario.dataclass import dataclass

GIB = 2**30

BLOCK_SIZES: Mapping[Runtime, int] = {"vllm": 16, "sglang": 1, "tensorrt-llm": 32}
"""Tokens of a block: vLLM's block_size, SGLang's page_size, TensorRT-LLM's tokens_per_block."""
ANY_BLOCK = DeviceDefault(BLOCK_SIZES["vllm"])
"""A block that nobody gave, until the engine is known: this very object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangTier:
    """Defaults of devices with less than ``below_gib``: tokens of a chunk, sequences in the largest graph."""

    below_gib: float
    chunked_prefill_size: int
    graph_sequences: int  # on fewer than 4 GPUs
    graph_sequences_of_many: int


_TIERS = tuple(
    SglangTier(below_gib=below, chunked_prefill_size=chunk, graph_sequences=few, graph_sequences_of_many=many)
    for below, chunk, few, many in (
        (20, 2048, 8, 8),
        (35, 4096, 48, 160),  # until the summer of 2026: 2,048, 24 and 80
        (60, 4096, 32, 160),
        (160, 8192, 256, 512),
        (float("inf"), 16384, 512, 512),
    )
)
# Prompts of a step where they are not cut (max_prefill_tokens), and requests at once: at least so many, up to
# 4,096 where the cache holds more than 4 of the longest.
_WHOLE_PROMPTS, _RUNNING_REQUESTS = 16384, 2048
# TensorRT-LLM: max_batch_size, max_num_tokens.
_TENSORRT_LLM = {"max_num_seqs": 2048, "max_num_batched_tokens": 8192}


def sglang_tier(hbm_bytes: float) -> SglangTier:
    """By the device's memory."""
    return next(tier for tier in _TIERS if hbm_bytes < tier.below_gib * GIB)


class Asked(Protocol):
    """The settings that default sizes depend on."""

    @property
    def runtime(self) -> Runtime: ...
    @property
    def vllm_version(self) -> str: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def performance_mode(self) -> PerformanceMode: ...
    @property
    def enable_chunked_prefill(self) -> bool: ...
    @property
    def max_num_batched_tokens(self) -> int: ...


def sizes_without_device(runtime: Runtime, *, is_vllm: bool) -> dict[str, int]:
    """Sizes that nothing says, until the device is known; ``is_vllm``: vLLM's scheduler decides.

    Other schedulers, in front of vLLM's memory, have limits that no device changes.
    """
    limits: dict[str, int]
    if is_vllm or runtime != "vllm":
        limits = {"max_num_seqs": DeviceDefault(256), "max_num_batched_tokens": DeviceDefault(2048)}
    else:
        limits = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}
    return {"block_size": BLOCK_SIZES[runtime], **limits}


def unsaid_sizes(hardware: HardwareProfile, asked: Asked, whole_prompt: int = 0) -> dict[str, int]:
    """The sizes that were left to their defaults, on this device.

    ``whole_prompt``: without chunked prefill a step of vLLM has room for the longest prompt, so many tokens.
    """
    sizes = _sizes(hardware, asked, whole_prompt)
    unsaid = {name: size for name, size in sizes.items() if isinstance(getattr(asked, name), DeviceDefault)}
    if asked.runtime != "vllm" and "max_num_seqs" in unsaid:  # a step has a token for each
        tokens = unsaid.get("max_num_batched_tokens", asked.max_num_batched_tokens)
        unsaid["max_num_seqs"] = min(unsaid["max_num_seqs"], tokens)
    return unsaid


def _sizes(hardware: HardwareProfile, asked: Asked, whole_prompt: int) -> Mapping[str, int]:
    if asked.runtime == "tensorrt-llm":
        return _TENSORRT_LLM
    if asked.runtime == "sglang":
        chunk = sglang_tier(hardware.hbm_bytes).chunked_prefill_size
        tokens = chunk if asked.enable_chunked_prefill else _WHOLE_PROMPTS
        return {"max_num_seqs": _RUNNING_REQUESTS, "max_num_batched_tokens": tokens}
    release = release_of(asked.vllm_version)
    sizes = default_sizes(release, hardware.hbm_bytes, hardware.name, asked.usage, asked.performance_mode)
    sizes["max_num_batched_tokens"] = max(sizes["max_num_batched_tokens"], whole_prompt)
    return sizes
