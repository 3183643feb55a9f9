"""Busy time by operator: the parts of the price, summed over all steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Int64
from sim.price.overheads import LaunchedPrice
from sim.price.pipeline import PipelinePrice
from sim.price.roofline import Floats
from sim.price.step import LARGEST_TABLE, CompiledPrice, ServiceTimePrice


class StepRows(Protocol):
    """Shapes of a run's steps: each row stands for ``num_steps`` in a row, which took ``duration_ps``.

    ``parts``: the same rows, some at a time; ``of_parts``: a column made from them, one part at a time.
    """

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
    def parts(self) -> Iterator[Self]: ...
    def of_parts(self, value: Callable[[Self], npt.NDArray[Any]]) -> npt.NDArray[Any]: ...


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
    split["lm_head"] = _head(price, rows)
    cold_ps = price.cold_start_ps * rows.num_replicas
    is_hidden = isinstance(price, LaunchedPrice) and price.hides_host
    host = (float(cold_ps) if is_hidden else _host_ps(price, rows) + cold_ps) / PS_PER_S
    if host:
        split["engine_overhead"] = host
    if isinstance(price, LaunchedPrice) and (wait := _launch_wait(price, rows)):
        split["launch_wait"] = wait
    has_prompts = any((part.num_prefill > 0).any() for part in rows.parts())
    rest = busy_s - sum(split.values())
    decode = _decode_attention(price, rows) - split.get("launch_wait", 0.0)
    split["attention_decode"] = min(decode, max(rest, 0.0)) if has_prompts else max(rest, 0.0)
    if has_prompts:
        split["attention_prefill"] = max(rest - split["attention_decode"], 0.0)
    return split


def _mean_of_stages(price: PipelinePrice, rows: StepRows, busy_s: float, stages_s: float) -> dict[str, float]:
    """Every step is recorded by itself; prompts' attention (and launches) is what is left of the stages."""
    split = _linear(price, rows) | {"lm_head": _head(price, rows)}
    decode = sum(
        price.decode_attention_sum_ps(part.num_decode, part.decode_context_tokens) for part in rows.parts()
    )
    split["attention_decode"] = decode / PS_PER_S
    split["attention_prefill"] = max(stages_s - sum(split.values()), 0.0)
    means = {name: seconds / len(price.stages) for name, seconds in split.items()}
    return means | {"pipeline_bubble": busy_s - sum(means.values())}


def _host_ps(price: CompiledPrice, rows: StepRows) -> float:
    """Host time of all steps, where it is not hidden behind kernels."""
    each_step, each_sequence = price.overheads_ps[:2]
    each_token = price.prompt_token_ps if isinstance(price, LaunchedPrice) else 0

    def host_ps(part: StepRows) -> Int64:
        sequences = part.num_decode + part.num_prefill
        times: Int64 = part.num_steps * (each_step + each_sequence * sequences)
        return times + each_token * part.prefill_tokens if each_token else times

    return float(np.sum(rows.of_parts(host_ps), dtype=np.float64))


def _head(price: CompiledPrice, rows: StepRows) -> float:
    sizes, steps = _steps_by(rows, lambda part: (_tokens(part, part.num_prefill), part.num_steps))
    if len(sizes) and sizes[-1] > LARGEST_TABLE:
        sizes = np.minimum(sizes, LARGEST_TABLE)
    seconds: Floats = np.array([price.head_ps(int(x)) for x in sizes]) / PS_PER_S
    return float((seconds * steps).sum())


def _tokens(rows: StepRows, beside: Int64) -> Int64:
    """Tokens of the decoding sequences, drafts among them, and what prompts add to them."""
    tokens: Int64 = rows.num_decode + beside
    return tokens if rows.num_draft_tokens is None else tokens + rows.num_draft_tokens


def _launch_wait(price: LaunchedPrice, rows: StepRows) -> float:
    """Waiting for launches in pure decode steps, at the middle of each run of them."""
    total_ps = 0
    for part in rows.parts():
        pure = part.num_prefill == 0
        decode, steps = part.num_decode[pure], part.num_steps[pure]
        middle = part.decode_context_tokens[pure] + decode * (steps - 1) // 2
        total_ps += price.launch_wait_sum_ps(decode, middle, steps)
    return total_ps / PS_PER_S


def _linear(price: CompiledPrice, rows: StepRows) -> dict[str, float]:
    sizes, steps = _steps_by(rows, lambda part: (_tokens(part, part.prefill_tokens), part.num_steps))
    times = price.linear_split_s(sizes.astype(np.float64))
    return {name: float((seconds * steps).sum()) for name, seconds in times.items()}


def _steps_by(rows: StepRows, sized: Callable[[StepRows], tuple[Int64, Int64]]) -> tuple[Int64, Floats]:
    """The sizes that steps have, ascending, and how many steps have each (whole numbers: exact in a float).

    ``sized``: sizes and numbers of steps by row.
    """
    found = []
    for part in rows.parts():
        of_rows, steps = sized(part)
        sizes, inverse = np.unique(of_rows, return_inverse=True)
        found.append((sizes, _sums(inverse, steps, len(sizes))))
    if len(found) == 1:
        return found[0]
    sizes, inverse = np.unique(np.concatenate([sizes for sizes, _ in found]), return_inverse=True)
    return sizes, _sums(inverse, np.concatenate([steps for _, steps in found]), len(sizes))


def _sums(groups: Int64, values: npt.NDArray[Any], num_groups: int) -> Floats:
    sums = np.bincount(groups, weights=values, minlength=num_groups).astype(np.float64, copy=False)
    return sums


def _decode_attention(price: CompiledPrice, rows: StepRows) -> float:
    """Decode attention: exact where the step has prompts too; of pure decode steps, what is left of them."""
    total = 0
    for part in rows.parts():
        mixed = (part.num_prefill > 0) & (part.num_decode > 0)
        total += price.decode_attention_sum_ps(part.num_decode[mixed], part.decode_context_tokens[mixed])
    pure_ps = rows.of_parts(lambda part: part.duration_ps[part.num_prefill == 0])
    spent = float(np.sum(pure_ps, dtype=np.float64))
    sizes, steps = _steps_by(rows, _pure_decode)
    constants = np.array([price.constant_ps(int(size)) for size in sizes], dtype=np.float64)
    if len(sizes):
        spent -= float((constants * steps).sum())
    return (total + spent) / PS_PER_S


def _pure_decode(rows: StepRows) -> tuple[Int64, Int64]:
    """Sequences and steps of the rows without prompts."""
    pure = rows.num_prefill == 0
    return rows.num_decode[pure], rows.num_steps[pure]
