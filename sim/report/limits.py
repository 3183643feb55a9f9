"""What the serving simulation leaves out: one list, printed in every report."""

from __future__ import annotations

NOT_MODELLED = (
    "The network between client and engine, HTTP, tokenisation and detokenisation, except as the named "
    "engine overheads.",
    "Token content: lengths are given, no request stops early or loops, and sampling costs the same for all.",
    "Draft models (EAGLE, MTP), LoRA adapters, multi-modal inputs, structured output; n-gram drafts are "
    "right at a given rate.",
    "Expert and data parallelism inside one replica; pipelines with asynchronous "
    "scheduling or drafts; disaggregated prefill and decode.",
    "KV offload to host memory or disk, and swapping: a preempted request is recomputed.",
    "Clock changes with power and temperature, other tenants of the GPU, ECC and failures.",
    "Overlap of kernels on different streams; asynchronous scheduling hides all host time that fits behind "
    "the kernels.",
    "Imbalance: all tensor-parallel ranks take the same time; experts receive tokens evenly.",
    "Start-up, but for overheads.cold_start_s: model loading, graph capture, autoscaling.",
)
