"""The price of an engine without CUDA graphs: the host launches every kernel, and may be the slower one.

The host runs ahead of the GPU, so a step takes the longer of its kernels and of their launches, plus what
does not overlap (``EngineOverheads.step_s``, ``per_sequence_s``, ``per_prompt_token_s``).
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from sim.cost.step import Chunks, CompiledPrice, Curve, to_ps
from sim.records import Int64
from sim.scenario import Scenario


class LaunchedPrice(CompiledPrice):
    """Kernel times as tables, under the host's time to launch them."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        overheads = scenario.engine.overheads
        self._launch_ps = to_ps(overheads.launch_per_layer_s) * scenario.model.num_hidden_layers
        self.prompt_token_ps = to_ps(overheads.per_prompt_token_s)
        self._launched_curves: dict[int, Curve] = {}

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks) -> int:
        """One step; see ``StepPrice``."""
        if not chunks:
            return self.decode_run(num_decode, context_tokens)[0]
        per_step, per_sequence = self.overheads_ps
        host = per_step + per_sequence * (num_decode + len(chunks))
        kernels = super().step_ps(num_decode, context_tokens, chunks) - host
        prompt_tokens = sum(chunk[0] for chunk in chunks)
        return max(kernels, self._launch_ps) + host + self.prompt_token_ps * prompt_tokens

    def decode_run(self, num_decode: int, context_tokens: int) -> tuple[int, int, int]:
        """Pure decode; see ``StepPrice``."""
        curve = self._launched_curves.get(num_decode) or self._launched_curve(num_decode)
        grid = self._grid
        piece = bisect_right(grid, context_tokens) - 1
        slope = curve.slopes_ps[piece]
        first = curve.constant_ps + curve.values_ps[piece] + slope * (context_tokens - grid[piece])
        return first, slope * num_decode, -((context_tokens - grid[piece + 1]) // num_decode)

    def launch_wait_ps(self, num_decode: int, context_tokens: int) -> int:
        """How long the GPU waits for launches in a pure decode step."""
        kernels = self.constant_ps(num_decode) + self.decode_attention_ps(num_decode, context_tokens)
        return max(self.decode_run(num_decode, context_tokens)[0] - kernels, 0)

    def launch_wait_sum_ps(self, num_decode: Int64, context_tokens: Int64, steps: Int64) -> int:
        """The same over runs of pure decode steps, each taken at the context given."""
        runs = zip(num_decode.tolist(), context_tokens.tolist(), steps.tolist(), strict=True)
        return sum(count * self.launch_wait_ps(decode, context) for decode, context, count in runs)

    def _launched_curve(self, num_decode: int) -> Curve:
        """Decode attention, no shorter than what its launches leave it; straight between breakpoints."""
        plain = self._curve(num_decode)
        least = self._launch_ps - self.linear_ps(num_decode) - self.head_ps(num_decode)
        values = [max(value, least) for value in plain.values_ps]
        gaps = np.diff(np.array(self._grid, dtype=np.int64)).tolist()
        slopes = [(values[i + 1] - values[i]) // gap for i, gap in enumerate(gaps)]
        curve = self._launched_curves[num_decode] = Curve(plain.constant_ps, values, slopes)
        return curve
