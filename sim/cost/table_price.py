"""The price from measured tables: the same parts as the analytic one, read between measurements.

Attention of a step with prompts and decodes is one measurement (chunk, its context, decodes, their context),
not a sum: the kernel runs both together. Of several chunks the largest stands with the decodes; the others
add their own time beyond a launch. Decodes of unequal context are taken at their mean: against a run on an
RTX 4090 steps came out 2 % too fast while a few contexts were long, and 3 % too slow while they were alike.

Tables are of one rank. Where they time no all-reduce, tensor parallelism is charged the profile's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sim.cost.analytic import AnalyticTimes
from sim.cost.launch import LaunchedPrice, needs_launched_price
from sim.cost.price_table import PriceTable, check_model, load_price_table
from sim.cost.priced import Priced
from sim.cost.roofline import Floats
from sim.cost.step import Chunks, CompiledPrice, to_ps

ALL_REDUCE = "all_reduce"


class TableTimes:
    """Kernel times of one model on one device, as they were measured."""

    def __init__(self, table: PriceTable, scenario: Priced) -> None:
        self.table = table
        self.num_layers = scenario.model.num_hidden_layers
        is_split = scenario.engine.tensor_parallel_size > 1
        self._exchange = AnalyticTimes(scenario) if is_split and ALL_REDUCE not in table.per_token else None

    def linear_s(self, tokens: Floats) -> dict[str, Floats]:
        """By operator of ``per_token.csv``: calls in a layer times layers, or once in a step."""
        layers = self.num_layers
        times = {
            name: curve.at(tokens) * ((self.table.calls[name] * layers) or 1)
            for name, curve in self.table.per_token.items()
        }
        if self._exchange is not None:
            times[ALL_REDUCE] = self._exchange.all_reduce_s(tokens)
        return times

    def head_s(self, sequences: Floats) -> dict[str, Floats]:
        """By operator of ``per_sequence.csv``, once in a step."""
        return {name: curve.at(sequences) for name, curve in self.table.per_sequence.items()}

    def chunk_s(self, queries: Floats, cached: Floats) -> Floats:
        """Attention of one prompt chunk, all layers."""
        grid = self.table.attention
        times = [
            grid.at((q, c, 0.0, 0.0)) if q else 0.0
            for q, c in zip(queries.tolist(), cached.tolist(), strict=True)
        ]
        return self.num_layers * np.array(times)

    def decode_s(self, sequences: Floats, context_tokens: Floats) -> Floats:
        """Attention of decoding sequences, all layers."""
        grid = self.table.attention
        times = [
            grid.at((0.0, 0.0, n, total / n)) if n else 0.0
            for n, total in zip(sequences.tolist(), context_tokens.tolist(), strict=True)
        ]
        return self.num_layers * np.array(times)

    def together_s(self, chunks: Chunks, num_decode: int, context_tokens: int) -> float:
        """Attention of a step that has prompts and decodes, all layers."""
        grid = self.table.attention
        largest = max(range(len(chunks)), key=lambda i: chunks[i][0] * (chunks[i][1] + chunks[i][0]))
        queries, cached = chunks[largest][0], chunks[largest][1]
        time = grid.at((queries, cached, num_decode, context_tokens / num_decode))
        for index, chunk in enumerate(chunks):
            if index != largest:
                time += max(grid.at((chunk[0], chunk[1], 0.0, 0.0)) - grid.floor_s, 0.0)
        return self.num_layers * time

    def warnings(self) -> tuple[str, ...]:
        """What the times are of."""
        whose = f"{self.table.model} on {self.table.device}"
        law = "; all-reduces, which it has not, from the profile" if self._exchange is not None else ""
        return (f"priced from measured tables of {whose}{law}",)


class TablePrice(CompiledPrice):
    """Measured kernel times as tables; mixed steps are looked up as they are."""

    def __init__(self, scenario: Priced, table: PriceTable) -> None:
        check_model(table, scenario.model, scenario.engine.tensor_parallel_size)
        self.measured = TableTimes(table, scenario)
        super().__init__(scenario, self.measured)

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> int:
        """One step; see ``StepPrice``."""
        if not num_decode or not chunks or drafts:
            return super().step_ps(num_decode, context_tokens, chunks, drafts)
        tokens = num_decode + sum(chunk[0] for chunk in chunks)
        sampling = num_decode + sum(chunk[2] for chunk in chunks)
        attention = to_ps(self.measured.together_s(chunks, num_decode, context_tokens))
        host_step, host_sequence = self.overheads_ps
        host = host_step + host_sequence * (num_decode + len(chunks))
        return self.linear_ps(tokens) + self.head_ps(sampling) + attention + host


class LaunchedTablePrice(LaunchedPrice, TablePrice):
    """The same under the host's time."""


def table_price(scenario: Priced, base_dir: Path) -> TablePrice:
    """The price that ``engine.price_table`` names, relative to the scenario file."""
    table = load_price_table(base_dir / (scenario.engine.price_table or ""))
    return (LaunchedTablePrice if needs_launched_price(scenario) else TablePrice)(scenario, table)
