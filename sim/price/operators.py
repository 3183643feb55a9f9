"""The operators of a step, counted: FLOPs and bytes of each kernel from the model's shape.

One description for prefill, decode and mixed steps: the linear layers see ``tokens``, the head sees the
``sequences`` that sample, attention sees (queries, context). A multiply-add is 2 FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sim.hardware import HardwareProfile, Link
from sim.hardware.laws.gemm import experts_hit
from sim.model.counts import (
    DTYPE_BYTES,
    kv_bytes_read_per_token,
    kv_dtype_bytes,
    kv_heads_per_gpu,
    served_dtype,
)
from sim.model.matrices import Matrix, layer_matrices
from sim.model.shape import ModelShape, Quantization
from sim.model.weights import bits_per_weight, served_quantization
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
from sim.price.priced import StepEngine
from sim.price.roofline import Floats, Operator
from sim.scenario.dataclass import dataclass

# Weights and activations in the same 8-bit type run at its peak; weight-only formats at the activations'.
QUANTIZED_PEAK = {"fp8": "float8", "int8": "int8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Types of activations, weights and KV, and the peaks that they run at."""

    dtype: str
    quantization: Quantization
    activation_bytes: int
    kv_bytes: int
    of_checkpoint: bool = False  # each matrix is held as the checkpoint has it


def precision_of(model: ModelShape, engine: StepEngine) -> Precision:
    """What ``dtype``, ``kv_cache_dtype`` and ``quantization`` come to for this model."""
    dtype = served_dtype(model, engine.dtype)
    return Precision(
        dtype=dtype,
        quantization=served_quantization(model, engine.quantization),
        activation_bytes=DTYPE_BYTES[dtype],
        kv_bytes=kv_dtype_bytes(model, engine.kv_cache_dtype, engine.dtype),
        of_checkpoint=engine.quantization == "none",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounter:
    """Counts operators for one model on one device (one rank, under tensor parallelism)."""

    model: ModelShape
    hardware: HardwareProfile
    precision: Precision
    tensor_parallel_size: int
    is_flash: bool

    def linear(self, tokens: Floats) -> list[Operator]:
        """Every projection, norm and all-reduce of the layers, for steps of ``tokens`` tokens."""
        matrices = layer_matrices(self.model, self.tensor_parallel_size)
        plain = [one for one in matrices if one.name != "lm_head" and not self.experts_law(one)]
        operators = [self._gemm(matrix, tokens) for matrix in plain]
        fused = [one for one in matrices if self.experts_law(one)]
        pairs = zip(fused[::2], fused[1::2], strict=True)  # gate and up, down
        operators += [self._experts(pair, tokens) for pair in pairs]
        operators.append(self._elementwise(tokens))
        if self.tensor_parallel_size > 1:
            operators.append(self._all_reduce(tokens))
        return operators

    def head(self, sequences: Floats) -> list[Operator]:
        """The vocabulary projection of the sequences that sample in the step."""
        matrices = layer_matrices(self.model, self.tensor_parallel_size)
        return [self._gemm(matrix, sequences) for matrix in matrices if matrix.name == "lm_head"]

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
        scores = 0.0 if self.is_flash else self._score_bytes(context_tokens * share)
        operator = self._attention("attention_decode", flops, kv + scores, "attention_decode_memory")
        mean = context_tokens * share / np.maximum(sequences, 1.0)
        return self._by_law(
            operator,
            {
                "sequences": np.maximum(sequences, 1.0),
                "context": np.maximum(mean, 1.0),
                "copies": np.full_like(sequences, NEVER_HOT),
            },
        )

    def prefill_attention(self, queries: Floats, cached: Floats) -> Operator:
        """A chunk of ``queries`` tokens after ``cached`` tokens, causal: half of the new square.

        FLOPs 4 · heads · head_dim · (q · cached + q (q + 1) / 2) per layer (FlashAttention, 2205.14135);
        K, V, Q and O are moved once (flash), the scores four times besides (standard: S written and read,
        P written and read).
        """
        pairs = queries * cached + queries * (queries + 1.0) / 2.0
        share = self._window_share((cached + queries) / 2.0)
        pairs = pairs * share
        flops = 4.0 * pairs * self._head_width
        kv = (cached + queries) * self._kv_bytes_per_token / self._layers + 2 * queries * self._query_bytes
        scores = 0.0 if self.is_flash else self._score_bytes(pairs)
        operator = self._attention("attention_prefill", flops, kv + scores, "attention_decode_memory")
        sizes = {"sequences": np.ones_like(queries), "queries": np.maximum(queries, 1.0), "cached": cached}
        return self._by_law(operator, sizes, share)

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

    def _attention(self, name: str, flops: Floats, hbm_bytes: Floats, memory_curve: str) -> Operator:
        return Operator(
            name=name,
            count=self._layers,
            flops=flops,
            hbm_bytes=hbm_bytes,
            peak=self.precision.dtype,
            compute_curve="attention_prefill_compute",
            memory_curve=memory_curve,
        )

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
        if self.model.mla is not None or not self.is_flash or not self.model.num_attending_layers:
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

    def _gemm(self, matrix: Matrix, tokens: Floats) -> Operator:
        """(tokens × k) · (k × n).

        Of the experts those are read that any token of the step picks (``experts_hit``).
        """
        bits = self._bits(matrix)
        is_quantized = bits != 8 * self.precision.activation_bytes
        peak = QUANTIZED_PEAK.get(self.precision.quantization) if is_quantized else None
        experts = self.experts_read(matrix, tokens)
        rows = tokens * matrix.experts_per_token
        weights = matrix.n * matrix.k * bits / 8 * experts
        activations = rows * (matrix.n + matrix.k) * self.precision.activation_bytes
        law = self.gemm_law(matrix)
        return Operator(
            name=matrix.name,
            count=matrix.layers,
            flops=2.0 * rows * matrix.n * matrix.k,
            hbm_bytes=np.where(tokens > 0, weights + activations, 0.0),
            peak=peak or self.precision.dtype,
            output=(np.ceil(rows / experts), matrix.n * np.round(experts)),
            law_s=gemm_s(self.hardware, law, matrix, rows, self.widths_of(matrix)) if law else None,
            law=law,
        )

    def gemm_law(self, matrix: Matrix) -> str:
        """The operator of the profile's ``kernels`` that prices a matrix; empty where none does (experts)."""
        bits = self._bits(matrix)
        is_quantized = bits != 8 * self.precision.activation_bytes
        law = gemm_operator(self.precision.quantization, is_quantized, self.precision.dtype)
        return law if matrix.num_experts == 1 and law in self.hardware.kernels else ""

    def _experts(self, matrices: tuple[Matrix, Matrix], tokens: Floats) -> Operator:
        """Both GEMMs of the routed experts as the one kernel that the profile's law is of."""
        up, down = (self._gemm(matrix, tokens) for matrix in matrices)
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
        if matrix.num_experts == 1:
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

    def _elementwise(self, tokens: Floats) -> Operator:
        """Two norms, two residual additions (fused with them) and the activation, per mixer and MLP."""
        hidden = self.model.hidden_size
        width = self.model.intermediate_size / self.tensor_parallel_size
        values = tokens * (2 * 4 * hidden + self.model.mlp_matrices * width)
        return Operator(
            name="norm_elementwise",
            count=3 * self.model.num_blocks // 2,
            flops=np.zeros_like(tokens),
            hbm_bytes=values * self.precision.activation_bytes / 3.0,
            peak=self.precision.dtype,
            memory_curve="elementwise_memory",
        )

    def _all_reduce(self, tokens: Floats) -> Operator:
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
            law_s=all_reduce_s(self.hardware, size, message),
            law="all_reduce_nccl" if "all_reduce_nccl" in self.hardware.kernels else "",
        )
