"""Kernel times from counts, laws and the profile's efficiencies."""

from __future__ import annotations

from sim.cost.operators import StepCounter, precision_of
from sim.cost.roofline import Floats, Operator, total_s
from sim.scenario import Scenario


class AnalyticTimes:
    """Seconds of a step's kernels as the model's shape and the device's profile give them."""

    def __init__(self, scenario: Scenario) -> None:
        model, engine, hardware = scenario.model, scenario.engine, scenario.hardware
        self.counter = StepCounter(
            model=model,
            hardware=hardware,
            precision=precision_of(model, engine),
            tensor_parallel_size=engine.tensor_parallel_size,
            is_flash=engine.attention == "flash",
        )
        self._launch_s = (
            hardware.kernel_launch_s if hardware.graph_launch_s is None else hardware.graph_launch_s
        )

    def linear_s(self, tokens: Floats) -> dict[str, Floats]:
        """By operator, everything in the layers but attention."""
        return self._by_operator(self.counter.linear(tokens))

    def head_s(self, sequences: Floats) -> dict[str, Floats]:
        """The vocabulary projection of the sequences that sample."""
        return self._by_operator(self.counter.head(sequences))

    def chunk_s(self, queries: Floats, cached: Floats) -> Floats:
        """Attention of one prompt chunk, all layers."""
        return self._sum_s([self.counter.prefill_attention(queries, cached)])

    def decode_s(self, sequences: Floats, context_tokens: Floats) -> Floats:
        """Attention of decoding sequences, all layers."""
        return self._sum_s([self.counter.decode_attention(sequences, context_tokens)])

    def warnings(self) -> tuple[str, ...]:
        """Nothing yet."""
        return ()

    def _by_operator(self, operators: list[Operator]) -> dict[str, Floats]:
        return {operator.name: self._sum_s([operator]) for operator in operators}

    def _sum_s(self, operators: list[Operator]) -> Floats:
        return total_s(operators, self.counter.hardware, self._launch_s, self.counter.link)
