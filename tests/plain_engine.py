"""Engines that have nothing a test has not asked for: no caching, no asynchronous scheduling, fixed sizes."""

from __future__ import annotations

from typing import Any

from sim.serving.scenario import EngineConfig

PLAIN: dict[str, Any] = {
    "batching": "continuous",
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "enable_prefix_caching": False,
    "async_scheduling": False,
}


def plain_engine(**settings: Any) -> EngineConfig:
    """Continuous batching with every switch off, and ``settings`` on top."""
    return EngineConfig(**{**PLAIN, **settings})
