"""Standard attention: every step a kernel of its own, the N × N scores in HBM between them.

Passes over N² tensors, per head (r reads, w writes), as PyTorch's eager expression runs them:

    forward    S = Q Kᵀ (w) · S + mask (r w) · softmax (r w) · dropout (r w, its byte mask w) · P V (r)
    backward   dV = Pᵀ dO (r) · dP = dO Vᵀ (w) · dropout (r w, its byte mask r) · softmax (r P, r dP, w dS)
               · dQ = dS K (r) · dK = dSᵀ Q (r)

The mask is added, so its gradient is the score's own: no pass. For GPT-2 medium (N 1024, 64, 16 heads,
batch 64, fp16) that is 25.2 GB without and 40.3 GB with mask and dropout; FlashAttention's Fig. 2
prints 40.3. The causal mask is such a mask: nothing is skipped.

What PyTorch's eager attention holds at its peak: its tensors in the order in which they come and go.

The code is ``attention_pytorch`` of FlashAttention's benchmark_flash_attention.py, timed with
``retain_graph=True``: what autograd saved stays until the end. Per head, N² is queries × keys:

    forward    S (new) · mask as float32 and its cast, once for all heads (new) · S + mask (new), S goes
               · P = softmax (new) · dropped P and its byte mask (new) · return: scores and mask go,
               P and the dropped P with its mask stay for the backward pass
    backward   dP (new) · dropout's gradient (new), dP goes · the product dP ∘ P (new) and dS (new) beside
               each other: softmax_backward_cuda_out in PyTorch's SoftMax.cu · the product and dP go

So the backward pass holds four N² tensors (P, dP, dP ∘ P, dS), five and a half with dropout.
FlashAttention's appendix E.6 measures 4 N² + 10 N d at every length (MB of 2^20 bytes, 36 to 17,024).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field

from sim.kernel.algorithms.elementwise import stream
from sim.kernel.algorithms.gemm import gemm_launches
from sim.kernel.algorithms.problem import Algorithm, Gemm, Problem, Tile
from sim.kernel.gpu import Direction, Efficiency, Gpu, Library
from sim.kernel.launches import Launch
from sim.scenario.dataclass import dataclass

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
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


def forward_steps(sizes: Squares) -> Iterator[Step]:
    """Scores, mask, softmax, dropout, and the return."""
    square = sizes.square_bytes
    scores, left = "s", ["s"]
    yield Step(name="q k", makes={"s": square})
    if sizes.mask_elements:
        mask = {
            "mask_f32": sizes.mask_elements * FLOAT32_BYTES,
            "mask": sizes.mask_elements * sizes.element_bytes,
        }
        yield Step(name="build mask", makes=mask)
        scores, left = "s_masked", ["mask_f32", "mask", "s_masked"]
        yield Step(name="add mask", makes={"s_masked": square}, frees=("s",))
    yield Step(name=f"softmax of {scores}", makes={"p": square})
    if sizes.has_dropout:
        yield Step(name="dropout", makes={"p_dropped": square, "dropout_mask": sizes.scores})
    yield Step(name="return", frees=tuple(left))


def backward_steps(sizes: Squares) -> Iterator[Step]:
    """Gradients of the probabilities, of dropout and of the scores; P is there from the forward pass."""
    square = sizes.square_bytes
    gradient = "dp"
    yield Step(name="do v", makes={"dp": square})
    if sizes.has_dropout:
        gradient = "dp_kept"
        yield Step(name="dropout backward", makes={"dp_kept": square}, frees=("dp",))
    yield Step(name="softmax backward", makes={"dp_p": square, "ds": square}, frees=("dp_p", gradient))
    yield Step(name="ds k, ds q", frees=("ds",))


def peak_bytes(sizes: Squares, *, forward: bool, backward: bool) -> int:
    """The most that is held at once; a backward pass alone starts from what its forward pass left."""
    held: dict[str, int] = {}
    before = _play(held, forward_steps(sizes))
    after = _play(held, backward_steps(sizes)) if backward else 0
    return max(before if forward else 0, after)


def _play(held: dict[str, int], steps: Iterator[Step]) -> int:
    """Runs the steps on what is held; the peak on the way."""
    peak = sum(held.values())
    for step in steps:
        held.update(step.makes)
        peak = max(peak, sum(held.values()))
        for name in step.frees:
            del held[name]
    return peak


# A broadcast N × N mask is read through index arithmetic: fitted share of streaming bandwidth that
# PyTorch's elementwise kernel reaches for it (causal rows of FlashAttention-2's and -3's figures).
MASK_MEMORY_FRACTION = 0.42


class StandardAttention:
    """The launches of one attention, forward or backward."""

    def __init__(self, gpu: Gpu, problem: Problem, efficiency: Efficiency) -> None:
        self._gpu, self._problem, self._efficiency = gpu, problem, efficiency
        self._scores = problem.heads * problem.seqlen * problem.seqlen_kv
        self._square = self._scores * problem.element_bytes

    def forward(self) -> list[Launch]:
        """S, mask, softmax, dropout, O."""
        problem = self._problem
        launches = self._product("q", "k", "s", (problem.seqlen, self._problem.seqlen_kv, problem.head_dim))
        scores = "s"
        if problem.mask or problem.causal:
            mask = problem.seqlen * self._problem.seqlen_kv * self._problem.element_bytes
            launches.append(
                self._pass(
                    "mask", {"s": self._square, "mask": mask}, {"s_masked": self._square}, is_mask=True
                )
            )
            scores = "s_masked"
        launches.append(self._pass("softmax", {scores: self._square}, {"p": self._square}))
        probabilities = "p"
        if problem.dropout:
            kept = {"p_dropped": self._square, "dropout_mask": self._scores}
            launches.append(self._pass("dropout", {"p": self._square}, kept))
            probabilities = "p_dropped"
        shape = (problem.seqlen, problem.head_dim, self._problem.seqlen_kv)
        return launches + self._product(probabilities, "v", "o", shape)

    def backward(self) -> list[Launch]:
        """dV, dP, dropout, dS, dQ, dK."""
        problem, queries, keys = self._problem, self._problem.seqlen, self._problem.seqlen_kv
        probabilities = "p_dropped" if problem.dropout else "p"
        launches = self._product(probabilities, "do", "dv", (keys, problem.head_dim, queries))
        launches += self._product("do", "v", "dp", (queries, keys, problem.head_dim))
        gradient = "dp"
        if problem.dropout:
            reads = {"dp": self._square, "dropout_mask": self._scores}
            launches.append(self._pass("dropout backward", reads, {"dp_kept": self._square}))
            gradient = "dp_kept"
        reads = {"p": self._square, gradient: self._square}
        launches.append(self._pass("softmax backward", reads, {"ds": self._square}))
        launches += self._product("ds", "k", "dq", (queries, problem.head_dim, keys))
        return launches + self._product("ds", "q", "dk", (keys, problem.head_dim, queries))

    def _product(self, a: str, b: str, c: str, shape: tuple[int, int, int]) -> list[Launch]:
        m, n, k = shape
        given = Gemm(m=m, n=n, k=k, batch=self._problem.heads, dtype=self._problem.dtype)
        return gemm_launches(self._gpu, self._efficiency, given, Tile(), (a, b, c))

    def _pass(
        self, name: str, reads: dict[str, int], writes: dict[str, int], *, is_mask: bool = False
    ) -> Launch:
        work = float(self._scores)
        return stream(
            self._gpu,
            self._efficiency,
            name,
            reads,
            writes,
            vector_ops=4 * work,
            exponentials=work if name == "softmax" else 0.0,
            memory_fraction=MASK_MEMORY_FRACTION if is_mask else 1.0,
        )


def extra_bytes(problem: Problem, launches: Sequence[Launch], direction: str) -> int:
    """Peak of the temporaries, in the order in which they come and go."""
    del launches
    has_mask = problem.mask or problem.causal
    sizes = Squares(
        scores=problem.heads * problem.seqlen * problem.seqlen_kv,
        element_bytes=problem.element_bytes,
        mask_elements=problem.seqlen * problem.seqlen_kv if has_mask else 0,
        has_dropout=problem.dropout,
    )
    return peak_bytes(sizes, forward=direction != "backward", backward=direction != "forward")


def launches(gpu: Gpu, problem: Problem, tile: Tile, direction: Direction) -> list[Launch]:
    """Every step a kernel of its own; products choose their tiles themselves."""
    del tile
    standard = StandardAttention(gpu, problem, GENERATION.on(gpu.profile))
    return standard.backward() if direction == "backward" else standard.forward()


GENERATION = Library(name="standard")
ALGORITHM = Algorithm(
    # every step a kernel, scores in HBM, as PyTorch's eager expression
    launches=launches,
    extra_bytes=extra_bytes,
    generation=GENERATION,
    stores_scores=True,
    in_training_step=True,
)
