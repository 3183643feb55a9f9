"""The price of a replica in pipeline stages, and of an engine's first step."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import fields, replace
from typing import Literal

import numpy as np

from sim.arrays import to_ps
from sim.hardware import HardwareProfile
from sim.hardware.engine_profile import EngineOverheads
from sim.model.shape import ModelShape, Stage, stages_of
from sim.price.collective import Fabric, fabric_of, ring_all_gather_s, send_s
from sim.price.overheads import LaunchedPrice, needs_launched_price
from sim.price.priced import Priced, PricedSteps, StepEngine, precision_of
from sim.price.roofline import Floats
from sim.price.step import Chunks, CompiledPrice, ServiceTimePrice, StepPrice
from sim.scenario.dataclass import dataclass
from sim.scenario.shared import Shared

TENSORS_SENT = 2  # hidden states and residual


@dataclass(frozen=True, slots=True)
class Passage:
    """One batch on its way: host time, each stage's time, the send before each stage but the first."""

    host_ps: int
    stages_ps: tuple[int, ...]
    sends_ps: tuple[int, ...]

    @property
    def total_ps(self) -> int:
        """Alone in the pipeline."""
        return self.host_ps + sum(self.stages_ps) + sum(self.sends_ps)


class StagePrice(LaunchedPrice):
    """One stage's kernels and launches, without host time; lm_head only where tokens are sampled."""

    def __init__(self, scenario: PricedSteps, stage: Stage) -> None:
        overheads = replace(scenario.engine.overheads, step_s=0.0, per_sequence_s=0.0, per_prompt_token_s=0.0)
        engine = replace(scenario.engine, overheads=overheads)
        super().__init__(replace(scenario, model=stage.shape, engine=engine))
        self.stage = stage

    def _head_s(self, sequences: Floats) -> Floats:
        return super()._head_s(sequences) if self.stage.is_last else np.zeros_like(sequences)


class PipelinePrice(LaunchedPrice):
    """The price of a batch by stages; as a ``StepPrice``, that of a batch alone in the pipeline."""

    def __init__(self, scenario: PricedSteps) -> None:
        super().__init__(scenario)
        self.stages = stages_of(scenario.model, scenario.engine.pipeline_parallel_size)
        self._prices: list[StagePrice] = []
        for stage in self.stages:
            self._prices.append(self._price_of(stage))
        self._sends_ps: dict[int, tuple[int, ...]] = {}

    def passage(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> Passage:
        """What a batch takes at every station."""
        prompt_tokens = sum(chunk[0] for chunk in chunks)
        host = self.host_ps(num_decode + len(chunks)) + self.prompt_token_ps * prompt_tokens
        times = tuple(price.step_ps(num_decode, context_tokens, chunks, drafts) for price in self._prices)
        return Passage(host, times, self._sends(num_decode + drafts + prompt_tokens))

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> int:
        """A batch that is alone; see ``StepPrice``."""
        return self.passage(num_decode, context_tokens, chunks, drafts).total_ps

    def _price_of(self, stage: Stage) -> StagePrice:
        """Stages of equal shape share their tables."""
        for price in self._prices:
            if price.stage.shape == stage.shape and price.stage.is_last == stage.is_last:
                return price
        return StagePrice(self._scenario, stage)

    def _sends(self, tokens: int) -> tuple[int, ...]:
        if tokens not in self._sends_ps:
            scenario = self._scenario
            sends = stage_sends_s(scenario.model, scenario.hardware, scenario.engine, tokens)
            self._sends_ps[tokens] = tuple(to_ps(one) for one in sends)
        return self._sends_ps[tokens]


def stage_sends_s(
    model: ModelShape, hardware: HardwareProfile, engine: StepEngine, tokens: int
) -> list[float]:
    """Seconds from each stage to the next: α + S/(t B), and the gathering of t shares inside the node.

    Where the profile does not know how many GPUs a node has, the replica is taken to be inside one.
    """
    if engine.pipeline_parallel_size == 1:
        return []
    t = engine.tensor_parallel_size
    fabric = fabric_of(hardware, hardware.gpus_per_node or engine.gpus_per_replica)
    num_bytes = sent_bytes(model, engine, tokens)
    gather = ring_all_gather_s(num_bytes, t, fabric.link_of(t)) if t > 1 else 0.0
    sends = []
    for stage in range(1, engine.pipeline_parallel_size):
        ranks = 2 if is_inside_node(fabric, t, stage) else fabric.gpus_per_node + 1
        sends.append(send_s(num_bytes / t, fabric.link_of(ranks)) + gather)
    return sends


def sent_bytes(model: ModelShape, engine: StepEngine, tokens: int) -> int:
    """Hidden states and residual of a batch, all ranks together."""
    width = precision_of(model, engine).activation_bytes
    return TENSORS_SENT * tokens * model.hidden_size * width


def is_inside_node(fabric: Fabric, tensor_parallel_size: int, stage: int) -> bool:
    """Whether ``stage`` and the one before are on one node, GPUs numbered stage by stage."""
    last = (stage + 1) * tensor_parallel_size - 1
    return (stage - 1) * tensor_parallel_size // fabric.gpus_per_node == last // fabric.gpus_per_node


class Stations:
    """The engine core and the stages, each with one batch at a time: when a batch leaves the last one.

    The engine core is taken up by the cold start (``overheads.cold_start_s``) before its first batch.
    """

    def __init__(self, num_stages: int, cold_start_ps: int = 0) -> None:
        self.busy_ps = [0] * num_stages
        self._cold_start_ps = cold_start_ps
        self._free_ps = [0] * (num_stages + 1)

    def enter(self, now_ps: int, passage: Passage) -> int:
        """When a batch that is planned now is done; later ones queue up behind it."""
        host_ps, self._cold_start_ps = passage.host_ps + self._cold_start_ps, 0
        free, times = self._free_ps, (host_ps, *passage.stages_ps)
        sends: Sequence[int] = (0, 0, *passage.sends_ps)
        time = now_ps
        for station, (send, spent) in enumerate(zip(sends, times, strict=True)):
            time = free[station] = max(time + send, free[station]) + spent
            if station:
                self.busy_ps[station - 1] += spent
        return time


class ColdStart:
    """The price of one replica whose first step takes longer; each replica has one of its own.

    Not modelled: what else is slow the first time (a new batch size), and requests that arrive while the
    host still prepares the first step: the queue of asynchronous scheduling does not see them sooner.
    """

    def __init__(self, price: StepPrice, cold_start_ps: int) -> None:
        self._price = price
        self._left_ps = cold_start_ps
        self.decode_run = price.decode_run  # never first: a first step has a prompt

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> int:
        """One step; see ``StepPrice``."""
        added, self._left_ps = self._left_ps, 0
        return self._price.step_ps(num_decode, context_tokens, chunks, drafts) + added


def cold(price: StepPrice, cold_start_ps: int) -> StepPrice:
    """The price as one replica meets it; a pipeline's stations spend the cold start themselves."""
    if isinstance(price, PipelinePrice):
        return price
    if isinstance(price, ServiceTimePrice):
        return copy(price)  # it knows whom its replica serves
    return ColdStart(price, cold_start_ps) if cold_start_ps else price


NUM_SHARED = 8  # prices that are kept: variants of a scenario, neighbours in a sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedEngine:
    """All that the price of a step may read of an engine."""

    async_scheduling: bool
    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    kv_cache_dtype: Literal["auto", "bfloat16", "float16", "fp8", "float32"]
    quantization: Literal["none", "fp8", "int8", "int4"]
    attention: Literal["flash", "standard"]
    tensor_parallel_size: int
    pipeline_parallel_size: int
    gpus_per_replica: int
    overheads: EngineOverheads


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedSteps:
    """What the price of a step is made from, and nothing else: equal ones have one price."""

    hardware: HardwareProfile
    model: ModelShape
    engine: AskedEngine


def step_price(scenario: Priced) -> CompiledPrice:
    """The price of a scenario's steps by laws; runs of one process that ask for the same share its tables.

    Tables do not depend on the order of questions, and say nothing about the run that asked.
    """
    keys = {field.name: getattr(scenario.engine, field.name) for field in fields(AskedEngine)}
    engine = AskedEngine(**keys)
    return _SHARED.get(AskedSteps(hardware=scenario.hardware, model=scenario.model, engine=engine), _made)


def _made(asked: AskedSteps) -> CompiledPrice:
    if asked.engine.pipeline_parallel_size > 1:
        return PipelinePrice(asked)
    return LaunchedPrice(asked) if needs_launched_price(asked) else CompiledPrice(asked)


_SHARED: Shared[AskedSteps, CompiledPrice] = Shared(NUM_SHARED)
