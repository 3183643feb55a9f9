"""vLLM V1's scheduler and KV block pool, step for step as the named release decides.

Proven by recorded decisions of the real scheduler (``gpuyard conformance``): chunked prefill, preemption,
prefix caching and eviction down to the block ids, priority, long-prefill thresholds, the admission gate
and watermark, ``prefill_schedule_interval``, n-gram drafts, asynchronous scheduling, in 0.33.0 and 0.20.0;
several KV-cache groups with full attention and sliding windows in 0.33.0.

Not proven, because no recording shows it: asynchronous scheduling together with drafts (vLLM refuses n-gram
drafts there), groups of chunked local attention and of recurrent states. Not modelled: lookahead slots of
drafting models (EAGLE, MTP), data parallel, KV connectors. ``docs/vllm.md`` has the table.
"""

from __future__ import annotations

# What the file of a user's policy imports; everything else is imported from its module.
from sim.serving.request import Request
from sim.serving.vllm.user_policy import CacheView, SchedulingPolicy

__all__ = ["CacheView", "Request", "SchedulingPolicy"]
