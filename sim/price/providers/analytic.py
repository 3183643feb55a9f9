"""Kernel times from counts, laws and the profile's efficiencies."""

from __future__ import annotations

import numpy as np

from sim.model.matrices import layer_matrices
from sim.price.figures import AskedLaw, Used, together, used_by_operators
from sim.price.kernel_set import KernelSet, engine_kernels
from sim.price.operators import StepCounter
from sim.price.priced import PricedSteps, precision_of
from sim.price.roofline import Floats, Operator, total_s


class AnalyticTimes:
    """Seconds of a step's kernels as the model's shape and the device's profile give them."""

    def __init__(self, scenario: PricedSteps, kernels: KernelSet | None = None) -> None:
        """``kernels``: others than the engine's own."""
        self._scenario = scenario
        model, engine, hardware = scenario.model, scenario.engine, scenario.hardware
        self.counter = StepCounter(
            model=model,
            hardware=hardware,
            precision=precision_of(model, engine),
            tensor_parallel_size=engine.tensor_parallel_size,
            kernels=kernels or engine_kernels(engine),
        )
        self._launch_s = self.counter.kernels.launch_s(hardware)

    def linear_s(self, tokens: Floats) -> dict[str, Floats]:
        """By operator, everything in the layers but attention."""
        return self._by_operator(self.counter.linear(tokens))

    def all_reduce_s(self, tokens: Floats) -> Floats:
        """The all-reduces of all layers, by the profile's law; 0 on one GPU."""
        return self._sum_s([one for one in self.counter.linear(tokens) if one.name == "all_reduce"])

    def head_s(self, sequences: Floats) -> dict[str, Floats]:
        """The vocabulary projection of the sequences that sample."""
        return self._by_operator(self.counter.head(sequences))

    def chunk_s(self, queries: Floats, cached: Floats) -> Floats:
        """Attention of one prompt chunk, all layers."""
        return self._sum_s(self.counter.prefill_attention(queries, cached))

    def decode_s(self, sequences: Floats, context_tokens: Floats) -> Floats:
        """Attention of decoding sequences, all layers."""
        return self._sum_s([self.counter.decode_attention(sequences, context_tokens)])

    def warnings(self) -> tuple[str, ...]:
        """Nothing beside what ``used`` says of the profile's figures."""
        return ()

    def used(self, step_tokens: int, longest: int) -> Used:
        """What steps of at most ``step_tokens`` over at most ``longest`` KV entries take of the profile."""
        counter, size = self.counter, self._scenario.engine.tensor_parallel_size
        asked = [
            AskedLaw(law=law, sizes={"m": float(step_tokens), "n": float(matrix.n), "k": float(matrix.k)})
            for matrix in layer_matrices(counter.model, size)
            if (law := counter.gemm_law(matrix))
        ]
        for matrix in layer_matrices(counter.model, size):
            if matrix.name == "moe_down" and (law := counter.experts_law(matrix)):
                sizes = {"hidden": matrix.n, "inner": matrix.k, "experts_per_token": matrix.experts_per_token}
                asked.append(AskedLaw(law=law, sizes={name: float(one) for name, one in sizes.items()}))
        heads = {name: one for name, one in counter.head_sizes.items() if name != "kv_bytes"}
        chunk = min(longest, step_tokens)
        for which, name, most in (
            ("attention_prefill", "queries", chunk),
            ("attention_decode", "context", longest),
        ):
            if law := counter.attention_law(which):
                asked.append(AskedLaw(law=law, sizes={**heads, name: float(most)}))
        if size > 1:
            asked.append(AskedLaw(law="all_reduce_nccl", sizes={"gpus": float(size)}))
        one, tokens, context = np.ones(1), np.array([float(step_tokens)]), np.array([float(longest)])
        operators = [*counter.linear(tokens), *counter.head(one), counter.decode_attention(one, context)]
        operators += counter.prefill_attention(np.array([float(chunk)]), np.zeros(1))
        assumed = Used(assumed=(counter.kernels.attention_assumed(counter.hardware),))
        return together([Used(laws=tuple(asked)), used_by_operators(operators), assumed])

    def _by_operator(self, operators: list[Operator]) -> dict[str, Floats]:
        return {operator.name: self._sum_s([operator]) for operator in operators}

    def _sum_s(self, operators: list[Operator]) -> Floats:
        return total_s(operators, self.counter.hardware, self._launch_s, self.counter.link)
