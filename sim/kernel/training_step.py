"""A GPT's training step on one GPU as launches: products, attention, and the memory passes between them.

A layer is simulated once and repeated; so are micro-batches. Attention runs by the kernels that an
attention scenario simulates, products by the GEMM's tiles, everything else as streaming kernels with the
bytes counted below. Not modelled: the exchange of gradients, the data loader, host time
between launches, the allocator, recomputation of activations.

Memory passes of a GPT's training step: what each kernel between the products reads and writes.

``eager`` is Hugging Face's GPT-2 under ``torch.autocast`` (modeling_gpt2.py and activations.py of 2022):
float32 weights and residual stream, products in 16 bits, LayerNorm, softmax, ``pow`` and the loss in float32,
a kernel per operator, casts between. ``fused`` is Megatron-LM's with Apex: 16-bit weights and activations,
one kernel each for LayerNorm, bias + GELU, bias + dropout + residual, scale + mask + softmax,
cross-entropy and AdamW. Bytes are per element of what the pass goes over, read + written; where a pass
launches several kernels, ``launches`` says how many. Counted by hand from the code, none of it fitted.

What a layer's forward pass moves is its kernel set's (``sim.price.kernel_set``), which serving and training
price, too. The mask is the same for all heads and stays in L2.

``over``: hidden = tokens · hidden_size, inner = tokens · intermediate_size, scores = tokens · seqlen · heads,
logits = tokens · vocabulary, parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import takewhile

from sim.errors import ScenarioError
from sim.kernel.algorithms import ALGORITHMS
from sim.kernel.algorithms.elementwise import stream
from sim.kernel.algorithms.gemm import gemm_launches
from sim.kernel.algorithms.problem import STATISTIC_BYTES, Gemm, Problem, Tile
from sim.kernel.gpu import Direction, Efficiency, Gpu, LibraryKernels, efficiency_of
from sim.kernel.launches import Launch, repeated
from sim.kernel.scenario import TrainingStep
from sim.model.counts import num_parameters
from sim.model.shape import ModelShape
from sim.price.kernel_set import KERNEL_SETS, KernelSet, Over, Pass
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPasses:
    """The passes of a step beside its kernel set's forward ones: backward, of the ends, of the optimizer."""

    kernels: KernelSet
    layer_backward: tuple[Pass, ...]
    head_forward: tuple[Pass, ...]
    head_backward: tuple[Pass, ...]
    optimizer: tuple[Pass, ...]
    weight_bytes: int  # of one parameter on the device, with gradient and optimizer states
    product_bytes: int  # kept per element of the hidden size: inputs of the products


_EAGER = StepPasses(
    kernels=KERNEL_SETS["hugging_face"],
    layer_backward=(
        # Per norm: gradient (read input and gradient, write), gamma and beta (read both); casts back.
        Pass(name="LayerNorm", over="hidden", read_bytes=32, write_bytes=8, launches=4),
        Pass(name="casts", over="hidden", read_bytes=4, write_bytes=8, launches=2),
        Pass(name="copies of Q K V O", over="hidden", read_bytes=14, write_bytes=14, launches=5),
        # Per residual: the sum of both branches in float32, the cast and dropout's gradient, the bias's sum.
        Pass(name="dropout, residual", over="hidden", read_bytes=16, write_bytes=8, launches=2),
        Pass(name="dropout, residual", over="hidden", read_bytes=14, write_bytes=8, launches=4),
        Pass(name="bias gradients", over="hidden", read_bytes=10, write_bytes=0, launches=3),
        Pass(name="bias gradients", over="inner", read_bytes=2, write_bytes=0),
        # The ten operators the other way: two products with two gradients each, tanh, pow (x², 3 x², times),
        # the scalars, three gradients of x summed, the casts.
        Pass(name="GELU", over="inner", read_bytes=70, write_bytes=48, launches=15),
    ),
    head_forward=(
        # Two look-ups, their sum, dropout, the last norm, its cast; shifted logits, log-softmax in float32;
        # every weight cast to 16 bits.
        Pass(name="embedding", over="hidden", read_bytes=28, write_bytes=23, launches=6, kept_bytes=7),
        Pass(name="loss", over="logits", read_bytes=8, write_bytes=10, launches=4, kept_bytes=6),
        Pass(name="casts", over="parameters", read_bytes=4, write_bytes=2, kept_bytes=2),
    ),
    head_backward=(
        # Negative log-likelihood filled with zeros, log-softmax, cast, the shift's zeros and copy.
        Pass(name="loss", over="logits", read_bytes=14, write_bytes=14, launches=5),
        Pass(name="embedding", over="hidden", read_bytes=31, write_bytes=16, launches=6),
        # Weight gradients cast to float32 and added to what there is.
        Pass(name="casts", over="parameters", read_bytes=10, write_bytes=8, launches=2),
    ),
    optimizer=(
        # Unscale, norm and clip, then AdamW operator by operator: decay, two moments in two operators each,
        # root, epsilon, division and update, all float32.
        Pass(name="optimizer", over="parameters", read_bytes=64, write_bytes=44, launches=12),
    ),
    weight_bytes=16,
    product_bytes=2 * 6,  # inputs of the QKV, output and first MLP products; Q, K and V
)

_FUSED = StepPasses(
    kernels=KERNEL_SETS["megatron"],
    layer_backward=(
        Pass(name="norm", over="hidden", read_bytes=16, write_bytes=4, launches=4),
        Pass(name="dropout, residual", over="hidden", read_bytes=14, write_bytes=8, launches=4),
        Pass(name="bias gradients", over="hidden", read_bytes=10, write_bytes=0, launches=3),
        Pass(name="activation", over="inner", read_bytes=4, write_bytes=2),
        Pass(name="bias gradients", over="inner", read_bytes=2, write_bytes=0),
    ),
    head_forward=(
        Pass(name="embedding", over="hidden", read_bytes=10, write_bytes=9, launches=4, kept_bytes=5),
        Pass(name="loss", over="logits", read_bytes=2, write_bytes=0, kept_bytes=2),
    ),
    head_backward=(
        Pass(name="loss", over="logits", read_bytes=2, write_bytes=2),
        Pass(name="embedding", over="hidden", read_bytes=17, write_bytes=6, launches=5),
        Pass(name="weight gradients", over="parameters", read_bytes=6, write_bytes=4),
    ),
    optimizer=(Pass(name="optimizer", over="parameters", read_bytes=20, write_bytes=14, launches=2),),
    weight_bytes=18,
    product_bytes=2 * 6,
)

PASSES: Mapping[str, StepPasses] = {"eager": _EAGER, "fused": _FUSED}


HALF_BYTES = 2


class TrainingStepWork:
    """The launches of one step, and what it keeps."""

    def __init__(self, gpu: Gpu, given: TrainingStep, model: ModelShape) -> None:
        self._gpu, self._given, self._model = gpu, given, model
        self._passes = PASSES[given.kernels]
        self._tokens = given.micro_batch_size * given.seqlen
        heads = model.num_attention_heads + model.num_key_value_heads
        self._elements: dict[Over, int] = {
            "hidden": self._tokens * model.hidden_size,
            "norms": 2 * self._tokens * model.hidden_size,
            "residuals": 2 * self._tokens * model.hidden_size,
            "up": self._tokens * model.intermediate_size,
            "rotary": 0 if model.learned_positions else self._tokens * heads * model.head_dim,
            "inner": self._tokens * model.intermediate_size,
            "scores": self._tokens * given.seqlen * model.num_attention_heads,
            "logits": self._tokens * model.vocab_size,
            "parameters": num_parameters(model),
        }
        self._algorithm = ALGORITHMS[given.attention]
        self._problem = Problem(
            algorithm=given.attention,
            batch=given.micro_batch_size,
            num_heads=model.num_attention_heads,
            num_kv_heads=model.num_key_value_heads,
            head_dim=model.head_dim,
            seqlen=given.seqlen,
            seqlen_kv=given.seqlen,
            causal=not self._algorithm.stores_scores,
            dtype="float16",
            packs_heads=self._algorithm.packs_heads,
        )

    @property
    def model_flops(self) -> float:
        """Per token: 6 FLOPs per weight of a product, and 12 · layers · heads · head_dim · seqlen."""
        m = self._model
        attended = 12.0 * m.num_hidden_layers * m.num_attention_heads * m.head_dim * self._given.seqlen
        products = (
            sum(n * k for n, k in self._matrices()) * m.num_hidden_layers + m.vocab_size * m.hidden_size
        )
        return (6.0 * products + attended) * self._tokens * self._given.gradient_accumulation_steps

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and optimizer states."""
        return self._passes.weight_bytes * num_parameters(self._model)

    @property
    def kept_bytes(self) -> int:
        """Activations of a micro-batch that wait for the backward pass."""
        layer = (
            self._kept(self._passes.kernels.forward) + self._passes.product_bytes * self._elements["hidden"]
        )
        layer += HALF_BYTES * self._elements["inner"]
        if self._algorithm.stores_scores:
            layer += self._kept(self._passes.kernels.scores.forward)
        else:
            layer += STATISTIC_BYTES * self._problem.heads * self._given.seqlen
        return layer * self._model.num_hidden_layers + self._kept(self._passes.head_forward)

    def launches(self) -> Iterator[Launch]:
        """Forward, loss, backward of every micro-batch, then the optimizer."""
        micro, layers = self._given.gradient_accumulation_steps, self._model.num_hidden_layers
        passes = self._passes
        for launch in (*self._forward_products(), *self._attention(is_backward=False)):
            yield repeated(launch, layers * micro, launch.name)
        yield from self._streams(passes.kernels.forward, layers * micro)
        yield from self._streams(passes.head_forward, micro)
        head = (self._tokens, self._model.vocab_size, self._model.hidden_size)
        for launch in (*self._product(*head), *self._gradients(*head)):
            yield repeated(launch, micro, launch.name)
        yield from self._streams(passes.head_backward, micro)
        for launch in (*self._backward_products(), *self._attention(is_backward=True)):
            yield repeated(launch, layers * micro, launch.name)
        yield from self._streams(passes.layer_backward, layers * micro)
        yield from self._streams(passes.optimizer, 1)

    def _kept(self, passes: tuple[Pass, ...]) -> int:
        return sum(int(one.kept_bytes * self._elements.get(one.over, 0)) for one in passes)

    def _matrices(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of a layer's four products."""
        m = self._model
        queries, keys = m.num_attention_heads * m.head_dim, m.num_key_value_heads * m.head_dim
        return (
            (queries + 2 * keys, m.hidden_size),
            (m.hidden_size, queries),
            (m.intermediate_size, m.hidden_size),
            (m.hidden_size, m.intermediate_size),
        )

    def _forward_products(self) -> Iterator[Launch]:
        for n, k in self._matrices():
            yield from self._product(self._tokens, n, k)

    def _backward_products(self) -> Iterator[Launch]:
        for n, k in self._matrices():
            yield from self._gradients(self._tokens, n, k)

    def _gradients(self, m: int, n: int, k: int) -> Iterator[Launch]:
        """Of the input, and of the weight."""
        yield from self._product(m, k, n)
        yield from self._product(n, k, m)

    def _product(self, m: int, n: int, k: int) -> Iterator[Launch]:
        given = Gemm(m=m, n=n, k=k, dtype="float16")
        names = ("product inputs", "product weights", "product outputs")
        for launch in gemm_launches(self._gpu, self._efficiency("gemm"), given, Tile(), names):
            yield repeated(launch, 1, "products")

    def _attention(self, *, is_backward: bool) -> Iterator[Launch]:
        if self._algorithm.stores_scores:
            yield from self._standard_attention(is_backward=is_backward)
            return
        direction: Direction = "backward" if is_backward else "forward"
        found = self._algorithm.launches(self._gpu, self._problem, Tile(), direction)
        for launch in found:
            yield repeated(launch, 1, "attention")

    def _standard_attention(self, *, is_backward: bool) -> Iterator[Launch]:
        """The batched products over all N × N scores, and the passes over them."""
        n, d, heads = self._given.seqlen, self._model.head_dim, self._problem.heads
        shapes = ((n, n, d), (n, d, n))
        for m, columns, k in shapes * 2 if is_backward else shapes:
            given = Gemm(m=m, n=columns, k=k, batch=heads, dtype="float16")
            outputs = "scores" if columns == n else "heads"
            names = ("heads" if k == d else "scores", "heads ", outputs)
            for launch in gemm_launches(self._gpu, self._efficiency("standard"), given, Tile(), names):
                yield repeated(launch, 1, "attention")
        passes = self._passes.kernels.scores.backward if is_backward else self._passes.kernels.scores.forward
        for launch in self._streams(passes, 1):
            yield repeated(launch, 1, f"attention: {launch.name}")

    def _streams(self, passes: tuple[Pass, ...], repeats: int) -> Iterator[Launch]:
        """A pass's bytes, spread evenly over its kernels; one without launches is part of the one before."""
        for index, one in enumerate(passes):
            if not one.launches or not self._elements.get(one.over):
                continue
            reads: dict[str, int] = {}
            writes: dict[str, int] = {}
            for part in (one, *takewhile(lambda later: not later.launches, passes[index + 1 :])):
                elements = self._elements[part.over]
                read = part.read_bytes + part.dropout_read_bytes
                written = part.write_bytes + part.dropout_write_bytes
                if read:
                    reads[part.over] = int(read * elements) // one.launches
                if written:
                    writes[part.over] = int(written * elements) // one.launches
            is_slow = one.over == "scores" and not self._passes.kernels.scores.is_fused
            efficiency = self._efficiency("standard" if is_slow else "stream")
            launch = stream(self._gpu, efficiency, one.name, reads, writes)
            yield repeated(launch, one.launches * repeats, one.name)

    def _efficiency(self, generation: LibraryKernels) -> Efficiency:
        return efficiency_of(generation, self._gpu.profile)


def checked_model(model: ModelShape | None) -> ModelShape:
    """A GPT of dense layers with plain MLPs; anything else is refused."""
    if model is None:
        raise ScenarioError(
            "a training step is that of a model",
            path="model",
            allowed="gpt2, gpt2-medium, gpt2-large, gpt2-xl",
        )
    if model.mlp_matrices != 2 or model.moe or model.mla or model.mamba:
        raise ScenarioError(
            "the passes of a training step are counted for GPT-2's layers",
            path="model",
            given=model.name,
            allowed="a model with attention and a plain MLP in every layer (GPT-2, OPT, Pythia)",
            hint="kind: training prices every other model's step",
        )
    return model
