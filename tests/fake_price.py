"""Runs of the engine at a price that can be worked out in the head: every step takes the same time."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any
from unittest.mock import patch

import numpy as np
from plain_engine import plain_engine

from sim.arrays import PS_PER_S, Int64
from sim.hardware import load_hardware
from sim.model.config import load_model
from sim.price.step import Chunks
from sim.serving import result
from sim.serving import run as simulate
from sim.serving.records import RequestTable, RunResult
from sim.serving.scenario import Scenario, Workload

HARDWARE = load_hardware("h100-sxm-80gb")
MODEL = load_model("llama-3.1-8b")


class FixedPrice:
    """Every step takes ``step_s``, whatever is in it."""

    warnings: tuple[str, ...] = ()
    cold_start_ps = 0

    def __init__(self, step_s: float) -> None:
        self._step_ps = round(step_s * PS_PER_S)

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> int:
        """See ``StepPrice``."""
        return self._step_ps

    def decode_run(self, num_decode: int, context_tokens: int) -> tuple[int, int, int]:
        """See ``StepPrice``."""
        return self._step_ps, 0, 1 << 40


def requests(
    arrival_s: Seq[float],
    prompt_tokens: Seq[int],
    output_tokens: Seq[int],
    **fields: Any,
) -> RequestTable:
    """A table written out by hand; arrival -1: after another's end."""
    return RequestTable(
        arrival_ps=np.array([-1 if a == -1 else round(a * PS_PER_S) for a in arrival_s], dtype=np.int64),
        prompt_tokens=np.array(prompt_tokens, dtype=np.int64),
        output_tokens=np.array(output_tokens, dtype=np.int64),
        **fields,
    )


def in_ps(values_s: Seq[float]) -> Int64:
    """Seconds as the column of picoseconds that a table holds."""
    return np.array([round(value * PS_PER_S) for value in values_s], dtype=np.int64)


def run_fixed(
    table: RequestTable, *, step_s: float = 0.1, has_block_map: bool = False, **settings: Any
) -> RunResult:
    """Simulates ``table`` at ``step_s`` a step; ``replicas`` and ``routing``, and the engine's own keys."""
    outside = {name: settings.pop(name) for name in ("replicas", "routing") if name in settings}
    scenario = Scenario(
        schema_version=1,
        question="by hand",
        kind="serving",
        hardware=HARDWARE,
        model=MODEL,
        workload=Workload(),
        engine=plain_engine(**settings),
        **outside,
    )
    with (
        patch.object(simulate, "price_of", lambda *_: FixedPrice(step_s)),
        patch.object(result, "split_by_operator", lambda *_: {}),
    ):
        return simulate.run_serving(scenario, table, record_block_map=has_block_map)


def seconds(column: Int64) -> list[float]:
    """A column of picoseconds in seconds, -1 for never."""
    return [-1.0 if value < 0 else value / PS_PER_S for value in column.tolist()]
