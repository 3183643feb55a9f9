"""Kernel times from counts, laws and the profile's efficiencies."""

from __future__ import annotations

from sim.model.counts import layer_matrices
from sim.price.law_times import outside
from sim.price.operators import StepCounter, precision_of
from sim.price.priced import Priced
from sim.price.roofline import Floats, Operator, total_s


class AnalyticTimes:
    """Seconds of a step's kernels as the model's shape and the device's profile give them."""

    def __init__(self, scenario: Priced) -> None:
        self._scenario = scenario
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

    def all_reduce_s(self, tokens: Floats) -> Floats:
        """The all-reduces of all layers, by the profile's law; 0 on one GPU."""
        return self._sum_s([one for one in self.counter.linear(tokens) if one.name == "all_reduce"])

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
        """Shapes outside of what the laws were fitted to, and constants borrowed from other devices."""
        hardware, engine = self.counter.hardware, self._scenario.engine
        longest = float(engine.max_model_len or self._scenario.model.max_position_embeddings)
        asked = [
            (law, {"m": float(engine.max_num_batched_tokens), "n": float(matrix.n), "k": float(matrix.k)})
            for matrix in layer_matrices(self.counter.model, engine.tensor_parallel_size)
            if (law := self.counter.gemm_law(matrix))
        ]
        for matrix in layer_matrices(self.counter.model, engine.tensor_parallel_size):
            if matrix.name == "moe_down" and (law := self.counter.experts_law(matrix)):
                sizes = {"hidden": matrix.n, "inner": matrix.k, "experts_per_token": matrix.experts_per_token}
                asked.append((law, {name: float(size) for name, size in sizes.items()}))
        heads = {name: size for name, size in self.counter.head_sizes.items() if name != "kv_bytes"}
        chunk = min(longest, float(engine.max_num_batched_tokens))
        for which, size, most in (
            ("attention_prefill", "queries", chunk),
            ("attention_decode", "context", longest),
        ):
            used = self.counter.attention_law(which)
            asked += [(used, {**heads, size: most})] if used else []
        if engine.tensor_parallel_size > 1:
            asked.append(("all_reduce_nccl", {"gpus": float(engine.tensor_parallel_size)}))
        notes = list(dict.fromkeys(text for law, sizes in asked if (text := outside(hardware, law, sizes))))
        lent = {law: hardware.kernels[law].borrowed_from for law, _ in asked if law in hardware.kernels}
        found = [f"kernel prices outside of what was measured: {'; '.join(notes)}"] if notes else []
        for lender in sorted({one for one in lent.values() if one}):
            names = ", ".join(law for law, one in lent.items() if one == lender)
            found.append(f"{hardware.name} borrows the kernel constants of {lender}: {names}")
        return tuple(found)

    def _by_operator(self, operators: list[Operator]) -> dict[str, Floats]:
        return {operator.name: self._sum_s([operator]) for operator in operators}

    def _sum_s(self, operators: list[Operator]) -> Floats:
        return total_s(operators, self.counter.hardware, self._launch_s, self.counter.link)
