"""The price of an engine whose host may be the slower one: launches, CUDA graphs, asynchronous scheduling.

The host runs ahead of the GPU, so a step takes the longer of its kernels and of their launches, plus what
does not overlap (``EngineOverheads.step_s``, ``per_sequence_s``, ``per_prompt_token_s``). Steps that fit a
captured CUDA graph are launched at once and padded to its size: linear layers work on the padding, attention,
lm_head and sampling do not. Asynchronous scheduling prepares the next step meanwhile: a step then takes the
longest of kernels, launches and host time, never their sum.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np

from sim.arrays import Int64, to_ps
from sim.hardware.engine_profile import EngineOverheads
from sim.price.priced import PricedSteps, precision_of
from sim.price.roofline import Floats
from sim.price.step import Chunks, CompiledPrice, Curve


def needs_launched_price(scenario: PricedSteps) -> bool:
    """Whether host time is more than a sum per step and per sequence."""
    engine = scenario.engine
    overheads = engine.overheads
    return bool(
        overheads.launch_per_layer_s
        or overheads.per_prompt_token_s
        or overheads.cudagraph_capture_sizes
        or decode_attention_fraction(scenario) != 1.0
        or (engine.async_scheduling and (overheads.step_s or overheads.per_sequence_s))
    )


def padded_tokens(tokens: Floats, overheads: EngineOverheads) -> Floats:
    """The tokens that the linear layers work on: the next captured size, beyond the largest as they are."""
    sizes = np.unique(np.array([0.0, *overheads.cudagraph_capture_sizes]))
    at = np.searchsorted(sizes, tokens)
    padded: Floats = np.where(at < len(sizes), sizes[np.minimum(at, len(sizes) - 1)], tokens)
    return padded


def launch_s(tokens: int, scenario: PricedSteps) -> float:
    """The host's time to launch a step's kernels one by one; none for a step in a CUDA graph."""
    overheads = scenario.engine.overheads
    if tokens <= largest_graph(overheads):
        return 0.0
    return overheads.launch_per_layer_s * scenario.model.num_hidden_layers


def largest_graph(overheads: EngineOverheads) -> int:
    """Tokens of the largest step that runs in a CUDA graph."""
    return max(overheads.cudagraph_capture_sizes, default=0)


def decode_attention_fraction(scenario: PricedSteps) -> float:
    """The engine's decode attention, as a fraction of the kernel price's speed."""
    is_fp8 = precision_of(scenario.model, scenario.engine).kv_bytes == 1
    overheads = scenario.engine.overheads
    return overheads.decode_attention_fraction * (overheads.fp8_kv_attention_fraction if is_fp8 else 1.0)


class LaunchedPrice(CompiledPrice):
    """Kernel times as tables, under the host's time."""

    def __init__(self, scenario: PricedSteps, *measured: Any) -> None:
        super().__init__(scenario, *measured)
        self._scenario = scenario
        self._overheads = scenario.engine.overheads
        self._attention_fraction = decode_attention_fraction(scenario)
        self.hides_host = scenario.engine.async_scheduling
        self.prompt_token_ps = to_ps(self._overheads.per_prompt_token_s)
        self._largest_graph = largest_graph(self._overheads)
        self._eager_ps = to_ps(launch_s(self._largest_graph + 1, scenario))
        self._launched_curves: dict[int, Curve] = {}

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> int:
        """One step; see ``StepPrice``."""
        if not chunks and not drafts:
            return self.decode_run(num_decode, context_tokens)[0]
        host = self._step_ps + self._sequence_ps * (num_decode + len(chunks))
        kernels = super().step_ps(num_decode, context_tokens, chunks, drafts) - host
        prompt_tokens = sum([chunk[0] for chunk in chunks])
        host += self.prompt_token_ps * prompt_tokens
        launches = self._eager_ps if num_decode + drafts + prompt_tokens > self._largest_graph else 0
        return max(kernels, launches, host) if self.hides_host else max(kernels, launches) + host

    def host_ps(self, sequences: int) -> int:
        """Host time of a step of ``sequences`` sequences, without its prompt tokens."""
        per_step, per_sequence = self.overheads_ps
        return per_step + per_sequence * sequences

    def constant_ps(self, num_decode: int) -> int:
        """A pure decode step without its attention, and without what is hidden behind the GPU."""
        constant = super().constant_ps(num_decode)
        return constant - self.host_ps(num_decode) if self.hides_host else constant

    def decode_run(self, num_decode: int, context_tokens: int) -> tuple[int, int, int]:
        """Pure decode; see ``StepPrice``."""
        curve = self._launched_curves.get(num_decode) or self._launched_curve(num_decode)
        grid = self._grid
        piece = bisect_right(grid, context_tokens) - 1
        slope = curve.slopes_ps[piece]
        first = curve.constant_ps + curve.values_ps[piece] + slope * (context_tokens - grid[piece])
        return first, slope * num_decode, -((context_tokens - grid[piece + 1]) // num_decode)

    def launch_wait_ps(self, num_decode: int, context_tokens: int) -> int:
        """How long the GPU waits for launches, or for a host that works ahead, in a pure decode step."""
        kernels = self.constant_ps(num_decode) + self.decode_attention_ps(num_decode, context_tokens)
        return max(self.decode_run(num_decode, context_tokens)[0] - kernels, 0)

    def launch_wait_sum_ps(self, num_decode: Int64, context_tokens: Int64, steps: Int64) -> int:
        """The same over runs of pure decode steps, each taken at the context given."""
        runs = zip(num_decode.tolist(), context_tokens.tolist(), steps.tolist(), strict=True)
        return sum(count * self.launch_wait_ps(decode, context) for decode, context, count in runs)

    def _launched_curve(self, num_decode: int) -> Curve:
        """Decode attention, no shorter than what its launches leave it; straight between breakpoints."""
        plain = self._curve(num_decode)
        launches = self._eager_ps if num_decode > self._largest_graph else 0
        longest = max(launches, self.host_ps(num_decode)) if self.hides_host else launches
        least = longest - self.linear_ps(num_decode) - self.head_ps(num_decode)
        values = [max(value, least) for value in plain.values_ps]
        gaps = np.diff(np.array(self._grid, dtype=np.int64)).tolist()
        slopes = [(values[i + 1] - values[i]) // gap for i, gap in enumerate(gaps)]
        curve = self._launched_curves[num_decode] = Curve(plain.constant_ps, values, slopes)
        return curve

    def _curve(self, num_decode: int) -> Curve:
        plain = super()._curve(num_decode)
        if self._attention_fraction == 1.0:
            return plain
        values = [round(value / self._attention_fraction) for value in plain.values_ps]
        gaps = np.diff(np.array(self._grid, dtype=np.int64)).tolist()
        slopes = [(values[i + 1] - values[i]) // gap for i, gap in enumerate(gaps)]
        curve = self._curves[num_decode] = Curve(plain.constant_ps, values, slopes)
        return curve

    def linear_split_s(self, tokens: Floats) -> dict[str, Floats]:
        """See ``CompiledPrice``, with the padding of CUDA graphs."""
        return super().linear_split_s(padded_tokens(tokens, self._overheads))

    def _linear_s(self, tokens: Floats) -> Floats:
        return super()._linear_s(padded_tokens(tokens, self._overheads))
