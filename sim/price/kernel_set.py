"""Which kernels compute a layer: the sets that engines and frameworks run, each an entry of ``KERNEL_SETS``.

Serving, training and the simulation of kernels price a layer from the same counts (``sim.price.layer``);
what differs between them is the set: how attention is computed, what the element-wise kernels between the
products read and write, how fast kernels run in a long step, who sums over tensor-parallel GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from functools import cache
from typing import Literal

from sim.hardware import HardwareProfile
from sim.hardware.architecture import Chosen, by_architecture
from sim.price.priced import StepEngine
from sim.scenario.dataclass import dataclass

# --- passes over HBM ----------------------------------------------------------------------------

Over = Literal["hidden", "norms", "residuals", "up", "inner", "rotary", "scores", "logits", "parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Kernels over one tensor: bytes per element of it, where activations have 16 bits.

    ``kept_bytes`` are saved from the forward for the backward pass; ``dropout_*`` come on top where there is
    dropout; ``launches`` says over how many kernels the bytes are spread.
    """

    name: str
    over: Over
    read_bytes: float = 0.0
    write_bytes: float = 0.0
    launches: int = 1
    kept_bytes: float = 0.0
    dropout_read_bytes: float = 0.0
    dropout_write_bytes: float = 0.0
    memory_fraction: float = 1.0  # of the rate of its set's streaming kernels

    def moved_bytes(self, *, has_dropout: bool) -> float:
        """Per element, read and written."""
        dropped = self.dropout_read_bytes + self.dropout_write_bytes if has_dropout else 0.0
        return self.read_bytes + self.write_bytes + dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePasses:
    """Standard attention: what passes over the N x N scores between its products, which touch them once each.

    ``is_fused``: they reach all of streaming bandwidth; else, like the batched products around them, the
    share of it that PyTorch's kernels do.
    """

    words: str
    forward: tuple[Pass, ...]
    backward: tuple[Pass, ...]
    is_fused: bool = False


# Of streaming bandwidth, what PyTorch's unfused attention kernels reach (batched products with a thin inner
# dimension, softmax, layout copies around them). Fitted to FlashAttention-2's Fig. 4 and -3's Fig. 5.
STANDARD_MEMORY_FRACTIONS = {"Ampere": 0.62, "Hopper": 0.66}


def standard_memory_fraction(architecture: str) -> Chosen[float]:
    """That share of streaming bandwidth; on another architecture its stand-in's, said to be assumed."""
    what = "the bandwidth that PyTorch's unfused attention reaches"
    stand_in = "Ampere" if architecture == "Ada" else ""
    return by_architecture(STANDARD_MEMORY_FRACTIONS, architecture, what, stand_in=stand_in)


# A broadcast N x N mask is read through index arithmetic: fitted share of streaming bandwidth that
# PyTorch's elementwise kernel reaches for it (causal rows of FlashAttention-2's and -3's figures).
MASK_MEMORY_FRACTION = 0.42

# PyTorch's eager expression, as FlashAttention's benchmark runs it: a causal mask is added to all N x N
# scores and skips nothing. Backward: the mask's gradient is the scores' own, softmax reads P and dP.
PYTORCH_SCORES = ScorePasses(
    words="PyTorch's eager expression: scores in HBM, nothing skipped for the causal mask",
    forward=(
        Pass(name="mask", over="scores", read_bytes=2, write_bytes=2, memory_fraction=MASK_MEMORY_FRACTION),
        Pass(name="softmax", over="scores", read_bytes=2, write_bytes=2, kept_bytes=2),
        Pass(name="dropout", over="scores", dropout_read_bytes=2, dropout_write_bytes=3),
    ),
    backward=(
        Pass(name="dropout backward", over="scores", dropout_read_bytes=3, dropout_write_bytes=2),
        Pass(name="softmax backward", over="scores", read_bytes=4, write_bytes=2),
    ),
)
# Megatron-LM's scale, mask and softmax in one kernel; its batched products and dropout are PyTorch's.
MEGATRON_SCORES = ScorePasses(
    words="Megatron's fused scale, mask and softmax: scores in HBM",
    forward=(
        Pass(name="softmax", over="scores", read_bytes=2, write_bytes=2, kept_bytes=2),
        Pass(name="dropout", over="scores", dropout_read_bytes=2, dropout_write_bytes=3, kept_bytes=3),
    ),
    backward=(
        Pass(name="dropout", over="scores", dropout_read_bytes=3, dropout_write_bytes=2),
        Pass(name="softmax", over="scores", read_bytes=4, write_bytes=2),
    ),
    is_fused=True,
)
# Hugging Face's GPT-2 under autocast: scores / sqrt(d), where(mask), softmax in float32 between two casts,
# dropout with its byte mask. Backward: dropout, cast, softmax' gradient (product, difference), cast, where,
# scale.
HUGGING_FACE_SCORES = ScorePasses(
    words="Hugging Face's GPT-2 under autocast: scores in HBM, softmax in float32 between two casts",
    forward=(
        Pass(name="scale, mask", over="scores", read_bytes=4, write_bytes=4, launches=2),
        Pass(name="softmax", over="scores", read_bytes=10, write_bytes=10, launches=3, kept_bytes=4),
        Pass(name="dropout", over="scores", dropout_read_bytes=2, dropout_write_bytes=3, kept_bytes=3),
    ),
    backward=(
        Pass(name="dropout", over="scores", dropout_read_bytes=3, dropout_write_bytes=2),
        Pass(name="softmax", over="scores", read_bytes=22, write_bytes=14, launches=4),
        Pass(name="scale, mask", over="scores", read_bytes=4, write_bytes=4, launches=2),
    ),
)

# --- scores in memory ---------------------------------------------------------------------------

# What PyTorch's eager attention holds at its peak: its tensors in the order in which they come and go.
#
# The code is ``attention_pytorch`` of FlashAttention's benchmark_flash_attention.py, timed with
# ``retain_graph=True``: what autograd saved stays until the end. Per head, N² is queries × keys:
#
#     forward    S (new) · mask as float32 and its cast, once for all heads (new) · S + mask (new), S goes
#                · P = softmax (new) · dropped P and its byte mask (new) · return: scores and mask go,
#                P and the dropped P with its mask stay for the backward pass
#     backward   dP (new) · dropout's gradient (new), dP goes · the product dP ∘ P (new) and dS (new) beside
#                each other: softmax_backward_cuda_out in PyTorch's SoftMax.cu · the product and dP go
#
# So the backward pass holds four N² tensors (P, dP, dP ∘ P, dS), five and a half with dropout.
# FlashAttention's appendix E.6 measures 4 N² + 10 N d at every length (MB of 2^20 bytes, 36 to 17,024).
FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreStep:
    """One operation: the tensors that it makes (bytes by name), and those that are freed after it."""

    name: str
    makes: Mapping[str, int] = field(default_factory=dict)
    frees: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Squares:
    """Sizes of the N × N tensors of all heads, and of the one mask that all heads share."""

    scores: int  # elements
    element_bytes: int
    mask_elements: int  # 0: no mask
    has_dropout: bool

    @property
    def square_bytes(self) -> int:
        """One N × N tensor of all heads."""
        return self.scores * self.element_bytes


def forward_steps(sizes: Squares) -> Iterator[ScoreStep]:
    """Scores, mask, softmax, dropout, and the return."""
    square = sizes.square_bytes
    scores, left = "s", ["s"]
    yield ScoreStep(name="q k", makes={"s": square})
    if sizes.mask_elements:
        mask = {
            "mask_f32": sizes.mask_elements * FLOAT32_BYTES,
            "mask": sizes.mask_elements * sizes.element_bytes,
        }
        yield ScoreStep(name="build mask", makes=mask)
        scores, left = "s_masked", ["mask_f32", "mask", "s_masked"]
        yield ScoreStep(name="add mask", makes={"s_masked": square}, frees=("s",))
    yield ScoreStep(name=f"softmax of {scores}", makes={"p": square})
    if sizes.has_dropout:
        yield ScoreStep(name="dropout", makes={"p_dropped": square, "dropout_mask": sizes.scores})
    yield ScoreStep(name="return", frees=tuple(left))


def backward_steps(sizes: Squares) -> Iterator[ScoreStep]:
    """Gradients of the probabilities, of dropout and of the scores; P is there from the forward pass."""
    square = sizes.square_bytes
    gradient = "dp"
    yield ScoreStep(name="do v", makes={"dp": square})
    if sizes.has_dropout:
        gradient = "dp_kept"
        yield ScoreStep(name="dropout backward", makes={"dp_kept": square}, frees=("dp",))
    yield ScoreStep(name="softmax backward", makes={"dp_p": square, "ds": square}, frees=("dp_p", gradient))
    yield ScoreStep(name="ds k, ds q", frees=("ds",))


def peak_bytes(sizes: Squares, *, forward: bool, backward: bool) -> int:
    """The most that is held at once; a backward pass alone starts from what its forward pass left."""
    held: dict[str, int] = {}
    before = _play(held, forward_steps(sizes))
    after = _play(held, backward_steps(sizes)) if backward else 0
    return max(before if forward else 0, after)


def forward_score_bytes(heads: int, queries: int, keys: int, element_bytes: int) -> int:
    """The same of a causal forward pass, one sequence."""
    sizes = Squares(
        scores=heads * queries * keys,
        element_bytes=element_bytes,
        mask_elements=queries * keys,
        has_dropout=False,
    )
    return peak_bytes(sizes, forward=True, backward=False)


def _play(held: dict[str, int], steps: Iterator[ScoreStep]) -> int:
    """Runs the steps on what is held; the peak on the way."""
    peak = sum(held.values())
    for step in steps:
        held.update(step.makes)
        peak = max(peak, sum(held.values()))
        for name in step.frees:
            del held[name]
    return peak


# --- attention ----------------------------------------------------------------------------------

# FlashAttention's backward pass has 5 matrix products for the forward's 2 (arXiv 2307.08691, section 4.1) and
# runs them at a lower rate: 63 against 73 % of an A100's peak (abstract and section 4.1). Not fitted.
FLASH_BACKWARD_FLOPS = 2.5
FLASH_BACKWARD_FRACTION = 0.85

# Kernels written before Hopper's asynchronous instructions over FlashAttention-3 there: 35 against 75 % of an
# H100's peak (arXiv 2407.08608, abstract). Not fitted; taken for Blackwell too.
FLASH_2_FRACTIONS = {"Ampere": 1.0, "Hopper": 0.35 / 0.75}


def flash_2_fraction(architecture: str) -> Chosen[float]:
    """The share of the device's own kernels' speed that FlashAttention-2 reaches; unknown: as on Ampere.

    On Blackwell as on Hopper, whose own kernels are as much faster.
    """
    what = "the share of the peak of attention kernels older than FlashAttention-3"
    stand_in = "Hopper" if architecture == "Blackwell" else "Ampere"
    return by_architecture(FLASH_2_FRACTIONS, architecture, what, stand_in=stand_in)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKernel:
    """A way to compute attention. ``kernel`` is its name as ``sim.hardware.architecture`` knows it.

    ``speed`` is over FlashAttention-2 where ``is_before_hopper``, else over the device's best kernels, which
    the profile's law and curve were measured on. ``stores_scores``: by the set's passes over them.
    """

    words: str
    kernel: str = ""
    speed: float = 1.0
    is_before_hopper: bool = False
    stores_scores: bool = False

    def speed_on(self, architecture: str) -> Chosen[float]:
        """Over the device's best kernels."""
        if not self.is_before_hopper:
            return Chosen(value=self.speed)
        found = flash_2_fraction(architecture)
        return replace(found, value=self.speed * found.value)


ATTENTION_BY_WORD: Mapping[str, AttentionKernel] = {
    "flash": AttentionKernel(words="the device's best FlashAttention"),
    "flash_2": AttentionKernel(words="FlashAttention-2", kernel="flash_attention_2", is_before_hopper=True),
    # Fitted. Its port to Triton, 1.3 to 2.5 times slower than FlashAttention-2 (section 4.1).
    "flash_triton": AttentionKernel(
        words="FlashAttention's port to Triton", kernel="flash_triton", speed=0.74, is_before_hopper=True
    ),
    # "around 2x" slower than FlashAttention-2 (abstract). Not fitted.
    "flash_1": AttentionKernel(
        words="FlashAttention-1", kernel="flash_attention_1", speed=0.5, is_before_hopper=True
    ),
    "standard": AttentionKernel(words="standard attention", stores_scores=True),
}

# --- sets ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSet:
    """The kernels of a layer. Products run by the profile's GEMM law (cuBLAS, as every set here does).

    ``sustained_fraction``: of the speed in a benchmark loop, what products and attention keep in a long step.
    ``pass_factor``: bytes that element-wise kernels move over those of ``forward`` and ``backward``, which
    are spread over ``launches`` kernels of a layer with two blocks. ``groups_experts``: routed experts are
    one kernel; else a product each. ``is_captured``: launched from a CUDA graph. ``all_reduce``: of the
    engine's own and NCCL's the faster one, or NCCL's.
    """

    name: str
    words: str
    attention: AttentionKernel
    scores: ScorePasses
    forward: tuple[Pass, ...]
    backward: tuple[Pass, ...]
    launches: int
    pass_factor: float = 1.0
    sustained_fraction: float = 1.0
    groups_experts: bool = False
    is_captured: bool = False
    all_reduce: Literal["fastest", "nccl"] = "nccl"

    def with_attention(self, word: str) -> KernelSet:
        """The set with another attention kernel, by its word in YAML."""
        return replace(self, attention=ATTENTION_BY_WORD[word])

    def attention_assumed(self, hardware: HardwareProfile) -> str:
        """A sentence where the attention kernel's figure is another architecture's; else nothing."""
        if self.attention.stores_scores:
            return standard_memory_fraction(hardware.architecture).assumed
        return self.attention.speed_on(hardware.architecture).assumed

    def launch_s(self, hardware: HardwareProfile) -> float:
        """Seconds that a launch takes at least."""
        if self.is_captured and hardware.graph_launch_s is not None:
            return hardware.graph_launch_s
        return hardware.kernel_launch_s


# Norms read and write a value, of a residual addition two are read and one is written, a gated activation
# reads two and writes one; rotary embeddings read and write Q and K.
_ACTIVATION = (
    Pass(name="activation", over="up", read_bytes=2),
    Pass(name="activation", over="inner", write_bytes=2, launches=0, kept_bytes=2),
)
_ACTIVATION_BACKWARD = (
    Pass(name="activation", over="up", read_bytes=2, write_bytes=2),
    Pass(name="activation", over="inner", read_bytes=2, launches=0),
)
_ROTARY = Pass(name="rotary", over="rotary", read_bytes=2, write_bytes=2)
_FUSED_FORWARD = (
    Pass(name="norm", over="norms", read_bytes=2, write_bytes=2, launches=2, kept_bytes=2),
    Pass(
        name="dropout, residual", over="residuals", read_bytes=4, write_bytes=2, launches=2, kept_bytes=1,
        dropout_write_bytes=1,
    ),
    *_ACTIVATION,
    _ROTARY,
)  # fmt: skip
_FUSED_BACKWARD = (
    Pass(name="norm", over="norms", read_bytes=4, write_bytes=2, launches=2),
    Pass(
        name="dropout, residual", over="residuals", read_bytes=4, write_bytes=2, launches=2,
        dropout_read_bytes=3, dropout_write_bytes=2,
    ),
    *_ACTIVATION_BACKWARD,
    _ROTARY,
)  # fmt: skip

# Fitted. Rate that GEMMs and attention sustain through a training step over the rate of the same kernel alone
# in a benchmark loop: clocks under the power limit, cold L2, launch gaps.
SUSTAINED_FRACTION = 0.82
# Fitted. HBM passes of norms, activation functions and the loss where every PyTorch operator is a kernel of
# its own, over those of fused kernels.
EAGER_PASSES = 1.4

_VLLM = KernelSet(
    name="vllm",
    words="an inference engine's: residual additions inside the norms, experts in one kernel, CUDA graphs",
    attention=ATTENTION_BY_WORD["flash"],
    scores=PYTORCH_SCORES,
    forward=(
        Pass(name="norm", over="norms", read_bytes=2, write_bytes=2, launches=2),
        Pass(name="residual", over="residuals", read_bytes=2, write_bytes=2, launches=0),
        *_ACTIVATION,
    ),
    backward=_FUSED_BACKWARD,
    launches=3,
    groups_experts=True,
    is_captured=True,
    all_reduce="fastest",
)
_MEGATRON = KernelSet(
    name="megatron",
    words="fused as Megatron-LM with Apex, or torch.compile: a kernel each for norms, residuals with "
    "dropout, activation functions",
    attention=ATTENTION_BY_WORD["flash"],
    scores=MEGATRON_SCORES,
    forward=_FUSED_FORWARD,
    backward=_FUSED_BACKWARD,
    launches=4,
    sustained_fraction=SUSTAINED_FRACTION,
)
_PYTORCH = replace(
    _MEGATRON,
    name="pytorch",
    words="eager PyTorch: a kernel per operator",
    scores=PYTORCH_SCORES,
    pass_factor=EAGER_PASSES,
)
# modeling_gpt2.py and activations.py of 2022 under torch.autocast: float32 residual stream, LayerNorm and
# ``pow`` in float32, products in 16 bits, casts between. Counted by hand, none of it fitted.
_HUGGING_FACE = replace(
    _MEGATRON,
    name="hugging_face",
    words="Hugging Face's GPT-2 under autocast: a kernel per operator, norms and residual stream in float32",
    scores=HUGGING_FACE_SCORES,
    forward=(
        # Two norms (read and write float32), the cast of each to 16 bits.
        Pass(name="LayerNorm", over="hidden", read_bytes=8, write_bytes=8, launches=2, kept_bytes=8),
        Pass(name="casts", over="hidden", read_bytes=8, write_bytes=4, launches=2),
        # Q, K and V made contiguous for the batched products, the heads merged after them.
        Pass(name="copies of Q K V O", over="hidden", read_bytes=8, write_bytes=8, launches=4),
        # Dropout (value, its byte mask) and the sum with the float32 residual, twice.
        Pass(name="dropout, residual", over="hidden", read_bytes=4, write_bytes=6, launches=2, kept_bytes=2),
        Pass(name="dropout, residual", over="hidden", read_bytes=12, write_bytes=8, launches=2),
        # 0.5 x (1 + tanh(c (x + 0.044715 x^3))): cast, pow, times, plus, times, tanh, plus, half, times, cast
        Pass(name="GELU", over="inner", read_bytes=40, write_bytes=36, launches=10, kept_bytes=16),
    ),
    launches=22,
)
KERNEL_SETS: Mapping[str, KernelSet] = {one.name: one for one in (_VLLM, _MEGATRON, _PYTORCH, _HUGGING_FACE)}


@cache
def kernels_named(name: str, attention: str) -> KernelSet:
    """The set of that name with the attention kernel of that word."""
    return KERNEL_SETS[name].with_attention(attention)


def engine_kernels(engine: StepEngine) -> KernelSet:
    """The kernels that an inference engine runs a layer by."""
    return kernels_named("vllm", engine.attention)


def per_layer_bytes(passes: Iterable[Pass], elements: Mapping[Over, float], *, has_dropout: bool) -> float:
    """Bytes that the passes move, for 16-bit activations; what ``elements`` lacks moves nothing."""
    return sum(one.moved_bytes(has_dropout=has_dropout) * elements.get(one.over, 0.0) for one in passes)


def kernel_words(kernels: KernelSet) -> str:
    """The kernels that were priced, for a report."""
    attention = kernels.attention.words
    if kernels.attention.stores_scores:
        attention = f"{attention} ({kernels.scores.words})"
    keeps = ""
    if kernels.sustained_fraction != 1.0:
        keeps = (
            f"; products and attention at {kernels.sustained_fraction:g} of their speed in a benchmark loop"
        )
    return f"attention by {attention}; {kernels.words}{keeps}"
