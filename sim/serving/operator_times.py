"""Busy time by operator: the parts of the price, summed over all steps of a run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.arrays import PS_PER_S
from sim.price.overheads import LaunchedPrice
from sim.price.pipeline import PipelinePrice
from sim.price.roofline import Floats
from sim.price.step import LARGEST_TABLE, CompiledPrice, ServiceTimePrice
from sim.serving.records import SegmentColumns


def split_by_operator(
    price: CompiledPrice | ServiceTimePrice, segments: SegmentColumns, stages_ps: int = 0
) -> Mapping[str, float]:
    """Seconds by operator, all steps and replicas; they add up to the busy time.

    Over a pipeline of p stages they are means over the stages (``stages_ps``: all stages' busy time), and
    ``pipeline_bubble`` is the rest: a stage waits for another one, for a send or for the host.

    Linear layers are exact per step. The head is taken at one sample per sequence of the step (a chunk that
    does not end its prompt samples nothing: that difference, like rounding, is in ``attention``).
    """
    steps, first, growth = segments.num_steps, segments.first_step_ps, segments.step_growth_ps
    busy_s = float(np.sum(steps * first + growth * (steps * (steps - 1) // 2), dtype=np.float64)) / PS_PER_S
    if isinstance(price, ServiceTimePrice):
        return {"service": busy_s}
    if isinstance(price, PipelinePrice):
        return _mean_of_stages(price, segments, busy_s, stages_ps / PS_PER_S)
    split = _linear(price, segments)
    sequences = segments.num_decode + segments.num_prefill
    split["lm_head"] = _head(price, segments)
    overheads = price.overheads_ps
    host_ps = steps * (overheads[0] + overheads[1] * sequences)
    if isinstance(price, LaunchedPrice):
        host_ps = host_ps + price.prompt_token_ps * segments.prefill_tokens
    cold_ps = price.cold_start_ps * len(np.unique(segments.replica))  # replicas that ran a step
    is_hidden = isinstance(price, LaunchedPrice) and price.hides_host
    host = (float(cold_ps) if is_hidden else float(np.sum(host_ps, dtype=np.float64) + cold_ps)) / PS_PER_S
    if host:
        split["engine_overhead"] = host
    if isinstance(price, LaunchedPrice) and (wait := _launch_wait(price, segments)):
        split["launch_wait"] = wait
    prompts = segments.num_prefill > 0
    rest = busy_s - sum(split.values())
    decode = _decode_attention(price, segments) - split.get("launch_wait", 0.0)
    split["attention_decode"] = min(decode, max(rest, 0.0)) if prompts.any() else max(rest, 0.0)
    if prompts.any():
        split["attention_prefill"] = max(rest - split["attention_decode"], 0.0)
    return split


def _mean_of_stages(
    price: PipelinePrice, segments: SegmentColumns, busy_s: float, stages_s: float
) -> dict[str, float]:
    """Every step is recorded by itself; prompts' attention (and launches) is what is left of the stages."""
    split = _linear(price, segments) | {"lm_head": _head(price, segments)}
    decode = price.decode_attention_sum_ps(segments.num_decode, segments.decode_context_tokens)
    split["attention_decode"] = decode / PS_PER_S
    split["attention_prefill"] = max(stages_s - sum(split.values()), 0.0)
    means = {name: seconds / len(price.stages) for name, seconds in split.items()}
    return means | {"pipeline_bubble": busy_s - sum(means.values())}


def _head(price: CompiledPrice, segments: SegmentColumns) -> float:
    sequences = segments.num_decode + segments.num_prefill
    if segments.num_draft_tokens is not None:
        sequences = sequences + segments.num_draft_tokens
    return _weighted(
        lambda n: np.array([price.head_ps(int(x)) for x in n]) / PS_PER_S, sequences, segments.num_steps
    )


def _launch_wait(price: LaunchedPrice, segments: SegmentColumns) -> float:
    """Waiting for launches in pure decode steps, at the middle of each run of them."""
    pure = segments.num_prefill == 0
    decode, steps = segments.num_decode[pure], segments.num_steps[pure]
    middle = segments.decode_context_tokens[pure] + decode * (steps - 1) // 2
    return price.launch_wait_sum_ps(decode, middle, steps) / PS_PER_S


def _linear(price: CompiledPrice, segments: SegmentColumns) -> dict[str, float]:
    tokens = segments.num_decode + segments.prefill_tokens
    if segments.num_draft_tokens is not None:
        tokens = tokens + segments.num_draft_tokens
    sizes, inverse = np.unique(tokens, return_inverse=True)
    weights = np.bincount(inverse, weights=segments.num_steps, minlength=len(sizes))
    times = price.linear_split_s(sizes.astype(np.float64))
    return {name: float((seconds * weights).sum()) for name, seconds in times.items()}


def _weighted(price_s: object, values: np.ndarray, weights: np.ndarray) -> float:
    assert callable(price_s)
    sizes, inverse = np.unique(values, return_inverse=True)
    if len(sizes) and sizes[-1] > LARGEST_TABLE:
        sizes = np.minimum(sizes, LARGEST_TABLE)
    seconds: Floats = price_s(sizes)
    return float((seconds * np.bincount(inverse, weights=weights, minlength=len(sizes))).sum())


def _decode_attention(price: CompiledPrice, segments: SegmentColumns) -> float:
    """Decode attention: exact where the step has prompts too; of pure decode steps, what is left of them."""
    mixed = (segments.num_prefill > 0) & (segments.num_decode > 0)
    total = price.decode_attention_sum_ps(segments.num_decode[mixed], segments.decode_context_tokens[mixed])
    pure = segments.num_prefill == 0
    steps, first, growth = (
        segments.num_steps[pure],
        segments.first_step_ps[pure],
        segments.step_growth_ps[pure],
    )
    spent = float(np.sum(steps * first + growth * (steps * (steps - 1) // 2), dtype=np.float64))
    sizes, inverse = np.unique(segments.num_decode[pure], return_inverse=True)
    constants = np.array([price.constant_ps(int(size)) for size in sizes], dtype=np.float64)
    spent -= (
        float((constants * np.bincount(inverse, weights=steps, minlength=len(sizes))).sum())
        if len(sizes)
        else 0.0
    )
    return (total + spent) / PS_PER_S
