"""The operators of a step, counted: FLOPs and bytes of each kernel from the model's shape.

One description for prefill, decode and mixed steps: the linear layers see ``tokens``, the head sees the
``sequences`` that sample, attention sees (queries, context). A multiply-add is 2 FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from sim.hardware import HardwareProfile, Link
from sim.hardware.laws.gemm import experts_hit
from sim.model.counts import (
    kv_bytes_read_per_token,
    kv_heads_per_gpu,
)
from sim.model.matrices import Matrix, layer_matrices
from sim.model.shape import ModelShape, MoeShape
from sim.model.weights import bits_per_weight
from sim.price.collective import fabric_of, nccl_cost
from sim.price.kernel_set import KernelSet, Over, per_layer_bytes, standard_memory_fraction
from sim.price.law_times import (
    NEVER_HOT,
    all_reduce_s,
    attention_operator,
    experts_operator,
    experts_s,
    gemm_operator,
    gemm_s,
    law_s,
)
from sim.price.priced import Precision
from sim.price.roofline import Floats, Operator
from sim.scenario.dataclass import dataclass

# Weights and activations in the same 8-bit type run at its peak; weight-only formats at the activations'.
QUANTIZED_PEAK = {"fp8": "float8", "int8": "int8"}
Direction = Literal["forward", "backward"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounter:
    """Counts operators for one model on one device (one rank, under tensor parallelism)."""

    model: ModelShape
    hardware: HardwareProfile
    precision: Precision
    tensor_parallel_size: int
    kernels: KernelSet
    has_dropout: bool = False
    sequence_parallel: bool = False  # Megatron's: norms and residual additions are split over the GPUs

    def linear(self, tokens: Floats) -> list[Operator]:
        """Every projection, norm and all-reduce of the layers, for steps of ``tokens`` tokens."""
        operators = [*self.products(tokens), self.elementwise(tokens)]
        if self.tensor_parallel_size > 1:
            operators.append(self.all_reduce(tokens))
        return operators

    def products(self, tokens: Floats) -> list[Operator]:
        """Every projection of the layers, experts among them."""
        matrices = layer_matrices(self.model, self.tensor_parallel_size)
        plain = [one for one in matrices if one.name != "lm_head" and not self.experts_law(one)]
        operators = [self.product(matrix, tokens) for matrix in plain]
        fused = [one for one in matrices if self.experts_law(one)]
        pairs = zip(fused[::2], fused[1::2], strict=True)  # gate and up, down
        return operators + [self._experts(pair, tokens) for pair in pairs]

    def head(self, sequences: Floats) -> list[Operator]:
        """The vocabulary projection of the sequences that sample in the step."""
        matrices = layer_matrices(self.model, self.tensor_parallel_size)
        return [self.product(matrix, sequences) for matrix in matrices if matrix.name == "lm_head"]

    def decode_attention(self, sequences: Floats, context_tokens: Floats) -> Operator:
        """One query per sequence against ``context_tokens`` KV entries in all (sum over sequences).

        Sliding-window layers read at most the window of each sequence, taken at the mean context: the
        spread of contexts around the window is not modelled.
        """
        share = self._window_share(context_tokens / np.maximum(sequences, 1.0))
        kv = (
            context_tokens * share * self._kv_bytes_per_token / self._layers
            + 2 * sequences * self._query_bytes
        )
        flops = 4.0 * context_tokens * share * self._decode_width
        if self.kernels.attention.stores_scores:
            kv = kv + self._score_bytes(context_tokens * share)
        operator = Operator(
            name="attention_decode",
            count=self._layers,
            flops=flops,
            hbm_bytes=kv,
            peak=self.precision.dtype,
            compute_curve="attention_prefill_compute",
            memory_curve="attention_decode_memory",
            speed=self.kernels.sustained_fraction,
        )
        mean = context_tokens * share / np.maximum(sequences, 1.0)
        return self._by_law(
            operator,
            {
                "sequences": np.maximum(sequences, 1.0),
                "context": np.maximum(mean, 1.0),
                "copies": np.full_like(sequences, NEVER_HOT),
            },
        )

    def prefill_attention(
        self,
        queries: Floats,
        cached: Floats,
        sequences: Floats | float = 1.0,
    ) -> list[Operator]:
        """Chunks of ``queries`` tokens after ``cached`` tokens each, causal, in ``sequences`` sequences.

        FLOPs 4 · heads · head_dim · (q · cached + q (q + 1) / 2) per layer (FlashAttention, 2205.14135), and
        K, V, Q and O moved once. Standard attention: see ``standard_attention``.
        """
        if self.kernels.attention.stores_scores:
            return self.standard_attention(queries, cached, sequences)
        pairs = queries * cached + queries * (queries + 1.0) / 2.0
        share = self._window_share((cached + queries) / 2.0)
        pairs = (
            pairs * share if isinstance(sequences, float) and sequences == 1.0 else pairs * share * sequences
        )
        flops = 4.0 * pairs * self._head_width
        operator = Operator(
            name="attention_prefill",
            count=self._layers,
            flops=flops,
            hbm_bytes=self._operand_bytes(queries, cached, sequences),
            peak=self.precision.dtype,
            compute_curve="attention_prefill_compute",
            memory_curve="attention_decode_memory",
            speed=self.attention_speed,
        )
        sizes = {
            "sequences": np.full_like(queries, sequences),
            "queries": np.maximum(queries, 1.0),
            "cached": cached,
        }
        return [self._by_law(operator, sizes, share)]

    @property
    def attention_speed(self) -> float:
        """Of flash attention, over what the profile's law and curve have."""
        speed = self.kernels.attention.speed_on(self.hardware.architecture).value
        return speed * self.kernels.sustained_fraction

    def standard_attention(
        self,
        queries: Floats,
        cached: Floats,
        sequences: Floats | float = 1.0,
        which: Direction = "forward",
    ) -> list[Operator]:
        """Batched products over the full square of scores, and the set's passes over them, one by one.

        Two products forward, each writing or reading all scores, four backward. Neither a causal mask nor a
        window skips anything: ``kernels.scores`` says what each pass reads and writes.
        """
        given, heads = self.kernels.scores, self.model.num_attention_heads / self.tensor_parallel_size
        products = 2 if which == "forward" else 4
        pairs = sequences * queries * (cached + queries)
        scores = pairs * heads
        width = self.precision.activation_bytes
        reached = standard_memory_fraction(self.hardware.architecture).value
        operands = self._operand_bytes(queries, cached, sequences) / 2.0
        found = [
            Operator(
                name="attention_products",
                count=products * self._layers,
                flops=2.0 * pairs * self._head_width,
                hbm_bytes=scores * width + operands,
                peak=self.precision.dtype,
                memory_curve="elementwise_memory",
                memory_fraction=reached,
            )
        ]
        for one in given.forward if which == "forward" else given.backward:
            if moved := one.moved_bytes(has_dropout=self.has_dropout):
                found.append(
                    Operator(
                        name=f"attention_{one.name.replace(', ', '_').replace(' ', '_')}",
                        count=one.launches * self._layers,
                        flops=np.zeros_like(queries),
                        hbm_bytes=scores * (moved * width / 2.0 / one.launches),
                        peak=self.precision.dtype,
                        memory_curve="elementwise_memory",
                        memory_fraction=one.memory_fraction * (1.0 if given.is_fused else reached),
                    )
                )
        return found

    def _operand_bytes(self, queries: Floats, cached: Floats, sequences: Floats | float) -> Floats:
        """Q, K, V and O of a layer, once each."""
        kv = (cached + queries) * self._kv_bytes_per_token / self._layers + 2 * queries * self._query_bytes
        return kv if _is_one(sequences) else kv * sequences

    @property
    def link(self) -> Link | None:
        """The link of tensor parallelism."""
        return self.hardware.intra_node

    @property
    def _layers(self) -> int:
        return max(1, self.model.num_attending_layers)

    @property
    def _head_width(self) -> float:
        """Query width of one layer and rank; where scores and sums, or layers, differ in size: their mean."""
        mla, tp = self.model.mla, self.tensor_parallel_size
        if mla:
            dim = (mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim) / 2
            return self.model.num_attention_heads * dim / tp
        widths = {
            (a.num_heads * (a.head_dim + a.v_head_dim) / 2): 0
            for kind in self.model.kinds
            if (a := kind.attention) is not None
        }
        if len(widths) <= 1:
            return next(iter(widths), 0.0) / tp
        for kind, count in self.model.counted_kinds():
            if (a := kind.attention) is not None:
                widths[a.num_heads * (a.head_dim + a.v_head_dim) / 2] += count
        return sum(width * count for width, count in widths.items()) / self._layers / tp

    @property
    def _decode_width(self) -> float:
        """The same for decoding: MLA attends in the compressed space (weights absorbed)."""
        mla = self.model.mla
        if mla is None:
            return self._head_width
        dim = (2 * mla.kv_lora_rank + mla.qk_rope_head_dim) / 2
        return self.model.num_attention_heads * dim / self.tensor_parallel_size

    @property
    def _query_bytes(self) -> float:
        return self._head_width * self.precision.activation_bytes

    @property
    def _kv_bytes_per_token(self) -> float:
        return float(kv_bytes_read_per_token(self.model, self.precision.kv_bytes, self.tensor_parallel_size))

    def _score_bytes(self, pairs: Floats) -> Floats:
        """A single query's scores and probabilities, written and read; no mask is added for it."""
        heads = self.model.num_attention_heads / self.tensor_parallel_size
        return 4.0 * pairs * heads * self.precision.activation_bytes

    def _window_share(self, context: Floats) -> Floats:
        """Share of a full attention's work, averaged over the layers: windows and chunks cut it short."""
        share = np.ones_like(context)
        for kind, count in self.model.counted_kinds():
            reach = kind.attention.reach if kind.attention is not None else None
            if reach is not None:
                cut = np.minimum(1.0, reach / np.maximum(context, 1.0))
                share = share + (cut - 1.0) * (count / self._layers)
        return share

    @property
    def head_sizes(self) -> dict[str, float]:
        """Heads of one rank and their size, as the attention laws take them."""
        return {
            "heads": self.model.num_attention_heads / self.tensor_parallel_size,
            "kv_heads": float(kv_heads_per_gpu(self.model, self.tensor_parallel_size)),
            "head_dim": float(self.model.head_dim),
            "kv_bytes": float(self.precision.kv_bytes),
        }

    def attention_law(self, which: str) -> str:
        """The operator of the profile's ``kernels`` that prices attention; empty: MLA, unfused attention."""
        stores = self.kernels.attention.stores_scores
        if self.model.mla is not None or stores or not self.model.num_attending_layers:
            return ""
        law = attention_operator(which, self.precision.kv_bytes, self.precision.dtype)
        return law if law in self.hardware.kernels else ""

    def _by_law(
        self, operator: Operator, sizes: Mapping[str, Floats], share: Floats | float = 1.0
    ) -> Operator:
        """The operator with the attention law's time, where there is one."""
        law = self.attention_law(operator.name)
        seconds = law_s(self.hardware, law, {**sizes, **self.head_sizes})
        if seconds is None:
            return operator
        return replace(operator, law_s=seconds * share, law=law)

    def product(self, matrix: Matrix, tokens: Floats) -> Operator:
        """(tokens × k) · (k × n).

        Of the experts those are read that any token of the step picks (``experts_hit``); where the set has
        no grouped kernel, each is a product of its own with its share of the tokens.
        """
        if matrix.num_experts > 1 and not self.kernels.groups_experts:
            rows = np.maximum(tokens * matrix.experts_per_token / matrix.num_experts, 1.0)
            return self.product(_one_expert(matrix), np.where(tokens > 0, rows, 0.0))
        bits = self._bits(matrix)
        experts = self.experts_read(matrix, tokens)
        rows = tokens * matrix.experts_per_token
        weights = matrix.n * matrix.k * bits / 8 * experts
        activations = rows * (matrix.n + matrix.k) * self.precision.activation_bytes
        law = self.gemm_law(matrix)
        widths = self.widths_of(matrix)
        return Operator(
            name=matrix.name,
            count=matrix.layers,
            flops=2.0 * rows * matrix.n * matrix.k,
            hbm_bytes=np.where(tokens > 0, weights + activations, 0.0),
            peak=self._peak(matrix),
            output=(np.ceil(rows / experts), matrix.n * np.round(experts)),
            law_s=gemm_s(self.hardware, law, matrix, rows, widths) if law else None,
            law=law,
            speed=self.kernels.sustained_fraction,
        )

    def gradients(self, matrix: Matrix, tokens: float, *, has_own: bool) -> Operator:
        """The backward products of a matrix, as entries of one operator: the gradient of its input, then
        (``has_own``) that of its weights, summed over the tokens.
        """
        if matrix.num_experts > 1:
            rows = max(tokens * matrix.experts_per_token / matrix.num_experts, 1.0)
            return self.gradients(_one_expert(matrix), rows, has_own=has_own)
        shapes = [(tokens, matrix.k, matrix.n), (matrix.n, matrix.k, tokens)][: 1 + has_own]
        m, n, k = np.array(shapes, dtype=np.float64).T
        law, (bits, value_bytes) = self.gemm_law(matrix), self.widths_of(matrix)
        sizes = {"m": m, "n": n, "k": k, "value_bytes": value_bytes, "weight_bits": bits, "copies": NEVER_HOT}
        return Operator(
            name=matrix.name,
            count=matrix.layers,
            flops=2.0 * m * n * k,
            hbm_bytes=n * k * bits / 8 + m * (n + k) * self.precision.activation_bytes,
            peak=self._peak(matrix),
            output=(np.ceil(m), n),
            law_s=law_s(self.hardware, law, sizes) if law else None,
            law=law,
            speed=self.kernels.sustained_fraction,
        )

    def _peak(self, matrix: Matrix) -> str:
        """The type that a matrix's product runs in: that of its weights where activations are, too."""
        is_quantized = self._bits(matrix) != 8 * self.precision.activation_bytes
        peak = QUANTIZED_PEAK.get(self.precision.quantization) if is_quantized else None
        return peak or self.precision.dtype

    def gemm_law(self, matrix: Matrix) -> str:
        """The operator of the profile's ``kernels`` that prices a matrix; empty where none does (experts)."""
        bits = self._bits(matrix)
        is_quantized = bits != 8 * self.precision.activation_bytes
        law = gemm_operator(self.precision.quantization, is_quantized, self.precision.dtype)
        return law if matrix.num_experts == 1 and law in self.hardware.kernels else ""

    def _experts(self, matrices: tuple[Matrix, Matrix], tokens: Floats) -> Operator:
        """Both GEMMs of the routed experts as the one kernel that the profile's law is of."""
        up, down = (self.product(matrix, tokens) for matrix in matrices)
        law, widths = self.experts_law(matrices[0]), self.widths_of(matrices[0])
        return replace(
            up,
            name="moe_experts",
            flops=up.flops + down.flops,
            hbm_bytes=up.hbm_bytes + down.hbm_bytes,
            law_s=experts_s(self.hardware, law, matrices, tokens, widths),
            law=law,
        )

    def experts_read(self, matrix: Matrix, tokens: Floats) -> Floats:
        """How many of a matrix's experts a step of ``tokens`` tokens reads; 1 for a plain matrix."""
        if matrix.num_experts == 1:
            return np.ones_like(tokens)
        return np.maximum(experts_hit(matrix.num_experts, matrix.experts_per_token, tokens), 1.0)

    def widths_of(self, matrix: Matrix) -> tuple[float, float]:
        """Bits of a weight and bytes of an activation, as the kernel of this matrix reads them."""
        bits = self._bits(matrix)
        is_eight_bit = bits != 8 * self.precision.activation_bytes
        is_eight_bit &= self.precision.quantization in QUANTIZED_PEAK
        return bits, 1.0 if is_eight_bit else float(self.precision.activation_bytes)

    def experts_law(self, matrix: Matrix) -> str:
        """The operator of the profile's ``kernels`` that prices routed experts; empty where none does."""
        if matrix.num_experts == 1 or not self.kernels.groups_experts:
            return ""
        is_quantized = self._bits(matrix) != 8 * self.precision.activation_bytes
        law = experts_operator(self.precision.quantization, is_quantized, self.precision.dtype)
        return law if law in self.hardware.kernels else ""

    def _bits(self, matrix: Matrix) -> float:
        precision = self.precision
        return bits_per_weight(
            matrix,
            precision.quantization,
            precision.activation_bytes,
            of_checkpoint=precision.of_checkpoint,
        )

    def elementwise(self, tokens: Floats, which: Direction = "forward", other_bytes: float = 0.0) -> Operator:
        """What the set's kernels between the products read and write; ``other_bytes`` more in each layer."""
        kernels = self.kernels
        passes = kernels.forward if which == "forward" else kernels.backward
        of_layer = per_layer_bytes(passes, self.elements, has_dropout=self.has_dropout)
        moved = (
            tokens * (of_layer * self.precision.activation_bytes / 2.0) + other_bytes
        ) * kernels.pass_factor
        return Operator(
            name="norm_elementwise",
            count=kernels.launches * self.model.num_blocks // 2,
            flops=np.zeros_like(tokens),
            hbm_bytes=moved / float(kernels.launches),
            peak=self.precision.dtype,
            memory_curve="elementwise_memory",
        )

    @property
    def elements(self) -> dict[Over, float]:
        """Elements per token of what passes go over, for two blocks (an ordinary layer), on one rank."""
        model, tp = self.model, self.tensor_parallel_size
        hidden = model.hidden_size / (tp if self.sequence_parallel else 1)
        pairs = max(1, model.num_blocks) / 2.0
        norms = sum(kind.norms * count for kind, count in model.counted_kinds()) / pairs
        inner, up = (sum(widths) / pairs / tp for widths in zip(*self._activations(), strict=True))
        rotary = 0 if model.learned_positions else model.num_attention_heads + model.num_key_value_heads
        return {
            "hidden": hidden,
            "norms": norms * hidden,
            "residuals": 2.0 * hidden,
            "inner": inner,
            "up": up,
            "rotary": rotary * model.head_dim / tp,
        }

    def _activations(self) -> Iterator[tuple[float, float]]:
        """Of every kind of layer with an MLP: entries per token behind the activation, and before it.

        A grouped kernel of experts that was timed as one has the experts' activation in it.
        """
        matrices = layer_matrices(self.model, self.tensor_parallel_size)
        is_inside = self.model.moe is not None and any(self.experts_law(matrix) for matrix in matrices)
        yield 0.0, 0.0
        for kind, count in self.model.counted_kinds():
            for mlp in kind.mlps:
                if isinstance(mlp, MoeShape):
                    routed = 0 if is_inside else mlp.num_experts_per_tok * mlp.moe_intermediate_size
                    width = routed + mlp.shared_expert_intermediate_size
                else:
                    width = mlp.intermediate_size
                yield float(width * count), float(width * (mlp.num_matrices - 1) * count)

    def all_reduce(self, tokens: Floats) -> Operator:
        """One after each output and each down projection: ring, 2(n − 1)/n of the message per link."""
        size = self.tensor_parallel_size
        message = tokens * self.model.hidden_size * self.precision.activation_bytes
        return Operator(
            name="all_reduce",
            count=self.model.num_blocks,
            flops=np.zeros_like(tokens),
            hbm_bytes=np.zeros_like(tokens),
            peak=self.precision.dtype,
            link_bytes=2.0 * (size - 1) / size * message,
            link_messages=2 * (size - 1),
            law_s=self._all_reduce_s(message),
            law="all_reduce_nccl" if "all_reduce_nccl" in self.hardware.kernels else "",
        )

    def _all_reduce_s(self, message: Floats) -> Floats | None:
        """By the profile's law; NCCL's own model of its rings and trees where a set takes NCCL's without."""
        size, hardware = self.tensor_parallel_size, self.hardware
        if self.kernels.all_reduce == "fastest":
            return all_reduce_s(hardware, size, message)
        fabric = fabric_of(hardware)  # tensor-parallel groups fill nodes first
        costs = [nccl_cost("all_reduce", max(float(one), 1.0), size, fabric).total_s for one in message]
        return np.array(costs)


def _is_one(sequences: Floats | float) -> bool:
    """Whether a chunk is alone in its launch, as an engine prices it."""
    return isinstance(sequences, float) and sequences == 1.0


def _one_expert(matrix: Matrix) -> Matrix:
    """Its experts as products of their own."""
    return replace(matrix, layers=matrix.layers * matrix.num_experts, num_experts=1, experts_per_token=1)
