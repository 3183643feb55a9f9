"""Busy time by operator: the parts of the price, summed over all steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from sim.arrays import PS_PER_S, Int64
from sim.price.overheads import LaunchedPrice
from sim.price.pipeline import PipelinePrice
from sim.price.roofline import Floats
from sim.price.step import LARGEST_TABLE, CompiledPrice, ServiceTimePrice


class StepRows(Protocol):
    """Shapes of a run's steps: each row stands for ``num_steps`` in a row, which took ``duration_ps``."""

    @property
    def num_steps(self) -> Int64: ...
    @property
    def duration_ps(self) -> Int64: ...
    @property
    def num_decode(self) -> Int64: ...
    @property
    def decode_context_tokens(self) -> Int64: ...
    @property
    def num_prefill(self) -> Int64: ...
    @property
    def prefill_tokens(self) -> Int64: ...
    @property
    def num_draft_tokens(self) -> Int64 | None: ...
    @property
    def num_replicas(self) -> int: ...


def split_by_operator(
    price: CompiledPrice | ServiceTimePrice, rows: StepRows, stages_ps: int = 0
) -> Mapping[str, float]:
    """Seconds by operator, all steps and replicas; they add up to the busy time.

    Over a pipeline of p stages they are means over the stages (``stages_ps``: all stages' busy time), and
    ``pipeline_bubble`` is the rest: a stage waits for another one, for a send or for the host.

    Linear layers are exact per step. The head is taken at one sample per sequence of the step (a chunk that
    does not end its prompt samples nothing: that difference, like rounding, is in ``attention``).
    """
    busy_s = float(np.sum(rows.duration_ps, dtype=np.float64)) / PS_PER_S
    if isinstance(price, ServiceTimePrice):
        return {"service": busy_s}
    if isinstance(price, PipelinePrice):
        return _mean_of_stages(price, rows, busy_s, stages_ps / PS_PER_S)
    split = _linear(price, rows)
    sequences = rows.num_decode + rows.num_prefill
    split["lm_head"] = _head(price, rows)
    overheads = price.overheads_ps
    host_ps = rows.num_steps * (overheads[0] + overheads[1] * sequences)
    if isinstance(price, LaunchedPrice):
        host_ps = host_ps + price.prompt_token_ps * rows.prefill_tokens
    cold_ps = price.cold_start_ps * rows.num_replicas
    is_hidden = isinstance(price, LaunchedPrice) and price.hides_host
    host = (float(cold_ps) if is_hidden else float(np.sum(host_ps, dtype=np.float64) + cold_ps)) / PS_PER_S
    if host:
        split["engine_overhead"] = host
    if isinstance(price, LaunchedPrice) and (wait := _launch_wait(price, rows)):
        split["launch_wait"] = wait
    prompts = rows.num_prefill > 0
    rest = busy_s - sum(split.values())
    decode = _decode_attention(price, rows) - split.get("launch_wait", 0.0)
    split["attention_decode"] = min(decode, max(rest, 0.0)) if prompts.any() else max(rest, 0.0)
    if prompts.any():
        split["attention_prefill"] = max(rest - split["attention_decode"], 0.0)
    return split


def _mean_of_stages(price: PipelinePrice, rows: StepRows, busy_s: float, stages_s: float) -> dict[str, float]:
    """Every step is recorded by itself; prompts' attention (and launches) is what is left of the stages."""
    split = _linear(price, rows) | {"lm_head": _head(price, rows)}
    decode = price.decode_attention_sum_ps(rows.num_decode, rows.decode_context_tokens)
    split["attention_decode"] = decode / PS_PER_S
    split["attention_prefill"] = max(stages_s - sum(split.values()), 0.0)
    means = {name: seconds / len(price.stages) for name, seconds in split.items()}
    return means | {"pipeline_bubble": busy_s - sum(means.values())}


def _head(price: CompiledPrice, rows: StepRows) -> float:
    sequences = rows.num_decode + rows.num_prefill
    if rows.num_draft_tokens is not None:
        sequences = sequences + rows.num_draft_tokens
    return _weighted(
        lambda n: np.array([price.head_ps(int(x)) for x in n]) / PS_PER_S, sequences, rows.num_steps
    )


def _launch_wait(price: LaunchedPrice, rows: StepRows) -> float:
    """Waiting for launches in pure decode steps, at the middle of each run of them."""
    pure = rows.num_prefill == 0
    decode, steps = rows.num_decode[pure], rows.num_steps[pure]
    middle = rows.decode_context_tokens[pure] + decode * (steps - 1) // 2
    return price.launch_wait_sum_ps(decode, middle, steps) / PS_PER_S


def _linear(price: CompiledPrice, rows: StepRows) -> dict[str, float]:
    tokens = rows.num_decode + rows.prefill_tokens
    if rows.num_draft_tokens is not None:
        tokens = tokens + rows.num_draft_tokens
    sizes, inverse = np.unique(tokens, return_inverse=True)
    weights = np.bincount(inverse, weights=rows.num_steps, minlength=len(sizes))
    times = price.linear_split_s(sizes.astype(np.float64))
    return {name: float((seconds * weights).sum()) for name, seconds in times.items()}


def _weighted(price_s: object, values: np.ndarray, weights: np.ndarray) -> float:
    assert callable(price_s)
    sizes, inverse = np.unique(values, return_inverse=True)
    if len(sizes) and sizes[-1] > LARGEST_TABLE:
        sizes = np.minimum(sizes, LARGEST_TABLE)
    seconds: Floats = price_s(sizes)
    return float((seconds * np.bincount(inverse, weights=weights, minlength=len(sizes))).sum())


def _decode_attention(price: CompiledPrice, rows: StepRows) -> float:
    """Decode attention: exact where the step has prompts too; of pure decode steps, what is left of them."""
    mixed = (rows.num_prefill > 0) & (rows.num_decode > 0)
    total = price.decode_attention_sum_ps(rows.num_decode[mixed], rows.decode_context_tokens[mixed])
    pure = rows.num_prefill == 0
    steps = rows.num_steps[pure]
    spent = float(np.sum(rows.duration_ps[pure], dtype=np.float64))
    sizes, inverse = np.unique(rows.num_decode[pure], return_inverse=True)
    constants = np.array([price.constant_ps(int(size)) for size in sizes], dtype=np.float64)
    spent -= (
        float((constants * np.bincount(inverse, weights=steps, minlength=len(sizes))).sum())
        if len(sizes)
        else 0.0
    )
    return (total + spent) / PS_PER_S
